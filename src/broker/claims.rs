//! Results of registrations whose runner did not get them, kept for when it asks again.

use std::collections::HashMap;
use std::time::{Duration, Instant};

use super::{Key, RecordId};

/// How long a result waits.
pub const CLAIM_TIMEOUT: Duration = Duration::from_secs(10 * 60);

/// The results that wait. A result is put here only where its runner is known not to have got it: two
/// runners of one name, one after the other, must never be taken for one that asks twice.
#[derive(Debug, Default)]
pub struct Claims {
    waiting: HashMap<Key, Vec<Claim>>,
}

#[derive(Debug)]
struct Claim {
    record: RecordId,
    registered: Instant,
}

impl Claims {
    /// Keeps a result that was registered at `registered`.
    pub fn keep(&mut self, key: Key, record: RecordId, registered: Instant, now: Instant) {
        self.sweep(now);
        if registered + CLAIM_TIMEOUT > now {
            self.waiting.entry(key).or_default().push(Claim { record, registered });
        }
    }

    /// Hands a waiting result to the one who asks with the same key, once. Tells when it was registered.
    pub fn take(&mut self, key: &Key, now: Instant) -> Option<(RecordId, Instant)> {
        self.sweep(now);
        let claims = self.waiting.get_mut(key)?;
        let claim = claims.pop()?;
        if claims.is_empty() {
            self.waiting.remove(key);
        }
        Some((claim.record, claim.registered))
    }

    /// Its runner spoke, or it was deregistered: nobody else may have it.
    pub fn forget(&mut self, record: RecordId) {
        self.retain(|claim| claim.record != record);
    }

    fn sweep(&mut self, now: Instant) {
        self.retain(|claim| claim.registered + CLAIM_TIMEOUT > now);
    }

    fn retain(&mut self, keep: impl Fn(&Claim) -> bool) {
        self.waiting.retain(|_, claims| {
            claims.retain(&keep);
            !claims.is_empty()
        });
    }
}

#[cfg(test)]
mod tests {
    use std::net::Ipv4Addr;

    use super::*;
    use crate::connect::Codec;

    fn key(name: &str) -> Key {
        Key {
            parent_id: "settings".into(),
            name: name.into(),
            labels: vec!["host".into()],
            ephemeral: false,
            peer: Ipv4Addr::LOCALHOST.into(),
            codec: Codec::Proto,
        }
    }

    #[test]
    fn a_claim_is_taken_once_and_by_its_own_key() {
        let now = Instant::now();
        let mut claims = Claims::default();
        claims.keep(key("a"), RecordId(1), now, now);
        assert_eq!(claims.take(&key("b"), now), None);
        let other_peer = Key { peer: Ipv4Addr::new(127, 0, 0, 2).into(), ..key("a") };
        assert_eq!(claims.take(&other_peer, now), None);
        assert_eq!(claims.take(&key("a"), now), Some((RecordId(1), now)));
        assert_eq!(claims.take(&key("a"), now), None);
    }

    #[test]
    fn a_claim_ends_after_ten_minutes_and_with_the_first_call() {
        let now = Instant::now();
        let mut claims = Claims::default();
        claims.keep(key("a"), RecordId(1), now, now);
        claims.keep(key("a"), RecordId(2), now, now);
        claims.forget(RecordId(2));
        assert_eq!(claims.take(&key("a"), now), Some((RecordId(1), now)));
        claims.keep(key("a"), RecordId(1), now, now);
        assert_eq!(claims.take(&key("a"), now + CLAIM_TIMEOUT), None);
        claims.keep(key("a"), RecordId(1), now, now + CLAIM_TIMEOUT);
        assert_eq!(
            claims.take(&key("a"), now + CLAIM_TIMEOUT),
            None,
            "counted from its registration"
        );
    }
}
