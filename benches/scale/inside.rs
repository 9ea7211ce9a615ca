//! What cannot be asked from outside: a broker in this process, on a runtime of one thread as the real one.

use std::path::Path;
use std::time::{Duration, SystemTime};

use bytes::Bytes;
use runner_broker::app::App;
use runner_broker::broker::{Credentials, Event, Intent, Key, Origin, Reason, RecordState, What};
use runner_broker::config::{self, Scope};
use runner_broker::connect::Codec;
use runner_broker::lifecycle::Timing;
use runner_broker::store::{NewRunner, Store};

use crate::broker::Site;
use crate::kit::usage;
use crate::population::token_id;

/// CPU time of each.
pub(crate) struct Inside {
    /// One look at all leases, none of which is over.
    pub(crate) sweep: Duration,
    /// The gauges of one scrape.
    pub(crate) measure: Duration,
    /// What the store does for a Register, from the intent to the record.
    pub(crate) register: Duration,
    /// What it does for a Deregister.
    pub(crate) deregister: Duration,
    /// What it does to forget events and tokens of long ago, where there are none.
    pub(crate) prune: Duration,
}

const TIMES: u32 = 15;

/// Measures with a store that no other broker has.
pub(crate) fn measure(site: &Site) -> Inside {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    let (sweep, measure) = runtime.block_on(looks(site));
    drop(runtime);
    let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
    let (register, deregister, prune) = runtime.block_on(writes(site));
    Inside { sweep, measure, register, deregister, prune }
}

async fn looks(site: &Site) -> (Duration, Duration) {
    let environment = site.environment().into_iter();
    let sources = config::Sources {
        file: None,
        default_file: None,
        environment: environment.map(|(name, value)| (name.into(), value.into())).collect(),
        flags: vec![],
    };
    let settings = config::load(&sources).unwrap_or_else(|problems| panic!("{problems}")).settings;
    let app = App::start(settings, Box::new(|| Err(String::new())), Timing::default()).await;
    let app = app.unwrap_or_else(|error| panic!("{error}"));
    let lifecycle = &app.lifecycle;
    let pause = || tokio::time::sleep(Duration::from_millis(100));
    // What the start has left to do.
    pause().await;
    let idle = times(async || pause().await).await;
    let sweep = times(async || {
        lifecycle.look_at_leases();
        pause().await;
    });
    let sweep = sweep.await;
    let scrape = times(async || {
        lifecycle.measure().await;
        pause().await;
    });
    let scrape = scrape.await;
    lifecycle.store.close().await.unwrap();
    (sweep.saturating_sub(idle), scrape.saturating_sub(idle))
}

/// What is in the middle of some runs.
async fn times(mut what: impl AsyncFnMut()) -> Duration {
    // Of this thread.
    let cpu = || usage::cpu_of_thread(Path::new("/proc/thread-self"));
    let mut all = Vec::new();
    for _ in 0..TIMES {
        let before = cpu();
        what().await;
        all.push(cpu() - before);
    }
    all.sort_unstable();
    all[all.len() / 2]
}

async fn writes(site: &Site) -> (Duration, Duration, Duration) {
    const RUNNERS: u32 = 300;
    let store = Store::open(&site.store()).unwrap();
    let cpu = || usage::cpu_of_threads(std::process::id(), "store");
    let mut ids = Vec::new();
    let before = cpu();
    for number in 0..RUNNERS {
        let new = newcomer(number);
        store.insert_intent(new.intent.clone()).await.unwrap();
        ids.push(store.complete(new).await.unwrap().record_id);
    }
    let registered = cpu();
    for id in ids {
        let event = Event::now("runner", What::RunnerDeregistered);
        let state = RecordState::Ended(Reason::Runner);
        store.set_state(id, state, Some(event)).await.unwrap();
    }
    let deregistered = cpu();
    for _ in 0..TIMES {
        store.prune_events(SystemTime::UNIX_EPOCH).await.unwrap();
        store.prune_tokens(store.lived_until()).await.unwrap();
    }
    let pruned = cpu();
    store.close().await.unwrap();
    (
        (registered - before) / RUNNERS,
        (deregistered - registered) / RUNNERS,
        (pruned - deregistered) / TIMES,
    )
}

fn newcomer(number: u32) -> NewRunner {
    let (now, name) = (SystemTime::now(), format!("newcomer-{number}"));
    let labels = vec!["ubuntu-latest".to_owned()];
    let uuid = format!("{number:08x}-ffff-4fff-8fff-ffffffffffff");
    let credentials = Credentials { id: 1 << 40, uuid, token: format!("{number:040x}").into() };
    NewRunner {
        intent: Intent {
            nonce: format!("{number:032x}"),
            scope: Scope::Instance,
            key: Key {
                parent_id: token_id(0),
                name: name.clone(),
                labels: labels.clone(),
                ephemeral: false,
                peer: [127, 0, 0, 1].into(),
                codec: Codec::Proto,
            },
            version: "v0.2.13".into(),
            created_at: now,
        },
        credentials,
        taken_over: None,
        origin: Origin::Enrolled,
        declare_due: false,
        name,
        labels,
        version: "v0.2.13".into(),
        answer: Bytes::from_static(&[0; 160]),
        registered_at: now,
        dialled: None,
        token_ids: vec![token_id(0)],
        event: Event::now("runner", What::RunnerRegistered),
    }
}
