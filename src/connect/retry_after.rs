//! `Retry-After`: how long whoever is sent away had better wait.

use std::time::{Duration, SystemTime};

use hyper::HeaderMap;
use hyper::header::{DATE, HeaderValue, RETRY_AFTER};

/// What is told where nothing tells how long.
pub const DEFAULT_WAIT: Duration = Duration::from_secs(2);
/// A proxy may name tomorrow; nobody here waits longer than this.
const LONGEST_WAIT: Duration = Duration::from_secs(60 * 60);

/// How long an answer asks to wait, told in seconds or as a time; an hour at most.
#[must_use]
pub fn wait_of(headers: &HeaderMap) -> Option<Duration> {
    let text = headers.get(RETRY_AFTER)?.to_str().ok()?.trim();
    let wait = match text.parse() {
        Ok(seconds) => Duration::from_secs(seconds),
        Err(_) => {
            let until = time(text)?;
            // By the clock of whoever answered, where it is told.
            let date = headers.get(DATE).and_then(|value| value.to_str().ok()).and_then(time);
            until.duration_since(date.unwrap_or_else(SystemTime::now)).unwrap_or_default()
        }
    };
    Some(wait.min(LONGEST_WAIT))
}

/// A wait as the header tells it: whole seconds, and at least one.
#[must_use]
pub fn header_of(wait: Duration) -> HeaderValue {
    let seconds = wait.as_secs() + u64::from(wait.subsec_nanos() > 0);
    HeaderValue::from(seconds.max(1))
}

/// Reads `Sun, 06 Nov 1994 08:49:37 GMT`.
fn time(text: &str) -> Option<SystemTime> {
    const MONTHS: [&str; 12] =
        ["Jan", "Feb", "Mar", "Apr", "May", "Jun", "Jul", "Aug", "Sep", "Oct", "Nov", "Dec"];

    let (_, rest) = text.strip_suffix(" GMT")?.split_once(", ")?;
    let mut parts = rest.split(' ');
    let (day, month, year, clock) = (parts.next()?, parts.next()?, parts.next()?, parts.next()?);
    let month = MONTHS.iter().position(|name| *name == month)? + 1;
    humantime::parse_rfc3339(&format!("{year}-{month:02}-{day}T{clock}Z")).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn wait(retry_after: &str, date: &str) -> Option<u64> {
        let mut headers = HeaderMap::new();
        headers.insert(RETRY_AFTER, retry_after.parse().unwrap());
        if !date.is_empty() {
            headers.insert(DATE, date.parse().unwrap());
        }
        wait_of(&headers).map(|wait| wait.as_secs())
    }

    #[test]
    fn both_forms_are_read() {
        let date = "Sun, 06 Nov 1994 08:49:37 GMT";
        for (text, seconds) in [
            ("0", Some(0)),
            ("17", Some(17)),
            ("999999999", Some(3600)),
            ("Sun, 06 Nov 1994 08:50:07 GMT", Some(30)),
            ("Sun, 06 Nov 1994 08:40:00 GMT", Some(0)),
            ("Mon, 07 Nov 1994 08:49:37 GMT", Some(3600)),
            ("-1", None),
            ("soon", None),
            ("", None),
            ("Sun, 06 Nox 1994 08:50:07 GMT", None),
            ("Sun, 99 Nov 1994 08:50:07 GMT", None),
        ] {
            assert_eq!(wait(text, date), seconds, "{text}");
        }
        assert_eq!(wait(date, ""), Some(0), "long ago, by our own clock");
        assert_eq!(wait_of(&HeaderMap::new()), None);
    }

    #[test]
    fn it_is_told_in_whole_seconds_and_at_least_one() {
        for (millis, told) in [(0, "1"), (1, "1"), (1000, "1"), (1001, "2"), (4999, "5")] {
            assert_eq!(header_of(Duration::from_millis(millis)), told);
        }
    }
}
