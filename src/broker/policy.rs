//! Who may enroll.

use std::net::IpAddr;
use std::time::{Duration, SystemTime};

use wildmatch::WildMatch;

use crate::config::Scope;
use crate::connect::messages::RegisterRequest;

use super::forwarded::is_within;
use super::registration::INTENT_LABEL_PREFIX;
use super::token::{MAX_TEXT, State, Token};

/// Most labels of one runner.
const MAX_LABELS: usize = 256;

/// Why a Register is refused.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Refusal {
    /// Unknown and wrong tokens are not told apart.
    #[error(
        "the enrollment token is not known here; set the runner's registration token to one that \
         the broker gave out (GITEA_RUNNER_REGISTRATION_TOKEN)"
    )]
    Token,
    /// The one secret that must not be out there.
    #[error(
        "this is Gitea's own registration token; the broker takes only its enrollment tokens: give \
         the runner one of those, and reset Gitea's token, since a runner has seen it"
    )]
    RegistrationToken,
    /// The token was switched off.
    #[error(
        "the enrollment token is disabled; ask the broker's admin for another, or to enable it"
    )]
    Disabled,
    /// Its time is over.
    #[error("the enrollment token has expired; ask the broker's admin for a new one")]
    Expired,
    /// It has admitted as often as it may.
    #[error(
        "the enrollment token is used up; ask the broker's admin for a new one, or for one that is \
         reusable"
    )]
    UsedUp,
    /// As many runners as it allows are alive.
    #[error(
        "{0} live runners came by this enrollment token, and it allows no more at once; deregister \
         one, or ask the broker's admin for another token"
    )]
    TooManyRunners(u32),
    /// A label that is not on the token's list.
    #[error(
        "the enrollment token does not allow the label {0:?}; take it out of the runner's labels, or \
         ask the broker's admin to allow it"
    )]
    Label(String),
    /// The name does not match.
    #[error(
        "the enrollment token allows only runners whose name matches {0:?}; rename the runner \
         (GITEA_RUNNER_NAME or --name)"
    )]
    Name(String),
    /// The runner would stay.
    #[error(
        "the enrollment token allows only ephemeral runners; register with --ephemeral \
         (GITEA_RUNNER_EPHEMERAL=1)"
    )]
    NotEphemeral,
    /// It came from elsewhere.
    #[error("the enrollment token is not for runners at the address {0}")]
    Address(IpAddr),
    /// The settings do not name its scope any more.
    #[error("the enrollment token is for the scope {0}, which the broker does not serve any more")]
    Scope(Scope),
    /// Only reusable tokens are exchanged.
    #[error("only a reusable enrollment token can be exchanged; register with this one")]
    NotReusable,
    /// Too many wrong tokens came from there.
    #[error("too many wrong tokens came from this address; try again in {} s", .0.as_secs().max(1))]
    Throttled(Duration),
    /// Something that Gitea would refuse as well, or that would be taken for the broker's own.
    #[error("{0}")]
    Request(String),
}

/// What a Register asks for, as far as a token may forbid it.
#[derive(Clone, Copy, Debug)]
pub struct Asks<'a> {
    /// The name asked for.
    pub name: &'a str,
    /// The labels asked for.
    pub labels: &'a [String],
    /// Whether an ephemeral runner is asked for.
    pub ephemeral: bool,
    /// Where it comes from.
    pub peer: IpAddr,
}

/// Whether a token admits one runner more.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Room {
    /// It does.
    Free,
    /// Not unless a registration that runs comes to nothing.
    Taken,
    /// It does not.
    None(Refusal),
}

/// Decides whether a Register can be at all, whatever its token allows.
///
/// # Errors
/// Why not, in words for the one who set the runner up.
pub fn request(request: &RegisterRequest) -> Result<(), Refusal> {
    if request.name.is_empty() {
        return Err(Refusal::Request(
            "the runner has no name; set GITEA_RUNNER_NAME (or --name)".into(),
        ));
    }
    // A longer one Gitea would cut, and then it may be another than its token allows.
    if request.name.chars().count() > MAX_TEXT || request.name.contains(char::is_control) {
        return Err(Refusal::Request(
            "the runner's name is too long or has control characters; choose a plain name of up to \
             255 characters"
                .into(),
        ));
    }
    labels(&request.labels)
}

/// Decides whether a token is in force: the token itself and then each of its ancestors.
///
/// # Errors
/// The first of them that is not says why.
pub fn in_force<'a>(
    chain: impl IntoIterator<Item = &'a Token>,
    now: SystemTime,
) -> Result<(), Refusal> {
    chain.into_iter().try_for_each(|token| match token.state(now) {
        State::Active | State::UsedUp => Ok(()),
        State::Disabled => Err(Refusal::Disabled),
        State::Expired => Err(Refusal::Expired),
        // As if it had never been.
        State::Deleted => Err(Refusal::Token),
    })
}

/// Decides whether a token allows what a Register asks for: the token itself and then each of its
/// ancestors, so that none allows more than its parent. How often it may is told by [`room`].
///
/// # Errors
/// What is not allowed, in words for the one who set the runner up.
pub fn allows<'a>(
    chain: impl IntoIterator<Item = &'a Token>,
    asks: &Asks<'_>,
    now: SystemTime,
) -> Result<(), Refusal> {
    chain.into_iter().try_for_each(|token| {
        in_force([token], now)?;
        from_there(token, asks.peer)?;
        let policy = &token.policy;
        if policy.ephemeral_only && !asks.ephemeral {
            return Err(Refusal::NotEphemeral);
        }
        if let Some(pattern) = &policy.name_pattern
            && !WildMatch::new(pattern).matches(asks.name)
        {
            return Err(Refusal::Name(pattern.clone()));
        }
        labels_allowed([token], asks.labels)
    })
}

/// Decides whether a runner that the broker itself deregistered may come back: by the token that it came by and then
/// by each of that one's ancestors. It is no newcomer, so uses, expiry and the other limits do not matter.
///
/// # Errors
/// The first of them that is switched off or deleted, or is not for there.
pub fn may_return<'a>(
    chain: impl IntoIterator<Item = &'a Token>,
    peer: IpAddr,
) -> Result<(), Refusal> {
    chain.into_iter().try_for_each(|token| {
        if token.deleted_at.is_some() {
            return Err(Refusal::Token);
        }
        if !token.active {
            return Err(Refusal::Disabled);
        }
        from_there(token, peer)
    })
}

/// Decides on the address that a token is presented from.
///
/// # Errors
/// It is not for there.
pub fn from_there(token: &Token, peer: IpAddr) -> Result<(), Refusal> {
    let networks = &token.policy.allowed_cidrs;
    if networks.is_empty() || is_within(peer, networks) {
        Ok(())
    } else {
        Err(Refusal::Address(peer))
    }
}

/// Decides on the labels that a runner claims, in Register and in Declare.
///
/// # Errors
/// The first label that a token or an ancestor of it does not allow.
pub fn labels_allowed<'a>(
    chain: impl IntoIterator<Item = &'a Token>,
    labels: &[String],
) -> Result<(), Refusal> {
    chain.into_iter().try_for_each(|token| {
        let allowed = &token.policy.labels;
        // Letter by letter, as Gitea matches them: `host:x` is another label than `host`.
        match labels.iter().find(|label| !allowed.contains(label)) {
            Some(label) if !allowed.is_empty() => Err(Refusal::Label(label.clone())),
            _ => Ok(()),
        }
    })
}

/// Whether a token admits one runner more. `live` of those that came by it are alive, and `running` more
/// registrations by it have no result yet.
#[must_use]
pub fn room(token: &Token, live: usize, running: usize) -> Room {
    let (live, running) = (live as u64, running as u64);
    let mut room = Room::Free;
    if let Some(allowed) = token.uses_allowed() {
        if token.uses >= allowed {
            return Room::None(Refusal::UsedUp);
        }
        if token.uses + running >= allowed {
            room = Room::Taken;
        }
    }
    if let Some(allowed) = token.policy.max_runners {
        if live >= u64::from(allowed) {
            return Room::None(Refusal::TooManyRunners(allowed));
        }
        if live + running >= u64::from(allowed) {
            room = Room::Taken;
        }
    }
    room
}

/// Decides whether labels of a Register or a Declare can be at all.
///
/// # Errors
/// Which label cannot be.
pub fn labels(labels: &[String]) -> Result<(), Refusal> {
    if labels.len() > MAX_LABELS {
        return Err(Refusal::Request(format!(
            "{} labels are too many; a runner may have {MAX_LABELS}",
            labels.len()
        )));
    }
    if labels.iter().any(|label| label.len() > MAX_TEXT || label.contains(char::is_control)) {
        return Err(Refusal::Request(format!(
            "a label is longer than {MAX_TEXT} bytes or has control characters"
        )));
    }
    if labels.iter().any(|label| label.starts_with(INTENT_LABEL_PREFIX)) {
        return Err(Refusal::Request(format!(
            "labels that begin with {INTENT_LABEL_PREFIX} are the broker's own; choose another"
        )));
    }
    Ok(())
}

/// Whether the limits leave room for all `running` registrations. They do where each had [`room`] when it
/// began, unless the limits have become narrower since.
#[must_use]
pub fn fits(token: &Token, live: usize, running: usize) -> bool {
    let (live, running) = (live as u64, running as u64);
    token.uses_allowed().is_none_or(|allowed| token.uses + running <= allowed)
        && token.policy.max_runners.is_none_or(|allowed| live + running <= u64::from(allowed))
}

#[cfg(test)]
mod tests;
