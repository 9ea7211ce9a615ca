//! Whatever is read as a DeregisterRequest is read as the same after it was written. The first byte chooses
//! the codec.
#![no_main]

use libfuzzer_sys::fuzz_target;
use runner_broker::connect::messages::DeregisterRequest;
use runner_broker::connect::{Codec, decode, encode};

fuzz_target!(|input: &[u8]| {
    let Some((choice, body)) = input.split_first() else { return };
    let codec = if choice & 1 == 0 { Codec::Proto } else { Codec::Json };
    let Ok(message) = decode::<DeregisterRequest>(codec, body) else { return };
    for codec in [Codec::Proto, Codec::Json] {
        assert_eq!(
            decode::<DeregisterRequest>(codec, &encode(codec, &message)).as_ref(),
            Ok(&message)
        );
    }
});
