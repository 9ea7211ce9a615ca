//! Enrollment tokens: what each one allows, and where it stands.
//!
//! ```text
//!             disable                    time
//!   active <----------> disabled   * ----------> expired (enabled or not, it stays so)
//!      |      enable
//!      |  used as often as it may be          pin, where that leaves a use
//!      +----------------------> used up ----------------------------------> active
//!   each of them --- delete ---> deleted, for good
//! ```

use std::fmt;
use std::str::FromStr;
use std::time::SystemTime;

use ipnet::IpNet;

use crate::config::Scope;

/// Id of the token that `enrollment.token` gives.
pub const SETTINGS_TOKEN: &str = "settings";
/// Longest description, in characters.
pub const MAX_DESCRIPTION: usize = 500;
/// Longest list of labels or networks.
pub const MAX_LIST: usize = 256;
/// Longest name, label and name pattern that are taken; Gitea cuts a name at 255 characters.
pub const MAX_TEXT: usize = 255;

/// How often a token admits.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// Again and again, as far as its limits go.
    Reusable,
    /// One runner in all.
    SingleUse,
}

/// Who keeps a token.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Origin {
    /// An admin made it, and an admin changes it.
    Created,
    /// A holder of its parent made it.
    Exchanged,
    /// The settings give it, and only they change it.
    Declared,
}

/// Where a token stands. Only an active one admits.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum State {
    /// It admits.
    Active,
    /// An admin switched it off.
    Disabled,
    /// Its time is over.
    Expired,
    /// It has admitted as often as it may.
    UsedUp,
    /// It is no more; kept only for the runners that came by it.
    Deleted,
}

/// Whom a token admits. What is empty or `None` does not limit.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Policy {
    /// Where the runners serve.
    pub scope: Scope,
    /// Bare names that a runner may claim, in Register and in Declare.
    pub labels: Vec<String>,
    /// What the runner's name must match: `*` is any text, `?` any one character.
    pub name_pattern: Option<String>,
    /// Only runners that Gitea removes after one task.
    pub ephemeral_only: bool,
    /// How many runners in all.
    pub max_uses: Option<u32>,
    /// How many live runners at once.
    pub max_runners: Option<u32>,
    /// Until when.
    pub expires_at: Option<SystemTime>,
    /// Where Register must come from.
    pub allowed_cidrs: Vec<IpNet>,
}

impl Policy {
    /// All runners of a scope.
    #[must_use]
    pub fn of_scope(scope: Scope) -> Self {
        Self {
            scope,
            labels: Vec::new(),
            name_pattern: None,
            ephemeral_only: false,
            max_uses: None,
            max_runners: None,
            expires_at: None,
            allowed_cidrs: Vec::new(),
        }
    }
}

/// What someone wants a token to be.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Draft {
    /// How often it admits.
    pub kind: Kind,
    /// For people; may be empty.
    pub description: String,
    /// Whom it admits.
    pub policy: Policy,
}

impl Draft {
    /// Whether such a token can be.
    ///
    /// # Errors
    /// All that is wrong: the field, and a sentence on what would be right.
    pub fn check(&self, now: SystemTime) -> Result<(), Vec<(&'static str, String)>> {
        let mut wrong = Vec::new();
        let policy = &self.policy;
        if self.description.chars().count() > MAX_DESCRIPTION
            || self.description.contains(char::is_control)
        {
            wrong.push((
                "description",
                format!("give one line of at most {MAX_DESCRIPTION} characters"),
            ));
        }
        let is_bare = |label: &String| {
            !label.is_empty()
                && label.len() <= MAX_TEXT
                && !label
                    .contains(|c: char| c == ':' || c == ',' || c.is_whitespace() || c.is_control())
        };
        if policy.labels.len() > MAX_LIST || !policy.labels.iter().all(is_bare) {
            wrong.push((
                "labels",
                format!(
                    "give at most {MAX_LIST} bare names without colons, commas and spaces, for \
                     example ubuntu-latest"
                ),
            ));
        }
        let pattern = policy.name_pattern.as_deref();
        if pattern
            .is_some_and(|p| p.is_empty() || p.len() > MAX_TEXT || p.contains(char::is_control))
        {
            wrong.push((
                "name_pattern",
                format!(
                    "give at most {MAX_TEXT} characters; * stands for any text and ? for any one \
                     character, for example builder-*"
                ),
            ));
        }
        for (field, limit) in [("max_uses", policy.max_uses), ("max_runners", policy.max_runners)] {
            if limit == Some(0) {
                wrong.push((field, "0 would admit nobody: give 1 or more, or leave it out".into()));
            }
        }
        if policy.expires_at.is_some_and(|at| at <= now) {
            wrong.push(("expires_at", "this is over already: give a later time".into()));
        }
        if policy.allowed_cidrs.len() > MAX_LIST {
            wrong.push(("allowed_cidrs", format!("give at most {MAX_LIST} networks")));
        }
        if wrong.is_empty() { Ok(()) } else { Err(wrong) }
    }
}

/// One enrollment token, without its secret.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Token {
    /// What it is called; a declared one by its name, which never begins with a capital letter as the
    /// others do.
    pub id: String,
    /// How often it admits.
    pub kind: Kind,
    /// Who keeps it.
    pub origin: Origin,
    /// Whether it is switched on.
    pub active: bool,
    /// It was disabled or deleted together with the runners that came by it.
    pub cascade: bool,
    /// When it was deleted.
    pub deleted_at: Option<SystemTime>,
    /// The token that it was exchanged for; what that one does not allow, this one does not either.
    pub parent_id: Option<String>,
    /// For people.
    pub description: String,
    /// Whom it admits.
    pub policy: Policy,
    /// When it was made, or first declared.
    pub created_at: SystemTime,
    /// Who made it.
    pub created_by: String,
    /// Its last successful registration, or that of a token exchanged for it.
    pub last_used_at: Option<SystemTime>,
    /// How many runners it has admitted, those of its children too.
    pub uses: u64,
}

impl Token {
    /// Where it stands at this moment.
    #[must_use]
    pub fn state(&self, now: SystemTime) -> State {
        if self.deleted_at.is_some() {
            State::Deleted
        } else if !self.active {
            State::Disabled
        } else if self.policy.expires_at.is_some_and(|at| at <= now) {
            State::Expired
        } else if self.uses_allowed().is_some_and(|allowed| self.uses >= allowed) {
            State::UsedUp
        } else {
            State::Active
        }
    }

    /// How many runners it admits in all; `None`: as many as come.
    #[must_use]
    pub fn uses_allowed(&self) -> Option<u64> {
        let set = self.policy.max_uses.map(u64::from);
        match self.kind {
            Kind::SingleUse => Some(1),
            Kind::Reusable => set,
        }
    }

    /// Whether it takes its runners along: it was disabled or deleted with them.
    #[must_use]
    pub fn revokes(&self) -> bool {
        self.cascade && (!self.active || self.deleted_at.is_some())
    }
}

/// Types that are written as one of a few words, in the store, the API and on the page.
macro_rules! words {
    ($($kind:ident { $($variant:ident => $word:literal),+ $(,)? })+) => {$(
        impl $kind {
            /// All of them.
            pub const ALL: &'static [Self] = &[$(Self::$variant),+];

            /// The word for it.
            #[must_use]
            pub fn as_str(self) -> &'static str {
                match self { $(Self::$variant => $word),+ }
            }
        }

        impl fmt::Display for $kind {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(self.as_str())
            }
        }

        impl FromStr for $kind {
            type Err = UnknownWord;

            fn from_str(text: &str) -> Result<Self, UnknownWord> {
                Self::ALL.iter().copied().find(|one| one.as_str() == text).ok_or(UnknownWord(
                    concat!("give one of", $(" ", $word),+),
                ))
            }
        }
    )+};
}
pub(super) use words;

/// A word that is not one of the few; says which are.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct UnknownWord(pub(super) &'static str);

words! {
    Kind { Reusable => "reusable", SingleUse => "single_use" }
    Origin { Created => "created", Exchanged => "exchanged", Declared => "declared" }
    State {
        Active => "active", Disabled => "disabled", Expired => "expired", UsedUp => "used_up",
        Deleted => "deleted",
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use proptest::prelude::*;

    use super::*;

    const NOW: SystemTime = SystemTime::UNIX_EPOCH;

    fn draft() -> Draft {
        Draft {
            kind: Kind::Reusable,
            description: String::new(),
            policy: Policy::of_scope(Scope::Instance),
        }
    }

    #[test]
    fn all_that_is_wrong_is_told_at_once() {
        let mut draft = draft();
        draft.description = "two\nlines".into();
        draft.policy.labels = vec!["ubuntu:docker://x".into()];
        draft.policy.name_pattern = Some(String::new());
        draft.policy.max_uses = Some(0);
        draft.policy.max_runners = Some(0);
        draft.policy.expires_at = Some(NOW);
        let wrong = draft.check(NOW).unwrap_err();
        let fields: Vec<_> = wrong.iter().map(|(field, _)| *field).collect();
        assert_eq!(
            fields,
            ["description", "labels", "name_pattern", "max_uses", "max_runners", "expires_at"]
        );
    }

    #[test]
    fn words_are_read_as_they_are_written() {
        for state in State::ALL {
            assert_eq!(state.as_str().parse(), Ok(*state));
        }
        let error = "Reusable".parse::<Kind>().unwrap_err();
        assert_eq!(error.to_string(), "give one of reusable single_use");
    }

    /// What may happen to a token.
    #[derive(Clone, Copy, Debug)]
    enum Step {
        Enable,
        Disable,
        Pin,
        Unpin,
        Use,
        Wait,
        Delete,
    }

    proptest! {
        /// The drawing at the top of the file: which step leads from which state to which.
        #[test]
        fn states_only_move_as_drawn(
            max_uses in prop::option::of(1_u32..4),
            expires in prop::option::of(1_u64..8),
            steps in prop::collection::vec(
                prop::sample::select(vec![
                    Step::Enable, Step::Disable, Step::Pin, Step::Unpin, Step::Use, Step::Wait,
                    Step::Delete,
                ]),
                0..40,
            ),
        ) {
            let Draft { kind, description, mut policy } = draft();
            policy.max_uses = max_uses;
            policy.expires_at = expires.map(|s| NOW + Duration::from_secs(s));
            let mut token = Token {
                id: "T".into(), kind, origin: Origin::Created, active: true, cascade: false,
                deleted_at: None, parent_id: None, description, policy, created_at: NOW,
                created_by: String::new(), last_used_at: None, uses: 0,
            };
            let mut now = NOW;
            for step in steps {
                let before = token.state(now);
                match step {
                    Step::Enable => token.active = true,
                    Step::Disable => token.active = false,
                    Step::Pin => token.kind = Kind::Reusable,
                    Step::Unpin => token.kind = Kind::SingleUse,
                    Step::Use if before == State::Active => token.uses += 1,
                    Step::Use => {}
                    Step::Wait => now += Duration::from_secs(1),
                    Step::Delete => token.deleted_at = token.deleted_at.or(Some(now)),
                }
                let after = token.state(now);
                let drawn = before == after || match (step, before, after) {
                    (Step::Delete, _, State::Deleted)
                    | (Step::Disable, _, State::Disabled)
                    | (Step::Wait, State::Active | State::UsedUp, State::Expired)
                    | (Step::Use | Step::Unpin, State::Active, State::UsedUp)
                    | (Step::Pin, State::UsedUp, State::Active) => true,
                    // Switched on again, it stands where it would have stood.
                    (Step::Enable, State::Disabled, after) => after != State::Deleted,
                    _ => false,
                };
                prop_assert!(drawn, "{step:?}: {before} -> {after}");
                prop_assert!(before != State::Deleted || after == State::Deleted);
            }
        }
    }
}
