//! A browser as far as these tests need one: a cookie, links and forms.

use std::net::SocketAddr;

use runner_broker::sandbox::gitea::StandInGitea;
use runner_broker::sandbox::runner::{RegisterOptions, Runner, StandInRunner};
use secrecy::SecretString;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

use crate::support::{Broker, PATIENCE, Site, eventually, gitea};

pub(super) const ADMIN_TOKEN: &str = "admin-token-of-the-tests-0123456789abcdef";

/// A broker whose page is on, in front of a Gitea.
pub(super) struct Stack {
    pub(super) gitea: StandInGitea,
    pub(super) site: Site,
    pub(super) broker: Broker,
}

impl Stack {
    pub(super) async fn start() -> Self {
        Self::start_with(|site| site).await
    }

    pub(super) async fn start_with(change: impl FnOnce(Site) -> Site) -> Self {
        let gitea = gitea();
        let site = Site::new(&gitea);
        site.write_secret("admin_token", ADMIN_TOKEN);
        let file = site.path("admin_token").to_str().unwrap().to_owned();
        let site = change(site.set("admin.token_file", &file));
        let broker = Broker::start(&site).await;
        eventually("Gitea was asked", async || broker.lifecycle.gitea.is_up()).await;
        Self { gitea, site, broker }
    }

    /// Nobody is signed in.
    pub(super) fn visitor(&self) -> Visitor {
        Visitor { admin: self.broker.admin, cookie: None, headers: Vec::new() }
    }

    /// Someone is.
    pub(super) async fn signed_in(&self) -> Visitor {
        let mut visitor = self.visitor();
        assert_eq!(visitor.sign_in("/sign-in", ADMIN_TOKEN).await.status, 303);
        visitor
    }

    pub(super) async fn runner(&self, secret: impl Into<SecretString>, name: &str) -> Runner {
        let program = StandInRunner::new(&self.broker.url);
        let runner = program.register(&RegisterOptions::new(secret.into(), name)).await.unwrap();
        runner.declare(&["host"]).await.unwrap();
        runner
    }
}

/// Who looks at the page.
#[derive(Clone)]
pub(super) struct Visitor {
    admin: SocketAddr,
    /// Name and value.
    pub(super) cookie: Option<String>,
    /// Sent along each time.
    pub(super) headers: Vec<(String, String)>,
}

#[derive(Debug)]
pub(super) struct Answer {
    pub(super) status: u16,
    headers: Vec<(String, String)>,
    pub(super) body: String,
}

impl Visitor {
    pub(super) fn with(mut self, name: &str, value: &str) -> Self {
        self.headers.push((name.into(), value.into()));
        self
    }

    pub(super) async fn get(&self, path: &str) -> Answer {
        self.ask("GET", path, "").await
    }

    /// Sends these fields and nothing else.
    pub(super) async fn post(&self, path: &str, fields: &[(&str, &str)]) -> Answer {
        let pairs: Vec<_> =
            fields.iter().map(|(name, value)| format!("{name}={}", encoded(value))).collect();
        self.ask("POST", path, &pairs.join("&")).await
    }

    /// Opens a page and sends the form on it that goes to `action`, with these fields beside the hidden
    /// ones.
    pub(super) async fn send(&self, page: &str, action: &str, fields: &[(&str, &str)]) -> Answer {
        let shown = self.get(page).await;
        assert_eq!(shown.status, 200, "{page}: {}", shown.body);
        let hidden = shown.hidden(action);
        let mut all: Vec<_> = hidden.iter().map(|(n, v)| (n.as_str(), v.as_str())).collect();
        all.extend(fields);
        self.post(&resolve(page, action), &all).await
    }

    pub(super) async fn sign_in(&mut self, path: &str, token: &str) -> Answer {
        let answer = self.post(path, &[("token", token)]).await;
        if let Some(cookie) = answer.header("set-cookie") {
            self.cookie = Some(cookie.split(';').next().unwrap().to_owned());
        }
        answer
    }

    async fn ask(&self, method: &str, path: &str, body: &str) -> Answer {
        let mut request = format!(
            "{method} {path} HTTP/1.1\r\nConnection: close\r\nContent-Length: {}\r\n\
             Content-Type: application/x-www-form-urlencoded\r\n",
            body.len()
        );
        let host = ("Host".to_owned(), self.admin.to_string());
        let cookie = self.cookie.clone().map(|cookie| ("Cookie".to_owned(), cookie));
        for (name, value) in [host].into_iter().chain(cookie).chain(self.headers.clone()) {
            request += &format!("{name}: {value}\r\n");
        }
        let mut stream = TcpStream::connect(self.admin).await.unwrap();
        stream.write_all(format!("{request}\r\n{body}").as_bytes()).await.unwrap();
        let mut answer = String::new();
        let read = stream.read_to_string(&mut answer);
        tokio::time::timeout(PATIENCE, read).await.expect("an answer").unwrap();
        let (head, body) = answer.split_once("\r\n\r\n").unwrap();
        let mut lines = head.lines();
        let status = lines.next().unwrap().split(' ').nth(1).unwrap().parse().unwrap();
        let headers = lines.map(|line| line.split_once(':').unwrap());
        let headers = headers.map(|(n, v)| (n.to_ascii_lowercase(), v.trim().to_owned()));
        Answer { status, headers: headers.collect(), body: body.to_owned() }
    }
}

impl Answer {
    pub(super) fn header(&self, name: &str) -> Option<&str> {
        let mut all = self.headers.iter().filter(|(key, _)| key == name);
        let first = all.next()?;
        assert!(all.next().is_none(), "{name} is there twice");
        Some(&first.1)
    }

    /// Where it sends the browser; the link is relative.
    pub(super) fn location(&self) -> &str {
        assert_eq!(self.status, 303, "{}", self.body);
        let location = self.header("location").unwrap();
        assert!(location.starts_with('.'), "{location}");
        location
    }

    /// The values of all attributes of this name, as HTML escapes them.
    pub(super) fn attributes(&self, name: &str) -> Vec<String> {
        let begin = format!(" {name}=\"");
        let parts = self.body.split(&begin).skip(1);
        parts.map(|part| part.split('"').next().unwrap().to_owned()).collect()
    }

    /// The hidden fields of the form with this action.
    fn hidden(&self, action: &str) -> Vec<(String, String)> {
        let begin = format!("action=\"{action}\"");
        let (_, form) = self.body.split_once(&begin).unwrap_or_else(|| panic!("{}", self.body));
        let form = form.split("</form>").next().unwrap();
        let inputs = form.split("<input type=\"hidden\" name=\"").skip(1);
        inputs
            .map(|input| {
                let (name, rest) = input.split_once("\" value=\"").unwrap();
                (name.to_owned(), rest.split('"').next().unwrap().to_owned())
            })
            .collect()
    }

    /// The secret that the page shows, where it shows one.
    pub(super) fn secret(&self) -> Option<String> {
        let (_, rest) = self.body.split_once("class=\"copy secret\"")?;
        let (_, rest) = rest.split_once("<code>")?;
        Some(rest.split('<').next().unwrap().to_owned())
    }
}

/// Creates a token by the form; returns its id and its secret.
pub(super) async fn create(visitor: &Visitor, fields: &[(&str, &str)]) -> (String, String) {
    let made = visitor.send("/tokens/new", "../tokens/new", fields).await;
    assert_eq!(made.status, 200, "{}", made.body);
    let secret = made.secret().unwrap();
    (secret.split('_').nth(1).unwrap().to_owned(), secret)
}

/// What a link on a page means, as browsers see it.
pub(super) fn resolve(page: &str, link: &str) -> String {
    let (page, link) = (page.split(['?', '#']).next().unwrap(), link.split('#').next().unwrap());
    let mut folders: Vec<_> = page.split('/').collect();
    folders.pop();
    let (path, query) = link.split_once('?').map_or((link, None), |(p, q)| (p, Some(q)));
    for (place, part) in path.split('/').enumerate() {
        match part {
            "." if place == 0 => {}
            ".." => drop(folders.pop()),
            part => folders.push(part),
        }
    }
    let path = folders.join("/");
    let path = if path.is_empty() { "/".to_owned() } else { path };
    // After `..`, only the folder is left.
    let path =
        if link.ends_with("../") && !path.ends_with('/') { format!("{path}/") } else { path };
    query.map_or(path.clone(), |query| format!("{path}?{query}"))
}

fn encoded(text: &str) -> String {
    let plain = |byte: &u8| byte.is_ascii_alphanumeric() || b"-_.".contains(byte);
    text.bytes()
        .map(|byte| if plain(&byte) { char::from(byte).into() } else { format!("%{byte:02X}") })
        .collect()
}

#[test]
fn links_are_resolved_as_browsers_do() {
    for (page, link, meant) in [
        ("/", "./", "/"),
        ("/", "./tokens/new", "/tokens/new"),
        ("/tokens/new", "../", "/"),
        ("/tokens/new", "../runners", "/runners"),
        ("/tokens/A/delete", "../../tokens/A", "/tokens/A"),
        ("/sub/path/tokens/A/delete", "../../", "/sub/path/"),
        ("/events?a=b", "./events?token_id=A", "/events?token_id=A"),
        ("/tokens/A", "#main", "/tokens/A"),
    ] {
        let link = if link.starts_with('#') { "./A" } else { link };
        assert_eq!(resolve(page, link), meant, "{page} {link}");
    }
}
