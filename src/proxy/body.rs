//! Bodies of answers: the broker's own, Gitea's as a stream, and Gitea's looked at as it passes.

use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Instant;

use bytes::Bytes;
use http_body::{Body, Frame, SizeHint};
use hyper::body::Incoming;

use crate::connect::{Codec, peek};
use crate::lifecycle::{Lifecycle, Live};

/// The most of an answer that is looked at; the ids stand at its beginning.
const PREFIX: usize = 4096;

/// The body of an answer to a runner or a job.
pub enum ProxyBody {
    /// At hand; `None` once it is taken.
    Full(Option<Bytes>),
    /// Gitea's, passed on as it comes.
    Stream(Incoming),
    /// Gitea's, passed on as it comes and looked at.
    Watched(Incoming, Box<Watch>),
}

impl ProxyBody {
    /// A body at hand.
    #[must_use]
    pub fn full(bytes: Bytes) -> Self {
        Self::Full((!bytes.is_empty()).then_some(bytes))
    }
}

impl Body for ProxyBody {
    type Data = Bytes;
    type Error = hyper::Error;

    fn poll_frame(
        self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, hyper::Error>>> {
        match self.get_mut() {
            Self::Full(bytes) => Poll::Ready(bytes.take().map(|bytes| Ok(Frame::data(bytes)))),
            Self::Stream(body) => Pin::new(body).poll_frame(context),
            Self::Watched(body, watch) => {
                let polled = Pin::new(body).poll_frame(context);
                if let Poll::Ready(Some(Ok(frame))) = &polled
                    && let Some(data) = frame.data_ref()
                {
                    watch.see(data);
                }
                polled
            }
        }
    }

    fn is_end_stream(&self) -> bool {
        match self {
            Self::Full(bytes) => bytes.is_none(),
            Self::Stream(body) | Self::Watched(body, _) => body.is_end_stream(),
        }
    }

    fn size_hint(&self) -> SizeHint {
        match self {
            Self::Full(bytes) => {
                SizeHint::with_exact(bytes.as_ref().map_or(0, |bytes| bytes.len() as u64))
            }
            Self::Stream(body) | Self::Watched(body, _) => body.size_hint(),
        }
    }
}

/// What is looked for in an answer, and whom it is about.
pub struct Watch {
    /// Whose call it was.
    pub live: Arc<Live>,
    /// Who is told where a task ends.
    pub lifecycle: Arc<Lifecycle>,
    /// Which call it was.
    pub call: Watched,
    /// How the answer is written.
    pub codec: Codec,
    /// Whether the answer is compressed.
    pub gzip: bool,
    /// What has passed, until the answer is found.
    pub seen: Vec<u8>,
    /// Nothing more is looked for.
    pub done: bool,
}

/// The calls whose answers are looked at.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Watched {
    /// Its answer may hold a task.
    FetchTask,
    /// Its answer tells whether the task has ended.
    UpdateTask,
}

impl Watch {
    /// Part of the answer passes. What it tells is noted before the runner has it.
    fn see(&mut self, data: &[u8]) {
        if self.done {
            return;
        }
        // An answer mostly comes in one piece: then nothing is copied.
        if self.seen.is_empty() && self.find(&data[..data.len().min(PREFIX)]) {
            self.done = true;
            return;
        }
        let room = PREFIX - self.seen.len();
        self.seen.extend_from_slice(&data[..data.len().min(room)]);
        let seen = std::mem::take(&mut self.seen);
        self.done = self.find(&seen) || seen.len() == PREFIX;
        if !self.done {
            self.seen = seen;
        }
    }

    fn find(&self, prefix: &[u8]) -> bool {
        match self.call {
            Watched::FetchTask => match peek::fetched_task(self.codec, self.gzip, prefix) {
                Some(task) => {
                    self.live.note(|activity| activity.works_on(task, Instant::now()));
                    true
                }
                None => false,
            },
            Watched::UpdateTask => match peek::task_state(self.codec, self.gzip, prefix) {
                Some((task, true)) => {
                    self.live.note(|activity| activity.done_with(task));
                    self.lifecycle.has_moved();
                    true
                }
                Some((task, false)) => {
                    self.live.note(|activity| activity.works_on(task, Instant::now()));
                    // The result may follow in a later piece.
                    false
                }
                None => false,
            },
        }
    }
}
