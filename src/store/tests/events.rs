//! The audit trail.

use super::*;

fn event(n: u64, what: What) -> Event {
    Event {
        seq: 0,
        at: at(n),
        actor: "admin:ada".into(),
        what,
        token_id: Some("T".into()),
        runner_id: Some(i64::MIN),
        runner: Some("Builder \"1\"".into()),
        peer: Some("2001:db8::7".parse().unwrap()),
        detail: "a sentence; of two parts".into(),
    }
}

fn all() -> EventFilter {
    EventFilter { limit: usize::MAX, ..Default::default() }
}

async fn seqs(store: &Store, filter: EventFilter) -> Vec<i64> {
    store.events(filter).await.unwrap().iter().map(|event| event.seq).collect()
}

#[tokio::test]
async fn every_field_comes_back_latest_first() {
    let (_folder, path) = place();
    let store = Store::open(&path).unwrap();
    let mut expected: Vec<_> = (0..).zip(What::ALL).map(|(n, what)| event(n, *what)).collect();
    expected.push(Event { at: at(99), ..Event::now("", What::AdminRefused) });
    // The store numbers them, whatever they say.
    expected[0].seq = 55;
    store.insert_events(expected.clone()).await.unwrap();
    store.close().await.unwrap();

    let store = Store::open(&path).unwrap();
    for (seq, event) in (1..).zip(&mut expected) {
        event.seq = seq;
    }
    expected.reverse();
    assert_eq!(store.events(all()).await.unwrap(), expected);
}

#[tokio::test]
async fn the_filter_holds_in_all_its_parts() {
    let (_folder, path) = place();
    let store = Store::open(&path).unwrap();
    let about = |token: &str, runner_id, what| {
        let token_id = (!token.is_empty()).then(|| token.to_owned());
        Event { token_id, runner_id, ..event(0, what) }
    };
    use What::{RegistrationRefused as Refused, RunnerRegistered as Registered};
    let events = vec![
        about("T", Some(1), Registered),
        about("T", Some(2), Registered),
        about("U", Some(1), Registered),
        about("T", None, Refused),
        about("", None, Refused),
    ];
    store.insert_events(events).await.unwrap();
    let token = |id: &str| EventFilter { token_id: Some(id.into()), ..all() };
    let cases = [
        (all(), vec![5, 4, 3, 2, 1]),
        (token("T"), vec![4, 2, 1]),
        (token("t"), vec![]),
        (EventFilter { runner_id: Some(1), ..all() }, vec![3, 1]),
        (EventFilter { runner_id: Some(1), ..token("T") }, vec![1]),
        (EventFilter { what: Some(Refused), ..all() }, vec![5, 4]),
        (EventFilter { what: Some(Refused), ..token("T") }, vec![4]),
        (EventFilter { before: Some(4), ..all() }, vec![3, 2, 1]),
        (EventFilter { before: Some(4), limit: 1, ..token("T") }, vec![2]),
        (EventFilter { limit: 2, ..all() }, vec![5, 4]),
        (EventFilter::default(), vec![]),
    ];
    for (filter, expected) in cases {
        assert_eq!(seqs(&store, filter.clone()).await, expected, "{filter:?}");
    }
}

#[tokio::test]
async fn events_are_kept_for_a_time() {
    let (_folder, path) = place();
    let store = Store::open(&path).unwrap();
    let events = [1, 5, 3, 4].map(|n| event(n, What::AdminSignedIn));
    store.insert_events(events.into()).await.unwrap();
    store.prune_events(at(4)).await.unwrap();
    assert_eq!(seqs(&store, all()).await, [4, 2]);
    store.prune_events(at(6)).await.unwrap();
    store.insert_events(vec![event(7, What::AdminSignedIn)]).await.unwrap();
    assert_eq!(seqs(&store, all()).await, [5], "a number never comes back");
}

#[tokio::test]
async fn a_flood_of_events_has_a_bound() {
    let (_folder, path) = place();
    let store = Store::open(&path).unwrap();
    let flood = "INSERT INTO events (at, actor, what, detail)
                 WITH RECURSIVE n (n) AS (SELECT 1 UNION ALL SELECT n + 1 FROM n WHERE n < 200002)
                 SELECT n, 'runner', 'registration.refused', '' FROM n";
    store.insert_events(vec![event(1, What::TokenCreated)]).await.unwrap();
    store.call(move |c| c.execute(flood, [])).await.unwrap();
    for _ in 0..2 {
        store.prune_events(UNIX_EPOCH).await.unwrap();
        let refusals = "SELECT count(*) FROM events WHERE what = 'registration.refused'";
        assert_eq!(number(&store, refusals).await, 200_000);
        assert_eq!(number(&store, "SELECT min(seq) FROM events").await, 1, "it is no refusal");
        let oldest = "SELECT min(seq) FROM events WHERE seq > 1";
        assert_eq!(number(&store, oldest).await, 4, "the oldest go");
    }
}

#[tokio::test]
async fn a_batch_is_kept_whole_or_not_at_all() {
    let (_folder, path) = place();
    let store = Store::open(&path).unwrap();
    let trigger = "CREATE TRIGGER refuse BEFORE INSERT ON events WHEN NEW.actor = 'bad'
                   BEGIN SELECT raise(ABORT, 'no'); END";
    store.call(move |c| c.execute_batch(trigger)).await.unwrap();
    let bad = Event { actor: "bad".into(), ..event(2, What::AdminRefused) };
    store.insert_events(vec![event(1, What::AdminRefused), bad]).await.unwrap_err();
    assert!(store.events(all()).await.unwrap().is_empty());
}

#[tokio::test]
async fn a_state_is_kept_with_its_event() {
    let (_folder, path) = place();
    let store = Store::open(&path).unwrap();
    let id = store.complete(new_runner("n1")).await.unwrap().record_id;
    let ended = RecordState::Ended(Reason::Admin);
    let gone = event(2, What::RunnerDeregistered);
    store.set_state(id, ended, Some(gone.clone())).await.unwrap();
    let latest = store.events(EventFilter { limit: 1, ..all() }).await.unwrap();
    assert_eq!(latest, [Event { seq: 2, ..gone }]);
}
