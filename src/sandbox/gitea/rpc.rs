//! The Connect services of the runners: Ping and RunnerService.
//!
//! A real Gitea does more: it takes gRPC content types (`application/grpc[+proto]`, grpc-web) over
//! HTTP/1.1 too, and a Register framed as gRPC registers a runner. The stand-in answers those 415; the
//! broker refuses them itself, so that none reaches Gitea.

use bytes::Bytes;
use hyper::header::{self, HeaderValue};
use hyper::http::request::Parts;
use hyper::{Method, StatusCode};
use prost::Message;
use serde::Serialize;
use serde::de::DeserializeOwned;

use super::calls::Refusal;
use super::reply::{Reply, empty, not_found, reply};
use super::route::{PING_SERVICE, RUNNER_SERVICE, procedure};
use super::serve::Shared;
use super::task::{FetchTaskResponse, UpdateLogRequest, UpdateLogResponse};
use crate::connect::messages::{
    DeclareRequest, DeclareResponse, FetchTaskRequest, PingRequest, PingResponse, RegisterRequest,
    RegisterResponse, UpdateTaskRequest, UpdateTaskResponse,
};
use crate::connect::{Codec, ConnectError, Encoding, decode, encode, gunzip, gzip};
use crate::sandbox::codec::{self, MESSAGE_LIMIT};

/// Answers of RunnerService are compressed from this length on; Ping's always.
const COMPRESS_FROM: usize = 1024;

const ACCEPT_POST: &str = "application/grpc, application/grpc+json, \
    application/grpc+json; charset=utf-8, application/grpc+proto, application/grpc-web, \
    application/grpc-web+json, application/grpc-web+json; charset=utf-8, \
    application/grpc-web+proto, application/json, application/json; charset=utf-8, \
    application/proto";

/// Acts and answers; `None`: the normalized path is not one of these services. When it arrived, `picked`
/// tasks had been handed out.
pub(super) fn answer(
    shared: &Shared,
    head: &Parts,
    path: &str,
    body: &Bytes,
    picked: usize,
) -> Option<Reply> {
    let (service, called) = [PING_SERVICE, RUNNER_SERVICE]
        .into_iter()
        .find_map(|service| Some((service, procedure(path, service)?)))?;
    if head.method != Method::POST {
        let mut reply = empty(StatusCode::METHOD_NOT_ALLOWED);
        reply.headers_mut().insert(header::ALLOW, HeaderValue::from_static("POST"));
        return Some(reply);
    }
    let known: &[&str] = if service == PING_SERVICE {
        &["Ping"]
    } else {
        &["Register", "Declare", "FetchTask", "UpdateTask", "UpdateLog"]
    };
    if !known.contains(&&*called) {
        return Some(not_found());
    }
    let Some(codec) = codec_of(head) else {
        let mut reply = empty(StatusCode::UNSUPPORTED_MEDIA_TYPE);
        reply.headers_mut().insert("Accept-Post", HeaderValue::from_static(ACCEPT_POST));
        return Some(reply);
    };
    let outcome = plain(head, body).and_then(|plain| {
        let call = Call { shared, head, codec, plain, picked };
        call.act(&called)
    });
    let mut reply = match outcome {
        Ok(message) => {
            let from = if service == PING_SERVICE { 0 } else { COMPRESS_FROM };
            success(head, codec, message, from)
        }
        Err(error) => error.reply(),
    };
    if let Some(capabilities) = shared.options.capabilities.as_ref().filter(|_| called == "Declare")
    {
        reply.headers_mut().insert("X-Gitea-Actions-Capabilities", capabilities.clone());
    }
    Some(reply)
}

struct Call<'a> {
    shared: &'a Shared,
    head: &'a Parts,
    codec: Codec,
    plain: Vec<u8>,
    picked: usize,
}

impl Call<'_> {
    fn act(&self, called: &str) -> Result<Vec<u8>, Error> {
        let now = self.shared.now();
        let credentials = (self.header("x-runner-uuid"), self.header("x-runner-token"));
        let refuse = |refusal| self.refuse(refusal);
        match called {
            "Ping" => {
                let request: PingRequest = self.read("*pingv1.PingRequest")?;
                Ok(self.write(&PingResponse { data: format!("Hello, {}!", request.data) }))
            }
            "Register" => {
                let mut request: RegisterRequest = self.read("*runnerv1.RegisterRequest")?;
                request.ephemeral &= self.shared.abilities.ephemeral;
                let runner = self.shared.change(|state| state.register(now, request));
                Ok(self.write(&RegisterResponse { runner: Some(runner.map_err(refuse)?) }))
            }
            "Declare" => {
                let request: DeclareRequest = self.read("*runnerv1.DeclareRequest")?;
                let runner = self.shared.change(|state| state.declare(now, credentials, request));
                Ok(self.write(&DeclareResponse { runner: Some(runner.map_err(refuse)?) }))
            }
            "FetchTask" => {
                let request: FetchTaskRequest = self.read("*runnerv1.FetchTaskRequest")?;
                let version = request.tasks_version;
                let overlaps = self.shared.options.lost_wakeup.then_some(self.picked);
                let fetched = self
                    .shared
                    .change(|state| state.fetch_task(now, credentials, version, overlaps));
                let (task, tasks_version) = fetched.map_err(refuse)?;
                let root = self.shared.root_url(self.head);
                Ok(match self.codec {
                    Codec::Proto => {
                        let task = task.map(|task| task.proto(&root));
                        FetchTaskResponse { task, tasks_version }.encode_to_vec()
                    }
                    Codec::Json => {
                        let version = tasks_version.to_string();
                        let mut answer = serde_json::json!({ "tasksVersion": version });
                        if let Some(task) = task {
                            answer["task"] = task.json(&root);
                        }
                        codec::json(&answer)
                    }
                })
            }
            "UpdateTask" => {
                let request: UpdateTaskRequest = self.read("*runnerv1.UpdateTaskRequest")?;
                let state =
                    self.shared.change(|state| state.update_task(now, credentials, &request));
                Ok(self.write(&UpdateTaskResponse { state: Some(state.map_err(refuse)?) }))
            }
            _ => {
                let request: UpdateLogRequest = self.read("*runnerv1.UpdateLogRequest")?;
                let kept = self.shared.change(|state| state.update_log(now, credentials, request));
                Ok(self.write(&UpdateLogResponse { ack_index: kept.map_err(refuse)? }))
            }
        }
    }

    fn read<M: Message + Default + DeserializeOwned>(&self, name: &str) -> Result<M, Error> {
        decode(self.codec, &self.plain).map_err(|ConnectError { message, .. }| {
            // Gitea's words where they were recorded; its JSON library's are not imitated.
            let error = match self.codec {
                Codec::Proto => "cannot parse invalid wire-format data".to_owned(),
                Codec::Json => message,
            };
            Error::invalid(format!("unmarshal message: unmarshal into {name}: proto: {error}"))
        })
    }

    fn write<M: Message + Serialize>(&self, message: &M) -> Vec<u8> {
        encode(self.codec, message)
    }

    fn header(&self, name: &str) -> &str {
        text(self.head, name)
    }

    fn refuse(&self, refusal: Refusal) -> Error {
        const UNREGISTERED: &str = "unregistered runner";
        match refusal {
            Refusal::Unregistered if self.shared.options.real_unauthenticated => Error {
                status: StatusCode::UNAUTHORIZED,
                code: "unauthenticated",
                message: UNREGISTERED.into(),
            },
            Refusal::Unregistered => {
                Error::unknown(format!("rpc error: code = Unauthenticated desc = {UNREGISTERED}"))
            }
            Refusal::Unknown(message) => Error::unknown(message),
        }
    }
}

/// A Connect error.
struct Error {
    status: StatusCode,
    code: &'static str,
    message: String,
}

impl Error {
    fn unknown(message: String) -> Self {
        Self { status: StatusCode::INTERNAL_SERVER_ERROR, code: "unknown", message }
    }

    fn invalid(message: String) -> Self {
        Self { status: StatusCode::BAD_REQUEST, code: "invalid_argument", message }
    }

    fn reply(self) -> Reply {
        let body = serde_json::json!({ "code": self.code, "message": self.message });
        connect(self.status, Codec::Json, codec::json(&body))
    }
}

fn success(head: &Parts, codec: Codec, message: Vec<u8>, compress_from: usize) -> Reply {
    let accepted = text(head, "accept-encoding").split(',').any(|known| known.trim() == "gzip");
    if !accepted || message.len() < compress_from {
        return connect(StatusCode::OK, codec, message);
    }
    let mut reply = connect(StatusCode::OK, codec, gzip(&message));
    reply.headers_mut().insert(header::CONTENT_ENCODING, HeaderValue::from_static("gzip"));
    reply
}

fn connect(status: StatusCode, codec: Codec, body: Vec<u8>) -> Reply {
    let mut reply = reply(status, codec.content_type(), body);
    reply.headers_mut().insert(header::ACCEPT_ENCODING, HeaderValue::from_static("gzip"));
    reply
}

/// Stricter than [`Codec::from_content_type`], as Gitea is: it knows these spellings and no other.
fn codec_of(head: &Parts) -> Option<Codec> {
    match text(head, "content-type").to_ascii_lowercase().as_str() {
        "application/proto" => Some(Codec::Proto),
        "application/json" | "application/json; charset=utf-8" => Some(Codec::Json),
        _ => None,
    }
}

fn plain(head: &Parts, body: &Bytes) -> Result<Vec<u8>, Error> {
    /// Length of gzip's header: with less, Gitea's reader meets the end before it can judge.
    const GZIP_HEADER: usize = 10;
    let encoding = Encoding::from_header(head.headers.get(header::CONTENT_ENCODING)).map_err(
        |ConnectError { message, .. }| Error {
            status: StatusCode::NOT_IMPLEMENTED,
            code: "unimplemented",
            message,
        },
    )?;
    match encoding {
        Encoding::Identity => Ok(body.to_vec()),
        Encoding::Gzip if (1..GZIP_HEADER).contains(&body.len()) => {
            Err(Error::invalid("get decompressor: unexpected EOF".into()))
        }
        Encoding::Gzip => gunzip(body, MESSAGE_LIMIT)
            .map_err(|_| Error::invalid("get decompressor: gzip: invalid header".into())),
    }
}

fn text<'a>(head: &'a Parts, name: &str) -> &'a str {
    head.headers.get(name).and_then(|value| value.to_str().ok()).unwrap_or_default()
}
