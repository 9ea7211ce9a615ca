//! Who is admitted, and what is said and noted of those who are not.

use std::net::IpAddr;
use std::time::{Instant, SystemTime};

use tracing::warn;

use super::enrollment::Identified;
use super::{Lifecycle, Live};
use crate::broker::policy::{self, Asks, Refusal};
use crate::broker::{Event, Key, What};
use crate::connect::messages::RegisterRequest;
use crate::connect::{Code, ConnectError};
use crate::telemetry::metrics::Rejection;

impl Lifecycle {
    /// Decides on a Register, however often its token was used before. The answer is the token.
    ///
    /// # Errors
    /// In words for the one who set the runner up.
    pub fn admit(
        &self,
        request: &RegisterRequest,
        peer: IpAddr,
    ) -> Result<Identified, ConnectError> {
        let mut token_id = None;
        self.decide(request, peer, &mut token_id)
            .map_err(|refusal| self.refuse(&refusal, token_id.as_deref(), &request.name, peer))
    }

    fn decide(
        &self,
        request: &RegisterRequest,
        peer: IpAddr,
        token_id: &mut Option<String>,
    ) -> Result<Identified, Refusal> {
        let token = self.identify(&request.token, peer)?;
        *token_id = Some(token.token_id.clone());
        policy::request(request)?;
        let asks = Asks {
            name: &request.name,
            labels: &request.labels,
            ephemeral: request.ephemeral,
            peer,
        };
        self.enrollment.allows(&token.token_id, &asks, &self.settings.load().gitea)?;
        Ok(token)
    }

    /// The token that someone presents. Whoever presents wrong ones is slowed.
    pub(super) fn identify(&self, presented: &str, peer: IpAddr) -> Result<Identified, Refusal> {
        let now = Instant::now();
        if let Some(wait) = self.limiter().blocked(peer, now) {
            return Err(Refusal::Throttled(wait));
        }
        // Both are looked at before either decides, so that the time does not tell which one was near.
        let identified = self.enrollment.identify(presented, SystemTime::now());
        if self.gitea.is_registration_token(presented) {
            return Err(Refusal::RegistrationToken);
        }
        identified.inspect_err(|_| self.limiter().failed(peer, now))
    }

    /// Decides on the labels of a Declare. `live` is the runner, where the broker knows it.
    ///
    /// # Errors
    /// In words for the one who set the runner up.
    pub fn admit_labels(
        &self,
        live: Option<&Live>,
        labels: &[String],
        peer: IpAddr,
    ) -> Result<(), ConnectError> {
        let allowed = policy::labels(labels).and_then(|()| match live {
            Some(live) => self.enrollment.allows_labels(&live.parent_id, labels),
            None => Ok(()),
        });
        allowed.map_err(|refusal| {
            warn!(id = live.map(|live| live.id()), %peer, reason = %refusal, "declaration refused");
            // A stranger's is Gitea's to refuse, and fills no audit trail.
            if let Some(live) = live {
                self.note_event(Event {
                    peer: Some(peer),
                    detail: refusal.to_string(),
                    ..live.event("runner", What::DeclarationRefused)
                });
            }
            ConnectError::new(code(&refusal), refusal.to_string())
        })
    }

    /// Counts, tells and notes a Register that is refused.
    pub(super) fn refuse(
        &self,
        refusal: &Refusal,
        token_id: Option<&str>,
        name: &str,
        peer: IpAddr,
    ) -> ConnectError {
        self.metrics.rejection(rejection(refusal));
        // What a stranger sent is cut to a length that a line bears.
        let name: String = name.chars().take(64).collect();
        let error = ConnectError::new(code(refusal), refusal.to_string());
        if let Refusal::Throttled(wait) = refusal {
            // Whoever knocks without end fills neither the log nor the audit trail.
            tracing::debug!(runner = name, %peer, "registration refused: throttled");
            return error.after(Some(*wait));
        }
        warn!(runner = name, token = token_id, %peer, reason = %refusal, "registration refused");
        self.note_event(Event {
            token_id: token_id.map(str::to_owned),
            runner: Some(name),
            peer: Some(peer),
            detail: refusal.to_string(),
            ..Event::now("runner", What::RegistrationRefused)
        });
        error
    }

    /// Notes a Register that was admitted and came to nothing.
    pub(super) fn note_failed(&self, key: &Key, error: &ConnectError) {
        self.note_event(Event {
            token_id: Some(key.parent_id.clone()),
            runner: Some(key.name.clone()),
            peer: Some(key.peer),
            detail: error.message.clone(),
            ..Event::now("runner", What::RegistrationRefused)
        });
    }
}

fn code(refusal: &Refusal) -> Code {
    match refusal {
        Refusal::Token => Code::Unauthenticated,
        Refusal::Request(_) => Code::InvalidArgument,
        Refusal::TooManyRunners(_) | Refusal::Throttled(_) => Code::ResourceExhausted,
        Refusal::RegistrationToken
        | Refusal::Disabled
        | Refusal::Expired
        | Refusal::UsedUp
        | Refusal::Label(_)
        | Refusal::Name(_)
        | Refusal::NotEphemeral
        | Refusal::Address(_)
        | Refusal::Scope(_)
        | Refusal::NotReusable => Code::PermissionDenied,
    }
}

fn rejection(refusal: &Refusal) -> Rejection {
    match refusal {
        Refusal::Token | Refusal::NotReusable => Rejection::Token,
        Refusal::RegistrationToken => Rejection::RegistrationToken,
        Refusal::Disabled => Rejection::Disabled,
        Refusal::Expired => Rejection::Expired,
        Refusal::UsedUp => Rejection::UsedUp,
        Refusal::TooManyRunners(_) => Rejection::MaxRunners,
        Refusal::Label(_) => Rejection::Label,
        Refusal::Name(_) => Rejection::Name,
        Refusal::NotEphemeral => Rejection::NotEphemeral,
        Refusal::Address(_) => Rejection::Address,
        Refusal::Scope(_) => Rejection::Scope,
        Refusal::Throttled(_) => Rejection::Throttled,
        Refusal::Request(_) => Rejection::Request,
    }
}
