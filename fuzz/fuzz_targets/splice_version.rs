//! An answer to a poll is read as before, but with our version where it had one; putting in the old one is
//! read as at first. The first byte chooses the codec.
#![no_main]

use libfuzzer_sys::fuzz_target;
use runner_broker::connect::messages::FetchTaskResponse;
use runner_broker::connect::splice::tasks_version;
use runner_broker::connect::{Codec, decode};

const VERSION: i64 = 1_234_567;

fuzz_target!(|input: &[u8]| {
    let Some((choice, body)) = input.split_first() else { return };
    let codec = if choice & 1 == 0 { Codec::Proto } else { Codec::Json };
    let spliced = tasks_version(codec, body, VERSION);
    let Ok(message) = decode::<FetchTaskResponse>(codec, body) else { return };
    // Groups are read over but not spliced.
    let Ok(spliced) = spliced else { return };
    let read: FetchTaskResponse = decode(codec, &spliced).expect("what could be read still can");
    assert_eq!(read.task, message.task);
    // Only one that is not there, or says zero, may tell zero.
    let told = [VERSION, 0];
    assert!(told[..if message.tasks_version == 0 { 2 } else { 1 }].contains(&read.tasks_version));
    let again = tasks_version(codec, &spliced, message.tasks_version);
    assert_eq!(again.map(|body| decode(codec, &body)), Ok(Ok(message)));
});
