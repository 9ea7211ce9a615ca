//! The time that the store has lived until. What is old enough to be forgotten is told by it: a clock that
//! jumps ahead, or that is wrong at the start, makes nothing old.

use std::time::{Instant, SystemTime};

use rusqlite::{Connection, Result};

use super::rows::time_from;

/// Goes on from the latest time that the database knows of, as long as the process runs.
#[derive(Clone, Copy, Debug)]
pub(super) struct Lived {
    until: SystemTime,
    then: Instant,
}

impl Lived {
    /// For a database that was just opened.
    pub(super) fn of(c: &Connection) -> Result<Self> {
        let latest: Option<i64> = c.query_row(
            "SELECT max(at) FROM (
                 SELECT max(at) AS at FROM events UNION ALL
                 SELECT max(at) FROM probe UNION ALL
                 SELECT max(registered_at) FROM runners UNION ALL
                 SELECT max(last_seen_at) FROM runners UNION ALL
                 SELECT max(ended_at) FROM runners)",
            [],
            |row| row.get(0),
        )?;
        let now = SystemTime::now();
        let until = latest.map_or(now, |latest| time_from(latest).min(now));
        Ok(Self { until, then: Instant::now() })
    }

    pub(super) fn now(&self) -> SystemTime {
        (self.until + self.then.elapsed()).min(SystemTime::now())
    }
}
