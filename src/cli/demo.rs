//! `demo`: the whole life of runners, with no set-up.

use std::io::{self, IsTerminal};
use std::path::Path;
use std::time::{Duration, Instant};

use tempfile::TempDir;
use tokio::signal::unix::{SignalKind, signal};
use tokio::time::timeout;

use super::Failure;
use crate::config::Log;
use crate::sandbox::StandInGitea;
use crate::sandbox::demo::{self, DemoError, LogLines, Story};
use crate::sandbox::gitea::Options;
use crate::telemetry;

/// How long a reader at a terminal gets before each step.
const PAUSE: Duration = Duration::from_millis(350);
/// Something is wrong where it takes longer.
const LIMIT: Duration = Duration::from_secs(30);
/// By convention, of a command that a signal ended.
const INTERRUPTED: u8 = 130;

/// Show the life of three runners: a stand-in Gitea, the broker and stand-in runners, no set-up
#[derive(Debug, clap::Args)]
pub(super) struct Args {}

pub(super) fn run() -> Result<(), Failure> {
    let begun = Instant::now();
    let folder = folder()?;
    let log = LogLines::default();
    let subscriber = telemetry::log::subscriber(Log::default(), false, log.clone());
    // Nothing else in this process logs.
    let _ = tracing::subscriber::set_global_default(subscriber);
    let terminal = io::stdout().is_terminal();
    let colours = terminal && std::env::var_os("NO_COLOR").is_none();
    let pause = if terminal { PAUSE } else { Duration::ZERO };
    let mut story = Story::new(io::stdout(), colours, pause);

    let told = super::block_on(tell(folder.path(), &log, &mut story));
    // The runtime has ended, so nothing writes to the folder any more.
    let path = folder.path().to_owned();
    let removed = folder.close().map_err(|error| {
        Failure::new(Failure::INTERNAL, format!("{} is not removed: {error}", path.display()))
    });
    if told.is_err() {
        log.take().iter().for_each(super::complain);
    }
    told.and(removed)?;
    farewell(&mut story, begun.elapsed()).map_err(|error| failed(error.into()))
}

/// Where records and runner files are until the end. An image may have no `/tmp`.
fn folder() -> Result<TempDir, Failure> {
    tempfile::tempdir().or_else(|error| {
        tempfile::tempdir_in("/dev/shm").map_err(|_| {
            let message = format!(
                "the demo needs a folder for its files: {error}; set TMPDIR to one that can be written to"
            );
            Failure::new(Failure::UNAVAILABLE, message)
        })
    })
}

async fn tell(folder: &Path, log: &LogLines, story: &mut Story<io::Stdout>) -> Result<(), Failure> {
    let play = async {
        let gitea = StandInGitea::start(Options::default())?;
        demo::play(&gitea, folder, log, story).await
    };
    tokio::select! {
        // The handlers are there before the first line is told.
        biased;
        ended = interrupted() => {
            ended.map_err(|error| failed(error.into()))?;
            Err(Failure::new(INTERRUPTED, "interrupted; nothing is left behind"))
        }
        told = timeout(LIMIT, play) => match told {
            Ok(told) => told.map_err(failed),
            Err(_) => {
                let message = format!("the demo did not end within {LIMIT:?}");
                Err(Failure::new(Failure::INTERNAL, message))
            }
        },
    }
}

/// Returns at a signal that would end the process and leave the folder behind.
async fn interrupted() -> io::Result<()> {
    let mut interrupt = signal(SignalKind::interrupt())?;
    let mut terminate = signal(SignalKind::terminate())?;
    let mut hangup = signal(SignalKind::hangup())?;
    tokio::select! {
        _ = interrupt.recv() => {}
        _ = terminate.recv() => {}
        _ = hangup.recv() => {}
    }
    Ok(())
}

fn farewell(story: &mut Story<io::Stdout>, took: Duration) -> io::Result<()> {
    story.head("")?;
    story.head(&format!(
        "Done in {:.1} s: all {} claims held, and the folder with the files is removed.",
        took.as_secs_f64(),
        story.claims()
    ))?;
    story.say("What next:")?;
    for line in [
        "- README.md has a compose file with Gitea, the broker and a runner.",
        "- `runner-broker check` shows the settings that would be used, and all that is wrong.",
        "- `runner-broker serve` is the broker. It needs GITEA_INSTANCE_URL and \
         GITEA_RUNNER_REGISTRATION_TOKEN_FILE, and GITEA_API_TOKEN_FILE to deregister runners.",
        "- `runner-broker token create` makes the enrollment token that runners are given.",
    ] {
        story.say(line)?;
    }
    Ok(())
}

fn failed(error: DemoError) -> Failure {
    Failure::new(Failure::INTERNAL, error)
}
