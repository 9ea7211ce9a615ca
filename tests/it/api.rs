//! The admin API as its users meet it, over TCP and over the Unix socket.

use std::time::Instant;

use runner_broker::sandbox::runner::{RegisterOptions, StandInRunner};
use runner_broker::shutdown::Signal;
use serde_json::{Value, json};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::UnixStream;

use crate::admin::{Answer, Stack};
use crate::capture::Capture;
use crate::support::{ENROLLMENT_TOKEN, PATIENCE, Site, eventually, within};

const ADMIN_TOKEN: &str = "admin-token-of-the-tests-0123456789abcdef";
const SHOWN: &str = "Authorization: Bearer admin-token-of-the-tests-0123456789abcdef";
const JSON: &str = "Content-Type: application/json";

/// A site whose API is open over TCP.
fn open(site: Site) -> Site {
    site.write_secret("admin_token", ADMIN_TOKEN);
    let file = site.path("admin_token");
    site.set("admin.token_file", file.to_str().unwrap())
}

/// Makes a token, and answers it with its secret.
async fn create(stack: &Stack, new: Value) -> Value {
    stack.local("POST", "/api/v1/tokens", &[JSON], &new.to_string()).await.ok(201)
}

async fn events(stack: &Stack, query: &str) -> Vec<Value> {
    let answer = stack.socket("GET", &format!("/api/v1/events{query}")).await.ok(200);
    answer.as_array().unwrap().clone()
}

/// Where the next page is, with the list's own path put before it.
fn next(answer: &Answer) -> Option<String> {
    let link = answer.header("link")?;
    let reference = link.strip_prefix('<')?.strip_suffix(">; rel=\"next\"")?;
    Some(format!("/api/v1/{reference}"))
}

/// All pages of a list.
async fn pages(stack: &Stack, first: &str) -> Vec<Vec<Value>> {
    let mut all = Vec::new();
    let mut path = Some(first.to_owned());
    while let Some(here) = path {
        let answer = stack.socket("GET", &here).await;
        all.push(answer.ok(200).as_array().unwrap().clone());
        path = next(&answer);
    }
    all
}

fn ids(list: &[Value]) -> Vec<&str> {
    list.iter().map(|token| token["id"].as_str().unwrap()).collect()
}

#[tokio::test]
async fn the_admin_token_opens_the_api_and_a_wrong_one_is_noted() {
    let stack = Stack::start_with(open).await;
    let log = Capture::start();
    let path = "/api/v1/status";
    stack.dial("GET", path, &[SHOWN], "").await.ok(200);
    let wrong = "Authorization: Bearer admin-token-of-the-tests-0123456789abcdeF";
    for (lines, noted) in [
        (&[][..], 0),
        (&["Authorization: Basic YTpi"], 0),
        (&[wrong], 1),
        (&["Authorization: Bearer "], 1),
    ] {
        let answer = stack.dial("GET", path, lines, "").await;
        answer.problem(401, "unauthorized");
        assert_eq!(answer.header("www-authenticate"), Some("Bearer"));
        assert_eq!(events(&stack, "?what=admin.refused").await.len(), noted, "{lines:?}");
    }
    let refusal = &events(&stack, "?what=admin.refused").await[0];
    assert_eq!((&refusal["actor"], &refusal["peer"]), (&json!("admin"), &json!("127.0.0.1")));
    assert!(!refusal.to_string().contains("0123456789"), "{refusal}");
    assert!(log.text().contains("admin.refused"), "it is in the log: {}", log.text());
    assert!(!log.text().contains("0123456789"), "{}", log.text());
    stack.dial("GET", "/api/v1/nothing", &[SHOWN], "").await.problem(404, "not-found");
    stack.dial("GET", "/api/v1/nothing", &[], "").await.problem(401, "unauthorized");
}

#[tokio::test]
async fn guesses_are_slowed_down_and_the_right_token_with_them() {
    let stack = Stack::start_with(open).await;
    let (begun, mut guesses) = (Instant::now(), 0);
    let wrong = "Authorization: Bearer a-guess";
    let throttled = loop {
        let answer = stack.dial("GET", "/api/v1/status", &[wrong], "").await;
        match answer.status {
            401 => guesses += 1,
            _ => break answer,
        }
        assert!(begun.elapsed() < PATIENCE, "{guesses} guesses and no end");
    };
    throttled.problem(429, "throttled");
    assert_eq!(throttled.header("retry-after"), Some("1"));
    assert!((30..=31 + begun.elapsed().as_secs()).contains(&guesses), "{guesses}");
    eventually("the right token is not looked at either", async || {
        stack.dial("GET", "/api/v1/status", &[wrong], "").await;
        stack.dial("GET", "/api/v1/status", &[SHOWN], "").await.status == 429
    })
    .await;
    stack.socket("GET", "/api/v1/status").await.ok(200);
    assert_eq!(stack.tcp("GET", "/healthz").await.status, 200);
}

#[tokio::test]
async fn a_new_admin_token_holds_with_the_reload() {
    let stack = Stack::start_with(open).await;
    stack.site.write_secret("admin_token", "another-admin-token-of-32-characters");
    stack.broker.signal(Signal::Reload).await;
    let another = "Authorization: Bearer another-admin-token-of-32-characters";
    eventually("the new token is known", async || {
        stack.dial("GET", "/api/v1/status", &[another], "").await.status == 200
    })
    .await;
    let old = stack.dial("GET", "/api/v1/status", &[SHOWN], "").await;
    old.problem(401, "unauthorized");
}

#[tokio::test]
async fn who_is_not_let_in_gets_nothing_over_tcp() {
    let stack = Stack::start_with(|site| open(site).set("admin.allow_cidrs", "192.0.2.0/24")).await;
    for path in ["/metrics", "/healthz", "/readyz", "/api/v1/status", "/", "/nothing"] {
        let problem = stack.dial("GET", path, &[SHOWN], "").await.problem(403, "address");
        assert!(problem["detail"].as_str().unwrap().contains("127.0.0.1"), "{problem}");
    }
    let bearer = format!("Authorization: Bearer {ENROLLMENT_TOKEN}");
    let exchange = stack.dial("POST", "/api/v1/tokens/exchange", &[&bearer], "").await;
    exchange.problem(403, "address");
    assert_eq!(stack.socket("GET", "/metrics").await.status, 200);
}

#[tokio::test]
async fn a_trusted_proxy_names_the_client_and_the_user() {
    let stack = Stack::start_with(|site| {
        open(site)
            .set("admin.trusted_proxies", "127.0.0.0/8")
            .set("admin.user_header", "X-WebAuth-User")
            .set("admin.allow_cidrs", "203.0.113.0/24")
    })
    .await;
    let told = ["X-Forwarded-For: 198.51.100.1, 203.0.113.9", "X-WebAuth-User: ada"];
    let lines = [SHOWN, JSON, told[0], told[1]];
    let made = stack.dial("POST", "/api/v1/tokens", &lines, "{}").await.ok(201);
    assert_eq!(made["created_by"], "admin:ada");
    let event = &events(&stack, "?what=token.created").await[0];
    assert_eq!((&event["actor"], &event["peer"]), (&json!("admin:ada"), &json!("203.0.113.9")));
    stack
        .dial("GET", "/healthz", &["X-Forwarded-For: 198.51.100.1"], "")
        .await
        .problem(403, "address");
}

#[tokio::test]
async fn nobody_else_is_believed() {
    let stack = Stack::start_with(|site| {
        open(site)
            .set("admin.trusted_proxies", "192.0.2.0/24")
            .set("admin.user_header", "X-WebAuth-User")
    })
    .await;
    let lines = [SHOWN, JSON, "X-Forwarded-For: 203.0.113.9", "X-WebAuth-User: ada"];
    stack.dial("POST", "/api/v1/tokens", &lines, "{}").await.ok(201);
    let event = &events(&stack, "?what=token.created").await[0];
    assert_eq!((&event["actor"], &event["peer"]), (&json!("admin"), &json!("127.0.0.1")));
    create(&stack, json!({})).await;
    let event = &events(&stack, "?what=token.created").await[0];
    assert_eq!((&event["actor"], &event["peer"]), (&json!("socket"), &Value::Null));
}

#[tokio::test]
async fn a_token_is_made_changed_and_ended() {
    let stack = Stack::start_with(open).await;
    let new = json!({
        "kind": "single_use", "description": "for the builders", "labels": ["host"],
        "name_pattern": "builder-*", "max_runners": 2, "allowed_cidrs": ["127.0.0.1"],
        "expires_in": "30d",
    });
    let lines = [SHOWN, JSON];
    let answer = stack.dial("POST", "/api/v1/tokens", &lines, &new.to_string()).await;
    let made = answer.ok(201);
    let id = made["id"].as_str().unwrap();
    let own = format!("/api/v1/tokens/{id}");
    assert_eq!(answer.header("location"), Some(format!("tokens/{id}").as_str()));
    assert_eq!(answer.header("cache-control"), Some("no-store"));
    let secret = made["secret"].as_str().unwrap();
    assert!(secret.starts_with(&format!("rb_{id}_")), "{id}");

    let mut shown = made.clone();
    shown.as_object_mut().unwrap().remove("secret");
    assert_eq!(stack.socket("GET", &own).await.ok(200), shown);
    for (field, value) in [
        ("kind", json!("single_use")),
        ("state", json!("active")),
        ("origin", json!("created")),
        ("scope", json!("instance")),
        ("allowed_cidrs", json!(["127.0.0.1/32"])),
        ("created_by", json!("admin")),
        ("max_uses", Value::Null),
        ("live_runners", json!(0)),
    ] {
        assert_eq!(shown[field], value, "{field}");
    }
    let ends = humantime::parse_rfc3339(shown["expires_at"].as_str().unwrap()).unwrap();
    let left = ends.duration_since(std::time::SystemTime::now()).unwrap().as_secs();
    assert!((29 * 86_400..=30 * 86_400).contains(&left), "{left}");

    for (change, field, value) in [
        ("disable", "state", "disabled"),
        ("enable", "state", "active"),
        ("pin", "kind", "reusable"),
        ("unpin", "kind", "single_use"),
        ("disable?cascade=true", "state", "disabled"),
    ] {
        let now = stack.dial("POST", &format!("{own}/{change}"), &[SHOWN], "").await.ok(200);
        assert_eq!(now[field], value, "{change}");
    }
    let rotated = stack.socket("POST", &format!("{own}/rotate?overlap=1h")).await;
    assert_eq!(rotated.header("cache-control"), Some("no-store"));
    let fresh = rotated.ok(200)["secret"].as_str().unwrap().to_owned();
    assert!(fresh.starts_with(&format!("rb_{id}_")) && fresh != secret);

    for path in ["/api/v1/tokens", "/api/v1/events", "/api/v1/status", "/api/v1/runners", &own] {
        let body = stack.socket("GET", path).await.body;
        for secret in [secret, &fresh, ADMIN_TOKEN, ENROLLMENT_TOKEN] {
            assert!(!body.contains(secret.rsplit('_').next().unwrap()), "{path}: {body}");
        }
    }
    let ended = stack.socket("DELETE", &own).await.ok(200);
    assert_eq!((&ended["id"], &ended["state"]), (&json!(id), &json!("deleted")));
    for (method, path) in [
        ("GET", own.clone()),
        ("DELETE", own.clone()),
        ("POST", format!("{own}/enable")),
        ("POST", format!("{own}/rotate")),
    ] {
        stack.socket(method, &path).await.problem(404, "unknown-token");
    }
    let list = stack.socket("GET", "/api/v1/tokens").await.ok(200);
    assert_eq!(ids(list.as_array().unwrap()), ["settings"]);
    let mut told: Vec<_> = events(&stack, &format!("?token_id={id}"))
        .await
        .iter()
        .map(|event| event["what"].as_str().unwrap().to_owned())
        .collect();
    told.reverse();
    let expected =
        ["created", "disabled", "enabled", "pinned", "unpinned", "disabled", "rotated", "deleted"];
    assert_eq!(told, expected.map(|what| format!("token.{what}")));
}

#[tokio::test]
async fn a_change_that_was_begun_is_whole_where_the_client_hangs_up() {
    let stack = Stack::start().await;
    let request = "POST /api/v1/tokens HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\n\
                   Content-Length: 2\r\n\r\n{}";
    let mut clients = Vec::new();
    for _ in 0..30 {
        let mut client = UnixStream::connect(stack.site.path("admin.sock")).await.unwrap();
        client.write_all(request.as_bytes()).await.unwrap();
        clients.push(client);
    }
    // Changes come one after the other: when the first is answered, another one is under way.
    within(clients[0].read_u8()).await.unwrap();
    drop(clients);
    create(&stack, json!({})).await;
    let noted = events(&stack, "?what=token.created&limit=1000").await.len();
    let listed = stack.socket("GET", "/api/v1/tokens").await.ok(200).as_array().unwrap().len();
    assert_eq!(noted, listed - 1, "all but the declared one");
}

#[tokio::test]
async fn a_declared_token_is_changed_in_the_settings_only() {
    let stack = Stack::start().await;
    let own = "/api/v1/tokens/settings";
    assert_eq!(stack.socket("GET", own).await.ok(200)["origin"], "declared");
    for change in ["enable", "disable", "pin", "unpin", "rotate"] {
        let answer = stack.socket("POST", &format!("{own}/{change}")).await;
        answer.problem(409, "declared");
    }
    let problem = stack.socket("DELETE", own).await.problem(409, "declared");
    assert!(problem["detail"].as_str().unwrap().contains("SIGHUP"), "{problem}");
}

#[tokio::test]
async fn what_cannot_be_is_told_field_by_field() {
    let stack = Stack::start().await;
    let new = json!({
        "kind": "eternal", "scope": "org:other", "labels": ["a:b"], "max_uses": 0,
        "allowed_cidrs": ["10.0.0.0/33"], "expires_at": "2001-01-01T00:00:00Z",
    });
    let answer = stack.local("POST", "/api/v1/tokens", &[JSON], &new.to_string()).await;
    let problem = answer.problem(422, "invalid");
    let mut fields: Vec<_> = problem["errors"]
        .as_array()
        .unwrap()
        .iter()
        .map(|error| error["field"].as_str().unwrap())
        .collect();
    fields.sort_unstable();
    assert_eq!(fields, ["allowed_cidrs", "expires_at", "kind", "labels", "max_uses", "scope"]);
    let made = create(&stack, json!({})).await;
    let path = format!("/api/v1/tokens/{}/rotate?overlap=soon", made["id"].as_str().unwrap());
    let problem = stack.socket("POST", &path).await.problem(422, "invalid");
    assert_eq!(problem["errors"][0]["field"], "overlap");
}

#[tokio::test]
async fn what_cannot_be_read_is_a_problem_too() {
    let stack = Stack::start().await;
    for (body, named) in [
        ("{", "JSON"),
        (r#"{"max_uses": "many"}"#, "max_uses"),
        (r#"{"max_usage": 1}"#, "max_usage"),
        (r#"{"labels": [1]}"#, "labels[0]"),
        ("", "JSON"),
    ] {
        let answer = stack.local("POST", "/api/v1/tokens", &[JSON], body).await;
        let problem = answer.problem(400, "request");
        assert!(problem["detail"].as_str().unwrap().contains(named), "{body}: {problem}");
    }
    stack.local("POST", "/api/v1/tokens", &[], "{}").await.problem(415, "media-type");
    let long = json!({ "description": "x".repeat(64 * 1024) }).to_string();
    let answer = stack.local("POST", "/api/v1/tokens", &[JSON], &long).await;
    answer.problem(413, "too-large");
    for query in [
        "tokens?limit=0",
        "tokens?limit=1001",
        "tokens?limit=-1",
        "tokens?cursor=x",
        "tokens?what=token.created",
        "runners?cursor=x",
        "runners?state=idle",
        "events?what=token",
        "events?runner_id=x",
        "events?limit=1&limit=2",
    ] {
        stack.socket("GET", &format!("/api/v1/{query}")).await.problem(400, "request");
    }
    let refused = stack.socket("PUT", "/api/v1/tokens").await;
    refused.problem(405, "method");
    assert_eq!(refused.header("allow"), Some("GET,HEAD,POST"));
}

#[tokio::test]
async fn a_list_is_read_page_by_page_to_its_end() {
    let stack = Stack::start().await;
    let mut made = vec!["settings".to_owned()];
    for _ in 0..4 {
        made.push(create(&stack, json!({})).await["id"].as_str().unwrap().to_owned());
    }
    // Those made in one millisecond are in the order of their ids.
    let whole = pages(&stack, "/api/v1/tokens").await;
    assert_eq!(whole.len(), 1, "no link to a page that is empty");
    let in_order: Vec<_> = ids(&whole[0]).into_iter().map(str::to_owned).collect();
    let sorted = |mut list: Vec<String>| {
        list.sort_unstable();
        list
    };
    assert_eq!(sorted(in_order.clone()), sorted(made));
    let by_two = pages(&stack, "/api/v1/tokens?limit=2").await;
    assert_eq!(by_two.iter().map(Vec::len).collect::<Vec<_>>(), [2, 2, 1]);
    assert_eq!(ids(&by_two.concat()), in_order);

    // A cursor holds also when its token is no more.
    let first = stack.socket("GET", "/api/v1/tokens?limit=3").await;
    stack.socket("DELETE", &format!("/api/v1/tokens/{}", in_order[2])).await.ok(200);
    let rest = stack.socket("GET", &next(&first).unwrap()).await.ok(200);
    assert_eq!(ids(rest.as_array().unwrap()), in_order[3..]);

    let created = pages(&stack, "/api/v1/events?what=token.created&limit=1").await;
    assert_eq!(created.len(), 4);
    let seqs: Vec<_> =
        created.concat().iter().map(|event| event["seq"].as_i64().unwrap()).collect();
    assert!(seqs.is_sorted_by(|a, b| a > b), "{seqs:?}");
}

#[tokio::test]
async fn runners_are_read_page_by_page() {
    let stack = Stack::start().await;
    let mut made = Vec::new();
    for name in ["a", "b", "c"] {
        made.push(stack.runner(name).await.credentials.id);
    }
    let by_two = pages(&stack, "/api/v1/runners?limit=2").await;
    assert_eq!(by_two.iter().map(Vec::len).collect::<Vec<_>>(), [2, 1]);
    let listed: Vec<_> = by_two.concat().iter().map(|one| one["id"].as_i64().unwrap()).collect();
    assert_eq!(listed, made);
    let by_one = pages(&stack, "/api/v1/runners?token_id=settings&limit=1").await;
    assert_eq!(by_one.iter().map(Vec::len).collect::<Vec<_>>(), [1, 1, 1]);
    assert_eq!(pages(&stack, "/api/v1/runners?token_id=nobody").await.concat().len(), 0);
}

#[tokio::test]
async fn a_holder_exchanges_a_token_where_no_admin_token_is_set() {
    let stack = Stack::start().await;
    let parent = create(&stack, json!({ "labels": ["host"] })).await;
    let bearer = format!("Authorization: Bearer {}", parent["secret"].as_str().unwrap());
    let path = "/api/v1/tokens/exchange";
    let body = json!({ "ttl": "5m", "description": "for one job" }).to_string();
    let answer = stack.dial("POST", path, &[&bearer, JSON], &body).await;
    let child = answer.ok(201);
    assert_eq!(answer.header("cache-control"), Some("no-store"));
    assert_eq!((&child["kind"], &child["origin"]), (&json!("single_use"), &json!("exchanged")));
    assert_eq!((&child["parent_id"], &child["labels"]), (&parent["id"], &json!(["host"])));
    let secret = child["secret"].as_str().unwrap();
    let program = StandInRunner::new(&stack.broker.url);
    program.register(&RegisterOptions::new(secret.into(), "a")).await.unwrap();
    program.register(&RegisterOptions::new(secret.into(), "b")).await.unwrap_err();
    for token in [&parent, &child] {
        let path = format!("/api/v1/runners?token_id={}", token["id"].as_str().unwrap());
        assert_eq!(stack.socket("GET", &path).await.ok(200)[0]["name"], "a");
    }

    stack.dial("POST", path, &[&bearer], "").await.ok(201);
    stack.dial("POST", path, &[&bearer, JSON], "null").await.ok(201);
    stack.local("POST", path, &[&bearer], "").await.ok(201);
    for (lines, body, status, kind) in [
        (&[bearer.as_str(), JSON][..], r#"{"labels":["gpu"]}"#, 403, "not-allowed"),
        (&[&bearer, JSON], r#"{"ttl":"2h"}"#, 422, "invalid"),
        (&[&bearer, JSON], r#"{"ttl":"soon"}"#, 422, "invalid"),
        (&[&bearer, JSON], r#"{"max_uses":2}"#, 400, "request"),
        (&[&bearer], "{}", 415, "media-type"),
        (&[], "", 401, "unauthorized"),
    ] {
        stack.dial("POST", path, lines, body).await.problem(status, kind);
    }
    let own = format!("/api/v1/tokens/{}", parent["id"].as_str().unwrap());
    stack.socket("POST", &format!("{own}/disable")).await.ok(200);
    stack.dial("POST", path, &[&bearer], "").await.problem(403, "not-allowed");
}

#[tokio::test]
async fn an_exchange_tells_no_unknown_token_from_a_wrong_one_and_slows_down() {
    let stack = Stack::start_with(open).await;
    let parent = create(&stack, json!({})).await;
    let id = parent["id"].as_str().unwrap();
    let path = "/api/v1/tokens/exchange";
    let wrong = format!("Authorization: Bearer rb_{id}_{}", "a".repeat(40));
    let unknown = format!("Authorization: Bearer rb_Unknown123_{}", "a".repeat(40));
    let said = [
        stack.dial("POST", path, &[&wrong], "").await.problem(401, "unauthorized"),
        stack.dial("POST", path, &[&unknown], "").await.problem(401, "unauthorized"),
        stack.dial("POST", path, &[SHOWN], "").await.problem(401, "unauthorized"),
    ];
    assert!(said.iter().all(|problem| *problem == said[0]), "{said:?}");
    let begun = Instant::now();
    let throttled = loop {
        let answer = stack.dial("POST", path, &[&wrong], "").await;
        if answer.status != 401 {
            break answer;
        }
        assert!(begun.elapsed() < PATIENCE, "no end of guesses");
    };
    throttled.problem(429, "throttled");
    assert!(throttled.header("retry-after").is_some());
    stack.dial("GET", "/api/v1/status", &[SHOWN], "").await.ok(200);
}

#[tokio::test]
async fn a_token_is_deleted_with_its_runners() {
    let stack = Stack::start().await;
    let made = create(&stack, json!({})).await;
    let program = StandInRunner::new(&stack.broker.url);
    let options = RegisterOptions::new(made["secret"].as_str().unwrap().into(), "a");
    let runner = program.register(&options).await.unwrap();
    runner.declare(&["host"]).await.unwrap();
    let own = format!("/api/v1/tokens/{}", made["id"].as_str().unwrap());
    let now = stack.socket("GET", &own).await.ok(200);
    assert_eq!((&now["uses"], &now["live_runners"]), (&json!(1), &json!(1)));
    let shown = stack.socket("GET", "/api/v1/runners/a").await.ok(200);
    assert_eq!(shown["parent_id"], made["id"]);
    stack.socket("DELETE", &format!("{own}?cascade=true")).await.ok(200);
    eventually("the runner is gone", async || stack.gitea.runners().is_empty()).await;
}

#[tokio::test]
async fn the_document_describes_what_is_there() {
    let stack = Stack::start_with(open).await;
    let document = stack.dial("GET", "/api/v1/openapi.json", &[SHOWN], "").await.ok(200);
    for (path, methods) in document["paths"].as_object().unwrap() {
        for method in methods.as_object().unwrap().keys() {
            let path = path.replace("{id}", "nobody");
            let answer = stack.socket(&method.to_uppercase(), &path).await;
            let nowhere = answer.body.contains("urn:runner-broker:not-found");
            assert!(answer.status != 405 && !nowhere, "{method} {path}: {}", answer.body);
        }
    }
    let status = stack.socket("GET", "/api/v1/status").await.ok(200);
    let counts = json!({ "active": 1, "disabled": 0, "expired": 0, "used_up": 0 });
    assert_eq!(status["enrollment_tokens"], counts);
}
