//! The broker under measurement, with metrics, records and limits as they are by default.

use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::{fs, io};

/// The program, as it is built for use.
pub(crate) const PROGRAM: &str = env!("CARGO_BIN_EXE_runner-broker");
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
