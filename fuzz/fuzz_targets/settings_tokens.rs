//! Settings with any `[[enrollment.tokens]]` are read or refused, and neither tells a secret. The first
//! byte chooses whether it is written before or after the rest, and how.
#![no_main]

use std::path::PathBuf;
use std::sync::LazyLock;

use libfuzzer_sys::fuzz_target;
use runner_broker::config::{Sources, load};

const CANARY: &str = "canary-of-the-token-0123456789abcdef-42";

static FILE: LazyLock<PathBuf> = LazyLock::new(|| {
    std::env::temp_dir().join(format!("runner-broker-fuzz-{}.toml", std::process::id()))
});

fuzz_target!(|input: &[u8]| {
    let Some((choice, text)) = input.split_first() else { return };
    let Ok(text) = std::str::from_utf8(text) else { return };
    let table = format!("\n[[enrollment.tokens]]\nname = \"a\"\ntoken = \"{CANARY}\"\n");
    let toml = match choice % 4 {
        0 => table + text,
        1 => format!("{text}{table}"),
        2 => format!("{text}\n[[enrollment.tokens]]\ntoken = '{CANARY}\n"),
        _ => format!("{text}\n[[enrollment.tokens]]\nname = \"a\"\ntoken = [\"{CANARY}\"]\n"),
    };
    std::fs::write(&*FILE, toml).expect("the file can be written");
    let set = [
        ("GITEA_INSTANCE_URL", "http://gitea:3000"),
        ("GITEA_RUNNER_REGISTRATION_TOKEN", "registration"),
    ];
    let loaded = load(&Sources {
        file: Some(FILE.clone()),
        default_file: None,
        environment: set.map(|(name, value)| (name.into(), value.into())).into(),
        flags: Vec::new(),
    });
    let told = match loaded {
        Ok(loaded) => format!("{:?} {:?} {:?}", loaded.settings, loaded.warnings, loaded.used),
        Err(problems) => problems.to_string(),
    };
    assert!(!told.contains(CANARY), "{told}");
});
