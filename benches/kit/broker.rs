//! The broker under measurement, with metrics, records and limits as they are by default.

use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::OnceLock;
use std::{fs, io};

/// The program as cargo builds it beside a bench: of use where it is compared with itself alone.
pub(crate) const BESIDE: &str = env!("CARGO_BIN_EXE_runner-broker");

/// Of a program that is built as for use and keeps its names, so that profiles are of use.
const PROFILE: &str = "profiling";

/// The program as for use, built once a bench: cargo builds the one beside a bench in less time, and with what
/// only tests need of the libraries.
pub(crate) fn program() -> io::Result<PathBuf> {
    static BUILT: OnceLock<bool> = OnceLock::new();
    // The folders of all profiles are beside each other in the target folder.
    let target = Path::new(BESIDE).parent().and_then(Path::parent).unwrap_or(Path::new("target"));
    let built = BUILT.get_or_init(|| {
        eprintln!("The broker is built as for use; that takes minutes where it has changed.");
        let cargo = std::env::var_os("CARGO").unwrap_or_else(|| env!("CARGO").into());
        let mut cargo = Command::new(cargo);
        cargo.args([
            "build",
            "--quiet",
            "--locked",
            "--profile",
            PROFILE,
            "--bin",
            "runner-broker",
        ]);
        let built =
            cargo.current_dir(env!("CARGO_MANIFEST_DIR")).arg("--target-dir").arg(target).status();
        built.is_ok_and(|status| status.success())
    });
    match built {
        true => Ok(target.join(PROFILE).join("runner-broker")),
        false => Err(io::Error::other("the broker was not built; cargo says why")),
    }
}

/// What runners enroll with.
pub(crate) const ENROLLMENT_TOKEN: &str = "an-enrollment-token-of-the-benches-alone";

/// Where it listens, and for whom.
pub(crate) struct Setup<'s> {
    /// What runners dial.
    pub(crate) address: SocketAddr,
    /// Metrics.
    pub(crate) admin: SocketAddr,
    /// The folder with `cert.pem` and `key.pem`, where it speaks TLS.
    pub(crate) tls: Option<&'s Path>,
    /// What stands in Gitea's place.
    pub(crate) gitea: SocketAddr,
}

impl Setup<'_> {
    /// Writes settings and secrets into a folder. The settings' path.
    pub(crate) fn write(&self, home: &Path) -> io::Result<PathBuf> {
        fs::write(home.join("registration_token"), "0".repeat(40))?;
        fs::write(home.join("enrollment"), ENROLLMENT_TOKEN)?;
        let Self { address, admin, tls, gitea } = self;
        let tls = tls.map_or_else(String::new, |folder| {
            let folder = folder.display();
            format!("[listen.tls]\ncert = \"{folder}/cert.pem\"\nkey = \"{folder}/key.pem\"\n")
        });
        let home = home.display();
        let text = format!(
            "[listen]\nrunners = \"{address}\"\n{tls}\
             [admin]\nlisten = \"{admin}\"\nsocket = \"{home}/admin.sock\"\n\
             [gitea]\nurl = \"http://{gitea}\"\nregistration_token_file = \"{home}/registration_token\"\n\
             [enrollment]\ntoken_file = \"{home}/enrollment\"\n\
             [store]\nurl = \"sqlite:{home}/state.db\"\n\
             [shutdown]\nderegister = \"none\"\n"
        );
        let file = PathBuf::from(format!("{home}/settings.toml"));
        fs::write(&file, text)?;
        Ok(file)
    }
}
