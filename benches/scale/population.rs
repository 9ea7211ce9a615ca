//! A store of long use: what a broker has after many runners came and went.

use std::path::Path;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use runner_broker::store::Store;
use rusqlite::{Connection, params};

/// Of ten records, one is a live runner.
pub(crate) const LIVE_IN: usize = 10;
/// As many records came by each token.
const RECORDS_OF_TOKEN: usize = 1000;
const HOUR: i64 = 60 * 60 * 1000;

/// What a runner shows.
#[derive(Clone)]
pub(crate) struct Shown {
    pub(crate) uuid: String,
    pub(crate) token: String,
}

/// Makes the database with so many records. Returns the live runners.
pub(crate) fn make(path: &Path, records: usize) -> Vec<Shown> {
    let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
    // The schema is the store's own.
    let store = Store::open(path).unwrap();
    runtime.block_on(store.close()).unwrap();
    let mut connection = Connection::open(path).unwrap();
    let tx = connection.transaction().unwrap();
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or(Duration::ZERO);
    let now = i64::try_from(now.as_millis()).unwrap();
    for token in 0..tokens(records) {
        insert_token(&tx, token, now);
    }
    let mut live = Vec::new();
    for number in 0..records {
        let shown = shown(number);
        insert_runner(&tx, number, &shown, token_id(number % tokens(records)), now);
        if number % LIVE_IN == 0 {
            live.push(shown);
        }
    }
    tx.commit().unwrap();
    live
}

/// How many enrollment tokens there are beside that of the settings.
pub(crate) fn tokens(records: usize) -> usize {
    records.div_ceil(RECORDS_OF_TOKEN)
}

/// The id of one of them.
pub(crate) fn token_id(token: usize) -> String {
    format!("tok{token:05}")
}

fn shown(number: usize) -> Shown {
    // As random as Gitea's to a hash table.
    let mixed = (number as u64 + 1).wrapping_mul(0x9e37_79b9_7f4a_7c15);
    Shown {
        uuid: format!("{:08x}-{:04x}-4000-8000-{number:012x}", mixed >> 32, mixed & 0xffff),
        token: format!("{mixed:016x}{:024x}", mixed.rotate_left(23)),
    }
}

fn insert_token(connection: &Connection, token: usize, now: i64) {
    let id = token_id(token);
    connection
        .prepare_cached(
            "INSERT INTO tokens VALUES (?, 'reusable', 'created', 1, 0, NULL, NULL, 'a team', 'instance', '[]',
                                        NULL, 0, NULL, NULL, NULL, '[]', ?, 'admin', NULL, 0)",
        )
        .unwrap()
        .execute(params![id, now - 1000 * HOUR])
        .unwrap();
    let mut digest = [0_u8; 32];
    digest[..8].copy_from_slice(&(token as u64).to_be_bytes());
    connection
        .prepare_cached("INSERT INTO token_secrets (digest, token_id) VALUES (?, ?)")
        .unwrap()
        .execute(params![digest, id])
        .unwrap();
}

/// Of ten, one lives, three ended by their lease within a day and may be revived, four did so before, one and a
/// half ended themselves today, and half a one is parked.
fn insert_runner(connection: &Connection, number: usize, shown: &Shown, parent: String, now: i64) {
    let age = (number as i64 * 7919) % (22 * HOUR);
    let (state, reason, ended) = match number % 20 {
        0 | 10 => ("active", None, None),
        1..=3 | 11..=13 => ("ended", Some("lease"), Some(now - HOUR - age)),
        4..=7 | 14..=17 => ("ended", Some("lease"), Some(now - 25 * HOUR - 25 * age)),
        19 => ("parked", Some("lease"), None),
        _ => ("ended", Some("runner"), Some(now - HOUR - age)),
    };
    let registered = ended.unwrap_or(now) - 2 * HOUR;
    let (id, name) = (number as i64 + 1, format!("builder-{number:06}"));
    connection
        .prepare_cached(
            "INSERT INTO runners (scope, presented_id, presented_uuid, presented_token, upstream_id, upstream_uuid,
                                  upstream_token, name, labels, version, ephemeral, origin, parent_id, peer, dialled,
                                  registered_at, delivered, spoke, last_seen_at, state, reason, ended_at)
             VALUES ('instance', ?1, ?2, ?3, ?1, ?2, ?3, ?4, '[\"ubuntu-latest\",\"ubuntu-24.04\"]', 'v0.2.13', 0,
                     'enrolled', ?5, '127.0.0.1', 'broker:8080', ?6, 1, 1, ?7, ?8, ?9, ?10)",
        )
        .unwrap()
        .execute(params![
            id, shown.uuid, shown.token, name, parent, registered, registered + HOUR, state, reason, ended,
        ])
        .unwrap();
    for what in ["runner.registered", "runner.lost", "runner.found"] {
        insert_event(connection, what, id, &name, &parent, registered);
    }
    if let Some(ended) = ended {
        insert_event(connection, "runner.deregistered", id, &name, &parent, ended);
    }
}

fn insert_event(c: &Connection, what: &str, id: i64, name: &str, parent: &str, at: i64) {
    c.prepare_cached(
        "INSERT INTO events (at, actor, what, token_id, runner_id, runner, peer, detail)
         VALUES (?, 'runner', ?, ?, ?, ?, '127.0.0.1', 'ubuntu-latest,ubuntu-24.04')",
    )
    .unwrap()
    .execute(params![at, what, parent, id, name])
    .unwrap();
}
