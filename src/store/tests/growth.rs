//! Nothing on the path of a request reads all records.

use super::*;

/// Each statement that a call of a runner or a newcomer leads to, and those that run now and then.
const STATEMENTS: &[&str] = &[
    "SELECT * FROM runners WHERE record_id = 1",
    "SELECT * FROM runners WHERE nonce = 'n'",
    "SELECT nonce FROM runners WHERE record_id = 1",
    "SELECT * FROM runners WHERE presented_uuid = 'u' AND state = 'ended' ORDER BY record_id DESC LIMIT 1",
    "UPDATE runners SET state = 'ended', ended_at = 1 WHERE record_id = 1 AND state = 'parked'",
    "UPDATE runners SET tasks = '[]' WHERE record_id = 1",
    "UPDATE tokens SET uses = uses + 1, last_used_at = 1 WHERE id = 't'",
    "DELETE FROM intents WHERE nonce = 'n'",
    "DELETE FROM answers WHERE record_id = 1",
    "SELECT answer FROM answers WHERE record_id = 1",
    "SELECT * FROM events WHERE token_id = 't' AND seq < 9 ORDER BY seq DESC LIMIT 9",
    "SELECT * FROM events WHERE true ORDER BY seq DESC LIMIT 9",
    "DELETE FROM events WHERE at < 1",
];

async fn plan(store: &Store, sql: String) -> Vec<String> {
    let plan = store.call(move |c| {
        let mut statement = c.prepare(&format!("EXPLAIN QUERY PLAN {sql}"))?;
        // A parameter that is not bound is NULL.
        statement.raw_query().mapped(|row| row.get("detail")).collect()
    });
    plan.await.unwrap()
}

#[tokio::test]
async fn no_statement_of_a_request_reads_a_whole_table() {
    let (_folder, path) = place();
    let store = Store::open(&path).unwrap();
    let prunes = [true, false].map(queries::prune_sql);
    let newest = "SELECT * FROM events WHERE true ORDER BY seq DESC LIMIT 9";
    for sql in STATEMENTS.iter().map(ToString::to_string).chain(prunes) {
        let plan = plan(&store, sql.clone()).await;
        assert!(!plan.is_empty(), "{sql}");
        let scans = plan.iter().any(|step| step.starts_with("SCAN"));
        // From its end, and no further than asked.
        assert!(!scans || sql == newest, "{sql}: {plan:?}");
    }
}

#[tokio::test]
async fn records_that_ended_are_forgotten_by_their_age_and_reason() {
    let (_folder, path) = place();
    let store = Store::open(&path).unwrap();
    let day = Duration::from_secs(24 * 60 * 60);
    let now = SystemTime::now();
    for (number, reason, age) in [
        (1, Reason::Runner, day / 2),
        (2, Reason::Runner, day * 2),
        (3, Reason::Lease, day * 2),
        (4, Reason::Shutdown, day * 31),
        (5, Reason::Revoked, day * 2),
    ] {
        let new = new_runner(&number.to_string());
        store.insert_intent(new.intent.clone()).await.unwrap();
        let id = store.complete(new).await.unwrap().record_id;
        store.set_state(id, RecordState::Ended(reason), None).await.unwrap();
        let ended_at = rows::time_ms(now - age);
        let set = move |c: &mut Connection| {
            c.execute("UPDATE runners SET ended_at = ? WHERE record_id = ?", [ended_at, id.0])
        };
        store.call(set).await.unwrap();
    }
    store.call(move |c| queries::prune(c, now)).await.unwrap();
    let left =
        "SELECT group_concat(record_id) FROM (SELECT record_id FROM runners ORDER BY record_id)";
    let left: String = store.call(move |c| c.query_row(left, [], |row| row.get(0))).await.unwrap();
    assert_eq!(left, "1,3");
    let asleep = store.asleep(now - day).await.unwrap();
    assert!(asleep.is_empty(), "it ended before");
    let asleep = store.asleep(now - 3 * day).await.unwrap();
    assert_eq!(asleep.iter().map(|record| record.record_id.0).collect::<Vec<_>>(), [3]);
}
