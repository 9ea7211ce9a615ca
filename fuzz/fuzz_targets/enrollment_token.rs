//! Only what has the form of a token that the broker made tells an id, and what it makes is read back.
#![no_main]

use libfuzzer_sys::fuzz_target;
use runner_broker::broker::secret::{
    ID_LENGTH, Presented, SECRET_LENGTH, compose, digest, new_id, new_secret,
};
use secrecy::ExposeSecret;

fuzz_target!(|input: &[u8]| {
    let text = String::from_utf8_lossy(input);
    let presented = Presented::of(&text);
    match presented.id {
        Some(id) => {
            let secret = &text["rb_".len() + id.len() + 1..];
            assert_eq!((id.len(), secret.len()), (ID_LENGTH, SECRET_LENGTH));
            assert_eq!(compose(id, secret).expose_secret(), text);
            assert_eq!(presented.digest, digest(secret.as_bytes()));
        }
        None => assert_eq!(presented.digest, digest(text.as_bytes())),
    }

    // Each byte is another one in the next round, so that none is thrown away for ever.
    let mut count = 0_u8;
    let mut bytes = input.iter().copied().chain([0]).cycle();
    let mut random = || {
        count = count.wrapping_add(1);
        bytes.next().unwrap_or_default().wrapping_add(count)
    };
    let (id, secret) = (new_id(&mut random), new_secret(&mut random));
    assert!(id.starts_with(|c: char| c.is_ascii_uppercase()));
    let made = compose(&id, &secret);
    let read = Presented::of(made.expose_secret());
    assert_eq!((read.id, read.digest), (Some(id.as_str()), digest(secret.as_bytes())));
});
