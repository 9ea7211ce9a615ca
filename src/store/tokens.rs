//! Enrollment tokens on disk, with the digests of their secrets.

use std::collections::HashMap;
use std::time::SystemTime;

use rusqlite::{Connection, Result, Row, named_params, params};

use super::queries::KEEP_ENDED;
use super::rows::{list_from, list_text, parsed, time_from, time_ms, told};
use super::{Store, StoreError, events};
use crate::broker::token::Policy;
use crate::broker::{Event, Token};

/// A token and what proves to hold it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct StoredToken {
    /// The token.
    pub token: Token,
    /// The current one first; none where it is declared or deleted.
    pub secrets: Vec<TokenSecret>,
}

/// A secret as it is kept.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TokenSecret {
    /// SHA-256 of it.
    pub digest: [u8; 32],
    /// When an old one of a rotation ends; `None`: the current one.
    pub until: Option<SystemTime>,
}

impl Store {
    /// All tokens, deleted ones too, oldest first.
    ///
    /// # Errors
    /// The database could not be read.
    pub async fn tokens(&self) -> Result<Vec<StoredToken>, StoreError> {
        self.call(|c| select(c)).await
    }

    /// Keeps a new token and the digest of its secret.
    ///
    /// # Errors
    /// Nothing was kept, so the secret must not be told.
    pub async fn insert_token(
        &self,
        token: Token,
        digest: [u8; 32],
        event: Event,
    ) -> Result<(), StoreError> {
        self.call(move |c| insert(c, &token, &digest, &event)).await
    }

    /// Keeps a changed token. When it was made and how often it was used stay as they are kept.
    ///
    /// # Errors
    /// Nothing was changed; there may be no such token.
    pub async fn save_token(&self, token: Token, event: Event) -> Result<(), StoreError> {
        self.call(move |c| save(c, &token, &event)).await
    }

    /// Gives a token a new secret. The one that was current goes on until `old_until`; older ones end when they
    /// were to.
    ///
    /// # Errors
    /// Nothing was changed, so the new secret must not be told.
    pub async fn rotate_token(
        &self,
        id: &str,
        digest: [u8; 32],
        old_until: SystemTime,
        event: Event,
    ) -> Result<(), StoreError> {
        let id = id.to_owned();
        self.call(move |c| rotate(c, &id, &digest, old_until, &event)).await
    }

    /// Keeps a token as [`Self::save_token`] does, and forgets all its secrets.
    ///
    /// # Errors
    /// Nothing was changed; there may be no such token.
    pub async fn delete_token(&self, token: Token, event: Event) -> Result<(), StoreError> {
        self.call(move |c| delete(c, &token, &event)).await
    }

    /// Keeps what the settings declare, all or nothing. Of a token that was there, when it was made and how often
    /// it was used stay as they are kept.
    ///
    /// # Errors
    /// Nothing was changed.
    pub async fn declare_tokens(
        &self,
        tokens: Vec<Token>,
        events: Vec<Event>,
    ) -> Result<(), StoreError> {
        self.call(move |c| declare(c, &tokens, &events)).await
    }

    /// Forgets tokens that were deleted more than 24 hours ago, and exchanged ones that expired or were used up
    /// as long ago; none that a runner, an intent or another token came by. Answers their ids.
    ///
    /// # Errors
    /// None was forgotten.
    pub async fn prune_tokens(&self, now: SystemTime) -> Result<Vec<String>, StoreError> {
        self.call(move |c| prune(c, now)).await
    }
}

const INSERT: &str = "
    INSERT INTO tokens (id, kind, origin, active, cascade, deleted_at, parent_id, description,
                        scope, labels, name_pattern, ephemeral_only, max_uses, max_runners, expires_at,
                        allowed_cidrs, created_at, created_by, last_used_at, uses)
    VALUES (:id, :kind, :origin, :active, :cascade, :deleted_at, :parent_id, :description,
            :scope, :labels, :name_pattern, :ephemeral_only, :max_uses, :max_runners, :expires_at,
            :allowed_cidrs, :created_at, :created_by, :last_used_at, :uses)";

/// Uses are not among them: only registrations count those.
const OR_CHANGE: &str = "
    ON CONFLICT (id) DO UPDATE SET
        kind = excluded.kind, origin = excluded.origin, active = excluded.active,
        cascade = excluded.cascade, deleted_at = excluded.deleted_at, parent_id = excluded.parent_id,
        description = excluded.description, scope = excluded.scope, labels = excluded.labels,
        name_pattern = excluded.name_pattern, ephemeral_only = excluded.ephemeral_only,
        max_uses = excluded.max_uses, max_runners = excluded.max_runners,
        expires_at = excluded.expires_at, allowed_cidrs = excluded.allowed_cidrs,
        created_by = excluded.created_by";

fn write(c: &Connection, sql: &str, token: &Token) -> Result<()> {
    let policy = &token.policy;
    let cidrs: Vec<_> = policy.allowed_cidrs.iter().map(ToString::to_string).collect();
    c.prepare_cached(sql)?.execute(named_params! {
        ":id": token.id,
        ":kind": token.kind.as_str(),
        ":origin": token.origin.as_str(),
        ":active": token.active,
        ":cascade": token.cascade,
        ":deleted_at": token.deleted_at.map(time_ms),
        ":parent_id": token.parent_id,
        ":description": token.description,
        ":scope": policy.scope.to_string(),
        ":labels": list_text(&policy.labels),
        ":name_pattern": policy.name_pattern,
        ":ephemeral_only": policy.ephemeral_only,
        ":max_uses": policy.max_uses,
        ":max_runners": policy.max_runners,
        ":expires_at": policy.expires_at.map(time_ms),
        ":allowed_cidrs": list_text(&cidrs),
        ":created_at": time_ms(token.created_at),
        ":created_by": token.created_by,
        ":last_used_at": token.last_used_at.map(time_ms),
        ":uses": i64::try_from(token.uses).unwrap_or(i64::MAX),
    })?;
    Ok(())
}

fn select(c: &Connection) -> Result<Vec<StoredToken>> {
    let mut secrets: HashMap<String, Vec<TokenSecret>> = HashMap::new();
    let mut statement =
        c.prepare_cached("SELECT * FROM token_secrets ORDER BY until IS NOT NULL, until DESC")?;
    for row in statement.query_map([], secret)? {
        let (token_id, secret) = row?;
        secrets.entry(token_id).or_default().push(secret);
    }
    c.prepare_cached("SELECT * FROM tokens ORDER BY created_at, id")?
        .query_map([], |row| {
            let token = token(row)?;
            let secrets = secrets.remove(&token.id).unwrap_or_default();
            Ok(StoredToken { token, secrets })
        })?
        .collect()
}

fn insert(c: &mut Connection, token: &Token, digest: &[u8; 32], event: &Event) -> Result<()> {
    let tx = c.savepoint()?;
    write(&tx, INSERT, token)?;
    insert_secret(&tx, &token.id, digest)?;
    events::insert(&tx, event)?;
    tx.commit()
}

fn insert_secret(c: &Connection, token_id: &str, digest: &[u8; 32]) -> Result<()> {
    c.prepare_cached("INSERT INTO token_secrets (digest, token_id) VALUES (?, ?)")?
        .execute(params![digest, token_id])?;
    Ok(())
}

fn save(c: &mut Connection, token: &Token, event: &Event) -> Result<()> {
    let tx = c.savepoint()?;
    change(&tx, token)?;
    events::insert(&tx, event)?;
    tx.commit()
}

fn change(c: &Connection, token: &Token) -> Result<()> {
    // One that was pruned must not come back.
    c.prepare_cached("SELECT id FROM tokens WHERE id = ?")?
        .query_row([&token.id], |_row| Ok(()))?;
    write(c, &format!("{INSERT}{OR_CHANGE}"), token)
}

fn rotate(
    c: &mut Connection,
    id: &str,
    digest: &[u8; 32],
    old_until: SystemTime,
    event: &Event,
) -> Result<()> {
    let tx = c.savepoint()?;
    tx.prepare_cached(
        "UPDATE token_secrets SET until = min(coalesce(until, ?1), ?1) WHERE token_id = ?2",
    )?
    .execute(params![time_ms(old_until), id])?;
    tx.prepare_cached("DELETE FROM token_secrets WHERE token_id = ? AND until <= ?")?
        .execute(params![id, time_ms(SystemTime::now())])?;
    insert_secret(&tx, id, digest)?;
    events::insert(&tx, event)?;
    tx.commit()
}

fn delete(c: &mut Connection, token: &Token, event: &Event) -> Result<()> {
    let tx = c.savepoint()?;
    change(&tx, token)?;
    tx.prepare_cached("DELETE FROM token_secrets WHERE token_id = ?")?.execute([&token.id])?;
    events::insert(&tx, event)?;
    tx.commit()
}

fn declare(c: &mut Connection, tokens: &[Token], events: &[Event]) -> Result<()> {
    let tx = c.savepoint()?;
    for token in tokens {
        write(&tx, &format!("{INSERT}{OR_CHANGE}"), token)?;
    }
    for event in events {
        events::insert(&tx, event)?;
    }
    tx.commit()
}

fn prune(c: &mut Connection, now: SystemTime) -> Result<Vec<String>> {
    let before = now.checked_sub(KEEP_ENDED).unwrap_or(SystemTime::UNIX_EPOCH);
    let tx = c.savepoint()?;
    let pruned = tx
        .prepare_cached(
            "DELETE FROM tokens
             WHERE (deleted_at < :before
                    OR origin = 'exchanged' AND expires_at < :before
                    OR origin = 'exchanged' AND kind = 'single_use' AND uses >= 1 AND last_used_at < :before)
               AND NOT EXISTS (SELECT 1 FROM runners WHERE parent_id = tokens.id)
               AND id NOT IN (SELECT parent_id FROM intents
                              UNION ALL SELECT parent_id FROM tokens WHERE parent_id IS NOT NULL)
             RETURNING id",
        )?
        .query_map(named_params! { ":before": time_ms(before) }, |row| row.get(0))?
        .collect::<Result<_>>()?;
    tx.commit()?;
    Ok(pruned)
}

/// Counts a registration, as a part of the caller's transaction. A token that is not there is passed over.
pub(super) fn count_use(c: &Connection, id: &str, at: SystemTime) -> Result<()> {
    c.prepare_cached("UPDATE tokens SET uses = uses + 1, last_used_at = ? WHERE id = ?")?
        .execute(params![time_ms(at), id])?;
    Ok(())
}

fn token(row: &Row<'_>) -> Result<Token> {
    let time = |column| row.get::<_, Option<i64>>(column).map(|ms| ms.map(time_from));
    Ok(Token {
        id: row.get("id")?,
        kind: told(row, "kind", parsed)?,
        origin: told(row, "origin", parsed)?,
        active: row.get("active")?,
        cascade: row.get("cascade")?,
        deleted_at: time("deleted_at")?,
        parent_id: row.get("parent_id")?,
        description: row.get("description")?,
        policy: Policy {
            scope: told(row, "scope", parsed)?,
            labels: told(row, "labels", list_from)?,
            name_pattern: row.get("name_pattern")?,
            ephemeral_only: row.get("ephemeral_only")?,
            max_uses: row.get("max_uses")?,
            max_runners: row.get("max_runners")?,
            expires_at: time("expires_at")?,
            allowed_cidrs: told(row, "allowed_cidrs", list_from)?,
        },
        created_at: time_from(row.get("created_at")?),
        created_by: row.get("created_by")?,
        last_used_at: time("last_used_at")?,
        uses: u64::try_from(row.get::<_, i64>("uses")?).unwrap_or_default(),
    })
}

fn secret(row: &Row<'_>) -> Result<(String, TokenSecret)> {
    let until = row.get::<_, Option<i64>>("until")?.map(time_from);
    Ok((row.get("token_id")?, TokenSecret { digest: row.get("digest")?, until }))
}
