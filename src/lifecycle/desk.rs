//! Who waits for which registration.
//!
//! A registration runs to its end even where its runner hangs up; who then asks again with the same key
//! gets that result. Who is still waiting, or is known to have its answer, shares it with nobody.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Instant;

use bytes::Bytes;
use hyper::HeaderMap;
use tokio::sync::Notify;

use super::live::Live;
use crate::broker::claims::Claims;
use crate::broker::{Key, RecordId};
use crate::connect::{Code, ConnectError};

/// What goes back to the runner.
#[derive(Clone)]
pub struct Answer {
    /// Gitea's headers, where this is Gitea's answer and not a repeated one.
    pub headers: HeaderMap,
    /// Gitea's answer without the intent label.
    pub body: Bytes,
}

/// A registration that came to a good end.
pub struct Landed {
    /// What goes back.
    pub answer: Answer,
    /// The new runner.
    pub live: Arc<Live>,
    /// When Gitea had answered.
    pub registered: Instant,
}

/// The registrations that run, and the results that wait for their runner.
#[derive(Default)]
pub struct Desk {
    inner: Mutex<Inner>,
}

#[derive(Default)]
struct Inner {
    claims: Claims,
    flights: HashMap<u64, Flight>,
    next: u64,
}

struct Flight {
    key: Key,
    /// Its runner hung up.
    abandoned: bool,
    landed: Arc<Notify>,
    result: Option<Result<Landed, ConnectError>>,
}

/// What a Register finds at the desk.
pub enum Entry {
    /// A result waits for it, registered then.
    Repeat(RecordId, Instant),
    /// The registration that it asked for before still runs.
    Wait(Waiter),
    /// It is a new one, and the caller runs it.
    New(Waiter, Landing),
    /// Too many run.
    Full,
}

impl Desk {
    /// A Register comes in; so many may run and wait.
    pub fn enter(self: &Arc<Self>, key: &Key, most: usize) -> Entry {
        let mut inner = self.lock();
        if let Some((record, registered)) = inner.claims.take(key, Instant::now()) {
            return Entry::Repeat(record, registered);
        }
        let waiting = inner.flights.iter_mut().find(|(_, f)| f.abandoned && f.key == *key);
        if let Some((&id, flight)) = waiting {
            flight.abandoned = false;
            let landed = Arc::clone(&flight.landed);
            return Entry::Wait(Waiter { desk: Arc::clone(self), id, landed, done: false });
        }
        if inner.flights.len() >= most {
            return Entry::Full;
        }
        let id = inner.next;
        inner.next += 1;
        let landed = Arc::new(Notify::new());
        let flight = Flight {
            key: key.clone(),
            abandoned: false,
            landed: Arc::clone(&landed),
            result: None,
        };
        inner.flights.insert(id, flight);
        Entry::New(
            Waiter { desk: Arc::clone(self), id, landed, done: false },
            Landing { desk: Arc::clone(self), id, done: false },
        )
    }

    fn land(&self, id: u64, result: Result<Landed, ConnectError>) {
        let mut inner = self.lock();
        let Some(flight) = inner.flights.get_mut(&id) else { return };
        if flight.abandoned {
            let key = flight.key.clone();
            inner.flights.remove(&id);
            if let Ok(Landed { live, registered, .. }) = result {
                inner.keep(key, &live, registered);
            }
        } else {
            flight.result = Some(result);
            flight.landed.notify_one();
        }
    }

    /// How many registrations still run.
    pub fn flights(&self) -> usize {
        self.lock().flights.values().filter(|flight| flight.result.is_none()).count()
    }

    /// A result from before a restart waits for its runner.
    pub fn keep(&self, key: Key, record: RecordId, registered: Instant) {
        self.lock().claims.keep(key, record, registered, Instant::now());
    }

    /// The runner spoke, or is gone: nobody else may have its result.
    pub fn forget(&self, record: RecordId) {
        self.lock().claims.forget(record);
    }

    fn lock(&self) -> MutexGuard<'_, Inner> {
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Inner {
    /// The desk stays locked over the look at the runner: its first call comes wholly before that, or
    /// takes the kept result away again. It may have found its credentials in its file.
    fn keep(&mut self, key: Key, live: &Live, registered: Instant) {
        if !live.spoke() {
            self.claims.keep(key, live.record_id, registered, Instant::now());
        }
    }
}

/// What a registration must be ended with. Dropped before, it was torn off, and its runner is told.
pub struct Landing {
    desk: Arc<Desk>,
    id: u64,
    done: bool,
}

impl Landing {
    /// The registration has come to its end.
    pub fn with(mut self, result: Result<Landed, ConnectError>) {
        self.done = true;
        self.desk.land(self.id, result);
    }
}

impl Drop for Landing {
    fn drop(&mut self) {
        if !self.done {
            let text = "the broker lost track of this registration; its log tells why: try again";
            self.desk.land(self.id, Err(ConnectError::new(Code::Unavailable, text)));
        }
    }
}

/// One that waits for a registration. Dropped before the end, it has hung up.
pub struct Waiter {
    desk: Arc<Desk>,
    id: u64,
    landed: Arc<Notify>,
    done: bool,
}

impl Waiter {
    /// The result, with what tells whether it reached its runner.
    ///
    /// # Errors
    /// What the registration failed with.
    pub async fn result(mut self) -> Result<(Answer, Delivery), ConnectError> {
        loop {
            // A bound is not needed here: the registration that lands has one for each of its steps.
            self.landed.notified().await;
            let mut inner = self.desk.lock();
            let ready = inner.flights.get(&self.id).is_some_and(|f| f.result.is_some());
            if !ready {
                continue;
            }
            self.done = true;
            let flight = inner.flights.remove(&self.id);
            drop(inner);
            let Some(Flight { key, result: Some(result), .. }) = flight else { continue };
            let Landed { answer, live, registered } = result?;
            let delivery = Delivery::new(Arc::clone(&self.desk), key, live, registered);
            return Ok((answer, delivery));
        }
    }
}

impl Drop for Waiter {
    fn drop(&mut self) {
        if self.done {
            return;
        }
        let mut inner = self.desk.lock();
        match inner.flights.get_mut(&self.id) {
            Some(flight) if flight.result.is_none() => flight.abandoned = true,
            Some(_) => {
                if let Some(Flight { key, result: Some(Ok(landed)), .. }) =
                    inner.flights.remove(&self.id)
                {
                    inner.keep(key, &landed.live, landed.registered);
                }
            }
            None => {}
        }
    }
}

/// An answer on its way to its runner. Dropped before [`Delivery::arrived`], it was lost, and waits for
/// the runner to ask again.
pub struct Delivery {
    desk: Arc<Desk>,
    key: Option<Key>,
    live: Arc<Live>,
    registered: Instant,
}

impl Delivery {
    /// The answer of `live` is about to be sent to the one who asked with `key`.
    pub fn new(desk: Arc<Desk>, key: Key, live: Arc<Live>, registered: Instant) -> Self {
        Self { desk, key: Some(key), live, registered }
    }

    /// Whether the runner made its first call before this answer went out.
    pub fn is_late(&self) -> bool {
        self.live.spoke()
    }

    /// The runner has its answer.
    pub fn arrived(mut self) {
        self.key = None;
        self.live.delivered();
    }
}

impl Drop for Delivery {
    fn drop(&mut self) {
        if let Some(key) = self.key.take() {
            self.desk.lock().keep(key, &self.live, self.registered);
        }
    }
}
