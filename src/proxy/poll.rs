//! Gitea's lost wake-up. Of two polls at once that find the same job, one gets it, and the other gets no task
//! but the latest version of the tasks, with which Gitea does not look for a task again until something new
//! comes: a second job that waits is left lying. Here such an answer gets the runner's own version, so that
//! its next poll is looked at. Which answers are such is decided by [`broker::poll`](crate::broker::poll).

use std::borrow::Cow;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use bytes::{Bytes, BytesMut};
use http_body_util::BodyExt;
use hyper::body::{Body, Incoming};
use hyper::header::{CONTENT_ENCODING, CONTENT_LENGTH, CONTENT_TYPE};
use hyper::{HeaderMap, Response};
use prost::Message;
use serde::de::DeserializeOwned;
use tokio::sync::oneshot;
use tokio::time::{timeout, timeout_at};
use tracing::debug;

use super::body::ProxyBody;
use super::forward::{broken_off, time_limit};
use super::service::Proxy;
use super::watch::Watched;
use crate::broker::poll::{self, Overlap, Sent};
use crate::connect::messages::{FetchTaskRequest, FetchTaskResponse};
use crate::connect::{Codec, ConnectError, Encoding, decode, gunzip, peek, splice};
use crate::net::{InBody, OutBody, Patient};

/// The longest poll, and the longest answer without a task, that is read; real ones are below twenty bytes.
const LIMIT: usize = 1024;
/// The same after decompression.
const PLAIN_LIMIT: usize = 4 * 1024;
/// How long one of them may take; then it is passed on as it comes.
const PATIENCE: Duration = Duration::from_millis(500);
/// How long an answer is held back at most, until the polls that overlapped it have ended.
const HOLD: Duration = Duration::from_secs(1);

/// All polls on their way to this Gitea, whatever the scopes of their runners: two scopes may share a job.
#[derive(Default)]
pub(super) struct Polls(Mutex<poll::Polls<oneshot::Sender<bool>>>);

/// One poll on its way. Dropped before its end is told, it counts as one that took a task: it may have.
pub(super) struct Poll<'p> {
    polls: &'p Polls,
    sent: Option<Sent>,
    /// The runner's version of the tasks, where it could be read.
    version: Option<i64>,
    begun: Instant,
    limit: Option<Duration>,
}

/// How far a small body was read.
struct Read {
    bytes: Bytes,
    /// It has come to its end.
    whole: bool,
    broke: Option<hyper::Error>,
}

impl Proxy {
    /// A poll begins: reads what the runner asks, and returns what is to be sent. `None` where the
    /// workaround is off.
    ///
    /// # Errors
    /// The body broke off.
    pub(super) async fn poll_begins(
        &self,
        headers: &HeaderMap,
        body: Incoming,
    ) -> Result<(OutBody, Option<Poll<'_>>), ConnectError> {
        if !self.lifecycle.settings.load().gitea.lost_wakeup_workaround {
            let body = if body.is_end_stream() { OutBody::Empty } else { self.client(body) };
            return Ok((body, None));
        }
        let mut body = InBody::from(body);
        let begun = Instant::now();
        let limit = time_limit(headers);
        let patience = limit.map_or(PATIENCE, |limit| PATIENCE.min(limit / 2));
        let read = read(&mut body, patience, |_| false).await;
        if let Some(error) = read.broke {
            debug!(reason = %error, "poll not passed on: its body broke off");
            return Err(broken_off());
        }
        let (version, body) = if read.whole {
            let asked = Form::of(headers).and_then(|form| form.read(&read.bytes));
            let version = asked.map(|asked: FetchTaskRequest| asked.tasks_version);
            (version, OutBody::from(read.bytes))
        } else if read.bytes.is_empty() {
            (None, self.client(body))
        } else {
            (
                None,
                OutBody::Client(Patient::after(read.bytes, None, body, self.limits().body_timeout)),
            )
        };
        let sent = Some(self.polls.lock().send());
        Ok((body, Some(Poll { polls: &self.polls, sent, version, begun, limit })))
    }

    /// Gitea accepted a poll and answers it.
    pub(super) async fn poll_ends(
        &self,
        poll: Poll<'_>,
        response: Response<InBody>,
        watched: Option<Watched>,
    ) -> Response<ProxyBody> {
        let stall = self.lifecycle.timing().stall;
        let Some(form) = Form::of(response.headers()) else {
            return self.watch(response.map(|body| Patient::new(body, stall)), watched);
        };
        let (mut head, mut body) = response.into_parts();
        let read = read(&mut body, PATIENCE, |seen| form.has_task(seen)).await;
        let answer = if read.whole { form.read(&read.bytes) } else { None };
        let Some(FetchTaskResponse { task: None, tasks_version: latest }) = answer else {
            // It has a task, or nobody knows.
            drop(poll);
            let body = Patient::after(read.bytes, read.broke, body, stall);
            return self.watch(Response::from_parts(head, body), watched);
        };
        // That its runner has none is settled, however long the answer is held back.
        drop(watched);
        let mut bytes = read.bytes;
        if let Some(version) = poll.outdated_by(latest).await
            && let Some(older) = form.with_version(&bytes, version)
        {
            debug!(
                version,
                latest, "no task while another runner may have got one: this one is to ask again"
            );
            head.headers.remove(CONTENT_ENCODING);
            head.headers.remove(CONTENT_LENGTH);
            bytes = older;
        }
        Response::from_parts(head, ProxyBody::full(bytes))
    }
}

impl Polls {
    fn lock(&self) -> MutexGuard<'_, poll::Polls<oneshot::Sender<bool>>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Poll<'_> {
    /// It ended without a task. Returns the runner's own version where it is to have that in place of the
    /// latest. Waits, where that is open, until it is known whether a poll that overlapped it took a task;
    /// where that takes too long, one may have.
    async fn outdated_by(mut self, latest: i64) -> Option<i64> {
        let sent = self.sent.take()?;
        // Otherwise Gitea did not look for one, or is so old that it counts no versions.
        let Some(version) = self.version.filter(|version| *version != latest && latest != 0) else {
            self.polls.lock().end(sent, false, tell);
            return None;
        };
        let mut told = None;
        let overlap = self.polls.lock().end_empty(sent, tell, || {
            let (sender, receiver) = oneshot::channel();
            told = Some(receiver);
            sender
        });
        let taken = match (overlap, told) {
            (Overlap::Free, _) => false,
            (Overlap::Taken, _) | (Overlap::Open, None) => true,
            (Overlap::Open, Some(told)) => {
                let left = self.limit.map(|limit| limit.saturating_sub(self.begun.elapsed()) / 2);
                let hold = left.map_or(HOLD, |left| left.min(HOLD));
                !matches!(timeout(hold, told).await, Ok(Ok(false)))
            }
        };
        taken.then_some(version)
    }
}

impl Drop for Poll<'_> {
    fn drop(&mut self) {
        if let Some(sent) = self.sent.take() {
            self.polls.lock().end(sent, true, tell);
        }
    }
}

/// How a body is written.
struct Form {
    codec: Codec,
    encoding: Encoding,
}

impl Form {
    /// `None` for what no runner sends or reads.
    fn of(headers: &HeaderMap) -> Option<Self> {
        let codec = Codec::from_content_type(headers.get(CONTENT_TYPE))?;
        let encoding = Encoding::from_header(headers.get(CONTENT_ENCODING)).ok()?;
        Some(Self { codec, encoding })
    }

    fn has_task(&self, seen: &[u8]) -> bool {
        peek::fetched_task(self.codec, self.encoding == Encoding::Gzip, seen).is_some()
    }

    fn read<M: Message + Default + DeserializeOwned>(&self, body: &[u8]) -> Option<M> {
        decode(self.codec, &self.plain(body)?).ok()
    }

    fn with_version(&self, body: &[u8], version: i64) -> Option<Bytes> {
        splice::tasks_version(self.codec, &self.plain(body)?, version).ok().map(Bytes::from)
    }

    fn plain<'b>(&self, body: &'b [u8]) -> Option<Cow<'b, [u8]>> {
        match self.encoding {
            Encoding::Identity => Some(Cow::Borrowed(body)),
            Encoding::Gzip => gunzip(body, PLAIN_LIMIT).ok().map(Cow::Owned),
        }
    }
}

/// Reads a body, unless it is long or slow, to its end, or until there is enough of it.
async fn read(
    body: &mut (impl Body<Data = Bytes, Error = hyper::Error> + Unpin),
    patience: Duration,
    enough: impl Fn(&[u8]) -> bool,
) -> Read {
    let mut read = Read { bytes: Bytes::new(), whole: false, broke: None };
    if body.size_hint().lower() > LIMIT as u64 {
        return read;
    }
    let until = tokio::time::Instant::now() + patience;
    while read.bytes.len() <= LIMIT && !enough(&read.bytes) {
        if body.is_end_stream() {
            read.whole = true;
            break;
        }
        match timeout_at(until, body.frame()).await {
            Ok(Some(Ok(frame))) => {
                let Ok(data) = frame.into_data() else { continue };
                // Mostly there is one piece, which is kept as it is.
                read.bytes = if read.bytes.is_empty() {
                    data
                } else {
                    let mut joined = BytesMut::from(read.bytes);
                    joined.extend_from_slice(&data);
                    joined.freeze()
                };
            }
            Ok(Some(Err(error))) => {
                read.broke = Some(error);
                break;
            }
            Ok(None) => {
                read.whole = true;
                break;
            }
            Err(_) => break,
        }
    }
    read
}

fn tell(waker: oneshot::Sender<bool>, took: bool) {
    // One whose runner has hung up does not wait any more.
    let _ = waker.send(took);
}
