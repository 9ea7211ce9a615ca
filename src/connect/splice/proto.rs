//! The protobuf side: fields are dropped, written and copied whole.

use crate::connect::codec::malformed_proto;
use crate::connect::error::ConnectError;
use crate::connect::wire::{Field, Value, fields, put_bytes, put_varint};

/// Numbers of the fields touched.
const REQUEST_TOKEN: u32 = 2;
const REQUEST_LABELS: u32 = 6;
const RESPONSE_RUNNER: u32 = 1;
const RUNNER_LABELS: u32 = 9;
const RESPONSE_TASKS_VERSION: u32 = 2;

pub(super) fn register_request(
    body: &[u8],
    token: &str,
    label: &str,
) -> Result<Vec<u8>, ConnectError> {
    let mut last_label = None;
    for (index, field) in whole_fields(body).enumerate() {
        if is_bytes(&field?, REQUEST_LABELS) {
            last_label = Some(index);
        }
    }

    let mut out = Vec::with_capacity(body.len() + token.len() + label.len() + 16);
    let mut has_token = false;
    for (index, field) in whole_fields(body).enumerate() {
        let field = field?;
        if !is_bytes(&field, REQUEST_TOKEN) {
            out.extend_from_slice(field.raw);
        } else if !has_token {
            put_bytes(&mut out, REQUEST_TOKEN, token.as_bytes());
            has_token = true;
        }
        if Some(index) == last_label {
            put_bytes(&mut out, REQUEST_LABELS, label.as_bytes());
        }
    }
    if !has_token {
        put_bytes(&mut out, REQUEST_TOKEN, token.as_bytes());
    }
    if last_label.is_none() {
        put_bytes(&mut out, REQUEST_LABELS, label.as_bytes());
    }
    Ok(out)
}

pub(super) fn without_label(body: &[u8], label: &str) -> Result<Vec<u8>, ConnectError> {
    let mut out = Vec::with_capacity(body.len());
    for field in whole_fields(body) {
        let field = field?;
        match field.value {
            Value::Bytes(runner) if field.number == RESPONSE_RUNNER => {
                let kept = runner_without_label(runner, label)?;
                if kept.len() == runner.len() {
                    out.extend_from_slice(field.raw);
                } else {
                    put_bytes(&mut out, RESPONSE_RUNNER, &kept);
                }
            }
            _ => out.extend_from_slice(field.raw),
        }
    }
    Ok(out)
}

pub(super) fn tasks_version(body: &[u8], version: i64) -> Result<Vec<u8>, ConnectError> {
    let mut out = Vec::with_capacity(body.len() + 10);
    // Zero is not written; of several values, a reader takes the last.
    let mut is_written = version == 0;
    for field in whole_fields(body) {
        let field = field?;
        match field.value {
            Value::Varint(_) if field.number == RESPONSE_TASKS_VERSION => {
                if !is_written {
                    put_varint(&mut out, RESPONSE_TASKS_VERSION, version.cast_unsigned());
                    is_written = true;
                }
            }
            _ => out.extend_from_slice(field.raw),
        }
    }
    Ok(out)
}

fn runner_without_label(runner: &[u8], label: &str) -> Result<Vec<u8>, ConnectError> {
    let mut kept = Vec::with_capacity(runner.len());
    for field in whole_fields(runner) {
        let field = field?;
        if field.number != RUNNER_LABELS || field.value != Value::Bytes(label.as_bytes()) {
            kept.extend_from_slice(field.raw);
        }
    }
    Ok(kept)
}

fn whole_fields(message: &[u8]) -> impl Iterator<Item = Result<Field<'_>, ConnectError>> {
    fields(message).map(|field| match field {
        Ok(field) if !matches!(field.value, Value::Cut(_)) => Ok(field),
        _ => Err(malformed_proto()),
    })
}

fn is_bytes(field: &Field<'_>, number: u32) -> bool {
    field.number == number && matches!(field.value, Value::Bytes(_))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::connect::error::Code;
    use crate::connect::messages::{RegisterRequest, RegisterResponse};
    use crate::connect::recorded::exchange;
    use crate::connect::{Codec, decode};

    /// A message of string fields.
    fn message(fields: &[(u32, &str)]) -> Vec<u8> {
        let mut out = Vec::new();
        for (number, value) in fields {
            put_bytes(&mut out, *number, value.as_bytes());
        }
        out
    }

    fn response(runner: &[u8]) -> Vec<u8> {
        let mut out = Vec::new();
        put_bytes(&mut out, RESPONSE_RUNNER, runner);
        out
    }

    #[test]
    fn token_and_label_take_their_places() {
        let body = message(&[(1, "n"), (2, "old"), (6, "a"), (6, "b"), (99, "later")]);
        let expected =
            message(&[(1, "n"), (2, "new"), (6, "a"), (6, "b"), (6, "l"), (99, "later")]);
        assert_eq!(register_request(&body, "new", "l"), Ok(expected));
    }

    #[test]
    fn absent_fields_are_added_at_the_end() {
        assert_eq!(register_request(&message(&[]), "t", "l"), Ok(message(&[(2, "t"), (6, "l")])));
    }

    #[test]
    fn of_many_tokens_one_is_left() {
        let body = message(&[(2, "a"), (1, "n"), (2, "b"), (6, "x"), (2, "")]);
        let expected = message(&[(2, "t"), (1, "n"), (6, "x"), (6, "l")]);
        assert_eq!(register_request(&body, "t", "l"), Ok(expected));
    }

    #[test]
    fn a_token_under_an_overlong_key_is_no_way_around() {
        let body = [0x92, 0x80, 0x00, 1, b'a', 0x12, 0x81, 0x00, b'b'];
        assert_eq!(register_request(&body, "t", "l"), Ok(message(&[(2, "t"), (6, "l")])));
    }

    #[test]
    fn fields_of_the_same_number_but_another_type_stay() {
        let body = [0x10, 5, 0x30, 6];
        let expected = [&body[..], &message(&[(2, "t"), (6, "l")])].concat();
        assert_eq!(register_request(&body, "t", "l"), Ok(expected));
    }

    #[test]
    fn a_recorded_register_becomes_the_recorded_one_with_intent() {
        let recorded = exchange("register-with-intent-label").request.body();
        let read: RegisterRequest = decode(Codec::Proto, &recorded).unwrap();
        let fields =
            [(1, &read.name[..]), (2, "enrolled"), (5, &read.version), (6, &read.labels[0])];
        assert_eq!(register_request(&message(&fields), &read.token, &read.labels[1]), Ok(recorded));
    }

    #[test]
    fn the_intent_is_taken_from_the_recorded_answer() {
        let recorded = exchange("register-with-intent-label").response.body();
        let mut expected: RegisterResponse = decode(Codec::Proto, &recorded).unwrap();
        let runner = expected.runner.as_mut().unwrap();
        let intent = runner.labels.pop().unwrap();
        let spliced = without_label(&recorded, &intent).unwrap();
        assert_eq!(spliced, prost::Message::encode_to_vec(&expected));
    }

    #[test]
    fn an_answer_without_the_label_is_left_as_it_is() {
        let recorded = exchange("register").response.body();
        assert_eq!(without_label(&recorded, "rb-intent-0"), Ok(recorded));
    }

    #[test]
    fn every_equal_label_goes_and_no_other() {
        let runner = message(&[(9, "l"), (4, "l"), (9, "la"), (9, "l"), (77, "l")]);
        let expected = message(&[(4, "l"), (9, "la"), (77, "l")]);
        assert_eq!(without_label(&response(&runner), "l"), Ok(response(&expected)));
    }

    #[test]
    fn the_length_is_rewritten_where_it_gets_shorter() {
        let (long, label) = ("n".repeat(120), "l".repeat(20));
        let runner = message(&[(4, &long), (9, &label)]);
        let expected = message(&[(4, &long)]);
        assert_eq!(without_label(&response(&runner), &label), Ok(response(&expected)));
    }

    #[test]
    fn the_tasks_version_takes_the_place_of_the_first() {
        let later = message(&[(99, "later")]);
        let with = |versions: &[u8]| [&later, versions, &later].concat();
        let cases: [(&[u8], i64, &[u8]); 6] = [
            (&[0x10, 7], 3, &[0x10, 3]),
            (&[0x10, 7], 300, &[0x10, 0xac, 2]),
            (&[0x10, 0x87, 0x80, 0], 3, &[0x10, 3]),
            (&[0x10, 7, 0x10, 8], 3, &[0x10, 3]),
            (&[0x10, 7, 0x10, 8], 0, &[]),
            (&[], 3, &[]),
        ];
        for (before, version, after) in cases {
            assert_eq!(tasks_version(&with(before), version), Ok(with(after)), "{before:02x?}");
        }
    }

    #[test]
    fn the_recorded_version_is_replaced() {
        let recorded = exchange("fetch-task-empty").response.body();
        assert_eq!(tasks_version(&recorded, 5), Ok(vec![0x10, 5]));
        assert_eq!(tasks_version(&recorded, 0), Ok(vec![]));
    }

    #[test]
    fn malformed_bodies_are_refused() {
        let bad: [&[u8]; 7] = [
            &[0x80],          // a key with no end
            &[0x0a, 5, b'a'], // a string cut
            &[0x0a, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0x01, b'a'], // far longer
            &[0x12, 1],       // a token cut
            &[0x9b, 0x06, 0x9c, 0x06], // a group
            &[0x02, 0],       // field number 0
            &[0x09, 1],       // eight bytes cut
        ];
        for body in bad {
            let error = register_request(body, "t", "l").unwrap_err();
            assert_eq!(error.code, Code::InvalidArgument, "{body:02x?}");
            assert!(without_label(body, "l").is_err(), "{body:02x?}");
            assert!(tasks_version(body, 1).is_err(), "{body:02x?}");
            assert!(without_label(&response(body), "l").is_err(), "{body:02x?}");
        }
    }
}
