//! A spliced RegisterRequest is read as before, but with our token and one label more. The first byte
//! chooses the codec.
#![no_main]

use libfuzzer_sys::fuzz_target;
use runner_broker::connect::messages::RegisterRequest;
use runner_broker::connect::splice::register_request;
use runner_broker::connect::{Codec, decode};

const TOKEN: &str = "token \"of\" the broker";
const LABEL: &str = "rb-intent-\u{e9}";

fuzz_target!(|input: &[u8]| {
    let Some((choice, body)) = input.split_first() else { return };
    let codec = if choice & 1 == 0 { Codec::Proto } else { Codec::Json };
    let spliced = register_request(codec, body, TOKEN, LABEL);
    let Ok(mut expected) = decode::<RegisterRequest>(codec, body) else { return };
    // Groups are read over but not spliced.
    let Ok(spliced) = spliced else { return };
    expected.token = TOKEN.to_owned();
    expected.labels.push(LABEL.to_owned());
    assert_eq!(decode::<RegisterRequest>(codec, &spliced), Ok(expected));
});
