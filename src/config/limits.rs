//! `[limits]`: how much of the broker clients may take up.

use std::ops::RangeInclusive;
use std::time::Duration;

use super::reader::Reader;
use super::value::Setting;

/// `[limits]`. Counts are of what is there at one time, sizes are in bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Limits {
    /// Connections to the runners' listener.
    pub connections: usize,
    /// The same from one address.
    pub connections_per_peer: usize,
    /// Requests of runners and jobs that are being answered.
    pub requests: usize,
    /// The same from one address.
    pub requests_per_peer: usize,
    /// The same with one runner's credentials.
    pub requests_per_runner: usize,
    /// HTTP/2 requests on one connection.
    pub streams: usize,
    /// HTTP/2 requests that are called off before they were looked at; with more its connection ends.
    pub resets: usize,
    /// Headers of one request.
    pub headers: usize,
    /// The size of them all together, with the request's target.
    pub header_bytes: usize,
    /// From the first byte of a request's head to its last.
    pub head_timeout: Duration,
    /// How long a connection without a request is kept.
    pub idle_timeout: Duration,
    /// How long a request's body may pause.
    pub body_timeout: Duration,
    /// How long a client may take nothing of its answer.
    pub write_timeout: Duration,
    /// The size of Register, Declare and Deregister, also after decompression.
    pub message_bytes: usize,
    /// How many times its size one of them may be after decompression.
    pub message_ratio: usize,
    /// How long one of them may take to come in.
    pub message_timeout: Duration,
    /// Registrations that run or wait for their turn with Gitea.
    pub registrations: usize,
    /// Connections to the admin listener, and as many to the socket.
    pub admin_connections: usize,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            connections: 16_384,
            connections_per_peer: 4096,
            requests: 4096,
            requests_per_peer: 1024,
            requests_per_runner: 64,
            streams: 128,
            resets: 20,
            headers: 80,
            header_bytes: 64 << 10,
            head_timeout: Duration::from_secs(30),
            idle_timeout: Duration::from_secs(120),
            body_timeout: Duration::from_secs(120),
            write_timeout: Duration::from_secs(120),
            message_bytes: 64 << 10,
            message_ratio: 100,
            message_timeout: Duration::from_secs(30),
            registrations: 1024,
            admin_connections: 128,
        }
    }
}

/// A live runner keeps an idle connection for 90 s, and takes one that is closed under a call for a failure.
const RUNNER_KEEPS: Duration = Duration::from_secs(95);
/// Descriptors that are kept for everything but clients: metrics and the commands, the store, runner files.
const RESERVE: usize = 384;

impl Limits {
    /// As many connections and requests as so many file descriptors allow: a request may need one to Gitea.
    #[must_use]
    pub fn within_descriptors(self, descriptors: u64) -> Self {
        let descriptors = usize::try_from(descriptors).unwrap_or(usize::MAX);
        let reserve = RESERVE.min(descriptors / 3);
        let rest = descriptors - reserve;
        let requests = self.requests.min(rest / 3).max(1);
        let connections = self.connections.min(rest - rest / 3).max(1);
        // Of what is fewer than set, one peer alone never has all.
        let of_peer = |set: usize, all: usize, set_all: usize| {
            if all < set_all { set.min((all * 3 / 4).max(1)) } else { set }
        };
        Self {
            connections,
            connections_per_peer: of_peer(self.connections_per_peer, connections, self.connections),
            requests,
            requests_per_peer: of_peer(self.requests_per_peer, requests, self.requests),
            admin_connections: self.admin_connections.min((reserve / 3).max(1)),
            ..self
        }
    }
}

/// A whole number of things.
#[derive(Clone, Copy, PartialEq, PartialOrd)]
struct Count(usize);

impl Setting for Count {
    const INTEGER: bool = true;

    fn parse(text: &str) -> Result<Self, String> {
        text.parse()
            .map(Self)
            .map_err(|_| format!("{text:?} is no whole number: give one, for example 1024"))
    }

    fn show(&self) -> String {
        self.0.to_string()
    }
}

const MANY: usize = 1_000_000;

pub(super) fn limits(reader: &mut Reader) -> Limits {
    let d = Limits::default();
    let limits = Limits {
        connections: count(reader, "connections", d.connections, 1..=MANY),
        connections_per_peer: count(
            reader,
            "connections_per_peer",
            d.connections_per_peer,
            1..=MANY,
        ),
        requests: count(reader, "requests", d.requests, 8..=MANY),
        requests_per_peer: count(reader, "requests_per_peer", d.requests_per_peer, 1..=MANY),
        // A runner polls while it reports.
        requests_per_runner: count(reader, "requests_per_runner", d.requests_per_runner, 2..=MANY),
        streams: count(reader, "streams", d.streams, 1..=10_000),
        resets: count(reader, "resets", d.resets, 1..=10_000),
        headers: count(reader, "headers", d.headers, 16..=1000),
        header_bytes: count(reader, "header_bytes", d.header_bytes, 4096..=1 << 20),
        head_timeout: time(reader, "head_timeout", d.head_timeout),
        idle_timeout: time(reader, "idle_timeout", d.idle_timeout),
        body_timeout: time(reader, "body_timeout", d.body_timeout),
        write_timeout: time(reader, "write_timeout", d.write_timeout),
        message_bytes: count(reader, "message_bytes", d.message_bytes, 1024..=16 << 20),
        // Beyond the last one nothing can be compressed by gzip.
        message_ratio: count(reader, "message_ratio", d.message_ratio, 2..=1032),
        message_timeout: time(reader, "message_timeout", d.message_timeout),
        registrations: count(reader, "registrations", d.registrations, 1..=100_000),
        admin_connections: count(reader, "admin_connections", d.admin_connections, 4..=10_000),
    };
    if limits.idle_timeout < RUNNER_KEEPS {
        reader.warn(
            "limits.idle_timeout",
            "a runner keeps its idle connection for 90 s: one that the broker closes just as the runner calls \
             costs it that call; set 95s or more",
        );
    }
    limits
}

fn count(reader: &mut Reader, name: &str, default: usize, range: RangeInclusive<usize>) -> usize {
    let range = Count(*range.start())..=Count(*range.end());
    reader.within(&format!("limits.{name}"), Count(default), range).0
}

fn time(reader: &mut Reader, name: &str, default: Duration) -> Duration {
    let range = Duration::from_secs(1)..=Duration::from_secs(60 * 60);
    reader.within(&format!("limits.{name}"), default, range)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn with_many_descriptors_the_settings_hold() {
        let limits = Limits::default();
        assert_eq!(limits.within_descriptors(1 << 20), limits);
        assert_eq!(limits.within_descriptors(u64::MAX), limits);
    }

    #[test]
    fn with_few_descriptors_all_find_room_and_some_are_left() {
        for descriptors in 16..5000 {
            let limits = Limits::default().within_descriptors(descriptors);
            let taken = limits.connections + limits.requests + 2 * limits.admin_connections;
            assert!(taken as u64 <= descriptors, "{descriptors}: {limits:?}");
            assert!(limits.connections_per_peer < limits.connections, "{descriptors}");
            assert!(limits.requests_per_peer <= limits.requests, "{descriptors}");
        }
        // The soft limit of many systems.
        assert_eq!(Limits::default().within_descriptors(1024).connections, 456);
    }
}
