//! A registration, step by step: what is known is written first, Gitea is asked once, and what it
//! answered is on disk before the runner has it.

use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime};

use bytes::Bytes;
use hyper::HeaderMap;
use hyper::header::HeaderValue;
use secrecy::{ExposeSecret, SecretString};
use tracing::{error, info, warn};
use zeroize::Zeroize;

use super::desk::{Answer, Delivery, Entry, Landed};
use super::enrollment::{Identified, Reservation};
use super::random::random_hex;
use super::{Lifecycle, Live};
use crate::broker::policy::Asks;
use crate::broker::{Credentials, Event, Intent, Key, Origin, Record, RecordId, RecordState, What};
use crate::config::Scope;
use crate::connect::messages::RegisterRequest;
use crate::connect::{Code, ConnectError, encode, splice, wiped};
use crate::fault;
use crate::gitea::{RegisterAnswer, RegisterFailure, RegisterRefusal, RestError};
use crate::proxy::Limit;
use crate::store::NewRunner;
use crate::telemetry::metrics::{RegistrationOutcome as Outcome, Rejection};

/// A Register that was admitted.
pub struct Registration {
    /// Who asks.
    pub key: Key,
    /// By which token.
    pub token: Identified,
    /// The runner's own version.
    pub version: String,
    /// The message as it came, decompressed.
    pub body: Bytes,
    /// The headers that Gitea gets along.
    pub headers: HeaderMap,
    /// The address at which the runner dialled the broker, where it told one.
    pub dialled: Option<String>,
}

/// Why a registration came to nothing.
pub(super) enum Failed {
    /// By its token; counted and noted already.
    Refused(ConnectError),
    /// By anything else.
    Other(Outcome, ConnectError),
}

impl Failed {
    fn into_error(self) -> ConnectError {
        match self {
            Self::Refused(error) | Self::Other(_, error) => error,
        }
    }
}

impl Lifecycle {
    /// Registers a runner, or finds the result that it lost. The registration runs to its end even
    /// where the caller goes away.
    ///
    /// # Errors
    /// In words for the one who set the runner up.
    pub async fn register(
        self: &Arc<Self>,
        registration: Registration,
    ) -> Result<(Answer, Delivery), ConnectError> {
        if self.is_draining() {
            self.metrics.rejection(Rejection::Draining);
            let error = draining();
            self.note_failed(&registration.key, &error);
            return Err(error);
        }
        let most = self.settings.load().limits.registrations;
        let waiter = match self.desk.enter(&registration.key, most) {
            Entry::Repeat(record_id, registered) => {
                let repeated = self.repeat(record_id, &registration.key, registered).await;
                if let Some(repeated) = repeated {
                    return Ok(repeated);
                }
                // The record is gone, or going, or cannot be read: the runner gets a new one.
                return Box::pin(self.register(registration)).await;
            }
            Entry::Wait(waiter) => match waiter.result().await {
                // Meanwhile the runner found its credentials in its file: this one is another.
                Ok((_, delivery)) if delivery.is_late() => {
                    drop(delivery);
                    return Box::pin(self.register(registration)).await;
                }
                result => return result,
            },
            Entry::Full => {
                self.metrics.rejection(Rejection::Overload);
                self.metrics.limit(Limit::Registrations);
                warn!(
                    runner = registration.key.name,
                    peer = %registration.key.peer,
                    "registration refused: too many run; is Gitea slow?"
                );
                let error = overloaded();
                self.note_failed(&registration.key, &error);
                return Err(error);
            }
            Entry::New(waiter, landing) => {
                let this = Arc::clone(self);
                self.running.spawn(async move {
                    let begun = Instant::now();
                    let scope = registration.token.scope.clone();
                    let key = registration.key.clone();
                    let result = this.run(&scope, registration).await;
                    let outcome = match &result {
                        Ok(_) => Outcome::Registered,
                        Err(Failed::Refused(_)) => Outcome::Rejected,
                        Err(Failed::Other(outcome, error)) => {
                            this.note_failed(&key, error);
                            *outcome
                        }
                    };
                    this.metrics.registration(&scope.to_string(), outcome, begun.elapsed());
                    landing.with(result.map_err(Failed::into_error));
                    this.has_moved();
                });
                waiter
            }
        };
        waiter.result().await
    }

    /// The kept answer of a runner that asks again.
    async fn repeat(
        &self,
        record_id: RecordId,
        key: &Key,
        registered: Instant,
    ) -> Option<(Answer, Delivery)> {
        let live = self.roster.get(record_id)?;
        // Before anything is waited for: a runner that hangs up meanwhile may ask once more.
        let delivery =
            Delivery::new(Arc::clone(&self.desk), key.clone(), Arc::clone(&live), registered);
        let body = self.store.answer(record_id).await;
        // One on its way out, from before a restart perhaps, would be gone before the runner speaks.
        let (Ok(Some(body)), false) = (body, live.is_deregistering()) else {
            drop(delivery);
            self.desk.forget(record_id);
            return None;
        };
        info!(runner = key.name, id = live.id(), "runner asked again: same identity");
        let scope = live.scope().to_string();
        self.metrics.registration(&scope, Outcome::Repeated, Duration::ZERO);
        let answer = Answer { headers: HeaderMap::new(), body };
        Some((answer, delivery))
    }

    async fn run(
        self: &Arc<Self>,
        scope: &Scope,
        registration: Registration,
    ) -> Result<Landed, Failed> {
        let Registration { key, token, version, body, headers, dialled } = registration;
        let refuse = |refusal| {
            Failed::Refused(self.refuse(&refusal, Some(&key.parent_id), &key.name, key.peer))
        };
        let asks =
            Asks { name: &key.name, labels: &key.labels, ephemeral: key.ephemeral, peer: key.peer };
        let turn = async {
            loop {
                let settings = self.settings.load_full();
                let place = self.enrollment.reserve(&key.parent_id, asks, &settings.gitea).await?;
                let slot = self.turns.next().await;
                // While it waited for that, its token may have become one that admits fewer.
                if place.fits() {
                    return Ok((place, slot));
                }
            }
        };
        let Some(turn) = self.turns.patiently(turn).await else {
            self.metrics.rejection(Rejection::Overload);
            warn!(
                runner = key.name,
                "registration refused: none that was before it came to an end; does the disk hang, or Gitea?"
            );
            return Err(Failed::Other(Outcome::Rejected, overloaded()));
        };
        let (place, _slot) = turn.map_err(refuse)?;
        // Or it may have been switched off, or have another secret.
        let still = self.enrollment.still(&token, SystemTime::now());
        still
            .and_then(|()| {
                self.enrollment.allows(&key.parent_id, &asks, &self.settings.load().gitea)
            })
            .map_err(refuse)?;
        if self.is_draining() {
            return Err(Failed::Other(Outcome::Rejected, draining()));
        }

        let intent = Intent {
            nonce: random_hex::<16>(),
            scope: scope.clone(),
            key,
            version,
            created_at: SystemTime::now(),
        };
        let parked = self.parked_for(&intent, dialled.as_deref());
        if let Some((parked, _fate)) = self.first_proven(&parked, &intent).await {
            return self.take_over(parked, intent, place, dialled).await;
        }
        let with_token = |token: &SecretString| {
            let token = token.expose_secret();
            splice::register_request(intent.key.codec, &body, token, &intent.label()).map(wiped)
        };
        let answer = self
            .ask(&intent, with_token, headers)
            .await
            .map_err(|(outcome, error)| Failed::Other(outcome, error))?;
        self.keep(intent, place, answer, dialled).await
    }

    /// Writes down the intent, then asks Gitea: once, and once more where Gitea refused the registration token
    /// and there is a later one. `message` makes the Register with a token. What comes to nothing is settled,
    /// or will be.
    pub(super) async fn ask(
        &self,
        intent: &Intent,
        message: impl Fn(&SecretString) -> Result<Bytes, ConnectError>,
        headers: HeaderMap,
    ) -> Result<RegisterAnswer, (Outcome, ConnectError)> {
        let scope = &intent.scope;
        let token = match self.gitea.registration_token(scope).await {
            Ok(token) => token,
            Err(error) => return Err(self.not_minted(intent, &error, None)),
        };
        let body = message(&token).map_err(|error| (Outcome::Rejected, error))?;
        fault::point("register-begun");
        if let Err(error) = self.store.insert_intent(intent.clone()).await {
            self.metrics.store_writable.set(0);
            error!(%error, runner = intent.key.name, "registration refused: the store takes no writes");
            return Err((Outcome::Failed, store_failed()));
        }
        fault::point("intent-stored");
        let codec = intent.key.codec;
        let mut answer = self.gitea.register(codec, body, headers.clone(), &token).await;
        fault::point("gitea-answered");
        // It was refused before anything was done, so that this is no second time.
        if let Err(RegisterFailure::Refused { refusal, error: refused }) = &answer
            && refusal.is_of_token()
        {
            let again = match self.gitea.renewed_token(scope, &token).await {
                Ok(Some(later)) => message(&later)
                    .map(|body| Some((body, later)))
                    .map_err(|error| (Outcome::Rejected, error)),
                Ok(None) => Ok(None),
                Err(error) => Err(self.not_minted(intent, &error, Some(refused))),
            };
            match again {
                Ok(Some((body, later))) => {
                    info!(%scope, "Gitea's registration token was reset: going on with the latest");
                    answer = self.gitea.register(codec, body, headers, &later).await;
                }
                Ok(None) => {}
                Err(failed) => {
                    self.drop_intent(intent).await;
                    return Err(failed);
                }
            }
        }
        match answer {
            Ok(answer) => Ok(answer),
            Err(failure) => Err(self.failed(intent.clone(), failure).await),
        }
    }

    /// The same for a runner that does not ask itself: the broker writes its Register.
    pub(super) async fn ask_for(
        &self,
        intent: &Intent,
    ) -> Result<Credentials, (Outcome, ConnectError)> {
        let Key { name, labels, ephemeral, codec, .. } = &intent.key;
        let message = |token: &SecretString| {
            let mut request = RegisterRequest {
                name: name.clone(),
                token: token.expose_secret().to_owned(),
                version: intent.version.clone(),
                labels: labels.iter().cloned().chain([intent.label()]).collect(),
                ephemeral: *ephemeral,
            };
            let body = wiped(encode(*codec, &request));
            request.token.zeroize();
            Ok(body)
        };
        let mut headers = HeaderMap::new();
        headers.insert("connect-protocol-version", HeaderValue::from_static("1"));
        let RegisterAnswer { runner, .. } = self.ask(intent, message, headers).await?;
        Ok(Credentials { id: runner.id, uuid: runner.uuid, token: runner.token.into() })
    }

    /// Puts a record in the place of its intent; where the store takes none, the registration is undone.
    pub(super) async fn complete(&self, new: NewRunner) -> Result<Record, ConnectError> {
        let (intent, credentials) = (new.intent.clone(), new.credentials.clone());
        match self.store.complete(new).await {
            Ok(record) => {
                fault::point("credentials-stored");
                Ok(record)
            }
            Err(error) => {
                self.metrics.store_writable.set(0);
                error!(%error, runner = intent.key.name, "the store took no record: undoing the registration");
                self.roll_back(intent, &credentials).await;
                Err(store_failed())
            }
        }
    }

    /// Gitea has registered the runner: record, file, answer.
    async fn keep(
        self: &Arc<Self>,
        intent: Intent,
        place: Reservation,
        answer: RegisterAnswer,
        dialled: Option<String>,
    ) -> Result<Landed, Failed> {
        let registered = Instant::now();
        let RegisterAnswer { headers, body, runner } = answer;
        let label = intent.label();
        // An answer that was understood once is understood twice.
        let body = match splice::without_label(intent.key.codec, &body, &label) {
            Ok(body) => wiped(body),
            Err(_) => body,
        };
        let credentials =
            Credentials { id: runner.id, uuid: runner.uuid, token: runner.token.into() };
        let registered_at = SystemTime::now();
        let event = Event {
            at: registered_at,
            token_id: Some(intent.key.parent_id.clone()),
            runner_id: Some(credentials.id),
            runner: Some(runner.name.clone()),
            peer: Some(intent.key.peer),
            detail: intent.key.labels.join(","),
            ..Event::now("runner", What::RunnerRegistered)
        };
        let new = NewRunner {
            intent: intent.clone(),
            credentials: credentials.clone(),
            taken_over: None,
            origin: Origin::Enrolled,
            declare_due: false,
            name: runner.name,
            labels: intent.key.labels.clone(),
            version: intent.version.clone(),
            answer: body.clone(),
            registered_at,
            dialled,
            token_ids: place.token_ids().to_vec(),
            event,
        };
        let record =
            self.complete(new).await.map_err(|error| Failed::Other(Outcome::Failed, error))?;
        self.enrollment.joined(&record.parent_id);
        let live = self.roster.insert(record);
        self.land(&live, place, &intent, registered_at).await;
        Ok(Landed { answer: Answer { headers, body }, live, registered })
    }

    /// What is left to do for a runner that the store has.
    pub(super) async fn land(
        self: &Arc<Self>,
        live: &Arc<Live>,
        place: Reservation,
        intent: &Intent,
        registered_at: SystemTime,
    ) {
        place.used(registered_at);
        // Whoever deregisters it waits until its file is there to be removed.
        let fate = live.fate.lock().await;
        self.revoke_landed(live).await;
        if !matches!(live.state(), RecordState::Ended(_)) {
            self.write_file(live).await;
        }
        drop(fate);
        fault::point("file-written");
        info!(
            runner = intent.key.name,
            id = live.id(),
            token = intent.key.parent_id,
            scope = %intent.scope,
            peer = %intent.key.peer,
            labels = intent.key.labels.join(","),
            ephemeral = intent.key.ephemeral,
            "runner registered"
        );
    }

    pub(super) async fn failed(
        &self,
        intent: Intent,
        failure: RegisterFailure,
    ) -> (Outcome, ConnectError) {
        let name = intent.key.name.clone();
        match failure {
            RegisterFailure::NotSent(failure) => {
                self.metrics.upstream_error(failure.kind);
                warn!(runner = name, reason = %failure, "registration failed: Gitea cannot be reached");
                self.drop_intent(&intent).await;
                let text = format!(
                    "Gitea cannot be reached by the broker at the moment ({failure}); \
                     the runner was not registered: try again"
                );
                let error = ConnectError::new(Code::Unavailable, text).after(failure.retry_after);
                (Outcome::Unreachable, error)
            }
            RegisterFailure::Refused { refusal, error } => {
                self.drop_intent(&intent).await;
                (Outcome::Refused, self.refused(&intent, refusal, &error))
            }
            RegisterFailure::Unclear(reason) => {
                warn!(
                    runner = name,
                    reason,
                    label = intent.label(),
                    "registration unclear: Gitea may have acted; it is settled by this label"
                );
                if let Err(error) = self.store.mark_unclear(&intent.nonce, reason.clone()).await {
                    // The intent is there all the same, and is settled as what it is.
                    error!(%error, "the store did not take the reason");
                }
                self.add_unsettled(intent, Instant::now());
                let text = format!(
                    "Gitea was asked and its answer was lost ({reason}); the broker \
                     settles what came of it: try again"
                );
                (Outcome::Unclear, ConnectError::new(Code::Unavailable, text))
            }
        }
    }

    /// There is no registration token to register with; `refused` is what Gitea said of the one before.
    fn not_minted(
        &self,
        intent: &Intent,
        error: &RestError,
        refused: Option<&ConnectError>,
    ) -> (Outcome, ConnectError) {
        let (name, scope) = (&intent.key.name, &intent.scope);
        if let RestError::Unreachable(failure) = error {
            self.metrics.upstream_error(failure.kind);
        }
        if let Some(retry_after) = error.passes_after() {
            warn!(runner = name, %scope, %error, "registration failed: Gitea gives out no registration token");
            let text = format!(
                "the broker gets no registration token for scope {scope} from Gitea at the moment \
                 ({error}); the runner was not registered: try again"
            );
            let error = ConnectError::new(Code::Unavailable, text).after(retry_after);
            return (Outcome::Unreachable, error);
        }
        error!(
            runner = name,
            %scope,
            %error,
            refused = refused.map(|refused| refused.message.as_str()),
            "the broker gets no registration token from Gitea"
        );
        let (code, then) = match error {
            // Gitea, or what is in front of it, may answer otherwise in a moment.
            RestError::Unexpected(..) => (Code::Unavailable, "try again"),
            _ => (
                Code::FailedPrecondition,
                "the broker's admin must see to that; the runner's own token is fine",
            ),
        };
        let text = format!(
            "the broker gets no registration token for scope {scope} from Gitea ({error}), so the runner \
             was not registered: {then}"
        );
        (Outcome::Refused, ConnectError::new(code, text))
    }

    fn refused(
        &self,
        intent: &Intent,
        refusal: RegisterRefusal,
        error: &ConnectError,
    ) -> ConnectError {
        let name = &intent.key.name;
        let scope = &intent.scope;
        match refusal {
            RegisterRefusal::TokenNotFound
            | RegisterRefusal::TokenInvalidated
            | RegisterRefusal::OwnerGone => {
                let setting = self.gitea.setting(scope, "registration_token_file");
                error!(
                    runner = name,
                    %scope,
                    answer = error.message,
                    "Gitea refuses the broker's registration token: put the scope's latest one into \
                     {setting} and send SIGHUP, or give an API token, with which the broker gets it itself"
                );
                ConnectError::new(
                    Code::FailedPrecondition,
                    format!(
                        "Gitea refused the broker's registration token for scope {scope} ({}); the \
                         broker's admin must set the latest one; the runner's own token is fine",
                        error.message
                    ),
                )
            }
            RegisterRefusal::MissingFields | RegisterRefusal::Other => {
                warn!(
                    runner = name,
                    code = error.code.as_str(),
                    answer = error.message,
                    "Gitea refused the registration"
                );
                ConnectError::new(error.code, format!("Gitea refused: {}", error.message))
                    .after(error.retry_after)
            }
        }
    }

    async fn drop_intent(&self, intent: &Intent) {
        if let Err(error) = self.store.drop_intent(&intent.nonce).await {
            // It is settled like any other: Gitea shows no runner with its label.
            error!(%error, "the store did not let go of a registration that did not happen");
            self.add_unsettled(intent.clone(), Instant::now());
        }
    }
}

/// What a runner is told that comes, or whose turn comes, when the broker is about to end.
pub(super) fn draining() -> ConnectError {
    ConnectError::new(
        Code::Unavailable,
        "the broker is shutting down and registers nobody; try again when it is back",
    )
}

pub(super) fn overloaded() -> ConnectError {
    ConnectError::new(
        Code::ResourceExhausted,
        "too many runners register at this moment; try again in a few seconds",
    )
}

pub(super) fn store_failed() -> ConnectError {
    ConnectError::new(
        Code::Unavailable,
        "the broker cannot write its records, so it registers nobody; its log tells why",
    )
}
