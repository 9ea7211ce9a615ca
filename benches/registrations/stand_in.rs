//! The stand-in Gitea as a process of its own, so that its CPU is counted apart.

use std::io::Write;
use std::process::{Child, Command, Stdio};

use runner_broker::config::Scope;
use runner_broker::sandbox::gitea::{Options, StandInGitea};
use secrecy::ExposeSecret;

/// The first argument of the process that serves.
pub const ROLE: &str = "--serve-the-stand-in";

/// Serves until the parent closes its standard input.
pub fn serve() {
    runner_broker::net::descriptors::raise_limit();
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    runtime.block_on(async {
        let gitea = StandInGitea::start(Options::default()).unwrap();
        let token = gitea.registration_token(&Scope::Instance);
        println!("{} {}", gitea.url(), token.expose_secret());
        std::io::stdout().flush().unwrap();
        let ended = tokio::task::spawn_blocking(|| {
            std::io::copy(&mut std::io::stdin(), &mut std::io::sink())
        });
        let _ = ended.await;
    });
}

/// The parent's side.
pub struct StandIn {
    child: Child,
    pub url: String,
    pub token: String,
}

impl StandIn {
    pub fn start() -> Self {
        let program = std::env::current_exe().expect("this program has a path");
        let mut child = Command::new(program)
            .arg(ROLE)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .expect("the stand-in starts");
        let mut line = String::new();
        let mut stdout = std::io::BufReader::new(child.stdout.take().expect("it was piped"));
        std::io::BufRead::read_line(&mut stdout, &mut line).expect("it says where it is");
        let (url, token) = line.trim().split_once(' ').expect("an address and a token");
        Self { url: url.into(), token: token.into(), child }
    }

    pub fn pid(&self) -> u32 {
        self.child.id()
    }
}

impl Drop for StandIn {
    fn drop(&mut self) {
        drop(self.child.stdin.take());
        let _ = self.child.wait();
    }
}
