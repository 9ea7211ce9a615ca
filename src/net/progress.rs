//! What moves on one connection, and what has come to a stop: a request's head that does not end, an answer
//! that is not taken. The reads and writes that pass only mark what is waited for; a look now and then tells
//! what has been so for too long.

use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::task::{Context, Poll, ready};
use std::time::Duration;

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::time::{Instant, Sleep, sleep};

/// Once the broker is done with a connection, how long what the client still sends is read, so that it can
/// read the answer: closed before, the system throws that away.
const LINGER: Duration = Duration::from_millis(500);
/// And how much.
const LINGER_BYTES: usize = 1 << 20;

/// The answer to a head that did not end. There is no request that could be answered otherwise.
const TOO_SLOW: &[u8] = b"HTTP/1.1 408 Request Timeout\r\nconnection: close\r\n\
    content-type: application/json\r\ncontent-length: 136\r\n\r\n\
    {\"code\":\"deadline_exceeded\",\"message\":\"the request's head did not end in time \
    (the broker's setting limits.head_timeout): send it anew\"}";

/// What is waited for, in the lower bits; the rest counts the changes.
const WAITED_FOR: u32 = 0b11;
const NOTHING: u32 = 0;
const HEAD: u32 = 1;
const WRITE: u32 = 2;
const CHANGE: u32 = WAITED_FOR + 1;

/// What has stopped.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Stopped {
    /// A request's head.
    Head,
    /// The taking of an answer.
    Write,
    /// The sending of requests.
    Idle,
}

/// For how long each of it is borne.
#[derive(Clone, Copy)]
pub(super) struct Patience {
    /// A request's head that does not end.
    pub(super) head: Duration,
    /// An answer that is not taken.
    pub(super) write: Duration,
    /// No request at all; `None` where heads do not come in turn.
    pub(super) idle: Option<Duration>,
}

/// Marks of one connection. Only its own task makes and reads them.
#[derive(Default)]
pub(super) struct Progress {
    state: AtomicU32,
    in_request: AtomicBool,
    /// The last request had a body, of which some may not have been read.
    had_body: AtomicBool,
    head_is_late: AtomicBool,
}

impl Progress {
    /// A request's head is here.
    pub(super) fn request(&self, has_body: bool) {
        self.in_request.store(true, Ordering::Relaxed);
        self.had_body.store(has_body, Ordering::Relaxed);
        self.set(NOTHING);
    }

    /// Its answer has been handed over.
    pub(super) fn answered(&self) {
        self.in_request.store(false, Ordering::Relaxed);
        // From now on it may be idle.
        self.state.fetch_add(CHANGE, Ordering::Relaxed);
    }

    /// The head that is waited for will be answered, as soon as the connection is polled again.
    pub(super) fn give_up_head(&self) {
        self.head_is_late.store(true, Ordering::Relaxed);
    }

    /// Waits until something has stopped for as long as that.
    pub(super) async fn stops(&self, Patience { head, write, idle }: Patience) -> Stopped {
        let shortest = head.min(write).min(idle.unwrap_or(Duration::MAX));
        let look = (shortest / 4).min(Duration::from_secs(15));
        let (mut seen, mut since) = (self.state.load(Ordering::Relaxed), Instant::now());
        loop {
            sleep(look).await;
            let state = self.state.load(Ordering::Relaxed);
            if state != seen {
                (seen, since) = (state, Instant::now());
            }
            match state & WAITED_FOR {
                HEAD if since.elapsed() >= head => return Stopped::Head,
                WRITE if since.elapsed() >= write => return Stopped::Write,
                NOTHING
                    if idle.is_some_and(|idle| since.elapsed() >= idle)
                        && !self.in_request.load(Ordering::Relaxed) =>
                {
                    return Stopped::Idle;
                }
                _ => {}
            }
        }
    }

    fn set(&self, waited_for: u32) {
        let state = self.state.load(Ordering::Relaxed);
        if state & WAITED_FOR != waited_for {
            let next = (state & !WAITED_FOR).wrapping_add(CHANGE) | waited_for;
            self.state.store(next, Ordering::Relaxed);
        }
    }

    fn writes<T>(&self, result: Poll<io::Result<T>>) -> Poll<io::Result<T>> {
        if result.is_pending() {
            self.set(WRITE);
        } else if self.state.load(Ordering::Relaxed) & WAITED_FOR == WRITE {
            self.set(NOTHING);
        }
        result
    }
}

/// A connection that marks what moves on it, above TLS where that is spoken.
pub(super) struct Line<S> {
    stream: S,
    progress: Arc<Progress>,
    /// Heads come one after the other, as in HTTP/1.
    in_turn: bool,
    lingering: Lingering,
}

#[derive(Default)]
struct Lingering {
    shut: bool,
    read: usize,
    until: Option<Pin<Box<Sleep>>>,
}

impl<S: AsyncRead + AsyncWrite + Unpin> Line<S> {
    pub(super) fn new(stream: S, in_turn: bool, progress: Arc<Progress>) -> Self {
        Self { stream, progress, in_turn, lingering: Lingering::default() }
    }

    /// Reads what the client still sends, and throws it away.
    fn linger(&mut self, context: &mut Context<'_>) -> Poll<()> {
        let timer = self.lingering.until.get_or_insert_with(|| Box::pin(sleep(LINGER)));
        if timer.as_mut().poll(context).is_ready() {
            return Poll::Ready(());
        }
        let mut waste = [0; 8 * 1024];
        while self.lingering.read < LINGER_BYTES {
            let mut buffer = ReadBuf::new(&mut waste);
            match ready!(Pin::new(&mut self.stream).poll_read(context, &mut buffer)) {
                Ok(()) if !buffer.filled().is_empty() => {
                    self.lingering.read += buffer.filled().len();
                }
                _ => break,
            }
        }
        Poll::Ready(())
    }
}

impl<S: AsyncRead + AsyncWrite + Unpin> AsyncRead for Line<S> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        if self.progress.head_is_late.load(Ordering::Relaxed) {
            // It fits into what the system buffers, or the client has taken nothing for long.
            let _ = Pin::new(&mut self.stream).poll_write(context, TOO_SLOW);
            let _ = Pin::new(&mut self.stream).poll_flush(context);
            return Poll::Ready(Err(io::ErrorKind::TimedOut.into()));
        }
        let before = buffer.filled().len();
        let read = Pin::new(&mut self.stream).poll_read(context, buffer);
        if self.in_turn
            && buffer.filled().len() > before
            && !self.progress.in_request.load(Ordering::Relaxed)
        {
            self.progress.set(HEAD);
        }
        read
    }
}

impl<S: AsyncRead + AsyncWrite + Unpin> AsyncWrite for Line<S> {
    fn poll_write(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        let written = Pin::new(&mut self.stream).poll_write(context, bytes);
        self.progress.writes(written)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        pieces: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let written = Pin::new(&mut self.stream).poll_write_vectored(context, pieces);
        self.progress.writes(written)
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        // TLS takes a write at once, and hands it on here.
        let flushed = Pin::new(&mut self.stream).poll_flush(context);
        self.progress.writes(flushed)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        if !self.lingering.shut {
            ready!(Pin::new(&mut self.stream).poll_shutdown(context))?;
            self.lingering.shut = true;
        }
        let progress = &self.progress;
        if progress.had_body.load(Ordering::Relaxed)
            || progress.state.load(Ordering::Relaxed) & WAITED_FOR == HEAD
        {
            ready!(self.linger(context));
        }
        Poll::Ready(Ok(()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_answer_to_a_slow_head_has_the_length_that_it_names() {
        let text = std::str::from_utf8(TOO_SLOW).unwrap();
        let (head, body) = text.split_once("\r\n\r\n").unwrap();
        assert!(head.ends_with(&format!("content-length: {}", body.len())), "{}", body.len());
        assert!(
            crate::connect::ConnectError::parse(
                hyper::StatusCode::GATEWAY_TIMEOUT,
                body.as_bytes()
            )
            .is_some()
        );
    }

    #[tokio::test(start_paused = true)]
    async fn what_stops_is_told_and_what_moves_is_not() {
        const SECOND: Duration = Duration::from_secs(1);
        let progress = Progress::default();
        let (head, write) = (10 * SECOND, 20 * SECOND);
        let stops = || progress.stops(Patience { head, write, idle: None });
        let idle = tokio::time::timeout(100 * SECOND, stops()).await;
        assert!(idle.is_err(), "nothing is waited for");
        progress.set(HEAD);
        let begun = Instant::now();
        assert_eq!(stops().await, Stopped::Head);
        assert!((10 * SECOND..16 * SECOND).contains(&begun.elapsed()));
        progress.request(false);
        for _ in 0..30 {
            // Each piece is taken after nine seconds.
            progress.set(WRITE);
            assert!(tokio::time::timeout(9 * SECOND, stops()).await.is_err());
            progress.set(NOTHING);
        }
        progress.set(WRITE);
        assert_eq!(stops().await, Stopped::Write);
    }

    #[tokio::test(start_paused = true)]
    async fn a_connection_is_idle_from_its_last_answer_on() {
        const SECOND: Duration = Duration::from_secs(1);
        let progress = Progress::default();
        let patience = Patience { head: 60 * SECOND, write: 60 * SECOND, idle: Some(20 * SECOND) };
        let stops = || progress.stops(patience);
        let begun = Instant::now();
        assert_eq!(stops().await, Stopped::Idle);
        assert!((20 * SECOND..=25 * SECOND).contains(&begun.elapsed()));
        progress.set(HEAD);
        progress.request(false);
        let served = async {
            // An answer that takes long is no idleness.
            sleep(100 * SECOND).await;
            progress.answered();
        };
        let begun = Instant::now();
        let (stopped, ()) = tokio::join!(stops(), served);
        assert_eq!(stopped, Stopped::Idle);
        assert!((120 * SECOND..=130 * SECOND).contains(&begun.elapsed()), "{:?}", begun.elapsed());
    }
}
