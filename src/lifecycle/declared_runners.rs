//! Runners that the settings declare: registered before any asks, each with its file in its place, so that
//! an official runner starts from that file and holds no other secret. They are brought in line at the
//! start and with each reload; what fails is tried again until it works.

use std::collections::{BTreeMap, BTreeSet};
use std::net::Ipv4Addr;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant, SystemTime};

use bytes::Bytes;
use hyper::HeaderMap;
use hyper::header::HeaderValue;
use secrecy::ExposeSecret;
use tokio::sync::Notify;
use tokio::time::timeout;
use tracing::{error, info, warn};

use super::deregister::Force;
use super::random::random_hex;
use super::tokens::By;
use super::{Lifecycle, Live};
use crate::broker::{Credentials, Event, Intent, Key, Origin, Reason, RecordState, What};
use crate::config::{DeclaredRunner, Scope};
use crate::connect::messages::RegisterRequest;
use crate::connect::{Code, Codec, encode};
use crate::credential::{self, Pattern};
use crate::fault;
use crate::gitea::CallError;
use crate::store::{NewRunner, StoreError};
use crate::telemetry::metrics::{DeregistrationOutcome, RegistrationOutcome as Outcome};

/// The longest wait between two attempts: whoever mounts a missing volume does not wait for long.
const LONGEST_WAIT: Duration = Duration::from_secs(30);

/// What Gitea shows as a declared runner's version until its program tells its own.
const VERSION: &str = concat!("runner-broker ", env!("CARGO_PKG_VERSION"));

/// How far the broker is with the runners that the settings declare.
#[derive(Default)]
pub(super) struct Declared {
    /// All are to be looked at, not only those in trouble.
    all: AtomicBool,
    wake: Notify,
    /// One is being registered.
    registering: AtomicBool,
    standing: Mutex<Standing>,
}

#[derive(Default)]
struct Standing {
    /// Each had its file once. From then on the broker stays ready, so that no new entry and no trouble
    /// takes it away from the runners that it has.
    ready: bool,
    /// By the runner's name.
    troubles: BTreeMap<String, Trouble>,
}

/// Why a runner is not in line.
#[derive(Clone, PartialEq, Eq)]
struct Trouble {
    why: String,
    /// No runner can start from its file.
    no_file: bool,
}

impl Trouble {
    fn no_file(why: impl ToString) -> Self {
        Self { why: why.to_string(), no_file: true }
    }
}

/// Whether Gitea knows a runner.
#[derive(PartialEq, Eq)]
enum Told {
    Known,
    Unregistered,
}

impl Declared {
    pub(super) fn registering(&self) -> usize {
        usize::from(self.registering.load(Ordering::Relaxed))
    }

    fn standing(&self) -> MutexGuard<'_, Standing> {
        self.standing.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Lifecycle {
    /// The settings may declare others: all are brought in line soon.
    pub fn declare_runners(&self) {
        self.declared.all.store(true, Ordering::Relaxed);
        self.declare_soon();
    }

    /// What failed is tried now.
    pub(super) fn declare_soon(&self) {
        self.declared.wake.notify_one();
    }

    /// Whether the broker may be called ready as far as declared runners go, and where they stand; nothing
    /// where none is declared.
    #[must_use]
    pub fn declared_runners(&self) -> Option<Result<String, String>> {
        let count = self.settings.load().runners.len();
        let troubles = self.declared_troubles().join("; ");
        match (count, self.declared.standing().ready, troubles.is_empty()) {
            (0, ..) => None,
            (_, true, true) => Some(Ok(format!("{count} declared, each has its file"))),
            (_, true, false) => Some(Ok(format!("{count} declared; {troubles}"))),
            (_, false, true) => Some(Err("not all that are declared have their files yet".into())),
            (_, false, false) => Some(Err(troubles)),
        }
    }

    /// What keeps declared runners from being in line, a sentence for each.
    #[must_use]
    pub fn declared_troubles(&self) -> Vec<String> {
        let standing = self.declared.standing();
        standing.troubles.iter().map(|(name, trouble)| format!("{name}: {}", trouble.why)).collect()
    }

    /// Brings the declared runners in line, for ever.
    pub async fn keep_declaring(self: Arc<Self>) {
        let mut wait = self.timing.retry;
        self.declare_runners();
        loop {
            let woken = self.declared.wake.notified();
            if self.declared.standing().troubles.is_empty() {
                woken.await;
            } else if timeout(wait, woken).await.is_err() {
                wait = (wait * 2).min(LONGEST_WAIT);
            }
            if self.is_draining() {
                continue;
            }
            let all = self.declared.all.swap(false, Ordering::Relaxed);
            if all {
                wait = self.timing.retry;
                self.undeclare_others().await;
            }
            self.bring_in_line(all).await;
        }
    }

    /// Looks at all declared runners, or only at those in trouble.
    async fn bring_in_line(self: &Arc<Self>, all: bool) {
        let runners = self.settings.load().runners.clone();
        let names: BTreeSet<_> = runners.iter().map(|declared| declared.name.as_str()).collect();
        self.declared.standing().troubles.retain(|name, _| names.contains(name.as_str()));
        for declared in &runners {
            let troubled = self.declared.standing().troubles.contains_key(&declared.name);
            if self.is_draining() {
                return;
            }
            if all || troubled {
                let (this, one) = (Arc::clone(self), declared.clone());
                // The end of the broker waits for what has begun.
                let brought = self.running.spawn(async move { this.bring(&one).await }).await;
                let brought = brought.unwrap_or_else(|error| {
                    Err(Trouble::no_file(format!("it broke off: {error}")))
                });
                self.note_standing(&declared.name, brought);
            }
        }
        let mut standing = self.declared.standing();
        standing.ready |= standing.troubles.values().all(|trouble| !trouble.no_file);
    }

    fn note_standing(&self, name: &str, brought: Result<(), Trouble>) {
        let mut standing = self.declared.standing();
        match brought {
            Ok(()) => {
                if standing.troubles.remove(name).is_some() {
                    info!(runner = name, "declared runner is in line");
                }
            }
            Err(trouble) => {
                let before = standing.troubles.insert(name.to_owned(), trouble.clone());
                if before.as_ref() != Some(&trouble) {
                    let reason = trouble.why;
                    error!(runner = name, reason, "declared runner is not in line; tried again");
                }
            }
        }
    }

    /// Registered, with the labels of the settings, and its file in place.
    async fn bring(self: &Arc<Self>, declared: &DeclaredRunner) -> Result<(), Trouble> {
        // Nobody could start from the credentials of one that is registered all the same.
        self.place()?;
        let mut live = match self.find(&declared.name).await.map_err(Trouble::no_file)? {
            Some(live) => live,
            None => self.register_declared(declared).await.map_err(Trouble::no_file)?,
        };
        let mut fate = live.fate.lock().await;
        self.call_off(&live).await.map_err(Trouble::no_file)?;
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
            false => {
                Err(Trouble::no_file(super::runner_file::NoFile::NoFolder(pattern.root().into())))
            }
        }
    }

    /// The runner of this name that was registered before, awake.
    async fn find(self: &Arc<Self>, name: &str) -> Result<Option<Arc<Live>>, String> {
        let is_it =
            |live: &Arc<Live>| live.origin == Origin::Declared && live.record().name == name;
        let mut known: Vec<_> = self.roster.all().into_iter().filter(is_it).collect();
        let mut asleep: Vec<_> = self.roster.asleep().into_iter().filter(is_it).collect();
        asleep.sort_unstable_by_key(|live| live.record_id);
        let mut found = known.pop();
        if found.is_none()
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
    async fn call_off(&self, live: &Live) -> Result<(), String> {
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
        self.has_moved();
        Ok(())
    }

    /// Has Gitea show the labels of the settings, which proves that it knows the runner.
    async fn tell_labels(&self, live: &Live, declared: &DeclaredRunner) -> Result<Told, String> {
        let (record, labels) = (live.record(), declared.bare_labels());
        let id = live.id();
        let credentials = &live.upstream().credentials;
        match self.gitea.declare(credentials, &record.version, &labels).await {
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
        let scope = self.settings.load().gitea.scope.clone();
        let result = match self.is_draining() {
            true => Err((Outcome::Rejected, "the broker is ending".into())),
            false => self.ask_for(declared, &scope).await,
        };
        let outcome = result.as_ref().map_or_else(|(outcome, _)| *outcome, |_| Outcome::Registered);
        self.metrics.registration(&scope.to_string(), outcome, begun.elapsed());
        self.declared.registering.store(false, Ordering::Relaxed);
        self.has_moved();
        result.map_err(|(_, why)| why)
    }

    async fn ask_for(
        &self,
        declared: &DeclaredRunner,
        scope: &Scope,
    ) -> Result<Arc<Live>, (Outcome, String)> {
        let intent = Intent {
            nonce: random_hex::<16>(),
            scope: scope.clone(),
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
        let request = RegisterRequest {
            name: declared.name.clone(),
            token: self.gitea.tokens().registration.expose_secret().to_owned(),
            version: VERSION.into(),
            labels: intent.key.labels.iter().cloned().chain([intent.label()]).collect(),
            ephemeral: false,
        };
        let mut headers = HeaderMap::new();
        headers.insert("connect-protocol-version", HeaderValue::from_static("1"));
        let answer = self
            .ask(&intent, encode(Codec::Proto, &request).into(), headers)
            .await
            .map_err(|(outcome, error)| (outcome, error.message))?;
        let credentials = Credentials {
            id: answer.runner.id,
            uuid: answer.runner.uuid,
            token: answer.runner.token.into(),
        };
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
            %scope,
            labels = declared.labels.join(","),
            "declared runner registered"
        );
        Ok(live)
    }

    /// Sends those away that were declared once and are no longer.
    async fn undeclare_others(self: &Arc<Self>) {
        let runners = self.settings.load().runners.clone();
        for live in self.roster.all().into_iter().chain(self.roster.asleep()) {
            let name = live.record().name;
            if live.origin == Origin::Declared && !runners.iter().any(|one| one.name == name) {
                self.undeclare(&live).await;
            }
        }
    }

    /// It gets no task from now on, and is deregistered when it has ended the one in hand.
    async fn undeclare(self: &Arc<Self>, live: &Arc<Live>) {
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
