//! Bodies on their way to Gitea, and its answers' bodies read whole.

use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::task::{Context, Poll};
use std::time::Duration;

use bytes::Bytes;
use http_body_util::{BodyExt, LengthLimitError, Limited};
use hyper::body::{Body, Frame, SizeHint};
use tokio::time::timeout;

use crate::net::patient::{BodyError, Patient};

/// The body of a request to Gitea, without a box around it.
#[derive(Debug)]
pub enum OutBody {
    /// None.
    Empty,
    /// Bytes at hand; `None` once they are taken.
    Full(Option<Bytes>),
    /// A client's body, as it comes in.
    Client(Patient),
    /// The same; the flag is set with each piece.
    Watched(Patient, Arc<AtomicBool>),
}

impl From<Bytes> for OutBody {
    fn from(bytes: Bytes) -> Self {
        Self::Full(Some(bytes).filter(|bytes| !bytes.is_empty()))
    }
}

impl Body for OutBody {
    type Data = Bytes;
    type Error = BodyError;

    fn poll_frame(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, BodyError>>> {
        match self.get_mut() {
            Self::Empty => Poll::Ready(None),
            Self::Full(bytes) => Poll::Ready(bytes.take().map(|bytes| Ok(Frame::data(bytes)))),
            Self::Client(body) => body.poll_frame(cx),
            Self::Watched(body, moved) => {
                let polled = body.poll_frame(cx);
                if polled.is_ready() {
                    moved.store(true, Ordering::Relaxed);
                }
                polled
            }
        }
    }

    fn is_end_stream(&self) -> bool {
        match self {
            Self::Empty => true,
            Self::Full(bytes) => bytes.is_none(),
            Self::Client(body) | Self::Watched(body, _) => body.is_end_stream(),
        }
    }

    fn size_hint(&self) -> SizeHint {
        match self {
            Self::Empty => SizeHint::with_exact(0),
            Self::Full(bytes) => SizeHint::with_exact(bytes.as_ref().map_or(0, Bytes::len) as u64),
            Self::Client(body) | Self::Watched(body, _) => body.size_hint(),
        }
    }
}

/// Why a body could not be read whole.
#[derive(Debug, thiserror::Error)]
pub enum ReadError {
    /// It is larger than this many bytes.
    #[error("the body is larger than {0} bytes")]
    TooLarge(usize),
    /// It did not end in this time.
    #[error("the body did not end within {0:?}")]
    TooSlow(Duration),
    /// The connection broke in the middle of it.
    #[error("the body broke off: {0}")]
    Broken(Box<dyn std::error::Error + Send + Sync>),
}

/// Reads a body whole: at most `limit` bytes, in at most `within`.
pub async fn read_limited(
    body: impl Body<Data = Bytes, Error = hyper::Error>,
    limit: usize,
    within: Duration,
) -> Result<Bytes, ReadError> {
    match timeout(within, Limited::new(body, limit).collect()).await {
        Ok(Ok(whole)) => Ok(whole.to_bytes()),
        Ok(Err(error)) if error.is::<LengthLimitError>() => Err(ReadError::TooLarge(limit)),
        Ok(Err(error)) => Err(ReadError::Broken(error)),
        Err(_) => Err(ReadError::TooSlow(within)),
    }
}
