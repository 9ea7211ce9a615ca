//! Databases of earlier brokers.

use std::ffi::OsStr;
use std::os::unix::ffi::OsStrExt;

use super::*;

const FIRST: &str = include_str!("../migrations/0001_initial.sql");

/// A database as a broker of the first schema left it.
fn of_first_schema(path: &Path, ended_at: SystemTime) {
    let connection = Connection::open(path).unwrap();
    connection.execute_batch(FIRST).unwrap();
    connection.pragma_update(None, "user_version", 1).unwrap();
    connection
        .execute_batch(&format!(
            "INSERT INTO intents VALUES
                 ('n1', 'org:acme', 'settings', 'Builder 1', '[\"ubuntu\"]', 1, '10.0.0.7', 'json', 'v1', 1000, NULL),
                 ('n2', 'instance', 'settings', 'b2', '[]', 0, '::1', 'proto', '', 2000, 'cut off');
             INSERT INTO runners VALUES
                 (1, 'instance', 11, 'u1', 's1', 21, 'g1', 't1', 'one', '[\"a\",\"b\"]', 'v1', 0, 'settings', '10.0.0.1',
                  'broker:8080', 3000, 1, 1, 4000, '[7]', 'active', NULL, NULL, x'2f72ff'),
                 (2, 'user', 12, 'u2', 's2', 22, 'g2', 't2', 'two', '[]', '', 1, 'settings', '10.0.0.2',
                  NULL, 5000, 0, 0, NULL, '[]', 'active', NULL, NULL, NULL),
                 (3, 'repo:o/n', 13, 'u3', 's3', 23, 'g3', 't3', 'three', '[]', '', 0, 'settings', '10.0.0.3',
                  NULL, 6000, 0, 1, NULL, '[]', 'deregistering', 'shutdown', NULL, NULL),
                 (9, 'instance', 14, 'u4', 's4', 24, 'g4', 't4', 'four', '[]', '', 0, 'settings', '10.0.0.4',
                  NULL, 7000, 0, 1, NULL, '[]', 'ended', 'orphan', {}, NULL);
             INSERT INTO answers VALUES (2, 'settings', 'two', '[\"x\"]', 1, '10.0.0.2', 'proto', x'00ff');",
            rows::time_ms(ended_at),
        ))
        .unwrap();
    connection.close().unwrap();
}

fn ms(ms: u64) -> SystemTime {
    UNIX_EPOCH + Duration::from_millis(ms)
}

/// A record of [`of_first_schema`], of which little is known.
fn old_record(n: i64, name: &str, scope: Scope) -> Record {
    let credentials = |id, uuid: &str, token: &str| Credentials {
        id,
        uuid: format!("{uuid}{n}"),
        token: format!("{token}{n}").into(),
    };
    Record {
        scope,
        presented: credentials(10 + n, "u", "s"),
        upstream: credentials(20 + n, "g", "t"),
        name: name.into(),
        labels: vec![],
        version: String::new(),
        parent_id: "settings".into(),
        peer: format!("10.0.0.{n}").parse().unwrap(),
        registered_at: ms(0),
        delivered: false,
        spoke: false,
        ..Record::for_tests(n)
    }
}

#[tokio::test]
async fn a_database_of_the_first_schema_reads_as_before() {
    let (_folder, path) = place();
    of_first_schema(&path, SystemTime::now());
    let store = Store::open(&path).unwrap();
    assert_eq!(number(&store, "PRAGMA user_version").await, 5);
    assert_eq!(number(&store, "SELECT count(*) FROM runners WHERE nonce IS NULL").await, 4);

    let records = store.runners().await.unwrap();
    let expected = [
        Record {
            labels: vec!["a".into(), "b".into()],
            version: "v1".into(),
            dialled: Some("broker:8080".into()),
            registered_at: ms(3000),
            delivered: true,
            spoke: true,
            last_seen_at: Some(ms(4000)),
            tasks: vec![7],
            file: Some(PathBuf::from(OsStr::from_bytes(b"/r\xff"))),
            ..old_record(1, "one", Scope::Instance)
        },
        Record { ephemeral: true, registered_at: ms(5000), ..old_record(2, "two", Scope::User) },
        Record {
            registered_at: ms(6000),
            spoke: true,
            state: RecordState::Deregistering(Reason::Shutdown),
            ..old_record(3, "three", Scope::Repo { owner: "o".into(), name: "n".into() })
        },
    ];
    assert_eq!(format!("{records:#?}"), format!("{expected:#?}"));
    for (record, expected) in records.iter().zip(&expected) {
        assert!(record.presented.token_is(expected.presented.token.expose_secret().as_bytes()));
        assert!(record.upstream.token_is(expected.upstream.token.expose_secret().as_bytes()));
    }
    let ended = store.ended_by_uuid("u4").await.unwrap().unwrap();
    assert_eq!((ended.record_id, ended.parent_id.as_str()), (RecordId(9), "settings"));
    assert_eq!(ended.state, RecordState::Ended(Reason::Orphan));

    let intents = store.intents().await.unwrap();
    let key = Key {
        parent_id: "settings".into(),
        name: "Builder 1".into(),
        labels: vec!["ubuntu".into()],
        ephemeral: true,
        peer: "10.0.0.7".parse().unwrap(),
        codec: Codec::Json,
    };
    let first = &intents[0].intent;
    assert_eq!((first.nonce.as_str(), &first.key, first.created_at), ("n1", &key, ms(1000)));
    assert_eq!(first.scope, Scope::Org("acme".into()));
    let unclear: Vec<_> = intents.iter().map(|stored| stored.unclear.as_deref()).collect();
    assert_eq!(unclear, [None, Some("cut off")]);

    let answers = store.answers(ms(0)).await.unwrap();
    assert_eq!(answers.len(), 1);
    assert_eq!((answers[0].record_id, &answers[0].answer[..]), (RecordId(2), &b"\0\xff"[..]));
    assert_eq!(answers[0].key.labels, ["x"]);

    assert!(store.tokens().await.unwrap().is_empty());
    assert!(store.events(EventFilter { limit: 9, ..Default::default() }).await.unwrap().is_empty());
}

#[tokio::test]
async fn a_database_of_the_first_schema_takes_what_is_new() {
    let (_folder, path) = place();
    of_first_schema(&path, SystemTime::now());
    let store = Store::open(&path).unwrap();
    let settings = tokens::token("settings");
    store.declare_tokens(vec![settings.clone()], vec![]).await.unwrap();
    let mut new = new_runner("n1");
    new.token_ids = vec!["settings".into()];
    let record = store.complete(new).await.unwrap();
    assert_eq!(record.record_id, RecordId(10), "the numbers go on");
    store.revoke(vec![RecordId(2)]).await.unwrap();
    store.set_state(RecordId(3), RecordState::Ended(Reason::Shutdown), None).await.unwrap();
    store.close().await.unwrap();

    let store = Store::open(&path).unwrap();
    let kept = store.tokens().await.unwrap().remove(0).token;
    assert_eq!((kept.uses, kept.last_used_at), (settings.uses + 1, Some(at(1))));
    assert_eq!(number(&store, "SELECT count(*) FROM intents").await, 1);
    assert_eq!(number(&store, "SELECT count(*) FROM events").await, 1);
    assert_eq!(number(&store, "SELECT record_id FROM runners WHERE reason = 'revoked'").await, 2);
}

#[tokio::test]
async fn migrations_are_made_once() {
    let (_folder, path) = place();
    let schema = "SELECT group_concat(sql, ';') FROM sqlite_schema";
    let mut seen = Vec::new();
    for _ in 0..3 {
        let store = Store::open(&path).unwrap();
        let now = store
            .call(move |c| {
                let schema = c.query_row(schema, [], |row| row.get::<_, String>(0))?;
                let version =
                    c.pragma_query_value(None, "user_version", |row| row.get::<_, i64>(0))?;
                Ok((schema, version))
            })
            .await
            .unwrap();
        seen.push(now);
        store.close().await.unwrap();
    }
    assert_eq!(seen[0].1, 5);
    assert!(seen.iter().all(|now| *now == seen[0]));
}
