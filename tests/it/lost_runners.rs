//! Runners that Gitea says it does not know: what they are told, and when they are given up.

use std::time::Duration;

use runner_broker::broker::{Reason, RecordState};
use runner_broker::connect::gzip;
use runner_broker::lifecycle::Timing;
use runner_broker::sandbox::gitea::{Answer, Effect, Options, Route, StandInGitea, When};
use runner_broker::sandbox::runner::{Pace, RpcError, Runner, StandInRunner};
use runner_broker::store::EventFilter;
use secrecy::ExposeSecret;

use crate::capture::Capture;
use crate::deregister::{deletions, join};
use crate::scripted::scripted;
use crate::support::{Broker, Site, eventually, gitea, quick};

const UNREGISTERED: &str = r#"{"code":"unknown","message":"rpc error: code = Unauthenticated desc = unregistered runner"}"#;

/// Long enough that it never passes in a test.
fn patient() -> Timing {
    Timing { lost: Duration::from_secs(3600), ..quick() }
}

fn impatient() -> Timing {
    Timing { lost: Duration::from_millis(60), ..quick() }
}

struct Scene {
    gitea: StandInGitea,
    site: Site,
    broker: Broker,
}

impl Scene {
    async fn new(gitea: StandInGitea, timing: Timing) -> Self {
        let site = Site::new(&gitea);
        let broker = Broker::start_with(&site, timing).await;
        Self { gitea, site, broker }
    }

    /// Without an API token, so that only time tells.
    async fn without_token(gitea: StandInGitea, timing: Timing) -> Self {
        let site = Site::new(&gitea).api_token(None);
        let broker = Broker::start_with(&site, timing).await;
        Self { gitea, site, broker }
    }

    fn states(&self) -> Vec<RecordState> {
        self.broker.lifecycle.roster.all().iter().map(|live| live.state()).collect()
    }

    async fn events(&self) -> Vec<String> {
        let events =
            self.broker.lifecycle.events(EventFilter { limit: 100, ..EventFilter::default() });
        events.await.unwrap().iter().rev().map(|event| event.what.to_string()).collect()
    }

    async fn ended(&self, runner: &Runner) -> RecordState {
        let record = self.broker.lifecycle.store.ended_by_uuid(&runner.credentials.uuid).await;
        record.unwrap().unwrap().state
    }
}

fn answer(status: u16, kind: &str, body: &str) -> Answer {
    Answer {
        status: status.try_into().unwrap(),
        headers: vec![("Content-Type", kind.to_owned())],
        body: body.to_owned().into(),
    }
}

async fn told(runner: &Runner) -> String {
    match runner.fetch_task(0).await {
        Ok(_) => "ok".into(),
        Err(error) => code(&error),
    }
}

fn code(error: &RpcError) -> String {
    format!("{} {}", error.status.map_or(0, |status| status.as_u16()), error.code)
}

/// Polls until it is told this.
async fn until_told(runner: &Runner, wanted: &str) {
    eventually(wanted, async || told(runner).await == wanted).await;
}

#[tokio::test]
async fn one_alone_is_kept_for_its_time_and_then_told_for_good() {
    for real_unauthenticated in [false, true] {
        let gitea = StandInGitea::start(Options { real_unauthenticated, ..Options::default() });
        let scene = Scene::without_token(
            gitea.unwrap(),
            Timing { lost: Duration::from_millis(400), ..quick() },
        )
        .await;
        let runner = join(&scene.broker.url, "alone").await;
        scene.gitea.remove_runner(runner.credentials.id);
        assert_eq!(told(&runner).await, "503 unavailable");
        assert_eq!(scene.states(), [RecordState::Lost]);
        assert!(scene.site.runner_file("alone").exists());
        until_told(&runner, "401 unauthenticated").await;
        assert_eq!(scene.states(), []);
        assert!(!scene.site.runner_file("alone").exists(), "gone when it is told");
        assert_eq!(scene.ended(&runner).await, RecordState::Ended(Reason::Lost));
        let events = scene.events().await;
        assert!(
            events.ends_with(&["runner.lost".into(), "runner.deregistered".into()]),
            "{events:?}"
        );
        // It is told the same by a broker that knows it no more, on another connection.
        let again = runner.moved_to(&scene.broker.url);
        assert_eq!(told(&again).await, "401 unauthenticated");
        assert_eq!(deletions(&scene.gitea), 0);
        scene.broker.stop().await;
    }
}

#[tokio::test]
async fn one_alone_is_dead_as_soon_as_rest_says_so_too() {
    let scene = Scene::new(gitea(), patient()).await;
    let runner = join(&scene.broker.url, "deleted").await;
    scene.gitea.remove_runner(runner.credentials.id);
    assert_eq!(told(&runner).await, "503 unavailable");
    until_told(&runner, "401 unauthenticated").await;
    assert!(!scene.site.runner_file("deleted").exists());
    let metrics = scene.broker.lifecycle.metrics.render().unwrap();
    let line = "runner_broker_deregistrations_total{outcome=\"already_gone\",reason=\"lost\"} 1";
    assert!(metrics.contains(line), "{metrics}");
}

#[tokio::test]
async fn a_404_counts_only_where_the_api_token_works() {
    let scene = Scene::new(gitea(), patient()).await;
    let runner = join(&scene.broker.url, "hidden").await;
    let denied = answer(403, "application/json", r#"{"message":"no"}"#);
    scene.gitea.faults().always(Route::ListRunners, When::BeforeActing, Effect::Answer(denied));
    scene.gitea.remove_runner(runner.credentials.id);
    let list = async || scene.gitea.journal().count(|entry| entry.target.contains("?page="));
    let before = list().await;
    assert_eq!(told(&runner).await, "503 unavailable");
    eventually("the list was asked for", async || list().await > before).await;
    assert_eq!(told(&runner).await, "503 unavailable");
    assert_eq!(scene.states(), [RecordState::Lost]);
}

#[tokio::test]
async fn an_accepted_call_finds_it_again() {
    let scene = Scene::new(gitea(), patient()).await;
    let runner = join(&scene.broker.url, "back").await;
    let refused = answer(500, "application/json", UNREGISTERED);
    scene.gitea.faults().once(Route::FetchTask, When::BeforeActing, Effect::Answer(refused));
    assert_eq!(told(&runner).await, "503 unavailable");
    assert_eq!(scene.states(), [RecordState::Lost]);
    assert_eq!(told(&runner).await, "ok");
    assert_eq!(scene.states(), [RecordState::Active]);
    let events = scene.events().await;
    assert!(events.ends_with(&["runner.lost".into(), "runner.found".into()]), "{events:?}");
}

#[tokio::test]
async fn several_at_once_are_gitea_in_doubt_and_all_are_found_after_its_restore() {
    let log = Capture::start();
    let scene = Scene::new(gitea(), impatient()).await;
    let empty = scene.gitea.backup();
    let mut runners = Vec::new();
    for n in 0..4 {
        runners.push(join(&scene.broker.url, &format!("r{n}")).await);
    }
    let full = scene.gitea.backup();
    // All at once, before any of them can be told.
    scene.gitea.restore(&empty);
    let (first, second) = tokio::join!(told(&runners[0]), told(&runners[1]));
    assert_eq!([first.as_str(), second.as_str()], ["503 unavailable"; 2]);
    // Time passes, far more than one alone is given, and the REST API says 404 for each.
    for _ in 0..10 {
        for runner in &runners {
            assert_eq!(told(runner).await, "503 unavailable");
        }
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    assert_eq!(scene.states(), [RecordState::Lost; 4]);
    assert!(scene.broker.lifecycle.gitea_is_in_doubt());
    assert_eq!(log.text().matches("Gitea is in doubt").count(), 1, "{}", log.text());
    // An old daemon polls on, and goes on by itself.
    let daemon = runners[0].moved_to(&scene.broker.url);
    scene.gitea.restore(&full);
    let daemon = daemon.spawn(Pace { poll: Duration::from_millis(10) });
    for runner in &runners {
        assert_eq!(told(runner).await, "ok");
    }
    assert_eq!(scene.states(), [RecordState::Active; 4]);
    assert!(!scene.broker.lifecycle.gitea_is_in_doubt());
    for runner in &runners {
        assert!(scene.site.runner_file(&runner.name).exists());
    }
    assert_eq!(deletions(&scene.gitea), 0);
    daemon.stop().await.unwrap();
}

#[tokio::test]
async fn a_restart_starts_the_minute_anew_and_still_knows_who_is_lost() {
    let scene = Scene::without_token(gitea(), impatient()).await;
    let runner = join(&scene.broker.url, "kept").await;
    scene.gitea.remove_runner(runner.credentials.id);
    assert_eq!(told(&runner).await, "503 unavailable");
    let Scene { site, broker, gitea } = scene;
    broker.stop().await;
    let broker = Broker::start_with(&site, patient()).await;
    let scene = Scene { gitea, site, broker };
    assert_eq!(scene.states(), [RecordState::Lost]);
    assert_eq!(told(&runner.moved_to(&scene.broker.url)).await, "503 unavailable");
}

#[tokio::test]
async fn only_giteas_own_word_makes_a_runner_lost() {
    let scene = Scene::new(gitea(), impatient()).await;
    let runner = join(&scene.broker.url, "proxied").await;
    let headers = [
        ("x-runner-uuid", runner.credentials.uuid.clone()),
        ("x-runner-token", runner.credentials.token.expose_secret().to_owned()),
    ];
    let headers: Vec<_> = headers.iter().map(|(name, value)| (*name, value.as_str())).collect();
    let long = format!(r#"{{"code":"unauthenticated","message":"{}"}}"#, "x".repeat(200_000));
    for (status, kind, body, told) in [
        (401, "text/html", "<html>sign in</html>", 503),
        (403, "application/json", r#"{"message":"forbidden"}"#, 503),
        (401, "application/json", r#"{"code":"UNAUTHORIZED","message":"sign in"}"#, 503),
        (500, "text/plain", UNREGISTERED, 503),
        (502, "application/json", UNREGISTERED, 503),
        (401, "application/json", &long, 503),
        (500, "application/json", r#"{"code":"unknown","message":"database is locked"}"#, 500),
    ] {
        let given = Effect::Answer(answer(status, kind, body));
        scene.gitea.faults().once(Route::FetchTask, When::BeforeActing, given);
        let path = "/api/actions/runner.v1.RunnerService/FetchTask";
        let answer = runner.program().call(path, "application/proto", &headers, "").await.unwrap();
        assert_eq!(answer.status, told, "{body:.80}");
        assert_eq!(scene.states(), [RecordState::Active], "{body:.80}");
    }
}

#[tokio::test]
async fn every_call_of_the_service_counts_gzip_or_not_and_no_other() {
    let scene = Scene::new(gitea(), patient()).await;
    let runner = join(&scene.broker.url, "caller").await;
    for (call, route) in [
        ("FetchTask", Route::FetchTask),
        ("UpdateTask", Route::UpdateTask),
        ("UpdateLog", Route::UpdateLog),
        ("Declare", Route::Declare),
        ("Later", Route::Path("/api/actions/runner.v1.RunnerService/Later".into())),
    ] {
        let mut refused = answer(500, "application/json", "");
        refused.headers.push(("Content-Encoding", "gzip".into()));
        refused.body = gzip(UNREGISTERED.as_bytes()).into();
        scene.gitea.faults().once(route, When::BeforeActing, Effect::Answer(refused));
        let token = runner.credentials.token.expose_secret();
        let headers = [("x-runner-uuid", &*runner.credentials.uuid), ("x-runner-token", token)];
        let path = format!("/api/actions/runner.v1.RunnerService/{call}");
        let answer = runner.program().call(&path, "application/proto", &headers, "").await.unwrap();
        assert_eq!(answer.status, 503, "{call}");
        assert_eq!(scene.states(), [RecordState::Lost], "{call}");
        assert_eq!(told(&runner).await, "ok");
    }
}

#[tokio::test]
async fn one_on_its_way_out_is_told_so_and_strangers_have_giteas_words() {
    let scene = Scene::new(gitea(), patient()).await;
    let runner = join(&scene.broker.url, "leaving").await;
    // Its deregistration comes to no end.
    let down = answer(502, "text/plain", "no");
    scene.gitea.faults().always(Route::Declare, When::BeforeActing, Effect::Answer(down));
    let error = runner.deregister().await.unwrap_err();
    assert_eq!(code(&error), "503 unavailable");
    assert_eq!(scene.states(), [RecordState::Deregistering(Reason::Runner)]);
    scene.gitea.remove_runner(runner.credentials.id);
    let error = runner.update_log(1, 0, &[], false).await.unwrap_err();
    assert_eq!(code(&error), "401 unauthenticated");

    let mut stranger = runner.moved_to(&scene.broker.url);
    stranger.credentials.uuid = "00000000-0000-4000-8000-000000000000".into();
    assert_eq!(told(&stranger).await, "500 unknown");
}

#[tokio::test]
async fn an_answer_to_declare_of_unknown_length_passes_whole_however_long_it_is() {
    let (mut gitea, _spare, _site, broker) = scripted().await;
    for pieces in [1, 2, 3, 40] {
        let program = StandInRunner::new(&broker.url);
        let asking = tokio::spawn(async move {
            let headers = [("x-runner-uuid", "u"), ("x-runner-token", "t")];
            let path = "/api/actions/runner.v1.RunnerService/Declare";
            program.call(path, "application/proto", &headers, "").await.unwrap()
        });
        let (wire, _) = gitea.asked().await;
        let head = "HTTP/1.1 200 OK\r\nContent-Type: application/proto\r\nTransfer-Encoding: chunked\r\n\r\n";
        let piece: Vec<u8> = (0..32 * 1024).map(|n| b'a' + (n % 23) as u8).collect();
        let chunk = [b"8000\r\n", &piece[..], b"\r\n"].concat();
        gitea.answer(wire, [head.as_bytes(), &chunk.repeat(pieces), b"0\r\n\r\n"].concat()).await;
        let answer = asking.await.unwrap();
        assert_eq!(answer.status, 200);
        assert!(answer.body == piece.repeat(pieces), "{pieces}");
    }
}
