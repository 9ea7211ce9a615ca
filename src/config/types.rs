//! What can be set, with the defaults. How the values get here is [`super::load`]'s business.

use std::collections::BTreeMap;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::path::PathBuf;
use std::time::Duration;

use hyper::Uri;
use hyper::header::HeaderName;
use ipnet::IpNet;
use secrecy::SecretString;

use super::{Limits, Pass, Scope};
use crate::broker::token::Draft;
use crate::broker::{Origin, Record};

/// All settings of the broker, complete and checked.
#[derive(Clone, Debug)]
pub struct Settings {
    /// What runners dial.
    pub listen: Listen,
    /// How much clients may take up.
    pub limits: Limits,
    /// Metrics, health and the commands.
    pub admin: Admin,
    /// The Gitea behind the broker.
    pub gitea: Gitea,
    /// Who may enroll.
    pub enrollment: Enrollment,
    /// The runner files.
    pub credentials: Credentials,
    /// Full form (`docker://node:20`) of bare label names that arrive in Register.
    pub labels: BTreeMap<String, String>,
    /// How long gone runners are kept.
    pub lease: Lease,
    /// Runners that are registered before any asks.
    pub runners: Vec<DeclaredRunner>,
    /// What happens to runners when the broker ends.
    pub shutdown: Shutdown,
    /// Where records are kept.
    pub store: Store,
    /// The log on standard error.
    pub log: Log,
}

/// `[listen]`
#[derive(Clone, Debug)]
pub struct Listen {
    /// Address of the runners' listener.
    pub runners: SocketAddr,
    /// How runners and jobs name the broker; `None`: as each dialled it.
    pub public_url: Option<Uri>,
    /// Networks of proxies whose `X-Forwarded-For` names the runner's address.
    pub trusted_proxies: Vec<IpNet>,
    /// What is passed on to Gitea.
    pub pass: Pass,
    /// `None`: plain HTTP.
    pub tls: Option<Tls>,
}

impl Default for Listen {
    fn default() -> Self {
        Self {
            runners: (Ipv4Addr::UNSPECIFIED, 8080).into(),
            public_url: None,
            trusted_proxies: Vec::new(),
            pass: Pass::default(),
            tls: None,
        }
    }
}

impl Listen {
    /// What an address of the runners' listener begins with, where no setting names one.
    #[must_use]
    pub fn scheme(&self) -> &'static str {
        if self.tls.is_some() { "https" } else { "http" }
    }

    pub(super) fn loopback_only(&self) -> bool {
        match self.runners.ip() {
            IpAddr::V4(ip) => ip.is_loopback(),
            IpAddr::V6(ip) => {
                ip.is_loopback() || ip.to_ipv4_mapped().is_some_and(|v4| v4.is_loopback())
            }
        }
    }
}

/// `[admin]`
#[derive(Clone, Debug)]
pub struct Admin {
    /// Address of the admin listener.
    pub listen: SocketAddr,
    /// Unix socket that the commands talk to.
    pub socket: PathBuf,
    /// With it the admin API and the token page are open over TCP; `None`: they are off there.
    pub token: Option<SecretString>,
    /// How people name the token page, perhaps with a sub-path; `None`: as each dialled it.
    pub public_url: Option<Uri>,
    /// Networks of proxies whose `X-Forwarded-For` and user header are believed.
    pub trusted_proxies: Vec<IpNet>,
    /// The header in which a trusted proxy names the user, who then is the actor in the events.
    pub user_header: Option<HeaderName>,
    /// Who may dial the admin listener at all; empty: everyone.
    pub allow_cidrs: Vec<IpNet>,
    /// `None`: plain HTTP.
    pub tls: Option<Tls>,
}

impl Default for Admin {
    fn default() -> Self {
        Self {
            listen: (Ipv4Addr::LOCALHOST, 8081).into(),
            socket: "/var/lib/runner-broker/admin.sock".into(),
            token: None,
            public_url: None,
            trusted_proxies: Vec::new(),
            user_header: None,
            allow_cidrs: Vec::new(),
            tls: None,
        }
    }
}

/// `[listen.tls]` or `[admin.tls]`
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Tls {
    /// What the listener shows.
    pub pair: Pair,
    /// PEM file with the authorities of which every client must show a certificate; `None`: none is asked
    /// for.
    pub client_ca: Option<PathBuf>,
}

/// The PEM files of one certificate.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Pair {
    /// The certificate, and those that lead to its authority after it.
    pub cert: PathBuf,
    /// Its private key.
    pub key: PathBuf,
}

/// `[gitea]`
#[derive(Clone, Debug)]
pub struct Gitea {
    /// Base address: http or https, an authority, perhaps a sub-path, no trailing slash, no query.
    pub url: Uri,
    /// Where those runners serve whose enrollment token names no scope.
    pub default: Served,
    /// `[[gitea.scopes]]`: the other scopes that are served; none is there twice.
    pub further: Vec<Served>,
    /// PEM file with the authorities to trust in place of the system's.
    pub ca_file: Option<PathBuf>,
    /// The certificate that the broker shows to Gitea, where it is asked for one.
    pub client: Option<Pair>,
    /// Whether a runner whose poll overlapped one that took a task keeps its old version of the tasks.
    pub lost_wakeup_workaround: bool,
}

/// A scope that runners can be registered for. At least one of the tokens is there.
#[derive(Clone, Debug)]
pub struct Served {
    /// What the keys of its settings begin with: `gitea` or `gitea.scopes[org:acme]`.
    pub section: String,
    /// Where its runners serve.
    pub scope: Scope,
    /// Gitea's secret with which runners join the scope; `None`: it is minted with the API token.
    pub registration_token: Option<SecretString>,
    /// A Gitea access token, for registration tokens, deregistration and unclear registrations.
    pub api_token: Option<SecretString>,
}

/// `[enrollment]`
#[derive(Clone, Debug, Default)]
pub struct Enrollment {
    /// One reusable token without limits.
    pub token: Option<SecretString>,
    /// `[[enrollment.tokens]]`, each by its name; no name and no secret is there twice.
    pub tokens: Vec<DeclaredToken>,
}

/// One of `[[enrollment.tokens]]`
#[derive(Clone, Debug)]
pub struct DeclaredToken {
    /// Its id: small letters, digits and `-_.`, never `settings`.
    pub name: String,
    /// What runners present.
    pub token: SecretString,
    /// Its kind, description and policy.
    pub draft: Draft,
}

/// `[credentials]`
#[derive(Clone, Debug)]
pub struct Credentials {
    /// Path of the runner file, with `{name}`, `{id}`, `{uuid}`; absolute. Used where its first folder is there.
    pub path: String,
    /// What the file says to dial.
    pub address: Address,
    /// Permission bits of the file.
    pub mode: u32,
    /// Owner of the file; `None`: the broker's.
    pub uid: Option<u32>,
    /// Group of the file; `None`: the broker's.
    pub gid: Option<u32>,
}

impl Default for Credentials {
    fn default() -> Self {
        Self {
            path: "/runners/{name}/.runner".into(),
            address: Address::Auto,
            mode: 0o600,
            uid: None,
            gid: None,
        }
    }
}

/// What a runner file says to dial.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Address {
    /// The broker, but Gitea where the broker listens on loopback only.
    Auto,
    /// The broker.
    Broker,
    /// Gitea itself.
    Gitea,
    /// This address.
    Url(Uri),
}

/// One of `[[runners]]`
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DeclaredRunner {
    /// What Gitea shows; no other declared runner has it.
    pub name: String,
    /// In full form (`ubuntu-latest:docker://node:20`), each bare name once.
    pub labels: Vec<String>,
    /// Where it serves.
    pub scope: Scope,
}

impl DeclaredRunner {
    /// Whether this is the record of it: another scope makes another runner.
    #[must_use]
    pub fn is(&self, record: &Record) -> bool {
        record.origin == Origin::Declared && record.name == self.name && record.scope == self.scope
    }

    /// The labels as Gitea knows them.
    #[must_use]
    pub fn bare_labels(&self) -> Vec<String> {
        let bare = |label: &String| match label.split_once(':') {
            Some((name, _)) => name.to_owned(),
            None => label.clone(),
        };
        self.labels.iter().map(bare).collect()
    }
}

/// `[lease]`
#[derive(Clone, Copy, Debug)]
pub struct Lease {
    /// How long a gone runner is kept before it is deregistered; `None`: for ever.
    pub expire_after: Option<Duration>,
    /// How long after that one that speaks again is registered anew.
    pub revive_within: Duration,
}

impl Default for Lease {
    fn default() -> Self {
        Self {
            expire_after: Some(Duration::from_secs(10 * 60)),
            revive_within: Duration::from_secs(24 * 60 * 60),
        }
    }
}

/// `[shutdown]`
#[derive(Clone, Debug)]
pub struct Shutdown {
    /// Which runners are deregistered at SIGTERM.
    pub deregister: Deregister,
    /// What happens to a runner with a task in hand.
    pub busy: Busy,
    /// How long runners may take to leave by themselves.
    pub drain_timeout: Duration,
    /// The broker has ended by then, counted from the signal.
    pub deadline: Duration,
}

impl Default for Shutdown {
    fn default() -> Self {
        Self {
            deregister: Deregister::Auto,
            busy: Busy::Leave,
            drain_timeout: Duration::from_secs(5),
            deadline: Duration::from_secs(9),
        }
    }
}

/// `shutdown.deregister`
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Deregister {
    /// All where the broker listens on loopback only (a sidecar: its runners end with it), else gone.
    Auto,
    /// Those that are gone, or go during the drain.
    Gone,
    /// All but the busy.
    All,
    /// None.
    None,
}

/// `shutdown.busy`
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Busy {
    /// Leave the runner registered: it goes on with its task.
    Leave,
    /// Report its task as cancelled, then deregister it.
    Cancel,
}

/// `[store]`
#[derive(Clone, Debug)]
pub struct Store {
    /// The database file, from `sqlite:PATH`.
    pub path: PathBuf,
    /// How long the audit trail is kept.
    pub keep_events: Duration,
}

impl Default for Store {
    fn default() -> Self {
        Self {
            path: "/var/lib/runner-broker/state.db".into(),
            keep_events: Duration::from_secs(90 * 24 * 60 * 60),
        }
    }
}

/// `[log]`
#[derive(Clone, Copy, Debug, Default)]
pub struct Log {
    /// How lines look.
    pub format: LogFormat,
    /// The least severe level that is written.
    pub level: LogLevel,
}

/// `log.format`
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum LogFormat {
    /// For people.
    #[default]
    Text,
    /// One JSON object a line.
    Json,
}

/// `log.level`
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum LogLevel {
    /// Only what failed.
    Error,
    /// And what needs a look.
    Warn,
    /// And what happened.
    #[default]
    Info,
    /// And why.
    Debug,
    /// And each step.
    Trace,
}

impl Gitea {
    /// All scopes that are served, the default one first.
    pub fn served(&self) -> impl Iterator<Item = &Served> {
        std::iter::once(&self.default).chain(&self.further)
    }

    /// Whether runners can be registered for this scope.
    #[must_use]
    pub fn serves(&self, scope: &Scope) -> bool {
        self.served().any(|served| served.scope == *scope)
    }

    /// The same, with a sentence for whoever names one that is not.
    ///
    /// # Errors
    /// What could be named instead.
    pub fn must_serve(&self, scope: &Scope) -> Result<(), String> {
        if self.serves(scope) {
            return Ok(());
        }
        let served: Vec<_> = self.served().map(|served| served.scope.to_string()).collect();
        Err(format!(
            "the broker does not serve {scope}: give one that it does ({}), or leave it out for the first",
            served.join(", ")
        ))
    }
}

impl Settings {
    /// Whether the runners' listener is on loopback only: the broker is then one runner's sidecar.
    #[must_use]
    pub fn loopback_only(&self) -> bool {
        self.listen.loopback_only()
    }
}
