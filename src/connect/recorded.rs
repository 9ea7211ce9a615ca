//! The exchanges recorded under `tests/data/wire`, for the tests of this folder.

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use hyper::StatusCode;
use hyper::header::HeaderValue;
use serde::Deserialize;

/// One exchange.
#[derive(Deserialize)]
pub(super) struct Exchange {
    pub(super) request: Request,
    pub(super) response: Response,
}

#[derive(Deserialize)]
pub(super) struct Request {
    headers: std::collections::BTreeMap<String, String>,
    body: Body,
}

#[derive(Deserialize)]
pub(super) struct Response {
    status: u16,
    body: Body,
}

#[derive(Deserialize)]
#[serde(rename_all = "lowercase")]
enum Body {
    Text(String),
    Base64(String),
}

/// Reads `tests/data/wire/<name>.json`.
pub(super) fn exchange(name: &str) -> Exchange {
    let path = format!("{}/tests/data/wire/{name}.json", env!("CARGO_MANIFEST_DIR"));
    let text = std::fs::read_to_string(&path).unwrap_or_else(|error| panic!("{path}: {error}"));
    serde_json::from_str(&text).unwrap()
}

impl Request {
    pub(super) fn header(&self, name: &str) -> Option<HeaderValue> {
        self.headers.get(name).map(|value| value.parse().unwrap())
    }

    pub(super) fn body(&self) -> Vec<u8> {
        self.body.bytes()
    }
}

impl Response {
    pub(super) fn status(&self) -> StatusCode {
        StatusCode::from_u16(self.status).unwrap()
    }

    pub(super) fn body(&self) -> Vec<u8> {
        self.body.bytes()
    }
}

impl Body {
    fn bytes(&self) -> Vec<u8> {
        match self {
            Self::Text(text) => text.clone().into_bytes(),
            Self::Base64(text) => STANDARD.decode(text).unwrap(),
        }
    }
}
