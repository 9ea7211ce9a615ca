//! Gitea's lost wake-up: of two polls that overlap, one gets a job, and the other nothing but the latest
//! version, though a second job waits.

use std::time::{Duration, Instant};

use runner_broker::config::Scope;
use runner_broker::connect::messages::{FetchTaskRequest, FetchTaskResponse, Task};
use runner_broker::connect::{Codec, decode, encode, gzip};
use runner_broker::sandbox::gitea::{Route, When};
use runner_broker::sandbox::gitea::{RunnerSeed, StandInGitea, TaskSeed, TaskState};
use runner_broker::sandbox::runner::{RegisterOptions, Runner, StandInRunner};
use runner_broker::shutdown::Signal;
use secrecy::ExposeSecret;
use tokio::time::timeout;

use crate::raw::{Answer, Head, Wire};
use crate::scripted::{ScriptedGitea, scripted};
use crate::support::{Broker, ENROLLMENT_TOKEN, Site, eventually, gitea, within};

const FETCH: &str = "/api/actions/runner.v1.RunnerService/FetchTask";
/// A field that no version knows, and how it looks in the codecs.
const LATER: (&[u8], &str) = (&[0xfa, 0x07, 2, b'h', b'i'], r#""later":{"tasksVersion":"9"}"#);
/// In which a broker that holds nothing back has surely answered, and one that does has not.
const MOMENT: Duration = Duration::from_millis(700);

#[tokio::test]
async fn a_job_is_stranded_without_the_workaround_and_taken_with_it() {
    let gitea = gitea();
    let site = Site::new(&gitea);
    let set = |on: bool| site.write_config(&format!("[gitea]\nlost_wakeup_workaround = {on}\n"));
    set(false);
    let broker = Broker::start(&site).await;
    let options = RegisterOptions::new(ENROLLMENT_TOKEN.to_owned().into(), "known");
    let known = StandInRunner::new(&broker.url).register(&options).await.unwrap();
    for on in [false, true] {
        if on {
            set(true);
            broker.signal(Signal::Reload).await;
            let settings = &broker.lifecycle.settings;
            eventually("read", async || settings.load().gitea.lost_wakeup_workaround).await;
        }
        for loser in [known.clone(), stranger(&gitea, &broker)] {
            let version = lose(&gitea, &broker, &loser).await;
            let left = waiting(&gitea);
            assert_eq!(left.len(), 1);
            if on {
                let (task, _) = loser.fetch_task(version).await.unwrap();
                assert_eq!(task.expect("the second job").id, left[0]);
            } else {
                for _ in 0..3 {
                    assert_eq!(loser.fetch_task(version).await.unwrap(), (None, version));
                }
                assert_eq!(waiting(&gitea), left);
                gitea.cancel_task(left[0]);
            }
        }
    }
}

/// Brings a runner to lose a job to another one while a second job waits. Returns the version that it has
/// stored then.
async fn lose(gitea: &StandInGitea, broker: &Broker, loser: &Runner) -> i64 {
    let latest = 1000;
    gitea.set_tasks_version(Scope::Instance, latest);
    // It looks and finds nothing, and has not heard so yet.
    let gate = gitea.faults().gate(Route::FetchTask, When::AfterActing);
    let polling = tokio::spawn({
        let loser = loser.clone();
        async move { loser.fetch_task(7).await.unwrap() }
    });
    within(gate.reached()).await;
    // As if it had found the first of two jobs at that version, and the other runner took it.
    for _ in 0..2 {
        gitea.queue(TaskSeed { labels: vec!["host".into()], ..TaskSeed::default() });
    }
    gitea.set_tasks_version(Scope::Instance, latest);
    let winner = stranger(gitea, broker);
    winner.fetch_task(7).await.unwrap().0.expect("the first job");
    gate.open();
    let (task, told) = within(polling).await.unwrap();
    assert_eq!(task, None);
    told.max(7)
}

fn stranger(gitea: &StandInGitea, broker: &Broker) -> Runner {
    let seed = RunnerSeed { labels: vec!["host".into()], ..RunnerSeed::default() };
    let seeded = gitea.add_runner(seed);
    let file = serde_json::json!({
        "id": seeded.id, "uuid": seeded.uuid, "name": "x", "token": seeded.token.expose_secret(),
        "address": broker.url, "labels": ["host:host"],
    });
    Runner::from_runner_file(&file.to_string()).unwrap()
}

fn waiting(gitea: &StandInGitea) -> Vec<i64> {
    let tasks = gitea.tasks().into_iter();
    tasks.filter(|task| task.state == TaskState::Waiting).map(|task| task.id).collect()
}

/// How a runner writes, and how Gitea answers.
#[derive(Clone, Copy, Debug)]
struct Form {
    codec: Codec,
    gzip: bool,
}

const PLAIN: Form = Form { codec: Codec::Proto, gzip: false };

/// A poll that has come to Gitea.
struct Polling {
    form: Form,
    runner: Wire,
    gitea: Wire,
}

impl Form {
    fn all() -> impl Iterator<Item = Self> {
        let codecs = [Codec::Proto, Codec::Json].into_iter();
        codecs.flat_map(|codec| [false, true].map(|gzip| Self { codec, gzip }))
    }

    /// Sends a poll on a connection of its own, and takes it at Gitea.
    async fn poll(self, gitea: &mut ScriptedGitea, broker: &Broker, version: i64) -> Polling {
        self.poll_within(gitea, broker, version, "4999").await
    }

    async fn poll_within(
        self,
        gitea: &mut ScriptedGitea,
        broker: &Broker,
        version: i64,
        limit: &str,
    ) -> Polling {
        let mut runner = Wire::dial(&broker.url).await;
        let body = self.written(encode(self.codec, &FetchTaskRequest { tasks_version: version }));
        let mut headers =
            vec![("Content-Type", self.codec.content_type()), ("Connect-Timeout-Ms", limit)];
        if self.gzip {
            headers.push(("Content-Encoding", "gzip"));
        }
        runner.post(FETCH, &headers, &body).await;
        let (mut gitea, head) = gitea.asked().await;
        assert_eq!(gitea.body(&head).await, body, "the poll is as it was");
        Polling { form: self, runner, gitea }
    }

    fn written(self, plain: Vec<u8>) -> Vec<u8> {
        if self.gzip { gzip(&plain) } else { plain }
    }

    /// Gitea's answer, with a field that no version knows.
    fn response(self, task: Option<i64>, version: i64) -> Vec<u8> {
        let task = task.map(|id| Task { id, workflow_payload: None });
        let mut body = encode(self.codec, &FetchTaskResponse { task, tasks_version: version });
        match self.codec {
            Codec::Proto => body.extend(LATER.0),
            Codec::Json => {
                body.pop();
                body.extend(format!(",{}}}", LATER.1).bytes());
            }
        }
        self.written(body)
    }

    fn http(self, body: &[u8]) -> Vec<u8> {
        let head = format!(
            "HTTP/1.1 200 OK\r\nContent-Type: {}\r\nX-Kept: 1\r\nConnection: close\r\nContent-Length: {}\r\n{}\r\n",
            self.codec.content_type(),
            body.len(),
            if self.gzip { "Content-Encoding: gzip\r\n" } else { "" }
        );
        [head.as_bytes(), body].concat()
    }
}

impl Polling {
    /// Gitea answers with a task, or with none.
    async fn is_answered(&mut self, task: Option<i64>, version: i64) {
        self.gitea.say(self.form.http(&self.form.response(task, version))).await;
    }

    /// What comes to the runner.
    async fn answer(&mut self) -> Answer {
        let answer = self.runner.answer().await.expect("an answer");
        assert_eq!(answer.status, 200, "{answer:?}");
        assert_eq!(answer.head.all("x-kept"), ["1"]);
        answer
    }

    /// Gitea's answer comes as it is.
    async fn passes(&mut self, task: Option<i64>, version: i64) {
        self.is_answered(task, version).await;
        self.comes_as(task, version).await;
    }

    async fn comes_as(&mut self, task: Option<i64>, version: i64) {
        let answer = self.answer().await;
        assert_eq!(answer.body, self.form.response(task, version));
        assert_eq!(answer.head.all("content-encoding").len(), usize::from(self.form.gzip));
    }

    /// An answer without a task comes with this version in it.
    async fn is_told(&mut self, version: i64) {
        let answer = self.answer().await;
        let what = format!("{:?} {}", self.form, answer.body.escape_ascii());
        let read: FetchTaskResponse = decode(self.form.codec, &answer.body).unwrap();
        assert_eq!(read, FetchTaskResponse { task: None, tasks_version: version }, "{what}");
        let later: &[u8] = match self.form.codec {
            Codec::Proto => LATER.0,
            Codec::Json => LATER.1.as_bytes(),
        };
        assert!(answer.body.windows(later.len()).any(|part| part == later), "{what}");
        assert_eq!(content(&answer.head), [answer.body.len().to_string()], "{what}");
    }

    async fn is_held(&mut self) -> bool {
        timeout(Duration::from_millis(100), self.runner.answer_arrives()).await.is_err()
    }
}

/// Length and encoding.
fn content(head: &Head) -> Vec<&str> {
    [head.all("content-length"), head.all("content-encoding")].concat()
}

#[tokio::test]
async fn whoever_lost_keeps_its_version_in_every_form() {
    let (mut gitea, _spare, _site, broker) = scripted().await;
    for form in Form::all() {
        for version in [0, 7] {
            // The winner's answer comes first.
            let mut loser = form.poll(&mut gitea, &broker, version).await;
            let mut winner = form.poll(&mut gitea, &broker, 0).await;
            winner.passes(Some(1), 9).await;
            loser.is_answered(None, 9).await;
            loser.is_told(version).await;

            // The loser's comes first.
            let mut winner = form.poll(&mut gitea, &broker, 0).await;
            let mut loser = form.poll(&mut gitea, &broker, version).await;
            loser.is_answered(None, 9).await;
            assert!(loser.is_held().await);
            winner.passes(Some(1), 9).await;
            loser.is_told(version).await;
        }
    }
}

#[tokio::test]
async fn an_answer_without_anything_else_becomes_an_empty_one() {
    let (mut gitea, _spare, _site, broker) = scripted().await;
    let mut loser = PLAIN.poll(&mut gitea, &broker, 0).await;
    let mut winner = PLAIN.poll(&mut gitea, &broker, 0).await;
    winner.passes(Some(1), 9).await;
    loser.gitea.say(PLAIN.http(&[0x10, 9])).await;
    let answer = loser.answer().await;
    assert_eq!((content(&answer.head), &answer.body[..]), (vec!["0"], &[][..]));
}

#[tokio::test]
async fn a_winner_whose_connection_breaks_may_have_won() {
    let (mut gitea, _spare, _site, broker) = scripted().await;
    for broken in ["by Gitea", "within its answer", "by the runner", "with an error"] {
        let winner = PLAIN.poll(&mut gitea, &broker, 0).await;
        let mut loser = PLAIN.poll(&mut gitea, &broker, 7).await;
        loser.is_answered(None, 9).await;
        assert!(loser.is_held().await, "{broken}");
        let Polling { runner, gitea: mut upstream, .. } = winner;
        match broken {
            "by Gitea" => upstream.reset(),
            "by the runner" => runner.reset(),
            "with an error" => {
                upstream
                    .say("HTTP/1.1 500 No\r\nConnection: close\r\nContent-Length: 0\r\n\r\n")
                    .await;
            }
            _ => {
                let head = "HTTP/1.1 200 OK\r\nContent-Type: application/proto\r\nContent-Length: 90\r\n\r\n\n";
                upstream.say(head).await;
                upstream.reset();
            }
        }
        loser.is_told(7).await;
    }
}

#[tokio::test]
async fn what_no_winner_overlapped_comes_as_it_is() {
    let (mut gitea, _spare, _site, broker) = scripted().await;
    for form in Form::all() {
        // One before another.
        let mut winner = form.poll(&mut gitea, &broker, 0).await;
        winner.passes(Some(1), 9).await;
        let mut empty = form.poll(&mut gitea, &broker, 7).await;
        empty.passes(None, 9).await;

        // At once, and nobody won: known when the last answer comes.
        let [mut one, mut two, mut idle] = [
            form.poll(&mut gitea, &broker, 7).await,
            form.poll(&mut gitea, &broker, 7).await,
            form.poll(&mut gitea, &broker, 9).await,
        ];
        one.is_answered(None, 9).await;
        assert!(one.is_held().await);
        idle.passes(None, 9).await;
        two.is_answered(None, 9).await;
        one.comes_as(None, 9).await;
        two.comes_as(None, 9).await;
    }
}

#[tokio::test]
async fn only_an_answer_that_is_open_is_held() {
    let (mut gitea, _spare, _site, broker) = scripted().await;
    for form in Form::all() {
        let mut open = form.poll(&mut gitea, &broker, 0).await;
        // Gitea did not look, tells no version, or has a task.
        for (version, task, latest) in [(9, None, 9), (7, None, 0), (7, Some(2), 9)] {
            let mut other = form.poll(&mut gitea, &broker, version).await;
            let begun = Instant::now();
            other.passes(task, latest).await;
            assert!(begun.elapsed() < MOMENT, "{form:?} {version} {latest}");
        }
        // One that won has been there already.
        let mut early = form.poll(&mut gitea, &broker, 7).await;
        let mut winner = form.poll(&mut gitea, &broker, 7).await;
        winner.passes(Some(2), 9).await;
        let begun = Instant::now();
        early.is_answered(None, 9).await;
        early.is_told(7).await;
        assert!(begun.elapsed() < MOMENT, "{form:?}");
        open.is_answered(None, 9).await;
        open.is_told(0).await;
    }
}

#[tokio::test]
async fn the_wait_has_an_end_within_the_runners_own_limit() {
    let (mut gitea, _spare, _site, broker) = scripted().await;
    let _never = PLAIN.poll_within(&mut gitea, &broker, 0, "60000").await;
    for limit in ["600", "4999", ""] {
        let mut loser = PLAIN.poll_within(&mut gitea, &broker, 7, limit).await;
        let begun = Instant::now();
        loser.is_answered(None, 9).await;
        loser.is_told(7).await;
        let took = begun.elapsed();
        assert!(took >= Duration::from_millis(100), "{limit} {took:?}");
        assert!(limit != "600" || took < Duration::from_millis(600), "{took:?}");
    }
}

#[tokio::test]
async fn what_is_no_poll_of_a_runner_passes_byte_for_byte() {
    let (mut gitea, _spare, _site, broker) = scripted().await;
    let _open = PLAIN.poll_within(&mut gitea, &broker, 0, "60000").await;
    let large = vec![0x0a; 5000];
    for (content_type, body) in [
        ("application/proto", &b"\xff\xfe"[..]),
        ("application/proto", &large),
        ("application/json", b"[]"),
        ("application/json", b"{\"tasksVersion\":true}"),
        ("application/grpc", b"\0\0\0\0\0"),
        ("text/plain", b""),
    ] {
        for chunked in [false, true] {
            let mut runner = Wire::dial(&broker.url).await;
            let mut head =
                format!("POST {FETCH} HTTP/1.1\r\nHost: b\r\nContent-Type: {content_type}\r\n");
            if chunked {
                head.push_str("Transfer-Encoding: chunked\r\n\r\n");
                runner.say(head).await;
                for piece in body.chunks(999) {
                    let size = format!("{:x}\r\n", piece.len());
                    runner.say([size.as_bytes(), piece, b"\r\n"].concat()).await;
                }
                runner.say("0\r\n\r\n").await;
            } else {
                head.push_str(&format!("Content-Length: {}\r\n\r\n", body.len()));
                runner.say([head.as_bytes(), body].concat()).await;
            }
            let (mut upstream, head) = gitea.asked().await;
            assert_eq!(upstream.body(&head).await, body);
            let begun = Instant::now();
            let codec = match content_type {
                "application/json" => Codec::Json,
                _ => Codec::Proto,
            };
            let (form, answer) = (Form { codec, gzip: false }, &[0x10, 9]);
            gitea.answer(upstream, form.http(answer)).await;
            assert_eq!(runner.answer().await.unwrap().body, answer);
            assert!(begun.elapsed() < MOMENT, "{content_type} {}", body.escape_ascii());
        }
    }
}

#[tokio::test]
async fn what_is_no_answer_of_gitea_passes_byte_for_byte() {
    let (mut gitea, _spare, _site, broker) = scripted().await;
    let _open = PLAIN.poll_within(&mut gitea, &broker, 0, "60000").await;
    let long = [&[0x10, 9, 0xfa, 0x07, 0xd0, 0x0f][..], &[b'x'; 2000]].concat();
    let json = Form { codec: Codec::Json, gzip: false };
    for (form, encoding, body) in [
        (PLAIN, "", &b"\xff\xfe"[..]),
        // A task that has no number, and one that is cut.
        (PLAIN, "", b"\x0a\x00\x10\x09"),
        (PLAIN, "", b"\x0a\x05\x08"),
        (PLAIN, "", &long),
        (json, "", b"{\"task\":{},\"tasksVersion\":\"9\"}"),
        (json, "Content-Encoding: gzip\r\n", b"no gzip"),
        (PLAIN, "Content-Encoding: br\r\n", b"\x10\x09"),
    ] {
        for chunked in [false, true] {
            let mut polling = form.poll(&mut gitea, &broker, 7).await;
            let kind = form.codec.content_type();
            let framing = match chunked {
                true => "Transfer-Encoding: chunked\r\n".to_owned(),
                false => format!("Content-Length: {}\r\n", body.len()),
            };
            polling
                .gitea
                .say(format!(
                    "HTTP/1.1 200 OK\r\nConnection: close\r\nContent-Type: {kind}\r\n{encoding}{framing}\r\n"
                ))
                .await;
            if chunked {
                for piece in body.chunks(1500) {
                    let size = format!("{:x}\r\n", piece.len());
                    polling.gitea.say([size.as_bytes(), piece, b"\r\n"].concat()).await;
                }
                polling.gitea.say("0\r\n\r\n").await;
            } else {
                polling.gitea.say(body).await;
            }
            let answer = polling.runner.answer().await.unwrap();
            assert_eq!(answer.body, body, "{kind} {encoding}");
        }
    }
}

#[tokio::test]
async fn a_poll_whose_body_breaks_off_is_refused() {
    let (mut gitea, _spare, _site, broker) = scripted().await;
    let mut runner = Wire::dial(&broker.url).await;
    let head = format!("POST {FETCH} HTTP/1.1\r\nHost: b\r\nContent-Type: application/proto\r\n");
    runner.say(format!("{head}Transfer-Encoding: chunked\r\n\r\nno chunk\r\n")).await;
    let answer = runner.answer().await.expect("an answer");
    assert_eq!(answer.status, 400, "{answer:?}");
    assert!(!gitea.is_asked_within(Duration::from_millis(50)).await);
    // It was none that anyone waits for.
    let mut alone = PLAIN.poll(&mut gitea, &broker, 7).await;
    alone.passes(None, 9).await;
}
