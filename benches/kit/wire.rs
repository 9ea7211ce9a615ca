//! The recorded exchange that is measured: a runner's poll for which there is no task.

use std::collections::BTreeMap;
use std::fmt::Write;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use runner_broker::connect::messages::RegisterRequest;
use runner_broker::connect::{Codec, decode, encode};
use serde::Deserialize;

use super::broker::ENROLLMENT_TOKEN;

/// One exchange of `tests/data/wire`.
#[derive(Deserialize)]
pub(crate) struct Exchange {
    request: Request,
    response: Response,
}

#[derive(Deserialize)]
struct Request {
    method: String,
    path: String,
    headers: BTreeMap<String, String>,
    body: Body,
}

#[derive(Deserialize)]
struct Response {
    status: u16,
    headers: Vec<(String, String)>,
    body: Body,
}

#[derive(Deserialize)]
#[serde(rename_all = "lowercase")]
enum Body {
    Text(String),
    Base64(String),
}

impl Body {
    fn bytes(&self) -> Vec<u8> {
        match self {
            Self::Text(text) => text.clone().into_bytes(),
            Self::Base64(text) => STANDARD.decode(text).expect("as it was recorded"),
        }
    }
}

/// The poll of an idle runner.
pub(crate) fn poll() -> Exchange {
    exchange(include_str!("../../tests/data/wire/fetch-task-same-version.json"))
}

/// What a runner sends first.
pub(crate) fn declare() -> Exchange {
    exchange(include_str!("../../tests/data/wire/declare.json"))
}

/// A registration by the broker's own token, as this runner asks for it.
pub(crate) fn register(runner: usize) -> Vec<u8> {
    let recorded = exchange(include_str!("../../tests/data/wire/register.json"));
    let message: RegisterRequest =
        decode(Codec::Proto, &recorded.request.body.bytes()).expect("as it was recorded");
    let name = format!("runner-{runner}");
    let message = RegisterRequest { name, token: ENROLLMENT_TOKEN.to_owned(), ..message };
    let body = Body::Base64(STANDARD.encode(encode(Codec::Proto, &message)));
    let request = Request { body, ..recorded.request };
    Exchange { request, response: recorded.response }.request(runner)
}

fn exchange(text: &str) -> Exchange {
    serde_json::from_str(text).expect("as it was recorded")
}

/// The uuid of a runner by its number.
pub(crate) fn uuid(runner: usize) -> String {
    format!("f8865f20-67fe-4e45-b33b-{runner:012x}")
}

impl Exchange {
    /// The bytes of the request, as this runner sends it.
    pub(crate) fn request(&self, runner: usize) -> Vec<u8> {
        let Request { method, path, headers, body } = &self.request;
        let body = body.bytes();
        let mut head = format!("{method} {path} HTTP/1.1\r\nHost: gitea.example.org:3000\r\n");
        for (name, value) in headers {
            let value = match name.as_str() {
                "x-runner-uuid" => uuid(runner),
                _ => value.clone(),
            };
            let _ = write!(head, "{name}: {value}\r\n");
        }
        let _ = write!(head, "Content-Length: {}\r\n\r\n", body.len());
        [head.into_bytes(), body].concat()
    }

    /// The bytes of the answer.
    pub(crate) fn response(&self) -> Vec<u8> {
        let Response { status, headers, body } = &self.response;
        let mut head = format!("HTTP/1.1 {status} OK\r\n");
        for (name, value) in headers {
            let _ = write!(head, "{name}: {value}\r\n");
        }
        head.push_str("\r\n");
        [head.into_bytes(), body.bytes()].concat()
    }
}
