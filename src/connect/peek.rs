//! Reads a task's id and its end from the beginning of an answer that is passed on as a stream.
//!
//! The prefix may end anywhere. What is not within it is not told; nothing here is an error, as the
//! answer goes to the runner whatever it holds.

use std::borrow::Cow;
use std::fmt;
use std::io::Read;

use flate2::bufread::MultiGzDecoder;
use serde::de::{DeserializeSeed, Deserializer, IgnoredAny, MapAccess, Visitor};
use serde_json::Value as Json;

use super::codec::Codec;
use super::wire::{Value, fields};

/// How much of an answer is looked at, after decompression.
const WINDOW: usize = 4 * 1024;

/// The id of the task in a `FetchTaskResponse`; `None` where there is no task, or its id comes after the
/// prefix.
#[must_use]
pub fn fetched_task(codec: Codec, gzip: bool, prefix: &[u8]) -> Option<i64> {
    look(codec, gzip, prefix, "task").id
}

/// The id of the task in an `UpdateTaskResponse`, and whether the task has ended; `None` also where the
/// prefix leaves one of the two open.
#[must_use]
pub fn task_state(codec: Codec, gzip: bool, prefix: &[u8]) -> Option<(i64, bool)> {
    let seen = look(codec, gzip, prefix, "state");
    // A result of zero is not written: only the end of the message tells it.
    let ended = seen.ended.or(seen.whole.then_some(false))?;
    Some((seen.id?, ended))
}

/// What was seen of the message in field 1, whose own field 1 is an id, and field 2 perhaps a result.
#[derive(Default)]
struct Seen {
    id: Option<i64>,
    ended: Option<bool>,
    /// The message lies within the prefix.
    whole: bool,
}

fn look(codec: Codec, gzip: bool, prefix: &[u8], name: &'static str) -> Seen {
    let plain = if gzip { Cow::Owned(inflate(prefix)) } else { Cow::Borrowed(prefix) };
    let window = &plain[..plain.len().min(WINDOW)];
    let mut seen = Seen::default();
    match codec {
        Codec::Proto => look_proto(window, &mut seen),
        Codec::Json => look_json(window, name, &mut seen),
    }
    seen
}

fn inflate(prefix: &[u8]) -> Vec<u8> {
    let mut out = Vec::with_capacity(WINDOW);
    // An error means that the prefix is cut or damaged here: what came before it is kept.
    let _ = MultiGzDecoder::new(prefix).take(WINDOW as u64).read_to_end(&mut out);
    out
}

fn look_proto(prefix: &[u8], seen: &mut Seen) {
    for field in fields(prefix).map_while(Result::ok) {
        let message = match field.value {
            Value::Bytes(message) | Value::Cut(message) if field.number == 1 => message,
            _ => continue,
        };
        seen.whole = matches!(field.value, Value::Bytes(_));
        for inner in fields(message) {
            match inner.map(|inner| (inner.number, inner.value)) {
                Ok((1, Value::Varint(id))) => seen.id = Some(id.cast_signed()),
                Ok((2, Value::Varint(result))) => seen.ended = Some(result != 0),
                Ok((_, Value::Cut(_))) | Err(_) => seen.whole = false,
                Ok(_) => {}
            }
        }
    }
}

fn look_json(prefix: &[u8], name: &'static str, seen: &mut Seen) {
    // A number at the very end may go on beyond it.
    let cut = prefix.iter().rev().take_while(|byte| b"0123456789+-.eE".contains(byte)).count();
    let mut json = serde_json::Deserializer::from_slice(&prefix[..prefix.len() - cut]);
    // Likewise, an error means that the prefix ends here; `seen` has what came before it.
    let _ = Response { name, seen }.deserialize(&mut json);
}

/// Reads the response; the values seen are kept at once, so that an error later on does not lose them.
struct Response<'s> {
    name: &'static str,
    seen: &'s mut Seen,
}

impl<'de> DeserializeSeed<'de> for Response<'_> {
    type Value = ();

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<(), D::Error> {
        deserializer.deserialize_map(self)
    }
}

impl<'de> Visitor<'de> for Response<'_> {
    type Value = ();

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a response")
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<(), A::Error> {
        while let Some(key) = map.next_key::<String>()? {
            if key == self.name {
                map.next_value_seed(Message { seen: self.seen })?;
            } else {
                map.next_value::<IgnoredAny>()?;
            }
        }
        Ok(())
    }
}

/// Reads the message that has the id.
struct Message<'s> {
    seen: &'s mut Seen,
}

impl<'de> DeserializeSeed<'de> for Message<'_> {
    type Value = ();

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<(), D::Error> {
        deserializer.deserialize_map(self)
    }
}

impl<'de> Visitor<'de> for Message<'_> {
    type Value = ();

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a task or its state")
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<(), A::Error> {
        while let Some(key) = map.next_key::<String>()? {
            match key.as_str() {
                "id" => self.seen.id = int64(&map.next_value()?),
                "result" => self.seen.ended = Some(is_set(&map.next_value()?)),
                _ => {
                    map.next_value::<IgnoredAny>()?;
                }
            }
        }
        self.seen.whole = true;
        Ok(())
    }
}

fn int64(value: &Json) -> Option<i64> {
    value.as_i64().or_else(|| value.as_str()?.parse().ok())
}

fn is_set(result: &Json) -> bool {
    match result {
        Json::String(name) => name != "RESULT_UNSPECIFIED",
        other => other.as_i64().is_some_and(|number| number != 0),
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::connect::messages::{
        FetchTaskResponse, Task, TaskResult, TaskState, UpdateTaskResponse,
    };
    use crate::connect::recorded::exchange;
    use crate::connect::{encode, gzip};

    fn json_task(prefix: &str) -> Option<i64> {
        fetched_task(Codec::Json, false, prefix.as_bytes())
    }

    fn json_state(prefix: &str) -> Option<(i64, bool)> {
        task_state(Codec::Json, false, prefix.as_bytes())
    }

    #[test]
    fn the_recorded_task_is_seen_from_its_beginning() {
        let body = exchange("fetch-task").response.body();
        assert_eq!(fetched_task(Codec::Proto, true, &body), Some(2));
        assert_eq!(fetched_task(Codec::Proto, true, &body[..512]), Some(2));
    }

    #[test]
    fn no_prefix_of_the_recorded_task_tells_another() {
        let body = exchange("fetch-task").response.body();
        for end in 0..body.len() {
            let seen = fetched_task(Codec::Proto, true, &body[..end]);
            assert!(matches!(seen, None | Some(2)), "{seen:?} at {end}");
        }
    }

    #[test]
    fn a_recorded_answer_without_a_task_tells_none() {
        let body = exchange("fetch-task-empty").response.body();
        assert_eq!(fetched_task(Codec::Proto, false, &body), None);
    }

    #[test]
    fn recorded_states_are_seen() {
        let running = exchange("update-task-running").response.body();
        assert_eq!(task_state(Codec::Proto, false, &running), Some((2, false)));
        let success = exchange("update-task-success").response.body();
        assert_eq!(task_state(Codec::Proto, false, &success), Some((2, true)));
    }

    #[test]
    fn a_state_that_is_cut_before_its_result_is_not_taken_for_running() {
        let success = exchange("update-task-success").response.body();
        for end in 0..success.len() {
            assert_eq!(task_state(Codec::Proto, false, &success[..end]), None);
        }
        assert_eq!(json_state(r#"{"state":{"id":"2""#), None);
        assert_eq!(json_state(r#"{"state":{"id":"2","result":"RESULT_SUC"#), None);
    }

    #[test]
    fn an_id_after_other_fields_is_seen_where_it_is_within() {
        let message = [0x0a, 7, 0x12, 3, b'y', b'm', b'l', 0x08, 9];
        assert_eq!(fetched_task(Codec::Proto, false, &message), Some(9));
        assert_eq!(fetched_task(Codec::Proto, false, &message[..8]), None);
    }

    #[test]
    fn json_ids_are_seen_as_soon_as_they_end() {
        assert_eq!(json_task(r#"{"tasksVersion":"3","task":{"id":"71""#), Some(71));
        assert_eq!(json_task(r#"{"task":{"id":71,"#), Some(71));
        assert_eq!(json_task(r#"{"task":{"later":{"id":"5"},"id":"71","x":"#), Some(71));
    }

    #[test]
    fn json_that_is_cut_within_the_id_tells_none() {
        for prefix in ["", "{", r#"{"task""#, r#"{"task":{"id":"7"#, r#"{"task":{"id":7"#] {
            assert_eq!(json_task(prefix), None, "{prefix}");
        }
    }

    #[test]
    fn json_without_a_task_tells_none() {
        for body in ["{}", r#"{"task":null}"#, r#"{"id":"7"}"#, r#"{"task":{}}"#, "[]", "7"] {
            assert_eq!(json_task(body), None, "{body}");
        }
    }

    #[test]
    fn json_states_are_seen() {
        assert_eq!(json_state(r#"{"state":{"id":"2"}}"#), Some((2, false)));
        assert_eq!(json_state(r#"{"state":{"id":"2","result":"RESULT_FAILURE""#), Some((2, true)));
        assert_eq!(json_state(r#"{"state":{"result":3,"id":"2","#), Some((2, true)));
        assert_eq!(
            json_state(r#"{"state":{"id":"2","result":"RESULT_UNSPECIFIED"}}"#),
            Some((2, false))
        );
        assert_eq!(json_state(r#"{"state":{"result":1}}"#), None);
    }

    #[test]
    fn no_more_than_the_window_is_looked_at() {
        let late = format!("{{\"x\":\"{}\",\"task\":{{\"id\":\"7\"}}}}", "x".repeat(WINDOW));
        assert_eq!(json_task(&late), None);
        assert_eq!(fetched_task(Codec::Json, true, &gzip(late.as_bytes())), None);
    }

    proptest! {
        #[test]
        fn a_prefix_tells_the_whole_or_nothing(
            id in 1_i64.., end: prop::sample::Index, in_json: bool, is_gzip: bool,
        ) {
            let codec = if in_json { Codec::Json } else { Codec::Proto };
            let task = Task { id, workflow_payload: Some(vec![b'y'; 300]) };
            let plain = encode(codec, &FetchTaskResponse { task: Some(task), tasks_version: 4 });
            let body = if is_gzip { gzip(&plain) } else { plain };
            prop_assert_eq!(fetched_task(codec, is_gzip, &body), Some(id));
            let seen = fetched_task(codec, is_gzip, &body[..end.index(body.len())]);
            prop_assert!(seen.is_none() || seen == Some(id));
        }

        #[test]
        fn a_prefix_of_a_state_tells_the_whole_or_nothing(
            id in 1_i64.., ended: bool, end: prop::sample::Index, in_json: bool, is_gzip: bool,
        ) {
            let codec = if in_json { Codec::Json } else { Codec::Proto };
            let result = if ended { TaskResult::Cancelled } else { TaskResult::Unspecified };
            let state = TaskState { id, result: result as i32, ..TaskState::default() };
            let plain = encode(codec, &UpdateTaskResponse { state: Some(state) });
            let body = if is_gzip { gzip(&plain) } else { plain };
            prop_assert_eq!(task_state(codec, is_gzip, &body), Some((id, ended)));
            let seen = task_state(codec, is_gzip, &body[..end.index(body.len())]);
            prop_assert!(seen.is_none() || seen == Some((id, ended)));
        }

        #[test]
        fn nothing_panics(bytes in proptest::collection::vec(any::<u8>(), 0..100), is_gzip: bool) {
            for codec in [Codec::Proto, Codec::Json] {
                let _ = fetched_task(codec, is_gzip, &bytes);
                let _ = task_state(codec, is_gzip, &bytes);
            }
        }
    }
}
