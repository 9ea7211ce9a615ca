//! The way from a command to the broker that runs: HTTP over its Unix socket.

use std::io;
use std::path::{Path, PathBuf};
use std::time::Duration;

use bytes::Bytes;
use http_body_util::Empty;
use hyper::client::conn::http1;
use hyper::header::{HOST, HeaderValue};
use hyper::{Method, Request, StatusCode};
use hyper_util::rt::TokioIo;
use serde::de::DeserializeOwned;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::UnixStream;
use tokio::time::timeout;
use tokio_util::task::AbortOnDropHandle;

use super::{Failure, SettingsArgs};
use crate::admin::problem::{AMBIGUOUS_RUNNER, Problem, UNKNOWN_RUNNER};
use crate::net::upstream::read_limited;

/// How long a question may take; what asks Gitea on the way takes longer.
pub(super) const QUICK: Duration = Duration::from_secs(10);
/// How long a deregistration may take: several calls to Gitea, each with a limit of its own.
pub(super) const SLOW: Duration = Duration::from_secs(60);
/// How large an answer may be: a list of very many runners.
const BODY_LIMIT: usize = 64 * 1024 * 1024;

/// Where the broker is found.
#[derive(Debug, clap::Args)]
pub(super) struct SocketArgs {
    /// The broker's Unix socket [default: the setting admin.socket]
    #[arg(long, value_name = "PATH")]
    pub(super) socket: Option<PathBuf>,

    #[command(flatten)]
    pub(super) settings: SettingsArgs,
}

impl SocketArgs {
    /// The broker that these arguments name. Of the settings only `[admin]` is read, and what is wrong
    /// with it matters only where the broker is not found.
    pub(super) fn broker(&self) -> Result<Broker, Failure> {
        if let Some(socket) = &self.socket {
            return Ok(Broker { socket: socket.clone(), doubts: String::new() });
        }
        let (admin, problems) = self.settings.admin()?;
        let doubts = problems.iter().map(|problem| format!("\n{problem}")).collect();
        Ok(Broker { socket: admin.socket, doubts })
    }
}

/// A broker that runs on this machine, as far as is known.
pub(super) struct Broker {
    socket: PathBuf,
    /// What may be the reason where the socket is the wrong one, a line each.
    doubts: String,
}

impl Broker {
    /// The socket to talk to.
    pub(super) fn socket(&self) -> &Path {
        &self.socket
    }

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
        let (status, body) = self.raw(method, path, limit).await?;
        if status.is_success()
            && let Ok(answer) = serde_json::from_slice(&body)
        {
            return Ok(answer);
        }
        Err(match serde_json::from_slice::<Problem>(&body) {
            Ok(problem) if problem.is(UNKNOWN_RUNNER) || problem.is(AMBIGUOUS_RUNNER) => {
                let detail = problem.detail;
                Failure::new(Failure::USAGE, format!("{detail}; see `runner-broker runner list`"))
            }
            Ok(problem) => Failure::new(Failure::INTERNAL, problem.detail),
            Err(_) => Failure::new(
                Failure::UNAVAILABLE,
                format!(
                    "what answers at {} is no broker of this version ({status}): update the one that \
                     is older",
                    self.socket.display()
                ),
            ),
        })
    }

    /// Asks, and gives the answer as it is.
    pub(super) async fn raw(
        &self,
        method: Method,
        path: &str,
        limit: Duration,
    ) -> Result<(StatusCode, Bytes), Failure> {
        let socket = self.socket.display();
        let answered = timeout(limit, async {
            let stream = match UnixStream::connect(&self.socket).await {
                Ok(stream) => stream,
                Err(error) => return Err(self.not_there(&error)),
            };
            exchange(stream, method, path, limit).await.map_err(|error| {
                Failure::new(
                    Failure::UNAVAILABLE,
                    format!("the broker at {socket} broke off: {error}; is it ending?"),
                )
            })
        });
        answered.await.unwrap_or_else(|_| {
            let message = format!("the broker at {socket} did not answer within {limit:?}");
            Err(Failure::new(Failure::UNAVAILABLE, message))
        })
    }

    fn not_there(&self, error: &io::Error) -> Failure {
        let socket = self.socket.display();
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

/// One request and its answer, on a connection of its own.
pub(super) async fn exchange(
    stream: impl AsyncRead + AsyncWrite + Unpin + Send + 'static,
    method: Method,
    path: &str,
    limit: Duration,
) -> Result<(StatusCode, Bytes), Box<dyn std::error::Error + Send + Sync>> {
    let (mut sender, connection) = http1::handshake(TokioIo::new(stream)).await?;
    let _connection = AbortOnDropHandle::new(tokio::spawn(connection));
    let mut request = Request::builder().method(method).uri(path).body(Empty::<Bytes>::new())?;
    request.headers_mut().insert(HOST, HeaderValue::from_static("runner-broker"));
    let answer = sender.send_request(request).await?;
    let status = answer.status();
    Ok((status, read_limited(answer.into_body(), BODY_LIMIT, limit).await?))
}
