//! What someone asks a new token to be, made into what the broker understands. All that is wrong is told
//! at once. Times, durations and networks are written as in the settings.

use std::time::{Duration, SystemTime};

use ipnet::IpNet;

use super::problem::FieldError;
use super::view::{NewChild, NewToken};
use crate::broker::token::{Draft, Kind, Policy};
use crate::config::{Gitea, Scope, Setting};
use crate::lifecycle::Exchange;

/// RFC 3339 has four digits for the year: seconds until it ends.
const LAST_SECOND: u64 = 253_402_300_799;

/// A token for one of the scopes that are served; the default one, where it names none.
///
/// # Errors
/// The fields, each with a sentence on what would be right.
pub fn draft(new: NewToken, served: &Gitea, now: SystemTime) -> Result<Draft, Vec<FieldError>> {
    let mut wrong = Wrong::default();
    let kind = new.kind.as_deref().map(str::parse::<Kind>);
    let scope = new.scope.map(|scope| match scope.parse::<Scope>() {
        Ok(scope) => served.must_serve(&scope).map(|()| scope),
        Err(error) => Err(error.to_string()),
    });
    let expiry_field = if new.expires_in.is_some() { "expires_in" } else { "expires_at" };
    let expires_at = match (&new.expires_at, &new.expires_in) {
        (None, None) => None,
        (Some(_), Some(_)) => Some(Err("give this or expires_at, not both".into())),
        (Some(at), None) => Some(SystemTime::parse(at)),
        (None, Some(length)) => Some(Duration::parse(length).and_then(|length| after(now, length))),
    };
    let draft = Draft {
        kind: wrong.or_note("kind", kind.transpose()).flatten().unwrap_or(Kind::Reusable),
        description: new.description,
        policy: Policy {
            scope: wrong
                .or_note("scope", scope.transpose())
                .flatten()
                .unwrap_or_else(|| served.default.scope.clone()),
            labels: new.labels,
            name_pattern: new.name_pattern,
            ephemeral_only: new.ephemeral_only,
            max_uses: new.max_uses,
            max_runners: new.max_runners,
            expires_at: wrong.or_note(expiry_field, expires_at.transpose()).flatten(),
            allowed_cidrs: wrong
                .or_note(
                    "allowed_cidrs",
                    new.allowed_cidrs.iter().map(|one| IpNet::parse(one)).collect(),
                )
                .unwrap_or_default(),
        },
    };
    for (field, detail) in draft.check(now).err().into_iter().flatten() {
        wrong.note(if field == "expires_at" { expiry_field } else { field }, detail);
    }
    wrong.or(draft)
}

/// What the holder of a token asks its child to be.
///
/// # Errors
/// The fields, each with a sentence on what would be right.
pub fn exchange(new: NewChild) -> Result<Exchange, Vec<FieldError>> {
    let mut wrong = Wrong::default();
    let ttl = new.ttl.as_deref().map(Duration::parse).transpose();
    let wish = Exchange {
        ttl: wrong.or_note("ttl", ttl).flatten(),
        description: new.description,
        labels: new.labels,
        name_pattern: new.name_pattern,
        ephemeral_only: new.ephemeral_only,
    };
    wrong.or(wish)
}

#[derive(Default)]
struct Wrong(Vec<FieldError>);

impl Wrong {
    fn note(&mut self, field: &str, detail: impl ToString) {
        self.0.push(FieldError { field: field.into(), detail: detail.to_string() });
    }

    fn or_note<T>(&mut self, field: &str, result: Result<T, impl ToString>) -> Option<T> {
        result.map_err(|detail| self.note(field, detail)).ok()
    }

    fn or<T>(self, good: T) -> Result<T, Vec<FieldError>> {
        if self.0.is_empty() { Ok(good) } else { Err(self.0) }
    }
}

fn after(now: SystemTime, length: Duration) -> Result<SystemTime, String> {
    let last = SystemTime::UNIX_EPOCH + Duration::from_secs(LAST_SECOND);
    now.checked_add(length)
        .filter(|end| *end <= last)
        .ok_or_else(|| "this is longer than the calendar: leave it out".into())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn now() -> SystemTime {
        humantime::parse_rfc3339("2030-01-01T00:00:00Z").unwrap()
    }

    fn made(new: NewToken) -> Result<Draft, Vec<FieldError>> {
        let mut gitea = crate::net::test_server::gitea("http://gitea");
        let second = gitea.default.clone();
        gitea.default.scope = Scope::Org("acme".into());
        gitea.further.push(second);
        draft(new, &gitea, now())
    }

    fn fields(new: NewToken) -> Vec<String> {
        made(new).unwrap_err().into_iter().map(|wrong| wrong.field).collect()
    }

    #[test]
    fn what_is_left_out_does_not_limit() {
        let expected = Draft {
            kind: Kind::Reusable,
            description: String::new(),
            policy: Policy::of_scope(Scope::Org("acme".into())),
        };
        assert_eq!(made(NewToken::default()), Ok(expected.clone()));
        let scope = Some("org:acme".into());
        assert_eq!(made(NewToken { scope, ..NewToken::default() }), Ok(expected));
        let scope = Some("instance".into());
        let made = made(NewToken { scope, ..NewToken::default() }).unwrap();
        assert_eq!(made.policy.scope, Scope::Instance);
    }

    #[test]
    fn all_that_is_wrong_is_told_at_once() {
        let wrong = NewToken {
            kind: Some("eternal".into()),
            scope: Some("org:other".into()),
            labels: vec!["a:b".into()],
            max_uses: Some(0),
            allowed_cidrs: vec!["10.0.0.0/8".into(), "10.0.0.0/33".into()],
            expires_in: Some("soon".into()),
            ..NewToken::default()
        };
        let all = ["kind", "scope", "expires_in", "allowed_cidrs", "labels", "max_uses"];
        assert_eq!(fields(wrong), all);
    }

    #[test]
    fn a_token_ends_at_a_time_or_after_one() {
        let ends = |at: Option<&str>, length: Option<&str>| {
            made(NewToken {
                expires_at: at.map(str::to_owned),
                expires_in: length.map(str::to_owned),
                ..NewToken::default()
            })
        };
        let day = ends(None, Some("1d")).unwrap();
        assert_eq!(day.policy.expires_at, Some(now() + Duration::from_secs(86_400)));
        assert_eq!(day, ends(Some("2030-01-02T00:00:00Z"), None).unwrap());
        for (at, length, field) in [
            (Some("2029-12-31T00:00:00Z"), None, "expires_at"),
            (Some("tomorrow"), None, "expires_at"),
            (None, Some("0s"), "expires_in"),
            (None, Some("9999y"), "expires_in"),
            (Some("2029-12-31T23:30:00-00:30"), None, "expires_at"),
            (None, Some("18446744073709551615s"), "expires_in"),
            (Some("2031-01-01T00:00:00Z"), Some("1d"), "expires_in"),
        ] {
            let wrong = ends(at, length).unwrap_err();
            assert_eq!((wrong.len(), wrong[0].field.as_str()), (1, field), "{at:?} {length:?}");
        }
    }

    #[test]
    fn one_address_is_a_network() {
        let allowed_cidrs = vec!["192.0.2.7".into(), "2001:db8::/32".into()];
        let made = made(NewToken { allowed_cidrs, ..NewToken::default() }).unwrap();
        assert_eq!(made.policy.allowed_cidrs[0].to_string(), "192.0.2.7/32");
        assert_eq!(made.policy.allowed_cidrs[1].to_string(), "2001:db8::/32");
    }
}
