//! Whatever file, environment and flags say, settings are read or refused; what is wrong has a key and is
//! told in a line each, the admin's settings alone are read alike, and nobody is told a secret. What can be
//! used is shown as it could be given again.
//!
//! The first byte chooses where secrets stand. Up to a line of `---`, the rest is the file; each line after
//! it is a variable of the environment (`NAME=value`) or a flag (`section.key=value`), with the secret in place
//! of `SECRET` where the name is that of one.
#![no_main]

use std::collections::BTreeSet;
use std::fmt::Debug;
use std::io::Write;
use std::path::PathBuf;
use std::sync::LazyLock;

use libfuzzer_sys::fuzz_target;
use runner_broker::config::{Sources, load, load_admin};

const CANARY: &str = "canary-of-the-token-0123456789abcdef-42";

/// In memory where there is such a folder, for speed.
static FILE: LazyLock<PathBuf> = LazyLock::new(|| {
    let folder = ["/dev/shm", "/tmp"].into_iter().find(|folder| PathBuf::from(folder).is_dir());
    PathBuf::from(folder.expect("a folder")).join(format!("fuzz-settings-{}", std::process::id()))
});

fuzz_target!(|input: &[u8]| {
    let Some((choice, text)) = input.split_first() else { return };
    let Ok(text) = std::str::from_utf8(text) else { return };
    // A path from nowhere may be a device that never ends.
    if ["/dev", "/proc", "/sys"].iter().any(|folder| text.contains(folder)) {
        return;
    }
    let (toml, others) = text.split_once("\n---\n").unwrap_or((text, ""));
    let table = format!("\n[[enrollment.tokens]]\nname = \"a\"\ntoken = \"{CANARY}\"\n");
    let toml = match choice % 6 {
        0 => toml.to_owned(),
        1 => table + toml,
        2 => format!("{toml}{table}"),
        3 => format!("{toml}\n[[enrollment.tokens]]\ntoken = '{CANARY}\n"),
        4 => format!("{toml}\n[[enrollment.tokens]]\nname = \"a\"\ntoken = [\"{CANARY}\"]\n"),
        _ => format!("[gitea]\napi_token = \"{CANARY}\"\n{toml}"),
    };
    let mut file = std::fs::File::create(&*FILE).expect("the file can be made");
    file.write_all(toml.as_bytes()).expect("the file can be written");
    drop(file);

    let sources = sources(*choice, others);
    let (admin, problems) = load_admin(&sources);
    hides(&(admin, &problems));
    let of_admin: Vec<_> = problems.iter().map(ToString::to_string).collect();
    match load(&sources) {
        Ok(loaded) => {
            hides(&loaded);
            assert!(of_admin.is_empty(), "{of_admin:?}");
            let keys: BTreeSet<_> = loaded.used.iter().map(|used| &used.key).collect();
            assert_eq!(keys.len(), loaded.used.len(), "a key is told twice: {:?}", loaded.used);
            for used in &loaded.used {
                assert!(!used.key.is_empty() && !used.origin.is_empty(), "{used:?}");
                assert!(!format!("{}{}{}", used.key, used.value, used.origin).contains('\n'));
            }
            assert!(loaded.warnings.iter().all(|warning| !warning.contains('\n')));
        }
        Err(problems) => {
            hides(&problems);
            let told = problems.to_string();
            assert!(!told.contains(CANARY), "{told}");
            assert!(!problems.0.is_empty());
            assert_eq!(told.split('\n').count(), problems.0.len(), "{told}");
            for problem in &problems.0 {
                let line = problem.to_string();
                assert!(!line.contains(char::is_control), "{line:?}");
                assert!(!problem.key.is_empty() && !problem.origin.is_empty(), "{problem:?}");
                assert!(!problem.message.is_empty(), "{problem:?}");
            }
            let all: BTreeSet<_> = problems.0.iter().map(ToString::to_string).collect();
            assert!(of_admin.iter().all(|one| all.contains(one)), "{of_admin:?} {all:?}");
        }
    }
});

fn sources(choice: u8, others: &str) -> Sources {
    let mut environment = Vec::new();
    let mut flags = Vec::new();
    if choice & 0x40 == 0 {
        environment.push(("GITEA_INSTANCE_URL".into(), "http://gitea:3000".into()));
        environment.push(("GITEA_RUNNER_REGISTRATION_TOKEN".into(), "registration".into()));
    }
    for line in others.split('\n').filter(|line| !line.contains('\0')) {
        let Some((name, value)) = line.split_once('=') else { continue };
        let is_secret = name.to_lowercase().ends_with("token");
        let value = if is_secret { value.replace("SECRET", CANARY) } else { value.to_owned() };
        if name.starts_with(|c: char| c.is_ascii_lowercase()) {
            flags.push((name.to_owned(), value));
        } else if name != "RUNNER_BROKER_CONFIG" {
            environment.push((name.into(), value.into()));
        }
    }
    Sources { file: Some(FILE.clone()), default_file: None, environment, flags }
}

fn hides(shown: &impl Debug) {
    let shown = format!("{shown:?}");
    assert!(!shown.contains(CANARY), "{shown}");
}
