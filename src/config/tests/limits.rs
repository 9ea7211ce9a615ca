//! `[limits]`.

use std::time::Duration;

use super::Case;
use crate::config::Limits;

#[test]
fn limits_are_whole_numbers_and_durations() {
    let case = Case::minimal()
        .toml("[limits]\nconnections = 100\nhead_timeout = \"5s\"\n")
        .env("RUNNER_BROKER__LIMITS__HEADERS", "40");
    let limits = case.good().settings.limits;
    let expected = Limits {
        connections: 100,
        head_timeout: Duration::from_secs(5),
        headers: 40,
        ..Limits::default()
    };
    assert_eq!(limits, expected);
}

#[test]
fn what_no_limit_can_be_is_told() {
    let case = Case::minimal().toml(
        "[limits]\nconnections = 0\nrequests = \"many\"\nheader_bytes = 1e6\nmessage_ratio = 5000\n\
         idle_timeout = \"0s\"\nbody_timeout = \"2h\"\n",
    );
    assert_eq!(
        case.bad(),
        [
            "limits.connections (file DIR/config.toml): 0 is not within 1 and 1000000: set a value that is",
            "limits.requests (file DIR/config.toml): \"many\" is no whole number: give one, for example 1024",
            "limits.header_bytes (file DIR/config.toml): is no text: put it in quotes",
            "limits.idle_timeout (file DIR/config.toml): 0s is not within 1s and 1h: set a value that is",
            "limits.body_timeout (file DIR/config.toml): 2h is not within 1s and 1h: set a value that is",
            "limits.message_ratio (file DIR/config.toml): 5000 is not within 2 and 1032: set a value that is",
        ]
    );
}

#[test]
fn an_idle_timeout_below_a_runners_own_is_warned_about() {
    let case = Case::minimal().set("limits.idle_timeout", "60s");
    let warnings = case.good().warnings;
    assert!(
        warnings.iter().any(|warning| warning.starts_with("limits.idle_timeout: ")),
        "{warnings:?}"
    );
    assert!(Case::minimal().good().warnings.is_empty());
}
