//! TLS on the broker's own listeners, and its certificate towards Gitea.

mod admin;
mod certs;
mod clients;
mod expiry;
mod http2;
mod reload;
mod to_gitea;
mod versions;
mod wrapper;

use runner_broker::sandbox::gitea::StandInGitea;
use runner_broker::sandbox::runner::{RegisterOptions, Runner, StandInRunner};
use tokio::net::UnixStream;

use crate::admin::ask;
use crate::support::{Broker, ENROLLMENT_TOKEN, Site, gitea};
use certs::{Authority, trust};

/// The two versions of HTTP, as ALPN names them.
const H1: &[&str] = &["http/1.1"];
const H2: &[&str] = &["h2"];

/// A broker whose listeners speak TLS, in front of a Gitea.
struct Stack {
    gitea: StandInGitea,
    site: Site,
    broker: Broker,
    authority: Authority,
}

impl Stack {
    async fn start() -> Self {
        Self::start_with(|site| site).await
    }

    async fn start_with(change: impl FnOnce(Site) -> Site) -> Self {
        let gitea = gitea();
        let authority = Authority::new();
        let site = authority.sign("127.0.0.1").of(Site::new(&gitea), "listen");
        let site = change(site);
        let broker = Broker::start(&site).await;
        Self { gitea, site, broker, authority }
    }

    /// A runner's program that speaks these versions of HTTP.
    fn program(&self, alpn: &[&str]) -> StandInRunner {
        StandInRunner::over_tls(&self.broker.url, trust(&self.authority.pem(), alpn))
    }

    async fn runner(&self, alpn: &[&str], name: &str) -> Runner {
        let options = RegisterOptions::new(ENROLLMENT_TOKEN.into(), name);
        self.program(alpn).register(&options).await.unwrap()
    }

    /// What is scraped.
    async fn metrics(&self) -> String {
        self.socket("/metrics").await
    }

    async fn socket(&self, path: &str) -> String {
        let stream = UnixStream::connect(self.site.path("admin.sock")).await.unwrap();
        ask(stream, "GET", path, &[], "").await.body
    }

    async fn status(&self) -> serde_json::Value {
        serde_json::from_str(&self.socket("/api/v1/status").await).unwrap()
    }

    /// Registrations that reached Gitea.
    fn registers(&self) -> usize {
        self.gitea.journal().count(|entry| entry.target.contains("/Register"))
    }
}

/// A metric's value, by all of its line before it.
fn value(metrics: &str, series: &str) -> Option<f64> {
    let line = metrics.lines().find_map(|line| line.strip_prefix(series)?.strip_prefix(' '));
    line.map(|value| value.parse().unwrap())
}
