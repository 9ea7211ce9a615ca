//! How tokens, runners, events and times look on a page. What they are comes from [`view`].

use std::sync::Arc;
use std::time::SystemTime;

use super::part::{Asked, Part};
use crate::admin::view::{self, rough};
use crate::broker::{Event, What};
use crate::lifecycle::{Lifecycle, Live, TokenNow};

/// A point in time, as people say it.
pub(super) struct When {
    /// RFC 3339.
    pub(super) exact: String,
    /// `3 min ago`, `in 2 days`.
    pub(super) words: String,
}

impl When {
    pub(super) fn of(exact: &str, now: SystemTime) -> Self {
        let words = match humantime::parse_rfc3339(exact) {
            Err(_) => exact.to_owned(),
            Ok(then) => match now.duration_since(then) {
                Ok(age) if age.as_secs() < 5 => "just now".into(),
                Ok(age) => format!("{} ago", rough(age)),
                Err(error) => format!("in {}", rough(error.duration())),
            },
        };
        Self { exact: exact.to_owned(), words }
    }

    fn maybe(exact: Option<&String>, now: SystemTime) -> Option<Self> {
        exact.map(|exact| Self::of(exact, now))
    }
}

/// `1 runner`, `2 runners`
pub(super) fn count(number: &usize, one: &str) -> String {
    match number {
        1 => format!("1 {one}"),
        _ => format!("{number} {one}s"),
    }
}

/// A token as a row or a page.
pub(super) struct TokenRow {
    pub(super) token: view::Token,
    pub(super) created: When,
    pub(super) last_used: Option<When>,
    pub(super) expires: Option<When>,
}

impl TokenRow {
    pub(super) fn of(now: &TokenNow) -> Self {
        let (token, clock) = (view::Token::of(now), SystemTime::now());
        Self {
            created: When::of(&token.created_at, clock),
            last_used: When::maybe(token.last_used_at.as_ref(), clock),
            expires: When::maybe(token.expires_at.as_ref(), clock),
            token,
        }
    }

    pub(super) fn is_declared(&self) -> bool {
        self.token.origin == "declared"
    }

    pub(super) fn is_single_use(&self) -> bool {
        self.token.kind == "single_use"
    }

    pub(super) fn state(&self) -> &str {
        match self.token.state.as_str() {
            "used_up" => "used up",
            state => state,
        }
    }

    pub(super) fn kind(&self) -> &'static str {
        if self.is_single_use() { "single use" } else { "reusable" }
    }

    pub(super) fn origin(&self) -> &'static str {
        match self.token.origin.as_str() {
            "declared" => "declared in the settings",
            "exchanged" => "exchanged for another token",
            _ => "made here",
        }
    }

    /// `3 of 10`
    pub(super) fn uses(&self) -> String {
        match (self.is_single_use(), self.token.max_uses) {
            (true, _) => format!("{} of 1", self.token.uses),
            (false, Some(most)) => format!("{} of {most}", self.token.uses),
            (false, None) => self.token.uses.to_string(),
        }
    }

    /// `3 of 10`
    pub(super) fn live(&self) -> String {
        match self.token.max_runners {
            Some(most) => format!("{} of {most}", self.token.live_runners),
            None => self.token.live_runners.to_string(),
        }
    }

    /// `its 3 live runners`
    pub(super) fn its_runners(&self) -> String {
        format!("its {}", count(&self.token.live_runners, "live runner"))
    }
}

/// A runner as a row.
pub(super) struct RunnerRow {
    pub(super) runner: view::Runner,
    pub(super) last_seen: Option<When>,
    pub(super) registered: When,
    /// The token that it came by has a page.
    pub(super) parent_is_there: bool,
}

impl RunnerRow {
    pub(super) fn of(lifecycle: &Lifecycle, live: &Live) -> Self {
        let (runner, now) = (view::Runner::of(lifecycle, live), SystemTime::now());
        Self {
            last_seen: When::maybe(runner.last_seen_at.as_ref(), now),
            registered: When::of(&runner.registered_at, now),
            parent_is_there: runner
                .parent_id
                .as_ref()
                .is_some_and(|id| lifecycle.token(id).is_ok()),
            runner,
        }
    }

    /// Some of these, by name.
    pub(super) fn part(
        lifecycle: &Lifecycle,
        runners: Vec<Arc<Live>>,
        asked: &Asked,
    ) -> Part<Self> {
        let mut named: Vec<_> =
            runners.into_iter().map(|live| (live.name(), live.id(), live)).collect();
        named.sort_unstable_by(|(a, a_id, _), (b, b_id, _)| (a, a_id).cmp(&(b, b_id)));
        Part::of(named, asked, |(_, _, live)| Self::of(lifecycle, &live))
    }

    /// Those that came by a token, or by one that was exchanged for it.
    pub(super) fn of_token(lifecycle: &Lifecycle, id: &str) -> Vec<Arc<Live>> {
        lifecycle.roster.all_that(|live| lifecycle.enrollment.is_of(&live.parent_id, id))
    }

    pub(super) fn tasks(&self) -> String {
        let ids: Vec<_> = self.runner.tasks.iter().map(i64::to_string).collect();
        match ids.as_slice() {
            [one] => format!("task {one}"),
            _ => format!("tasks {}", ids.join(", ")),
        }
    }
}

/// An event as a row.
pub(super) struct EventRow {
    pub(super) event: view::Event,
    pub(super) at: When,
    pub(super) what: String,
    /// The token that it is about has a page.
    pub(super) token_is_there: bool,
}

impl EventRow {
    pub(super) fn all(lifecycle: &Lifecycle, events: &[Event]) -> Vec<Self> {
        let now = SystemTime::now();
        let row = |event: &Event| {
            let shown = view::Event::of(event);
            Self {
                at: When::of(&shown.at, now),
                what: words(event.what),
                token_is_there: event
                    .token_id
                    .as_ref()
                    .is_some_and(|id| lifecycle.token(id).is_ok()),
                event: shown,
            }
        };
        events.iter().map(row).collect()
    }
}

/// `Token created` for `token.created`.
pub(super) fn words(what: What) -> String {
    let mut words = what.as_str().replace(['.', '_'], " ");
    if let Some(first) = words.get_mut(..1) {
        first.make_ascii_uppercase();
    }
    words
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    #[test]
    fn times_are_said_as_people_do() {
        let exact = "2025-11-23T12:00:00Z";
        let then = humantime::parse_rfc3339(exact).unwrap();
        for (seconds, said) in
            [(0, "just now"), (60, "1 min ago"), (7200, "2 h ago"), (86_400, "1 day ago")]
        {
            assert_eq!(When::of(exact, then + Duration::from_secs(seconds)).words, said);
        }
        assert_eq!(When::of(exact, then - Duration::from_secs(3 * 86_400)).words, "in 3 days");
        assert_eq!(When::of("some day", then).words, "some day");
    }

    #[test]
    fn events_have_words() {
        assert_eq!(words(What::AdminSignedIn), "Admin signed in");
        assert_eq!(words(What::TokenCreated), "Token created");
    }
}
