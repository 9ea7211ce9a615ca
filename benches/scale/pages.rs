//! What admins and Prometheus ask for: what it costs, and how long it is.

use std::time::Duration;

use crate::broker::{ADMIN_TOKEN, Broker};

/// An answer of the admin listener.
#[derive(Clone, Copy)]
pub(crate) struct Page {
    /// CPU time that the broker spent on it.
    pub(crate) cpu: Duration,
    pub(crate) bytes: usize,
}

/// An admin who is signed in.
pub(crate) struct Admin<'a> {
    broker: &'a Broker,
    agent: ureq::Agent,
    cookie: String,
}

impl<'a> Admin<'a> {
    pub(crate) fn of(broker: &'a Broker) -> Self {
        let config = ureq::Agent::config_builder().max_redirects(0).http_status_as_error(false);
        let agent: ureq::Agent = config.build().into();
        let url = format!("http://{}/sign-in", broker.admin);
        let answer = agent
            .post(&url)
            .header("Origin", format!("http://{}", broker.admin))
            .send_form([("token", ADMIN_TOKEN)])
            .unwrap();
        let cookie = answer.headers()["set-cookie"].to_str().unwrap();
        let cookie = cookie.split(';').next().unwrap().to_owned();
        Self { broker, agent, cookie }
    }

    /// Asks so many times; returns what was in the middle.
    pub(crate) fn get(&self, path: &str, times: usize) -> Page {
        let mut pages: Vec<_> = (0..times).map(|_| self.once(path)).collect();
        pages.sort_by_key(|page| page.cpu);
        pages[pages.len() / 2]
    }

    /// Asks once.
    pub(crate) fn once(&self, path: &str) -> Page {
        let url = format!("http://{}{path}", self.broker.admin);
        let before = self.broker.cpu();
        let mut answer = match path.contains("dry_run") {
            true => self.agent.post(&url).header("Authorization", bearer()).send_empty(),
            false => {
                let asked = self.agent.get(&url).header("Cookie", &self.cookie);
                match path.starts_with("/api") {
                    true => asked.header("Authorization", bearer()).call(),
                    false => asked.call(),
                }
            }
        }
        .unwrap();
        let bytes = answer.body_mut().with_config().limit(1 << 30).read_to_vec().unwrap().len();
        assert_eq!(answer.status(), 200, "{path}");
        Page { cpu: self.broker.cpu() - before, bytes }
    }
}

fn bearer() -> String {
    format!("Bearer {ADMIN_TOKEN}")
}
