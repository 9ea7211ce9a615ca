//! What holders do with reusable enrollment tokens: they exchange one for a child, for use by one runner
//! and soon.

use std::net::IpAddr;
use std::ops::RangeInclusive;
use std::time::{Duration, SystemTime};

use super::Lifecycle;
use super::tokens::{By, Issued, TokenError};
use crate::broker::policy::{self, Refusal};
use crate::broker::token::{Draft, Kind, Policy, Token};
use crate::broker::{Event, What};

/// How long a child may be used, where its holder does not say.
const CHILD_TTL: Duration = Duration::from_secs(10 * 60);
/// How long a child may be used at all: shorter ones would be without number.
const CHILD_TTLS: RangeInclusive<Duration> = Duration::from_secs(1)..=Duration::from_secs(60 * 60);
/// Most children of one token that wait for their runners.
const MAX_UNUSED_CHILDREN: usize = 1000;

/// How a child is to be. What it leaves out is its parent's; what its parent does not allow, it does not
/// either.
#[derive(Clone, Debug, Default)]
pub struct Exchange {
    /// How long it may be used, a second to an hour; ten minutes where it is left out.
    pub ttl: Option<Duration>,
    /// For people.
    pub description: String,
    /// Bare names, instead of the parent's.
    pub labels: Vec<String>,
    /// Instead of the parent's.
    pub name_pattern: Option<String>,
    /// Instead of the parent's.
    pub ephemeral_only: bool,
}

impl Lifecycle {
    /// Makes a short-lived single-use child of the reusable token that is presented.
    ///
    /// # Errors
    /// The presented token does not allow it, or nothing was kept.
    pub async fn exchange_token(
        &self,
        presented: &str,
        wish: Exchange,
        peer: IpAddr,
    ) -> Result<Issued, TokenError> {
        let refused = |token_id: Option<String>, refusal: Refusal| {
            let event = Event {
                token_id,
                peer: Some(peer),
                detail: refusal.to_string(),
                ..Event::now("runner", What::ExchangeRefused)
            };
            self.note_event(event);
            TokenError::Refused(refusal)
        };
        let identified = match self.identify(presented, peer) {
            Ok(identified) => identified,
            // Whoever knocks without end does not fill the audit trail.
            Err(refusal @ Refusal::Throttled(_)) => return Err(TokenError::Refused(refusal)),
            Err(refusal) => return Err(refused(None, refusal)),
        };
        let parent_id = identified.token_id.clone();
        let _changing = self.enrollment.changing.lock().await;
        // Not before: the token may have ended while others changed theirs.
        let now = SystemTime::now();
        let parent = self
            .enrollment
            .still(&identified, now)
            .and_then(|()| self.enrollment.exchanges(&parent_id, peer, &self.settings.load().gitea))
            .map_err(|refusal| refused(Some(parent_id.clone()), refusal))?;
        let draft = child(&parent, wish, now)?;
        policy::labels_allowed([&parent], &draft.policy.labels)
            .map_err(|refusal| refused(Some(parent_id.clone()), refusal))?;
        let unused = self.enrollment.unused_children(&parent_id);
        if unused >= MAX_UNUSED_CHILDREN {
            return Err(TokenError::TooMany(unused));
        }
        let by = By { actor: format!("token:{parent_id}"), peer: Some(peer) };
        self.issue(draft, Some(parent_id), &by).await
    }
}

/// What a child is to be: its parent's policy, as far as its holder wants no less.
fn child(parent: &Token, wish: Exchange, now: SystemTime) -> Result<Draft, TokenError> {
    let ttl = wish.ttl.unwrap_or(CHILD_TTL);
    if !CHILD_TTLS.contains(&ttl) {
        return Err(TokenError::Invalid(vec![(
            "ttl",
            "a token that was exchanged is for use within an hour at most: give a ttl of 1s to 1h"
                .into(),
        )]));
    }
    let ends = now + ttl;
    let parents = &parent.policy;
    let draft = Draft {
        kind: Kind::SingleUse,
        description: wish.description,
        policy: Policy {
            scope: parents.scope.clone(),
            labels: if wish.labels.is_empty() { parents.labels.clone() } else { wish.labels },
            name_pattern: wish.name_pattern.or_else(|| parents.name_pattern.clone()),
            ephemeral_only: wish.ephemeral_only || parents.ephemeral_only,
            max_uses: None,
            max_runners: None,
            expires_at: Some(parents.expires_at.map_or(ends, |end| end.min(ends))),
            allowed_cidrs: parents.allowed_cidrs.clone(),
        },
    };
    draft.check(now).map_err(TokenError::Invalid)?;
    Ok(draft)
}
