//! Hands a parked identity on: a newcomer of the same kind gets credentials of its own for the place in
//! Gitea that an earlier runner left, so that stacks that come and go add no dead runner.

use std::sync::Arc;
use std::time::{Instant, SystemTime};

use hyper::{HeaderMap, Uri};
use secrecy::{ExposeSecret, SecretString};
use tokio::sync::MutexGuard;
use tracing::{debug, error, info, warn};
use zeroize::Zeroize;

use super::deregister::DeregisterError;
use super::desk::{Answer, Landed};
use super::enrollment::Reservation;
use super::random::random_hex;
use super::register::{Failed, store_failed};
use super::tokens::By;
use super::{Lifecycle, Live};
use crate::broker::succession::{Newcomer, Pause, fits};
use crate::broker::{Credentials, Event, Intent, Origin, Reason, What};
use crate::config::{Address, Settings};
use crate::connect::messages::{RegisterResponse, Runner};
use crate::connect::{encode, wiped};
use crate::fault;
use crate::gitea::CallError;
use crate::store::NewRunner;
use crate::telemetry::metrics::{DeregistrationOutcome, RegistrationOutcome as Outcome};

impl Lifecycle {
    /// Parked runners whose identity a newcomer may take over, the first to be tried first.
    pub(super) fn parked_for(&self, intent: &Intent, dialled: Option<&str>) -> Vec<Arc<Live>> {
        // A runner that dials Gitea itself may be at work unseen, so that nothing is known to be free.
        if !runners_dial_here(&self.settings.load(), dialled) {
            return Vec::new();
        }
        self.roster.parked_for(&newcomer(intent))
    }

    /// The first of them that Gitea still knows by the same id, with its fate in hand. Those that Gitea no
    /// longer knows end here.
    pub(super) async fn first_proven<'a>(
        &self,
        parked: &'a [Arc<Live>],
        intent: &Intent,
    ) -> Option<(&'a Arc<Live>, MutexGuard<'a, Pause>)> {
        for live in parked {
            // It comes back just now, or another newcomer is about to take it over.
            let Ok(fate) = live.fate.try_lock() else { continue };
            if !fits(&live.record(), &newcomer(intent)) || live.is_polling() {
                continue;
            }
            let id = live.id();
            // The same labels as before, so nothing is changed but the version.
            match self.declare_as(live, &intent.version, &intent.key.labels).await {
                Ok(runner) if runner.id == id => {
                    fault::point("hand-on-proved");
                    return Some((live, fate));
                }
                Ok(runner) => {
                    warn!(
                        id,
                        named = runner.id,
                        "parked runner not handed on: Gitea knows it by another id; was it restored from \
                         a backup?"
                    );
                    return None;
                }
                Err(CallError::Unregistered) => self.end_parked(live).await,
                Err(error) => {
                    debug!(%error, id, "parked runner not handed on");
                    return None;
                }
            }
        }
        None
    }

    /// Gitea no longer knows it: it was deleted there.
    async fn end_parked(&self, live: &Arc<Live>) {
        let id = live.id();
        match self.end(live, Reason::Lost, By::broker()).await {
            Ok(()) => {
                self.metrics.deregistration(Reason::Lost, DeregistrationOutcome::AlreadyGone);
                info!(id, "parked runner ended: Gitea no longer knows it");
            }
            Err(error) => {
                let error = DeregisterError::from(error);
                error!(%error, id, "the store did not take that a parked runner ended");
            }
        }
    }

    /// Registers a newcomer by the identity of a parked runner, whose fate the caller holds.
    pub(super) async fn take_over(
        self: &Arc<Self>,
        parked: &Arc<Live>,
        intent: Intent,
        place: Reservation,
        dialled: Option<String>,
    ) -> Result<Landed, Failed> {
        let registered = Instant::now();
        let upstream = parked.upstream().credentials.clone();
        let credentials = Credentials {
            id: upstream.id,
            uuid: random_uuid(),
            token: SecretString::from(random_hex::<20>()),
        };
        let key = &intent.key;
        let runner = Runner {
            id: credentials.id,
            uuid: credentials.uuid.clone(),
            token: credentials.token.expose_secret().to_owned(),
            name: key.name.clone(),
            version: intent.version.clone(),
            labels: key.labels.clone(),
            ephemeral: false,
        };
        let mut response = RegisterResponse { runner: Some(runner) };
        let body = wiped(encode(key.codec, &response));
        if let Some(runner) = &mut response.runner {
            runner.token.zeroize();
        }
        let registered_at = SystemTime::now();
        let new = NewRunner {
            credentials,
            taken_over: Some((parked.record_id, upstream)),
            origin: Origin::Enrolled,
            declare_due: false,
            name: key.name.clone(),
            labels: key.labels.clone(),
            version: intent.version.clone(),
            answer: body.clone(),
            registered_at,
            dialled,
            token_ids: place.token_ids().to_vec(),
            event: Event {
                at: registered_at,
                token_id: Some(key.parent_id.clone()),
                runner_id: Some(parked.id()),
                runner: Some(key.name.clone()),
                peer: Some(key.peer),
                detail: format!(
                    "{}; parked before as {}",
                    key.labels.join(","),
                    parked.record().name
                ),
                ..Event::now("runner", What::RunnerRegistered)
            },
            intent: intent.clone(),
        };
        let record = match self.store.complete(new).await {
            Ok(record) => record,
            Err(error) => {
                self.metrics.store_writable.set(0);
                error!(%error, runner = intent.key.name, "registration refused: the store takes no writes");
                return Err(Failed::Other(Outcome::Failed, store_failed()));
            }
        };
        fault::point("credentials-stored");
        self.enrollment.joined(&record.parent_id);
        let live = self.roster.take_over(parked, record);
        // By the proof, and by the earlier holder perhaps.
        live.note(|activity| activity.spoken_for(registered));
        info!(
            runner = intent.key.name,
            id = live.id(),
            before = parked.record().name,
            "a parked runner's place in Gitea is handed on"
        );
        self.land(&live, place, &intent, registered_at).await;
        let answer = Answer { headers: HeaderMap::new(), body };
        Ok(Landed { answer, live, registered })
    }
}

fn newcomer(intent: &Intent) -> Newcomer<'_> {
    Newcomer {
        parent_id: &intent.key.parent_id,
        scope: &intent.scope,
        name: &intent.key.name,
        labels: &intent.key.labels,
        ephemeral: intent.key.ephemeral,
    }
}

/// Whether the runner files say to dial the broker, and not Gitea.
fn runners_dial_here(settings: &Settings, dialled: Option<&str>) -> bool {
    match &settings.credentials.address {
        Address::Broker => true,
        Address::Gitea => false,
        Address::Auto => !settings.loopback_only(),
        // It may be any proxy's, also Gitea's own; it is known where it is this runner's way to here.
        Address::Url(url) => {
            let public = settings.listen.public_url.as_ref().and_then(Uri::authority);
            url.authority().is_some_and(|authority| {
                Some(authority) == public || dialled == Some(authority.as_str())
            })
        }
    }
}

/// Version 4, as Gitea's are.
fn random_uuid() -> String {
    let hex = random_hex::<16>();
    let variant = ["8", "9", "a", "b"][usize::from(hex.as_bytes()[16]) % 4];
    format!(
        "{}-{}-4{}-{variant}{}-{}",
        &hex[..8],
        &hex[8..12],
        &hex[13..16],
        &hex[17..20],
        &hex[20..]
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn identities_are_of_version_4() {
        for _ in 0..100 {
            let uuid = random_uuid();
            let parts: Vec<_> = uuid.split('-').map(str::len).collect();
            assert_eq!(parts, [8, 4, 4, 4, 12], "{uuid}");
            assert!(uuid.bytes().all(|b| matches!(b, b'0'..=b'9' | b'a'..=b'f' | b'-')), "{uuid}");
            assert_eq!(&uuid[14..15], "4", "{uuid}");
            assert!(matches!(&uuid[19..20], "8" | "9" | "a" | "b"), "{uuid}");
            assert_ne!(uuid, random_uuid());
        }
    }
}
