//! An answer without a label is read as before, but without the label; taking it again changes nothing.
//! The first byte chooses the codec.
#![no_main]

use libfuzzer_sys::fuzz_target;
use runner_broker::connect::messages::RegisterResponse;
use runner_broker::connect::splice::without_label;
use runner_broker::connect::{Codec, decode};

const LABEL: &str = "x";

fuzz_target!(|input: &[u8]| {
    let Some((choice, body)) = input.split_first() else { return };
    let codec = if choice & 1 == 0 { Codec::Proto } else { Codec::Json };
    let Ok(spliced) = without_label(codec, body, LABEL) else { return };
    assert_eq!(without_label(codec, &spliced, LABEL).as_ref(), Ok(&spliced));
    let Ok(mut expected) = decode::<RegisterResponse>(codec, body) else { return };
    if let Some(runner) = &mut expected.runner {
        runner.labels.retain(|label| label != LABEL);
    }
    assert_eq!(decode::<RegisterResponse>(codec, &spliced), Ok(expected));
});
