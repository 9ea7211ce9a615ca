//! The audit trail on disk.

use std::time::SystemTime;

use rusqlite::types::Value;
use rusqlite::{Connection, Result, Row, params, params_from_iter};

use super::rows::{parsed, time_from, time_ms, told, unknown};
use super::{Store, StoreError};
use crate::broker::{Event, What};

/// How many refusals are kept at most: a flood of them fills no disk, and pushes nothing else out.
const KEEP_REFUSALS: i64 = 200_000;

/// Which events are asked for.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct EventFilter {
    /// Those about this enrollment token.
    pub token_id: Option<String>,
    /// Those about the runner of this id of Gitea's.
    pub runner_id: Option<i64>,
    /// Those of this kind.
    pub what: Option<What>,
    /// Those before this one, counted by `seq`.
    pub before: Option<i64>,
    /// At most so many, the latest.
    pub limit: usize,
}

impl Store {
    /// Keeps a batch of events, all or nothing. The store numbers them in their order.
    ///
    /// # Errors
    /// None of them was kept.
    pub async fn insert_events(&self, events: Vec<Event>) -> Result<(), StoreError> {
        self.call(move |c| insert_all(c, &events)).await
    }

    /// The events that the filter lets through, latest first.
    ///
    /// # Errors
    /// The database could not be read.
    pub async fn events(&self, filter: EventFilter) -> Result<Vec<Event>, StoreError> {
        self.call(move |c| select(c, &filter)).await
    }

    /// Forgets the events from before a time, and of the refusals all but the latest 200 000.
    ///
    /// # Errors
    /// None was forgotten.
    pub async fn prune_events(&self, before: SystemTime) -> Result<(), StoreError> {
        self.call(move |c| prune(c, before, KEEP_REFUSALS)).await
    }
}

fn insert_all(c: &mut Connection, events: &[Event]) -> Result<()> {
    let tx = c.savepoint()?;
    for event in events {
        insert(&tx, event)?;
    }
    tx.commit()
}

/// A part of the caller's transaction.
pub(super) fn insert(c: &Connection, event: &Event) -> Result<()> {
    c.prepare_cached(
        "INSERT INTO events (at, actor, what, token_id, runner_id, runner, peer, detail)
         VALUES (?, ?, ?, ?, ?, ?, ?, ?)",
    )?
    .execute(params![
        time_ms(event.at),
        event.actor,
        event.what.as_str(),
        event.token_id,
        event.runner_id,
        event.runner,
        event.peer.map(|peer| peer.to_string()),
        event.detail,
    ])?;
    Ok(())
}

fn select(c: &Connection, filter: &EventFilter) -> Result<Vec<Event>> {
    let wanted = [
        ("token_id = ?", filter.token_id.clone().map(Value::from)),
        ("runner_id = ?", filter.runner_id.map(Value::from)),
        ("what = ?", filter.what.map(|what| Value::from(what.as_str().to_owned()))),
        ("seq < ?", filter.before.map(Value::from)),
    ];
    // Only what is asked for is in the statement, so that the indexes serve it.
    let mut sql = String::from("SELECT * FROM events WHERE true");
    let mut values = Vec::new();
    for (condition, value) in wanted {
        if let Some(value) = value {
            sql += " AND ";
            sql += condition;
            values.push(value);
        }
    }
    sql += " ORDER BY seq DESC LIMIT ?";
    values.push(Value::from(i64::try_from(filter.limit).unwrap_or(i64::MAX)));
    c.prepare_cached(&sql)?.query_map(params_from_iter(values), event)?.collect()
}

fn prune(c: &mut Connection, before: SystemTime, keep: i64) -> Result<()> {
    let tx = c.savepoint()?;
    tx.prepare_cached("DELETE FROM events WHERE at < ?")?.execute([time_ms(before)])?;
    let kinds =
        What::ALL.iter().map(|what| what.as_str()).filter(|what| what.ends_with(".refused"));
    let refused: Vec<_> = kinds.map(|what| format!("'{what}'")).collect();
    let refused = format!("what IN ({})", refused.join(", "));
    tx.prepare_cached(&format!(
        "DELETE FROM events WHERE {refused} AND seq <=
            (SELECT seq FROM events WHERE {refused} ORDER BY seq DESC LIMIT 1 OFFSET ?)",
    ))?
    .execute([keep])?;
    tx.commit()
}

fn event(row: &Row<'_>) -> Result<Event> {
    let peer = row.get::<_, Option<String>>("peer")?;
    Ok(Event {
        seq: row.get("seq")?,
        at: time_from(row.get("at")?),
        actor: row.get("actor")?,
        what: told(row, "what", parsed)?,
        token_id: row.get("token_id")?,
        runner_id: row.get("runner_id")?,
        runner: row.get("runner")?,
        peer: peer.map(|text| parsed(&text).ok_or_else(|| unknown("peer"))).transpose()?,
        detail: row.get("detail")?,
    })
}
