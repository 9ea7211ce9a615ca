//! Runners that were registered before the broker knew them: they are kept in the records once Gitea has
//! accepted their credentials. So existing runners move over by their address alone, and a store that was
//! lost is rebuilt by the traffic.

use std::net::{IpAddr, Ipv4Addr};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use secrecy::{ExposeSecret, SecretString};
use tokio::sync::{Mutex, Semaphore};
use tracing::{debug, info, warn};

use super::deregister::Force;
use super::tokens::By;
use super::{Lifecycle, Live};
use crate::broker::{Credentials, Event, Reason, Record, RecordState, What, policy};
use crate::connect::messages::Runner;
use crate::store::{Adopted, StoreError};

/// Adopted runners that are kept. Each is a row in Gitea, but whoever can make those fills no disk here.
const MAX_ADOPTED: usize = 10_000;
/// Adoptions that may wait for the store; one beyond that is tried again with the runner's next call.
const MAX_WAITING: usize = 256;
/// Longer ones Gitea never gave out: a uuid has 36 characters, a token 40.
const MAX_UUID: usize = 64;
const MAX_TOKEN: usize = 256;
/// Gitea cuts a name there.
const MAX_NAME: usize = 255;

/// Adoptions that are going on.
pub(super) struct Adopting {
    places: Arc<Semaphore>,
    /// One at a time, so that two calls adopt once.
    turn: Mutex<()>,
    /// It was told that no more are adopted.
    told: AtomicBool,
}

impl Default for Adopting {
    fn default() -> Self {
        let places = Arc::new(Semaphore::new(MAX_WAITING));
        Self { places, turn: Mutex::default(), told: AtomicBool::new(false) }
    }
}

/// Someone who shows a runner's credentials that the broker does not know.
#[derive(Clone, Debug)]
pub struct Stranger {
    pub(super) uuid: String,
    pub(super) token: SecretString,
    peer: IpAddr,
    dialled: Option<String>,
}

impl Stranger {
    /// `None`: these are no credentials that Gitea ever gave out.
    #[must_use]
    pub fn new(uuid: &str, token: &str, peer: IpAddr, dialled: Option<String>) -> Option<Self> {
        plausible(uuid, MAX_UUID).then_some(())?;
        plausible(token, MAX_TOKEN).then_some(())?;
        Some(Self { uuid: uuid.into(), token: token.into(), peer, dialled })
    }
}

/// What a runner file says of a runner that is to be adopted.
#[derive(Clone, Debug)]
pub struct Adoption {
    /// Gitea's id.
    pub id: i64,
    /// What it shows.
    pub uuid: String,
    /// Likewise.
    pub token: SecretString,
    /// Its display name.
    pub name: String,
    /// Bare label names.
    pub labels: Vec<String>,
    /// Whether Gitea removes it after one task.
    pub ephemeral: bool,
}

/// Why a runner was not adopted.
#[derive(Debug, thiserror::Error)]
pub enum AdoptError {
    /// Such a runner cannot be: the fields, each with a sentence.
    #[error("{}", .0.iter().map(|(field, text)| format!("{field}: {text}")).collect::<Vec<_>>().join("; "))]
    Invalid(Vec<(&'static str, String)>),
    /// There is nothing to do.
    #[error("the broker knows this runner already")]
    Known,
    /// The uuid belongs to another.
    #[error(
        "the broker knows another runner by this uuid: the file is out of date, or was copied; remove it and \
         register the runner anew"
    )]
    Taken,
    /// There are too many.
    #[error(
        "{MAX_ADOPTED} runners have been adopted, and no more are kept: deregister those that are gone"
    )]
    Full,
    /// Gitea says that they are not a runner's.
    #[error(
        "Gitea does not know a runner with this uuid and token: check that the file is of the Gitea that \
         gitea.url names; if the runner was deleted there, remove the file and register it anew"
    )]
    Unregistered,
    /// Gitea does not tell.
    #[error("Gitea cannot be asked whether it knows the runner ({0}): try again")]
    Unreachable(String),
    /// The broker is about to end.
    #[error("the broker is shutting down: try again when it is back")]
    Draining,
    /// The record was not kept.
    #[error(transparent)]
    Store(#[from] StoreError),
}

impl Lifecycle {
    /// Gitea accepted a call of a stranger. `told` is the answer to a Declare, with the labels and the version
    /// of the request. Returns at once; the rest is done in the background, and the next call makes up for what
    /// is not done.
    pub fn adopt_soon(self: &Arc<Self>, stranger: Stranger, told: Option<Runner>) {
        if self.is_draining() {
            return;
        }
        let Ok(place) = Arc::clone(&self.adopting.places).try_acquire_owned() else { return };
        let this = Arc::clone(self);
        self.running.spawn(async move {
            let _place = place;
            let uuid = stranger.uuid.clone();
            if let Err(error) = this.adopt_stranger(stranger, told).await {
                // Each of its calls would tell it again.
                if this.adopting.told.swap(true, Ordering::Relaxed) {
                    debug!(%error, uuid, "a runner that Gitea knows is not kept in the records");
                } else {
                    warn!(
                        %error,
                        uuid,
                        "a runner that Gitea knows is not kept in the records; it works all the same. Told \
                         once until the next start"
                    );
                }
            }
        });
    }

    async fn adopt_stranger(
        self: &Arc<Self>,
        stranger: Stranger,
        told: Option<Runner>,
    ) -> Result<(), AdoptError> {
        let turn = self.adopting.turn.lock().await;
        let Stranger { uuid, token, peer, dialled } = stranger;
        if let Some(live) = self.roster.authenticate(&uuid, token.expose_secret().as_bytes()) {
            drop(turn);
            if let Some(told) = told {
                self.named(&live, &told).await?;
                self.declared(&live, told.labels, told.version).await?;
                self.locate(&live).await;
            }
            return Ok(());
        }
        // Another's: this one had it before.
        if self.roster.knows(&uuid) {
            return Ok(());
        }
        let before = self
            .store
            .ended_by_uuid(&uuid)
            .await?
            .filter(|record| record.presented.token_is(token.expose_secret().as_bytes()));
        // What the broker ended Gitea did not know any more, so it was restored since. Not to keep the runner
        // would leave it at work where nobody sees it.
        let mut new = Adopted {
            scope: self.settings.load().gitea.default.scope.clone(),
            credentials: Credentials { id: 0, uuid, token },
            name: String::new(),
            labels: Vec::new(),
            version: String::new(),
            ephemeral: false,
            parent_id: String::new(),
            peer,
            dialled,
            spoke: true,
        };
        if let Some(record) = before.clone() {
            let Record { scope, presented, name, labels, version, ephemeral, parent_id, .. } =
                record;
            new.credentials.id = presented.id;
            new = Adopted { scope, name, labels, version, ephemeral, parent_id, ..new };
        }
        if let Some(told) = told {
            new.credentials.id = told.id;
            new = Adopted { name: told.name, labels: told.labels, version: told.version, ..new };
        }
        let live = self.keep_adopted(new, "runner", Some(peer)).await?;
        drop(turn);
        live.called(std::time::Instant::now(), true);
        self.locate(&live).await;
        // The token that it came by may have been withdrawn meanwhile.
        self.revoke_landed(&live).await;
        if let Some(RecordState::Ended(reason)) = before.map(|record| record.state) {
            warn!(
                id = live.id(),
                reason = reason.as_str(),
                "Gitea knows a runner again that was deregistered here: was it restored from a backup? The \
                 runner is in the list again; `runner-broker runner deregister` deletes it"
            );
            if reason == Reason::Revoked {
                let by = By::broker();
                // What comes of it is told there, and tried again.
                let _ = self.deregister(&live, reason, Force::LeaveBusy, &by).await;
            }
        }
        Ok(())
    }

    /// Gitea has answered a Declare of a runner: where its id was not known, it is now.
    ///
    /// # Errors
    /// The store did not take it; nothing was changed.
    pub async fn named(&self, live: &Live, told: &Runner) -> Result<(), StoreError> {
        if live.id() != 0 || told.id <= 0 {
            return Ok(());
        }
        self.store.identify(live.record_id, told.id, told.name.clone()).await?;
        live.set_identity(told.id, &told.name);
        info!(runner = told.name, id = told.id, "the id of an adopted runner is known now");
        Ok(())
    }

    /// A runner has declared itself.
    ///
    /// # Errors
    /// The store did not take it; it is known in memory.
    pub async fn declared(
        &self,
        live: &Live,
        labels: Vec<String>,
        version: String,
    ) -> Result<(), StoreError> {
        live.declared(&version, &labels);
        self.store.declare(live.record_id, labels, version).await
    }

    /// Keeps a runner whose file an admin has shown, after Gitea has proved that it takes its credentials. It
    /// runs to its end even where the caller goes away.
    ///
    /// # Errors
    /// Why it is not kept.
    pub async fn adopt(
        self: &Arc<Self>,
        adoption: Adoption,
        by: &By,
    ) -> Result<Arc<Live>, AdoptError> {
        check(&adoption)?;
        if self.is_draining() {
            return Err(AdoptError::Draining);
        }
        let (this, by) = (Arc::clone(self), by.clone());
        let adopting = self.running.spawn(async move { this.adopt_shown(adoption, by).await });
        adopting.await.unwrap_or_else(|error| {
            Err(AdoptError::Unreachable(format!("the attempt broke off: {error}")))
        })
    }

    async fn adopt_shown(&self, adoption: Adoption, by: By) -> Result<Arc<Live>, AdoptError> {
        let Adoption { id, uuid, token, name, labels, ephemeral } = adoption;
        let credentials = Credentials { id, uuid, token };
        self.is_free(&credentials)?;
        match self.gitea.knows(&credentials).await {
            Ok(true) => {}
            Ok(false) => return Err(AdoptError::Unregistered),
            Err(error) => return Err(AdoptError::Unreachable(error.to_string())),
        }
        let turn = self.adopting.turn.lock().await;
        // While Gitea was asked, it may have come by itself.
        self.is_free(&credentials)?;
        let new = Adopted {
            scope: self.settings.load().gitea.default.scope.clone(),
            credentials,
            name,
            labels,
            version: String::new(),
            ephemeral,
            parent_id: String::new(),
            peer: by.peer.unwrap_or(IpAddr::V4(Ipv4Addr::LOCALHOST)),
            dialled: None,
            spoke: false,
        };
        let live = self.keep_adopted(new, &by.actor, by.peer).await?;
        drop(turn);
        self.locate(&live).await;
        Ok(live)
    }

    fn is_free(&self, credentials: &Credentials) -> Result<(), AdoptError> {
        let Credentials { uuid, token, .. } = credentials;
        match self.roster.authenticate(uuid, token.expose_secret().as_bytes()) {
            Some(_) => Err(AdoptError::Known),
            None if self.roster.knows(uuid) => Err(AdoptError::Taken),
            None => Ok(()),
        }
    }

    /// The caller has the turn.
    async fn keep_adopted(
        &self,
        new: Adopted,
        actor: &str,
        peer: Option<IpAddr>,
    ) -> Result<Arc<Live>, AdoptError> {
        if self.roster.adopted() >= MAX_ADOPTED {
            return Err(AdoptError::Full);
        }
        let event = Event {
            runner_id: (new.credentials.id != 0).then_some(new.credentials.id),
            runner: Some(new.name.clone()).filter(|name| !name.is_empty()),
            peer,
            ..Event::now(actor, What::RunnerAdopted)
        };
        let record = self.store.adopt(new, event).await?;
        self.enrollment.joined(&record.parent_id);
        info!(
            runner = record.name,
            id = record.upstream.id,
            uuid = record.presented.uuid,
            "runner adopted"
        );
        let live = self.roster.insert(record);
        self.has_moved();
        Ok(live)
    }
}

fn check(adoption: &Adoption) -> Result<(), AdoptError> {
    let mut wrong = Vec::new();
    let mut note = |field, right: bool, text: &str| {
        if !right {
            wrong.push((field, text.to_owned()));
        }
    };
    note("id", adoption.id > 0, "give the id as the runner file has it");
    note("uuid", plausible(&adoption.uuid, MAX_UUID), "give the uuid as the runner file has it");
    let token = adoption.token.expose_secret();
    note("token", plausible(token, MAX_TOKEN), "give the token as the runner file has it");
    let name = &adoption.name;
    note(
        "name",
        name.chars().count() <= MAX_NAME && !name.contains(char::is_control),
        "a name has 255 characters at most, and none of control",
    );
    if let Err(refusal) = policy::labels(&adoption.labels) {
        wrong.push(("labels", refusal.to_string()));
    }
    if wrong.is_empty() { Ok(()) } else { Err(AdoptError::Invalid(wrong)) }
}

/// What a header can carry, and what Gitea may have given out.
fn plausible(text: &str, longest: usize) -> bool {
    (1..=longest).contains(&text.len()) && text.bytes().all(|byte| byte.is_ascii_graphic())
}
