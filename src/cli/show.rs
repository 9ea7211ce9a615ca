//! How the commands word things for people.

use std::io::{self, IsTerminal};
use std::time::SystemTime;

use comfy_table::{ContentArrangement, Table, presets};
use serde::Serialize;

use super::Failure;
use crate::admin::view::rough;

/// Columns without borders; in a terminal they fit its width.
pub(super) fn columns<const N: usize>(header: [&str; N]) -> Table {
    let mut table = Table::new();
    table.load_preset(presets::NOTHING).set_header(header);
    table.column_iter_mut().for_each(|column| {
        column.set_padding((0, 2));
    });
    // Some terminals do not know their width, and say 0.
    if io::stdout().is_terminal() && table.width().is_some_and(|width| width > 0) {
        table.set_content_arrangement(ContentArrangement::Dynamic);
    }
    table
}

/// JSON for programs.
pub(super) fn json(answer: &impl Serialize) -> Result<String, Failure> {
    serde_json::to_string_pretty(answer).map_err(|error| Failure::new(Failure::INTERNAL, error))
}

/// What is known of one thing, a line each.
pub(super) fn fields(fields: &[(&str, String)]) -> String {
    let width = fields.iter().map(|(what, _)| what.len() + 2).max().unwrap_or_default();
    let lines: Vec<_> =
        fields.iter().map(|(what, text)| format!("{what:<width$}{}", plain(text))).collect();
    lines.join("\n")
}

/// A text from elsewhere, which must not steer the terminal.
pub(super) fn plain(text: &str) -> String {
    text.chars().map(|c| if c.is_control() { '\u{fffd}' } else { c }).collect()
}

/// How long ago an RFC 3339 time was; one that cannot be read is shown as it is.
pub(super) fn ago(time: &str, now: SystemTime) -> String {
    let Ok(then) = humantime::parse_rfc3339(time) else { return plain(time) };
    // Clocks of two machines differ.
    let age = now.duration_since(then).unwrap_or_default();
    match age.as_secs() {
        0..5 => "just now".into(),
        _ => format!("{} ago", rough(age)),
    }
}

/// How long it is until an RFC 3339 time, or how long ago that was.
pub(super) fn until(time: &str, now: SystemTime) -> String {
    let Ok(then) = humantime::parse_rfc3339(time) else { return plain(time) };
    match then.duration_since(now) {
        // Up a little: what was set to three days a moment ago is in 3 days.
        Ok(left) => format!("in {}", rough(left + left / 50)),
        Err(_) => ago(time, now),
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    #[test]
    fn ages_are_read_at_a_glance() {
        let then = humantime::parse_rfc3339("2025-11-23T12:00:00Z").unwrap();
        for (seconds, said) in [
            (0, "just now"),
            (59, "59 s ago"),
            (60, "1 min ago"),
            (7199, "1 h ago"),
            (86_400, "1 day ago"),
            (3 * 86_400, "3 days ago"),
        ] {
            let now = then + Duration::from_secs(seconds);
            assert_eq!(ago("2025-11-23T12:00:00Z", now), said);
        }
        let before = then - Duration::from_secs(60);
        assert_eq!(ago("2025-11-23T12:00:00Z", before), "just now", "clocks differ");
        assert_eq!(ago("yesterday", then), "yesterday");
    }

    #[test]
    fn what_is_to_come_is_read_at_a_glance() {
        let then = humantime::parse_rfc3339("2025-11-23T12:00:00Z").unwrap();
        for (left, said) in [
            (1, "in 1 s"),
            (3599, "in 1 h"),
            (3 * 86_400 - 5, "in 3 days"),
            (3 * 86_400 - 7200, "in 2 days"),
        ] {
            let now = then - Duration::from_secs(left);
            assert_eq!(until("2025-11-23T12:00:00Z", now), said);
        }
        assert_eq!(until("2025-11-23T12:00:00Z", then + Duration::from_secs(7200)), "2 h ago");
        assert_eq!(until("tomorrow\u{7}", then), "tomorrow\u{fffd}");
    }

    #[test]
    fn a_name_cannot_steer_the_terminal() {
        assert_eq!(plain("a\u{1b}[31mb\n"), "a\u{fffd}[31mb\u{fffd}");
    }
}
