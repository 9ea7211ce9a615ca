//! Settings become running parts here, and nowhere else.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::Arc;

use tokio::net::{TcpListener, TcpSocket, UnixListener};
use tokio::sync::mpsc;
use tokio::time::{Instant, timeout_at};
use tokio_util::sync::CancellationToken;
use tokio_util::task::{AbortOnDropHandle, TaskTracker};
use tracing::{error, info, warn};

use crate::admin::{self, Admin};
use crate::config::{Limits, Settings};
use crate::fault;
use crate::gitea::GiteaClient;
use crate::lifecycle::{Lifecycle, Timing};
use crate::net::tls::{Certificates, Handshakes, Name};
use crate::net::{self, TlsError, Upstream};
use crate::proxy::Proxy;
use crate::shutdown::{self, Schedule, Signal};
use crate::store::{Store, StoreError};
use crate::systemd;
use crate::telemetry::Metrics;

/// Why the broker cannot start.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    /// The trust in Gitea's certificate cannot be set up.
    #[error(transparent)]
    Tls(#[from] TlsError),
    /// A certificate that the broker is to show is no use.
    #[error("{0}")]
    Certificate(String),
    /// The records cannot be read or written.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// An address cannot be listened at.
    #[error(
        "{key}: cannot listen at {address}: {source}; choose another address, or end what listens there"
    )]
    Listen {
        /// The setting.
        key: &'static str,
        /// Its value.
        address: SocketAddr,
        /// What the system said.
        source: std::io::Error,
    },
    /// The Unix socket cannot be made.
    #[error("admin.socket: cannot listen at {}: {source}; its folder must be there and writable, and no other broker may use it", .path.display())]
    Socket {
        /// The setting's value.
        path: PathBuf,
        /// What the system said.
        source: std::io::Error,
    },
    /// Two metrics have one name.
    #[error("metrics: {0}")]
    Metrics(#[from] prometheus::Error),
}

/// Reads the settings again, for SIGHUP. The error is told line by line.
pub type Reload = Box<dyn Fn() -> Result<Settings, String> + Send + Sync>;

/// A broker that runs.
pub struct App {
    /// Where runners dial.
    pub runners: SocketAddr,
    /// Where metrics and health are.
    pub admin: SocketAddr,
    /// The runners and all that happens to them.
    pub lifecycle: Arc<Lifecycle>,
    reload: Reload,
    certificates: Arc<Certificates>,
    stop: CancellationToken,
    connections: TaskTracker,
    admin_stop: CancellationToken,
    socket: PathBuf,
    _background: Vec<AbortOnDropHandle<()>>,
}

impl App {
    /// Starts all parts. When it returns, runners are served.
    ///
    /// # Errors
    /// What keeps the broker from starting, and the remedy.
    pub async fn start(
        mut settings: Settings,
        reload: Reload,
        timing: Timing,
    ) -> Result<Self, StartError> {
        let metrics = Arc::new(Metrics::new()?);
        metrics.add_scopes(&settings.gitea);
        let certificates =
            Certificates::load(&settings, Arc::clone(&metrics)).map_err(StartError::Certificate)?;
        let certificates = Arc::new(certificates);
        let upstream = Upstream::showing(&settings.gitea, certificates.shown_to_gitea())?;
        let gitea = GiteaClient::new(upstream.clone(), &settings.gitea)
            .with_register_limit(timing.register);

        let path = settings.store.path.clone();
        let store = tokio::task::spawn_blocking(move || Store::open(&path))
            .await
            .unwrap_or_else(|error| std::panic::resume_unwind(error.into_panic()))?;
        warn_of_volatile_store(&settings);
        settings.limits = within_descriptors(settings.limits);

        let runners = listen("listen.runners", settings.listen.runners)?;
        let admin = listen("admin.listen", settings.admin.listen)?;
        let socket = settings.admin.socket.clone();
        let unix = unix_socket(&socket)
            .map_err(|source| StartError::Socket { path: socket.clone(), source })?;
        let handshakes = |name: Name| {
            let listener = certificates.listener(name)?;
            let failures = metrics.handshake_failures(name.as_str());
            Some(Handshakes::new(listener, name, failures, timing.handshake))
        };
        let (of_runners, of_admin) = (handshakes(Name::Runners), handshakes(Name::Admin));
        let lifecycle = Lifecycle::load(Arc::new(settings), store, gitea, metrics, timing).await?;

        let app = Self {
            runners: runners.local_addr().map_err(|source| StartError::Listen {
                key: "listen.runners",
                address: lifecycle.settings.load().listen.runners,
                source,
            })?,
            admin: admin.local_addr().map_err(|source| StartError::Listen {
                key: "admin.listen",
                address: lifecycle.settings.load().admin.listen,
                source,
            })?,
            reload,
            certificates: Arc::clone(&certificates),
            stop: CancellationToken::new(),
            connections: TaskTracker::new(),
            admin_stop: CancellationToken::new(),
            socket,
            _background: vec![
                spawn(Arc::clone(&lifecycle).keep_settling()),
                spawn(Arc::clone(&lifecycle).keep_declaring()),
                spawn(Arc::clone(&lifecycle).keep_writing()),
                spawn(Arc::clone(&lifecycle).keep_probing()),
                spawn(Arc::clone(&lifecycle).keep_pruning()),
                spawn(Arc::clone(&lifecycle).keep_leases()),
                spawn(Arc::clone(&lifecycle).keep_draining()),
                spawn(Arc::clone(&certificates).keep_reading(timing.certificates)),
            ],
            lifecycle,
        };
        let proxy = Arc::new(Proxy::new(Arc::clone(&app.lifecycle), upstream));
        let (stop, connections) = (app.stop.clone(), app.connections.clone());
        tokio::spawn(net::accept::serve(runners, of_runners, proxy, stop, connections));
        let shown = Admin {
            lifecycle: Arc::clone(&app.lifecycle),
            runners: app.runners,
            listen: app.admin,
            socket: app.socket.clone(),
            started: std::time::Instant::now(),
            failures: admin::Failures::default(),
            certificates,
        };
        tokio::spawn(admin::serve_tcp(admin, of_admin, shown.clone(), app.admin_stop.clone()));
        tokio::spawn(admin::serve_unix(unix, shown, app.admin_stop.clone()));
        info!(
            runners = %app.runners,
            admin = %app.admin,
            socket = %app.socket.display(),
            gitea = %app.lifecycle.settings.load().gitea.url,
            known = app.lifecycle.roster.len(),
            "listening"
        );
        Ok(app)
    }

    /// Runs until it is told to end, and ends in order.
    pub async fn run(self, signals: &mut mpsc::Receiver<Signal>) {
        let quit = loop {
            match signals.recv().await {
                Some(Signal::Reload) => self.reload(),
                Some(Signal::Quit) => break true,
                Some(Signal::Terminate) | None => break false,
            }
        };
        systemd::stopping();
        let begun = Instant::now();
        let mut schedule = {
            let shutdown = &self.lifecycle.settings.load().shutdown;
            Schedule::new(begun, shutdown.drain_timeout, shutdown.deadline)
        };
        let mut at_once = quit;
        if quit {
            info!("leaving at once: every registration is kept");
            self.lifecycle.begin_drain();
        } else {
            let drain = shutdown::drain(&self.lifecycle, schedule);
            at_once = told_again(signals, schedule, drain).await;
        }
        // The broker itself closes the connections now; that tells nothing about the runners.
        let presences = shutdown::presences(&self.lifecycle);
        self.stop.cancel();
        self.connections.close();
        if !at_once {
            let ended = async {
                self.connections.wait().await;
                self.lifecycle.settle_running().await;
            };
            at_once = told_again(signals, schedule, ended).await;
        }
        if at_once {
            schedule = Schedule::at_once(Instant::now());
        }
        fault::point("connections-closed");
        shutdown::flush(&self.lifecycle, schedule, &presences).await;
        fault::point("flushed");
        self.admin_stop.cancel();
        // The deadline holds for a disk that hangs, too.
        match timeout_at(schedule.last_write(), self.lifecycle.store.close()).await {
            Ok(Ok(())) => {}
            Ok(Err(error)) => error!(%error, "the store was not closed in order"),
            Err(_) => error!("the store did not close in time; what was confirmed is on disk"),
        }
        fault::point("store-closed");
        if let Err(error) = std::fs::remove_file(&self.socket) {
            warn!(%error, socket = %self.socket.display(), "the admin socket was not removed");
        }
        info!(took_ms = begun.elapsed().as_millis(), "stopped");
    }

    /// SIGHUP: what can change while the broker runs changes; a mistake changes nothing.
    fn reload(&self) {
        systemd::reloading();
        let new = match (self.reload)() {
            Ok(new) => new,
            Err(problems) => {
                for problem in problems.lines() {
                    error!(problem, "settings not read again: the old ones stay in force");
                }
                systemd::reloaded("serving runners; the changed settings are wrong, see the log");
                return;
            }
        };
        let old = self.lifecycle.settings.load_full();
        for (key, changed) in [
            ("listen.runners", new.listen.runners != old.listen.runners),
            ("admin.listen", new.admin.listen != old.admin.listen),
            ("admin.socket", new.admin.socket != old.admin.socket),
            ("admin.public_url", new.admin.public_url != old.admin.public_url),
            ("gitea.url", new.gitea.url != old.gitea.url),
            ("listen.tls", new.listen.tls.is_some() != old.listen.tls.is_some()),
            ("admin.tls", new.admin.tls.is_some() != old.admin.tls.is_some()),
            ("gitea.client_cert_file", new.gitea.client.is_some() != old.gitea.client.is_some()),
            ("gitea.ca_file", new.gitea.ca_file != old.gitea.ca_file),
            ("store.url", new.store.path != old.store.path),
            ("log.level", new.log.level != old.log.level),
            ("log.format", new.log.format != old.log.format),
        ] {
            if changed {
                warn!(key, "this setting changes with a restart only");
            }
        }
        // What needs a restart keeps its old value, so that all parts agree.
        let gitea = crate::config::Gitea {
            url: old.gitea.url.clone(),
            ca_file: old.gitea.ca_file.clone(),
            client: same(new.gitea.client, &old.gitea.client),
            ..new.gitea
        };
        let listen = crate::config::Listen {
            runners: old.listen.runners,
            tls: same(new.listen.tls, &old.listen.tls),
            ..new.listen
        };
        let admin = crate::config::Admin {
            listen: old.admin.listen,
            socket: old.admin.socket.clone(),
            public_url: old.admin.public_url.clone(),
            tls: same(new.admin.tls, &old.admin.tls),
            ..new.admin
        };
        let store = crate::config::Store { path: old.store.path.clone(), ..new.store };
        let limits = within_descriptors(new.limits);
        let settings = Settings { listen, limits, gitea, admin, store, log: old.log, ..new };
        self.certificates.follow(&settings);
        self.lifecycle.gitea.set_tokens(&settings.gitea);
        self.lifecycle.metrics.add_scopes(&settings.gitea);
        self.lifecycle.settings.store(Arc::new(settings));
        // Not waited for: a disk that hangs must not keep the signals from being heard.
        let lifecycle = Arc::clone(&self.lifecycle);
        tokio::spawn(async move {
            lifecycle.declare_tokens().await;
            systemd::reloaded("serving runners by the settings as read again");
        });
        self.lifecycle.declare_runners();
        // What failed by the old settings may work by the new ones.
        self.lifecycle.settle_soon();
        self.lifecycle.look_at_leases();
        info!("settings read again");
    }
}

/// The new value where both are there: what is on stays on, and what is off stays off.
fn same<T: Clone>(new: Option<T>, old: &Option<T>) -> Option<T> {
    old.as_ref().map(|old| new.unwrap_or_else(|| old.clone()))
}

/// Waits for `work`, no longer than the schedule says. Returns whether a second signal ended the waiting.
async fn told_again(
    signals: &mut mpsc::Receiver<Signal>,
    schedule: Schedule,
    work: impl Future<Output = ()>,
) -> bool {
    tokio::select! {
        done = timeout_at(schedule.last_call(), work) => {
            if done.is_err() {
                warn!("not all has ended in time; what is left is settled at the next start");
            }
            false
        }
        () = second(signals) => {
            info!("told again: not waiting any longer");
            true
        }
    }
}

/// Waits for the signal that ends the waiting.
async fn second(signals: &mut mpsc::Receiver<Signal>) {
    loop {
        match signals.recv().await {
            Some(Signal::Terminate | Signal::Quit) => return,
            Some(Signal::Reload) => {}
            None => std::future::pending().await,
        }
    }
}

/// Connections that the kernel takes while the broker is at something else, as far as `somaxconn` lets it. One more
/// is tried again by its client after a second or three.
const BACKLOG: u32 = 4096;

fn listen(key: &'static str, address: SocketAddr) -> Result<TcpListener, StartError> {
    let listening = || {
        let socket = match address {
            SocketAddr::V4(_) => TcpSocket::new_v4()?,
            SocketAddr::V6(_) => TcpSocket::new_v6()?,
        };
        // As a restart needs it: connections of before may still linger.
        socket.set_reuseaddr(true)?;
        socket.bind(address)?;
        socket.listen(BACKLOG)
    };
    listening().map_err(|source| StartError::Listen { key, address, source })
}

/// Only the broker's own user may dial it. One that an earlier process left behind is replaced; one that
/// answers is another broker's.
fn unix_socket(path: &std::path::Path) -> std::io::Result<UnixListener> {
    use std::os::unix::fs::{FileTypeExt, PermissionsExt};
    match std::os::unix::net::UnixStream::connect(path) {
        Ok(_) => return Err(std::io::ErrorKind::AddrInUse.into()),
        Err(_) => {
            if std::fs::symlink_metadata(path).is_ok_and(|found| found.file_type().is_socket()) {
                std::fs::remove_file(path)?;
            }
        }
    }
    let listener = UnixListener::bind(path)?;
    // The umask of `serve` has kept others out from the start; this also undoes a wider default ACL.
    std::fs::set_permissions(path, std::fs::Permissions::from_mode(0o600))?;
    Ok(listener)
}

/// With fewer, some runners of a large site may be refused.
const FEW_CONNECTIONS: usize = 1024;

/// What the system's limit of open files allows of the settings.
fn within_descriptors(set: Limits) -> Limits {
    let descriptors = net::descriptors::limit();
    let limits = set.within_descriptors(descriptors);
    if limits != set {
        let (connections, requests) = (limits.connections, limits.requests);
        let message = "the limit of open files allows fewer connections and requests than [limits] does: raise \
                       it (ulimit -n, LimitNOFILE=) if that is too few";
        if connections < FEW_CONNECTIONS {
            warn!(connections, requests, descriptors, "{message}");
        } else {
            info!(connections, requests, descriptors, "{message}");
        }
    }
    limits
}

fn warn_of_volatile_store(settings: &Settings) {
    let folder = settings.store.path.parent();
    if settings.store.path.starts_with("/var/lib/runner-broker")
        && folder.and_then(crate::store::folder_is_mount) == Some(false)
    {
        warn!(
            folder = %folder.unwrap_or(&settings.store.path).display(),
            "the store's folder is no mount: in a container, its records go with it; mount a volume there"
        );
    }
}

fn spawn(task: impl Future<Output = ()> + Send + 'static) -> AbortOnDropHandle<()> {
    AbortOnDropHandle::new(tokio::spawn(task))
}
