//! One declared runner: found or registered, declared, and given its file; or sent away.

use std::net::Ipv4Addr;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Instant, SystemTime};

use bytes::Bytes;
use tracing::{error, info, warn};

use super::super::deregister::Force;
use super::super::random::random_hex;
use super::super::runner_file::{NoFile, dial_elsewhere};
use super::super::tokens::By;
use super::super::{Lifecycle, Live};
use super::Trouble;
use crate::broker::{Event, Intent, Key, Origin, Reason, RecordState, What};
use crate::config::DeclaredRunner;
use crate::connect::{Code, Codec};
use crate::credential::{self, Pattern};
use crate::fault;
use crate::gitea::CallError;
use crate::store::{NewRunner, StoreError};
use crate::telemetry::metrics::{DeregistrationOutcome, RegistrationOutcome as Outcome};

/// What Gitea shows as a declared runner's version until its program tells its own.
const VERSION: &str = concat!("runner-broker ", env!("CARGO_PKG_VERSION"));

/// Whether Gitea knows a runner.
#[derive(PartialEq, Eq)]
enum Told {
    Known,
    Unregistered,
}

impl Lifecycle {
    /// Registered, with the labels of the settings, and its file in place.
    pub(super) async fn bring(self: &Arc<Self>, declared: &DeclaredRunner) -> Result<(), Trouble> {
        // Nobody could start from the credentials of one that is registered all the same.
        self.place()?;
        let mut live = match self.find(declared).await.map_err(Trouble::no_file)? {
            Some(live) => live,
            None => self.register_declared(declared).await.map_err(Trouble::no_file)?,
        };
        let mut fate = live.fate.lock().await;
        self.keep_declared(&live).await.map_err(Trouble::no_file)?;
        let mut told = self.tell_labels(&live, declared).await;
        if let Ok(Told::Unregistered) = told {
            let new = self.register_declared(declared).await.map_err(Trouble::no_file)?;
            let by = By { actor: "settings".into(), peer: None };
            self.end(&live, Reason::Lost, by).await.map_err(Trouble::no_file)?;
            self.metrics.deregistration(Reason::Lost, DeregistrationOutcome::AlreadyGone);
            warn!(
                runner = declared.name,
                lost = live.id(),
                id = new.id(),
                "Gitea did not know a declared runner any more: it is registered anew; a daemon that \
                 runs has to be started again"
            );
            drop(fate);
            live = new;
            fate = live.fate.lock().await;
            told = self.tell_labels(&live, declared).await;
        }
        // A file is worth having even while Gitea cannot be asked.
        self.put_file(&live).await.map_err(Trouble::no_file)?;
        drop(fate);
        fault::point("file-written");
        match told {
            Ok(Told::Known) => Ok(()),
            Ok(Told::Unregistered) => {
                Err(Trouble::no_file("Gitea has just registered it, and does not know it"))
            }
            Err(why) => Err(Trouble { why, no_file: false }),
        }
    }

    /// Whether there is a place for files at all.
    fn place(&self) -> Result<(), Trouble> {
        let pattern =
            Pattern::parse(&self.settings.load().credentials.path).map_err(Trouble::no_file)?;
        match credential::root_exists(pattern.root()) {
            true => Ok(()),
            false => Err(Trouble::no_file(NoFile::NoFolder(pattern.root().into()))),
        }
    }

    /// The one that was registered before, awake.
    async fn find(
        self: &Arc<Self>,
        declared: &DeclaredRunner,
    ) -> Result<Option<Arc<Live>>, String> {
        let is_it = |live: &Arc<Live>| declared.is(&live.record());
        let mut known: Vec<_> = self.roster.all().into_iter().filter(is_it).collect();
        let mut asleep: Vec<_> = self.roster.asleep().into_iter().filter(is_it).collect();
        asleep.sort_unstable_by_key(|live| live.record_id);
        // Who dials Gitea itself must show what Gitea knows: nothing stands before it then.
        let elsewhere = dial_elsewhere(&self.settings.load());
        if elsewhere {
            let (apart, same) = known.into_iter().partition(|live| live.upstream().is_apart());
            known = same;
            asleep.extend::<Vec<_>>(apart);
        }
        let mut found = known.pop();
        if found.is_none()
            && !elsewhere
            && let Some(live) = asleep.pop()
        {
            match self.wake(&live, live.record().peer).await {
                Ok(()) => found = Some(live),
                Err(error)
                    if matches!(error.code, Code::Unauthenticated | Code::PermissionDenied) =>
                {
                    asleep.push(live);
                }
                Err(error) => return Err(error.message),
            }
        }
        // A crash may have come between a new one and the end of the old, and who sleeps never wakes beside
        // the one in its place.
        for other in known.into_iter().chain(asleep) {
            self.undeclare(&other).await;
        }
        Ok(found)
    }

    /// A deregistration that was begun is called off, where the settings or the broker's end began it.
    async fn keep_declared(&self, live: &Live) -> Result<(), String> {
        match live.state() {
            RecordState::Active | RecordState::Lost | RecordState::Parked(_) => Ok(()),
            RecordState::Deregistering(Reason::Undeclared | Reason::Shutdown | Reason::Lease) => {
                self.set_active(live, None).await.map_err(|error| error.to_string())
            }
            RecordState::Deregistering(reason) => Err(format!(
                "it is still being deregistered ({}), and registered anew after that",
                reason.as_str()
            )),
            RecordState::Ended(_) => Err("it was deregistered at this moment".into()),
        }
    }

    async fn set_active(&self, live: &Live, event: Option<Event>) -> Result<(), StoreError> {
        self.store.set_state(live.record_id, RecordState::Active, event).await?;
        live.set_state(RecordState::Active);
        self.lost().remove(live.record_id, Instant::now());
        self.has_moved();
        Ok(())
    }

    /// Has Gitea show the labels of the settings, which proves that it knows the runner.
    async fn tell_labels(&self, live: &Live, declared: &DeclaredRunner) -> Result<Told, String> {
        let (record, labels) = (live.record(), declared.bare_labels());
        let id = live.id();
        match self.declare_as(live, &record.version, &labels).await {
            Ok(runner) if runner.id == id => {}
            Ok(runner) => {
                return Err(format!(
                    "Gitea now knows it by id {}, the record says {id}: was Gitea restored from a backup? \
                     `runner-broker runner deregister {id}` and SIGHUP register it anew",
                    runner.id
                ));
            }
            Err(CallError::Unregistered) => return Ok(Told::Unregistered),
            Err(error) => return Err(error.to_string()),
        }
        fault::point("runner-declared");
        if record.labels != labels {
            info!(
                runner = declared.name,
                id,
                labels = labels.join(","),
                "labels of a declared runner changed in Gitea; a daemon that runs takes them from its \
                 file when it is started again"
            );
        }
        live.declared(&record.version, &labels);
        let stored = async {
            self.store.declare(live.record_id, labels, record.version).await?;
            match record.state {
                RecordState::Parked(_) => self.set_active(live, None).await,
                RecordState::Lost => {
                    let event = Event {
                        runner_id: Some(id),
                        runner: Some(record.name),
                        ..Event::now("settings", What::RunnerFound)
                    };
                    self.set_active(live, Some(event)).await
                }
                _ => Ok(()),
            }
        };
        stored.await.map_err(|error: StoreError| error.to_string())?;
        Ok(Told::Known)
    }

    /// Registers one that has no record.
    async fn register_declared(
        self: &Arc<Self>,
        declared: &DeclaredRunner,
    ) -> Result<Arc<Live>, String> {
        // Told first: the end of the broker looks at it after it has begun.
        self.declared.registering.store(true, Ordering::Relaxed);
        let begun = Instant::now();
        let scope = &declared.scope;
        let result = match self.is_draining() {
            true => Err((Outcome::Rejected, "the broker is ending".into())),
            false => self.begin_declared(declared).await,
        };
        let outcome = result.as_ref().map_or_else(|(outcome, _)| *outcome, |_| Outcome::Registered);
        self.metrics.registration(&scope.to_string(), outcome, begun.elapsed());
        self.declared.registering.store(false, Ordering::Relaxed);
        self.has_moved();
        result.map_err(|(_, why)| why)
    }

    async fn begin_declared(
        &self,
        declared: &DeclaredRunner,
    ) -> Result<Arc<Live>, (Outcome, String)> {
        let intent = Intent {
            nonce: random_hex::<16>(),
            scope: declared.scope.clone(),
            key: Key {
                parent_id: String::new(),
                name: declared.name.clone(),
                labels: declared.bare_labels(),
                ephemeral: false,
                peer: Ipv4Addr::LOCALHOST.into(),
                codec: Codec::Proto,
            },
            version: VERSION.into(),
            created_at: SystemTime::now(),
        };
        let credentials =
            self.ask_for(&intent).await.map_err(|(outcome, error)| (outcome, error.message))?;
        let labels = intent.key.labels.clone();
        let event = Event {
            runner_id: Some(credentials.id),
            runner: Some(declared.name.clone()),
            detail: labels.join(","),
            ..Event::now("settings", What::RunnerRegistered)
        };
        let new = NewRunner {
            intent,
            credentials,
            taken_over: None,
            origin: Origin::Declared,
            declare_due: true,
            // It is found again by this.
            name: declared.name.clone(),
            labels,
            version: VERSION.into(),
            answer: Bytes::new(),
            registered_at: event.at,
            dialled: None,
            token_ids: Vec::new(),
            event,
        };
        let record = self.complete(new).await.map_err(|error| (Outcome::Failed, error.message))?;
        let live = self.roster.insert(record);
        // Nobody asks for its answer.
        live.delivered();
        info!(
            runner = declared.name,
            id = live.id(),
            scope = %declared.scope,
            labels = declared.labels.join(","),
            "declared runner registered"
        );
        Ok(live)
    }

    /// It gets no task from now on, and is deregistered when it has ended the one in hand.
    pub(super) async fn undeclare(self: &Arc<Self>, live: &Arc<Live>) {
        const REASON: Reason = Reason::Undeclared;
        let fate = live.fate.lock().await;
        let state = match live.state() {
            RecordState::Active | RecordState::Lost => RecordState::Deregistering(REASON),
            RecordState::Deregistering(Reason::Shutdown | Reason::Lease) => {
                RecordState::Deregistering(REASON)
            }
            // One that rests never wakes again.
            RecordState::Parked(earlier) if earlier.is_revivable() => RecordState::Parked(REASON),
            RecordState::Ended(earlier) if earlier.is_revivable() => RecordState::Ended(REASON),
            RecordState::Deregistering(_) | RecordState::Parked(_) | RecordState::Ended(_) => {
                return;
            }
        };
        live.set_state(state);
        if let Err(error) = self.store.set_state(live.record_id, state, None).await {
            // It holds all the same, and the next start finds it by the settings.
            error!(%error, "the store did not take that a runner is declared no longer");
        }
        match state {
            RecordState::Ended(_) => self.roster.remove(live),
            RecordState::Deregistering(_) => {
                drop(fate);
                info!(
                    runner = live.record().name,
                    id = live.id(),
                    "the settings no longer declare this runner: it leaves"
                );
                let by = By { actor: "settings".into(), peer: None };
                // What fails is told, and tried again in the background.
                let _ = self.deregister(live, REASON, Force::LeaveBusy, &by).await;
            }
            _ => {}
        }
    }
}
