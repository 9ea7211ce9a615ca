//! What clients take up at the moment, and what they are told where that is too much.
//!
//! A place is held by a value and given back when that is dropped. Peers are counted by their address; the
//! table of them holds those alone that are connected, or have a request on its way, now.

use std::collections::HashMap;
use std::net::IpAddr;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use hyper::{HeaderMap, Response, StatusCode, Uri};

use super::body::ProxyBody;
use super::service::refuse;
use crate::broker::limiter::network;
use crate::config::Limits;
use crate::connect::{Code, ConnectError};
use crate::lifecycle::Live;

/// Of all requests, this part is kept for the runners' own calls.
const KEPT_FOR_RUNNERS: usize = 8;

/// What can be used up (`limits_hit_total{limit}`); but for the last, named as the setting.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Limit {
    /// Connections to the runners' listener.
    Connections,
    /// The same from one address.
    ConnectionsPerPeer,
    /// Requests that are being answered.
    Requests,
    /// The same from one address.
    RequestsPerPeer,
    /// The same with one runner's credentials.
    RequestsPerRunner,
    /// HTTP/2 requests that were called off.
    Resets,
    /// The number of a request's headers.
    Headers,
    /// Their size.
    HeaderBytes,
    /// A request's head did not come to its end.
    HeadTimeout,
    /// A request's body paused for too long.
    BodyTimeout,
    /// A client took nothing of its answer for too long.
    WriteTimeout,
    /// The size of a message that is read whole.
    MessageBytes,
    /// How much larger it became by decompression.
    MessageRatio,
    /// It did not come to its end.
    MessageTimeout,
    /// Registrations at once.
    Registrations,
    /// Connections to the admin listener or the socket.
    AdminConnections,
    /// The system's own, of open files.
    FileDescriptors,
}

impl Limit {
    /// All of them, so that metrics begin at zero.
    pub const ALL: [Self; 17] = [
        Self::Connections,
        Self::ConnectionsPerPeer,
        Self::Requests,
        Self::RequestsPerPeer,
        Self::RequestsPerRunner,
        Self::Resets,
        Self::Headers,
        Self::HeaderBytes,
        Self::HeadTimeout,
        Self::BodyTimeout,
        Self::WriteTimeout,
        Self::MessageBytes,
        Self::MessageRatio,
        Self::MessageTimeout,
        Self::Registrations,
        Self::AdminConnections,
        Self::FileDescriptors,
    ];

    /// The label's value.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Connections => "connections",
            Self::ConnectionsPerPeer => "connections_per_peer",
            Self::Requests => "requests",
            Self::RequestsPerPeer => "requests_per_peer",
            Self::RequestsPerRunner => "requests_per_runner",
            Self::Resets => "resets",
            Self::Headers => "headers",
            Self::HeaderBytes => "header_bytes",
            Self::HeadTimeout => "head_timeout",
            Self::BodyTimeout => "body_timeout",
            Self::WriteTimeout => "write_timeout",
            Self::MessageBytes => "message_bytes",
            Self::MessageRatio => "message_ratio",
            Self::MessageTimeout => "message_timeout",
            Self::Registrations => "registrations",
            Self::AdminConnections => "admin_connections",
            Self::FileDescriptors => "file_descriptors",
        }
    }

    /// The answer to who is over it.
    pub(super) fn refusal(self) -> Response<ProxyBody> {
        let busy = |what: &str| {
            let setting = self.as_str();
            format!("the broker {what} (its setting limits.{setting}): try again in a moment")
        };
        let (code, message) = match self {
            Self::Connections => (Code::Unavailable, busy("has as many connections as it takes")),
            Self::Requests => (Code::Unavailable, busy("answers as many requests as it takes")),
            Self::ConnectionsPerPeer => (
                Code::ResourceExhausted,
                busy("has as many connections from this address as it takes"),
            ),
            Self::RequestsPerPeer => (
                Code::ResourceExhausted,
                busy("answers as many requests from this address as it takes"),
            ),
            Self::RequestsPerRunner => (
                Code::ResourceExhausted,
                busy("answers as many requests of this runner as it takes"),
            ),
            _ => (
                Code::ResourceExhausted,
                format!("the request is over the broker's setting limits.{}", self.as_str()),
            ),
        };
        let error = ConnectError::new(code, message);
        refuse(match self {
            Self::Headers | Self::HeaderBytes => {
                error.with_status(StatusCode::REQUEST_HEADER_FIELDS_TOO_LARGE)
            }
            _ => error,
        })
    }
}

/// Whether a request's head is within the limits.
pub(super) fn check_head(uri: &Uri, headers: &HeaderMap, limits: &Limits) -> Result<(), Limit> {
    // The lines' separators and ends.
    const EACH: usize = 4;
    if headers.len() > limits.headers {
        return Err(Limit::Headers);
    }
    let target = uri.path_and_query().map_or(0, |target| target.as_str().len());
    let lines = headers.iter().map(|(name, value)| name.as_str().len() + value.len() + EACH);
    if target + lines.sum::<usize>() > limits.header_bytes {
        return Err(Limit::HeaderBytes);
    }
    Ok(())
}

/// Who takes up what at the moment.
#[derive(Default)]
pub(super) struct Places {
    connections: AtomicUsize,
    requests: AtomicUsize,
    peers: Mutex<HashMap<IpAddr, Known>>,
}

struct Known {
    counts: Arc<Counts>,
    /// How many values stand for this peer.
    values: usize,
}

#[derive(Default)]
struct Counts {
    connections: AtomicUsize,
    requests: AtomicUsize,
}

/// One address with all that it takes up; dropped, it is told from others no longer.
pub(super) struct Peer {
    places: Arc<Places>,
    key: IpAddr,
    counts: Arc<Counts>,
}

/// The place of a connection.
pub(super) struct ConnectionPlace {
    pub(super) peer: Arc<Peer>,
    counted: bool,
}

/// The place of a request, until its answer has been handed over.
pub struct RequestPlace {
    peer: Arc<Peer>,
    live: Option<Arc<Live>>,
    /// It was given back already.
    left: bool,
}

impl Places {
    /// A connection from `address` wants a place. That of a trusted proxy stands for many peers: of its own it
    /// has no limit.
    pub(super) fn connect(
        self: &Arc<Self>,
        address: IpAddr,
        is_proxy: bool,
        limits: &Limits,
    ) -> Result<ConnectionPlace, Limit> {
        let peer = self.peer(address);
        if !take(
            &peer.counts.connections,
            if is_proxy { usize::MAX } else { limits.connections_per_peer },
        ) {
            return Err(Limit::ConnectionsPerPeer);
        }
        if !take(&self.connections, limits.connections) {
            give_back(&peer.counts.connections);
            return Err(Limit::Connections);
        }
        Ok(ConnectionPlace { peer, counted: true })
    }

    /// The place of a connection that is there only to be refused.
    pub(super) fn over(self: &Arc<Self>, address: IpAddr) -> ConnectionPlace {
        ConnectionPlace { peer: self.peer(address), counted: false }
    }

    /// Whoever has this address.
    pub(super) fn peer(self: &Arc<Self>, address: IpAddr) -> Arc<Peer> {
        let key = network(address);
        let mut peers = self.lock();
        let known = peers.entry(key).or_insert_with(|| Known { counts: Arc::default(), values: 0 });
        known.values += 1;
        let counts = Arc::clone(&known.counts);
        Arc::new(Peer { places: Arc::clone(self), key, counts })
    }

    /// A request of this peer wants a place.
    pub(super) fn request(
        &self,
        peer: Arc<Peer>,
        is_runners_call: bool,
        limits: &Limits,
    ) -> Result<RequestPlace, Limit> {
        let kept = if is_runners_call { 0 } else { limits.requests / KEPT_FOR_RUNNERS };
        if !take(&peer.counts.requests, limits.requests_per_peer) {
            return Err(Limit::RequestsPerPeer);
        }
        if !take(&self.requests, limits.requests - kept) {
            give_back(&peer.counts.requests);
            return Err(Limit::Requests);
        }
        Ok(RequestPlace { peer, live: None, left: false })
    }

    fn lock(&self) -> MutexGuard<'_, HashMap<IpAddr, Known>> {
        self.peers.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl RequestPlace {
    /// The request is this runner's.
    pub(super) fn is_of(&mut self, live: &Arc<Live>, limits: &Limits) -> Result<(), Limit> {
        if !take(&live.requests, limits.requests_per_runner) {
            return Err(Limit::RequestsPerRunner);
        }
        self.live = Some(Arc::clone(live));
        Ok(())
    }

    /// The request waits where another limit bounds how many do: others may have its place.
    pub(super) fn leave(&mut self) {
        if let Some(live) = self.live.take() {
            give_back(&live.requests);
        }
        if !std::mem::replace(&mut self.left, true) {
            give_back(&self.peer.counts.requests);
            give_back(&self.peer.places.requests);
        }
    }
}

impl Drop for RequestPlace {
    fn drop(&mut self) {
        self.leave();
    }
}

impl Drop for ConnectionPlace {
    fn drop(&mut self) {
        if self.counted {
            give_back(&self.peer.counts.connections);
            give_back(&self.peer.places.connections);
        }
    }
}

impl Drop for Peer {
    fn drop(&mut self) {
        let mut peers = self.places.lock();
        if let Some(known) = peers.get_mut(&self.key) {
            known.values -= 1;
            if known.values == 0 {
                peers.remove(&self.key);
            }
        }
    }
}

fn take(taken: &AtomicUsize, limit: usize) -> bool {
    let fits = taken.fetch_add(1, Ordering::Relaxed) < limit;
    if !fits {
        give_back(taken);
    }
    fits
}

fn give_back(taken: &AtomicUsize) {
    taken.fetch_sub(1, Ordering::Relaxed);
}

#[cfg(test)]
mod tests {
    use super::*;

    const HERE: IpAddr = IpAddr::V4(std::net::Ipv4Addr::LOCALHOST);
    const THERE: IpAddr = IpAddr::V4(std::net::Ipv4Addr::new(192, 0, 2, 1));

    fn limits() -> Limits {
        Limits {
            connections: 3,
            connections_per_peer: 2,
            requests: 8,
            requests_per_peer: 5,
            ..Limits::default()
        }
    }

    #[test]
    fn connections_have_places_as_set_and_give_them_back() {
        let (places, limits) = (Arc::new(Places::default()), limits());
        let connect = |peer| places.connect(peer, false, &limits);
        let first = connect(HERE).ok().unwrap();
        let _second = connect(HERE).ok().unwrap();
        assert_eq!(connect(HERE).err(), Some(Limit::ConnectionsPerPeer));
        let _third = connect(THERE).ok().unwrap();
        assert_eq!(connect(THERE).err(), Some(Limit::Connections));
        drop(first);
        let again = connect(HERE).ok().unwrap();
        drop(again);
        let _proxy = places.connect(HERE, true, &limits).ok().unwrap();
    }

    #[test]
    fn jobs_leave_room_for_the_calls_of_runners() {
        let (places, limits) = (Arc::new(Places::default()), limits());
        let request = |peer, runners| places.request(places.peer(peer), runners, &limits);
        let here: Vec<_> = (0..5).map(|_| request(HERE, false).ok().unwrap()).collect();
        assert_eq!(request(HERE, true).err(), Some(Limit::RequestsPerPeer));
        let _there: Vec<_> = (0..2).map(|_| request(THERE, false).ok().unwrap()).collect();
        assert_eq!(request(THERE, false).err(), Some(Limit::Requests));
        let _runners = request(THERE, true).ok().unwrap();
        assert_eq!(request(THERE, true).err(), Some(Limit::Requests));
        drop(here);
        let _job = request(HERE, false).ok().unwrap();
    }

    #[test]
    fn the_table_of_peers_holds_only_who_is_there() {
        let (places, limits) = (Arc::new(Places::default()), limits());
        let one = places.connect(HERE, false, &limits).ok().unwrap();
        let two = places.connect(HERE, false, &limits).ok().unwrap();
        let request = places.request(Arc::clone(&two.peer), false, &limits).ok().unwrap();
        drop((one, two));
        assert_eq!(places.lock().len(), 1);
        drop(request);
        assert!(places.lock().is_empty());
        assert!(places.connect(THERE, false, &Limits { connections: 0, ..limits }).is_err());
        assert!(places.lock().is_empty());
    }

    #[test]
    fn heads_are_measured() {
        let uri = Uri::from_static("/target");
        let mut headers = HeaderMap::new();
        headers.insert("name", "value".parse().unwrap());
        let with = |headers, header_bytes| Limits { headers, header_bytes, ..Limits::default() };
        assert_eq!(check_head(&uri, &headers, &with(1, 20)), Ok(()));
        assert_eq!(check_head(&uri, &headers, &with(1, 19)), Err(Limit::HeaderBytes));
        headers.append("name", "value".parse().unwrap());
        assert_eq!(check_head(&uri, &headers, &with(1, 100)), Err(Limit::Headers));
    }
}
