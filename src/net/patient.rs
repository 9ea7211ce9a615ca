//! A body on its way through the broker, of which no pause is borne for ever.

use std::pin::Pin;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use bytes::Bytes;
use hyper::body::{Body, Frame, SizeHint};
use tokio::time::{Instant, Sleep, sleep};

use super::upstream::InBody;

/// Why a body broke off.
#[derive(Debug, thiserror::Error)]
pub enum BodyError {
    /// Its connection broke.
    #[error(transparent)]
    Broken(#[from] hyper::Error),
    /// Its connection is held, and nothing more of it comes.
    #[error("a body began and nothing more of it came for {0:?}")]
    Stalled(Duration),
}

/// A body of Gitea's or a client's. Each wait for its next piece has an end, after once to twice the limit.
#[derive(Debug)]
pub struct Patient {
    /// What was read of it already, and how that ended where it broke.
    read: Option<Bytes>,
    broke: Option<hyper::Error>,
    /// To be told with the next turn.
    failed: Option<BodyError>,
    body: InBody,
    limit: Duration,
    /// Made at the first wait: most answers come in one piece with their head.
    timer: Option<Pin<Box<Sleep>>>,
    /// A piece came since the timer was set.
    moved: bool,
}

impl Patient {
    /// A body that may pause for `limit`.
    #[must_use]
    pub fn new(body: impl Into<InBody>, limit: Duration) -> Self {
        Self::after(Bytes::new(), None, body, limit)
    }

    /// The same, of which some was read already.
    #[must_use]
    pub fn after(
        read: Bytes,
        broke: Option<hyper::Error>,
        body: impl Into<InBody>,
        limit: Duration,
    ) -> Self {
        let read = (!read.is_empty()).then_some(read);
        Self { read, broke, failed: None, body: body.into(), limit, timer: None, moved: false }
    }

    pub(crate) fn is_end_stream(&self) -> bool {
        self.read.is_none()
            && self.broke.is_none()
            && self.failed.is_none()
            && self.body.is_end_stream()
    }

    pub(crate) fn size_hint(&self) -> SizeHint {
        let rest = self.body.size_hint();
        let read = self.read.as_ref().map_or(0, |read| read.len() as u64);
        let mut hint = SizeHint::new();
        hint.set_lower(rest.lower().saturating_add(read));
        if let Some(upper) = rest.upper() {
            hint.set_upper(upper.saturating_add(read));
        }
        hint
    }

    /// As [`poll_frame`](Self::poll_frame), for an answer: the library throws away what it has not written when it
    /// learns of a failure, so it is told a turn later.
    pub(crate) fn poll_answer(
        &mut self,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, BodyError>>> {
        if let Some(error) = self.failed.take() {
            return Poll::Ready(Some(Err(error)));
        }
        match self.poll_frame(context) {
            Poll::Ready(Some(Err(error))) => {
                self.failed = Some(error);
                context.waker().wake_by_ref();
                Poll::Pending
            }
            polled => polled,
        }
    }

    pub(crate) fn poll_frame(
        &mut self,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, BodyError>>> {
        if let Some(read) = self.read.take() {
            return Poll::Ready(Some(Ok(Frame::data(read))));
        }
        if let Some(error) = self.broke.take() {
            return Poll::Ready(Some(Err(BodyError::Broken(error))));
        }
        if let Poll::Ready(frame) = data_of(&mut self.body, context) {
            self.moved = true;
            return Poll::Ready(frame.map(|frame| frame.map_err(BodyError::Broken)));
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

/// The next piece of a body. Trailers end it: they would be headers that nobody has looked at.
fn data_of(
    body: &mut InBody,
    cx: &mut Context<'_>,
) -> Poll<Option<Result<Frame<Bytes>, hyper::Error>>> {
    let polled = Pin::new(body).poll_frame(cx);
    match polled {
        Poll::Ready(Some(Ok(frame))) if frame.is_trailers() => Poll::Ready(None),
        polled => polled,
    }
}
