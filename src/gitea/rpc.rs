//! Calls of the actions protocol, as a runner would make them.

use std::fmt;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use bytes::Bytes;
use hyper::header::{
    ACCEPT_ENCODING, CONTENT_ENCODING, CONTENT_LENGTH, CONTENT_TYPE, HOST, HeaderName, HeaderValue,
    USER_AGENT as USER_AGENT_HEADER,
};
use hyper::{HeaderMap, Method, Request, Response};
use prost::Message;
use secrecy::{ExposeSecret, SecretString};
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};
use tokio::time::Instant;
use zeroize::Zeroize;

use super::answer::Answer;
use super::error_text::{RegisterRefusal, is_unregistered};
use super::{BODY_LIMIT, CALL_LIMIT, GiteaClient, USER_AGENT};
use crate::broker::Credentials;
use crate::connect::messages::{
    DeclareRequest, DeclareResponse, DeregisterRequest, DeregisterResponse, LogRow, PingRequest,
    PingResponse, RegisterResponse, Runner, TaskResult, TaskState, Timestamp, UpdateLogRequest,
    UpdateLogResponse, UpdateTaskRequest, UpdateTaskResponse,
};
use crate::connect::{self, Code, Codec, ConnectError, RUNNER_TOKEN, RUNNER_UUID};
use crate::net::upstream::{InBody, OutBody, UpstreamError};

const PROTOCOL_VERSION: HeaderName = HeaderName::from_static("connect-protocol-version");

/// Why a call came to nothing. Its text is a sentence for the log.
#[derive(Debug, thiserror::Error)]
pub enum CallError {
    /// Gitea does not know these credentials.
    #[error("Gitea does not know this runner")]
    Unregistered,
    /// Gitea answered with an error.
    #[error("Gitea refused: {0}")]
    Refused(ConnectError),
    /// No answer.
    #[error(transparent)]
    Unreachable(UpstreamError),
    /// An answer that is not Gitea's, in a sentence that says what to do.
    #[error("{0}")]
    Garbage(String),
}

/// A runner was registered.
pub struct RegisterAnswer {
    /// Gitea's headers, without those that tell of the body's length and encoding.
    pub headers: HeaderMap,
    /// Gitea's message, not compressed, in the codec of the request. It holds the runner's token.
    pub body: Bytes,
    /// What the message says; id, uuid and token are there.
    pub runner: Runner,
}

impl fmt::Debug for RegisterAnswer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("RegisterAnswer").field("runner", &self.runner).finish_non_exhaustive()
    }
}

/// Why there are no credentials.
#[derive(Debug, thiserror::Error)]
pub enum RegisterFailure {
    /// Nothing reached Gitea.
    #[error(transparent)]
    NotSent(UpstreamError),
    /// Gitea, or what is in front of it, said no: nothing was registered.
    #[error("{refusal} ({error})")]
    Refused {
        /// What it means.
        refusal: RegisterRefusal,
        /// What was said.
        error: ConnectError,
    },
    /// The runner may be registered or not; a sentence says why that is not known.
    #[error("{0}")]
    Unclear(String),
}

/// A message of which no field is set, or wanted.
#[derive(Clone, PartialEq, Eq, Message, Serialize, Deserialize)]
struct Nothing {}

impl RegisterFailure {
    /// The same, with this secret taken out of its texts.
    fn without(mut self, secret: &str) -> Self {
        let text = match &mut self {
            Self::NotSent(_) => return self,
            Self::Refused { error, .. } => &mut error.message,
            Self::Unclear(text) => text,
        };
        if !secret.is_empty() && text.contains(secret) {
            *text = text.replace(secret, "(hidden)");
        }
        self
    }
}

impl GiteaClient {
    /// Asks whether Gitea answers, and sets [`is_up`](Self::is_up) by it. It is asked also while it is left
    /// alone.
    pub async fn ping(&self) -> Result<(), CallError> {
        let message = PingRequest { data: "runner-broker".into() };
        let request = self.message("ping.v1.PingService/Ping", &message, None)?;
        let deadline = Instant::now() + CALL_LIMIT;
        let response = match self.upstream.send_anyway(request, CALL_LIMIT).await {
            Ok(response) => response,
            Err(error) => {
                self.upstream.set_up(false);
                return Err(CallError::Unreachable(error));
            }
        };
        self.read::<PingResponse>(response, deadline, None).await.map(|_| ())
    }

    /// Tells Gitea a runner's version and labels, in place of those that it had, and learns from the
    /// answer which row the credentials belong to.
    pub async fn declare(
        &self,
        credentials: &Credentials,
        version: &str,
        labels: &[String],
    ) -> Result<Runner, CallError> {
        let message = DeclareRequest { version: version.into(), labels: labels.into() };
        let answer: DeclareResponse =
            self.call("runner.v1.RunnerService/Declare", &message, Some(credentials)).await?;
        answer.runner.ok_or_else(|| {
            CallError::Garbage("Gitea answered to Declare without naming the runner".into())
        })
    }

    /// Appends a last line to a task's log.
    pub async fn end_log(
        &self,
        credentials: &Credentials,
        task_id: i64,
        line: &str,
    ) -> Result<(), CallError> {
        const UPDATE_LOG: &str = "runner.v1.RunnerService/UpdateLog";
        // Without a line, the answer tells how many there are.
        let asked = UpdateLogRequest { task_id, ..UpdateLogRequest::default() };
        let there: UpdateLogResponse = self.call(UPDATE_LOG, &asked, Some(credentials)).await?;
        let row = LogRow { time: Some(now()), content: line.to_owned() };
        let last =
            UpdateLogRequest { task_id, index: there.ack_index, rows: vec![row], no_more: true };
        self.call::<_, UpdateLogResponse>(UPDATE_LOG, &last, Some(credentials)).await.map(|_| ())
    }

    /// Ends a runner's task as cancelled, now.
    pub async fn report_cancelled(
        &self,
        credentials: &Credentials,
        task_id: i64,
    ) -> Result<(), CallError> {
        let state = TaskState {
            id: task_id,
            result: TaskResult::Cancelled.into(),
            started_at: None,
            stopped_at: Some(now()),
        };
        let message = UpdateTaskRequest { state: Some(state) };
        self.call::<_, UpdateTaskResponse>(
            "runner.v1.RunnerService/UpdateTask",
            &message,
            Some(credentials),
        )
        .await
        .map(|_| ())
    }

    /// Shows a runner's credentials with a report of no lines on no task. It changes nothing but when the
    /// runner was last heard from, and fails for credentials that are known as well: with anything but
    /// [`CallError::Unregistered`].
    pub async fn show(&self, credentials: &Credentials) -> Result<(), CallError> {
        let answer: Result<Nothing, _> =
            self.call("runner.v1.RunnerService/UpdateLog", &Nothing {}, Some(credentials)).await;
        answer.map(|_| ())
    }

    /// Asks whether Gitea knows these credentials, by showing them.
    pub async fn knows(&self, credentials: &Credentials) -> Result<bool, CallError> {
        match self.show(credentials).await {
            Ok(()) => Ok(true),
            Err(CallError::Unregistered) => Ok(false),
            // Only after it has taken the credentials does Gitea look for the task.
            Err(CallError::Refused(error)) if error.message.contains("get task:") => Ok(true),
            Err(error) => Err(error),
        }
    }

    /// Asks a broker in Gitea's place to deregister a runner; Gitea itself has no such call.
    pub async fn deregister(&self, credentials: &Credentials) -> Result<(), CallError> {
        let mut message = DeregisterRequest {
            id: credentials.id,
            uuid: credentials.uuid.clone(),
            token: credentials.token.expose_secret().to_owned(),
        };
        let method = "runner.v1.RunnerService/Deregister";
        let answer: Result<DeregisterResponse, _> = self.call(method, &message, None).await;
        message.token.zeroize();
        answer.map(|_| ())
    }

    /// Registers a runner: once, on a connection of its own. `body` is a `RegisterRequest` in `codec`, not
    /// compressed, with `token`, Gitea's registration token, in it; `headers` are the runner's own, as far as
    /// they are to be passed on.
    pub async fn register(
        &self,
        codec: Codec,
        body: Bytes,
        mut headers: HeaderMap,
        token: &SecretString,
    ) -> Result<RegisterAnswer, RegisterFailure> {
        for name in [HOST, CONTENT_LENGTH, CONTENT_ENCODING] {
            headers.remove(name);
        }
        headers.insert(CONTENT_TYPE, codec.header_value());
        let deadline = Instant::now() + self.register_limit;
        let request = self.post("runner.v1.RunnerService/Register", headers, body);
        let response = match self.upstream.send_fresh(request, self.register_limit).await {
            Ok(response) => response,
            Err(error) if !error.sent => return Err(RegisterFailure::NotSent(error)),
            Err(error) => return Err(RegisterFailure::Unclear(error.to_string())),
        };
        let status = response.status();
        let answer = match Answer::read(response, BODY_LIMIT, deadline).await {
            Ok(mut answer) => {
                answer.hide(token);
                answer
            }
            Err(sentence) if nothing_done(status) => return Err(refused_by_proxy(sentence, None)),
            Err(sentence) => return Err(RegisterFailure::Unclear(sentence)),
        };
        self.upstream.set_up(answer.connect_error().is_some() || is_message(codec, &answer));
        // A Gitea, or a proxy before it, that repeats what it was sent: the runner must not see it.
        registered(codec, answer).map_err(|failure| failure.without(token.expose_secret()))
    }

    async fn call<Q, A>(
        &self,
        method: &str,
        message: &Q,
        credentials: Option<&Credentials>,
    ) -> Result<A, CallError>
    where
        Q: Message,
        A: Message + Default,
    {
        let request = self.message(method, message, credentials)?;
        let deadline = Instant::now() + CALL_LIMIT;
        let response =
            self.upstream.send(request, CALL_LIMIT).await.map_err(CallError::Unreachable)?;
        self.read(response, deadline, credentials).await
    }

    fn message<Q: Message>(
        &self,
        method: &str,
        message: &Q,
        credentials: Option<&Credentials>,
    ) -> Result<Request<OutBody>, CallError> {
        let mut headers = HeaderMap::new();
        headers.insert(CONTENT_TYPE, Codec::Proto.header_value());
        headers.insert(PROTOCOL_VERSION, HeaderValue::from_static("1"));
        headers.insert(ACCEPT_ENCODING, HeaderValue::from_static("gzip"));
        headers.insert(USER_AGENT_HEADER, USER_AGENT);
        if let Some(credentials) = credentials {
            headers.insert(RUNNER_UUID, header_of(&credentials.uuid)?);
            headers.insert(RUNNER_TOKEN, header_of(credentials.token.expose_secret())?);
        }
        Ok(self.post(method, headers, message.encode_to_vec().into()))
    }

    async fn read<A: Message + Default>(
        &self,
        response: Response<InBody>,
        deadline: Instant,
        credentials: Option<&Credentials>,
    ) -> Result<A, CallError> {
        let read = match Answer::read(response, BODY_LIMIT, deadline).await {
            Ok(mut answer) => {
                if let Some(credentials) = credentials {
                    answer.hide(&credentials.token);
                }
                match answer.connect_error() {
                    Some(error) if credentials.is_some() && is_unregistered(&error) => {
                        Err(CallError::Unregistered)
                    }
                    Some(error) => Err(CallError::Refused(error)),
                    None => is_message(Codec::Proto, &answer)
                        .then(|| A::decode(&*answer.body).ok())
                        .flatten()
                        .ok_or_else(|| CallError::Garbage(answer.describe())),
                }
            }
            Err(sentence) => Err(CallError::Garbage(sentence)),
        };
        self.upstream.set_up(!matches!(read, Err(CallError::Garbage(_))));
        read
    }

    pub(super) fn post(&self, method: &str, headers: HeaderMap, body: Bytes) -> Request<OutBody> {
        let mut request = Request::new(OutBody::from(body));
        *request.method_mut() = Method::POST;
        *request.uri_mut() = self.upstream.below(&format!("/api/actions/{method}"));
        *request.headers_mut() = headers;
        request
    }
}

fn registered(codec: Codec, answer: Answer) -> Result<RegisterAnswer, RegisterFailure> {
    if let Some(error) = answer.connect_error() {
        return Err(match RegisterRefusal::of(&error) {
            Some(refusal) => RegisterFailure::Refused { refusal, error },
            None => RegisterFailure::Unclear(format!("Gitea failed in the middle: {error}")),
        });
    }
    if nothing_done(answer.status) {
        return Err(refused_by_proxy(answer.describe(), answer.asks_to_wait()));
    }
    let runner = decoded(codec, &answer).and_then(|message: RegisterResponse| message.runner);
    let complete =
        |runner: &Runner| runner.id > 0 && !runner.uuid.is_empty() && !runner.token.is_empty();
    match runner.filter(complete) {
        Some(runner) => Ok(RegisterAnswer { headers: answer.headers, body: answer.body, runner }),
        None => Err(RegisterFailure::Unclear(answer.describe())),
    }
}

/// A redirect or a 4xx that is no error of the protocol comes from before Gitea's handler.
fn nothing_done(status: hyper::StatusCode) -> bool {
    status.is_redirection() || status.is_client_error()
}

fn refused_by_proxy(sentence: String, retry_after: Option<Duration>) -> RegisterFailure {
    let error = ConnectError::new(Code::Unavailable, sentence).after(retry_after);
    RegisterFailure::Refused { refusal: RegisterRefusal::Other, error }
}

fn decoded<M: Message + Default + DeserializeOwned>(codec: Codec, answer: &Answer) -> Option<M> {
    is_message(codec, answer).then(|| connect::decode(codec, &answer.body).ok()).flatten()
}

fn is_message(codec: Codec, answer: &Answer) -> bool {
    let said = Codec::from_content_type(answer.headers.get(CONTENT_TYPE));
    answer.status.is_success() && said == Some(codec)
}

fn header_of(secret: &str) -> Result<HeaderValue, CallError> {
    connect::sensitive(secret).ok_or_else(|| {
        CallError::Garbage("the runner's credentials hold what no header can carry".into())
    })
}

fn now() -> Timestamp {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or(Duration::ZERO);
    Timestamp {
        seconds: i64::try_from(since.as_secs()).unwrap_or(i64::MAX),
        nanos: i32::try_from(since.subsec_nanos()).unwrap_or_default(),
    }
}
