//! Every request that arrived.

use std::collections::VecDeque;
use std::fmt;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::SystemTime;

use bytes::Bytes;
use hyper::http::request::Parts;
use hyper::{HeaderMap, Method};
use tokio::sync::Notify;

/// No more than this is kept of a body.
pub const BODY_LIMIT: usize = 64 << 10;
/// Older requests are forgotten.
pub const ENTRY_LIMIT: usize = 10_000;

/// One request.
#[derive(Clone)]
pub struct Entry {
    /// Counted from 1, in the order of arrival.
    pub number: u64,
    /// When its head had been read.
    pub at: SystemTime,
    /// Its method.
    pub method: Method,
    /// Its target as it was sent: not normalized, with the sub-path and the query.
    pub target: String,
    /// Its headers.
    pub headers: HeaderMap,
    /// The beginning of its body, [`BODY_LIMIT`] at most; empty for bodies that stream.
    pub body: Bytes,
    /// Its body has been read (where it does not stream).
    pub complete: bool,
    /// When its answer, right or wrong, was handed over.
    pub answered_at: Option<SystemTime>,
}

impl Entry {
    /// A header's value, where it is text.
    #[must_use]
    pub fn header(&self, name: &str) -> Option<&str> {
        self.headers.get(name)?.to_str().ok()
    }
}

// Headers and body hold secrets.
impl fmt::Debug for Entry {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} {} {}", self.number, self.method, self.target)
    }
}

/// The requests, oldest first.
#[derive(Clone, Default)]
pub struct Journal(Arc<Inner>);

#[derive(Default)]
struct Inner {
    book: Mutex<Book>,
    changed: Notify,
}

#[derive(Default)]
struct Book {
    last: u64,
    entries: VecDeque<Entry>,
}

impl Journal {
    /// All that are kept, incomplete ones too.
    #[must_use]
    pub fn entries(&self) -> Vec<Entry> {
        self.lock().entries.iter().cloned().collect()
    }

    /// How many of them are like that.
    pub fn count(&self, like: impl FnMut(&&Entry) -> bool) -> usize {
        self.lock().entries.iter().filter(like).count()
    }

    /// The first complete one that is like that, as soon as it has arrived.
    pub async fn wait_for(&self, mut like: impl FnMut(&Entry) -> bool) -> Entry {
        loop {
            let mut changed = std::pin::pin!(self.0.changed.notified());
            changed.as_mut().enable();
            let found =
                self.lock().entries.iter().find(|entry| entry.complete && like(entry)).cloned();
            match found {
                Some(entry) => return entry,
                None => changed.await,
            }
        }
    }

    /// Forgets all.
    pub fn clear(&self) {
        self.lock().entries.clear();
    }

    pub(super) fn arrived(&self, head: &Parts) -> u64 {
        let mut book = self.lock();
        book.last += 1;
        let number = book.last;
        if book.entries.len() == ENTRY_LIMIT {
            book.entries.pop_front();
        }
        book.entries.push_back(Entry {
            number,
            at: SystemTime::now(),
            method: head.method.clone(),
            target: head.uri.path_and_query().map_or_else(String::new, ToString::to_string),
            headers: head.headers.clone(),
            body: Bytes::new(),
            complete: false,
            answered_at: None,
        });
        number
    }

    pub(super) fn completed(&self, number: u64, body: &Bytes) {
        self.note(number, |entry| {
            // A copy, so that a small piece does not hold a large body.
            entry.body = Bytes::copy_from_slice(&body[..body.len().min(BODY_LIMIT)]);
            entry.complete = true;
        });
    }

    pub(super) fn answered(&self, number: u64) {
        self.note(number, |entry| entry.answered_at = Some(SystemTime::now()));
    }

    fn note(&self, number: u64, note: impl FnOnce(&mut Entry)) {
        let mut book = self.lock();
        if let Some(entry) = book.entries.iter_mut().rev().find(|entry| entry.number == number) {
            note(entry);
        }
        drop(book);
        self.0.changed.notify_waiters();
    }

    fn lock(&self) -> MutexGuard<'_, Book> {
        self.0.book.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
