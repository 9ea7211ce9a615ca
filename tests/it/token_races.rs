//! Everything happens to tokens at the same time, in an order that nobody planned: what they admit and
//! what is counted is right all the same.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant, SystemTime};

use runner_broker::broker::token::{Draft, Kind, Policy, State, Token};
use runner_broker::broker::{Event, What};
use runner_broker::config::Scope;
use runner_broker::lifecycle::Exchange;
use runner_broker::sandbox::gitea::{Answer, Effect, Route, StandInGitea, When};
use runner_broker::sandbox::runner::{RegisterOptions, Runner, StandInRunner};
use runner_broker::store::EventFilter;
use secrecy::{ExposeSecret, SecretString};

use crate::support::{Broker, Site, eventually, gitea, within};
use crate::tokens::{admin, register, token};

/// Schedules in one run.
const ROUNDS: u64 = 4;
/// So many do something at the same time.
const WORKERS: u64 = 8;
/// What each of them does at most.
const STEPS: usize = 60;
/// No schedule goes on for longer.
const LIMIT: Duration = Duration::from_secs(3);

/// Random numbers that a seed tells all of (SplitMix64).
struct Dice(u64);

impl Dice {
    fn throw(&mut self, sides: usize) -> usize {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut mixed = self.0;
        mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        usize::try_from((mixed ^ (mixed >> 31)) % sides as u64).unwrap()
    }

    fn pick<T: Clone>(&mut self, from: &[T]) -> Option<T> {
        (!from.is_empty()).then(|| from[self.throw(from.len())].clone())
    }

    fn coin(&mut self) -> bool {
        self.throw(2) == 0
    }
}

/// What the workers share.
#[derive(Default)]
struct Known {
    /// Ids and secrets that may work.
    secrets: Vec<(String, SecretString)>,
    /// Those that do not any more. Few ask by them: a wrong token slows its peer down.
    old: Vec<SecretString>,
    /// Single-use tokens that were never pinned, and reusable ones that were never unpinned.
    steady: BTreeSet<String>,
    runners: Vec<Runner>,
    /// Were there when their token was withdrawn together with them.
    doomed: BTreeSet<i64>,
}

struct Round {
    gitea: StandInGitea,
    broker: Broker,
    known: Mutex<Known>,
    seed: u64,
}

impl Round {
    fn known<T>(&self, work: impl FnOnce(&mut Known) -> T) -> T {
        work(&mut self.known.lock().unwrap())
    }

    async fn work(&self, worker: u64) {
        let mut dice = Dice(self.seed ^ (worker << 32));
        let begun = Instant::now();
        for step in 0..STEPS {
            self.step(&mut dice, &format!("r{worker}-{step}")).await;
            self.limits_hold();
            if begun.elapsed() > LIMIT {
                return;
            }
        }
    }

    async fn step(&self, dice: &mut Dice, name: &str) {
        let lifecycle = &self.broker.lifecycle;
        let by = admin();
        let one = self.known(|known| dice.pick(&known.secrets));
        let Some((id, secret)) = one else { return self.create(dice).await };
        // That it cannot be done any more is no fault of what is done.
        match dice.throw(24) {
            0..2 => self.create(dice).await,
            2 => drop(lifecycle.enable_token(&id, &by).await),
            3 => drop(lifecycle.disable_token(&id, false, &by).await),
            4 => {
                let doomed = self.came_by(&id);
                if lifecycle.disable_token(&id, true, &by).await.is_ok() {
                    self.known(|known| known.doomed.extend(doomed));
                }
                drop(lifecycle.enable_token(&id, &by).await);
            }
            5 => {
                self.known(|known| known.steady.remove(&id));
                drop(lifecycle.pin_token(&id, &by).await);
            }
            6 => {
                self.known(|known| known.steady.remove(&id));
                drop(lifecycle.unpin_token(&id, &by).await);
            }
            7 => self.rotate(dice, &id).await,
            8 => self.delete(dice, &id).await,
            9..12 => {
                let wish = Exchange { ephemeral_only: dice.throw(8) == 0, ..Exchange::default() };
                let peer = [127, 0, 0, 1].into();
                let presented = secret.expose_secret();
                if let Ok(child) = lifecycle.exchange_token(presented, wish, peer).await {
                    let id = child.token.token.id;
                    self.known(|known| {
                        known.steady.insert(id.clone());
                        known.secrets.push((id, child.secret));
                    });
                }
            }
            12..14 => self.fail(dice),
            14..16 => {
                let leaves = self.known(|known| match known.runners.len() {
                    0 => None,
                    count => Some(known.runners.swap_remove(dice.throw(count))),
                });
                if let Some(runner) = leaves {
                    drop(runner.deregister().await);
                }
            }
            _ => {
                let old = self.known(|known| dice.pick(&known.old));
                let secret = old.filter(|_| dice.throw(40) == 0).unwrap_or(secret);
                let options = RegisterOptions::new(secret, name);
                let program = StandInRunner::new(&self.broker.url);
                let asked = match dice.throw(6) {
                    // It hangs up, and asks again.
                    0 => {
                        let soon = tokio::time::sleep(Duration::from_millis(3));
                        drop(program.hang_up_during_register(&options, soon).await);
                        program.register(&options).await
                    }
                    _ => program.register(&options).await,
                };
                if let Ok(runner) = asked {
                    if dice.coin() {
                        drop(runner.declare(&["host"]).await);
                    }
                    self.known(|known| known.runners.push(runner));
                }
            }
        }
    }

    async fn create(&self, dice: &mut Dice) {
        let mut policy = Policy::of_scope(Scope::Instance);
        let limit =
            |dice: &mut Dice| dice.coin().then(|| u32::try_from(dice.throw(4) + 1).unwrap());
        (policy.max_uses, policy.max_runners) = (limit(dice), limit(dice));
        let kind = if dice.coin() { Kind::SingleUse } else { Kind::Reusable };
        let draft = Draft { kind, description: String::new(), policy };
        let issued = self.broker.lifecycle.create_token(draft, &admin()).await.unwrap();
        let id = issued.token.token.id;
        self.known(|known| {
            known.steady.insert(id.clone());
            known.secrets.push((id, issued.secret));
        });
    }

    async fn rotate(&self, dice: &mut Dice, id: &str) {
        let overlap = Duration::from_secs(if dice.coin() { 0 } else { 3600 });
        let rotated = self.broker.lifecycle.rotate_token(id, overlap, &admin()).await;
        let Ok(rotated) = rotated else { return };
        self.known(|known| {
            if overlap.is_zero() {
                known.retire(id);
            }
            known.secrets.push((id.to_owned(), rotated.secret));
        });
    }

    async fn delete(&self, dice: &mut Dice, id: &str) {
        let (cascade, doomed) = (dice.coin(), self.came_by(id));
        if self.broker.lifecycle.delete_token(id, cascade, &admin()).await.is_ok() {
            self.known(|known| {
                known.retire(id);
                known.doomed.extend(doomed.into_iter().filter(|_| cascade));
            });
        }
    }

    /// Gitea is slow, or an answer is lost, now and then.
    fn fail(&self, dice: &mut Dice) {
        let route = [Route::Register, Route::Register, Route::DeleteRunner, Route::Declare];
        let when = if dice.coin() { When::BeforeActing } else { When::AfterActing };
        let effect = match dice.throw(5) {
            0 => Effect::Reset,
            1 => Effect::Close,
            2 => Effect::Answer(Answer::html(hyper::StatusCode::BAD_GATEWAY)),
            _ => Effect::Delay(Duration::from_millis(dice.throw(60) as u64)),
        };
        self.gitea.faults().once(route[dice.throw(4)].clone(), when, effect);
    }

    /// The token and its ancestors.
    fn chain(&self, id: &str) -> Vec<Token> {
        let get = |id: &str| self.broker.lifecycle.enrollment.get(id).map(|now| now.token);
        std::iter::successors(get(id), |token| get(token.parent_id.as_deref()?)).collect()
    }

    /// The live runners that came by a token or its children.
    fn came_by(&self, id: &str) -> Vec<i64> {
        let all = self.broker.lifecycle.roster.all().into_iter();
        all.filter(|live| self.chain(&live.parent_id).iter().any(|token| token.id == id))
            .map(|live| live.id())
            .collect()
    }

    fn limits_hold(&self) {
        let steady = self.known(|known| known.steady.clone());
        for now in self.broker.lifecycle.enrollment.all() {
            let (token, seed) = (&now.token, self.seed);
            let within = |limit: Option<u32>, count: u64| limit.is_none_or(|it| count <= it.into());
            assert!(within(token.policy.max_runners, now.live_runners as u64), "{seed}: {now:?}");
            assert!(within(token.policy.max_uses, token.uses), "{seed}: {now:?}");
            let single = steady.contains(&token.id) && token.kind == Kind::SingleUse;
            assert!(!single || token.uses <= 1, "{seed}: {now:?}");
        }
    }

    /// What was begun has come to its end, here and in Gitea.
    async fn settled(&self) {
        self.gitea.faults().clear();
        let lifecycle = &self.broker.lifecycle;
        eventually("all is settled", async || {
            lifecycle.registering() == 0
                && lifecycle.unsettled() == 0
                // One that has ended leaves the roster a moment after that.
                && lifecycle.roster.all().iter().all(|live| !live.is_deregistering() && !live.is_resting())
        })
        .await;
    }
}

impl Known {
    fn retire(&mut self, id: &str) {
        let (gone, left) =
            std::mem::take(&mut self.secrets).into_iter().partition(|one| one.0 == id);
        self.secrets = left;
        let gone: Vec<(String, SecretString)> = gone;
        self.old.extend(gone.into_iter().map(|(_, secret)| secret));
    }
}

/// What a restart must not change: of each token its state, its uses and its live runners, and of each
/// runner its id and its token.
type Seen = (BTreeMap<String, (State, u64, usize)>, BTreeMap<i64, String>);

/// What memory says, after it was compared with the store, the events, Gitea and the files.
async fn seen(round: &Round, site: &Site) -> Seen {
    let (lifecycle, seed) = (&round.broker.lifecycle, round.seed);
    let all = lifecycle.enrollment.all();
    let runners: BTreeMap<_, _> =
        lifecycle.roster.all().iter().map(|live| (live.id(), live.parent_id.clone())).collect();
    let in_gitea: BTreeSet<_> = round.gitea.runners().iter().map(|runner| runner.id).collect();
    assert_eq!(runners.keys().copied().collect::<BTreeSet<_>>(), in_gitea, "{seed}: in Gitea");
    let records = lifecycle.store.runners().await.unwrap();
    let in_store: BTreeSet<_> = records.iter().map(|record| record.upstream.id).collect();
    assert_eq!(in_store, in_gitea, "{seed}: in the store");
    let with_file: BTreeSet<_> = std::fs::read_dir(site.path("runners"))
        .unwrap()
        .map(|folder| folder.unwrap())
        .filter(|folder| folder.path().join(".runner").exists())
        .map(|folder| folder.file_name().into_string().unwrap())
        .collect();
    let events_of = async |what| {
        let filter = EventFilter { what: Some(what), limit: usize::MAX, ..EventFilter::default() };
        lifecycle.events(filter).await.unwrap()
    };
    let registered = events_of(What::RunnerRegistered).await;
    let deregistered = events_of(What::RunnerDeregistered).await;
    let all_names: BTreeSet<_> = records.into_iter().map(|record| record.name).collect();
    assert!(with_file.is_subset(&all_names), "{seed}: files of none: {with_file:?} {all_names:?}");
    // Whoever asks again before the broker has seen it hang up is registered twice. One of the two owns the file of
    // their name, and takes it along when it leaves. Everyone else has one.
    for name in all_names.difference(&with_file) {
        let told = |events: &[Event]| {
            events.iter().filter(|one| one.runner.as_ref() == Some(name)).count()
        };
        let (came, left) = (told(&registered), told(&deregistered));
        assert_eq!((came, left), (2, 1), "{seed}: {name} has no runner file");
    }

    for (id, parent) in &runners {
        let chain = round.chain(parent);
        assert!(!chain.iter().any(Token::revokes), "{seed}: runner {id} lives: {chain:?}");
    }
    let mut told = BTreeMap::<String, u64>::new();
    let mut live = BTreeMap::<String, usize>::new();
    for event in registered {
        for token in round.chain(&event.token_id.unwrap()) {
            *told.entry(token.id).or_default() += 1;
        }
    }
    for parent in runners.values() {
        for token in round.chain(parent) {
            *live.entry(token.id).or_default() += 1;
        }
    }
    let stored = lifecycle.store.tokens().await.unwrap();
    let stored: BTreeMap<_, _> =
        stored.into_iter().map(|one| (one.token.id, one.token.uses)).collect();
    assert_eq!(stored.len(), all.len(), "{seed}");
    for now in &all {
        let id = &now.token.id;
        assert_eq!(now.token.uses, stored[id], "{seed}: uses in the store: {now:?}");
        let events = told.get(id).copied().unwrap_or_default();
        assert_eq!(now.token.uses, events, "{seed}: uses in the events: {now:?}");
        let alive = live.get(id).copied().unwrap_or_default();
        assert_eq!(now.live_runners, alive, "{seed}: live runners: {now:?}");
    }
    let tokens = all
        .into_iter()
        .map(|now| (now.token.id, (now.state, now.token.uses, now.live_runners)))
        .collect();
    (tokens, runners)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn whatever_happens_at_once_the_tokens_hold() {
    let given = std::env::var("TOKEN_RACES_SEED").ok().map(|seed| seed.parse().unwrap());
    let now = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap();
    let first: u64 = given.unwrap_or(now.as_secs());
    for seed in (0..ROUNDS).map(|round| first.wrapping_add(round)) {
        println!("TOKEN_RACES_SEED={seed}");
        let gitea = gitea();
        let site = Site::new(&gitea).set("shutdown.deregister", "none");
        let broker = Broker::start(&site).await;
        let round = Arc::new(Round { gitea, broker, known: Mutex::default(), seed });
        let workers: Vec<_> = (0..WORKERS)
            .map(|worker| {
                let round = Arc::clone(&round);
                tokio::spawn(async move { round.work(worker).await })
            })
            .collect();
        for worker in workers {
            worker.await.unwrap();
        }
        round.settled().await;
        let before = seen(&round, &site).await;
        round.limits_hold();
        let survived: Vec<_> =
            before.1.keys().filter(|id| round.known(|known| known.doomed.contains(id))).collect();
        assert!(survived.is_empty(), "{seed}: withdrawn, and alive: {survived:?}");

        let Round { gitea, broker, known, seed } = Arc::into_inner(round).unwrap();
        broker.stop().await;
        let broker = Broker::start(&site).await;
        let round = Round { gitea, broker, known, seed };
        round.settled().await;
        assert_eq!(seen(&round, &site).await, before, "{seed}: a restart changes nothing");
        round.broker.stop().await;
    }
}

/// Withdrawn while Gitea was asked, a runner may be gone before its file is written.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn no_file_is_left_of_a_runner_that_was_withdrawn_as_it_came() {
    let gitea = gitea();
    let site = Site::new(&gitea);
    let broker = Broker::start(&site).await;
    for name in (0..20).map(|number| format!("late-{number}")) {
        let token = token(&broker, |_| {}).await;
        let gate = gitea.faults().gate(Route::Register, When::AfterActing);
        let cascade = async {
            within(gate.reached()).await;
            let id = &token.token.token.id;
            broker.lifecycle.disable_token(id, true, &admin()).await.unwrap();
            gate.open();
        };
        let (late, ()) = tokio::join!(register(&broker, &token, &name), cascade);
        late.unwrap();
        eventually("it is gone", async || broker.lifecycle.roster.all().is_empty()).await;
        assert!(gitea.runners().is_empty());
        assert!(!site.runner_file(&name).exists(), "{name}");
    }
    broker.stop().await;
}
