//! Joining: a runner file that is good is kept, else a runner is registered and its file written. Leaving:
//! the runner is deregistered and its file removed.

use std::fs::File;
use std::io::Read;
use std::time::Duration;

use rustix::fs::{Mode, OFlags};
use rustix::io::Errno;
use tokio_util::sync::CancellationToken;
use tracing::{error, info, warn};
use zeroize::Zeroizing;

use super::given::Wanted;
use super::peer::{Leaving, Peer, RegisterError, Standing, in_our_words};
use super::waiting::Waiting;
use crate::config::{self, Setting};
use crate::credential::{self, FileError, Removed, RunnerFile, Target};

/// A runner file is far smaller.
const LARGEST: u64 = 1 << 20;

/// How long a registration that came to nothing may take to be undone.
const UNDO_LIMIT: Duration = Duration::from_secs(9);

/// Why there is no runner file. Its text is a sentence that says what to do.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum JoinError {
    /// It was told to end before anything was registered.
    #[error("stopped")]
    Stopped,
    /// The token or its policy does not allow it.
    #[error("{0}")]
    Forbidden(String),
    /// Something must be set otherwise.
    #[error("{0}")]
    Settings(String),
    /// It was tried for long enough.
    #[error("{0}")]
    GaveUp(String),
}

/// Keeps the runner file or makes one. `stop` ends every wait; a Register that is on its way is waited for,
/// so that a runner that Gitea has is always in a file, and can be deregistered.
///
/// # Errors
/// There is no runner file that is good.
pub async fn join(peer: &Peer, stop: &CancellationToken) -> Result<RunnerFile, JoinError> {
    let wanted = peer.wanted();
    if let Some(file) = read(&wanted.target)? {
        let known = stop.run_until_cancelled(is_known(peer, &file)).await;
        if known.ok_or(JoinError::Stopped)? {
            return keep(wanted, file).await;
        }
        info!(
            id = file.id,
            "the runner of this file is not known any more: a new one is registered"
        );
    }
    if !wanted.has_token() {
        return Err(JoinError::Settings(format!(
            "there is no enrollment token to register a runner with, and {} holds none that is known: \
             set GITEA_RUNNER_REGISTRATION_TOKEN_FILE",
            wanted.target.path().display()
        )));
    }
    try_place(wanted)?;
    let file = register(peer, stop).await?;
    info!(
        id = file.id,
        runner = file.name,
        labels = file.labels.join(","),
        file = %wanted.target.path().display(),
        "runner registered"
    );
    if let Err(error) = write(wanted, file.clone()).await {
        // It would stay in Gitea, with credentials that nobody has.
        let _ = tokio::time::timeout(UNDO_LIMIT, leave(peer, &file)).await;
        return Err(error);
    }
    Ok(file)
}

/// Deregisters a runner and removes its file. It tries again until it is dropped; what cannot be changed by
/// trying ends it, with the file kept for the next start. Whether it is gone.
pub async fn leave(peer: &Peer, file: &RunnerFile) -> bool {
    let wanted = peer.wanted();
    let mut waiting = Waiting::new(wanted.backoff);
    loop {
        match peer.deregister(file).await {
            Leaving::Gone => break,
            Leaving::Stays(why) => {
                let path = wanted.target.path();
                warn!(id = file.id, why, file = %path.display(), "the runner stays registered, and its file is kept");
                return false;
            }
            Leaving::Again(why) => waiting.once(&wanted.gitea.url.show(), &why).await,
        }
    }
    let (target, uuid) = (wanted.target.clone(), file.uuid.clone());
    match blocking(move || credential::remove(&target, &uuid)).await {
        Ok(Removed::Removed | Removed::Missing) => info!(id = file.id, "runner deregistered"),
        Ok(Removed::Other) => {
            warn!(
                id = file.id,
                "runner deregistered; its file is another runner's by now, and stays"
            );
        }
        Err(error) => {
            let error = in_our_words(&error.to_string(), wanted.direct);
            error!(id = file.id, error, "runner deregistered; its file could not be removed");
        }
    }
    true
}

/// Waits until it can be told.
async fn is_known(peer: &Peer, file: &RunnerFile) -> bool {
    let wanted = peer.wanted();
    let mut waiting = Waiting::new(wanted.backoff);
    let address = wanted.gitea.url.show();
    loop {
        match peer.standing(file).await {
            Standing::Unclear(why) => waiting.once(&address, &why).await,
            standing => {
                waiting.over(&address);
                return standing == Standing::Known;
            }
        }
    }
}

/// Brings a good file's address in line, and its labels where some were given.
async fn keep(wanted: &Wanted, mut file: RunnerFile) -> Result<RunnerFile, JoinError> {
    let moved = file.address.trim_end_matches('/') != wanted.address;
    let relabelled = wanted.labels_given && file.labels != wanted.labels;
    info!(
        id = file.id,
        runner = file.name,
        moved,
        relabelled,
        "runner file kept: its runner is known"
    );
    if moved || relabelled {
        file.address.clone_from(&wanted.address);
        if wanted.labels_given {
            file.labels.clone_from(&wanted.labels);
        }
        write(wanted, file.clone()).await?;
    }
    Ok(file)
}

async fn register(peer: &Peer, stop: &CancellationToken) -> Result<RunnerFile, JoinError> {
    let wanted = peer.wanted();
    let mut waiting = Waiting::new(wanted.backoff);
    let address = wanted.gitea.url.show();
    let mut left = wanted.max_attempts;
    loop {
        let answers = stop.run_until_cancelled(peer.ping()).await.ok_or(JoinError::Stopped)?;
        let why = match answers {
            Err(why) => why,
            Ok(()) => {
                waiting.over(&address);
                match peer.register().await {
                    Ok(file) => return Ok(file),
                    Err(RegisterError::Again(why)) => {
                        left = left.map(|left| left - 1);
                        why
                    }
                    Err(error) => return Err(refused(error)),
                }
            }
        };
        if left == Some(0) {
            return Err(JoinError::GaveUp(format!(
                "no runner after as many attempts as GITEA_MAX_REG_ATTEMPTS allows; the last answer: {why}"
            )));
        }
        let waited = stop.run_until_cancelled(waiting.once(&address, &why)).await;
        waited.ok_or(JoinError::Stopped)?;
    }
}

fn refused(error: RegisterError) -> JoinError {
    match error {
        RegisterError::Forbidden(text) => {
            JoinError::Forbidden(format!("registration refused: {text}"))
        }
        RegisterError::Wrong(text) => JoinError::Settings(format!("registration refused: {text}")),
        RegisterError::Unclear(text) | RegisterError::Again(text) => JoinError::GaveUp(format!(
            "Gitea was asked to register the runner, and its answer was lost ({text}): it may be in \
             Gitea's list now, where you can delete it; asked again, Gitea would register a second one"
        )),
    }
}

/// The file that is there; an empty one counts as none, as for the runner's image.
fn read(target: &Target) -> Result<Option<RunnerFile>, JoinError> {
    let path = target.path();
    let shown = path.display();
    let wrong = |why: String| JoinError::Settings(format!("{shown}: {why}"));
    // A link may lead to it, as in a mounted secret. A pipe that nobody writes to must not hold the end up.
    let flags = OFlags::RDONLY | OFlags::NONBLOCK | OFlags::NOCTTY | OFlags::CLOEXEC;
    let file = match rustix::fs::open(&path, flags, Mode::empty()) {
        Ok(file) => File::from(file),
        Err(Errno::NOENT) => return Ok(None),
        Err(error) => return Err(wrong(std::io::Error::from(error).to_string())),
    };
    match file.metadata() {
        Ok(meta) if meta.is_file() => {
            if let Some(open) = config::open_to_all(&path) {
                warn!("the runner file holds the runner's token, and {open}");
            }
        }
        Ok(meta) if meta.is_dir() => return Err(wrong("is a folder: name the runner file".into())),
        Ok(_) => return Err(wrong("is not a regular file: remove it, or name another".into())),
        Err(error) => return Err(wrong(error.to_string())),
    }
    let mut content = Zeroizing::new(Vec::with_capacity(4096));
    file.take(LARGEST).read_to_end(&mut content).map_err(|error| wrong(error.to_string()))?;
    if content.trim_ascii().is_empty() {
        return Ok(None);
    }
    RunnerFile::parse(&content).map(Some).map_err(|error| wrong(error.to_string()))
}

/// Before a runner is registered, so that none is for nothing.
fn try_place(wanted: &Wanted) -> Result<(), JoinError> {
    let folder = wanted.target.root();
    let tried = std::fs::create_dir_all(folder).and_then(|()| tempfile::tempfile_in(folder));
    tried.map_err(|error| {
        JoinError::Settings(format!(
            "no runner file can be written into {} ({error}): mount it writable, and let the user of \
             this process write there",
            folder.display()
        ))
    })?;
    // Only a regular file is ever replaced.
    match credential::read(&wanted.target) {
        Ok(_) => Ok(()),
        Err(error) => Err(JoinError::Settings(in_our_words(&error.to_string(), wanted.direct))),
    }
}

async fn write(wanted: &Wanted, file: RunnerFile) -> Result<(), JoinError> {
    let (target, owner, direct) = (wanted.target.clone(), wanted.owner, wanted.direct);
    blocking(move || credential::write(&target, &file, owner))
        .await
        .map_err(|error| JoinError::Settings(in_our_words(&error.to_string(), direct)))
}

/// Runs what waits for a disk in a thread of its own.
async fn blocking<T: Send + 'static>(
    work: impl FnOnce() -> Result<T, FileError> + Send + 'static,
) -> Result<T, FileError> {
    match tokio::task::spawn_blocking(work).await {
        Ok(done) => done,
        Err(panicked) => std::panic::resume_unwind(panicked.into_panic()),
    }
}
