//! The way from a command to the broker that runs: HTTP over its Unix socket, or over TCP where a URL
//! names it.

mod answer;
mod remote;

use std::fmt;
use std::io;
use std::path::{Path, PathBuf};
use std::time::Duration;

use bytes::Bytes;
use http_body_util::Full;
use hyper::body::Incoming;
use hyper::client::conn::http1;
use hyper::header::{CONTENT_TYPE, HOST, HeaderValue};
use hyper::{Method, Request, Response};
use hyper_util::rt::TokioIo;
use serde::Serialize;
use serde::de::DeserializeOwned;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::UnixStream;
use tokio::time::timeout;
use tokio_util::task::AbortOnDropHandle;

use super::{Failure, SettingsArgs};
use crate::admin::problem::Problem;
use crate::config::Pair;
use crate::gitea::escape;
use crate::net::upstream::read_limited;
use remote::Remote;

/// How long a question may take; what asks Gitea on the way takes longer.
pub(super) const QUICK: Duration = Duration::from_secs(10);
/// How long a deregistration may take: several calls to Gitea, each with a limit of its own.
pub(super) const SLOW: Duration = Duration::from_secs(60);
/// How large an answer may be: a page of very large records.
const BODY_LIMIT: usize = 64 * 1024 * 1024;
/// How many records are asked for at once; the broker gives no more.
const PAGE: usize = 1000;

/// Where the broker is found.
#[derive(Debug, clap::Args)]
#[command(next_help_heading = "Where the broker is")]
pub(super) struct BrokerArgs {
    /// The broker's Unix socket [default: the setting admin.socket]
    #[arg(long, value_name = "PATH")]
    pub(super) socket: Option<PathBuf>,

    /// The broker's admin address, in place of its socket, for example https://broker.example.org
    #[arg(long, value_name = "URL", conflicts_with = "socket")]
    pub(super) url: Option<String>,

    /// File with the admin token, which the broker asks for at its admin address
    #[arg(long, value_name = "FILE", requires = "url")]
    admin_token_file: Option<PathBuf>,

    /// PEM file with the authorities to trust at an https URL, in place of the system's
    #[arg(long, value_name = "FILE", requires = "url")]
    ca_file: Option<PathBuf>,

    /// PEM file with the certificate to show at an https URL whose broker asks for one
    #[arg(long, value_name = "FILE", requires_all = ["url", "client_key"])]
    client_cert: Option<PathBuf>,

    /// PEM file with the private key of --client-cert
    #[arg(long, value_name = "FILE", requires = "client_cert")]
    client_key: Option<PathBuf>,

    #[command(flatten)]
    pub(super) settings: SettingsArgs,
}

impl BrokerArgs {
    /// The broker that these arguments name. Of the settings only `[admin]` is read, and what is wrong
    /// with it matters only where the broker is not found.
    pub(super) fn broker(&self) -> Result<Broker, Failure> {
        if let Some(url) = &self.url {
            let ca_file = self.ca_file.as_deref();
            let shown = self.client_cert.clone().zip(self.client_key.clone());
            let shown = shown.map(|(cert, key)| Pair { cert, key });
            let remote = Remote::new(url, ca_file, shown, self.admin_token_file.as_deref())?;
            return Ok(Broker { way: Way::Remote(Box::new(remote)), doubts: String::new() });
        }
        if let Some(socket) = &self.socket {
            return Ok(Broker { way: Way::Socket(socket.clone()), doubts: String::new() });
        }
        let (admin, problems) = self.settings.admin()?;
        let doubts = problems.iter().map(|problem| format!("\n{problem}")).collect();
        Ok(Broker { way: Way::Socket(admin.socket), doubts })
    }
}

/// A broker that runs, as far as is known.
pub(super) struct Broker {
    way: Way,
    /// What may be the reason where the socket is the wrong one, a line each.
    doubts: String,
}

enum Way {
    Socket(PathBuf),
    Remote(Box<Remote>),
}

impl Broker {
    /// Asks for what is at `path`, which is escaped.
    pub(super) async fn get<T: DeserializeOwned>(&self, path: &str) -> Result<T, Failure> {
        self.ask(Method::GET, path, QUICK).await
    }

    /// Asks, and reads the answer's JSON; a problem becomes a failure.
    pub(super) async fn ask<T: DeserializeOwned>(
        &self,
        method: Method,
        path: &str,
        limit: Duration,
    ) -> Result<T, Failure> {
        answer::read(self.raw(method, path, limit).await?, &self.way)
    }

    /// Sends JSON, and reads the answer's JSON; a problem becomes a failure.
    pub(super) async fn post<T: DeserializeOwned>(
        &self,
        path: &str,
        content: &impl Serialize,
    ) -> Result<T, Failure> {
        answer::read(self.send_json(path, content, QUICK).await?, &self.way)
    }

    /// As [`post`](Self::post), for what asks Gitea on the way; where the answer is this kind of problem, there
    /// is nothing to do.
    pub(super) async fn post_unless<T: DeserializeOwned>(
        &self,
        path: &str,
        content: &impl Serialize,
        problem: &str,
    ) -> Result<Option<T>, Failure> {
        let answer = self.send_json(path, content, SLOW).await?;
        match serde_json::from_slice::<Problem>(answer.body()) {
            Ok(told) if told.is(problem) => Ok(None),
            _ => answer::read(answer, &self.way).map(Some),
        }
    }

    /// Asks for a list, page after page, up to `most` records.
    pub(super) async fn list<T: DeserializeOwned>(
        &self,
        path: &str,
        filters: &[(&str, Option<&str>)],
        most: usize,
    ) -> Result<Vec<T>, Failure> {
        let mut query = format!("limit={}", most.min(PAGE));
        for (name, value) in filters {
            if let Some(value) = value {
                query += &format!("&{name}={}", escape(value));
            }
        }
        let mut all = Vec::new();
        loop {
            let answer = self.raw(Method::GET, &format!("{path}?{query}"), QUICK).await?;
            let next = answer::next_page(answer.headers());
            all.extend(answer::read::<Vec<T>>(answer, &self.way)?);
            match next {
                Some(next) if all.len() < most && next == query => {
                    let message = format!("the broker at {} names one page twice", self.way);
                    return Err(Failure::new(Failure::INTERNAL, message));
                }
                Some(next) if all.len() < most => query = next,
                _ => break,
            }
        }
        all.truncate(most);
        Ok(all)
    }

    /// Reads an answer's JSON; a problem becomes a failure.
    pub(super) fn read<T: DeserializeOwned>(&self, answer: Response<Bytes>) -> Result<T, Failure> {
        answer::read(answer, &self.way)
    }

    /// Asks, and gives the answer as it is.
    pub(super) async fn raw(
        &self,
        method: Method,
        path: &str,
        limit: Duration,
    ) -> Result<Response<Bytes>, Failure> {
        self.send(request(method, path, Bytes::new())?, limit).await
    }

    /// The socket to talk to, where it is not a URL.
    pub(super) fn socket(&self) -> Option<&Path> {
        match &self.way {
            Way::Socket(path) => Some(path),
            Way::Remote(_) => None,
        }
    }

    async fn send_json(
        &self,
        path: &str,
        content: &impl Serialize,
        limit: Duration,
    ) -> Result<Response<Bytes>, Failure> {
        let content =
            serde_json::to_vec(content).map_err(|error| Failure::new(Failure::INTERNAL, error))?;
        let mut request = request(Method::POST, path, content.into())?;
        let json = HeaderValue::from_static("application/json");
        request.headers_mut().insert(CONTENT_TYPE, json);
        self.send(request, limit).await
    }

    async fn send(
        &self,
        request: Request<Full<Bytes>>,
        limit: Duration,
    ) -> Result<Response<Bytes>, Failure> {
        let answered = timeout(limit, async {
            match &self.way {
                Way::Remote(remote) => remote.send(request, limit).await,
                Way::Socket(path) => {
                    let stream = UnixStream::connect(path)
                        .await
                        .map_err(|error| self.not_there(path, &error))?;
                    exchange(stream, request, limit).await.map_err(|error| {
                        let way = &self.way;
                        let message =
                            format!("the broker at {way} broke off: {error}; is it ending?");
                        Failure::new(Failure::UNAVAILABLE, message)
                    })
                }
            }
        });
        answered.await.unwrap_or_else(|_| {
            let message = format!("the broker at {} did not answer within {limit:?}", self.way);
            Err(Failure::new(Failure::UNAVAILABLE, message))
        })
    }

    fn not_there(&self, socket: &Path, error: &io::Error) -> Failure {
        let socket = socket.display();
        let message = match error.kind() {
            io::ErrorKind::NotFound => format!(
                "no broker runs here: there is no socket {socket}; start one with `runner-broker \
                 serve`, or name the socket of the one that runs with --socket"
            ),
            io::ErrorKind::ConnectionRefused => format!(
                "no broker runs here: the one that made {socket} has ended; start one with \
                 `runner-broker serve`"
            ),
            io::ErrorKind::PermissionDenied => format!(
                "the socket {socket} is for the broker's own user: run the command as that user"
            ),
            _ => format!("the socket {socket} cannot be used: {error}"),
        };
        Failure::new(Failure::UNAVAILABLE, message + &self.doubts)
    }
}

impl fmt::Display for Way {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Socket(path) => path.display().fmt(f),
            Self::Remote(remote) => remote.fmt(f),
        }
    }
}

/// A request as the broker takes it over any way; `path` is escaped.
pub(super) fn request(
    method: Method,
    path: &str,
    content: Bytes,
) -> Result<Request<Full<Bytes>>, Failure> {
    let request = Request::builder().method(method).uri(path).body(Full::new(content));
    request.map_err(|error| Failure::new(Failure::INTERNAL, error))
}

/// One request and its answer, on a connection of its own.
pub(super) async fn exchange(
    stream: impl AsyncRead + AsyncWrite + Unpin + Send + 'static,
    mut request: Request<Full<Bytes>>,
    limit: Duration,
) -> Result<Response<Bytes>, Box<dyn std::error::Error + Send + Sync>> {
    let (mut sender, connection) = http1::handshake(TokioIo::new(stream)).await?;
    let _connection = AbortOnDropHandle::new(tokio::spawn(connection));
    request.headers_mut().insert(HOST, HeaderValue::from_static("runner-broker"));
    whole(sender.send_request(request).await?, limit).await
}

/// An answer with all of its body.
async fn whole(
    answer: Response<Incoming>,
    limit: Duration,
) -> Result<Response<Bytes>, Box<dyn std::error::Error + Send + Sync>> {
    let (head, body) = answer.into_parts();
    Ok(Response::from_parts(head, read_limited(body, BODY_LIMIT, limit).await?))
}

#[cfg(test)]
mod tests;
