//! A message that is read says what a reader of our own finds in it, and is read as the same after it was
//! written; what is refused is refused in words that quote nothing of it. The first byte chooses message and
//! codec.
#![no_main]

use std::fmt::Debug;

use libfuzzer_sys::fuzz_target;
use runner_broker::connect::messages::{
    DeclareRequest, DeclareResponse, DeregisterRequest, FetchTaskResponse, RegisterRequest,
    RegisterResponse,
};
use runner_broker::connect::{Code, Codec, ConnectError, decode, encode};
use runner_broker_fuzz::{codec, fields};
use serde_json::Value;

fuzz_target!(|input: &[u8]| {
    let Some((choice, body)) = input.split_first() else { return };
    let codec = codec(*choice);
    match choice >> 1 & 7 {
        0 => {
            if let Some(message) = read(codec, body, decode::<RegisterRequest>, encode) {
                text(codec, body, 1, "name", &message.name);
                text(codec, body, 2, "token", &message.token);
                text(codec, body, 5, "version", &message.version);
                texts(codec, body, 6, "labels", &message.labels);
            }
        }
        1 => {
            if let Some(message) = read(codec, body, decode::<DeclareRequest>, encode) {
                text(codec, body, 1, "version", &message.version);
                texts(codec, body, 2, "labels", &message.labels);
            }
        }
        2 => {
            if let Some(message) = read(codec, body, decode::<DeregisterRequest>, encode) {
                text(codec, body, 2, "uuid", &message.uuid);
                text(codec, body, 3, "token", &message.token);
            }
        }
        3 => drop(read(codec, body, decode::<RegisterResponse>, encode)),
        4 => drop(read(codec, body, decode::<DeclareResponse>, encode)),
        _ => drop(read(codec, body, decode::<FetchTaskResponse>, encode)),
    }
});

fn read<M: Debug + PartialEq>(
    codec: Codec,
    body: &[u8],
    decode: impl Fn(Codec, &[u8]) -> Result<M, ConnectError>,
    encode: impl Fn(Codec, &M) -> Vec<u8>,
) -> Option<M> {
    let message = match decode(codec, body) {
        Ok(message) => message,
        Err(error) => {
            is_our_own(&error);
            return None;
        }
    };
    for codec in [Codec::Proto, Codec::Json] {
        let written = encode(codec, &message);
        let again = decode(codec, &written).expect("what was written can be read");
        assert_eq!(encode(codec, &again), written);
        assert_eq!(encode(Codec::Json, &again), encode(Codec::Json, &message));
    }
    Some(message)
}

fn is_our_own(error: &ConnectError) {
    assert_eq!(error.code, Code::InvalidArgument);
    let words = error.message.replace(|c: char| c.is_ascii_digit(), "");
    let known = [
        "the body is not the protobuf message of this call",
        "the body is not a JSON object",
        "the JSON body is not UTF-",
        "the JSON body is malformed at line , column ",
        "the JSON body has a field of the wrong type, or one field twice, at line , column ",
    ];
    assert!(known.contains(&words.as_str()), "{error}");
}

fn text(codec: Codec, body: &[u8], number: u64, name: &str, read: &str) {
    let all = seen(codec, body, number, name);
    assert_eq!(all.map(|all| all.last().cloned().unwrap_or_default()).unwrap_or(read.into()), read);
}

fn texts(codec: Codec, body: &[u8], number: u64, name: &str, read: &[String]) {
    assert_eq!(seen(codec, body, number, name).unwrap_or(read.into()), read);
}

/// All that stands there of this field; `None` where the plain reader cannot tell: in protobuf it knows no
/// groups.
fn seen(codec: Codec, body: &[u8], number: u64, name: &str) -> Option<Vec<String>> {
    let text = |bytes: &[u8]| String::from_utf8(bytes.to_vec()).expect("it was read as text");
    match codec {
        Codec::Proto => {
            let mine = fields(body)?.into_iter().filter(|field| field.number == number);
            Some(mine.map(|field| text(field.bytes)).collect())
        }
        // It reads all, also numbers that are too large for it and texts that are none.
        Codec::Json => match &serde_json::from_slice::<Value>(body).ok()?[name] {
            Value::Null => Some(Vec::new()),
            Value::String(text) => Some(vec![text.clone()]),
            Value::Array(all) => {
                Some(all.iter().map(|one| one.as_str().expect("a text").to_owned()).collect())
            }
            other => panic!("{name} was read of {other}"),
        },
    }
}
