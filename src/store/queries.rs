//! The statements. Each function is one transaction.

use std::collections::HashMap;
use std::os::unix::ffi::OsStrExt;
use std::path::Path;
use std::time::{Duration, SystemTime};

use bytes::Bytes;
use rusqlite::{Connection, OptionalExtension, Result, named_params, params};
use secrecy::ExposeSecret;

use super::rows::{self, list_text, state_text, time_ms};
use super::{Adopted, KeptAnswer, NewRunner, StoredIntent, Touch, events, tokens};
use crate::broker::orphan::Trace;
use crate::broker::{Credentials, Event, Intent, Reason, Record, RecordId, RecordState};
use crate::config::Scope;
use crate::connect::wiped;

/// How long an ended record is kept, so that a second Deregister gets the same answer; an ended token likewise.
pub(super) const KEEP_ENDED: Duration = Duration::from_secs(24 * 60 * 60);
/// How long one is kept that may be revived; no setting asks for more.
const KEEP_REVIVABLE: Duration = Duration::from_secs(30 * 24 * 60 * 60);

pub(super) fn insert_intent(c: &Connection, intent: &Intent) -> Result<()> {
    let key = &intent.key;
    c.prepare_cached(
        "INSERT INTO intents (nonce, scope, parent_id, name, labels, ephemeral, peer, codec, version, created_at)
         VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?)",
    )?
    .execute(params![
        intent.nonce,
        intent.scope.to_string(),
        key.parent_id,
        key.name,
        list_text(&key.labels),
        key.ephemeral,
        key.peer.to_string(),
        key.codec.as_str(),
        intent.version,
        time_ms(intent.created_at),
    ])?;
    Ok(())
}

pub(super) fn drop_intent(c: &Connection, nonce: &str) -> Result<()> {
    c.prepare_cached("DELETE FROM intents WHERE nonce = ?")?.execute([nonce])?;
    Ok(())
}

pub(super) fn mark_unclear(c: &Connection, nonce: &str, detail: &str) -> Result<()> {
    c.prepare_cached("UPDATE intents SET unclear = ? WHERE nonce = ?")?.execute([detail, nonce])?;
    Ok(())
}

pub(super) fn intents(c: &Connection) -> Result<Vec<StoredIntent>> {
    c.prepare_cached("SELECT * FROM intents ORDER BY created_at, nonce")?
        .query_map([], rows::intent)?
        .collect()
}

pub(super) fn complete(c: &mut Connection, new: &NewRunner) -> Result<Record> {
    let NewRunner { intent, credentials, .. } = new;
    let key = &intent.key;
    let tx = c.savepoint()?;
    drop_intent(&tx, &intent.nonce)?;
    let (upstream, nonce) = match &new.taken_over {
        Some((parked, upstream)) => {
            end_parked(&tx, *parked, new.registered_at)?;
            // Gitea never saw the intent's own.
            (upstream, nonce_of(&tx, *parked)?)
        }
        None => (credentials, Some(intent.nonce.clone())),
    };
    tx.prepare_cached(
        "INSERT INTO runners (scope, presented_id, presented_uuid, presented_token,
                              upstream_id, upstream_uuid, upstream_token,
                              name, labels, version, ephemeral, origin, parent_id, peer, dialled,
                              registered_at, declare_due, nonce)
         VALUES (:scope, :id, :uuid, :token, :upstream_id, :upstream_uuid, :upstream_token,
                 :name, :labels, :version, :ephemeral, :origin, :parent_id, :peer, :dialled,
                 :registered_at, :declare_due, :nonce)",
    )?
    .execute(named_params! {
        ":scope": intent.scope.to_string(),
        ":id": credentials.id,
        ":uuid": credentials.uuid,
        ":token": credentials.token.expose_secret(),
        ":upstream_id": upstream.id,
        ":upstream_uuid": upstream.uuid,
        ":upstream_token": upstream.token.expose_secret(),
        ":origin": new.origin.as_str(),
        ":declare_due": new.declare_due,
        ":name": new.name,
        ":labels": list_text(&new.labels),
        ":version": new.version,
        ":ephemeral": key.ephemeral,
        ":parent_id": key.parent_id,
        ":peer": key.peer.to_string(),
        ":dialled": new.dialled,
        ":registered_at": time_ms(new.registered_at),
        ":nonce": nonce,
    })?;
    let id = tx.last_insert_rowid();
    tx.prepare_cached(
        "INSERT INTO answers (record_id, parent_id, name, labels, ephemeral, peer, codec, answer)
         VALUES (?, ?, ?, ?, ?, ?, ?, ?)",
    )?
    .execute(params![
        id,
        key.parent_id,
        key.name,
        list_text(&key.labels),
        key.ephemeral,
        key.peer.to_string(),
        key.codec.as_str(),
        &new.answer[..],
    ])?;
    for token in &new.token_ids {
        tokens::count_use(&tx, token, new.registered_at)?;
    }
    events::insert(&tx, &new.event)?;
    let record = tx
        .prepare_cached("SELECT * FROM runners WHERE record_id = ?")?
        .query_row([id], rows::record)?;
    tx.commit()?;
    Ok(record)
}

/// Its identity is another's from now on.
fn end_parked(c: &Connection, id: RecordId, at: SystemTime) -> Result<()> {
    let ended = c
        .prepare_cached(
            "UPDATE runners SET state = 'ended', ended_at = ?
             WHERE record_id = ? AND state = 'parked'",
        )?
        .execute(params![time_ms(at), id.0])?;
    if ended == 1 { Ok(()) } else { Err(rusqlite::Error::StatementChangedRows(ended)) }
}

fn nonce_of(c: &Connection, id: RecordId) -> Result<Option<String>> {
    c.prepare_cached("SELECT nonce FROM runners WHERE record_id = ?")?
        .query_row([id.0], |row| row.get(0))
}

/// What is known of the registrations with these nonces; of most of them nothing.
pub(super) fn traces(c: &mut Connection, nonces: &[String]) -> Result<HashMap<String, Vec<Trace>>> {
    // One transaction: a registration that lands meanwhile is the one or the other.
    let tx = c.savepoint()?;
    let mut known = HashMap::new();
    for nonce in nonces {
        let mut traces = tx
            .prepare_cached("SELECT * FROM runners WHERE nonce = ?")?
            .query_map([nonce], rows::trace)?
            .collect::<Result<Vec<_>>>()?;
        if tx.prepare_cached("SELECT 1 FROM intents WHERE nonce = ?")?.exists([nonce])? {
            traces.push(Trace::Intent);
        }
        known.insert(nonce.clone(), traces);
    }
    Ok(known)
}

pub(super) fn revive(
    c: &mut Connection,
    id: RecordId,
    nonce: &str,
    upstream: &Credentials,
    event: &Event,
) -> Result<()> {
    let tx = c.savepoint()?;
    drop_intent(&tx, nonce)?;
    tx.prepare_cached(
        "UPDATE runners SET upstream_id = ?, upstream_uuid = ?, upstream_token = ?, state = 'active',
                            reason = NULL, ended_at = NULL, declare_due = 1, disabled = 0, nonce = ?
         WHERE record_id = ?",
    )?
    .execute(params![upstream.id, upstream.uuid, upstream.token.expose_secret(), nonce, id.0])?;
    events::insert(&tx, event)?;
    tx.commit()
}

pub(super) fn adopt(c: &mut Connection, new: &Adopted, event: &Event) -> Result<Record> {
    let credentials = &new.credentials;
    let tx = c.savepoint()?;
    tx.prepare_cached(
        "INSERT INTO runners (scope, presented_id, presented_uuid, presented_token,
                              upstream_id, upstream_uuid, upstream_token,
                              name, labels, version, ephemeral, origin, parent_id, peer, dialled,
                              registered_at, delivered, spoke)
         VALUES (:scope, :id, :uuid, :token, :id, :uuid, :token,
                 :name, :labels, :version, :ephemeral, 'adopted', :parent_id, :peer, :dialled, :at, 1, :spoke)",
    )?
    .execute(named_params! {
        ":scope": new.scope.to_string(),
        ":id": credentials.id,
        ":uuid": credentials.uuid,
        ":token": credentials.token.expose_secret(),
        ":name": new.name,
        ":labels": list_text(&new.labels),
        ":version": new.version,
        ":ephemeral": new.ephemeral,
        ":parent_id": new.parent_id,
        ":peer": new.peer.to_string(),
        ":dialled": new.dialled,
        ":at": time_ms(event.at),
        ":spoke": new.spoke,
    })?;
    let id = tx.last_insert_rowid();
    events::insert(&tx, event)?;
    let record = tx
        .prepare_cached("SELECT * FROM runners WHERE record_id = ?")?
        .query_row([id], rows::record)?;
    tx.commit()?;
    Ok(record)
}

pub(super) fn identify(c: &Connection, id: RecordId, gitea_id: i64, name: &str) -> Result<()> {
    c.prepare_cached(
        "UPDATE runners SET presented_id = ?1, upstream_id = ?1, name = ?2 WHERE record_id = ?3",
    )?
    .execute(params![gitea_id, name, id.0])?;
    Ok(())
}

pub(super) fn set_scope(c: &Connection, id: RecordId, scope: &Scope) -> Result<()> {
    c.prepare_cached("UPDATE runners SET scope = ? WHERE record_id = ?")?
        .execute(params![scope.to_string(), id.0])?;
    Ok(())
}

/// Records that ended after `since` and may be revived, oldest first.
pub(super) fn asleep(c: &Connection, since: SystemTime) -> Result<Vec<Record>> {
    let condition = ended(true);
    c.prepare_cached(&format!(
        "SELECT * FROM runners WHERE {condition} AND ended_at > ? ORDER BY record_id"
    ))?
    .query_map([time_ms(since)], rows::record)?
    .collect()
}

pub(super) fn set_disabled(c: &Connection, id: RecordId, disabled: bool) -> Result<()> {
    c.prepare_cached("UPDATE runners SET disabled = ? WHERE record_id = ?")?
        .execute(params![disabled, id.0])?;
    Ok(())
}

pub(super) fn runners(c: &Connection) -> Result<Vec<Record>> {
    c.prepare_cached("SELECT * FROM runners WHERE state <> 'ended' ORDER BY record_id")?
        .query_map([], rows::record)?
        .collect()
}

pub(super) fn left_files(c: &Connection) -> Result<Vec<Record>> {
    c.prepare_cached(
        "SELECT * FROM runners WHERE state IN ('parked', 'ended') AND file IS NOT NULL
         ORDER BY record_id",
    )?
    .query_map([], rows::record)?
    .collect()
}

pub(super) fn ended_by_uuid(c: &Connection, uuid: &str) -> Result<Option<Record>> {
    c.prepare_cached(
        "SELECT * FROM runners WHERE presented_uuid = ? AND state = 'ended'
         ORDER BY record_id DESC LIMIT 1",
    )?
    .query_row([uuid], rows::record)
    .optional()
}

pub(super) fn answers(c: &Connection, since: SystemTime) -> Result<Vec<KeptAnswer>> {
    c.prepare_cached(
        "SELECT answers.*, registered_at FROM answers JOIN runners USING (record_id)
         WHERE delivered = 0 AND spoke = 0 AND state <> 'ended' AND registered_at > ?
         ORDER BY record_id",
    )?
    .query_map([time_ms(since)], rows::answer)?
    .collect()
}

pub(super) fn answer(c: &Connection, id: RecordId) -> Result<Option<Bytes>> {
    c.prepare_cached("SELECT answer FROM answers WHERE record_id = ?")?
        .query_row([id.0], |row| row.get::<_, Vec<u8>>(0))
        .optional()
        .map(|answer| answer.map(wiped))
}

pub(super) fn declare(
    c: &Connection,
    id: RecordId,
    labels: &[String],
    version: &str,
) -> Result<()> {
    c.prepare_cached(
        "UPDATE runners SET labels = ?, version = ?, declare_due = 0 WHERE record_id = ?",
    )?
    .execute(params![list_text(labels), version, id.0])?;
    Ok(())
}

pub(super) fn set_file(c: &Connection, id: RecordId, file: Option<&Path>) -> Result<()> {
    c.prepare_cached("UPDATE runners SET file = ? WHERE record_id = ?")?
        .execute(params![file.map(|path| path.as_os_str().as_bytes()), id.0])?;
    Ok(())
}

pub(super) fn set_state(
    c: &mut Connection,
    id: RecordId,
    state: RecordState,
    event: Option<&Event>,
    lived_until: SystemTime,
) -> Result<()> {
    let (word, reason) = state_text(state);
    let now = SystemTime::now();
    let ended = matches!(state, RecordState::Ended(_));
    let rests = state.is_resting();
    let tx = c.savepoint()?;
    tx.prepare_cached(
        "UPDATE runners SET state = ?, reason = ?, ended_at = ? WHERE record_id = ?",
    )?
    .execute(params![word, reason, ended.then(|| time_ms(now)), id.0])?;
    if rests {
        tx.prepare_cached("UPDATE runners SET tasks = '[]' WHERE record_id = ?")?
            .execute([id.0])?;
        tx.prepare_cached("DELETE FROM answers WHERE record_id = ?")?.execute([id.0])?;
        prune(&tx, lived_until)?;
    }
    if let Some(event) = event {
        events::insert(&tx, event)?;
    }
    tx.commit()
}

pub(super) fn revoke(c: &mut Connection, ids: &[RecordId]) -> Result<()> {
    let tx = c.savepoint()?;
    for id in ids {
        tx.prepare_cached(
            "UPDATE runners SET state = 'deregistering', reason = 'revoked'
             WHERE record_id = ? AND state <> 'ended'",
        )?
        .execute([id.0])?;
    }
    tx.commit()
}

pub(super) fn touch(c: &mut Connection, batch: &[Touch]) -> Result<()> {
    let tx = c.savepoint()?;
    {
        let mut update = tx.prepare_cached(
            "UPDATE runners SET last_seen_at = coalesce(?, last_seen_at),
                                spoke = spoke OR ?, delivered = delivered OR ?, tasks = ?
             WHERE record_id = ?",
        )?;
        let mut forget = tx.prepare_cached("DELETE FROM answers WHERE record_id = ?")?;
        for touch in batch {
            update.execute(params![
                touch.last_seen_at.map(time_ms),
                touch.spoke,
                touch.delivered,
                list_text(&touch.tasks),
                touch.record_id.0,
            ])?;
            if touch.spoke {
                forget.execute([touch.record_id.0])?;
            }
        }
    }
    tx.commit()
}

/// Forgets records that ended long ago.
pub(super) fn prune(c: &Connection, now: SystemTime) -> Result<()> {
    for revivable in [true, false] {
        let keep = if revivable { KEEP_REVIVABLE } else { KEEP_ENDED };
        let before = now.checked_sub(keep).unwrap_or(SystemTime::UNIX_EPOCH);
        c.prepare_cached(&prune_sql(revivable))?.execute([time_ms(before)])?;
    }
    Ok(())
}

pub(super) fn prune_sql(revivable: bool) -> String {
    format!("DELETE FROM runners WHERE {} AND ended_at < ?", ended(revivable))
}

/// The condition for records that ended, and may be revived or may not; there is an index for it.
fn ended(revivable: bool) -> String {
    let reasons = Reason::ALL.into_iter().filter(|reason| reason.is_revivable() == revivable);
    let reasons: Vec<_> = reasons.map(|reason| format!("'{}'", reason.as_str())).collect();
    format!("state = 'ended' AND reason IN ({})", reasons.join(", "))
}

pub(super) fn probe(c: &Connection) -> Result<()> {
    c.prepare_cached("INSERT OR REPLACE INTO probe (id, at) VALUES (1, ?)")?
        .execute([time_ms(SystemTime::now())])?;
    Ok(())
}

/// Folds the journal into the database file; nothing to do where there is no write-ahead log.
pub(super) fn checkpoint(c: &Connection) -> Result<()> {
    c.query_row("PRAGMA wal_checkpoint(TRUNCATE)", [], |_row| Ok(()))
}
