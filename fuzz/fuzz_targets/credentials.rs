//! What a runner holds, and where it lies. A runner file that is read is read as the same after it was written,
//! and what is none is refused in words that quote nothing of it. Only what has the form of a token that the
//! broker made tells an id, and what it makes is read back. No name of a runner leads out of its folder. The
//! first byte chooses which of them.
#![no_main]

use std::collections::BTreeMap;
use std::path::Path;

use libfuzzer_sys::fuzz_target;
use runner_broker::broker::secret::{
    ID_LENGTH, Presented, SECRET_LENGTH, compose, digest, new_id, new_secret,
};
use runner_broker::credential::{Pattern, RunnerFile, full_labels, is_form};
use secrecy::ExposeSecret;
use serde_json::Value;

fuzz_target!(|input: &[u8]| {
    let Some((choice, rest)) = input.split_first() else { return };
    match choice & 3 {
        0 | 1 => runner_file(rest),
        2 => enrollment_token(rest),
        _ => place(rest),
    }
});

fn runner_file(content: &[u8]) {
    let file = match RunnerFile::parse(content) {
        Ok(file) => file,
        Err(error) => {
            let (line, column) = (error.line, error.column);
            assert!(line <= content.len() + 1 && column <= content.len() + 1, "{error}");
            let told = format!("this is no runner file (line {line}, column {column}): ");
            assert!(error.to_string().starts_with(&told));
            return;
        }
    };
    let written = file.to_json();
    let again = RunnerFile::parse(&written).expect("what was written can be read");
    assert!(again.is(&file) && file.is(&again));
    assert_eq!(again.to_json(), written);

    let labels = |value: &Value| value.as_array().cloned().unwrap_or_default();
    let read: Value = serde_json::from_slice(&written).expect("it is JSON");
    if let Ok(given) = serde_json::from_slice::<Value>(content) {
        for name in ["id", "uuid", "token", "address"] {
            assert_eq!(given[name], read[name], "{name}");
        }
        assert_eq!(labels(&given["labels"]), labels(&read["labels"]));
        assert_eq!(given["ephemeral"] == true, read["ephemeral"] == true);
    }
    let token = file.token.expose_secret();
    let mut others = file.clone();
    others.token = "".into();
    assert_eq!(format!("{file:?}"), format!("{others:?}"), "it tells {token}");
    assert_eq!(others.is(&file), token.is_empty());
}

fn enrollment_token(input: &[u8]) {
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
}

/// The first line is the pattern, the second the name, the third the uuid; each other one is a label.
fn place(input: &[u8]) {
    let text = String::from_utf8_lossy(input);
    let mut lines = text.split('\n');
    let pattern = lines.next().unwrap_or_default();
    let (name, uuid) = (lines.next().unwrap_or_default(), lines.next().unwrap_or_default());
    let labels: Vec<String> = lines.map(str::to_owned).collect();
    if let Ok(full) = full_labels(&labels, &BTreeMap::from([("ubuntu".into(), "host".into())])) {
        for (bare, full) in labels.iter().zip(&full) {
            let (label, form) = full.split_once(':').expect("none is bare");
            assert!(!label.is_empty() || bare.is_empty());
            assert!(full.starts_with(bare.as_str()) && is_form(form));
        }
        assert_eq!(full.len(), labels.len());
    }

    let Ok(pattern) = Pattern::parse(pattern) else { return };
    let plain = pattern.expand("n", 1, "u").expect("stand-ins fit").path();
    let Ok(target) = pattern.expand(name, 1, uuid) else { return };
    let (path, root) = (target.path(), pattern.root());
    assert!(path.is_absolute() && path.starts_with(root) && path != root);
    // No more and no fewer steps than the pattern has, and none that walks.
    let steps = |path: &Path| path.components().count();
    assert_eq!(steps(&path), steps(&plain), "{path:?}");
    let text = path.to_str().expect("it is text");
    assert!(!text.contains("//") && !text.contains(['\0', '\n']), "{path:?}");
    assert!(text.split('/').skip(1).all(|step| !["", ".", ".."].contains(&step)), "{path:?}");
}
