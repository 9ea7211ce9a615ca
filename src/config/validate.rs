//! Makes [`Settings`] of the merged layers, with the rules that hold between keys.

use std::fs;
use std::ops::RangeInclusive;
use std::path::{Path, PathBuf};
use std::time::Duration;

use hyper::header::HeaderName;
use ipnet::IpNet;
use rustls::pki_types::CertificateDer;
use rustls::pki_types::pem::PemObject;

use super::forms::{Expiry, FilePath, Mode, StoreUrl};
use super::problem::Problem;
use super::reader::Reader;
use super::value::Setting;
use super::{
    Admin, Credentials, Enrollment, Gitea, Lease, Listen, Log, Pass, Scope, Settings, Shutdown,
    Store, limits, own, runners, scopes, secret, tls, tokens,
};
use crate::net::tls::Name;

/// All settings; `None` where one that is needed is missing or wrong. What is wrong is noted in the
/// reader, and the settings are of use only where nothing is.
pub(super) fn settings(reader: &mut Reader) -> Option<Settings> {
    let listen = listen(reader);
    let limits = limits::limits(reader);
    let admin = admin(reader);
    let listeners = [(Name::Runners, &listen.tls), (Name::Admin, &admin.tls)];
    for (name, of) in listeners.into_iter().filter_map(|(name, of)| Some((name, of.as_ref()?))) {
        tls::check_listener(reader, name, of);
    }
    let (scopes, gitea) = gitea(reader);
    let enrollment = enrollment(reader, &scopes);
    own::distinct(reader);
    let credentials = credentials(reader);
    let labels = reader.labels();
    let given = runners::Given {
        listen: &listen,
        credentials: &credentials,
        forms: &labels,
        scopes: &scopes,
    };
    let runners = runners::declared(reader, &given);
    Some(Settings {
        listen,
        limits,
        admin,
        credentials,
        labels,
        lease: lease(reader),
        runners,
        shutdown: shutdown(reader),
        store: store(reader),
        log: log(reader),
        gitea: gitea?,
        enrollment,
    })
}

fn listen(reader: &mut Reader) -> Listen {
    Listen {
        runners: reader.or("listen.runners", Listen::default().runners),
        public_url: reader.optional("listen.public_url"),
        trusted_proxies: reader.list("listen.trusted_proxies"),
        pass: reader.or("listen.pass", Pass::default()),
        tls: tls::listener(reader, Name::Runners),
    }
}

/// Its files are not read: the commands need none of them.
pub(super) fn admin(reader: &mut Reader) -> Admin {
    let default = Admin::default();
    let listen = reader.or("admin.listen", default.listen);
    let socket = reader.or("admin.socket", default.socket);
    // The system's limit for the path of a Unix socket.
    if socket.as_os_str().len() > 107 {
        let origin = reader.origin("admin.socket");
        reader.problem(
            "admin.socket",
            &origin,
            "is longer than the 107 bytes of a socket's path: give a shorter one".into(),
        );
    }
    let token = own::secret(reader, "admin.token", None);
    let public_url = reader.optional("admin.public_url");
    let trusted_proxies = reader.list("admin.trusted_proxies");
    let user_header = user_header(reader, &trusted_proxies);
    let allow_cidrs = reader.list("admin.allow_cidrs");
    let tls = tls::listener(reader, Name::Admin);
    Admin { listen, socket, token, public_url, trusted_proxies, user_header, allow_cidrs, tls }
}

fn user_header(reader: &mut Reader, proxies: &[IpNet]) -> Option<HeaderName> {
    const KEY: &str = "admin.user_header";
    let header = reader.optional(KEY)?;
    let wrong = |problem: &Problem| problem.key == "admin.trusted_proxies";
    if proxies.is_empty() && !reader.problems.iter().any(wrong) {
        let origin = reader.origin(KEY);
        reader.problem(
            KEY,
            &origin,
            "is believed from trusted proxies alone: set admin.trusted_proxies too, or leave it out"
                .into(),
        );
    }
    Some(header)
}

/// The scopes stand for themselves, too: tokens and runners need them where the rest is wrong.
fn gitea(reader: &mut Reader) -> (Vec<Scope>, Option<Gitea>) {
    let url = reader.required(
        "gitea.url",
        "give Gitea's address, for example http://gitea:3000 (GITEA_INSTANCE_URL works too)",
    );
    let served = scopes::served(reader);
    let ca_file = reader.optional("gitea.ca_file").filter(|path: &PathBuf| {
        certificates(path)
            .map_err(|message| {
                let origin = reader.origin("gitea.ca_file");
                reader.problem("gitea.ca_file", &origin, message);
            })
            .is_ok()
    });
    let client = tls::pair(reader, Name::Gitea);
    let lost_wakeup_workaround = reader.or("gitea.lost_wakeup_workaround", true);
    let scopes = served.iter().map(|served| served.scope.clone()).collect();
    let mut served = served.into_iter();
    let gitea = url.zip(served.next()).map(|(url, default)| Gitea {
        url,
        default,
        further: served.collect(),
        ca_file,
        client,
        lost_wakeup_workaround,
    });
    if let Some(gitea) = &gitea {
        tls::check_gitea(reader, gitea);
    }
    (scopes, gitea)
}

fn enrollment(reader: &mut Reader, scopes: &[Scope]) -> Enrollment {
    Enrollment {
        token: own::secret(reader, "enrollment.token", None),
        tokens: tokens::declared(reader, scopes),
    }
}

fn credentials(reader: &mut Reader) -> Credentials {
    let default = Credentials::default();
    Credentials {
        path: reader.or("credentials.path", FilePath(default.path)).0,
        address: reader.or("credentials.address", default.address),
        mode: reader.or("credentials.mode", Mode(default.mode)).0,
        uid: reader.optional("credentials.uid"),
        gid: reader.optional("credentials.gid"),
    }
}

/// Longer, `never` is meant.
const LONGEST_LEASE: Duration = Duration::from_secs(365 * 24 * 60 * 60);
/// The store keeps those that may be revived for so long.
const LONGEST_REVIVAL: Duration = Duration::from_secs(30 * 24 * 60 * 60);

fn lease(reader: &mut Reader) -> Lease {
    let default = Lease::default();
    let lease = Lease {
        expire_after: reader.or("lease.expire_after", Expiry(default.expire_after)).0,
        revive_within: reader.or("lease.revive_within", default.revive_within),
    };
    for (key, value, range, instead) in [
        (
            "lease.expire_after",
            lease.expire_after,
            Duration::from_secs(1)..=LONGEST_LEASE,
            ", or \"never\"",
        ),
        ("lease.revive_within", Some(lease.revive_within), Duration::ZERO..=LONGEST_REVIVAL, ""),
    ] {
        if let Some(value) = value.filter(|value| !range.contains(value)) {
            let message = format!(
                "{} is not within {} and {}: set a time that is{instead}",
                value.show(),
                range.start().show(),
                range.end().show()
            );
            let origin = reader.origin(key);
            reader.problem(key, &origin, message);
        }
    }
    lease
}

/// Beyond it, points in time cannot be told any more.
const LONGEST_DEADLINE: Duration = Duration::from_secs(24 * 60 * 60);

fn shutdown(reader: &mut Reader) -> Shutdown {
    const KEY: &str = "shutdown.drain_timeout";
    let default = Shutdown::default();
    let before = reader.problems.len();
    let shutdown = Shutdown {
        deregister: reader.or("shutdown.deregister", default.deregister),
        busy: reader.or("shutdown.busy", default.busy),
        drain_timeout: reader.or(KEY, default.drain_timeout),
        deadline: reader.or("shutdown.deadline", default.deadline),
    };
    if shutdown.deadline > LONGEST_DEADLINE {
        let message = format!(
            "{} is longer than anything waits for a process to end: set at most {}",
            shutdown.deadline.show(),
            LONGEST_DEADLINE.show()
        );
        let origin = reader.origin("shutdown.deadline");
        reader.problem("shutdown.deadline", &origin, message);
    }
    let longest = shutdown.deadline.saturating_sub(Duration::from_secs(1));
    if shutdown.drain_timeout > longest && reader.problems.len() == before {
        let message = format!(
            "{} leaves less than 1s of shutdown.deadline ({}, {}) for deregistering: \
             set at most {}, or a later deadline",
            shutdown.drain_timeout.show(),
            shutdown.deadline.show(),
            reader.origin("shutdown.deadline"),
            longest.show(),
        );
        let origin = reader.origin(KEY);
        reader.problem(KEY, &origin, message);
    }
    shutdown
}

/// Shorter, there is no trail; longer, its beginning is before all clocks.
const KEEP_EVENTS: RangeInclusive<Duration> =
    Duration::from_secs(60 * 60)..=Duration::from_secs(10 * 31_557_600);

fn store(reader: &mut Reader) -> Store {
    const KEY: &str = "store.keep_events";
    let default = Store::default();
    let path = reader.or("store.url", StoreUrl(default.path)).0;
    let keep_events = reader.or(KEY, default.keep_events);
    if !KEEP_EVENTS.contains(&keep_events) {
        let origin = reader.origin(KEY);
        let message = format!(
            "{} is not within 1h and 10years: set a time that is, for example 90days",
            keep_events.show()
        );
        reader.problem(KEY, &origin, message);
    }
    Store { path, keep_events }
}

fn log(reader: &mut Reader) -> Log {
    let default = Log::default();
    Log {
        format: reader.or("log.format", default.format),
        level: reader.or("log.level", default.level),
    }
}

/// Whether a file holds certificates and nothing broken.
fn certificates(path: &Path) -> Result<(), String> {
    let pem = fs::read(path).map_err(|error| secret::unreadable(path, &error))?;
    let found: Result<Vec<_>, _> = CertificateDer::pem_slice_iter(&pem).collect();
    match found {
        Ok(found) if !found.is_empty() => Ok(()),
        _ => Err(format!(
            "{} holds no certificate that can be read: give a PEM file",
            path.display()
        )),
    }
}
