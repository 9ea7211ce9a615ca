//! The thread that has the database, and the jobs that it is sent.
//!
//! What waits together is written together: a commit waits for the disk, and one for many costs as much as one
//! for each. Nobody waits for others to come.

use std::path::Path;

use rusqlite::{Connection, Result};
use tokio::sync::{mpsc, oneshot};

use super::{holder, queries};

/// Jobs that may wait; a caller beyond that waits for a place.
pub(super) const QUEUE: usize = 256;
/// So many are written together at most: the first of them waits for the last.
const TOGETHER: usize = 64;

pub(super) enum Message {
    Job(Box<dyn Job>),
    Close(oneshot::Sender<Result<()>>),
}

/// A transaction, or a look.
pub(super) trait Job: Send {
    /// Does it, or does it anew: what an earlier run did has been rolled back then.
    fn run(&mut self, connection: &mut Connection);
    /// Tells the caller what came of the last run.
    fn tell(self: Box<Self>);
}

/// A job with the one who waits for it.
pub(super) struct Asked<F, T> {
    work: F,
    outcome: Option<Result<T>>,
    done: oneshot::Sender<Result<T>>,
}

impl<F, T> Asked<F, T>
where
    F: FnMut(&mut Connection) -> Result<T> + Send + 'static,
    T: Send + 'static,
{
    pub(super) fn message(work: F) -> (Message, oneshot::Receiver<Result<T>>) {
        let (done, outcome) = oneshot::channel();
        (Message::Job(Box::new(Self { work, outcome: None, done })), outcome)
    }
}

impl<F, T> Job for Asked<F, T>
where
    F: FnMut(&mut Connection) -> Result<T> + Send,
    T: Send,
{
    fn run(&mut self, connection: &mut Connection) {
        self.outcome = Some((self.work)(connection));
    }

    fn tell(self: Box<Self>) {
        if let Some(outcome) = self.outcome {
            // Nobody may be waiting any more; the job is done all the same.
            let _ = self.done.send(outcome);
        }
    }
}

/// Carries out what comes: ends when it was told to close and the queue is empty, or when the last handle is gone.
pub(super) fn serve(mut connection: Connection, mut queue: mpsc::Receiver<Message>, file: &Path) {
    let mut closers = Vec::new();
    let mut jobs = Vec::with_capacity(TOGETHER);
    while let Some(first) = queue.blocking_recv() {
        let mut next = Some(first);
        while let Some(message) = next {
            match message {
                Message::Job(job) => jobs.push(job),
                Message::Close(done) => {
                    queue.close();
                    closers.push(done);
                }
            }
            next = if jobs.len() < TOGETHER { queue.try_recv().ok() } else { None };
        }
        if let Err(error) = carry_out(&mut connection, &mut jobs) {
            tracing::error!(%error, "the store ends: what was not written could not be taken back either");
            break;
        }
    }
    let checkpoint = queries::checkpoint(&connection);
    holder::remove(file);
    let outcome =
        checkpoint.and_then(|()| connection.close().map_err(|(_connection, error)| error));
    if let Some(first) = closers.into_iter().next() {
        let _ = first.send(outcome);
    } else if let Err(error) = outcome {
        tracing::warn!(%error, "the store was not closed cleanly; the next start takes care of it");
    }
}

/// Nobody is told before all is on disk. Where that fails together, each is tried by itself: what one did wrong,
/// or has no room for, is not the others' to suffer.
fn carry_out(connection: &mut Connection, jobs: &mut Vec<Box<dyn Job>>) -> Result<()> {
    let together = jobs.len() > 1 && commit_together(connection, jobs);
    end_transaction(connection)?;
    for mut job in jobs.drain(..) {
        if !together {
            job.run(connection);
            end_transaction(connection)?;
        }
        job.tell();
    }
    Ok(())
}

/// Whether all of them are on disk now; else nothing of them is to stay.
fn commit_together(connection: &mut Connection, jobs: &mut [Box<dyn Job>]) -> bool {
    let begun = connection.execute_batch("BEGIN").is_ok();
    begun
        && jobs.iter_mut().all(|job| {
            job.run(connection);
            // Some errors of the disk undo the whole transaction, and what follows would be in none.
            !connection.is_autocommit()
        })
        && connection.execute_batch("COMMIT").is_ok()
}

/// What a commit that failed has left open: the next job would take itself for a part of it.
fn end_transaction(connection: &Connection) -> Result<()> {
    if connection.is_autocommit() { Ok(()) } else { connection.execute_batch("ROLLBACK") }
}

#[cfg(test)]
mod tests {
    use std::path::PathBuf;

    use super::*;
    use crate::test_system::{Which, refuse};

    type Jobs = Vec<Box<dyn Job>>;
    type Outcome = oneshot::Receiver<Result<i64>>;

    /// A table of numbers, and the log to which its changes are written.
    fn database() -> (tempfile::TempDir, Connection, PathBuf) {
        let folder = tempfile::tempdir().unwrap();
        let connection = Connection::open(folder.path().join("db")).unwrap();
        connection.pragma_update_and_check(None, "journal_mode", "WAL", |_row| Ok(())).unwrap();
        connection.pragma_update(None, "synchronous", "FULL").unwrap();
        connection.execute_batch("CREATE TABLE t (n INTEGER PRIMARY KEY, x BLOB)").unwrap();
        let log = folder.path().join("db-wal");
        (folder, connection, log)
    }

    fn insert(n: i64, size: i64, jobs: &mut Jobs) -> Outcome {
        let (message, outcome) = Asked::message(move |c: &mut Connection| {
            let tx = c.savepoint()?;
            tx.execute("INSERT INTO t VALUES (?, zeroblob(?))", (n, size))?;
            let id = tx.last_insert_rowid();
            tx.commit().map(|()| id)
        });
        if let Message::Job(job) = message {
            jobs.push(job);
        }
        outcome
    }

    /// What the callers were told: the number, or nothing where it was an error.
    fn told(outcomes: &mut [Outcome]) -> Vec<Option<i64>> {
        outcomes.iter_mut().map(|outcome| outcome.try_recv().unwrap().ok()).collect()
    }

    fn rows(connection: &Connection) -> Vec<i64> {
        let mut statement = connection.prepare("SELECT n FROM t ORDER BY n").unwrap();
        statement.query_map([], |row| row.get(0)).unwrap().map(Result::unwrap).collect()
    }

    /// How many commits the log holds: the last page of each tells the size of the database.
    fn commits(log: &Path) -> usize {
        const HEAD: usize = 32;
        const PAGE: usize = 24 + 4096;
        let log = std::fs::read(log).unwrap();
        log[HEAD..].chunks(PAGE).filter(|page| page[4..8] != [0; 4]).count()
    }

    #[test]
    fn what_waits_together_is_one_commit_and_what_waits_alone_is_its_own() {
        let (_folder, mut connection, log) = database();
        let before = commits(&log);
        let mut jobs = Jobs::new();
        let mut outcomes: Vec<_> = (1..=20).map(|n| insert(n, 1, &mut jobs)).collect();
        carry_out(&mut connection, &mut jobs).unwrap();
        assert_eq!(told(&mut outcomes), (1..=20).map(Some).collect::<Vec<_>>());
        assert_eq!(commits(&log) - before, 1);
        let mut outcome = [insert(21, 1, &mut jobs)];
        carry_out(&mut connection, &mut jobs).unwrap();
        assert_eq!(told(&mut outcome), [Some(21)]);
        assert_eq!(commits(&log) - before, 2);
        assert_eq!(rows(&connection), (1..=21).collect::<Vec<_>>());
    }

    #[test]
    fn what_one_does_wrong_is_its_own_affair() {
        let (_folder, mut connection, log) = database();
        let before = commits(&log);
        let mut jobs = Jobs::new();
        let mut outcomes = [1, 2, 1, 3].map(|n| insert(n, 1, &mut jobs));
        carry_out(&mut connection, &mut jobs).unwrap();
        assert_eq!(told(&mut outcomes), [Some(1), Some(2), None, Some(3)]);
        assert_eq!(commits(&log) - before, 1);
        assert_eq!(rows(&connection), [1, 2, 3]);
    }

    #[test]
    fn one_that_finds_no_room_takes_no_other_with_it() {
        let (_folder, mut connection, _log) = database();
        connection.pragma_update_and_check(None, "max_page_count", 20, |_row| Ok(())).unwrap();
        let mut jobs = Jobs::new();
        let mut outcomes =
            [(1, 1), (2, 1 << 20), (3, 1)].map(|(n, size)| insert(n, size, &mut jobs));
        carry_out(&mut connection, &mut jobs).unwrap();
        assert_eq!(told(&mut outcomes), [Some(1), None, Some(3)]);
        assert_eq!(rows(&connection), [1, 3]);
    }

    #[test]
    fn what_the_disk_does_not_confirm_is_nobodys() {
        let (_folder, mut connection, _log) = database();
        std::thread::scope(|scope| {
            let tried = scope.spawn(|| {
                for call in [libc::SYS_fsync, libc::SYS_fdatasync] {
                    refuse(call, Which::All, libc::EIO);
                }
                let mut jobs = Jobs::new();
                let mut outcomes = [1, 2, 3].map(|n| insert(n, 1, &mut jobs));
                carry_out(&mut connection, &mut jobs).unwrap();
                assert_eq!(told(&mut outcomes), [None; 3]);
                assert!(connection.is_autocommit());
            });
            tried.join().unwrap();
        });
        assert!(rows(&connection).is_empty());
        let mut jobs = Jobs::new();
        let mut outcomes = [1, 2].map(|n| insert(n, 1, &mut jobs));
        carry_out(&mut connection, &mut jobs).unwrap();
        assert_eq!(told(&mut outcomes), [Some(1), Some(2)]);
        assert_eq!(rows(&connection), [1, 2]);
    }
}
