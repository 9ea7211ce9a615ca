//! What holds of every body.

use proptest::collection::vec;
use proptest::prelude::*;
use prost::encoding::{WireType, encode_key, encode_varint};
use serde_json::Value as Json;

use super::{register_request, tasks_version, without_label};
use crate::connect::messages::{FetchTaskResponse, RegisterRequest};
use crate::connect::wire::{Value, fields, put_bytes, put_varint};
use crate::connect::{Codec, decode, encode};

const TOKEN: &str = "the broker's";
const LABEL: &str = "rb-intent-0";

/// A field of any number and wire type.
fn any_field() -> impl Strategy<Value = Vec<u8>> {
    let number = prop_oneof![8 => 1_u32..12, 1 => 12_u32..(1 << 29)];
    let value = prop_oneof![
        any::<u64>().prop_map(|value| {
            let mut out = Vec::new();
            encode_varint(value, &mut out);
            (WireType::Varint, out)
        }),
        any::<[u8; 8]>().prop_map(|value| (WireType::SixtyFourBit, value.to_vec())),
        any::<[u8; 4]>().prop_map(|value| (WireType::ThirtyTwoBit, value.to_vec())),
        vec(any::<u8>(), 0..200).prop_map(|value| {
            let mut out = Vec::new();
            encode_varint(value.len() as u64, &mut out);
            out.extend(value);
            (WireType::LengthDelimited, out)
        }),
    ];
    (number, value).prop_map(|(number, (kind, value))| {
        let mut out = Vec::new();
        encode_key(number, kind, &mut out);
        out.extend(value);
        out
    })
}

/// A field that a reader of `RegisterRequest` accepts.
fn known_field() -> impl Strategy<Value = Vec<u8>> {
    let text = (prop_oneof![Just(1), Just(2), Just(5), Just(6), Just(99)], ".{0,8}");
    prop_oneof![
        9 => text.prop_map(|(number, text)| {
            let mut out = Vec::new();
            put_bytes(&mut out, number, text.as_bytes());
            out
        }),
        1 => Just(vec![0x38, 1]),
    ]
}

/// A message split into its fields, each with whether it is a string of this number.
fn split(message: &[u8], number: u32) -> Vec<(bool, &[u8])> {
    let split = fields(message).map(|field| {
        let field = field.unwrap();
        (field.number == number && matches!(field.value, Value::Bytes(_)), field.raw)
    });
    split.collect()
}

fn fields_of(message: &[u8]) -> Vec<Vec<u8>> {
    fields(message).map(|field| field.unwrap().raw.to_vec()).collect()
}

fn string_field(number: u32, value: &str) -> Vec<u8> {
    let mut out = Vec::new();
    put_bytes(&mut out, number, value.as_bytes());
    out
}

/// A JSON object with members that are touched and members that are not.
fn any_object() -> impl Strategy<Value = Json> {
    let leaf = prop_oneof![
        Just(Json::Null),
        any::<bool>().prop_map(Json::from),
        any::<i64>().prop_map(Json::from),
        "[\"\\\\{}\\[\\],: a-c\u{e9}]{0,6}".prop_map(Json::from),
    ];
    let tree = leaf.prop_recursive(3, 16, 4, |inner| {
        prop_oneof![
            vec(inner.clone(), 0..4).prop_map(Json::from),
            vec(("[a-c\"]{0,2}", inner), 0..4).prop_map(|members| members.into_iter().collect()),
        ]
    });
    let labels = vec("[a-c\",\\]]{0,3}", 0..4);
    (vec(("[a-z\"]{0,6}", tree), 0..5), any::<Option<bool>>(), proptest::option::of(labels))
        .prop_map(|(members, token, labels)| {
            let mut object: serde_json::Map<_, _> = members.into_iter().collect();
            object.remove("labels");
            object.remove("token");
            if let Some(is_text) = token {
                let token = if is_text { Json::from("runner's") } else { Json::Null };
                object.insert("token".to_owned(), token);
            }
            if let Some(labels) = labels {
                object.insert("labels".to_owned(), Json::from(labels));
            }
            Json::Object(object)
        })
}

fn text(json: &Json, pretty: bool) -> String {
    if pretty { format!("{json:#}") } else { json.to_string() }
}

proptest! {
    #[test]
    fn every_other_field_survives_in_its_order(fields in vec(any_field(), 0..12)) {
        let body = fields.concat();
        let out = register_request(Codec::Proto, &body, TOKEN, LABEL).unwrap();

        let before: Vec<_> = split(&body, 2).into_iter().filter(|(hit, _)| !hit).collect();
        let (tokens, mut after): (Vec<_>, Vec<_>) =
            split(&out, 2).into_iter().partition(|(hit, _)| *hit);
        prop_assert_eq!(tokens, [(true, &string_field(2, TOKEN)[..])]);
        let added = after.iter().rposition(|(_, raw)| *raw == string_field(6, LABEL)).unwrap();
        after.remove(added);
        prop_assert_eq!(after, before);
        let labels: Vec<_> = split(&out, 6).into_iter().filter(|(hit, _)| *hit).collect();
        prop_assert_eq!(labels.last().unwrap().1, &string_field(6, LABEL)[..]);
    }

    #[test]
    fn a_reader_takes_our_token_and_one_label_more(fields in vec(known_field(), 0..12)) {
        let body = fields.concat();
        let out = register_request(Codec::Proto, &body, TOKEN, LABEL).unwrap();
        let mut expected: RegisterRequest = decode(Codec::Proto, &body).unwrap();
        expected.token = TOKEN.to_owned();
        expected.labels.push(LABEL.to_owned());
        prop_assert_eq!(decode::<RegisterRequest>(Codec::Proto, &out).unwrap(), expected);
    }

    #[test]
    fn a_label_put_in_is_taken_out(
        before in vec(any_field(), 0..3),
        runner in vec(any_field(), 0..8),
        places in vec(any::<prop::sample::Index>(), 0..3),
    ) {
        // Field 1 outside of `runner` would be read as a runner, too.
        let before: Vec<_> = before.into_iter().filter(|raw| raw[0] != 0x0a).collect();
        let body = |runner: &[Vec<u8>]| {
            let mut out = before.concat();
            put_bytes(&mut out, 1, &runner.concat());
            out
        };
        let mut labelled = runner.clone();
        for place in places {
            labelled.insert(place.index(labelled.len() + 1), string_field(9, LABEL));
        }
        prop_assert_eq!(without_label(Codec::Proto, &body(&labelled), LABEL).unwrap(), body(&runner));
    }

    #[test]
    fn json_is_changed_in_two_members_alone(object in any_object(), pretty: bool) {
        let body = text(&object, pretty);
        let out = register_request(Codec::Json, body.as_bytes(), TOKEN, LABEL).unwrap();
        let mut expected = object;
        expected["token"] = Json::from(TOKEN);
        match &mut expected["labels"] {
            Json::Array(labels) => labels.push(Json::from(LABEL)),
            absent => *absent = Json::from(vec![LABEL]),
        }
        prop_assert_eq!(serde_json::from_slice::<Json>(&out).unwrap(), expected);
    }

    #[test]
    fn a_label_put_into_json_is_taken_out(mut runner in any_object(), pretty: bool) {
        runner["token"] = Json::from(TOKEN);
        if runner.get("labels").is_none() {
            runner["labels"] = Json::Array(Vec::new());
        }
        let runner = text(&runner, pretty);
        let labelled = register_request(Codec::Json, runner.as_bytes(), TOKEN, LABEL).unwrap();
        let body = |runner: &str| format!("{{\"runner\": {runner} }}").into_bytes();
        let labelled = body(&String::from_utf8(labelled).unwrap());
        prop_assert_eq!(without_label(Codec::Json, &labelled, LABEL).unwrap(), body(&runner));
    }

    #[test]
    fn a_tasks_version_alone_is_changed(fields in vec(any_field(), 0..12), version: i64) {
        let body = fields.concat();
        let out = tasks_version(Codec::Proto, &body, version).unwrap();
        let is_version = |raw: &[u8]| raw[0] == 0x10;
        let others = |message: &[u8]| -> Vec<Vec<u8>> {
            let fields = fields_of(message).into_iter();
            fields.filter(|raw| !is_version(raw)).collect()
        };
        prop_assert_eq!(others(&out), others(&body));
        let mut expected = Vec::new();
        if version != 0 && fields_of(&body).iter().any(|raw| is_version(raw)) {
            put_varint(&mut expected, 2, version.cast_unsigned());
        }
        let versions: Vec<_> = fields_of(&out).into_iter().filter(|raw| is_version(raw)).collect();
        prop_assert_eq!(versions.concat(), expected);
    }

    #[test]
    fn a_reader_takes_the_version_put_in(
        object in any_object(), old in 1_i64.., new: i64, in_json: bool, pretty: bool,
    ) {
        let (codec, body) = if in_json {
            let mut object = object;
            object["tasksVersion"] = if pretty { Json::from(old) } else { Json::from(old.to_string()) };
            (Codec::Json, text(&object, pretty).into_bytes())
        } else {
            let message = FetchTaskResponse { task: None, tasks_version: old };
            (Codec::Proto, encode(Codec::Proto, &message))
        };
        let out = tasks_version(codec, &body, new).unwrap();
        let read: FetchTaskResponse = decode(codec, &out).unwrap();
        prop_assert_eq!(read, FetchTaskResponse { task: None, tasks_version: new });
        prop_assert_eq!(tasks_version(codec, &out, old).map(|again| decode(codec, &again)), match new {
            0 if codec == Codec::Proto => Ok(Ok(FetchTaskResponse::default())),
            _ => Ok(Ok(FetchTaskResponse { task: None, tasks_version: old })),
        });
    }

    #[test]
    fn nothing_panics(
        bytes in vec(any::<u8>(), 0..100),
        json in "[\\[\\]{}\", :\\\\a-c\u{e9}0-9]{0,40}",
        labels in "[\\[\\]{}\", :l]{0,12}",
    ) {
        let near = format!("{{\"labels\":{labels},\"runner\":{{\"labels\":{labels}}}}}");
        for body in [&bytes, json.as_bytes(), near.as_bytes()] {
            for codec in [Codec::Proto, Codec::Json] {
                let _ = register_request(codec, body, TOKEN, LABEL);
                let _ = without_label(codec, body, "l");
                let _ = tasks_version(codec, body, 1);
            }
        }
    }
}
