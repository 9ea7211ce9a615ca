//! Between rows and types. Times are Unix milliseconds, lists are JSON.

use std::ffi::OsString;
use std::os::unix::ffi::OsStringExt;
use std::path::PathBuf;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use bytes::Bytes;
use rusqlite::types::Type;
use rusqlite::{Result, Row};
use secrecy::SecretString;

use super::{KeptAnswer, StoredIntent};
use crate::broker::orphan::Trace;
use crate::broker::{Credentials, Intent, Key, Origin, Reason, Record, RecordId, RecordState};
use crate::connect::Codec;

pub(super) fn record(row: &Row<'_>) -> Result<Record> {
    Ok(Record {
        record_id: RecordId(row.get("record_id")?),
        scope: told(row, "scope", parsed)?,
        presented: Credentials {
            id: row.get("presented_id")?,
            uuid: row.get("presented_uuid")?,
            token: SecretString::from(row.get::<_, String>("presented_token")?),
        },
        upstream: Credentials {
            id: row.get("upstream_id")?,
            uuid: row.get("upstream_uuid")?,
            token: SecretString::from(row.get::<_, String>("upstream_token")?),
        },
        name: row.get("name")?,
        labels: told(row, "labels", list_from)?,
        version: row.get("version")?,
        ephemeral: row.get("ephemeral")?,
        origin: told(row, "origin", Origin::parse)?,
        parent_id: row.get("parent_id")?,
        peer: told(row, "peer", parsed)?,
        dialled: row.get("dialled")?,
        registered_at: time_from(row.get("registered_at")?),
        delivered: row.get("delivered")?,
        spoke: row.get("spoke")?,
        last_seen_at: row.get::<_, Option<i64>>("last_seen_at")?.map(time_from),
        tasks: told(row, "tasks", list_from)?,
        state: state(row)?,
        ended_at: row.get::<_, Option<i64>>("ended_at")?.map(time_from),
        declare_due: row.get("declare_due")?,
        disabled: row.get("disabled")?,
        file: row
            .get::<_, Option<Vec<u8>>>("file")?
            .map(|bytes| PathBuf::from(OsString::from_vec(bytes))),
    })
}

pub(super) fn trace(row: &Row<'_>) -> Result<Trace> {
    Ok(Trace::Record { id: row.get("upstream_id")?, state: state(row)? })
}

pub(super) fn intent(row: &Row<'_>) -> Result<StoredIntent> {
    Ok(StoredIntent {
        intent: Intent {
            nonce: row.get("nonce")?,
            scope: told(row, "scope", parsed)?,
            key: key(row)?,
            version: row.get("version")?,
            created_at: time_from(row.get("created_at")?),
        },
        unclear: row.get("unclear")?,
    })
}

pub(super) fn answer(row: &Row<'_>) -> Result<KeptAnswer> {
    Ok(KeptAnswer {
        record_id: RecordId(row.get("record_id")?),
        key: key(row)?,
        answer: Bytes::from(row.get::<_, Vec<u8>>("answer")?),
        registered_at: time_from(row.get("registered_at")?),
    })
}

fn key(row: &Row<'_>) -> Result<Key> {
    Ok(Key {
        parent_id: row.get("parent_id")?,
        name: row.get("name")?,
        labels: told(row, "labels", list_from)?,
        ephemeral: row.get("ephemeral")?,
        peer: told(row, "peer", parsed)?,
        codec: told(row, "codec", Codec::from_str)?,
    })
}

fn state(row: &Row<'_>) -> Result<RecordState> {
    let reason = || told(row, "reason", Reason::parse);
    match row.get::<_, String>("state")?.as_str() {
        "active" => Ok(RecordState::Active),
        "lost" => Ok(RecordState::Lost),
        "deregistering" => Ok(RecordState::Deregistering(reason()?)),
        "parked" => Ok(RecordState::Parked(reason()?)),
        "ended" => Ok(RecordState::Ended(reason()?)),
        _ => Err(unknown("state")),
    }
}

pub(super) fn state_text(state: RecordState) -> (&'static str, Option<&'static str>) {
    match state {
        RecordState::Active => ("active", None),
        RecordState::Lost => ("lost", None),
        RecordState::Deregistering(reason) => ("deregistering", Some(reason.as_str())),
        RecordState::Parked(reason) => ("parked", Some(reason.as_str())),
        RecordState::Ended(reason) => ("ended", Some(reason.as_str())),
    }
}

pub(super) fn list_text<T: Clone + Into<serde_json::Value>>(list: &[T]) -> String {
    serde_json::Value::from(list).to_string()
}

pub(super) fn list_from<T: serde::de::DeserializeOwned>(text: &str) -> Option<Vec<T>> {
    serde_json::from_str(text).ok()
}

pub(super) fn parsed<T: std::str::FromStr>(text: &str) -> Option<T> {
    text.parse().ok()
}

pub(super) fn time_ms(time: SystemTime) -> i64 {
    let since = time.duration_since(UNIX_EPOCH).unwrap_or_default();
    i64::try_from(since.as_millis()).unwrap_or(i64::MAX)
}

pub(super) fn time_from(ms: i64) -> SystemTime {
    UNIX_EPOCH + Duration::from_millis(u64::try_from(ms).unwrap_or_default())
}

/// Reads a text column whose words are a closed set or a format of ours.
pub(super) fn told<T>(
    row: &Row<'_>,
    column: &'static str,
    from: impl FnOnce(&str) -> Option<T>,
) -> Result<T> {
    from(row.get_ref(column)?.as_str()?).ok_or_else(|| unknown(column))
}

/// Names the column, not what is in it.
pub(super) fn unknown(column: &'static str) -> rusqlite::Error {
    let text = format!("the column {column} holds what this broker cannot read");
    rusqlite::Error::FromSqlConversionFailure(0, Type::Text, text.into())
}
