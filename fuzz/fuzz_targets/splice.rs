//! What is spliced differs from what came in only in the token and the intent's label, or in the tasks'
//! version: every other byte is where it was, by a reader of our own. Whoever reads the message finds what
//! was put there. The first byte chooses codec and splice.
#![no_main]

use libfuzzer_sys::fuzz_target;
use runner_broker::connect::messages::{FetchTaskResponse, RegisterRequest, RegisterResponse};
use runner_broker::connect::splice::{register_request, tasks_version, without_label};
use runner_broker::connect::{Codec, decode};
use runner_broker_fuzz::{Field, codec, field, fields, member, parts};

const TOKEN: &str = "token \"of\" the broker";
const LABEL: &str = "l";
const VERSION: i64 = 1_234_567;

fuzz_target!(|input: &[u8]| {
    let Some((choice, body)) = input.split_first() else { return };
    let codec = codec(*choice);
    match choice >> 1 & 3 {
        0 => request(codec, body),
        1 => response(codec, body),
        _ => version(codec, body),
    }
});

fn request(codec: Codec, body: &[u8]) {
    let spliced = register_request(codec, body, TOKEN, LABEL);
    if codec == Codec::Proto {
        assert_eq!(spliced.is_ok(), fields(body).is_some());
    }
    let message = decode::<RegisterRequest>(codec, body);
    let Ok(spliced) = spliced else {
        // Only what has groups is read over and not spliced.
        assert!(message.is_err() || (codec == Codec::Proto && fields(body).is_none()));
        return;
    };
    match codec {
        Codec::Proto => request_in_proto(body, &spliced),
        Codec::Json => request_in_json(text(body), text(&spliced)),
    }
    let Ok(mut expected) = message else { return };
    expected.token = TOKEN.to_owned();
    expected.labels.push(LABEL.to_owned());
    assert_eq!(decode::<RegisterRequest>(codec, &spliced), Ok(expected));
}

fn request_in_proto(body: &[u8], spliced: &[u8]) {
    let is = |field: &Field<'_>, number| field.number == number && field.kind == 2;
    let (before, mut after) = (all(body), all(spliced));
    let token = after.iter().position(|field| is(field, 2)).expect("the token is there");
    assert_eq!(after.remove(token).raw, field(2, TOKEN.as_bytes()));
    let label = after.iter().rposition(|field| is(field, 6)).expect("the label is there");
    assert_eq!(after.remove(label).raw, field(6, LABEL.as_bytes()));
    let others: Vec<_> = before.iter().filter(|field| !is(field, 2)).collect();
    assert!(after.iter().map(|field| field.raw).eq(others.iter().map(|field| field.raw)));
}

fn request_in_json(body: &str, spliced: &str) {
    let token = serde_json::to_string(TOKEN).expect("a text");
    let label = serde_json::to_string(LABEL).expect("a text");
    let (had_token, had_labels) = (member(body, "token"), member(body, "labels"));
    // What was not there is last.
    let mut added = Vec::new();
    if had_token.is_none() {
        added.push(format!("\"token\":{token}"));
    }
    if had_labels.is_none() {
        added.push(format!("\"labels\":[{label}]"));
    }
    let mut added = added.join(",");
    if !added.is_empty() && !parts(body).is_empty() {
        added.insert(0, ',');
    }
    let end = body.len() - body.rfind('}').expect("an object");
    let place = spliced.len() - end - added.len()..spliced.len() - end;
    assert_eq!(spliced[place.clone()], added);
    let mut undone = spliced.to_owned();
    undone.replace_range(place, "");
    // What was there is where it was.
    if let Some(old) = had_token {
        let new = member(&undone, "token").expect("it is there");
        assert_eq!(undone[new.clone()], token);
        undone.replace_range(new, &body[old]);
    }
    if let Some(old) = had_labels {
        let new = member(&undone, "labels").expect("they are there");
        let mut labels = undone[new.clone()].to_owned();
        if &body[old.clone()] == "null" {
            assert_eq!(labels, format!("[{label}]"));
            labels = "null".into();
        } else {
            let all = parts(&labels);
            let (last, others) = all.split_last().expect("the label is there");
            assert_eq!(labels[last.1.clone()], label);
            let start = match others.last() {
                Some((_, other)) => {
                    assert_eq!(&labels[other.end..last.1.start], ",");
                    other.end
                }
                None => last.1.start,
            };
            labels.replace_range(start..last.1.end, "");
        }
        undone.replace_range(new, &labels);
    }
    assert_eq!(undone, body);
    // Another reader may take the last of several.
    if let Ok(read) = serde_json::from_str::<serde_json::Value>(spliced) {
        assert_eq!(read["token"], TOKEN);
    }
}

fn response(codec: Codec, body: &[u8]) {
    let spliced = without_label(codec, body, LABEL);
    let message = decode::<RegisterResponse>(codec, body);
    let Ok(spliced) = spliced else {
        assert!(message.is_err() || codec == Codec::Proto);
        return;
    };
    assert_eq!(without_label(codec, &spliced, LABEL).as_ref(), Ok(&spliced));
    match codec {
        Codec::Proto => response_in_proto(body, &spliced),
        Codec::Json => response_in_json(text(body), text(&spliced)),
    }
    let Ok(mut expected) = message else { return };
    if let Some(runner) = &mut expected.runner {
        runner.labels.retain(|label| label != LABEL);
    }
    assert_eq!(decode::<RegisterResponse>(codec, &spliced), Ok(expected));
}

fn response_in_proto(body: &[u8], spliced: &[u8]) {
    let (before, after) = (all(body), all(spliced));
    assert_eq!(before.len(), after.len());
    let ours = field(9, LABEL.as_bytes());
    let is_ours =
        |field: &Field<'_>| field.number == 9 && field.kind == 2 && field.bytes == LABEL.as_bytes();
    for (before, after) in before.iter().zip(&after) {
        if before.number != 1 || before.kind != 2 || !all(before.bytes).iter().any(is_ours) {
            assert_eq!(before.raw, after.raw);
            continue;
        }
        assert_eq!(field(1, after.bytes), after.raw);
        let kept =
            all(before.bytes).into_iter().filter(|field| !is_ours(field)).map(|field| field.raw);
        assert_eq!(kept.collect::<Vec<_>>().concat(), after.bytes);
        assert!(after.bytes.len() + ours.len() <= before.bytes.len());
    }
}

fn response_in_json(body: &str, spliced: &str) {
    let labels = |json: &str| {
        let runner = member(json, "runner").filter(|runner| &json[runner.clone()] != "null")?;
        let labels = member(&json[runner.clone()], "labels")?;
        let labels = runner.start + labels.start..runner.start + labels.end;
        Some(labels).filter(|labels| &json[labels.clone()] != "null")
    };
    let Some(before) = labels(body) else {
        assert_eq!(body, spliced);
        return;
    };
    let after = labels(spliced).expect("they are there");
    assert_eq!(body[..before.start], spliced[..after.start]);
    assert_eq!(body[before.end..], spliced[after.end..]);
    let elements = |json: &str| -> Vec<String> {
        parts(json).into_iter().map(|(_, range)| json[range].to_owned()).collect()
    };
    let (before, after) = (&body[before], &spliced[after]);
    let mut kept = elements(before);
    kept.retain(|label| serde_json::from_str::<String>(label).is_ok_and(|label| label != LABEL));
    if kept.len() == elements(before).len() {
        assert_eq!(before, after);
    }
    assert_eq!(elements(after), kept);
}

fn version(codec: Codec, body: &[u8]) {
    let spliced = tasks_version(codec, body, VERSION);
    let message = decode::<FetchTaskResponse>(codec, body);
    let Ok(spliced) = spliced else {
        // Only what has groups is read over and not spliced.
        assert!(message.is_err() || (codec == Codec::Proto && fields(body).is_none()));
        return;
    };
    match codec {
        Codec::Proto => {
            let is = |field: &&Field<'_>| field.number == 2 && field.kind == 0;
            let (before, after) = (all(body), all(&spliced));
            let others = before.iter().filter(|field| !is(field)).map(|field| field.raw);
            assert!(after.iter().filter(|field| !is(field)).map(|field| field.raw).eq(others));
            let versions: Vec<_> = after.iter().filter(is).map(|field| field.raw).collect();
            let expected: &[&[u8]] = &[&[2 << 3, 0x87, 0xad, 0x4b]];
            assert_eq!(
                versions,
                if before.iter().any(|field| is(&field)) { expected } else { &[] }
            );
        }
        Codec::Json => {
            let (body, spliced) = (text(body), text(&spliced));
            let Some(old) = member(body, "tasksVersion") else {
                assert_eq!(body, spliced);
                return;
            };
            let quote = if body[old.clone()].starts_with('"') { "\"" } else { "" };
            let new = format!("{quote}{VERSION}{quote}");
            assert_eq!(spliced, [&body[..old.start], &new, &body[old.end..]].concat());
        }
    }
    let Ok(message) = message else { return };
    let read: FetchTaskResponse = decode(codec, &spliced).expect("what could be read still can");
    assert_eq!(read.task, message.task);
    // Only one that is not there, or says zero, may tell zero.
    let told = [VERSION, 0];
    assert!(told[..if message.tasks_version == 0 { 2 } else { 1 }].contains(&read.tasks_version));
    let again = tasks_version(codec, &spliced, message.tasks_version);
    assert_eq!(again.map(|body| decode(codec, &body)), Ok(Ok(message)));
}

fn all(message: &[u8]) -> Vec<Field<'_>> {
    fields(message).expect("it was spliced")
}

fn text(json: &[u8]) -> &str {
    std::str::from_utf8(json).expect("it was spliced")
}
