//! One connection of a client: which runners spoke on it, and which answer is still on its way.

use std::net::SocketAddr;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Instant;

use hyper::HeaderMap;

use crate::lifecycle::{Delivery, Lifecycle, Live};

/// What is known of one open connection.
pub struct Connection {
    /// The other end.
    pub peer: SocketAddr,
    lifecycle: Arc<Lifecycle>,
    inner: Mutex<Inner>,
}

#[derive(Default)]
struct Inner {
    /// The runners that spoke on it: nearly always one.
    runners: Vec<Arc<Live>>,
    deliveries: Vec<Delivery>,
}

impl Connection {
    /// A connection was accepted.
    #[must_use]
    pub fn new(peer: SocketAddr, lifecycle: Arc<Lifecycle>) -> Self {
        Self { peer, lifecycle, inner: Mutex::default() }
    }

    /// A request's head is here: whatever was sent before has arrived. Returns the runner whose
    /// credentials the request shows, where the broker knows it.
    pub fn heard(&self, headers: &HeaderMap) -> Option<Arc<Live>> {
        let mut inner = self.lock();
        for delivery in inner.deliveries.drain(..) {
            self.lifecycle.delivered(delivery);
        }
        let uuid = headers.get("x-runner-uuid")?.to_str().ok()?;
        let token = headers.get("x-runner-token")?.as_bytes();
        let known = inner
            .runners
            .iter()
            .find(|live| live.presented.uuid == uuid && live.presented.token_is(token));
        let live = match known {
            Some(live) => Arc::clone(live),
            None => {
                let live = self.lifecycle.roster.authenticate(uuid, token)?;
                live.note(crate::broker::Activity::connected);
                inner.runners.push(Arc::clone(&live));
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
        let Inner { runners, deliveries } = std::mem::take(&mut *self.lock());
        for delivery in deliveries {
            if cleanly {
                self.lifecycle.delivered(delivery);
            }
        }
        let now = Instant::now();
        for live in &runners {
            live.note(|activity| activity.disconnected(now));
        }
        if !runners.is_empty() {
            self.lifecycle.has_moved();
        }
    }

    fn lock(&self) -> MutexGuard<'_, Inner> {
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
