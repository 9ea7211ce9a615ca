//! The rules of what a runner does at the moment.

use super::*;

const SECOND: Duration = Duration::from_secs(1);

#[test]
fn one_that_never_spoke_is_not_gone() {
    let start = Instant::now();
    let activity = Activity::new(start, false, &[]);
    assert_eq!(activity.presence(start + 10 * SILENCE), Presence::Idle);
}

#[test]
fn gone_when_its_last_connection_closes() {
    let start = Instant::now();
    let mut activity = Activity::new(start, false, &[]);
    activity.connected();
    activity.connected();
    assert!(activity.called(start), "the first call");
    assert!(!activity.called(start), "no longer the first");
    activity.disconnected(true, start);
    assert_eq!(activity.presence(start), Presence::Idle, "one connection is left");
    activity.disconnected(true, start);
    assert_eq!(activity.presence(start), Presence::Gone);
    activity.connected();
    assert_eq!(activity.presence(start), Presence::Idle, "it came back");
}

#[test]
fn gone_after_five_minutes_of_silence_on_an_open_connection() {
    let start = Instant::now();
    let mut activity = Activity::new(start, false, &[]);
    activity.connected();
    activity.called(start);
    assert_eq!(activity.presence(start + SILENCE - SECOND), Presence::Idle);
    assert_eq!(activity.presence(start + SILENCE), Presence::Gone);
}

#[test]
fn a_restart_of_the_broker_tells_nothing_about_who_is_gone() {
    let start = Instant::now();
    let activity = Activity::new(start, true, &[]);
    assert_eq!(activity.presence(start + SECOND), Presence::Idle);
    assert_eq!(activity.presence(start + SILENCE), Presence::Gone);
}

#[test]
fn a_task_keeps_it_busy_whatever_its_connections_do() {
    let start = Instant::now();
    let mut activity = Activity::new(start, false, &[]);
    activity.connected();
    activity.called(start);
    activity.works_on(7, start);
    activity.disconnected(true, start);
    assert_eq!(activity.presence(start), Presence::Busy);
    activity.done_with(7);
    assert_eq!(activity.presence(start), Presence::Gone);
}

#[test]
fn a_task_without_a_report_for_ten_minutes_is_given_up_as_gitea_does() {
    let start = Instant::now();
    let mut activity = Activity::new(start, true, &[7]);
    assert_eq!(activity.presence(start + TASK_TIMEOUT - SECOND), Presence::Busy);
    assert_eq!(activity.presence(start + TASK_TIMEOUT), Presence::Gone);
    activity.reports(start + TASK_TIMEOUT - SECOND);
    assert_eq!(activity.presence(start + TASK_TIMEOUT), Presence::Busy);
    activity.reports(start + 2 * TASK_TIMEOUT);
    assert_eq!(activity.tasks(start + 2 * TASK_TIMEOUT).count(), 0, "not taken up again");
}

const EXPIRE: Duration = Duration::from_secs(10 * 60);

#[test]
fn a_lease_runs_from_the_moment_it_is_gone() {
    let start = Instant::now();
    let mut activity = Activity::new(start, false, &[]);
    activity.connected();
    activity.called(start);
    assert_eq!(activity.gone_since(start), None);
    assert_eq!(activity.lease_ends(EXPIRE), Some(start + SILENCE + EXPIRE), "it may fall silent");
    let silent = start + SILENCE;
    assert_eq!(activity.gone_since(silent + SECOND), Some(silent));
    activity.disconnected(true, start + SECOND);
    assert_eq!(activity.gone_since(start + 2 * SECOND), Some(start + SECOND));
    assert_eq!(activity.lease_ends(EXPIRE), Some(start + SECOND + EXPIRE));
    activity.connected();
    activity.called(start + 9 * SECOND);
    assert_eq!(activity.lease_ends(EXPIRE), Some(start + 9 * SECOND + SILENCE + EXPIRE));
    assert_eq!(activity.lease_ends(Duration::MAX), None, "never");
}

#[test]
fn the_lease_of_one_that_never_spoke_runs_from_the_start() {
    let start = Instant::now();
    let activity = Activity::new(start, false, &[]);
    assert_eq!(activity.lease_ends(EXPIRE), Some(start + EXPIRE));
    assert_eq!(activity.gone_since(start + 2 * EXPIRE), None);
}

#[test]
fn after_a_restart_of_the_broker_leases_start_anew() {
    let start = Instant::now();
    let activity = Activity::new(start, true, &[]);
    assert_eq!(activity.lease_ends(EXPIRE), Some(start + SILENCE + EXPIRE));
}

#[test]
fn no_lease_runs_while_a_task_is_in_hand() {
    let start = Instant::now();
    let mut activity = Activity::new(start, true, &[7]);
    activity.connected();
    activity.disconnected(true, start);
    assert_eq!(activity.lease_ends(EXPIRE), Some(start + TASK_TIMEOUT + EXPIRE));
    activity.reports(start + SECOND);
    assert_eq!(activity.lease_ends(EXPIRE), Some(start + SECOND + TASK_TIMEOUT + EXPIRE));
    assert_eq!(activity.gone_since(start + TASK_TIMEOUT), None);
    activity.done_with(7);
    assert_eq!(activity.lease_ends(EXPIRE), Some(start + EXPIRE));
}

#[test]
fn one_that_dials_gitea_itself_is_known_by_what_gitea_shows() {
    let start = Instant::now();
    let show = |online, busy| Shown { online, busy };
    let mut activity = Activity::new(start, false, &[]);
    assert!(!activity.shown(show(false, false), start), "it has not come yet");
    assert_eq!(activity.presence(start), Presence::Idle);
    assert!(activity.shown(show(true, false), start + SECOND));
    assert!(activity.spoke());
    assert_eq!(activity.presence(start + SECOND), Presence::Idle);
    assert!(activity.shown(show(true, true), start + 2 * SECOND));
    assert_eq!(activity.presence(start + 2 * SECOND), Presence::Busy);
    assert!(activity.shown(show(true, false), start + 3 * SECOND));
    assert_eq!(activity.presence(start + 3 * SECOND), Presence::Idle);
    for again in 4..6 {
        assert!(!activity.shown(show(false, false), start + again * SECOND));
        assert_eq!(activity.gone_since(start + again * SECOND), Some(start + 4 * SECOND));
    }
    assert_eq!(activity.last_call(), Some(start + 3 * SECOND));
    assert!(activity.shown(show(true, false), start + 7 * SECOND));
    assert_eq!(activity.presence(start + 7 * SECOND), Presence::Idle, "it came back");
}

#[test]
fn what_gitea_shows_may_come_of_a_call_that_the_broker_passed_or_made() {
    let start = Instant::now();
    let online = Shown { online: true, busy: true };
    for passed in [true, false] {
        let mut activity = Activity::new(start, false, &[]);
        match passed {
            true => assert!(activity.called(start)),
            false => activity.spoken_for(start),
        }
        assert!(!activity.shown(online, start + ONLINE - SECOND));
        assert_eq!(activity.presence(start + ONLINE - SECOND), Presence::Idle);
        assert!(activity.shown(online, start + ONLINE));
        assert_eq!(activity.presence(start + ONLINE), Presence::Busy);
    }
}

#[test]
fn while_its_own_connection_is_open_that_tells_more() {
    let start = Instant::now();
    let mut activity = Activity::new(start, false, &[]);
    activity.connected();
    activity.called(start);
    assert!(!activity.shown(Shown { online: false, busy: false }, start + 2 * ONLINE));
    assert_eq!(activity.presence(start + 2 * ONLINE), Presence::Idle);
}
