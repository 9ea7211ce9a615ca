//! What is decompressed never passes the limit, and what was compressed comes back.
#![no_main]

use libfuzzer_sys::fuzz_target;
use runner_broker::connect::{gunzip, gzip};

const LIMIT: usize = 64 * 1024;

fuzz_target!(|input: &[u8]| {
    if let Ok(out) = gunzip(input, LIMIT) {
        assert!(out.capacity() <= LIMIT);
    }
    assert_eq!(gunzip(&gzip(input), input.len()).as_deref(), Ok(input));
});
