//! Bodies of answers: the broker's own, Gitea's as a stream, and Gitea's looked at as it passes.

use std::pin::Pin;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use bytes::Bytes;
use hyper::body::{Body, Frame, Incoming, SizeHint};
use tokio::time::{Instant, Sleep, sleep};

use super::watch::Watch;
use crate::net::data_of;

/// The body of an answer to a runner or a job.
pub enum ProxyBody {
    /// At hand; `None` once it is taken.
    Full(Option<Bytes>),
    /// Gitea's, passed on as it comes.
    Stream(Patient),
    /// Gitea's, passed on as it comes and looked at.
    Watched(Patient, Box<Watch>),
}

/// Why an answer broke off after its head. The client sees its connection closed.
#[derive(Debug, thiserror::Error)]
pub enum BodyError {
    /// The connection to Gitea broke.
    #[error(transparent)]
    Gitea(#[from] hyper::Error),
    /// Gitea holds its connection, and sends nothing on it.
    #[error("Gitea began an answer and sent nothing more for {0:?}")]
    Stalled(Duration),
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
    type Error = BodyError;

    fn poll_frame(
        self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, BodyError>>> {
        match self.get_mut() {
            Self::Full(bytes) => Poll::Ready(bytes.take().map(|bytes| Ok(Frame::data(bytes)))),
            Self::Stream(body) => body.poll_frame(context),
            Self::Watched(body, watch) => {
                let polled = body.poll_frame(context);
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

/// Gitea's body. Each wait for its next piece has an end, after once to twice the limit.
pub struct Patient {
    /// What was read of it already, and how that ended where it broke.
    read: Option<Bytes>,
    broke: Option<hyper::Error>,
    body: Incoming,
    limit: Duration,
    /// Made at the first wait: most answers come in one piece with their head.
    timer: Option<Pin<Box<Sleep>>>,
    /// A piece came since the timer was set.
    moved: bool,
}

impl Patient {
    /// A body that may pause for `limit`.
    pub(super) fn new(body: Incoming, limit: Duration) -> Self {
        Self::after(Bytes::new(), None, body, limit)
    }

    /// The same, of which some was read already.
    pub(super) fn after(
        read: Bytes,
        broke: Option<hyper::Error>,
        body: Incoming,
        limit: Duration,
    ) -> Self {
        let read = (!read.is_empty()).then_some(read);
        Self { read, broke, body, limit, timer: None, moved: false }
    }

    fn is_end_stream(&self) -> bool {
        self.read.is_none() && self.broke.is_none() && self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        let rest = self.body.size_hint();
        let read = self.read.as_ref().map_or(0, |read| read.len() as u64);
        let mut hint = SizeHint::new();
        hint.set_lower(rest.lower().saturating_add(read));
        if let Some(upper) = rest.upper() {
            hint.set_upper(upper.saturating_add(read));
        }
        hint
    }

    fn poll_frame(
        &mut self,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, BodyError>>> {
        if let Some(read) = self.read.take() {
            return Poll::Ready(Some(Ok(Frame::data(read))));
        }
        if let Some(error) = self.broke.take() {
            return Poll::Ready(Some(Err(BodyError::Gitea(error))));
        }
        if let Poll::Ready(frame) = data_of(&mut self.body, context) {
            self.moved = true;
            return Poll::Ready(frame.map(|frame| frame.map_err(BodyError::Gitea)));
        }
        loop {
            let timer = self.timer.get_or_insert_with(|| {
                self.moved = false;
                Box::pin(sleep(self.limit))
            });
            ready!(timer.as_mut().poll(context));
            if !std::mem::take(&mut self.moved) {
                return Poll::Ready(Some(Err(BodyError::Stalled(self.limit))));
            }
            timer.as_mut().reset(Instant::now() + self.limit);
        }
    }
}
