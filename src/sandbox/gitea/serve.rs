//! Sockets, connections, and the way of a request through the stand-in.

use std::borrow::Cow;
use std::convert::Infallible;
use std::io;
use std::net::{Ipv4Addr, SocketAddr};
use std::os::fd::{AsFd, OwnedFd};
use std::sync::atomic::{AtomicI64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, SystemTime};

use bytes::Bytes;
use futures_util::future::Either;
use http_body_util::BodyExt;
use hyper::Request;
use hyper::body::Incoming;
use hyper::header::{self, HeaderValue};
use hyper::http::request::Parts;
use hyper::service::service_fn;
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::server::WebPkiClientVerifier;
use secrecy::ExposeSecret;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::{TcpListener, TcpSocket, TcpStream};
use tokio::sync::Notify;
use tokio_rustls::TlsAcceptor;
use tokio_util::sync::{CancellationToken, DropGuard};
use tokio_util::task::TaskTracker;

use super::fault::{Effect, Faults, When};
use super::journal::Journal;
use super::reply::{Reply, bare, http_date, not_found};
use super::state::{Moment, State};
use super::version::Abilities;
use super::{Options, Tls, extra, rest, route, rpc};

/// So far before the start time is counted from, so that seeds may lie in the past.
const PAST: Duration = Duration::from_secs(365 * 24 * 3600);
const BACKLOG: u32 = 1024;

/// What all connections share.
pub(super) struct Shared {
    pub(super) options: Options,
    pub(super) abilities: Abilities,
    pub(super) faults: Faults,
    pub(super) journal: Journal,
    pub(super) changed: Notify,
    state: Mutex<State>,
    started: tokio::time::Instant,
    url: String,
    /// Seconds by which its clock is ahead.
    skew: AtomicI64,
}

impl Shared {
    pub(super) fn new(options: Options, address: SocketAddr) -> Self {
        let scheme = if options.tls.is_some() { "https" } else { "http" };
        Self {
            url: format!("{scheme}://{address}{}", options.sub_path),
            abilities: Abilities::of(&options.version),
            options,
            faults: Faults::default(),
            journal: Journal::default(),
            changed: Notify::new(),
            state: Mutex::default(),
            started: tokio::time::Instant::now(),
            skew: AtomicI64::new(0),
        }
    }

    pub(super) fn url(&self) -> &str {
        &self.url
    }

    pub(super) fn now(&self) -> Moment {
        PAST + self.started.elapsed()
    }

    pub(super) fn skew(&self, seconds: i64) {
        self.skew.store(seconds, Ordering::Relaxed);
    }

    /// Puts the time of a clock that is wrong on an answer; a right one comes from hyper.
    fn dated(&self, mut reply: Reply) -> Reply {
        let skew = self.skew.load(Ordering::Relaxed);
        let ahead = Duration::from_secs(skew.unsigned_abs());
        let now = SystemTime::now();
        let shown = if skew < 0 { now.checked_sub(ahead) } else { now.checked_add(ahead) };
        if let Some(date) = shown.filter(|_| skew != 0).and_then(http_date) {
            reply.headers_mut().insert(header::DATE, date);
        }
        reply
    }

    pub(super) fn look<T>(&self, look: impl FnOnce(&State) -> T) -> T {
        look(&self.state.lock().unwrap_or_else(PoisonError::into_inner))
    }

    pub(super) fn change<T>(&self, change: impl FnOnce(&mut State) -> T) -> T {
        let changed = change(&mut self.state.lock().unwrap_or_else(PoisonError::into_inner));
        self.changed.notify_waiters();
        changed
    }

    /// Gitea's configured root address, with a slash at its end.
    pub(super) fn own_root_url(&self) -> String {
        self.options.root_url.clone().unwrap_or_else(|| format!("{}/", self.url))
    }

    /// The root address that links in a task begin with: as the request names it where a proxy says so.
    pub(super) fn root_url(&self, head: &Parts) -> String {
        let header = |name: &str| head.headers.get(name).and_then(|value| value.to_str().ok());
        let host = header("host").or(head.uri.authority().map(|authority| authority.as_str()));
        match (header("x-forwarded-proto"), host) {
            (Some(proto), Some(host)) => format!("{proto}://{host}{}/", self.options.sub_path),
            _ => self.own_root_url(),
        }
    }
}

/// The listener and its connections; they end when this is dropped.
pub(super) struct Server {
    shared: Arc<Shared>,
    acceptor: Option<TlsAcceptor>,
    address: SocketAddr,
    running: tokio::sync::Mutex<Running>,
}

enum Running {
    Up {
        ending: DropGuard,
        tasks: TaskTracker,
    },
    /// Bound, but not listening: connections are refused, and nobody else gets the port.
    Down(TcpSocket),
    Stopped,
}

impl Server {
    pub(super) fn start(options: Options) -> io::Result<Self> {
        let acceptor = options.tls.as_ref().map(acceptor).transpose()?;
        let socket = bind(SocketAddr::from((Ipv4Addr::LOCALHOST, 0)))?;
        let address = socket.local_addr()?;
        let shared = Arc::new(Shared::new(options, address));
        let running = up(&shared, acceptor.as_ref(), socket)?;
        Ok(Self { shared, acceptor, address, running: tokio::sync::Mutex::new(running) })
    }

    pub(super) fn shared(&self) -> &Arc<Shared> {
        &self.shared
    }

    pub(super) async fn set_down(&self) -> io::Result<()> {
        let mut running = self.running.lock().await;
        if matches!(*running, Running::Up { .. }) {
            end(std::mem::replace(&mut *running, Running::Stopped)).await;
            *running = Running::Down(bind(self.address)?);
        }
        Ok(())
    }

    pub(super) async fn set_up(&self) -> io::Result<()> {
        let mut running = self.running.lock().await;
        let socket = match std::mem::replace(&mut *running, Running::Stopped) {
            Running::Up { ending, tasks } => {
                *running = Running::Up { ending, tasks };
                return Ok(());
            }
            Running::Down(socket) => socket,
            Running::Stopped => bind(self.address)?,
        };
        *running = up(&self.shared, self.acceptor.as_ref(), socket)?;
        Ok(())
    }

    pub(super) async fn stop(&self) {
        let mut running = self.running.lock().await;
        end(std::mem::replace(&mut *running, Running::Stopped)).await;
    }
}

fn acceptor(tls: &Tls) -> io::Result<TlsAcceptor> {
    let chain = CertificateDer::pem_slice_iter(tls.certificate_pem.as_bytes())
        .collect::<Result<Vec<_>, _>>()
        .map_err(io::Error::other)?;
    let key = PrivateKeyDer::from_pem_slice(tls.key_pem.expose_secret().as_bytes())
        .map_err(io::Error::other)?;
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let builder = rustls::ServerConfig::builder_with_provider(Arc::clone(&provider))
        .with_safe_default_protocol_versions()
        .map_err(io::Error::other)?;
    let builder = match &tls.client_ca_pem {
        None => builder.with_no_client_auth(),
        Some(pem) => {
            let mut roots = rustls::RootCertStore::empty();
            for authority in CertificateDer::pem_slice_iter(pem.as_bytes()) {
                roots.add(authority.map_err(io::Error::other)?).map_err(io::Error::other)?;
            }
            let roots = Arc::new(roots);
            let verifier = WebPkiClientVerifier::builder_with_provider(roots, provider).build();
            builder.with_client_cert_verifier(verifier.map_err(io::Error::other)?)
        }
    };
    let mut config = builder.with_single_cert(chain, key).map_err(io::Error::other)?;
    config.alpn_protocols = if tls.http2 {
        vec![b"h2".to_vec(), b"http/1.1".to_vec()]
    } else {
        vec![b"http/1.1".to_vec()]
    };
    Ok(TlsAcceptor::from(Arc::new(config)))
}

fn bind(address: SocketAddr) -> io::Result<TcpSocket> {
    let socket = TcpSocket::new_v4()?;
    socket.set_reuseaddr(true)?;
    socket.bind(address)?;
    Ok(socket)
}

fn up(
    shared: &Arc<Shared>,
    acceptor: Option<&TlsAcceptor>,
    socket: TcpSocket,
) -> io::Result<Running> {
    let listener = socket.listen(BACKLOG)?;
    let tasks = TaskTracker::new();
    let ending = CancellationToken::new();
    let host = Host {
        shared: shared.clone(),
        acceptor: acceptor.cloned(),
        tasks: tasks.clone(),
        ending: ending.clone(),
    };
    host.spawn(host.clone().accept(listener));
    Ok(Running::Up { ending: ending.drop_guard(), tasks })
}

async fn end(running: Running) {
    if let Running::Up { ending, tasks } = running {
        drop(ending);
        tasks.close();
        tasks.wait().await;
    }
}

/// One run of the server, between two times of being down.
#[derive(Clone)]
struct Host {
    shared: Arc<Shared>,
    acceptor: Option<TlsAcceptor>,
    tasks: TaskTracker,
    ending: CancellationToken,
}

/// How a request ends with no answer; its connection ends too.
enum End {
    Reset,
    Close,
}

/// What the rules did to a request that goes on.
enum Suffered {
    Nothing,
    /// It acts once more.
    Doubled,
    /// This is in place of the right answer.
    Answer(Reply),
}

impl Host {
    /// Runs it until the server goes down.
    fn spawn<T: Send + 'static>(
        &self,
        task: impl Future<Output = T> + Send + 'static,
    ) -> tokio::task::JoinHandle<Option<T>> {
        self.tasks.spawn(self.ending.clone().run_until_cancelled_owned(task))
    }

    async fn accept(self, listener: TcpListener) {
        loop {
            // Errors here are those of one connection, or of too many open files: both pass.
            match listener.accept().await {
                Ok((stream, _)) => drop(self.spawn(self.clone().connection(stream))),
                Err(_) => tokio::time::sleep(Duration::from_millis(10)).await,
            }
        }
    }

    async fn connection(self, stream: TcpStream) {
        // A second handle on the socket: hyper owns the first.
        let Ok(socket) = stream.as_fd().try_clone_to_owned() else { return };
        let _ = stream.set_nodelay(true);
        match self.acceptor.clone() {
            None => self.http(stream, socket, false).await,
            Some(acceptor) => {
                if let Ok(stream) = acceptor.accept(stream).await {
                    let http2 = stream.get_ref().1.alpn_protocol() == Some(b"h2");
                    self.http(stream, socket, http2).await;
                }
            }
        }
    }

    async fn http<S>(self, stream: S, socket: OwnedFd, http2: bool)
    where
        S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
    {
        let (ended, mut endings) = tokio::sync::mpsc::channel(1);
        let service = service_fn(move |request| {
            let (host, ended) = (self.clone(), ended.clone());
            async move {
                match host.handle(request).await {
                    Ok(reply) => Ok::<_, Infallible>(host.shared.dated(reply)),
                    Err(end) => {
                        let _ = ended.send(end).await;
                        std::future::pending().await
                    }
                }
            }
        });
        let io = TokioIo::new(stream);
        let serving = if http2 {
            let server = hyper::server::conn::http2::Builder::new(TokioExecutor::new());
            Either::Left(server.serve_connection(io, service))
        } else {
            let mut server = hyper::server::conn::http1::Builder::new();
            server.timer(TokioTimer::new()).header_read_timeout(None).title_case_headers(true);
            Either::Right(server.serve_connection(io, service))
        };
        tokio::select! {
            _ = serving => {}
            end = endings.recv() => {
                if matches!(end, Some(End::Reset)) {
                    let _ = rustix::net::sockopt::set_socket_linger(&socket, Some(Duration::ZERO));
                }
            }
        }
    }

    async fn handle(&self, request: Request<Incoming>) -> Result<Reply, End> {
        let (head, body) = request.into_parts();
        let number = self.shared.journal.arrived(&head);
        let reply = self.answer(number, head, body).await;
        self.shared.journal.answered(number);
        reply
    }

    async fn answer(&self, number: u64, head: Parts, body: Incoming) -> Result<Reply, End> {
        let shared = &self.shared;
        let path = route::normalize(head.uri.path(), &shared.options.sub_path);
        let path = path.map(Cow::into_owned);
        if let Some(path) = path.as_deref().filter(|path| extra::is_streamed(path)) {
            shared.journal.completed(number, &Bytes::new());
            if let Suffered::Answer(answer) = self.suffer(&head, path, When::BeforeActing).await? {
                return Ok(answer);
            }
            let reply = extra::answer(&head, path, body).await.map_err(|_| End::Close)?;
            return Ok(match self.suffer(&head, path, When::AfterActing).await? {
                Suffered::Answer(spoilt) => spoilt,
                Suffered::Nothing | Suffered::Doubled => reply,
            });
        }
        let body = body.collect().await.map_err(|_| End::Close)?.to_bytes();
        shared.journal.completed(number, &body);
        let Some(path) = path else { return Ok(not_found()) };
        // In a task of its own: Gitea acts even if the client hangs up.
        let host = self.clone();
        let acting = self.spawn(async move { host.act(&head, &path, &body).await });
        acting.await.ok().flatten().unwrap_or(Err(End::Close))
    }

    async fn act(&self, head: &Parts, path: &str, body: &Bytes) -> Result<Reply, End> {
        let picked = self.shared.look(|state| state.picked.len());
        let act = || {
            rpc::answer(&self.shared, head, path, body, picked)
                .or_else(|| rest::answer(&self.shared, head, path, body))
                .unwrap_or_else(not_found)
        };
        match self.suffer(head, path, When::BeforeActing).await? {
            Suffered::Answer(answer) => return Ok(answer),
            Suffered::Doubled => drop(act()),
            Suffered::Nothing => {}
        }
        let reply = act();
        Ok(match self.suffer(head, path, When::AfterActing).await? {
            Suffered::Answer(spoilt) => spoilt,
            Suffered::Doubled => act(),
            Suffered::Nothing => reply,
        })
    }

    /// Applies the rules that match.
    async fn suffer(&self, head: &Parts, path: &str, when: When) -> Result<Suffered, End> {
        let mut passed = 0;
        let mut suffered = Suffered::Nothing;
        while let Some((id, effect)) = self.shared.faults.take(passed, &head.method, path, when) {
            passed = id;
            match effect {
                Effect::Delay(pause) => tokio::time::sleep(pause).await,
                Effect::Reset => return Err(End::Reset),
                Effect::Close => return Err(End::Close),
                Effect::Stall => std::future::pending().await,
                Effect::Gate(gate) => gate.pass().await,
                Effect::Doubled => suffered = Suffered::Doubled,
                Effect::Answer(answer) => {
                    let mut reply = bare(answer.status, answer.body);
                    for (name, value) in answer.headers {
                        if let Ok(value) = HeaderValue::try_from(value) {
                            reply.headers_mut().append(name, value);
                        }
                    }
                    return Ok(Suffered::Answer(reply));
                }
            }
        }
        Ok(suffered)
    }
}
