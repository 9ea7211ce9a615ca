//! `runner-broker demo`

use std::fs::{self, File};
use std::io::{BufRead, BufReader};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use rustix::process::{Pid, Signal, kill_process};
use tempfile::TempDir;

/// Two empty folders: the working one, and the one for temporary files.
fn folders() -> [TempDir; 2] {
    [tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap()]
}

fn demo([working, temporary]: &[TempDir; 2]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_runner-broker"));
    command.arg("demo").env_clear().env("TMPDIR", temporary.path()).current_dir(working.path());
    command
}

fn assert_empty(folders: &[TempDir; 2]) {
    for folder in folders {
        let left: Vec<_> = fs::read_dir(folder.path()).unwrap().collect();
        assert!(left.is_empty(), "{left:?}");
    }
}

#[test]
fn it_tells_the_whole_life_and_leaves_nothing_behind() {
    let folders = folders();
    let begun = Instant::now();
    let output = demo(&folders).output().unwrap();
    let took = begun.elapsed();
    let story = String::from_utf8(output.stdout).unwrap();
    let errors = String::from_utf8(output.stderr).unwrap();
    assert!(output.status.success(), "{story}\n{errors}");
    assert_eq!(errors, "");
    assert!(took < Duration::from_secs(10), "it took {took:?}");
    assert_empty(&folders);

    let mut rest = story.as_str();
    for part in [
        " 1. Gitea is there",
        " 2. The broker starts",
        " 3. A stranger is turned away",
        "    | unauthenticated: ",
        " ok The runner was refused",
        " 4. Three runners join",
        "    | 1 builder [ubuntu-latest] idle",
        "    | 2 tester [debian-12] idle",
        "    | 3 deployer [deploy] idle",
        " ok Gitea got its own token three times, and never the enrollment token.",
        "/builder/.runner",
        "\"token\": \"(hidden)\"",
        "\"ubuntu-latest:docker://node:20\"",
        " 6. A token for one runner, and back again",
        "    | greedy [gpu]: ",
        "    | first [host]: registered",
        "    | second [host]: the enrollment token is used up",
        " ok The admin deletes the token",
        " 7. A job runs",
        "    | Job succeeded",
        "runner_broker_runners{scope=\"instance\",state=\"busy\"} 1",
        " 8. A runner leaves and says so",
        " ok Gitea does not list it any more",
        " 9. Two runners end without a word",
        "runner_broker_runners{scope=\"instance\",state=\"gone\"} 2",
        "10. The broker gets SIGTERM",
        "phase=\"drain\"",
        "runner deregistered",
        "runner deregistered",
        "phase=\"deregister\"",
        "phase=\"flush\"",
        "INFO stopped",
        " ok Gitea's list of runners is empty again.",
        "11. The metrics worth a look",
        "runner_broker_registrations_total{outcome=\"registered\",scope=\"instance\"} 4",
        "\nDone in ",
        "`runner-broker serve`",
    ] {
        let Some((_, after)) = rest.split_once(part) else { panic!("no {part:?} in\n{rest}") };
        rest = after;
    }
    for line in story.lines() {
        assert!(line.chars().count() <= 100 && !line.contains('\x1b'), "{line:?}");
    }
    let longest = story.split(|letter: char| !letter.is_ascii_hexdigit()).map(str::len).max();
    assert!(longest < Some(40), "a secret is shown:\n{story}");
}

#[test]
fn a_story_that_cannot_be_told_is_a_failure() {
    let folders = folders();
    let full = File::options().write(true).open("/dev/full").unwrap();
    let output = demo(&folders).stdout(full).output().unwrap();
    assert_eq!(output.status.code(), Some(70));
    let errors = String::from_utf8(output.stderr).unwrap();
    assert!(errors.contains("No space left on device"), "{errors}");
    assert_empty(&folders);
}

#[test]
fn an_interrupted_demo_leaves_nothing_behind() {
    let folders = folders();
    let mut child = demo(&folders).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    let story = BufReader::new(child.stdout.take().unwrap());
    let mut lines = story.lines().map_while(Result::ok);
    assert!(lines.any(|line| line == " 1. Gitea is there"));
    kill_process(Pid::from_child(&child), Signal::INT).unwrap();
    let output = child.wait_with_output().unwrap();
    let errors = String::from_utf8(output.stderr).unwrap();
    assert_eq!(output.status.code(), Some(130), "{errors}");
    assert!(errors.ends_with("interrupted; nothing is left behind\n"), "{errors}");
    assert_empty(&folders);
}
