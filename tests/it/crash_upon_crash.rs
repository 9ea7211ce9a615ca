//! Crash upon crash: the built binary is killed (kill -9) at a step of a registration, a deregistration, a
//! revival or its own end, and the next broker goes on with its store. After each, Gitea, the store and the
//! files agree, and every runner that was answered and did not leave goes on.
//!
//! The choices come from seeds; the timing is the system's own. `RUNNER_BROKER_CRASHES` says how many
//! crashes there are to be.

use std::collections::{BTreeMap, BTreeSet};
use std::os::unix::process::ExitStatusExt;
use std::path::Path;
use std::time::{Duration, Instant};

use runner_broker::sandbox::gitea::StandInGitea;
use runner_broker::sandbox::runner::{RegisterOptions, Runner, StandInRunner};
use rustix::process::Signal as Unix;
use tokio::task::{JoinSet, block_in_place};
use tokio::time::{sleep, timeout};

use crate::binary::Binary;
use crate::chaos::{Dice, agree, seen};
use crate::register::join;
use crate::support::{Broker, ENROLLMENT_TOKEN, PATIENCE, Site, gitea};

/// Crashes of each site's store, one after the other.
const CRASHES_A_SITE: u64 = 10;
/// No more runners than these at a time.
const RUNNERS: usize = 4;

/// What is done when the broker dies.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Work {
    /// A runner registers.
    Register,
    /// A runner asks to be deregistered.
    Leave,
    /// The broker is told to end, and to deregister all.
    End,
    /// A runner that the broker deregistered speaks again.
    Return,
}

/// With an API token.
const STEPS: &[(Work, &str)] = &[
    (Work::Register, "request-begun"),
    (Work::Register, "register-begun"),
    (Work::Register, "intent-stored"),
    (Work::Register, "gitea-answered"),
    (Work::Register, "credentials-stored"),
    (Work::Register, "file-filled"),
    (Work::Register, "file-replaced"),
    (Work::Register, "file-written"),
    (Work::Leave, "deregistering-stored"),
    (Work::Leave, "runner-deleted"),
    (Work::Leave, "end-stored"),
    (Work::Leave, "file-gone"),
    (Work::End, "drain-begun"),
    (Work::End, "deregistering-stored"),
    (Work::End, "deregistering-stored:2"),
    (Work::End, "runner-deleted"),
    (Work::End, "end-stored"),
    (Work::End, "file-gone"),
    (Work::End, "file-gone:2"),
    (Work::End, "drain-over"),
    (Work::End, "connections-closed"),
    (Work::End, "flushed"),
    (Work::End, "store-closed"),
    (Work::Return, "revival-begun"),
    (Work::Return, "intent-stored"),
    (Work::Return, "gitea-answered"),
    (Work::Return, "revival-stored"),
    (Work::Return, "revival-written"),
    (Work::Return, "revival-declared"),
];

/// Without one, orphans cannot be told, so nothing dies between Gitea's answer and the store.
const STEPS_OF_PARKING: &[(Work, &str)] = &[
    (Work::Register, "register-begun"),
    (Work::Register, "credentials-stored"),
    (Work::Register, "file-filled"),
    (Work::Register, "file-replaced"),
    (Work::Register, "file-written"),
    (Work::Register, "hand-on-proved"),
    (Work::Leave, "park-stored"),
    (Work::Leave, "file-gone"),
    (Work::End, "drain-begun"),
    (Work::End, "drain-over"),
    (Work::End, "connections-closed"),
    (Work::End, "flushed"),
    (Work::End, "store-closed"),
];

/// Points at which a broker dies or panics in a test of their own.
const ELSEWHERE: &[(&str, &str)] = &[
    ("token-deleted", include_str!("crash.rs")),
    ("admin-asked", include_str!("faults.rs")),
    ("runner-declared", include_str!("declared_runners.rs")),
];

/// All names of points in the source.
fn points(folder: &Path, found: &mut BTreeSet<String>) {
    for entry in std::fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            points(&path, found);
        } else if path.extension().is_some_and(|ending| ending == "rs") {
            let text = std::fs::read_to_string(path).unwrap();
            let names = text.split("fault::point(\"").skip(1);
            found.extend(names.map(|rest| rest.split('"').next().unwrap().to_owned()));
        }
    }
}

/// In each test, a broker that does not pass its point fails it.
#[test]
fn at_every_point_a_broker_is_killed() {
    let mut found = BTreeSet::new();
    points(&Path::new(env!("CARGO_MANIFEST_DIR")).join("src"), &mut found);
    let steps = [STEPS, STEPS_OF_PARKING].concat();
    let mut killed: BTreeSet<_> =
        steps.iter().map(|(_, step)| step.split(':').next().unwrap().to_owned()).collect();
    for (point, test) in ELSEWHERE {
        assert!(test.contains(&format!("\"{point}\"")), "{point}");
        killed.insert((*point).to_owned());
    }
    assert_eq!(found, killed);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn however_often_a_broker_is_killed_nothing_is_lost() {
    let asked = std::env::var("RUNNER_BROKER_CRASHES");
    let wanted: u64 = asked.map_or(80, |text| text.parse().expect("a number of crashes"));
    let mut seeds = 0..wanted.div_ceil(CRASHES_A_SITE);
    let mut running = JoinSet::new();
    let mut survived = BTreeMap::new();
    loop {
        // Each takes two processors' time at most.
        while running.len() < 4
            && let Some(seed) = seeds.next()
        {
            running.spawn(async move { (seed, tokio::spawn(Scene::crashes(seed)).await) });
        }
        let Some(ended) = running.join_next().await else { break };
        let (seed, ended) = ended.unwrap();
        let crashes = ended.unwrap_or_else(|error| panic!("seed {seed} fails: {error}"));
        for crash in crashes {
            *survived.entry(crash).or_insert(0_u64) += 1;
        }
    }
    for ((work, step), count) in &survived {
        println!("{count:>5} crashes: {work:?} {step}");
    }
    let survived_in_all: u64 = survived.values().sum();
    assert!(survived_in_all >= wanted);
    for step in [STEPS, STEPS_OF_PARKING].concat() {
        assert!(wanted < 80 || survived.contains_key(&step), "{step:?} came in no turn");
    }
    println!("{survived_in_all} crashes survived, and nothing was lost");
}

/// A Gitea, a broker's store, and those who run runners.
struct Scene {
    gitea: StandInGitea,
    site: Site,
    dice: Dice,
    runners: Vec<Runner>,
    /// Names of those that asked to leave and got no answer.
    left: Vec<String>,
    /// Each runner has a name of its own.
    made: u64,
}

impl Scene {
    async fn crashes(seed: u64) -> Vec<(Work, &'static str)> {
        let gitea = gitea();
        let site = Site::new(&gitea)
            .set("lease.expire_after", "never")
            .set("shutdown.drain_timeout", "0s")
            .set("shutdown.deadline", "3s");
        let parks = seed % 4 == 3;
        let site = if parks { site.api_token(None) } else { site };
        let mut scene =
            Self { gitea, site, dice: Dice(seed), runners: vec![], left: vec![], made: 0 };
        let steps = if parks { STEPS_OF_PARKING } else { STEPS };
        // Where the sites of its kind before this one have ended.
        let done = match parks {
            true => seed / 4 * CRASHES_A_SITE,
            false => (seed - seed / 4) * (CRASHES_A_SITE - CRASHES_A_SITE / 5),
        };
        let mut in_turn = steps.iter().cycle().skip(done as usize % steps.len());
        let mut survived = Vec::new();
        for number in 0..CRASHES_A_SITE {
            // In turn, so that each comes often enough; now and then at no chosen step.
            let by_chance = !parks && number % 5 == 4;
            let (work, step) = match by_chance {
                true => scene.dice.one_of(steps),
                false => *in_turn.next().expect("it has no end"),
            };
            scene.prepare(work, step).await;
            let asks_again = scene.crash(work, (!by_chance).then_some(step)).await;
            scene.goes_on(asks_again).await;
            survived.push(if by_chance { (work, "at any moment") } else { (work, step) });
        }
        survived
    }

    /// A broker that lives to its end, and leaves what the crash needs.
    async fn prepare(&mut self, work: Work, step: &str) {
        let broker = self.broker("none").await;
        let parks = !self.site.has_api_token();
        let free = || broker.lifecycle.roster.all().iter().filter(|live| live.is_resting()).count();
        // A newcomer would take a free place, and pass other steps.
        let fills = parks && work == Work::Register && step != "hand-on-proved";
        while self.runners.len() < 2 || (fills && free() > 0) {
            self.made += 1;
            let runner = join(&broker, &format!("runner-{}", self.made)).await.unwrap();
            runner.declare(&["host"]).await.unwrap();
            self.runners.push(runner);
        }
        let surplus = match (work, step) {
            // A place that another left.
            (Work::Register, "hand-on-proved") => self.runners.len() - 1,
            _ if parks => usize::MAX,
            (Work::Register, _) => RUNNERS - 1,
            _ => RUNNERS,
        };
        while self.runners.len() > surplus {
            let runner = self.runners.remove(0).moved_to(&broker.url);
            runner.deregister().await.unwrap();
        }
        broker.stop().await;
        if work == Work::Return {
            self.broker("all").await.stop().await;
            assert_eq!(self.gitea.runners().len(), 0);
        }
    }

    /// Lets a broker die. Returns the name of who registered and got no answer.
    async fn crash(&mut self, work: Work, step: Option<&str>) -> Option<String> {
        self.policy(if work == Work::End { "all" } else { "none" });
        let environment: Vec<_> =
            step.map(|step| ("RUNNER_BROKER_FAULT_POINT", step)).into_iter().collect();
        let mut binary = block_in_place(|| Binary::start_with(&self.site, &environment));
        let mut name = None;
        let mut working = JoinSet::new();
        match work {
            Work::Register => {
                self.made += 1;
                let new = format!("runner-{}", self.made);
                let options = RegisterOptions::new(ENROLLMENT_TOKEN.into(), &new);
                let program = StandInRunner::new(&binary.url);
                working.spawn(async move { program.register(&options).await.ok() });
                name = Some(new);
            }
            Work::Leave => {
                let runner = self.runners.remove(0).moved_to(&binary.url);
                self.left.push(runner.name.clone());
                working.spawn(async move { runner.deregister().await.ok().map(|_| runner) });
            }
            Work::End => binary.kill(Unix::TERM),
            Work::Return => {
                let runner = self.runners[0].moved_to(&binary.url);
                working.spawn(async move { runner.fetch_task(0).await.ok().map(|_| runner) });
            }
        }
        if step.is_none() {
            sleep(Duration::from_millis(self.dice.roll(40))).await;
            binary.kill(Unix::KILL);
        }
        let answered = timeout(PATIENCE, working.join_all()).await.expect("the call ends");
        let status = block_in_place(|| binary.ended());
        let log = || binary.log_text();
        match step {
            Some(step) => {
                assert_eq!(status.signal(), Some(9), "{work:?} passes {step}:\n{}", log());
                // What was answered before is no crash on the way to the answer.
                assert!(answered.iter().all(Option::is_none), "{work:?} {step}:\n{}", log());
            }
            None => assert!(status.success() || status.signal() == Some(9), "{}", log()),
        }
        match answered.into_iter().flatten().next() {
            Some(runner) if work == Work::Register => {
                self.runners.push(runner);
                None
            }
            _ => name,
        }
    }

    /// The next broker settles what was left, and everyone goes on.
    async fn goes_on(&mut self, asks_again: Option<String>) {
        let broker = self.broker("none").await;
        agree(&self.gitea, &self.site, &broker).await;
        if let Some(name) = asks_again {
            self.runners.push(join(&broker, &name).await.unwrap());
        }
        for runner in &self.runners {
            self.is_known(runner, &broker).await;
        }
        agree(&self.gitea, &self.site, &broker).await;
        for live in broker.lifecycle.roster.all().iter().filter(|live| !live.is_resting()) {
            let record = live.record();
            let known = || seen(&self.gitea, &broker);
            assert!(record.file.is_some(), "{} has no file\n{}", record.name, known());
            let held = self.runners.iter().any(|runner| runner.name == record.name);
            assert!(held || self.left.contains(&record.name), "{}\n{}", record.name, known());
        }
        // No crash leaves a half of a file beside it.
        for folder in std::fs::read_dir(self.site.path("runners")).unwrap() {
            for file in std::fs::read_dir(folder.unwrap().path()).unwrap() {
                assert_eq!(file.unwrap().file_name(), ".runner");
            }
        }
        broker.stop().await;
    }

    async fn is_known(&self, runner: &Runner, broker: &Broker) {
        let runner = runner.moved_to(&broker.url);
        let until = Instant::now() + PATIENCE;
        while let Err(error) = runner.declare(&["host"]).await {
            let is_in_doubt = error.code == "unavailable" && Instant::now() < until;
            assert!(is_in_doubt, "{}: {error}\n{}", runner.name, seen(&self.gitea, broker));
            sleep(Duration::from_millis(20)).await;
        }
    }

    async fn broker(&mut self, deregister: &str) -> Broker {
        self.policy(deregister);
        Broker::start(&self.site).await
    }

    fn policy(&mut self, deregister: &str) {
        self.site.extra.retain(|(key, _)| key != "shutdown.deregister");
        self.site.extra.push(("shutdown.deregister".into(), deregister.into()));
    }
}
