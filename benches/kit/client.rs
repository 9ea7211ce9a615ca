//! Clients: a thread a connection, which sends recorded bytes and reads answers whole.

use std::io::{self, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::num::NonZero;
use std::sync::{Arc, Barrier};
use std::thread;
use std::time::{Duration, Instant};

use rustls::pki_types::ServerName;
use rustls::{ClientConfig, ClientConnection, StreamOwned};

use super::wire;

/// An answer that takes longer is a failure.
const PATIENCE: Duration = Duration::from_secs(30);

/// Where clients dial.
#[derive(Clone)]
pub(crate) struct Target {
    /// The address.
    pub(crate) address: SocketAddr,
    /// How TLS is spoken, where it is.
    pub(crate) tls: Option<Arc<ClientConfig>>,
    /// What is sent comes back, and is no HTTP.
    pub(crate) echoes: bool,
}

trait Stream: Read + Write + Send {}
impl<S: Read + Write + Send> Stream for S {}

/// One connection.
pub(crate) struct Client {
    stream: Box<dyn Stream>,
    buffer: Vec<u8>,
    echoes: bool,
}

impl Client {
    /// Dials, and shakes hands.
    pub(crate) fn dial(target: &Target) -> io::Result<Self> {
        let mut tcp = TcpStream::connect(target.address)?;
        tcp.set_nodelay(true)?;
        tcp.set_read_timeout(Some(PATIENCE))?;
        let stream: Box<dyn Stream> = match &target.tls {
            None => Box::new(tcp),
            Some(config) => {
                let name = ServerName::try_from("localhost").map_err(io::Error::other)?;
                let mut tls =
                    ClientConnection::new(Arc::clone(config), name).map_err(io::Error::other)?;
                while tls.is_handshaking() {
                    tls.complete_io(&mut tcp)?;
                }
                Box::new(StreamOwned::new(tls, tcp))
            }
        };
        Ok(Self { stream, buffer: vec![0; 64 * 1024], echoes: target.echoes })
    }

    /// Sends a request and reads the answer, which has to be a good one.
    pub(crate) fn exchange(&mut self, request: &[u8]) -> io::Result<()> {
        self.stream.write_all(request)?;
        match self.echoes {
            true => self.stream.read_exact(&mut self.buffer[..request.len()]),
            false => match self.answer()? {
                0 => Err(io::Error::other("the answer is empty: it is not the back end's")),
                _ => Ok(()),
            },
        }
    }

    /// Reads an answer whole. The length of its body.
    fn answer(&mut self) -> io::Result<u64> {
        let mut filled = 0;
        let (head, length) = loop {
            match self.stream.read(&mut self.buffer[filled..])? {
                0 => return Err(io::ErrorKind::UnexpectedEof.into()),
                read => filled += read,
            }
            let seen = &self.buffer[..filled];
            if let Some(end) = seen.windows(4).position(|bytes| bytes == b"\r\n\r\n") {
                let head = std::str::from_utf8(&seen[..end]).map_err(io::Error::other)?;
                break (end + 4, length(head)?);
            }
        };
        let mut left = length - (filled - head) as u64;
        while left > 0 {
            match self.stream.read(&mut self.buffer)? {
                0 => return Err(io::ErrorKind::UnexpectedEof.into()),
                read => left -= read as u64,
            }
        }
        Ok(length)
    }

    /// Takes so many bytes.
    pub(crate) fn download(&mut self, bytes: u64) -> io::Result<()> {
        write!(self.stream, "GET /down?bytes={bytes} HTTP/1.1\r\nHost: localhost\r\n\r\n")?;
        match self.answer()? == bytes {
            true => Ok(()),
            false => Err(io::Error::other("the answer has another length")),
        }
    }

    /// Gives so many bytes.
    pub(crate) fn upload(&mut self, bytes: u64) -> io::Result<()> {
        let head =
            format!("PUT /up HTTP/1.1\r\nHost: localhost\r\nContent-Length: {bytes}\r\n\r\n");
        self.stream.write_all(head.as_bytes())?;
        let piece = vec![0; 64 * 1024];
        let mut left = bytes;
        while left > 0 {
            let next = left.min(piece.len() as u64);
            self.stream.write_all(&piece[..next as usize])?;
            left -= next;
        }
        self.answer().map(|_| ())
    }
}

fn length(head: &str) -> io::Result<u64> {
    let wrong = || io::Error::other(format!("no good answer: {head}"));
    let mut lines = head.split("\r\n");
    if !lines.next().is_some_and(|line| line.starts_with("HTTP/1.1 200")) {
        return Err(wrong());
    }
    let value = lines.find_map(|line| {
        let (name, value) = line.split_once(':')?;
        name.eq_ignore_ascii_case("content-length").then(|| value.trim().parse().ok())?
    });
    value.ok_or_else(wrong)
}

/// As many connections as that, each a runner's that has declared itself.
pub(crate) fn runners(target: &Target, count: usize) -> io::Result<Vec<Client>> {
    let declare = wire::declare();
    (0..count)
        .map(|runner| {
            let mut client = Client::dial(target)?;
            if !target.echoes {
                client.exchange(&declare.request(runner))?;
            }
            Ok(client)
        })
        .collect()
}

/// Each client polls one time after the other for so long. How many polls there were, and how long it took.
pub(crate) fn closed_loop(clients: &mut [Client], time: Duration) -> io::Result<(u64, Duration)> {
    let poll = wire::poll();
    let start = Barrier::new(clients.len() + 1);
    thread::scope(|scope| {
        let threads: Vec<_> = clients
            .iter_mut()
            .enumerate()
            .map(|(runner, client)| {
                let (start, request) = (&start, poll.request(runner));
                scope.spawn(move || -> io::Result<u64> {
                    start.wait();
                    let begun = Instant::now();
                    let mut polls = 0;
                    while begun.elapsed() < time {
                        client.exchange(&request)?;
                        polls += 1;
                    }
                    Ok(polls)
                })
            })
            .collect();
        start.wait();
        let begun = Instant::now();
        let mut polls = 0;
        for thread in threads {
            polls += thread.join().expect("clients do not panic")?;
        }
        Ok((polls, begun.elapsed()))
    })
}

/// Polls at a fixed rate, whether the ones before are answered or not, for so long. The time of each from when
/// it was due, in seconds.
pub(crate) fn open_loop(clients: &mut [Client], rate: u32, time: Duration) -> io::Result<Vec<f64>> {
    let poll = wire::poll();
    let count = clients.len();
    let polls = (f64::from(rate) * time.as_secs_f64()) as usize;
    // Every thread is there when the first poll is due.
    let begin = Instant::now() + Duration::from_millis(50);
    thread::scope(|scope| {
        let threads: Vec<_> = clients
            .iter_mut()
            .enumerate()
            .map(|(runner, client)| {
                let request = poll.request(runner);
                scope.spawn(move || -> io::Result<Vec<f64>> {
                    // The system may otherwise wake it 50 microseconds late.
                    rustix::thread::set_current_timer_slack(NonZero::new(1))?;
                    let mut times = Vec::with_capacity(polls / count + 1);
                    for number in (runner..polls).step_by(count) {
                        let due = begin + Duration::from_secs_f64(number as f64 / f64::from(rate));
                        thread::sleep(due.saturating_duration_since(Instant::now()));
                        client.exchange(&request)?;
                        times.push(due.elapsed().as_secs_f64());
                    }
                    Ok(times)
                })
            })
            .collect();
        let mut times = Vec::with_capacity(polls);
        for thread in threads {
            times.extend(thread.join().expect("clients do not panic")?);
        }
        Ok(times)
    })
}
