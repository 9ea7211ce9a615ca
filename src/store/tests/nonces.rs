//! The nonces that runners came by.

use super::*;

async fn traces(store: &Store, nonces: &[&str]) -> Vec<Vec<Trace>> {
    let asked: Vec<_> = nonces.iter().map(|&nonce| nonce.to_owned()).collect();
    let mut known = store.traces(asked).await.unwrap();
    nonces.iter().map(|&nonce| known.remove(nonce).unwrap()).collect()
}

#[tokio::test]
async fn a_runner_keeps_the_nonce_of_the_row_that_gitea_has() {
    let (_folder, path) = place();
    let store = Store::open(&path).unwrap();
    for nonce in ["n1", "n2", "n3", "n4"] {
        store.insert_intent(intent(nonce, Scope::Instance)).await.unwrap();
    }
    let open = vec![Trace::Intent];
    assert_eq!(traces(&store, &["n1", "none"]).await, [open.clone(), vec![]]);

    let record = store.complete(new_runner("n1")).await.unwrap();
    let active = |id| Trace::Record { id, state: RecordState::Active };
    assert_eq!(traces(&store, &["n1", "n2"]).await, [vec![active(5)], open.clone()]);

    // Registered anew, it is another row.
    store.set_state(record.record_id, RecordState::Ended(Reason::Lease), None).await.unwrap();
    let ended = Trace::Record { id: 5, state: RecordState::Ended(Reason::Lease) };
    assert_eq!(traces(&store, &["n1"]).await, [vec![ended]]);
    let upstream = Credentials { id: 9, uuid: "again".into(), token: TOKEN.into() };
    let event = Event::now("runner", What::RunnerRevived);
    store.revive(record.record_id, "n2", upstream.clone(), event).await.unwrap();
    assert_eq!(traces(&store, &["n1", "n2"]).await, [vec![], vec![active(9)]]);

    // Handed on, it is the same row.
    store.set_state(record.record_id, RecordState::Parked(Reason::Runner), None).await.unwrap();
    let newcomer = NewRunner { taken_over: Some((record.record_id, upstream)), ..new_runner("n3") };
    store.complete(newcomer).await.unwrap();
    let ended = Trace::Record { id: 9, state: RecordState::Ended(Reason::Runner) };
    let expected = [vec![ended, active(9)], vec![], open];
    assert_eq!(traces(&store, &["n2", "n3", "n4"]).await, expected);
}
