//! What may befall a Gitea: what runners are told meanwhile, what becomes of records and files, and that all
//! goes on by itself afterwards.

use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant, SystemTime};

use hyper::StatusCode;
use runner_broker::broker::{Reason, RecordState};
use runner_broker::config::Scope;
use runner_broker::connect::messages::TaskResult;
use runner_broker::connect::{Codec, encode};
use runner_broker::lifecycle::{By, Force, Timing};
use runner_broker::sandbox::gitea::{
    Answer, Effect, Options, Route, RunnerSeed, StandInGitea, TaskState, When,
};
use runner_broker::sandbox::runner::{RawAnswer, Runner, StandInRunner};
use runner_broker::shutdown::Signal;
use secrecy::ExposeSecret;
use serde_json::Value;
use tokio::net::{TcpListener, TcpStream};
use tokio::task::JoinSet;

use crate::deregister::{deletions, join, join_busy};
use crate::leases::leaves;
use crate::raw::{REGISTER, request};
use crate::revival::{all_settled, live_of, work};
use crate::support::{Broker, Site, eventually, gitea, quick, within};
use crate::tokens::{register, token};

const FETCH: &str = "/api/actions/runner.v1.RunnerService/FetchTask";
const YEAR: i64 = 365 * 24 * 60 * 60;

async fn ask(broker: &Broker, path: &str, runner: &Runner, body: Vec<u8>) -> RawAnswer {
    let credentials = &runner.credentials;
    let headers = [
        ("x-runner-uuid", &*credentials.uuid),
        ("x-runner-token", credentials.token.expose_secret()),
    ];
    StandInRunner::new(&broker.url).call(path, "application/proto", &headers, body).await.unwrap()
}

async fn newcomer(broker: &Broker, runner: &Runner) -> RawAnswer {
    ask(broker, REGISTER, runner, encode(Codec::Proto, &request("newcomer"))).await
}

/// It is told to wait that long, in the words of the protocol.
fn assert_waits(answer: &RawAnswer, seconds: &str, what: &str) {
    let text = String::from_utf8_lossy(&answer.body);
    assert_eq!(answer.status, StatusCode::SERVICE_UNAVAILABLE, "{what}: {text}");
    assert_eq!(answer.headers["retry-after"], seconds, "{what}: {text}");
    let error: Value = serde_json::from_slice(&answer.body).unwrap();
    assert_eq!(error["code"], "unavailable", "{what}: {text}");
}

fn states(broker: &Broker) -> Vec<RecordState> {
    broker.lifecycle.roster.all().iter().map(|live| live.state()).collect()
}

async fn three(broker: &Broker) -> Vec<Runner> {
    let mut runners = Vec::new();
    for name in ["one", "two", "three"] {
        runners.push(join(&broker.url, name).await);
    }
    runners
}

/// Runners of others, with the ids that `runners` have.
fn strangers(gitea: &StandInGitea, runners: &[Runner]) {
    for runner in runners {
        let id = Some(runner.credentials.id);
        gitea.add_runner(RunnerSeed { id, name: "stranger".into(), ..RunnerSeed::default() });
    }
}

fn strangers_left(gitea: &StandInGitea) -> usize {
    gitea.runners().iter().filter(|runner| runner.name == "stranger").count()
}

async fn all_are_told_to_wait(broker: &Broker, runners: &[Runner]) {
    // At once, so that none is taken for one that was deleted alone.
    let asked = runners.iter().map(|runner| ask(broker, FETCH, runner, Vec::new()));
    for answer in futures_util::future::join_all(asked).await {
        assert_waits(&answer, "2", "lost");
    }
    assert_eq!(states(broker), vec![RecordState::Lost; runners.len()]);
}

/// Of all that may take a record for over, nothing deletes what has its id by now.
async fn nothing_of_others_goes(gitea: &StandInGitea, broker: &Broker, runners: &[Runner]) {
    let there = gitea.runners().len();
    broker.lifecycle.prune(false, &By::broker()).await;
    for runner in runners {
        let live = live_of(broker, runner).unwrap();
        let by = By::broker();
        let ended = broker.lifecycle.deregister(&live, Reason::Lease, Force::CancelTask, &by).await;
        assert!(ended.is_err(), "{ended:?}");
    }
    assert_eq!((deletions(gitea), gitea.runners().len()), (0, there));
}

#[tokio::test]
async fn restored_from_a_backup_ids_of_others_are_let_be_and_all_go_on_when_it_is_undone() {
    let gitea = gitea();
    let site = Site::new(&gitea);
    let lost = Duration::from_millis(500);
    let broker = Broker::start_with(&site, Timing { lost, ..quick() }).await;
    let before = gitea.backup();
    let runners = three(&broker).await;
    let after = gitea.backup();
    gitea.restore(&before);
    strangers(&gitea, &runners);
    all_are_told_to_wait(&broker, &runners).await;
    let since = Instant::now();
    eventually("one alone would be given up", async || since.elapsed() > lost).await;
    all_are_told_to_wait(&broker, &runners).await;
    nothing_of_others_goes(&gitea, &broker, &runners).await;
    assert_eq!(strangers_left(&gitea), 3);
    for runner in &runners {
        assert!(site.runner_file(&runner.name).exists());
    }
    gitea.restore(&after);
    for runner in &runners {
        work(&gitea, runner).await;
    }
    assert_eq!(states(&broker), [RecordState::Active; 3]);
}

#[tokio::test]
async fn emptied_for_good_newcomers_with_the_same_ids_outlive_the_records_that_are_ended() {
    let gitea = gitea();
    let empty = gitea.backup();
    let site = Site::new(&gitea);
    let broker = Broker::start(&site).await;
    let runners = three(&broker).await;
    gitea.restore(&empty);
    all_are_told_to_wait(&broker, &runners).await;
    let newcomer = join(&broker.url, "newcomer").await;
    assert_eq!(newcomer.credentials.id, runners[0].credentials.id, "Gitea counts anew");
    for runner in &runners {
        let live = live_of(&broker, runner).unwrap();
        let by = By::broker();
        broker
            .lifecycle
            .deregister(&live, Reason::Admin, Force::LeaveBusy, &by)
            .await
            .unwrap_or_else(|error| panic!("{}: {error}", runner.name));
        assert!(!site.runner_file(&runner.name).exists());
    }
    assert_eq!(deletions(&gitea), 0);
    assert_eq!(work(&gitea, &newcomer).await, newcomer.credentials.id);
    assert!(site.runner_file("newcomer").exists());
}

#[tokio::test]
async fn moved_to_another_gitea_and_back_nothing_is_lost_on_either() {
    let (here, there) = (gitea(), gitea());
    let site = Site::new(&here).set("shutdown.deregister", "all");
    let broker = Broker::start(&site).await;
    let runners = three(&broker).await;
    broker.signal(Signal::Quit).await;
    broker.ended().await;

    strangers(&there, &runners);
    let api_token = there.api_token(&["write:admin"]);
    let elsewhere = site
        .set("gitea.url", &there.url())
        .registration_token(there.registration_token(&Scope::Instance).expose_secret())
        .api_token(Some(api_token.expose_secret()));
    let broker = Broker::start(&elsewhere).await;
    all_are_told_to_wait(&broker, &runners).await;
    nothing_of_others_goes(&there, &broker, &runners).await;
    broker.stop().await;
    assert_eq!((strangers_left(&there), deletions(&there)), (3, 0));
    assert_eq!((here.runners().len(), deletions(&here)), (3, 0));

    let api_token = here.api_token(&["write:admin"]);
    let back = elsewhere.set("gitea.url", &here.url()).api_token(Some(api_token.expose_secret()));
    let broker = Broker::start(&back).await;
    for runner in &runners {
        assert!(back.runner_file(&runner.name).exists());
        work(&here, &runner.moved_to(&broker.url)).await;
    }
    assert_eq!(states(&broker), [RecordState::Active; 3]);
}

/// An address that stays while what is behind it changes.
struct Front {
    url: String,
    behind: Arc<Mutex<Option<String>>>,
    wires: Arc<Mutex<JoinSet<()>>>,
    _accepting: JoinSet<()>,
}

impl Front {
    async fn start() -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let url = format!("http://{}", listener.local_addr().unwrap());
        let behind = Arc::<Mutex<Option<String>>>::default();
        let wires = Arc::<Mutex<JoinSet<()>>>::default();
        let mut accepting = JoinSet::new();
        let (to, open) = (Arc::clone(&behind), Arc::clone(&wires));
        accepting.spawn(async move {
            loop {
                let (mut wire, _) = listener.accept().await.unwrap();
                // Where nothing is behind it, it hangs up.
                let Some(to) = to.lock().unwrap().clone() else { continue };
                open.lock().unwrap().spawn(async move {
                    let mut far = TcpStream::connect(to).await.unwrap();
                    let _ = tokio::io::copy_bidirectional(&mut wire, &mut far).await;
                });
            }
        });
        Self { url, behind, wires, _accepting: accepting }
    }

    fn lead_to(&self, gitea: Option<&StandInGitea>) {
        *self.behind.lock().unwrap() =
            gitea.map(|gitea| gitea.url().trim_start_matches("http://").to_owned());
        self.wires.lock().unwrap().abort_all();
    }
}

/// A Gitea of this version, with what the older one has in its database.
fn upgraded(older: &StandInGitea, version: &str, api_token: &str) -> StandInGitea {
    let newer = StandInGitea::start(Options { version: version.into(), ..Options::default() });
    let newer = newer.unwrap();
    let registration_token = older.registration_token(&Scope::Instance);
    newer.add_registration_token(Scope::Instance, registration_token.expose_secret());
    newer.add_api_token(api_token, runner_broker::sandbox::gitea::USER, &["write:admin"]);
    for runner in older.runners() {
        newer.add_runner(RunnerSeed {
            id: Some(runner.id),
            uuid: Some(runner.uuid),
            token: Some(runner.token),
            name: runner.name,
            version: runner.version,
            labels: runner.labels,
            ..RunnerSeed::default()
        });
    }
    newer
}

#[tokio::test]
async fn upgraded_while_the_broker_runs_it_can_do_more_afterwards() {
    let options = Options { version: "1.23.8".into(), ..Options::default() };
    let older = StandInGitea::start(options).unwrap();
    let front = Front::start().await;
    front.lead_to(Some(&older));
    let site = Site::new(&older).set("gitea.url", &front.url);
    let api_token = older.api_token(&["write:admin"]).expose_secret().to_owned();
    let site = site.api_token(Some(&api_token));
    let timing = Timing { probe: Duration::from_millis(50), ..quick() };
    let broker = Broker::start_with(&site, timing).await;
    let runners = three(&broker).await;
    work(&older, &runners[0]).await;

    front.lead_to(None);
    for runner in &runners {
        // A call that breaks off in the middle is told at once; others wait a moment for Gitea.
        let answer = ask(&broker, FETCH, runner, Vec::new()).await;
        let error: Value = serde_json::from_slice(&answer.body).unwrap();
        assert_eq!(error["code"], "unavailable", "{answer:?}");
    }
    let newer = upgraded(&older, "1.26.0", &api_token);
    older.stop().await;
    front.lead_to(Some(&newer));
    for runner in &runners {
        eventually("it polls on", async || runner.fetch_task(0).await.is_ok()).await;
        assert_eq!(work(&newer, runner).await, runner.credentials.id);
        assert!(site.runner_file(&runner.name).exists());
    }
    assert_eq!(states(&broker), [RecordState::Active; 3]);
    join(&broker.url, "newcomer").await;
    // The older one cannot delete runners.
    let gitea = &broker.lifecycle.gitea;
    eventually("that is found out", async || gitea.can_delete(&Scope::Instance)).await;
    runners[0].deregister().await.unwrap();
    assert!(newer.runner(runners[0].credentials.id).is_none());
}

fn after(mut answer: Answer, seconds: &str) -> Answer {
    answer.headers.push(("Retry-After", seconds.into()));
    answer
}

#[tokio::test]
async fn maintenance_proxies_and_limits_are_waited_for_and_all_goes_on() {
    let bare = |code: u16| Answer {
        status: StatusCode::from_u16(code).unwrap(),
        headers: vec![],
        body: bytes::Bytes::new(),
    };
    let page = |code: u16| Answer::html(StatusCode::from_u16(code).unwrap());
    for (given, wait) in [
        (Answer::maintenance(), "2"),
        (after(Answer::maintenance(), "4"), "4"),
        (page(200), "2"),
        (page(401), "2"),
        (bare(401), "2"),
        (page(404), "2"),
        (bare(404), "2"),
        (Answer::rate_limited(7), "7"),
    ] {
        let what = format!("{} {:?}", given.status, given.headers);
        let unclear = given.status.is_success() || given.status.is_server_error();
        let gitea = gitea();
        let site = Site::new(&gitea);
        let broker = Broker::start(&site).await;
        let (polling, leaving) = (join(&broker.url, "one").await, join(&broker.url, "two").await);
        let in_front = gitea.faults().always(Route::Any, When::BeforeActing, Effect::Answer(given));
        assert_waits(&ask(&broker, FETCH, &polling, Vec::new()).await, wait, &what);
        // What came of an unclear one is asked for first.
        let registered = newcomer(&broker, &polling).await;
        assert_waits(&registered, if unclear { "2" } else { wait }, &what);
        assert_eq!(broker.lifecycle.unsettled(), usize::from(unclear), "{what}");
        let error = leaving.deregister().await.unwrap_err();
        assert_eq!(error.code, "unavailable", "{what}: {error}");
        let known: Vec<_> = states(&broker);
        assert_eq!(known.len(), 2, "{what}");
        assert!(known.contains(&RecordState::Active), "{what}: {known:?}");
        assert!(known.contains(&RecordState::Deregistering(Reason::Runner)), "{what}: {known:?}");
        assert!(site.runner_file("one").exists() && site.runner_file("two").exists(), "{what}");

        gitea.faults().remove(in_front);
        eventually(&format!("{what}: the other is gone"), async || {
            gitea.runner(leaving.credentials.id).is_none()
        })
        .await;
        eventually("it polls on", async || polling.fetch_task(0).await.is_ok()).await;
        assert_eq!(work(&gitea, &polling).await, polling.credentials.id, "{what}");
        assert_eq!(newcomer(&broker, &polling).await.status, StatusCode::OK, "{what}");
        eventually("nothing is unsettled", async || broker.lifecycle.unsettled() == 0).await;
        assert!(!site.runner_file("two").exists() && site.runner_file("one").exists(), "{what}");
        assert_eq!(gitea.runners().len(), 2, "{what}");
    }
}

#[tokio::test]
async fn a_registration_token_that_cannot_be_had_for_now_is_waited_for() {
    for (given, wait) in [
        (Answer::maintenance(), "2"),
        (after(Answer::maintenance(), "30"), "30"),
        (Answer::html(StatusCode::UNAUTHORIZED), "2"),
        (Answer::rate_limited(7), "7"),
    ] {
        let what = format!("{} {:?}", given.status, given.headers);
        let gitea = gitea();
        let site = Site::new(&gitea);
        let broker = Broker::start(&site).await;
        let runner = join(&broker.url, "one").await;
        // The one that the broker has is of no use any more.
        let _ = gitea.reset_registration_token(&Scope::Instance);
        let effect = Effect::Answer(given);
        gitea.faults().once(Route::RegistrationToken, When::BeforeActing, effect);
        assert_waits(&newcomer(&broker, &runner).await, wait, &what);
        assert_eq!(broker.lifecycle.unsettled(), 0, "{what}");
        assert_eq!(newcomer(&broker, &runner).await.status, StatusCode::OK, "{what}");
    }
}

#[tokio::test]
async fn a_proxy_says_nothing_of_the_api_token() {
    let gitea = gitea();
    let site = Site::new(&gitea);
    let page = Answer::html(StatusCode::UNAUTHORIZED);
    gitea.faults().always(Route::ListRunners, When::BeforeActing, Effect::Answer(page));
    let broker =
        Broker::start_with(&site, Timing { probe: Duration::from_millis(20), ..quick() }).await;
    let lists = || gitea.journal().count(|entry| entry.target.contains("?page="));
    eventually("it was probed twice", async || lists() >= 2).await;
    let gauge = || {
        let metrics = broker.lifecycle.metrics.render().unwrap();
        let name = "runner_broker_api_token_valid{scope=\"instance\"} ";
        metrics.lines().find_map(|line| line.strip_prefix(name)).map(str::to_owned)
    };
    assert_eq!(gauge(), None);
    gitea.faults().clear();
    eventually("it is known to work", async || gauge().as_deref() == Some("1")).await;
}

#[tokio::test]
async fn a_list_that_is_asked_too_much_is_asked_again() {
    let gitea = gitea();
    let site = Site::new(&gitea);
    let broker = Broker::start(&site).await;
    let limited = || Effect::Answer(Answer::rate_limited(1));
    gitea.faults().times(2, Route::ListRunners, When::BeforeActing, limited());
    gitea.faults().times(2, Route::DeleteRunner, When::BeforeActing, limited());
    gitea.faults().once(Route::Register, When::AfterActing, Effect::Reset);
    crate::register::join(&broker, "one").await.unwrap_err();
    all_settled(&gitea, &broker).await;
}

#[tokio::test]
async fn a_clock_that_is_a_year_off_changes_nothing() {
    for skew in [-YEAR, YEAR] {
        let gitea = gitea();
        gitea.skew_clock(skew);
        let site = Site::new(&gitea).set("lease.expire_after", "1s");
        let broker = Broker::start(&site).await;
        let hour = Duration::from_secs(60 * 60);
        let valid = token(&broker, |draft| {
            draft.policy.expires_at = Some(SystemTime::now() + hour);
        });
        let stays = register(&broker, &valid.await, "stays").await.unwrap();
        stays.declare(&["host"]).await.unwrap();
        assert_eq!(work(&gitea, &stays).await, stays.credentials.id);

        let (busy, task) = join_busy(&gitea, &broker.url, "busy").await;
        let live = live_of(&broker, &busy).unwrap();
        let by = By::broker();
        let ended = broker.lifecycle.deregister(&live, Reason::Admin, Force::CancelTask, &by);
        ended.await.unwrap();
        let cancelled = TaskState::Ended(TaskResult::Cancelled);
        assert_eq!(gitea.task(task).unwrap().state, cancelled);

        let gone = join(&broker.url, "gone").await;
        let id = gone.credentials.id;
        leaves(&broker, gone).await;
        within(gitea.wait_until(|gitea| gitea.runner(id).is_none())).await;
        stays.fetch_task(0).await.unwrap();
        let names: Vec<_> = gitea.runners().into_iter().map(|runner| runner.name).collect();
        assert_eq!(names, ["stays"], "{skew}");
    }
}

#[tokio::test]
async fn among_ten_thousand_runners_one_is_found_with_few_calls_and_an_orphan_with_one_reading() {
    let gitea = gitea();
    let site = Site::new(&gitea);
    let timing = Timing { lost: Duration::from_secs(3600), ..quick() };
    let broker = Broker::start_with(&site, timing).await;
    let (leaving, deleted) = (join(&broker.url, "one").await, join(&broker.url, "two").await);
    for _ in 0..9_998 {
        let called_ago = Some(Duration::from_secs(9));
        gitea.add_runner(RunnerSeed { called_ago, ..RunnerSeed::default() });
    }
    let asked = |part: &str| gitea.journal().count(|entry| entry.target.contains(part));
    gitea.journal().clear();
    leaving.deregister().await.unwrap();
    assert!(gitea.runner(leaving.credentials.id).is_none());
    assert_eq!(asked("limit=50"), 0, "its id is known");
    assert!(asked("") <= 5, "{:?}", gitea.journal().entries());

    gitea.remove_runner(deleted.credentials.id);
    gitea.journal().clear();
    eventually("it is told for good", async || {
        deleted.fetch_task(0).await.unwrap_err().code == "unauthenticated"
    })
    .await;
    assert_eq!(asked("limit=50"), 0, "its id is known");
    assert_eq!(asked(&format!("/{}", deleted.credentials.id)), 1);

    gitea.journal().clear();
    gitea.faults().once(Route::Register, When::AfterActing, Effect::Reset);
    crate::register::join(&broker, "three").await.unwrap_err();
    eventually("it is settled", async || broker.lifecycle.unsettled() == 0).await;
    assert_eq!(gitea.runners().len(), 9_998);
    assert!(gitea.runners().iter().all(|runner| runner.name != "three"));
    // All pages, each time, until a list that was read late enough shows its label no longer.
    let lists = asked("limit=50");
    assert!(lists.is_multiple_of(200) && (200..=2000).contains(&lists), "{lists}");
    assert_eq!(deletions(&gitea), 1);
}
