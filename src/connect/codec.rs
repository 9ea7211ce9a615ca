//! Bodies: which codec and compression they have, and how they become messages and back.

use std::io::{Read, Write};

use flate2::Compression;
use flate2::bufread::MultiGzDecoder;
use flate2::write::GzEncoder;
use hyper::header::HeaderValue;
use prost::Message;
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};

use super::error::{Code, ConnectError};

/// How a message is written.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Codec {
    /// `application/proto`
    Proto,
    /// `application/json`
    Json,
}

impl Codec {
    /// Reads a `Content-Type`; `None` for all that is not one of the two, or not in UTF-8.
    #[must_use]
    pub fn from_content_type(value: Option<&HeaderValue>) -> Option<Self> {
        let mut parts = value?.to_str().ok()?.split(';').map(str::trim);
        let media_type = parts.next()?;
        let codec = [Self::Proto, Self::Json]
            .into_iter()
            .find(|codec| codec.content_type().eq_ignore_ascii_case(media_type))?;
        parts.all(is_harmless_parameter).then_some(codec)
    }

    /// The `Content-Type` of its bodies.
    #[must_use]
    pub fn content_type(self) -> &'static str {
        match self {
            Self::Proto => "application/proto",
            Self::Json => "application/json",
        }
    }

    /// [`Self::content_type`], ready for a header map.
    #[must_use]
    pub fn header_value(self) -> HeaderValue {
        HeaderValue::from_static(self.content_type())
    }

    /// The word for it in the store.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Proto => "proto",
            Self::Json => "json",
        }
    }

    /// Reads the word for it.
    #[must_use]
    #[expect(clippy::should_implement_trait, reason = "an unknown word is no error here")]
    pub fn from_str(word: &str) -> Option<Self> {
        [Self::Proto, Self::Json].into_iter().find(|codec| codec.as_str() == word)
    }
}

/// How a body is compressed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Encoding {
    /// Not at all.
    Identity,
    /// As a `.gz` file.
    Gzip,
}

impl Encoding {
    /// Reads a `Content-Encoding`; absent and empty mean not compressed.
    ///
    /// # Errors
    /// `unimplemented` for an encoding that neither the broker nor Gitea reads.
    pub fn from_header(value: Option<&HeaderValue>) -> Result<Self, ConnectError> {
        let name = value.map(HeaderValue::as_bytes).unwrap_or_default().trim_ascii();
        if name.is_empty() || name.eq_ignore_ascii_case(b"identity") {
            return Ok(Self::Identity);
        }
        if name.eq_ignore_ascii_case(b"gzip") {
            return Ok(Self::Gzip);
        }
        let shown: String = String::from_utf8_lossy(name).chars().take(32).collect();
        Err(ConnectError::new(
            Code::Unimplemented,
            format!("unknown compression {shown:?}: supported encodings are gzip"),
        ))
    }
}

/// Reads a whole message; fields that it does not know are skipped.
///
/// # Errors
/// `invalid_argument`; the sentence quotes nothing of the body, which may hold a secret.
pub fn decode<M>(codec: Codec, body: &[u8]) -> Result<M, ConnectError>
where
    M: Message + Default + DeserializeOwned,
{
    match codec {
        Codec::Proto => M::decode(body).map_err(|_| malformed_proto()),
        Codec::Json => object_from_json(body),
    }
}

/// Writes a message.
#[must_use]
pub fn encode<M: Message + Serialize>(codec: Codec, message: &M) -> Vec<u8> {
    match codec {
        Codec::Proto => message.encode_to_vec(),
        Codec::Json => serde_json::to_vec(message).expect("messages have nothing that JSON lacks"),
    }
}

/// Decompresses a body of one or more gzip members. An empty body is an empty message, as it is to Gitea.
///
/// # Errors
/// `resource_exhausted` as soon as more than `limit` bytes come out, of which no more are kept;
/// `invalid_argument` where the body is cut, damaged, or followed by something else.
pub fn gunzip(body: &[u8], limit: usize) -> Result<Vec<u8>, ConnectError> {
    let mut out = Vec::new();
    if body.is_empty() {
        return Ok(out);
    }
    let mut decoder = MultiGzDecoder::new(body);
    let mut buffer = [0; 8 * 1024];
    loop {
        let count = decoder.read(&mut buffer).map_err(|_| malformed_gzip())?;
        if count == 0 {
            return Ok(out);
        }
        let needed = out.len() + count;
        if needed > limit {
            return Err(too_large(limit));
        }
        if needed > out.capacity() {
            // Doubling, as a Vec does by itself, but never past the limit.
            let capacity = out.capacity().saturating_mul(2).clamp(needed, limit);
            out.reserve_exact(capacity - out.len());
        }
        out.extend_from_slice(&buffer[..count]);
    }
}

/// Compresses a body.
#[must_use]
pub fn gzip(body: &[u8]) -> Vec<u8> {
    let mut encoder = GzEncoder::new(Vec::new(), Compression::default());
    encoder
        .write_all(body)
        .and_then(|()| encoder.finish())
        .expect("writing to memory does not fail")
}

/// Reads a JSON object. The check for its first byte is needed because serde would take an array, too.
pub(super) fn object_from_json<'a, T: Deserialize<'a>>(body: &'a [u8]) -> Result<T, ConnectError> {
    if body.trim_ascii_start().first() != Some(&b'{') {
        return Err(ConnectError::new(Code::InvalidArgument, "the body is not a JSON object"));
    }
    serde_json::from_slice(body).map_err(|error| malformed_json(&error))
}

/// Tells where the JSON is wrong, in words of our own: serde's may quote the value.
pub(super) fn malformed_json(error: &serde_json::Error) -> ConnectError {
    let what = match error.classify() {
        serde_json::error::Category::Data => "has a field of the wrong type, or one field twice,",
        _ => "is malformed",
    };
    let (line, column) = (error.line(), error.column());
    ConnectError::new(
        Code::InvalidArgument,
        format!("the JSON body {what} at line {line}, column {column}"),
    )
}

pub(super) fn malformed_proto() -> ConnectError {
    ConnectError::new(Code::InvalidArgument, "the body is not the protobuf message of this call")
}

fn malformed_gzip() -> ConnectError {
    ConnectError::new(
        Code::InvalidArgument,
        "the body is not valid gzip, though its Content-Encoding says so",
    )
}

fn too_large(limit: usize) -> ConnectError {
    ConnectError::new(
        Code::ResourceExhausted,
        format!("the body is larger than {limit} bytes when it is decompressed"),
    )
}

fn is_harmless_parameter(parameter: &str) -> bool {
    match parameter.split_once('=') {
        Some((name, value)) if name.trim().eq_ignore_ascii_case("charset") => {
            value.trim().trim_matches('"').eq_ignore_ascii_case("utf-8")
        }
        _ => true,
    }
}
