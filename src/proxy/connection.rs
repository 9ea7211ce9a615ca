//! One connection of a client: which runners spoke on it, and which answer is still on its way.

use std::net::SocketAddr;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Instant;

use hyper::body::Incoming;
use hyper::header::CONNECTION;
use hyper::{Request, Version};

use super::limits::{ConnectionPlace, Limit};
use crate::connect::{RUNNER_TOKEN, RUNNER_UUID};
use crate::lifecycle::{Delivery, Lifecycle, Live};

/// What is known of one open connection.
pub struct Connection {
    /// The other end.
    pub peer: SocketAddr,
    /// What it is over, where it is there only to be told so.
    pub over: Option<Limit>,
    /// Whether it is a trusted proxy's, which stands for many peers.
    pub(super) is_proxy: bool,
    pub(super) place: ConnectionPlace,
    lifecycle: Arc<Lifecycle>,
    inner: Mutex<Inner>,
}

#[derive(Default)]
struct Inner {
    /// The runners that spoke on it, by their records: nearly always one, but a proxy's carries many.
    runners: Vec<Arc<Live>>,
    /// Which of them spoke last.
    last: usize,
    /// Its client had it for the last request only.
    was_for_one: bool,
    deliveries: Vec<Delivery>,
    closed: bool,
}

impl Connection {
    pub(super) fn new(
        peer: SocketAddr,
        is_proxy: bool,
        place: Result<ConnectionPlace, (Limit, ConnectionPlace)>,
        lifecycle: Arc<Lifecycle>,
    ) -> Self {
        let (over, place) = match place {
            Ok(place) => (None, place),
            Err((limit, place)) => (Some(limit), place),
        };
        Self { peer, over, is_proxy, place, lifecycle, inner: Mutex::default() }
    }

    /// A request's head is here: in HTTP/1, whatever was sent before has arrived. Returns the runner whose
    /// credentials the request shows, where the broker knows it.
    pub fn heard(&self, request: &Request<Incoming>) -> Option<Arc<Live>> {
        let headers = request.headers();
        let mut inner = self.lock();
        inner.was_for_one = is_for_one(request);
        // In HTTP/2, it may have been on its way together with the answer.
        if request.version() != Version::HTTP_2 {
            for delivery in inner.deliveries.drain(..) {
                self.lifecycle.delivered(delivery);
            }
        }
        let uuid = headers.get(RUNNER_UUID)?.to_str().ok()?;
        let token = headers.get(RUNNER_TOKEN)?.as_bytes();
        // One whose record has ended for good may be another record's by now.
        let last = inner.runners.get(inner.last).filter(|live| {
            live.presented.uuid == uuid && live.presented.token_is(token) && !live.is_over()
        });
        let live = match last {
            Some(live) => Arc::clone(live),
            None => {
                let live = self.lifecycle.roster.authenticate(uuid, token)?;
                // A stream of HTTP/2 is looked at in a task of its own, perhaps after the connection's end.
                if !inner.closed {
                    let id = live.record_id;
                    let place = inner.runners.binary_search_by_key(&id, |one| one.record_id);
                    inner.last = place.unwrap_or_else(|place| {
                        live.note(crate::broker::Activity::connected);
                        inner.runners.insert(place, Arc::clone(&live));
                        place
                    });
                }
                live
            }
        };
        drop(inner);
        self.lifecycle.heard_from(&live);
        Some(live)
    }

    /// An answer with new credentials is about to be sent.
    pub fn delivers(&self, delivery: Delivery) {
        self.lock().deliveries.push(delivery);
    }

    /// The connection has closed; `cleanly`: all that was sent was taken.
    pub fn closed(&self, cleanly: bool) {
        let ended = Inner { closed: true, ..Inner::default() };
        let Inner { runners, was_for_one, deliveries, .. } =
            std::mem::replace(&mut *self.lock(), ended);
        for delivery in deliveries {
            if cleanly {
                self.lifecycle.delivered(delivery);
            }
        }
        let now = Instant::now();
        for live in &runners {
            live.note(|activity| activity.disconnected(!was_for_one, now));
        }
        if !runners.is_empty() {
            self.lifecycle.has_moved();
        }
    }

    fn lock(&self) -> MutexGuard<'_, Inner> {
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn is_for_one(request: &Request<Incoming>) -> bool {
    let says = |word: &str| {
        let values = request.headers().get_all(CONNECTION).iter();
        let mut words = values.filter_map(|value| value.to_str().ok()).flat_map(|v| v.split(','));
        words.any(|said| said.trim().eq_ignore_ascii_case(word))
    };
    says("close") || (request.version() == Version::HTTP_10 && !says("keep-alive"))
}
