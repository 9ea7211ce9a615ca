//! Reading and writing messages, for both stand-ins.

use std::io::{self, Read, Write};

use flate2::Compression;
use flate2::read::MultiGzDecoder;
use flate2::write::GzEncoder;
use prost::Message;
use serde::de::DeserializeOwned;
use serde::{Serialize, Serializer};

use crate::connect::Codec;

/// No message is longer than this once it is decompressed.
const MESSAGE_LIMIT: u64 = 64 << 20;

pub(super) fn content_type(codec: Codec) -> &'static str {
    match codec {
        Codec::Proto => "application/proto",
        Codec::Json => "application/json",
    }
}

/// Reads a message; the error is worded as Gitea's protobuf library does where that was recorded.
pub(super) fn decode<M>(codec: Codec, bytes: &[u8]) -> Result<M, String>
where
    M: Message + Default + DeserializeOwned,
{
    match codec {
        Codec::Proto => {
            M::decode(bytes).map_err(|_| "proto: cannot parse invalid wire-format data".to_owned())
        }
        Codec::Json => serde_json::from_slice(bytes).map_err(|error| format!("proto: {error}")),
    }
}

pub(super) fn encode<M: Message + Serialize>(codec: Codec, message: &M) -> Vec<u8> {
    match codec {
        Codec::Proto => message.encode_to_vec(),
        Codec::Json => json(message),
    }
}

/// JSON of a value that always has one: its maps have text as keys.
pub(super) fn json<T: Serialize>(value: &T) -> Vec<u8> {
    serde_json::to_vec(value).expect("values with text keys have a JSON form")
}

pub(super) fn gzip(bytes: &[u8]) -> Vec<u8> {
    let mut encoder = GzEncoder::new(Vec::new(), Compression::default());
    encoder
        .write_all(bytes)
        .and_then(|()| encoder.finish())
        .expect("writing to memory does not fail")
}

pub(super) fn gunzip(bytes: &[u8]) -> io::Result<Vec<u8>> {
    let mut plain = Vec::new();
    let read = MultiGzDecoder::new(bytes).take(MESSAGE_LIMIT + 1).read_to_end(&mut plain)?;
    if read as u64 > MESSAGE_LIMIT {
        return Err(io::Error::other("the message is too long once it is decompressed"));
    }
    Ok(plain)
}

/// protobuf's JSON writes an `int64` as a string.
pub(super) fn text<S: Serializer>(value: &i64, serializer: S) -> Result<S::Ok, S::Error> {
    serializer.collect_str(value)
}
