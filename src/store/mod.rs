//! Records on disk: a SQLite database behind one thread of its own.
//!
//! Callers send jobs over a bounded queue and await the outcome. A job that was sent is carried out
//! even where its caller goes away, in the order of sending, and is on disk when the caller hears of it. Those that
//! wait together are written together.

mod error;
mod events;
mod holder;
mod jobs;
mod lived;
mod open;
mod queries;
mod rows;
#[cfg(test)]
mod tests;
mod tokens;

use std::collections::HashMap;
use std::fmt;
use std::net::IpAddr;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::SystemTime;

use bytes::Bytes;
use rusqlite::Connection;
use tokio::sync::{mpsc, oneshot};
use tokio_util::sync::CancellationToken;

use crate::broker::orphan::Trace;
use crate::broker::{Credentials, Event, Intent, Key, Origin, Record, RecordId, RecordState};
use crate::config::Scope;

pub use error::StoreError;
pub use events::EventFilter;
use jobs::{Asked, Message};
use lived::Lived;
pub use open::folder_is_mount;
pub use tokens::{StoredToken, TokenSecret};

/// The broker's records. A clone is another handle to the same database.
#[derive(Clone)]
pub struct Store {
    messages: mpsc::Sender<Message>,
    /// Cancelled when the thread has let go of the database.
    ended: CancellationToken,
    path: Arc<Path>,
    lived: Lived,
}

/// An intent that was not yet completed or dropped.
#[derive(Clone, Debug)]
pub struct StoredIntent {
    /// What was about to be asked.
    pub intent: Intent,
    /// Why its outcome is unknown, where that was noticed.
    pub unclear: Option<String>,
}

/// What Gitea made of an intent.
#[derive(Clone)]
pub struct NewRunner {
    /// The intent that this completes.
    pub intent: Intent,
    /// What the runner is to show: as Gitea answered it, or the broker's own where an identity is taken over.
    pub credentials: Credentials,
    /// The parked record whose identity it takes over, which ends with that, and what Gitea knows it by.
    pub taken_over: Option<(RecordId, Credentials)>,
    /// How the broker came to know it.
    pub origin: Origin,
    /// The broker has to declare it.
    pub declare_due: bool,
    /// As Gitea answered it.
    pub name: String,
    /// Bare label names, without the intent's.
    pub labels: Vec<String>,
    /// The runner's version.
    pub version: String,
    /// The body that the runner gets, kept until it speaks.
    pub answer: Bytes,
    /// When Gitea answered.
    pub registered_at: SystemTime,
    /// The address at which the runner dialled the broker, where it told one.
    pub dialled: Option<String>,
    /// The enrollment token that was presented, and those that it was exchanged for: each has a use more.
    pub token_ids: Vec<String>,
    /// What the audit trail says of it.
    pub event: Event,
}

/// A runner that was registered before the broker knew it.
#[derive(Clone)]
pub struct Adopted {
    /// Where it serves.
    pub scope: Scope,
    /// What it shows; the id is 0 as long as Gitea has not told it.
    pub credentials: Credentials,
    /// As Gitea told it; empty as long as it has not.
    pub name: String,
    /// Bare label names, as far as they are known.
    pub labels: Vec<String>,
    /// The runner's version, likewise.
    pub version: String,
    /// Removed by Gitea after its one task, as far as is known.
    pub ephemeral: bool,
    /// Id of the enrollment token that it came by, where an earlier record tells one; else empty.
    pub parent_id: String,
    /// Where its call came from.
    pub peer: IpAddr,
    /// The address at which it dialled the broker, where it told one.
    pub dialled: Option<String>,
    /// Whether it made a call with its credentials.
    pub spoke: bool,
}

/// An answer that its runner may not have got yet.
#[derive(Clone)]
pub struct KeptAnswer {
    /// Whose it is.
    pub record_id: RecordId,
    /// Who may ask for it again.
    pub key: Key,
    /// The body; it holds the runner's token.
    pub answer: Bytes,
    /// When Gitea gave it.
    pub registered_at: SystemTime,
}

/// What was noticed of a runner since the last batch.
#[derive(Clone, Debug)]
pub struct Touch {
    /// Which runner.
    pub record_id: RecordId,
    /// Its last call; `None` leaves what is kept.
    pub last_seen_at: Option<SystemTime>,
    /// Whether it made a call; never taken back.
    pub spoke: bool,
    /// Whether it is known to have its credentials; never taken back.
    pub delivered: bool,
    /// Ids of the tasks in hand.
    pub tasks: Vec<i64>,
}

impl Store {
    /// Opens or creates the database, brings its schema up to date and starts its thread. Blocks: about a second at
    /// most where another process holds the database.
    ///
    /// # Errors
    /// Says what is wrong with the folder or the file, and the way out.
    pub fn open(path: &Path) -> Result<Self, StoreError> {
        let (connection, lived) = open::open(path)?;
        holder::write(path);
        let (messages, queue) = mpsc::channel(jobs::QUEUE);
        let ended = CancellationToken::new();
        let guard = ended.clone().drop_guard();
        let file = path.to_owned();
        std::thread::Builder::new()
            .name("store".into())
            .spawn(move || {
                // Named, so that it is dropped last: after the connection, also where a job panics.
                let _guard = guard;
                jobs::serve(connection, queue, &file);
            })
            .map_err(|source| StoreError::Thread { source })?;
        Ok(Self { messages, ended, path: path.into(), lived })
    }

    /// The database file.
    #[must_use]
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// The time by which things are old enough to be forgotten: a clock that jumps ahead does not move it.
    #[must_use]
    pub fn lived_until(&self) -> SystemTime {
        self.lived.now()
    }

    /// Keeps what is about to be asked of Gitea.
    ///
    /// # Errors
    /// Nothing was kept, so Gitea must not be asked.
    pub async fn insert_intent(&self, intent: Intent) -> Result<(), StoreError> {
        self.call(move |c| queries::insert_intent(c, &intent)).await
    }

    /// Forgets an intent: Gitea is known not to have acted, or the orphan is gone.
    ///
    /// # Errors
    /// The intent is still kept.
    pub async fn drop_intent(&self, nonce: &str) -> Result<(), StoreError> {
        let nonce = nonce.to_owned();
        self.call(move |c| queries::drop_intent(c, &nonce)).await
    }

    /// Notes that it is unknown whether Gitea acted, and why. The detail must hold no secret.
    ///
    /// # Errors
    /// The note was not kept; the intent is, as it was.
    pub async fn mark_unclear(&self, nonce: &str, detail: String) -> Result<(), StoreError> {
        let nonce = nonce.to_owned();
        self.call(move |c| queries::mark_unclear(c, &nonce, &detail)).await
    }

    /// All intents, oldest first.
    ///
    /// # Errors
    /// The database could not be read.
    pub async fn intents(&self) -> Result<Vec<StoredIntent>, StoreError> {
        self.call(|c| queries::intents(c)).await
    }

    /// What is known of the registrations with these nonces, each of which is in the answer.
    ///
    /// # Errors
    /// The database could not be read.
    pub async fn traces(
        &self,
        nonces: Vec<String>,
    ) -> Result<HashMap<String, Vec<Trace>>, StoreError> {
        self.call(move |c| queries::traces(c, &nonces)).await
    }

    /// Puts a record in the place of its intent and counts a use of its tokens, all or nothing; presented
    /// credentials are Gitea's. A token that is gone meanwhile is passed over.
    ///
    /// # Errors
    /// The intent is still kept, there is no record, and no use was counted.
    pub async fn complete(&self, new: NewRunner) -> Result<Record, StoreError> {
        self.call(move |c| queries::complete(c, &new)).await
    }

    /// Gives a record new credentials in Gitea, in the place of its intent; it is live again, and the broker has to
    /// declare it. All or nothing.
    ///
    /// # Errors
    /// The intent is still kept, and the record is as it was.
    pub async fn revive(
        &self,
        id: RecordId,
        nonce: &str,
        upstream: Credentials,
        event: Event,
    ) -> Result<(), StoreError> {
        let nonce = nonce.to_owned();
        self.call(move |c| queries::revive(c, id, &nonce, &upstream, &event)).await
    }

    /// Keeps a runner that was registered before.
    ///
    /// # Errors
    /// There is no record of it, or there was one before.
    pub async fn adopt(&self, new: Adopted, event: Event) -> Result<Record, StoreError> {
        self.call(move |c| queries::adopt(c, &new, &event)).await
    }

    /// Keeps what Gitea told of an adopted runner.
    ///
    /// # Errors
    /// Nothing was changed.
    pub async fn identify(
        &self,
        id: RecordId,
        gitea_id: i64,
        name: String,
    ) -> Result<(), StoreError> {
        self.call(move |c| queries::identify(c, id, gitea_id, &name)).await
    }

    /// Keeps where Gitea has an adopted runner.
    ///
    /// # Errors
    /// Nothing was changed.
    pub async fn set_scope(&self, id: RecordId, scope: Scope) -> Result<(), StoreError> {
        self.call(move |c| queries::set_scope(c, id, &scope)).await
    }

    /// Records that ended after `since` and may be revived, oldest first.
    ///
    /// # Errors
    /// The database could not be read.
    pub async fn asleep(&self, since: SystemTime) -> Result<Vec<Record>, StoreError> {
        self.call(move |c| queries::asleep(c, since)).await
    }

    /// Keeps whether the broker has a runner switched off in Gitea.
    ///
    /// # Errors
    /// Nothing was changed.
    pub async fn set_disabled(&self, id: RecordId, disabled: bool) -> Result<(), StoreError> {
        self.call(move |c| queries::set_disabled(c, id, disabled)).await
    }

    /// All records that have not ended, oldest first.
    ///
    /// # Errors
    /// The database could not be read.
    pub async fn runners(&self) -> Result<Vec<Record>, StoreError> {
        self.call(|c| queries::runners(c)).await
    }

    /// The latest ended record with this presented uuid; ended ones are kept for 24 hours at least.
    ///
    /// # Errors
    /// The database could not be read.
    pub async fn ended_by_uuid(&self, uuid: &str) -> Result<Option<Record>, StoreError> {
        let uuid = uuid.to_owned();
        self.call(move |c| queries::ended_by_uuid(c, &uuid)).await
    }

    /// Answers of runners that were registered after `since`, have not ended, and neither got theirs nor spoke.
    ///
    /// # Errors
    /// The database could not be read.
    pub async fn answers(&self, since: SystemTime) -> Result<Vec<KeptAnswer>, StoreError> {
        self.call(move |c| queries::answers(c, since)).await
    }

    /// The kept answer of a record; `None` once its runner spoke.
    ///
    /// # Errors
    /// The database could not be read.
    pub async fn answer(&self, id: RecordId) -> Result<Option<Bytes>, StoreError> {
        self.call(move |c| queries::answer(c, id)).await
    }

    /// Keeps what a runner told by Declare, or the broker for it; none is due any more.
    ///
    /// # Errors
    /// Nothing was changed.
    pub async fn declare(
        &self,
        id: RecordId,
        labels: Vec<String>,
        version: String,
    ) -> Result<(), StoreError> {
        self.call(move |c| queries::declare(c, id, &labels, &version)).await
    }

    /// Keeps where the runner file is; `None`: there is none any more.
    ///
    /// # Errors
    /// Nothing was changed.
    pub async fn set_file(&self, id: RecordId, file: Option<PathBuf>) -> Result<(), StoreError> {
        self.call(move |c| queries::set_file(c, id, file.as_deref())).await
    }

    /// Records that are parked or ended and still have a runner file, oldest first.
    ///
    /// # Errors
    /// The database could not be read.
    pub async fn left_files(&self) -> Result<Vec<Record>, StoreError> {
        self.call(|c| queries::left_files(c)).await
    }

    /// Moves a record to another state. One that is parked or ends forgets its kept answer and its tasks.
    ///
    /// # Errors
    /// Nothing was changed, and the event was not kept.
    pub async fn set_state(
        &self,
        id: RecordId,
        state: RecordState,
        event: Option<Event>,
    ) -> Result<(), StoreError> {
        let lived = self.lived;
        self.call(move |c| queries::set_state(c, id, state, event.as_ref(), lived.now())).await
    }

    /// Has these records deregistered as revoked, all or nothing; those that ended are passed over.
    ///
    /// # Errors
    /// Nothing was changed.
    pub async fn revoke(&self, ids: Vec<RecordId>) -> Result<(), StoreError> {
        self.call(move |c| queries::revoke(c, &ids)).await
    }

    /// Keeps a batch, all or nothing; records that are gone meanwhile are passed over. The kept answer of a runner
    /// that spoke is forgotten.
    ///
    /// # Errors
    /// Nothing was changed.
    pub async fn touch(&self, batch: Vec<Touch>) -> Result<(), StoreError> {
        self.call(move |c| queries::touch(c, &batch)).await
    }

    /// Proves by a write that the store can be written.
    ///
    /// # Errors
    /// Says why not.
    pub async fn writable(&self) -> Result<(), StoreError> {
        self.call(|c| queries::probe(c)).await
    }

    /// Whether its thread has let go of the database, be it that it was told to or that it died.
    #[must_use]
    pub fn has_ended(&self) -> bool {
        self.ended.is_cancelled()
    }

    /// Carries out all jobs sent so far, refuses later ones and lets go of the database. A second call waits
    /// for the first.
    ///
    /// # Errors
    /// The journal could not be folded into the database file. Nothing is lost: the next start does it.
    pub async fn close(&self) -> Result<(), StoreError> {
        let (done, outcome) = oneshot::channel();
        let outcome = match self.messages.send(Message::Close(done)).await {
            Ok(()) => outcome.await.unwrap_or(Ok(())),
            Err(_) => Ok(()),
        };
        self.ended.cancelled().await;
        outcome.map_err(|error| StoreError::of(error, &self.path))
    }

    /// A job that is carried out anew starts from what it was, so that it changes nothing but the database.
    async fn call<T: Send + 'static>(
        &self,
        job: impl FnMut(&mut Connection) -> rusqlite::Result<T> + Send + 'static,
    ) -> Result<T, StoreError> {
        let (message, outcome) = Asked::message(job);
        self.messages.send(message).await.map_err(|_| StoreError::Closed)?;
        outcome
            .await
            .map_err(|_| StoreError::Closed)?
            .map_err(|error| StoreError::of(error, &self.path))
    }
}

impl fmt::Debug for Store {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Store").field("path", &self.path).finish_non_exhaustive()
    }
}

impl fmt::Debug for NewRunner {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("NewRunner")
            .field("intent", &self.intent)
            .field("credentials", &self.credentials)
            .field("name", &self.name)
            .finish_non_exhaustive()
    }
}

impl fmt::Debug for Adopted {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Adopted")
            .field("credentials", &self.credentials)
            .field("name", &self.name)
            .finish_non_exhaustive()
    }
}

impl fmt::Debug for KeptAnswer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("KeptAnswer")
            .field("record_id", &self.record_id)
            .field("key", &self.key)
            .finish_non_exhaustive()
    }
}
