//! Durations and points in time.

use std::time::{Duration, SystemTime};

use super::value::Setting;

const DAY: u64 = 24 * 60 * 60;

impl Setting for Duration {
    fn parse(text: &str) -> Result<Self, String> {
        humantime::parse_duration(text).map_err(|_| {
            format!("{text:?} is no duration: give a number with its unit, for example 5s or 10m")
        })
    }

    fn show(&self) -> String {
        let days = self.as_secs() / DAY;
        // In months and years, which have no one length, nobody would know it again.
        if days > 1 && *self == Self::from_secs(days * DAY) {
            format!("{days}days")
        } else {
            humantime::format_duration(*self).to_string()
        }
    }
}

/// RFC 3339, which a TOML datetime with offset is too; of a second, all of it or nothing.
impl Setting for SystemTime {
    fn parse(text: &str) -> Result<Self, String> {
        rfc3339(&text.to_ascii_uppercase()).ok_or_else(|| {
            format!(
                "{text:?} is no point in time: give date, time and offset, \
                 for example 2030-01-31T12:00:00Z"
            )
        })
    }

    fn show(&self) -> String {
        humantime::format_rfc3339_seconds(*self).to_string()
    }
}

/// With any offset, while humantime knows none; only what it can write again.
fn rfc3339(text: &str) -> Option<SystemTime> {
    const END: u64 = 253_402_300_800; // The year 10000.
    let whole = |since: Duration| SystemTime::UNIX_EPOCH + Duration::from_secs(since.as_secs());
    if let Ok(time) = humantime::parse_rfc3339(text) {
        return time.duration_since(SystemTime::UNIX_EPOCH).ok().map(whole);
    }
    let (local, offset) = text.split_at_checked(text.len().checked_sub("+00:00".len())?)?;
    let local = local.strip_suffix(|c: char| c.is_ascii_digit()).map(|_| local)?;
    let local = humantime::parse_rfc3339(&format!("{local}Z")).ok()?;
    let (sign, offset) = offset.split_at_checked(1)?;
    let (hours, minutes) = offset.split_once(':')?;
    let number = |digits: &str, end: u64| {
        let all = digits.len() == 2 && digits.bytes().all(|b| b.is_ascii_digit());
        digits.parse().ok().filter(|number: &u64| all && *number < end)
    };
    let ahead = Duration::from_secs((number(hours, 24)? * 60 + number(minutes, 60)?) * 60);
    let since = local.duration_since(SystemTime::UNIX_EPOCH).ok()?;
    let since = match sign {
        "+" => since.checked_sub(ahead)?,
        "-" => since.checked_add(ahead)?,
        _ => return None,
    };
    (since.as_secs() < END).then(|| whole(since))
}

#[cfg(test)]
mod tests {
    use super::super::value::tests::{reads, refuses};
    use super::*;

    #[test]
    fn durations() {
        reads::<Duration>("10m", "10m");
        reads::<Duration>("1h 30s", "1h 30s");
        reads::<Duration>("90d", "90days");
        reads::<Duration>("24h", "1day");
        reads::<Duration>("1day 1s", "1day 1s");
        refuses::<Duration>(&["", "5", "ten", "-1s"], "is no duration");
    }

    /// The store keeps milliseconds and people are told seconds: a rest would look like a change.
    #[test]
    fn a_point_in_time_is_what_is_shown_of_it() {
        let exact = SystemTime::parse("2030-01-31T12:00:00Z");
        assert_eq!(SystemTime::parse("2030-01-31T12:00:00.999999999Z"), exact);
        assert_eq!(SystemTime::parse("2030-01-31T13:00:00.5+01:00"), exact);
    }

    #[test]
    fn points_in_time() {
        reads::<SystemTime>("2030-01-31T12:00:00Z", "2030-01-31T12:00:00Z");
        reads::<SystemTime>("2030-01-31t12:00:00.25z", "2030-01-31T12:00:00Z");
        reads::<SystemTime>("2030-01-31T12:00:00+00:00", "2030-01-31T12:00:00Z");
        reads::<SystemTime>("2030-01-31T12:00:00.5+02:30", "2030-01-31T09:30:00Z");
        reads::<SystemTime>("2030-12-31T23:00:00-01:00", "2031-01-01T00:00:00Z");
        refuses::<SystemTime>(
            &[
                "",
                "tomorrow",
                "2030-01-31",
                "2030-01-31T12:00:00",
                "2030-02-30T12:00:00Z",
                "2030-01-31T12:00:00Z+01:00",
                "2030-01-31T12:00:00+00:00+01:00",
                "2030-01-31T12:00:00*01:00",
                "2030-01-31T12:00:00++1:00",
                "2030-01-31T12:00:00+24:00",
                "2030-01-31T12:00:00+01:60",
                "1970-01-01T00:00:00+00:01",
                "9999-12-31T23:59:59-00:01",
                "\u{e9}\u{e9}\u{e9}",
                "2030-01-31T12:00:0\u{e9}01:00",
            ],
            "is no point in time",
        );
    }
}
