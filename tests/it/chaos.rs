//! Random trouble: Gitea's answers are lost, late, doubled and wrong, Gitea goes down and comes back, runners come,
//! work, leave and are killed, and the broker is restarted and killed. When all that is over, the runners in Gitea,
//! the store and the files agree.
//!
//! The choices come from a seed, which a failure names; the timing is the system's own. To try one again, set
//! `RUNNER_BROKER_CHAOS_SEED`.

use std::collections::BTreeSet;
use std::time::{Duration, Instant};

use runner_broker::broker::{RecordId, RecordState};
use runner_broker::lifecycle::Timing;
use runner_broker::sandbox::gitea::{Answer, Effect, Route, StandInGitea, When};
use runner_broker::sandbox::runner::{RegisterOptions, Runner, StandInRunner};
use rustix::process::Signal as Unix;
use secrecy::ExposeSecret;
use tokio::task::{JoinSet, spawn_blocking};
use tokio::time::{sleep, timeout};
use tokio_util::sync::CancellationToken;

use crate::binary::Binary;
use crate::support::{Broker, ENROLLMENT_TOKEN, PATIENCE, Site, gitea, quick, runner_file, within};

const SEEDS: [u64; 3] = [1, 4_711, 20_260_401];
const AGENTS: u64 = 6;
const PHASES: u64 = 4;
/// How long each broker lives.
const PHASE: Duration = Duration::from_millis(700);
/// No runner waits longer for an answer.
const A_CALL: Duration = Duration::from_millis(400);
/// Where the built binary can die.
const POINTS: [&str; 8] = [
    "register-begun",
    "intent-stored",
    "gitea-answered",
    "credentials-stored",
    "file-written",
    "revival-begun",
    "revival-stored",
    "revival-declared",
];

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn when_all_trouble_is_over_gitea_the_store_and_the_files_agree() {
    let seeds = match std::env::var("RUNNER_BROKER_CHAOS_SEED") {
        Ok(seed) => vec![seed.parse().expect("RUNNER_BROKER_CHAOS_SEED is a number")],
        Err(_) => {
            let now = std::time::UNIX_EPOCH.elapsed().unwrap();
            SEEDS.into_iter().chain([now.as_nanos() as u64]).collect()
        }
    };
    let mut running = JoinSet::new();
    for (number, seed) in (1..).zip(seeds) {
        // Each has an address of its own, at which broker follows upon broker.
        let address = format!("127.0.13.{number}");
        running.spawn(async move { (seed, tokio::spawn(chaos(Dice(seed), address)).await) });
    }
    while let Some(ended) = running.join_next().await {
        let (seed, ended) = ended.unwrap();
        assert!(ended.is_ok(), "RUNNER_BROKER_CHAOS_SEED={seed} fails, for the reason above");
    }
}

async fn chaos(mut dice: Dice, address: String) {
    let gitea = gitea();
    let site = Site::new(&gitea)
        .set("listen.runners", &format!("{address}:0"))
        .set("lease.expire_after", dice.one_of(&["never", "1s"]))
        .set("shutdown.deregister", dice.one_of(&["none", "gone", "all"]))
        .set("shutdown.drain_timeout", "100ms")
        .set("shutdown.deadline", "2s");
    let broker = Broker::start(&site).await;
    let url = broker.url.clone();
    broker.stop().await;
    let place = url.trim_start_matches("http://");
    let site = site.set("listen.runners", place);

    let over = CancellationToken::new();
    let mut agents = JoinSet::new();
    for number in 0..AGENTS {
        let agent = Agent::new(number, &url, dice.fork());
        agents.spawn(agent.live(over.clone()));
    }
    let trouble = tokio::spawn(trouble(gitea.clone(), dice.fork(), over.clone()));
    for _ in 0..PHASES {
        a_broker_lives(&site, place, &mut dice).await;
    }
    over.cancel();
    trouble.await.unwrap();
    let agents = agents.join_all().await;

    is_free(place).await;
    let broker = Broker::start_with(&site, last_timing()).await;
    agree(&gitea, &site, &broker).await;
    let mut held = BTreeSet::new();
    for agent in agents {
        let Some(runner) = &agent.runner else { continue };
        let uuid = runner.credentials.uuid.clone();
        if agent.is_known(&gitea, &broker).await {
            assert!(held.insert(uuid), "{}'s identity is another's too", agent.name);
        }
    }
    agree(&gitea, &site, &broker).await;
    broker.stop().await;
}

/// Short, so that the end is reached soon.
fn last_timing() -> Timing {
    Timing {
        register: Duration::from_secs(2),
        sweep: Duration::from_millis(100),
        lost: Duration::from_millis(300),
        ..quick()
    }
}

async fn a_broker_lives(site: &Site, place: &str, dice: &mut Dice) {
    is_free(place).await;
    let end = dice.roll(5);
    if end == 0 {
        let timing = Timing { register: Duration::from_millis(300), ..last_timing() };
        let broker = Broker::start_with(site, timing).await;
        sleep(PHASE).await;
        broker.stop().await;
        return;
    }
    let environment = match end {
        1 => vec![("RUNNER_BROKER_FAULT_POINT", dice.one_of(&POINTS))],
        _ => vec![],
    };
    // It blocks until it listens.
    let mut binary = tokio::task::block_in_place(|| Binary::start_with(site, &environment));
    sleep(PHASE + Duration::from_millis(dice.roll(100))).await;
    let signal = match end {
        2 => Unix::TERM,
        3 => Unix::QUIT,
        _ => Unix::KILL,
    };
    spawn_blocking(move || {
        // One that died at its point cannot be killed again.
        if end == 1 {
            drop(binary);
        } else {
            binary.kill(signal);
            binary.ended();
        }
    })
    .await
    .unwrap();
}

/// A process that is about to start has the sockets of this one, for a moment.
async fn is_free(place: &str) {
    let free = async {
        while std::net::TcpListener::bind(place).is_err() {
            sleep(Duration::from_millis(5)).await;
        }
    };
    within(free).await;
}

/// What goes wrong in Gitea and on the way there.
async fn trouble(gitea: StandInGitea, mut dice: Dice, over: CancellationToken) {
    while !over.is_cancelled() {
        let route = dice.one_of(&[
            Route::Any,
            Route::Register,
            Route::Register,
            Route::Declare,
            Route::FetchTask,
            Route::UpdateTask,
            Route::ListRunners,
            Route::GetRunner,
            Route::DeleteRunner,
        ]);
        let when = dice.one_of(&[When::BeforeActing, When::AfterActing]);
        let status = |code: u16| hyper::StatusCode::from_u16(code).unwrap();
        let (when, effect) = match dice.roll(10) {
            0 | 1 => (when, Effect::Delay(Duration::from_millis(dice.roll(150)))),
            2 => (when, Effect::Reset),
            3 => (when, Effect::Close),
            4 => (when, Effect::Stall),
            5 => (when, Effect::Answer(Answer::html(status(502)))),
            6 => {
                let mut busy = Answer::html(status(429));
                busy.headers.push(("Retry-After", "1".into()));
                // Whoever answers this did not act.
                (When::BeforeActing, Effect::Answer(busy))
            }
            // Not where the answer is passed on: nobody reads that it is none.
            7 if matches!(route, Route::Register | Route::ListRunners | Route::DeleteRunner) => {
                (when, Effect::Answer(Answer::garbage("application/proto")))
            }
            _ => (when, Effect::Doubled),
        };
        gitea.faults().times(1 + dice.roll(2) as usize, route, when, effect);
        if dice.roll(3) == 0 {
            gitea.queue_task(&["host"]);
        }
        if dice.roll(25) == 0 {
            // It is down all the same where its port is not free yet.
            let _ = gitea.set_down().await;
            sleep(Duration::from_millis(dice.roll(150))).await;
            let back = async {
                while gitea.set_up().await.is_err() {
                    sleep(Duration::from_millis(5)).await;
                }
            };
            within(back).await;
        }
        sleep(Duration::from_millis(10 + dice.roll(60))).await;
    }
    gitea.faults().clear();
}

/// Somebody who runs a runner.
struct Agent {
    name: String,
    program: StandInRunner,
    dice: Dice,
    runner: Option<Runner>,
    /// It asked to be deregistered, and does not know what came of it.
    leaving: bool,
    lives: u64,
}

impl Agent {
    fn new(number: u64, url: &str, dice: Dice) -> Self {
        Self {
            name: format!("agent-{number}"),
            program: StandInRunner::new(url),
            dice,
            runner: None,
            leaving: false,
            lives: 0,
        }
    }

    async fn live(mut self, over: CancellationToken) -> Self {
        while !over.is_cancelled() {
            // Whoever waits in vain hangs up.
            let _ = timeout(A_CALL, self.step()).await;
            sleep(Duration::from_millis(self.dice.roll(40))).await;
        }
        self
    }

    async fn step(&mut self) {
        let Some(runner) = self.runner.clone() else {
            let options = RegisterOptions::new(ENROLLMENT_TOKEN.into(), &self.name);
            if let Ok(runner) = self.program.register(&options).await {
                self.runner = Some(runner);
                self.leaving = false;
            }
            return;
        };
        match self.dice.roll(24) {
            0 | 1 => {
                self.leaving = true;
                if runner.deregister().await.is_ok() {
                    self.runner = None;
                }
            }
            // Killed, and its file is gone.
            2 => {
                self.runner = None;
                self.lives += 1;
                if self.lives.is_multiple_of(2) {
                    self.name.push('x');
                }
            }
            // Killed, and started again.
            3 => self.runner = Some(runner.moved_to(runner.address())),
            4..8 => drop(runner.declare(&["host"]).await),
            _ => match runner.fetch_task(0).await {
                Ok((Some(task), _)) => drop(runner.run_task(&task).await),
                Ok((None, _)) => {}
                Err(error) if error.code == "unauthenticated" && self.leaving => self.runner = None,
                Err(error) => assert_ne!(error.code, "unauthenticated", "{}: {error}", self.name),
            },
        }
    }

    /// Whether its runner goes on. One that did not ask to leave does, whatever happened.
    async fn is_known(&self, gitea: &StandInGitea, broker: &Broker) -> bool {
        let runner = self.runner.as_ref().unwrap();
        let until = Instant::now() + PATIENCE;
        loop {
            let error = match runner.declare(&["host"]).await {
                Ok(_) => return true,
                Err(error) if error.code == "unauthenticated" && self.leaving => return false,
                Err(error) => error,
            };
            let known = || seen(gitea, broker);
            assert_ne!(error.code, "unauthenticated", "{}: {error}\n{}", self.name, known());
            assert!(Instant::now() < until, "{}: {error}\n{}", self.name, known());
            sleep(Duration::from_millis(20)).await;
        }
    }
}

/// Waits until they agree.
pub(crate) async fn agree(gitea: &StandInGitea, site: &Site, broker: &Broker) {
    let until = Instant::now() + PATIENCE;
    while let Some(disagreement) = disagreement(gitea, site, broker).await {
        assert!(Instant::now() < until, "{disagreement}\n{}", seen(gitea, broker));
        sleep(Duration::from_millis(20)).await;
    }
}

pub(crate) async fn disagreement(
    gitea: &StandInGitea,
    site: &Site,
    broker: &Broker,
) -> Option<String> {
    let lifecycle = &broker.lifecycle;
    let records = lifecycle.store.runners().await.unwrap();
    let open = lifecycle.store.intents().await.unwrap().len();
    if lifecycle.unsettled() > 0 || open > 0 {
        return Some(format!("{open} registrations are unsettled"));
    }
    let rests = |state| matches!(state, RecordState::Parked(_)) && !site.has_api_token();
    if let Some(record) =
        records.iter().find(|one| one.state != RecordState::Active && !rests(one.state))
    {
        return Some(format!("{} is {:?}", record.name, record.state));
    }
    let known: BTreeSet<_> = records.iter().map(|one| one.upstream.id).collect();
    let presented: BTreeSet<_> = records.iter().map(|one| &one.presented.uuid).collect();
    let upstream: BTreeSet<_> = records.iter().map(|one| &one.upstream.uuid).collect();
    if [known.len(), presented.len(), upstream.len()] != [records.len(); 3] {
        return Some("two records have one identity".into());
    }
    let strays: BTreeSet<_> = lifecycle.strays().into_iter().map(|stray| stray.id).collect();
    let in_gitea: BTreeSet<_> = gitea.runners().iter().map(|one| one.id).collect();
    if in_gitea != known.union(&strays).copied().collect() || !known.is_disjoint(&strays) {
        return Some(format!("Gitea has {in_gitea:?}, the store {known:?}, strays are {strays:?}"));
    }
    for record in &records {
        let row = gitea.runner(record.upstream.id)?;
        if row.uuid != record.upstream.uuid {
            return Some(format!("{} is another in Gitea", record.name));
        }
    }
    let ids = |ids: Vec<RecordId>| ids.into_iter().collect::<BTreeSet<_>>();
    let live = ids(lifecycle.roster.all().iter().map(|live| live.record_id).collect());
    if live != ids(records.iter().map(|one| one.record_id).collect()) {
        return Some("memory and store have not the same records".into());
    }
    let files: BTreeSet<_> = std::fs::read_dir(site.path("runners"))
        .unwrap()
        .map(|folder| folder.unwrap().path().join(".runner"))
        .filter(|file| file.exists())
        .collect();
    let named: BTreeSet<_> = records.iter().filter_map(|one| one.file.clone()).collect();
    if files != named {
        return Some(format!("files: {files:?}, in the store: {named:?}"));
    }
    for record in records.iter().filter(|one| one.file.is_some()) {
        let file = runner_file(record.file.as_ref().unwrap());
        let presented = [&record.presented.uuid, record.presented.token.expose_secret()];
        if presented != [&file["uuid"], &file["token"]].map(|value| value.as_str().unwrap()) {
            return Some(format!("{}'s file holds other credentials", record.name));
        }
    }
    None
}

/// What is where, for a failure.
pub(crate) fn seen(gitea: &StandInGitea, broker: &Broker) -> String {
    let rows = gitea.runners();
    let rows = rows.iter().map(|one| format!("  {} {} {:?}", one.id, one.name, one.labels));
    let live = broker.lifecycle.roster.all();
    let live = live.iter().map(|live| format!("  {} {:?}", live.id(), live.record()));
    let [rows, live] = [rows.collect::<Vec<_>>(), live.collect()].map(|lines| lines.join("\n"));
    format!("Gitea:\n{rows}\nbroker:\n{live}\nstrays: {:?}", broker.lifecycle.strays())
}

/// Numbers that a seed determines (SplitMix64).
pub(crate) struct Dice(pub(crate) u64);

impl Dice {
    /// Below `sides`.
    pub(crate) fn roll(&mut self, sides: u64) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mixed = (self.0 ^ (self.0 >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        let mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        (mixed ^ (mixed >> 31)) % sides
    }

    pub(crate) fn one_of<T: Clone>(&mut self, these: &[T]) -> T {
        these[self.roll(these.len() as u64) as usize].clone()
    }

    pub(crate) fn fork(&mut self) -> Self {
        Self(self.roll(u64::MAX))
    }
}
