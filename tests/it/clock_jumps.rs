//! The system's clock jumps by years between two starts: no runner, token or lease is lost. While the broker runs, every
//! wait is measured by a clock that does not jump.

use std::path::Path;

use runner_broker::broker::RecordState;
use runner_broker::broker::token::State;
use rusqlite::Connection;

use crate::chaos::agree;
use crate::register::join;
use crate::support::{Broker, Site, gitea};
use crate::tokens::{register, token};

const YEARS: i64 = 10 * 365 * 24 * 60 * 60 * 1000;

/// Moves all points in time in the store, but for when tokens end: that is the point in time which is meant.
fn shift(path: &Path, milliseconds: i64) {
    let connection = Connection::open(path).unwrap();
    let mut columns = connection
        .prepare(
            "SELECT m.name, c.name FROM sqlite_schema m JOIN pragma_table_info(m.name) c
             WHERE m.type = 'table' AND c.name <> 'expires_at'
               AND (c.name = 'at' OR c.name LIKE '%\\_at' ESCAPE '\\')",
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

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_clock_that_jumps_by_years_loses_nothing() {
    for jump in [YEARS, -YEARS] {
        let gitea = gitea();
        let site = Site::new(&gitea)
            .set("shutdown.deregister", "none")
            .set("lease.expire_after", "10m")
            .set("store.keep_events", "30d");
        let broker = Broker::start(&site).await;
        let kept = token(&broker, |_| {}).await;
        let mut runners = vec![join(&broker, "one").await.unwrap()];
        runners.push(register(&broker, &kept, "two").await.unwrap());
        for runner in &runners {
            runner.declare(&["host"]).await.unwrap();
        }
        let events = broker.lifecycle.events(Default::default()).await.unwrap().len();
        broker.stop().await;
        shift(&site.path("state.db"), -jump);

        let broker = Broker::start(&site).await;
        // Whoever looks for ended leases has looked.
        for _ in 0..3 {
            broker.lifecycle.write_changes().await.unwrap();
            tokio::time::sleep(std::time::Duration::from_millis(400)).await;
        }
        assert_eq!(gitea.runners().len(), 2, "{jump}: no lease has ended");
        let live = broker.lifecycle.roster.all();
        assert!(live.iter().all(|live| live.state() == RecordState::Active), "{jump}");
        for runner in &runners {
            runner.moved_to(&broker.url).declare(&["host"]).await.unwrap();
        }
        let id = &kept.token.token.id;
        assert_eq!(broker.lifecycle.token(id).unwrap().state, State::Active, "{jump}");
        register(&broker, &kept, "three").await.unwrap();
        join(&broker, "four").await.unwrap();
        assert!(broker.lifecycle.events(Default::default()).await.unwrap().len() >= events);
        agree(&gitea, &site, &broker).await;
        broker.stop().await;
    }
}
