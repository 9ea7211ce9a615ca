//! Bodies of answers: the broker's own, Gitea's as a stream, and Gitea's looked at as it passes.

use std::pin::Pin;
use std::task::{Context, Poll};

use bytes::Bytes;
use hyper::body::{Body, Frame, SizeHint};

use super::watch::Watch;
use crate::net::{BodyError, Patient};

/// The body of an answer to a runner or a job.
pub enum ProxyBody {
    /// At hand; `None` once it is taken.
    Full(Option<Bytes>),
    /// Gitea's, passed on as it comes.
    Stream(Patient),
    /// Gitea's, passed on as it comes and looked at.
    Watched(Patient, Box<Watch>),
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
            Self::Stream(body) => body.poll_answer(context),
            Self::Watched(body, watch) => {
                let polled = body.poll_answer(context);
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
