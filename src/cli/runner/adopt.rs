//! `runner adopt`: a runner that was registered straight at Gitea comes into the records ahead of its move.

use std::fs::File;
use std::io::{self, Read};
use std::path::{Path, PathBuf};

use rustix::fs::{Mode, OFlags};
use zeroize::Zeroizing;

use super::super::client::BrokerArgs;
use super::super::show::plain;
use super::super::{Failure, block_on, print};
use crate::admin::problem::KNOWN_RUNNER;
use crate::admin::view::{ExistingRunner, Runner};
use crate::credential::RunnerFile;

/// A runner file is far smaller.
const LARGEST: u64 = 1 << 20;

/// Keep a runner that was registered before, ahead of its first call through the broker
///
/// Nothing is changed in Gitea, nor in the file. A runner that the broker knows already is no error. There is
/// no need to adopt ahead: a runner whose address is changed to the broker's is adopted by its first call.
#[derive(Debug, clap::Args)]
pub(super) struct AdoptArgs {
    /// The runner's .runner file; `-` reads it from standard input
    #[arg(value_name = "FILE")]
    file: PathBuf,

    #[command(flatten)]
    broker: BrokerArgs,
}

pub(super) fn run(args: &AdoptArgs) -> Result<(), Failure> {
    let shown = args.file.display();
    let content = read(&args.file).map_err(|error| {
        Failure::new(Failure::USAGE, format!("{shown} cannot be read: {error}"))
    })?;
    let file = RunnerFile::parse(&content).map_err(|error| {
        let message = format!(
            "{shown} is no runner file (line {}, column {}): give the .runner file that the runner wrote \
             when it registered",
            error.line, error.column
        );
        Failure::new(Failure::USAGE, message)
    })?;
    let RunnerFile { id, uuid, name, token, labels, ephemeral, .. } = file;
    let runner = ExistingRunner { id, uuid, token, name: name.clone(), labels, ephemeral };
    let broker = args.broker.broker()?;
    let adopted: Option<Runner> =
        block_on(broker.post_unless("/api/v1/runners/adopt", &runner, KNOWN_RUNNER))?;
    let name = plain(&name);
    let done = match adopted {
        Some(_) => format!("runner {id} ({name}) is adopted"),
        None => format!("the broker knows runner {id} ({name}) already"),
    };
    print(format!(
        "{done}; next: set \"address\" in its runner file to the broker's address, as runners dial it, and \
         restart the runner"
    ))
}

/// The content, wiped when dropped. Only a regular file: nothing else ends for sure.
fn read(path: &Path) -> io::Result<Zeroizing<Vec<u8>>> {
    // Sized beforehand: a vector that grows leaves copies of the token behind.
    let mut content = Zeroizing::new(Vec::with_capacity(64 * 1024));
    if path == Path::new("-") {
        io::stdin().lock().take(LARGEST + 1).read_to_end(&mut content)?;
    } else {
        // A pipe that nobody writes to must not hold the command up.
        let flags = OFlags::RDONLY | OFlags::NONBLOCK | OFlags::CLOEXEC;
        let file = File::from(rustix::fs::open(path, flags, Mode::empty())?);
        if !file.metadata()?.is_file() {
            return Err(io::Error::other("it is no regular file"));
        }
        file.take(LARGEST + 1).read_to_end(&mut content)?;
    }
    if content.len() as u64 > LARGEST {
        return Err(io::Error::other("it is larger than 1 MiB"));
    }
    Ok(content)
}
