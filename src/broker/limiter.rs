//! Slows down who guesses secrets: a bounded count of failures for each peer.
//!
//! Only failures are counted, and a peer that is over its limit is refused before its secret is looked
//! at. That needs a look that takes nothing from the limit, which the usual rate limiters do not have:
//! with them, each right secret would count as well.

use std::collections::HashMap;
use std::net::{IpAddr, Ipv6Addr};
use std::time::{Duration, Instant};

/// How many failures a peer has at once, before it is slowed down.
const BURST: u32 = 30;
/// Then it has one more in this time.
const INTERVAL: Duration = Duration::from_secs(1);
/// So many peers are told apart.
const CAPACITY: usize = 4096;

/// Failures of each peer. A peer is an IPv4 address or a /64 of IPv6, of which one machine may have all.
///
/// When more peers than `capacity` have failed of late, all others count as one: memory is bounded, and
/// who has many addresses can push nobody out.
#[derive(Debug)]
pub struct Limiter {
    /// What a peer may use up at once, as the time in which it comes back.
    tolerance: Duration,
    interval: Duration,
    capacity: usize,
    /// When each peer has all of its failures again.
    peers: HashMap<IpAddr, Instant>,
    /// The same for all that have no place.
    strangers: Option<Instant>,
}

impl Default for Limiter {
    /// For people and programs that mistype: 30 failures at once, then one each second.
    fn default() -> Self {
        Self::new(BURST, INTERVAL, CAPACITY)
    }
}

impl Limiter {
    /// `burst` failures at once, then one more in each `interval`, for `capacity` peers.
    #[must_use]
    pub fn new(burst: u32, interval: Duration, capacity: usize) -> Self {
        Self {
            tolerance: interval * burst.saturating_sub(1),
            interval,
            capacity,
            peers: HashMap::new(),
            strangers: None,
        }
    }

    /// How long the peer is refused, whatever it shows; `None`: its secret may be looked at.
    #[must_use]
    pub fn blocked(&self, peer: IpAddr, now: Instant) -> Option<Duration> {
        let used_up = self.used_up(network(peer), now).saturating_sub(self.tolerance);
        (!used_up.is_zero()).then_some(used_up)
    }

    /// The peer showed a wrong secret. Not for one that is blocked: it would be so for longer.
    pub fn failed(&mut self, peer: IpAddr, now: Instant) {
        let peer = network(peer);
        let full_at = now + self.used_up(peer, now) + self.interval;
        if !self.peers.contains_key(&peer) && self.peers.len() >= self.capacity {
            self.peers.retain(|_, full_at| *full_at > now);
        }
        if self.peers.contains_key(&peer) || self.peers.len() < self.capacity {
            self.peers.insert(peer, full_at);
        } else {
            self.strangers = Some(full_at);
        }
    }

    /// The time until it has all again. One without a place has what all such peers have, also when it
    /// gets a place: there may be failures of its own among theirs.
    fn used_up(&self, peer: IpAddr, now: Instant) -> Duration {
        let full_at = self.peers.get(&peer).copied().or(self.strangers);
        full_at.map_or(Duration::ZERO, |full_at| full_at.saturating_duration_since(now))
    }
}

/// What counts as one peer: an IPv4 address, or a /64 of IPv6.
pub fn network(peer: IpAddr) -> IpAddr {
    match peer.to_canonical() {
        IpAddr::V6(v6) => Ipv6Addr::from_bits(v6.to_bits() >> 64 << 64).into(),
        v4 @ IpAddr::V4(_) => v4,
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const SECOND: Duration = Duration::from_secs(1);

    fn peer(text: &str) -> IpAddr {
        text.parse().unwrap()
    }

    /// Failures in a row that are let through.
    fn let_through(limiter: &mut Limiter, from: IpAddr, now: Instant) -> u32 {
        let mut count = 0;
        while limiter.blocked(from, now).is_none() {
            limiter.failed(from, now);
            count += 1;
        }
        count
    }

    #[test]
    fn a_burst_passes_and_then_one_for_each_interval() {
        let (mut limiter, now) = (Limiter::new(3, SECOND, 8), Instant::now());
        let from = peer("192.0.2.1");
        assert_eq!(let_through(&mut limiter, from, now), 3);
        assert_eq!(limiter.blocked(from, now), Some(SECOND));
        assert_eq!(limiter.blocked(from, now + SECOND / 4), Some(SECOND * 3 / 4));
        assert_eq!(let_through(&mut limiter, from, now + SECOND), 1);
        assert_eq!(let_through(&mut limiter, from, now + SECOND * 60), 3);
        assert_eq!(limiter.blocked(peer("192.0.2.2"), now), None, "another is not concerned");
    }

    #[test]
    fn a_look_takes_nothing() {
        let (limiter, now) = (Limiter::new(1, SECOND, 8), Instant::now());
        for _ in 0..100 {
            assert_eq!(limiter.blocked(peer("192.0.2.1"), now), None);
        }
    }

    #[test]
    fn one_machine_is_one_peer() {
        let (mut limiter, now) = (Limiter::new(1, SECOND, 8), Instant::now());
        limiter.failed(peer("2001:db8:0:1::1"), now);
        assert!(limiter.blocked(peer("2001:db8:0:1:ffff::9"), now).is_some());
        assert!(limiter.blocked(peer("2001:db8:0:2::1"), now).is_none());
        limiter.failed(peer("::ffff:192.0.2.1"), now);
        assert!(limiter.blocked(peer("192.0.2.1"), now).is_some());
        assert!(limiter.blocked(peer("192.0.2.2"), now).is_none());
    }

    #[test]
    fn a_flood_pushes_nobody_out_and_strangers_share() {
        let (mut limiter, now) = (Limiter::new(2, SECOND, 1), Instant::now());
        let (known, one, two) = (peer("192.0.2.1"), peer("192.0.2.2"), peer("192.0.2.3"));
        limiter.failed(known, now);
        limiter.failed(one, now);
        limiter.failed(two, now);
        assert!(limiter.blocked(one, now).is_some() && limiter.blocked(two, now).is_some());
        assert!(limiter.blocked(known, now).is_none(), "it has one left");
        assert_eq!(let_through(&mut limiter, known, now), 1);
        // When the flood is over, the places are free again.
        let later = now + SECOND * 10;
        assert_eq!(let_through(&mut limiter, one, later), 2);
        assert!(limiter.peers.contains_key(&one) && limiter.peers.len() == 1);
    }

    proptest! {
        #[test]
        fn neither_memory_nor_guesses_go_beyond_the_bound(
            burst in 1_u32..5,
            capacity in 0_usize..4,
            steps in prop::collection::vec((0_u8..8, 0_u64..1500), 1..200),
        ) {
            let begin = Instant::now();
            let mut now = begin;
            let mut limiter = Limiter::new(burst, SECOND, capacity);
            let mut passed = [0_u64; 8];
            for (host, wait) in steps {
                now += Duration::from_millis(wait);
                let from = IpAddr::from([192, 0, 2, host]);
                if limiter.blocked(from, now).is_none() {
                    limiter.failed(from, now);
                    passed[usize::from(host)] += 1;
                }
                let bound = u64::from(burst) + (now - begin).as_secs();
                prop_assert!(passed.iter().all(|count| *count <= bound), "{passed:?} {bound}");
                prop_assert!(limiter.peers.len() <= capacity);
            }
        }
    }
}
