//! Bodies: which codec they have, and how they become messages and back.

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
        let value = value?;
        // As runners and Gitea write it.
        if value == Self::Proto.content_type() {
            return Some(Self::Proto);
        }
        let mut parts = value.to_str().ok()?.split(';').map(str::trim);
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

/// Reads a JSON object. The check for its first byte is needed because serde would take an array, too.
pub(crate) fn object_from_json<'a, T: Deserialize<'a>>(body: &'a [u8]) -> Result<T, ConnectError> {
    let text = utf8(body)?;
    if !text.trim_ascii_start().starts_with('{') {
        return Err(ConnectError::new(Code::InvalidArgument, "the body is not a JSON object"));
    }
    serde_json::from_str(text).map_err(|error| malformed_json(&error))
}

/// All of the body: serde would look only at what it keeps.
pub(super) fn utf8(body: &[u8]) -> Result<&str, ConnectError> {
    str::from_utf8(body)
        .map_err(|_| ConnectError::new(Code::InvalidArgument, "the JSON body is not UTF-8"))
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

fn is_harmless_parameter(parameter: &str) -> bool {
    match parameter.split_once('=') {
        Some((name, value)) if name.trim().eq_ignore_ascii_case("charset") => {
            value.trim().trim_matches('"').eq_ignore_ascii_case("utf-8")
        }
        _ => true,
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::connect::messages::{
        DeclareRequest, DeclareResponse, DeregisterRequest, RegisterRequest, RegisterResponse,
    };
    use crate::connect::recorded::{Exchange, exchange};

    fn codec(content_type: &'static str) -> Option<Codec> {
        Codec::from_content_type(Some(&HeaderValue::from_static(content_type)))
    }

    fn decode_json<M: Message + Default + DeserializeOwned>(body: &str) -> Result<M, ConnectError> {
        decode(Codec::Json, body.as_bytes())
    }

    #[test]
    fn content_types_are_told_apart() {
        assert_eq!(codec("application/proto"), Some(Codec::Proto));
        assert_eq!(codec("Application/JSON"), Some(Codec::Json));
        assert_eq!(codec("application/json; charset=utf-8"), Some(Codec::Json));
        assert_eq!(codec("application/json;Charset=\"UTF-8\""), Some(Codec::Json));
        for other in ["", "text/plain", "application/grpc", "application/json; charset=latin1"] {
            assert_eq!(codec(other), None, "{other}");
        }
        assert_eq!(Codec::from_content_type(None), None);
    }

    #[test]
    fn a_codec_is_read_back_by_its_names() {
        for codec in [Codec::Proto, Codec::Json] {
            assert_eq!(Codec::from_str(codec.as_str()), Some(codec));
            assert_eq!(Codec::from_content_type(Some(&codec.header_value())), Some(codec));
        }
        assert_eq!(Codec::from_str("grpc"), None);
    }

    #[test]
    fn recorded_register_is_read_in_both_codecs() {
        for (name, codec) in [("register", Codec::Proto), ("register-json", Codec::Json)] {
            let Exchange { request, response } = exchange(name);
            let content_type = request.header("Content-Type");
            assert_eq!(Codec::from_content_type(content_type.as_ref()), Some(codec));
            let read: RegisterRequest = decode(codec, &request.body()).unwrap();
            assert!(!read.name.is_empty() && read.token.len() == 40, "{read:?}");
            assert_eq!(read.labels[0], "host");

            let answer: RegisterResponse = decode(codec, &response.body()).unwrap();
            assert_eq!(answer.runner.as_ref().unwrap().token.len(), 40);
            assert_eq!(encode(codec, &answer), response.body());
        }
    }

    #[test]
    fn recorded_declare_is_read() {
        let Exchange { request, response } = exchange("declare");
        let read: DeclareRequest = decode(Codec::Proto, &request.body()).unwrap();
        assert_eq!(read.labels, ["host", "ubuntu-latest"]);
        let answer: DeclareResponse = decode(Codec::Proto, &response.body()).unwrap();
        assert_eq!(answer.runner.unwrap().id, 5);
    }

    #[test]
    fn recorded_garbage_is_refused_as_gitea_refuses_it() {
        let Exchange { request, response } = exchange("register-body-garbage");
        let error = decode::<RegisterRequest>(Codec::Proto, &request.body()).unwrap_err();
        assert_eq!(error.code.http_status(), response.status());
    }

    #[test]
    fn json_nulls_are_absent_fields() {
        let read: RegisterRequest =
            decode_json(r#"{"name":null,"labels":null,"ephemeral":null,"later":1}"#).unwrap();
        assert_eq!(read, RegisterRequest::default());
        let read: DeregisterRequest = decode_json(r#"{"id":null,"uuid":"u"}"#).unwrap();
        assert_eq!((read.id, read.uuid.as_str()), (0, "u"));
    }

    #[test]
    fn json_ids_are_strings_or_numbers() {
        for body in [r#"{"id":"7"}"#, r#"{"id":7}"#] {
            assert_eq!(decode_json::<DeregisterRequest>(body).unwrap().id, 7);
        }
    }

    #[test]
    fn malformed_json_is_refused() {
        let bad = [
            "",
            "null",
            "[]",
            r#"["name","token"]"#,
            r#"{"name":"a","name":"b"}"#,
            r#"{"name":"a"} x"#,
            r#"{"labels":[1]}"#,
        ];
        for body in bad {
            let error = decode_json::<RegisterRequest>(body).unwrap_err();
            assert_eq!(error.code, Code::InvalidArgument, "{body}");
        }
    }

    #[test]
    fn a_list_in_place_of_a_message_is_refused() {
        let error = decode_json::<RegisterResponse>(r#"{"runner":["1","u"]}"#).unwrap_err();
        assert!(error.message.contains("wrong type"), "{error}");
        for none in ["{}", r#"{"runner":null}"#] {
            assert_eq!(decode_json::<RegisterResponse>(none).unwrap().runner, None);
        }
        let twice = r#"{"runner":{"id":"1","id":"1"}}"#;
        assert!(decode_json::<DeclareResponse>(twice).is_err());
    }

    /// As the splice and Gitea refuse it: a Register that only the splice refuses has been decided by then.
    #[test]
    fn json_that_is_not_utf8_is_refused_wherever_it_is_not() {
        for body in [&b"{\"name\":\"\xff\"}"[..], b"{\"later\":\"\xff\"}", b"{\"x\xff\":1}"] {
            let error = decode::<RegisterRequest>(Codec::Json, body).unwrap_err();
            assert_eq!(error.message, "the JSON body is not UTF-8");
        }
    }

    #[test]
    fn errors_quote_nothing_of_the_body() {
        let bodies = [
            r#"{"token":"hunter2","ephemeral":"hunter2"}"#,
            r#"{"labels":"hunter2"}"#,
            r#"{"token":"hunter2""#,
            r#"{"hunter2":"#,
        ];
        for body in bodies {
            let json = decode_json::<RegisterRequest>(body).unwrap_err();
            let proto = decode::<RegisterRequest>(Codec::Proto, body.as_bytes()).unwrap_err();
            assert!(!format!("{json:?} {proto:?}").contains("hunter2"), "{body}");
        }
        let id = decode_json::<DeregisterRequest>(r#"{"id":"hunter2"}"#).unwrap_err();
        assert!(!id.message.contains("hunter2"));
    }

    proptest! {
        #[test]
        fn nothing_panics(body in proptest::collection::vec(any::<u8>(), 0..200)) {
            for codec in [Codec::Proto, Codec::Json] {
                let _ = decode::<RegisterRequest>(codec, &body);
                let _ = decode::<DeclareRequest>(codec, &body);
                let _ = decode::<DeregisterRequest>(codec, &body);
            }
        }

        #[test]
        fn messages_come_back(
            name in ".{0,8}",
            token in ".{0,8}",
            labels in proptest::collection::vec(".{0,8}", 0..4),
            ephemeral: bool,
        ) {
            let message =
                RegisterRequest { name, token, labels, ephemeral, version: String::new() };
            for codec in [Codec::Proto, Codec::Json] {
                prop_assert_eq!(&decode::<RegisterRequest>(codec, &encode(codec, &message))?, &message);
            }
        }
    }
}
