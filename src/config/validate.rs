//! Makes [`Settings`] of the merged layers, with the rules that hold between keys.

use std::fs;
use std::path::{Path, PathBuf};
use std::time::Duration;

use rustls::pki_types::CertificateDer;
use rustls::pki_types::pem::PemObject;
use secrecy::{ExposeSecret, SecretString};

use super::forms::{FilePath, Mode, StoreUrl};
use super::reader::Reader;
use super::value::Setting;
use super::{
    Admin, Credentials, Enrollment, Gitea, Listen, Log, Scope, Settings, Shutdown, Store, secret,
};

/// All settings; `None` where one that is needed is missing or wrong. What is wrong is noted in the
/// reader, and the settings are of use only where nothing is.
pub(super) fn settings(reader: &mut Reader) -> Option<Settings> {
    let listen = listen(reader);
    let admin = admin(reader);
    let gitea = gitea(reader);
    let enrollment = enrollment(reader, gitea.as_ref());
    Some(Settings {
        listen,
        admin,
        credentials: credentials(reader),
        labels: reader.labels(),
        shutdown: shutdown(reader),
        store: store(reader),
        log: log(reader),
        gitea: gitea?,
        enrollment: enrollment?,
    })
}

fn listen(reader: &mut Reader) -> Listen {
    Listen {
        runners: reader.or("listen.runners", Listen::default().runners),
        public_url: reader.optional("listen.public_url"),
        ..Listen::default()
    }
}

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
    Admin { listen, socket, ..default }
}

fn gitea(reader: &mut Reader) -> Option<Gitea> {
    let url = reader.required(
        "gitea.url",
        "give Gitea's address, for example http://gitea:3000 (GITEA_INSTANCE_URL works too)",
    );
    let scope = reader.or("gitea.scope", Scope::Instance);
    let registration_token = reader.secret(
        "gitea.registration_token",
        Some(
            "give the token that Gitea shows under Actions, Runners, Create new Runner, in a file \
             named by gitea.registration_token_file \
             (GITEA_RUNNER_REGISTRATION_TOKEN_FILE works too)",
        ),
    );
    let api_token = reader.secret("gitea.api_token", None).filter(|token| {
        let good = is_visible(token);
        if !good {
            refuse_secret(
                reader,
                "gitea.api_token",
                "holds what no token of Gitea does: give it as Gitea showed it",
            );
        }
        good
    });
    let ca_file = reader.optional("gitea.ca_file").filter(|path: &PathBuf| {
        certificates(path)
            .map_err(|message| {
                let origin = reader.origin("gitea.ca_file");
                reader.problem("gitea.ca_file", &origin, message);
            })
            .is_ok()
    });
    Some(Gitea { url: url?, scope, registration_token: registration_token?, api_token, ca_file })
}

fn enrollment(reader: &mut Reader, gitea: Option<&Gitea>) -> Option<Enrollment> {
    const KEY: &str = "enrollment.token";
    let token = reader.secret(
        KEY,
        Some(
            "give the broker's own secret that runners present, 32 characters or more, \
             in a file named by enrollment.token_file; openssl rand -hex 32 makes one",
        ),
    )?;
    if token.expose_secret().len() < 32 || !is_visible(&token) {
        refuse_secret(
            reader,
            KEY,
            "is not 32 or more visible ASCII characters: make a new one with openssl rand -hex 32",
        );
    }
    let same = gitea.is_some_and(|gitea| {
        crate::broker::secrets_match(
            gitea.registration_token.expose_secret().as_bytes(),
            token.expose_secret().as_bytes(),
        )
    });
    if same {
        refuse_secret(
            reader,
            KEY,
            "is the same as gitea.registration_token, which runners must never see: \
             make a new one with openssl rand -hex 32",
        );
    }
    Some(Enrollment { token: Some(token), tokens: Vec::new() })
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

fn store(reader: &mut Reader) -> Store {
    let default = Store::default();
    Store { path: reader.or("store.url", StoreUrl(default.path.clone())).0, ..default }
}

fn log(reader: &mut Reader) -> Log {
    let default = Log::default();
    Log {
        format: reader.or("log.format", default.format),
        level: reader.or("log.level", default.level),
    }
}

/// Notes a problem with a secret under the name by which it was given.
fn refuse_secret(reader: &mut Reader, key: &str, message: &str) {
    let file_key = format!("{key}_file");
    let by_file = reader.used.iter().any(|used| used.key == file_key);
    let key = if by_file { &file_key } else { key };
    let origin = reader.origin(key);
    reader.problem(key, &origin, message.into());
}

fn is_visible(token: &SecretString) -> bool {
    token.expose_secret().bytes().all(|b| b.is_ascii_graphic())
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
