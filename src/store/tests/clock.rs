//! The system's clock jumps between two starts: everything in the store is years old, or years ahead.

use super::*;

const YEARS: i64 = 10 * 365 * 24 * 60 * 60 * 1000;

/// Moves all points in time, which is what a jump of the clock is to a store.
fn shift(path: &Path, milliseconds: i64) {
    let connection = Connection::open(path).unwrap();
    let mut columns = connection
        .prepare(
            "SELECT m.name, c.name FROM sqlite_schema m JOIN pragma_table_info(m.name) c
             WHERE m.type = 'table' AND (c.name = 'at' OR c.name LIKE '%\\_at' ESCAPE '\\')",
        )
        .unwrap();
    let columns: Vec<(String, String)> = columns
        .query_map([], |row| Ok((row.get(0)?, row.get(1)?)))
        .unwrap()
        .map(Result::unwrap)
        .collect();
    assert!(columns.len() > 5, "{columns:?}");
    for (table, column) in columns {
        let sql = format!("UPDATE {table} SET {column} = {column} + ?");
        connection.execute(&sql, [milliseconds]).unwrap();
    }
}

#[tokio::test]
async fn a_clock_that_jumps_between_two_starts_makes_nothing_old() {
    const EVERYTHING: &str = "SELECT (SELECT count(*) FROM runners) * 100
                              + (SELECT count(*) FROM events) * 10 + (SELECT count(*) FROM answers)";
    for jump in [YEARS, -YEARS] {
        let (_folder, path) = place();
        let store = Store::open(&path).unwrap();
        for (nonce, reason) in
            [("lives", None), ("left", Some(Reason::Runner)), ("sleeps", Some(Reason::Lease))]
        {
            store.insert_intent(intent(nonce, Scope::Instance)).await.unwrap();
            let record = store.complete(new_runner(nonce)).await.unwrap();
            if let Some(reason) = reason {
                let ended = RecordState::Ended(reason);
                store.set_state(record.record_id, ended, None).await.unwrap();
            }
        }
        let before = number(&store, EVERYTHING).await;
        store.close().await.unwrap();
        // The clock ahead is the past behind.
        shift(&path, -jump);
        let store = Store::open(&path).unwrap();
        assert_eq!(number(&store, EVERYTHING).await, before, "{jump}");
        // Nor does the next end, which forgets what is old.
        let live = store.runners().await.unwrap().remove(0);
        let ended = RecordState::Ended(Reason::Admin);
        store.set_state(live.record_id, ended, None).await.unwrap();
        assert_eq!(number(&store, "SELECT count(*) FROM runners").await, 3, "{jump}");
        assert!(store.lived_until() <= SystemTime::now());
        store.close().await.unwrap();
    }
}
