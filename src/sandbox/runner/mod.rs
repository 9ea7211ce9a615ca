//! A stand-in runner: it speaks as the real one does, and runs no job.

mod daemon;
mod link;

use bytes::Bytes;
use hyper::{HeaderMap, Method};
use secrecy::{ExposeSecret, SecretString};
use serde::Deserialize;
use tokio::io::AsyncWriteExt;
use tokio::net::TcpStream;

pub use daemon::{Daemon, Pace};
pub use link::{RawAnswer, RpcError};

use super::gitea::task::{LogRow, UpdateLogRequest, UpdateLogResponse};
use crate::broker::Credentials;
use crate::connect::Codec;
use crate::connect::messages::{
    self as wire, DeclareRequest, DeclareResponse, DeregisterRequest, DeregisterResponse,
    FetchTaskRequest, FetchTaskResponse, PingRequest, PingResponse, RegisterRequest,
    RegisterResponse, Task, TaskResult, TaskState, UpdateTaskRequest, UpdateTaskResponse,
};
use link::{Link, headers};

const PING: &str = "ping.v1.PingService/Ping";
const REGISTER: &str = "runner.v1.RunnerService/Register";

/// The version that stand-in runners tell.
pub const VERSION: &str = "v0.3.0";

/// A runner's program before it is registered: it knows an address.
#[derive(Clone)]
pub struct StandInRunner {
    link: Link,
}

/// How a runner registers.
#[derive(Clone, Debug)]
pub struct RegisterOptions {
    /// The secret that it presents.
    pub token: SecretString,
    /// The display name.
    pub name: String,
    /// Bare label names.
    pub labels: Vec<String>,
    /// It takes one task.
    pub ephemeral: bool,
    /// How this and all later messages are written.
    pub codec: Codec,
    /// Whether this and all later requests are compressed.
    pub gzip: bool,
}

impl RegisterOptions {
    /// One label `host`, not ephemeral, as the real runner writes it.
    #[must_use]
    pub fn new(token: SecretString, name: &str) -> Self {
        Self {
            token,
            name: name.to_owned(),
            labels: vec!["host".into()],
            ephemeral: false,
            codec: Codec::Proto,
            gzip: false,
        }
    }

    fn request(&self) -> RegisterRequest {
        RegisterRequest {
            name: self.name.clone(),
            token: self.token.expose_secret().to_owned(),
            version: VERSION.to_owned(),
            labels: self.labels.clone(),
            ephemeral: self.ephemeral,
        }
    }
}

impl StandInRunner {
    /// A runner that dials this address: `http://` with a host, a port, and perhaps a path.
    #[must_use]
    pub fn new(address: &str) -> Self {
        Self { link: Link::new(address) }
    }

    /// One that dials an `https://` address, with this trust and the versions of HTTP that its ALPN names.
    #[must_use]
    pub fn over_tls(address: &str, tls: rustls::ClientConfig) -> Self {
        Self { link: Link::over_tls(address, tls) }
    }

    /// Asks whether the service answers; returns its greeting.
    pub async fn ping(&self, data: &str) -> Result<String, RpcError> {
        let request = PingRequest { data: data.to_owned() };
        let (answer, _) =
            self.link.call::<_, PingResponse>(PING, HeaderMap::new(), &request).await?;
        Ok(answer.data)
    }

    /// Registers; the runner that comes of it dials the same address over the same connections.
    pub async fn register(&self, options: &RegisterOptions) -> Result<Runner, RpcError> {
        let link = self.writing(options);
        let (answer, _) = link
            .call::<_, RegisterResponse>(REGISTER, HeaderMap::new(), &options.request())
            .await?;
        let runner = answer
            .runner
            .ok_or_else(|| RpcError::no_answer("Register's answer names no runner"))?;
        Ok(Runner {
            link,
            credentials: Credentials {
                id: runner.id,
                uuid: runner.uuid,
                token: runner.token.into(),
            },
            name: runner.name,
            labels: runner.labels,
            ephemeral: runner.ephemeral,
        })
    }

    /// Sends the whole of a Register on a connection of its own and drops that once `leave` returns,
    /// without reading the answer.
    pub async fn hang_up_during_register(
        &self,
        options: &RegisterOptions,
        leave: impl Future<Output = ()>,
    ) -> Result<(), RpcError> {
        let (headers, body) = self.writing(options).write(HeaderMap::new(), &options.request());
        let failed = |error: std::io::Error| RpcError::no_answer(error.to_string());
        let authority_and_path = self.link.address.trim_start_matches("http://");
        let (authority, path) = authority_and_path
            .split_at(authority_and_path.find('/').unwrap_or(authority_and_path.len()));
        let mut head = format!(
            "POST {path}/api/actions/{REGISTER} HTTP/1.1\r\nHost: {authority}\r\nContent-Length: {}\r\n",
            body.len()
        );
        for (name, value) in &headers {
            head.push_str(&format!("{name}: {}\r\n", String::from_utf8_lossy(value.as_bytes())));
        }
        head.push_str("\r\n");
        let mut stream = TcpStream::connect(authority).await.map_err(failed)?;
        stream.write_all(head.as_bytes()).await.map_err(failed)?;
        stream.write_all(&body).await.map_err(failed)?;
        leave.await;
        Ok(())
    }

    /// A POST of any bytes; `path` is appended to the address.
    pub async fn call(
        &self,
        path: &str,
        content_type: &str,
        more: &[(&str, &str)],
        body: impl Into<Bytes>,
    ) -> Result<RawAnswer, RpcError> {
        let mut headers = headers(more);
        headers.extend(link::headers(&[("content-type", content_type)]));
        self.link.send(Method::POST, path, headers, body.into()).await
    }

    /// Any request; `target` is appended to the address.
    pub async fn send(
        &self,
        method: Method,
        target: &str,
        more: &[(&str, &str)],
        body: impl Into<Bytes>,
    ) -> Result<RawAnswer, RpcError> {
        self.link.send(method, target, headers(more), body.into()).await
    }

    fn writing(&self, options: &RegisterOptions) -> Link {
        self.link.writing(options.codec, options.gzip)
    }
}

/// A registered runner.
#[derive(Clone)]
pub struct Runner {
    link: Link,
    /// What it shows.
    pub credentials: Credentials,
    /// The display name.
    pub name: String,
    /// The labels that Register answered; with a runner file those in it, cut to bare names.
    pub labels: Vec<String>,
    /// It takes one task.
    pub ephemeral: bool,
}

impl std::fmt::Debug for Runner {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Runner")
            .field("credentials", &self.credentials)
            .field("name", &self.name)
            .field("labels", &self.labels)
            .finish_non_exhaustive()
    }
}

impl Runner {
    /// Reads a runner file; calls go to the address in it.
    pub fn from_runner_file(json: &str) -> serde_json::Result<Self> {
        #[derive(Deserialize)]
        struct File {
            id: i64,
            uuid: String,
            name: String,
            token: String,
            address: String,
            labels: Vec<String>,
            #[serde(default)]
            ephemeral: bool,
        }
        let file: File = serde_json::from_str(json)?;
        let bare = |label: String| match label.split_once(':') {
            Some((name, _)) => name.to_owned(),
            None => label,
        };
        Ok(Self {
            link: Link::new(&file.address),
            credentials: Credentials { id: file.id, uuid: file.uuid, token: file.token.into() },
            name: file.name,
            labels: file.labels.into_iter().map(bare).collect(),
            ephemeral: file.ephemeral,
        })
    }

    /// Where its calls go.
    #[must_use]
    pub fn address(&self) -> &str {
        &self.link.address
    }

    /// The same identity, dialled on connections of its own at another address.
    #[must_use]
    pub fn moved_to(&self, address: &str) -> Self {
        let link = Link::new(address).writing(self.link.codec, self.link.gzip);
        Self { link, ..self.clone() }
    }

    /// Tells version and labels; returns what Gitea has now.
    pub async fn declare(&self, labels: &[&str]) -> Result<wire::Runner, RpcError> {
        Ok(self.declare_with_headers(labels).await?.0)
    }

    /// The same, with the headers of the answer.
    pub async fn declare_with_headers(
        &self,
        labels: &[&str],
    ) -> Result<(wire::Runner, HeaderMap), RpcError> {
        let labels = labels.iter().map(|&label| label.to_owned()).collect();
        let request = DeclareRequest { version: VERSION.to_owned(), labels };
        let (answer, headers): (DeclareResponse, _) = self.call("Declare", &[], &request).await?;
        Ok((answer.runner.unwrap_or_default(), headers))
    }

    /// Polls for a task; returns it, if there is one, and the latest version.
    pub async fn fetch_task(&self, version: i64) -> Result<(Option<Task>, i64), RpcError> {
        let request = FetchTaskRequest { tasks_version: version };
        let timeout = [("connect-timeout-ms", "4999")];
        let (answer, _): (FetchTaskResponse, _) =
            self.call("FetchTask", &timeout, &request).await?;
        Ok((answer.task, answer.tasks_version))
    }

    /// Reports where a task stands; returns the result as Gitea sees it.
    pub async fn update_task(&self, id: i64, result: TaskResult) -> Result<TaskResult, RpcError> {
        let state = TaskState { id, result: result.into(), started_at: None, stopped_at: None };
        let request = UpdateTaskRequest { state: Some(state) };
        let timeout = [("connect-timeout-ms", "10800000")];
        let (answer, _): (UpdateTaskResponse, _) =
            self.call("UpdateTask", &timeout, &request).await?;
        Ok(answer.state.unwrap_or_default().result())
    }

    /// Sends lines of a task's log, of which `index` is the number of the first; returns how many lines
    /// Gitea has.
    pub async fn update_log(
        &self,
        task_id: i64,
        index: i64,
        lines: &[&str],
        no_more: bool,
    ) -> Result<i64, RpcError> {
        let rows = lines.iter().map(|&line| LogRow { content: line.to_owned() }).collect();
        let request = UpdateLogRequest { task_id, index, rows, no_more };
        let timeout = [("connect-timeout-ms", "10800000")];
        let (answer, _): (UpdateLogResponse, _) =
            self.call("UpdateLog", &timeout, &request).await?;
        Ok(answer.ack_index)
    }

    /// Runs a task that it fetched: it is running, three lines of log, it succeeded. Returns the result
    /// as Gitea sees it.
    pub async fn run_task(&self, task: &Task) -> Result<TaskResult, RpcError> {
        self.update_task(task.id, TaskResult::Unspecified).await?;
        let kept = self.update_log(task.id, 0, &["Job begins", "hello"], false).await?;
        self.update_log(task.id, kept, &["Job ends"], true).await?;
        self.update_task(task.id, TaskResult::Success).await
    }

    /// Asks the broker to deregister it; Gitea has no such call.
    pub async fn deregister(&self) -> Result<wire::Runner, RpcError> {
        let Credentials { id, uuid, token } = &self.credentials;
        let request = DeregisterRequest {
            id: *id,
            uuid: uuid.clone(),
            token: token.expose_secret().to_owned(),
        };
        let (answer, _): (DeregisterResponse, _) = self.call("Deregister", &[], &request).await?;
        Ok(answer.runner.unwrap_or_default())
    }

    /// Its program, to send other requests over the same connections.
    #[must_use]
    pub fn program(&self) -> StandInRunner {
        StandInRunner { link: self.link.clone() }
    }

    async fn call<Q, A>(
        &self,
        procedure: &str,
        more: &[(&str, &str)],
        request: &Q,
    ) -> Result<(A, HeaderMap), RpcError>
    where
        Q: prost::Message + serde::Serialize,
        A: prost::Message + Default + serde::de::DeserializeOwned,
    {
        let mut headers = headers(more);
        headers.extend(link::headers(&[
            ("x-runner-uuid", self.credentials.uuid.as_str()),
            ("x-runner-token", self.credentials.token.expose_secret()),
        ]));
        self.link.call(&format!("runner.v1.RunnerService/{procedure}"), headers, request).await
    }
}
