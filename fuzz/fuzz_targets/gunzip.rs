//! What is decompressed never passes the limit, and is all or nothing; what was compressed comes back, in one
//! member or several, and what is cut or damaged never comes back as something else. The first byte chooses
//! what is done with the rest, the second and third where.
#![no_main]

use libfuzzer_sys::fuzz_target;
use runner_broker::connect::{Code, gunzip, gzip};

const LIMIT: usize = 64 * 1024;

fuzz_target!(|input: &[u8]| {
    let [choice, one, two, rest @ ..] = input else { return };
    let place = usize::from(u16::from_le_bytes([*one, *two]));
    match choice & 3 {
        0 => any(rest),
        1 => any(&[&gzip(b"one"), rest].concat()),
        2 => members(rest, place),
        _ => damaged(rest, place, (choice >> 2).max(1)),
    }
});

fn any(body: &[u8]) {
    match gunzip(body, LIMIT) {
        Ok(out) => {
            assert!(out.capacity() <= LIMIT);
            assert_eq!(gunzip(body, out.len()).as_ref(), Ok(&out));
            if let Some(less) = out.len().checked_sub(1) {
                let error = gunzip(body, less).expect_err("it is larger");
                assert_eq!(error.code, Code::ResourceExhausted);
            }
        }
        Err(error) => {
            let known = [Code::InvalidArgument, Code::ResourceExhausted];
            assert!(known.contains(&error.code), "{error}");
            // What is refused for its size is refused within any lower limit, for whatever comes first.
            assert!(gunzip(body, LIMIT / 2).is_err());
        }
    }
}

fn members(plain: &[u8], place: usize) {
    let (one, two) = plain.split_at(place % (plain.len() + 1));
    let body = [gzip(one), gzip(two)].concat();
    assert_eq!(gunzip(&body, plain.len()).as_deref(), Ok(plain));
    if let Some(less) = plain.len().checked_sub(1) {
        let error = gunzip(&body, less).expect_err("it is larger");
        assert_eq!(error.code, Code::ResourceExhausted);
    }
    let first = gzip(one).len();
    let cut = 1 + place % body.len();
    match gunzip(&body[..cut], plain.len()) {
        Ok(out) if cut == first => assert_eq!(out, one),
        Ok(out) => assert_eq!((out.as_slice(), cut), (plain, body.len())),
        Err(error) => assert_eq!(error.code, Code::InvalidArgument),
    }
}

fn damaged(plain: &[u8], place: usize, bits: u8) {
    let mut body = gzip(plain);
    let place = place % body.len();
    body[place] ^= bits;
    // Some bits of its head do not matter, nor do those that fill up the last byte.
    if let Ok(out) = gunzip(&body, LIMIT.max(plain.len())) {
        assert_eq!(out, plain);
    }
}
