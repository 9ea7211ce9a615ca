//! Bodies on their way to Gitea, and its answers' bodies read whole.

use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::task::{Context, Poll};
use std::time::Duration;

use bytes::Bytes;
use http_body_util::{BodyExt, LengthLimitError, Limited};
use hyper::body::{Body, Frame, Incoming, SizeHint};
use tokio::time::timeout;

/// The body of a request to Gitea, without a box around it.
#[derive(Debug)]
pub enum OutBody {
    /// None.
    Empty,
    /// Bytes at hand; `None` once they are taken.
    Full(Option<Bytes>),
    /// A runner's body, as it comes in.
    Incoming(Incoming),
    /// The same; the flag is set with each piece.
    Watched(Incoming, Arc<AtomicBool>),
    /// The same, of which some was read already; `None` once that is taken.
    Rest(Option<Bytes>, Incoming),
}

impl From<Bytes> for OutBody {
    fn from(bytes: Bytes) -> Self {
        Self::Full(Some(bytes).filter(|bytes| !bytes.is_empty()))
    }
}

impl From<Incoming> for OutBody {
    fn from(body: Incoming) -> Self {
        Self::Incoming(body)
    }
}

impl Body for OutBody {
    type Data = Bytes;
    type Error = hyper::Error;

    fn poll_frame(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, hyper::Error>>> {
        match self.get_mut() {
            Self::Empty => Poll::Ready(None),
            Self::Full(bytes) => Poll::Ready(bytes.take().map(|bytes| Ok(Frame::data(bytes)))),
            Self::Incoming(body) => data_of(body, cx),
            Self::Watched(body, moved) => {
                let polled = data_of(body, cx);
                if polled.is_ready() {
                    moved.store(true, Ordering::Relaxed);
                }
                polled
            }
            Self::Rest(read, body) => match read.take() {
                Some(read) => Poll::Ready(Some(Ok(Frame::data(read)))),
                None => data_of(body, cx),
            },
        }
    }

    fn is_end_stream(&self) -> bool {
        match self {
            Self::Empty => true,
            Self::Full(bytes) => bytes.is_none(),
            Self::Incoming(body) | Self::Watched(body, _) => body.is_end_stream(),
            Self::Rest(read, body) => read.is_none() && body.is_end_stream(),
        }
    }

    fn size_hint(&self) -> SizeHint {
        match self {
            Self::Empty => SizeHint::with_exact(0),
            Self::Full(bytes) => SizeHint::with_exact(bytes.as_ref().map_or(0, Bytes::len) as u64),
            Self::Incoming(body) | Self::Watched(body, _) => body.size_hint(),
            Self::Rest(read, body) => {
                let read = read.as_ref().map_or(0, |read| read.len() as u64);
                let rest = body.size_hint();
                let mut hint = SizeHint::new();
                hint.set_lower(rest.lower().saturating_add(read));
                if let Some(upper) = rest.upper() {
                    hint.set_upper(upper.saturating_add(read));
                }
                hint
            }
        }
    }
}

/// The next piece of a body. Trailers end it: they would be headers that nobody has looked at.
pub(crate) fn data_of(
    body: &mut Incoming,
    cx: &mut Context<'_>,
) -> Poll<Option<Result<Frame<Bytes>, hyper::Error>>> {
    let polled = Pin::new(body).poll_frame(cx);
    match polled {
        Poll::Ready(Some(Ok(frame))) if frame.is_trailers() => Poll::Ready(None),
        polled => polled,
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
    body: Incoming,
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
