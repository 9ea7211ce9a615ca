//! A prefix never tells another task than the whole answer. The first byte chooses codec and compression,
//! the second how much is cut off.
#![no_main]

use libfuzzer_sys::fuzz_target;
use runner_broker::connect::messages::{FetchTaskResponse, UpdateTaskResponse};
use runner_broker::connect::peek::{fetched_task, task_state};
use runner_broker::connect::{Codec, decode, encode, gzip};

fuzz_target!(|input: &[u8]| {
    let [choice, cut, body @ ..] = input else { return };
    let codec = if choice & 1 == 0 { Codec::Proto } else { Codec::Json };
    let is_gzip = choice & 2 != 0;
    let _ = (fetched_task(codec, is_gzip, body), task_state(codec, is_gzip, body));

    let write = |plain: Vec<u8>| {
        let mut body = if is_gzip { gzip(&plain) } else { plain };
        body.truncate(body.len().saturating_sub(usize::from(*cut)));
        body
    };
    if let Ok(message) = decode::<FetchTaskResponse>(codec, body) {
        let id = message.task.as_ref().map(|task| task.id);
        let seen = fetched_task(codec, is_gzip, &write(encode(codec, &message)));
        assert!(seen.is_none() || seen == id);
    }
    if let Ok(message) = decode::<UpdateTaskResponse>(codec, body) {
        let state = message.state.as_ref().map(|state| (state.id, state.result != 0));
        let seen = task_state(codec, is_gzip, &write(encode(codec, &message)));
        assert!(seen.is_none() || seen == state);
    }
});
