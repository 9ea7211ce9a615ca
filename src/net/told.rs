//! A TCP connection that remembers whether the other end broke it.

use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::task::{Context, Poll};

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::TcpStream;

/// Remembers that the other end reset the connection. An idle one that is reset counts as ended in order
/// to the library above, but its last answer may not have been read.
pub(super) struct Told {
    stream: TcpStream,
    broken: Arc<AtomicBool>,
    /// TLS is spoken on it.
    tls: bool,
}

impl Told {
    /// Tells `broken`.
    pub(super) fn new(stream: TcpStream, tls: bool, broken: Arc<AtomicBool>) -> Self {
        Self { stream, broken, tls }
    }

    fn note<T>(&self, result: Poll<io::Result<T>>) -> Poll<io::Result<T>> {
        if let Poll::Ready(Err(_)) = &result {
            self.broken.store(true, Ordering::Relaxed);
        }
        result
    }
}

impl AsyncRead for Told {
    fn poll_read(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let read = Pin::new(&mut self.stream).poll_read(context, buffer);
        self.note(read)
    }
}

impl AsyncWrite for Told {
    fn poll_write(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        let written = Pin::new(&mut self.stream).poll_write(context, bytes);
        self.note(written)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        pieces: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let written = Pin::new(&mut self.stream).poll_write_vectored(context, pieces);
        self.note(written)
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(context)
    }

    /// As the stream does it, but a connection that was reset meanwhile is told: the stream takes it for
    /// one that is closed already. The farewell of TLS is written before this, and tells it itself; one
    /// who has left in order answers it with a reset.
    fn poll_shutdown(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        let shut = rustix::net::shutdown(&self.stream, rustix::net::Shutdown::Write);
        if !self.tls {
            let _ = self.note(Poll::Ready(shut.map_err(io::Error::from)));
        }
        Poll::Ready(Ok(()))
    }
}
