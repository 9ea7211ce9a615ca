//! Tests with real files.

mod clock;
mod damage;
mod disk;
mod events;
mod files;
mod growth;
mod migration;
mod nonces;
mod properties;
mod tokens;
mod volumes;

use std::fs;
use std::path::PathBuf;
use std::time::{Duration, UNIX_EPOCH};

use secrecy::ExposeSecret;
use tempfile::TempDir;

use super::*;
use crate::broker::{Reason, What};
use crate::config::Scope;
use crate::connect::Codec;

const TOKEN: &str = "canary-token";

fn place() -> (TempDir, PathBuf) {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("state.db");
    (folder, path)
}

fn at(seconds: u64) -> SystemTime {
    UNIX_EPOCH + Duration::from_millis(1_700_000_000_000 + seconds * 1000 + 7)
}

fn intent(nonce: &str, scope: Scope) -> Intent {
    Intent {
        nonce: nonce.into(),
        scope,
        key: Key {
            parent_id: "p1".into(),
            name: "Builder 1".into(),
            labels: vec!["ubuntu".into(), "a\"b".into()],
            ephemeral: true,
            peer: "2001:db8::7".parse().unwrap(),
            codec: Codec::Json,
        },
        version: "v1".into(),
        created_at: at(0),
    }
}

fn new_runner(nonce: &str) -> NewRunner {
    NewRunner {
        intent: intent(nonce, Scope::Org("acme".into())),
        credentials: Credentials { id: 5, uuid: format!("uuid-{nonce}"), token: TOKEN.into() },
        taken_over: None,
        origin: Origin::Enrolled,
        declare_due: false,
        name: "Builder-1".into(),
        labels: vec!["ubuntu".into()],
        version: "v1".into(),
        answer: Bytes::from_static(b"\0answer with canary-token"),
        registered_at: at(1),
        dialled: Some("broker:8080".into()),
        token_ids: vec!["p1".into()],
        event: Event::now("runner", What::RunnerRegistered),
    }
}

fn touched(record_id: RecordId) -> Touch {
    Touch { record_id, last_seen_at: None, spoke: false, delivered: false, tasks: vec![] }
}

fn refused(path: &Path) -> StoreError {
    Store::open(path).expect_err("the store should have been refused")
}

/// The one number that a statement answers.
async fn number(store: &Store, sql: &'static str) -> i64 {
    store.call(move |c| c.query_row(sql, [], |row| row.get(0))).await.unwrap()
}

#[tokio::test]
async fn intents_come_back_as_they_were() {
    let (_folder, path) = place();
    let store = Store::open(&path).unwrap();
    let scopes = [
        Scope::Instance,
        Scope::User,
        Scope::Org("a.b".into()),
        Scope::Repo { owner: "o".into(), name: "n-m".into() },
    ];
    for (n, scope) in scopes.iter().enumerate() {
        store.insert_intent(intent(&n.to_string(), scope.clone())).await.unwrap();
    }
    store.mark_unclear("2", "the answer was cut off".into()).await.unwrap();
    store.drop_intent("0").await.unwrap();
    store.close().await.unwrap();

    let kept = Store::open(&path).unwrap().intents().await.unwrap();
    assert_eq!(kept.len(), 3);
    for (n, stored) in (1..).zip(&kept) {
        assert_eq!(
            format!("{:?}", stored.intent),
            format!("{:?}", intent(&n.to_string(), scopes[n].clone()))
        );
    }
    let unclear: Vec<_> = kept.iter().map(|stored| stored.unclear.as_deref()).collect();
    assert_eq!(unclear, [None, Some("the answer was cut off"), None]);
}

#[tokio::test]
async fn a_record_takes_the_place_of_its_intent() {
    let (_folder, path) = place();
    let store = Store::open(&path).unwrap();
    let new = new_runner("n1");
    store.insert_intent(new.intent.clone()).await.unwrap();
    let record = store.complete(new.clone()).await.unwrap();
    store.close().await.unwrap();

    let store = Store::open(&path).unwrap();
    assert!(store.intents().await.unwrap().is_empty());
    let kept = store.runners().await.unwrap();
    assert_eq!(format!("{kept:?}"), format!("{:?}", [&record]));
    let Record { presented, upstream, .. } = &kept[0];
    for credentials in [presented, upstream] {
        assert_eq!((credentials.id, credentials.uuid.as_str()), (5, "uuid-n1"));
        assert_eq!(credentials.token.expose_secret(), TOKEN);
    }
    assert_eq!(record.scope, new.intent.scope);
    assert_eq!((record.name.as_str(), record.version.as_str()), ("Builder-1", "v1"));
    assert_eq!((&record.labels, record.peer), (&new.labels, new.intent.key.peer));
    assert_eq!((record.registered_at, record.last_seen_at), (at(1), None));
    assert_eq!((record.delivered, record.spoke, record.ephemeral), (false, false, true));
    assert_eq!((record.state, record.file.as_deref()), (RecordState::Active, None));
    assert_eq!(record.parent_id, "p1");
}

#[tokio::test]
async fn a_completion_that_fails_leaves_the_intent() {
    let (_folder, path) = place();
    let store = Store::open(&path).unwrap();
    store.complete(new_runner("n1")).await.unwrap();
    let mut twin = new_runner("n2");
    twin.credentials.uuid = "uuid-n1".into();
    store.insert_intent(twin.intent.clone()).await.unwrap();
    let error = store.complete(twin).await.unwrap_err();
    assert!(!format!("{error} {error:?}").contains("canary"), "{error:?}");
    assert_eq!(store.intents().await.unwrap().len(), 1);
    assert_eq!(store.runners().await.unwrap().len(), 1);
}

#[tokio::test]
async fn answers_are_kept_until_the_runner_has_its_own() {
    let (_folder, path) = place();
    let store = Store::open(&path).unwrap();
    let mut ids = Vec::new();
    for nonce in ["waits", "spoke", "delivered", "ended"] {
        ids.push(store.complete(new_runner(nonce)).await.unwrap().record_id);
    }
    store
        .touch(vec![
            Touch { last_seen_at: Some(at(9)), spoke: true, tasks: vec![3, 4], ..touched(ids[1]) },
            Touch { delivered: true, ..touched(ids[2]) },
            touched(RecordId(999)),
        ])
        .await
        .unwrap();
    store.set_state(ids[3], RecordState::Ended(Reason::Admin), None).await.unwrap();

    let answers = store.answers(at(0)).await.unwrap();
    assert_eq!(answers.len(), 1);
    let new = new_runner("waits");
    assert_eq!(answers[0].record_id, ids[0]);
    assert_eq!((&answers[0].key, &answers[0].answer), (&new.intent.key, &new.answer));
    assert_eq!(answers[0].registered_at, at(1));
    assert!(!format!("{:?} {new:?}", answers[0]).contains("canary"));
    assert!(store.answers(at(1)).await.unwrap().is_empty(), "too old");
    let left = number(&store, "SELECT count(*) FROM answers").await;
    assert_eq!(left, 2, "the answer of one that spoke or ended is forgotten");
}

#[tokio::test]
async fn changes_of_a_record_are_kept() {
    let (_folder, path) = place();
    let store = Store::open(&path).unwrap();
    let id = store.complete(new_runner("n1")).await.unwrap().record_id;
    store.declare(id, vec!["x".into(), "y".into()], "v2".into()).await.unwrap();
    store.set_file(id, Some("/runners/b/.runner".into())).await.unwrap();
    store.set_state(id, RecordState::Deregistering(Reason::Shutdown), None).await.unwrap();
    let touch = Touch { last_seen_at: Some(at(9)), delivered: true, spoke: true, ..touched(id) };
    store.touch(vec![Touch { tasks: vec![7], ..touch }]).await.unwrap();
    // What is known once is not taken back.
    store.touch(vec![Touch { tasks: vec![8], ..touched(id) }]).await.unwrap();
    store.close().await.unwrap();

    let store = Store::open(&path).unwrap();
    let record = store.runners().await.unwrap().remove(0);
    assert_eq!((record.labels.join(","), record.version.as_str()), ("x,y".into(), "v2"));
    assert_eq!(record.file.as_deref(), Some(Path::new("/runners/b/.runner")));
    assert_eq!(record.state, RecordState::Deregistering(Reason::Shutdown));
    assert_eq!((record.last_seen_at, record.tasks), (Some(at(9)), vec![8]));
    assert!(record.delivered && record.spoke);
    store.set_file(id, None).await.unwrap();
    store.set_state(id, RecordState::Active, None).await.unwrap();
    let record = store.runners().await.unwrap().remove(0);
    assert_eq!((record.file, record.state), (None, RecordState::Active));
}

#[tokio::test]
async fn ended_records_are_found_for_a_day() {
    let (_folder, path) = place();
    let store = Store::open(&path).unwrap();
    let id = store.complete(new_runner("n1")).await.unwrap().record_id;
    assert!(store.ended_by_uuid("uuid-n1").await.unwrap().is_none(), "it has not ended");
    store.set_state(id, RecordState::Ended(Reason::Runner), None).await.unwrap();
    assert!(store.runners().await.unwrap().is_empty());
    store.close().await.unwrap();

    let store = Store::open(&path).unwrap();
    let record = store.ended_by_uuid("uuid-n1").await.unwrap().unwrap();
    assert_eq!(record.state, RecordState::Ended(Reason::Runner));
    assert!(record.presented.token_is(TOKEN.as_bytes()));
    let long = queries::KEEP_ENDED.as_millis() as i64 + 1000;
    store
        .call(move |c| {
            c.execute("DELETE FROM events", [])?;
            c.execute("UPDATE runners SET ended_at = ended_at - ?", [long])
        })
        .await
        .unwrap();
    store.close().await.unwrap();

    // As far as the store knows, it is the clock that jumped ahead.
    let store = Store::open(&path).unwrap();
    assert!(store.ended_by_uuid("uuid-n1").await.unwrap().is_some());
    store.writable().await.unwrap();
    store.close().await.unwrap();

    let store = Store::open(&path).unwrap();
    assert!(store.ended_by_uuid("uuid-n1").await.unwrap().is_none());
    let next = store.complete(new_runner("n1")).await.unwrap().record_id;
    assert!(next > id, "a number never comes back");
}

#[tokio::test]
async fn what_was_answered_survives_a_crash() {
    let (folder, path) = place();
    let store = Store::open(&path).unwrap();
    store.insert_intent(intent("n0", Scope::Instance)).await.unwrap();
    store.complete(new_runner("n1")).await.unwrap();
    // The files as a kill would leave them, with the log not yet folded in.
    let crashed = folder.path().join("crashed.db");
    fs::copy(&path, &crashed).unwrap();
    fs::copy(folder.path().join("state.db-wal"), folder.path().join("crashed.db-wal")).unwrap();

    let store = Store::open(&crashed).unwrap();
    assert_eq!(store.intents().await.unwrap().len(), 1);
    assert_eq!(store.runners().await.unwrap().len(), 1);
    assert_eq!(store.answers(at(0)).await.unwrap().len(), 1);
}

#[tokio::test]
async fn dropped_without_close_it_finishes_its_jobs_and_lets_go() {
    let (_folder, path) = place();
    let store = Store::open(&path).unwrap();
    let ended = store.ended.clone();
    {
        // Sent, and then nobody waits for it.
        let job = store.insert_intent(intent("n0", Scope::Instance));
        tokio::pin!(job);
        assert!(futures_util::poll!(&mut job).is_pending());
    }
    drop(store);
    ended.cancelled().await;
    assert_eq!(Store::open(&path).unwrap().intents().await.unwrap().len(), 1);
}

#[tokio::test]
async fn close_finishes_what_was_sent_and_refuses_what_comes_later() {
    let (_folder, path) = place();
    let store = Store::open(&path).unwrap();
    let jobs = (0..100).map(|n| store.insert_intent(intent(&n.to_string(), Scope::Instance)));
    let jobs = futures_util::future::join_all(jobs);
    let (jobs, first, second) = tokio::join!(jobs, store.close(), store.close());
    assert!(jobs.iter().all(Result::is_ok));
    first.unwrap();
    second.unwrap();
    store.close().await.unwrap();
    assert!(matches!(store.writable().await, Err(StoreError::Closed)));
    assert!(!path.with_extension("db-wal").exists(), "folded in");
    assert_eq!(Store::open(&path).unwrap().intents().await.unwrap().len(), 100);
}

#[tokio::test]
async fn a_job_that_panics_closes_the_store() {
    let (_folder, path) = place();
    let store = Store::open(&path).unwrap();
    let outcome = store.call(|_| -> rusqlite::Result<()> { panic!("on purpose") }).await;
    assert!(matches!(outcome, Err(StoreError::Closed)));
    store.close().await.unwrap();
    assert!(Store::open(&path).is_ok());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_thousand_callers_at_once() {
    let (_folder, path) = place();
    let store = Store::open(&path).unwrap();
    let jobs: Vec<_> = (0..1000)
        .map(|n| {
            let store = store.clone();
            tokio::spawn(async move { store.complete(new_runner(&format!("n{n}"))).await })
        })
        .collect();
    let mut ids = Vec::new();
    for job in jobs {
        ids.push(job.await.unwrap().unwrap().record_id);
    }
    ids.sort_unstable();
    ids.dedup();
    assert_eq!(ids.len(), 1000);
    assert_eq!(store.runners().await.unwrap().len(), 1000);
}
