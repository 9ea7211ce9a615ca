//! Each limit: who is over it is told so at once, it is counted, and all others are served.

use std::net::Ipv4Addr;
use std::time::{Duration, Instant};

use runner_broker::connect::{Codec, encode, gzip};
use runner_broker::sandbox::gitea::{Route, When};
use runner_broker::sandbox::runner::Runner;
use runner_broker::shutdown::Signal;
use secrecy::ExposeSecret;
use serde_json::Value;

use crate::binary::Binary;
use crate::raw::{Answer, REGISTER, Wire, request};
use crate::register::{join, registers};
use crate::scripted::ScriptedGitea;
use crate::support::{Broker, Site, eventually, gitea, is_probe};

const GET: &str = "GET /acme/app HTTP/1.1\r\nHost: broker\r\n\r\n";
const THERE: Ipv4Addr = Ipv4Addr::new(127, 0, 0, 2);

/// How often a limit was hit.
fn hits(metrics: &str, limit: &str) -> u64 {
    let series = format!("runner_broker_limits_hit_total{{limit=\"{limit}\"}} ");
    let line = metrics.lines().find_map(|line| line.strip_prefix(&series));
    line.unwrap_or_else(|| panic!("no {series}")).parse().unwrap()
}

fn hit(broker: &Broker, limit: &str) -> u64 {
    hits(&broker.lifecycle.metrics.render().unwrap(), limit)
}

/// A clean refusal: this status, an error of Connect's with this code that names the setting.
#[track_caller]
fn refused(answer: Option<Answer>, status: u16, code: &str, setting: &str) -> Answer {
    let answer = answer.expect("an answer");
    let text = String::from_utf8_lossy(&answer.body).into_owned();
    assert_eq!(answer.status, status, "{text}");
    let error: Value = serde_json::from_slice(&answer.body).unwrap();
    assert_eq!(error["code"], code, "{text}");
    assert!(error["message"].as_str().unwrap().contains(setting), "{text}");
    assert_eq!(answer.head.all("content-type"), ["application/json"]);
    answer
}

/// A broker before a Gitea that the test answers for.
async fn held(set: &[(&str, &str)]) -> (ScriptedGitea, Site, Broker) {
    let scripted = ScriptedGitea::start().await;
    let mut site = Site::new(&gitea()).set("gitea.url", &scripted.url);
    for (key, value) in set {
        site = site.set(key, value);
    }
    let broker = Broker::start(&site).await;
    (scripted, site, broker)
}

async fn say(broker: &Broker, text: &str) -> Wire {
    let mut wire = Wire::dial(&broker.url).await;
    wire.say(text).await;
    wire
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn too_many_connections_are_told_so_and_others_find_room() {
    let gitea = gitea();
    let site =
        Site::new(&gitea).set("limits.connections", "3").set("limits.connections_per_peer", "2");
    let broker = Broker::start(&site).await;
    let mut here = Vec::new();
    for _ in 0..2 {
        let mut wire = say(&broker, GET).await;
        assert_eq!(wire.answer().await.unwrap().status, 404);
        here.push(wire);
    }
    let mut third = say(&broker, GET).await;
    refused(third.answer().await, 429, "resource_exhausted", "limits.connections_per_peer");
    assert!(third.rest().await.is_empty(), "it is closed");

    let mut there = Wire::dial_from(&broker.url, THERE).await;
    there.say(GET).await;
    assert_eq!(there.answer().await.unwrap().status, 404);
    let mut over = Wire::dial_from(&broker.url, THERE).await;
    over.say(GET).await;
    let answer = refused(over.answer().await, 503, "unavailable", "limits.connections");
    assert_eq!(answer.head.all("retry-after").len(), 1);
    assert_eq!(answer.head.all("connection"), ["close"]);
    assert_eq!(hit(&broker, "connections_per_peer"), 1);
    assert_eq!(hit(&broker, "connections"), 1);

    // Those that are there go on, and a place that becomes free is taken.
    here[0].say(GET).await;
    assert_eq!(here[0].answer().await.unwrap().status, 404);
    drop(there);
    eventually("there is room", async || {
        let mut wire = Wire::dial_from(&broker.url, THERE).await;
        wire.say(GET).await;
        wire.answer().await.unwrap().status == 404
    })
    .await;
    broker.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_trusted_proxy_stands_for_many_peers() {
    let (mut scripted, _site, broker) = held(&[
        ("listen.trusted_proxies", "127.0.0.1"),
        ("limits.connections_per_peer", "1"),
        ("limits.requests_per_peer", "1"),
    ])
    .await;
    let from = |peer: &str| {
        format!("GET /acme/app HTTP/1.1\r\nHost: broker\r\nX-Forwarded-For: {peer}\r\n\r\n")
    };
    let _first = say(&broker, &from("192.0.2.1")).await;
    let _held = scripted.asked().await;
    let mut again = say(&broker, &from("192.0.2.1")).await;
    refused(again.answer().await, 429, "resource_exhausted", "limits.requests_per_peer");
    // Of IPv6, a /64 is one.
    let _second = say(&broker, &from("2001:db8::1")).await;
    let _held = scripted.asked().await;
    let mut other = say(&broker, &from("2001:db8::2")).await;
    refused(other.answer().await, 429, "resource_exhausted", "limits.requests_per_peer");
    assert_eq!(hit(&broker, "requests_per_peer"), 2);
    assert_eq!(hit(&broker, "connections_per_peer"), 0);
    broker.signal(Signal::Quit).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn jobs_cannot_keep_runners_from_their_calls() {
    let (mut scripted, _site, broker) =
        held(&[("limits.requests", "8"), ("limits.requests_per_peer", "20")]).await;
    let mut waiting = Vec::new();
    for _ in 0..7 {
        waiting.push((say(&broker, GET).await, scripted.asked().await));
    }
    let mut job = say(&broker, GET).await;
    let answer = refused(job.answer().await, 503, "unavailable", "limits.requests");
    assert_eq!(answer.head.all("retry-after").len(), 1);
    let mut api = say(&broker, "GET /twirp/x HTTP/1.1\r\nHost: broker\r\n\r\n").await;
    refused(api.answer().await, 503, "unavailable", "limits.requests");
    // The connection is good for another try.
    let mut runner = Wire::dial(&broker.url).await;
    let poll = "/api/actions/runner.v1.RunnerService/FetchTask";
    let proto = [("Content-Type", "application/proto")];
    runner.post(poll, &proto, b"").await;
    let (wire, head) = scripted.asked().await;
    assert_eq!(head.request(), format!("POST {poll}"));
    let mut second = Wire::dial(&broker.url).await;
    second.post(poll, &proto, b"").await;
    refused(second.answer().await, 503, "unavailable", "limits.requests");
    assert_eq!(hit(&broker, "requests"), 3);

    let ok = "HTTP/1.1 200 OK\r\nContent-Type: application/proto\r\nContent-Length: 0\r\n\r\n";
    scripted.answer(wire, ok).await;
    assert_eq!(runner.answer().await.unwrap().status, 200);
    let (mut first, (wire, _)) = waiting.remove(0);
    scripted.answer(wire, "HTTP/1.1 204 No Content\r\n\r\n").await;
    assert_eq!(first.head().await.unwrap().status(), 204);
    job.say(GET).await;
    let _held = scripted.asked().await;
    broker.signal(Signal::Quit).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn one_runner_has_so_many_calls_at_once() {
    let gitea = gitea();
    let site = Site::new(&gitea).set("limits.requests_per_runner", "2");
    let broker = Broker::start(&site).await;
    let (one, two) = (join(&broker, "one").await.unwrap(), join(&broker, "two").await.unwrap());
    let gate = gitea.faults().gate_for_all(Route::UpdateLog, When::BeforeActing);
    let send = async |runner: &Runner| {
        let mut wire = Wire::dial(&broker.url).await;
        let headers = [
            ("Content-Type", "application/proto"),
            ("X-Runner-Uuid", &runner.credentials.uuid),
            ("X-Runner-Token", runner.credentials.token.expose_secret()),
        ];
        wire.post("/api/actions/runner.v1.RunnerService/UpdateLog", &headers, b"").await;
        wire
    };
    let mut held = Vec::new();
    for count in 1..=2 {
        held.push(send(&one).await);
        gate.reached_by(count).await;
    }
    let mut third = send(&one).await;
    refused(third.answer().await, 429, "resource_exhausted", "limits.requests_per_runner");
    held.push(send(&two).await);
    gate.reached_by(3).await;
    assert_eq!(hit(&broker, "requests_per_runner"), 1);
    gate.open();
    for mut wire in held {
        wire.answer().await.unwrap();
    }
    let mut again = send(&one).await;
    assert_ne!(again.answer().await.unwrap().status, 429);
    broker.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn long_heads_are_refused_and_go_no_further() {
    let gitea = gitea();
    let site = Site::new(&gitea).set("limits.headers", "20").set("limits.header_bytes", "8192");
    let broker = Broker::start(&site).await;
    let head = |count: usize, length: usize| {
        let line = |index| format!("X-{index}: {}\r\n", "a".repeat(length));
        let lines: String = (0..count).map(line).collect();
        format!("GET /acme HTTP/1.1\r\nHost: broker\r\n{lines}\r\n")
    };
    let mut wire = say(&broker, &head(19, 1)).await;
    assert_eq!(wire.answer().await.unwrap().status, 404);
    wire.say(head(20, 1)).await;
    refused(wire.answer().await, 431, "resource_exhausted", "limits.headers");
    wire.say(head(10, 1000)).await;
    refused(wire.answer().await, 431, "resource_exhausted", "limits.header_bytes");
    // Far over it: refused before it is there, and without a text.
    for head in [head(110, 1), head(1, 100_000)] {
        let mut wire = Wire::dial(&broker.url).await;
        let _ = wire.try_say(head.as_bytes()).await;
        assert_eq!(wire.answer().await.unwrap().status, 431);
    }
    eventually("all are counted", async || hit(&broker, "header_bytes") == 3).await;
    assert_eq!(hit(&broker, "headers"), 1);
    let seen: Vec<_> = gitea.journal().entries();
    assert_eq!(seen.iter().filter(|entry| !is_probe(entry) && entry.target == "/acme").count(), 1);
    broker.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn who_sends_on_reads_why_it_was_refused() {
    let gitea = gitea();
    let site = Site::new(&gitea).set("limits.message_bytes", "1024");
    let broker = Broker::start(&site).await;
    for _ in 0..20 {
        let mut wire = Wire::dial(&broker.url).await;
        let body = vec![b'a'; 600_000];
        wire.post(REGISTER, &[("Content-Type", "application/proto")], &body).await;
        refused(wire.answer().await, 429, "resource_exhausted", "limits.message_bytes");
    }
    assert_eq!(hit(&broker, "message_bytes"), 20);
    broker.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_head_must_come_to_its_end_and_an_idle_connection_need_not() {
    let gitea = gitea();
    let site = Site::new(&gitea).set("limits.head_timeout", "1s");
    let broker = Broker::start(&site).await;
    let mut idle = say(&broker, GET).await;
    assert_eq!(idle.answer().await.unwrap().status, 404);
    let mut fresh = Wire::dial(&broker.url).await;
    let begun = Instant::now();
    let mut slow = say(&broker, "GET / HTTP/1.1\r\nHo").await;
    let mut second = say(&broker, GET).await;
    assert_eq!(second.answer().await.unwrap().status, 404);
    second.say("G").await;
    // A byte now and then makes no difference.
    let drip = async {
        loop {
            tokio::time::sleep(Duration::from_millis(100)).await;
            if slow.try_say(b"s").await.is_err() {
                return;
            }
        }
    };
    let _ = tokio::time::timeout(Duration::from_secs(3), drip).await;
    refused(slow.answer().await, 408, "deadline_exceeded", "limits.head_timeout");
    refused(second.answer().await, 408, "deadline_exceeded", "limits.head_timeout");
    assert!(begun.elapsed() >= Duration::from_secs(1));
    assert!(slow.rest().await.is_empty() && second.rest().await.is_empty(), "they are closed");
    for wire in [&mut idle, &mut fresh] {
        wire.say(GET).await;
        assert_eq!(wire.answer().await.unwrap().status, 404);
    }
    assert_eq!(hit(&broker, "head_timeout"), 2);
    broker.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_body_must_not_stop() {
    let (mut scripted, _site, broker) =
        held(&[("limits.body_timeout", "1s"), ("limits.message_timeout", "1s")]).await;
    let head = "PUT /upload HTTP/1.1\r\nHost: broker\r\nContent-Length: 100\r\n\r\n";
    let mut wire = say(&broker, &format!("{head}some")).await;
    let (mut to_gitea, asked) = scripted.asked().await;
    assert_eq!(asked.request(), "PUT /upload");
    assert_eq!(to_gitea.rest().await, b"some", "what came was passed on, and nothing is made up");
    refused(wire.answer().await, 408, "deadline_exceeded", "limits.body_timeout");
    assert!(wire.rest().await.is_empty(), "it is closed");
    assert_eq!(hit(&broker, "body_timeout"), 1);

    let head = format!(
        "POST {REGISTER} HTTP/1.1\r\nHost: broker\r\nContent-Type: application/proto\r\n\
         Content-Length: 100\r\n\r\n"
    );
    let mut wire = say(&broker, &format!("{head}some")).await;
    refused(wire.answer().await, 408, "deadline_exceeded", "did not come to its end in 1s");
    assert_eq!(hit(&broker, "message_timeout"), 1);
    broker.signal(Signal::Quit).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn who_takes_nothing_of_its_answer_is_let_go() {
    let (mut scripted, _site, broker) = held(&[("limits.write_timeout", "1s")]).await;
    let _client = say(&broker, GET).await;
    let (mut wire, _) = scripted.asked().await;
    wire.say("HTTP/1.1 200 OK\r\nContent-Length: 1000000000\r\n\r\n").await;
    let piece = vec![0; 1 << 20];
    let begun = Instant::now();
    // The system buffers some of it; then the broker takes no more, and at last hangs up.
    while wire.try_say(&piece).await.is_ok() {
        assert!(begun.elapsed() < crate::support::PATIENCE, "the connection is kept");
    }
    assert!(begun.elapsed() >= Duration::from_secs(1));
    assert_eq!(hit(&broker, "write_timeout"), 1);
    broker.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_is_read_whole_is_bounded_after_decompression_too() {
    let gitea = gitea();
    let site =
        Site::new(&gitea).set("limits.message_bytes", "4096").set("limits.message_ratio", "20");
    let broker = Broker::start(&site).await;
    let gzipped = [("Content-Type", "application/proto"), ("Content-Encoding", "gzip")];
    let send = async |plain: &[u8]| {
        let mut wire = Wire::dial(&broker.url).await;
        wire.post(REGISTER, &gzipped, &gzip(plain)).await;
        wire.answer().await
    };
    // Forty bytes that become two thousand, and two hundred that become five thousand.
    refused(send(&[0; 3000]).await, 429, "resource_exhausted", "larger than");
    assert_eq!((hit(&broker, "message_ratio"), hit(&broker, "message_bytes")), (1, 0));
    let noise: Vec<u8> =
        (0..5000_u32).map(|n| (n.wrapping_mul(2_654_435_761) >> 24) as u8).collect();
    let answer = send(&noise).await.unwrap();
    assert_eq!(answer.status, 429);
    assert_eq!((hit(&broker, "message_ratio"), hit(&broker, "message_bytes")), (1, 1));
    let good = send(&encode(Codec::Proto, &request("one"))).await.unwrap();
    assert_eq!(good.status, 200);
    assert_eq!(registers(&gitea).len(), 1);
    broker.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn so_many_registrations_wait_at_a_time() {
    let gitea = gitea();
    let site = Site::new(&gitea).set("limits.registrations", "2");
    let broker = Broker::start(&site).await;
    let gate = gitea.faults().gate_for_all(Route::Register, When::BeforeActing);
    let mut wires = Vec::new();
    for count in 1..=2_usize {
        let mut wire = Wire::dial(&broker.url).await;
        wire.register(&request(&format!("runner-{count}"))).await;
        gate.reached_by(count).await;
        wires.push(wire);
    }
    let mut third = Wire::dial(&broker.url).await;
    third.register(&request("runner-3")).await;
    refused(third.answer().await, 429, "resource_exhausted", "too many runners register");
    assert_eq!(hit(&broker, "registrations"), 1);
    gate.open();
    for mut wire in wires {
        assert_eq!(wire.answer().await.unwrap().status, 200);
    }
    third.register(&request("runner-3")).await;
    assert_eq!(third.answer().await.unwrap().status, 200);
    broker.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_reload_changes_the_limits() {
    let gitea = gitea();
    let site = Site::new(&gitea);
    site.write_config("[limits]\nheaders = 16\n");
    let broker = Broker::start(&site).await;
    let headers: String = (0..17).map(|index| format!("X-{index}: a\r\n")).collect();
    let head = format!("GET /acme HTTP/1.1\r\nHost: broker\r\n{headers}\r\n");
    let mut wire = say(&broker, &head).await;
    assert_eq!(wire.answer().await.unwrap().status, 431);
    site.write_config("[limits]\nheaders = 18\n");
    broker.signal(Signal::Reload).await;
    eventually("it passes", async || {
        let mut wire = say(&broker, &head).await;
        wire.answer().await.unwrap().status == 404
    })
    .await;
    broker.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn who_takes_all_places_of_the_admin_listener_leaves_metrics_and_health() {
    let gitea = gitea();
    let site = Site::new(&gitea).set("limits.admin_connections", "4");
    let broker = Broker::start(&site).await;
    let url = format!("http://{}", broker.admin);
    let get = async |path: &str| {
        let mut wire = Wire::dial(&url).await;
        wire.say(format!("GET {path} HTTP/1.1\r\nHost: broker\r\n\r\n")).await;
        wire.answer().await.map(|answer| answer.status)
    };
    assert_eq!(get("/api/v1/openapi.json").await, Some(403));
    let mut idle = Vec::new();
    for _ in 0..4 {
        let mut wire = Wire::dial(&url).await;
        wire.say("GET /healthz HTTP/1.1\r\nHost: broker\r\n\r\n").await;
        assert_eq!(wire.answer().await.unwrap().status, 200);
        idle.push(wire);
    }
    for path in ["/metrics", "/healthz", "/readyz"] {
        assert_eq!(get(path).await, Some(200), "{path}");
    }
    assert_eq!(get("/api/v1/openapi.json").await, Some(503));
    assert!(hit(&broker, "admin_connections") >= 4);
    // One more than there are spare places is closed, and their time is short.
    let mut more = Vec::new();
    for _ in 0..40 {
        more.push(Wire::dial(&url).await);
    }
    eventually("metrics are there again", async || get("/metrics").await == Some(200)).await;
    drop(idle);
    eventually("all is there again", async || get("/api/v1/openapi.json").await == Some(403)).await;
    broker.stop().await;
}

/// Metrics over the admin listener, by a connection of their own.
async fn metrics(binary: &Binary) -> String {
    let mut wire = Wire::dial(&format!("http://{}", binary.admin)).await;
    wire.say("GET /metrics HTTP/1.1\r\nHost: broker\r\nConnection: close\r\n\r\n").await;
    String::from_utf8(wire.answer().await.expect("metrics").body).unwrap()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn where_file_descriptors_are_few_metrics_and_health_stay_up() {
    let gitea = gitea();
    let site = Site::new(&gitea);
    let binary = Binary::start_with_few_descriptors(&site, 60);
    let line = binary
        .lines()
        .into_iter()
        .find(|line| {
            line["message"].as_str().is_some_and(|text| text.contains("limit of open files"))
        })
        .expect("a warning");
    assert_eq!(line["descriptors"], 60);
    let most = line["connections"].as_u64().unwrap() as usize;
    // Far more than there are descriptors for.
    let (mut wires, mut served) = (Vec::new(), 0);
    for index in 0..150_u8 {
        let mut wire = Wire::dial_from(&binary.url, Ipv4Addr::new(127, 0, 1, index)).await;
        wire.say(GET).await;
        match wire.answer().await {
            Some(answer) if answer.status == 404 => served += 1,
            answer => drop(refused(answer, 503, "unavailable", "limits.connections")),
        }
        wires.push(wire);
    }
    assert_eq!(served, most);
    let text = metrics(&binary).await;
    assert!(hits(&text, "connections") > 0, "{text}");
    let health = std::process::Command::new(env!("CARGO_BIN_EXE_runner-broker"))
        .args(["healthcheck", "--socket", site.path("admin.sock").to_str().unwrap()])
        .env_clear()
        .status();
    assert!(health.unwrap().success());
    drop(wires);
    eventually("there is room again", async || {
        let mut wire = Wire::dial(&binary.url).await;
        wire.say(GET).await;
        wire.answer().await.is_some_and(|answer| answer.status == 404)
    })
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn where_file_descriptors_run_out_the_broker_waits_and_goes_on() {
    let gitea = gitea();
    let site = Site::new(&gitea);
    let binary = Binary::start(&site);
    let mut before = Wire::dial(&binary.url).await;
    before.say(GET).await;
    assert_eq!(before.answer().await.unwrap().status, 404);
    // The way to Gitea that is open by now is used again.
    binary.limit_descriptors(0);
    let mut waiting = Wire::dial(&binary.url).await;
    waiting.say(GET).await;
    binary.wait_for("no connection accepted; is the limit of open files reached?");
    before.say(GET).await;
    assert_eq!(before.answer().await.unwrap().status, 404, "who is connected is served");
    binary.limit_descriptors(8);
    assert_eq!(waiting.answer().await.unwrap().status, 404, "who waited is served");
    assert!(hits(&metrics(&binary).await, "file_descriptors") >= 1);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_idle_connection_ends_after_its_time() {
    let gitea = gitea();
    let site = Site::new(&gitea).set("limits.idle_timeout", "1s");
    let broker = Broker::start(&site).await;
    let begun = Instant::now();
    let mut wire = say(&broker, GET).await;
    assert_eq!(wire.answer().await.unwrap().status, 404);
    assert!(wire.rest().await.is_empty());
    assert!(begun.elapsed() >= Duration::from_secs(1));
    broker.stop().await;
}
