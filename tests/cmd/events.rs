//! `runner-broker events`

use std::time::{Duration, SystemTime};

use insta::assert_snapshot;
use runner_broker::admin::view::Event;

use super::run;
use super::scripted::{Scripted, json};

fn event(seq: i64, seconds_ago: u64, what: &str) -> Event {
    let then = SystemTime::now() - Duration::from_secs(seconds_ago);
    Event {
        seq,
        at: humantime::format_rfc3339_seconds(then).to_string(),
        actor: "socket".into(),
        what: what.into(),
        token_id: Some("Abc0123456".into()),
        runner_id: None,
        runner: None,
        peer: None,
        detail: String::new(),
    }
}

#[test]
fn events_are_listed_as_people_read_them() {
    let folder = tempfile::tempdir().unwrap();
    let refused = Event {
        actor: "runner".into(),
        runner: Some("evil\u{1b}]0;".into()),
        peer: Some([10, 0, 0, 7].into()),
        detail: "the enrollment token is disabled".into(),
        ..event(3, 62, "registration.refused")
    };
    let registered = Event {
        actor: "runner".into(),
        runner_id: Some(7),
        runner: Some("builder".into()),
        peer: Some([10, 0, 0, 7].into()),
        ..event(2, 7300, "runner.registered")
    };
    let events = [refused, registered, event(1, 2 * 86_400 + 60, "token.created")];
    let all = "GET /api/v1/events?limit=100";
    let some = "GET /api/v1/events?limit=2&token_id=Abc0123456&runner_id=7&what=runner.registered";
    let none = "GET /api/v1/events?limit=100&token_id=x%26limit%3D5";
    let broker = Scripted::start(
        folder.path(),
        vec![(all, 200, json(&events)), (some, 200, json(&&events[..2])), (none, 200, "[]".into())],
    );
    let ask = |arguments: &[&str]| {
        run(folder.path(), &[&["events", "--socket", "admin.sock"], arguments].concat(), &[])
    };
    assert_snapshot!(ask(&[]), @r"
    exit: 0
    --- stdout
    TIME        WHAT                  ACTOR   TOKEN       RUNNER       FROM      DETAIL
    1 min ago   registration.refused  runner  Abc0123456  evil�]0;     10.0.0.7  the enrollment token is disabled
    2 h ago     runner.registered     runner  Abc0123456  builder (7)  10.0.0.7
    2 days ago  token.created         socket  Abc0123456
    --- stderr
    ");

    let arguments = ["--token", "Abc0123456", "--runner", "7", "--what", "runner.registered"];
    let shown = ask(&[&arguments[..], &["--limit", "2", "--json"]].concat());
    let stdout = shown.split_once("--- stdout\n").unwrap().1.split_once("--- stderr").unwrap().0;
    assert_eq!(serde_json::from_str::<Vec<Event>>(stdout).unwrap(), events[..2]);

    assert_snapshot!(ask(&["--token", "x&limit=5"]), @r"
    exit: 0
    --- stdout
    nothing of that kind is in the audit trail
    --- stderr
    ");
    assert_eq!(broker.asked().len(), 3);
}
