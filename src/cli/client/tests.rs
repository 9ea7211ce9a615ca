use std::path::PathBuf;
use std::sync::{Arc, Mutex};

use super::*;
use crate::net::test_server::{Answer, TestServer, answer, authority};

fn args(url: &str) -> BrokerArgs {
    BrokerArgs {
        socket: None,
        url: Some(url.into()),
        admin_token_file: None,
        ca_file: None,
        client_cert: None,
        client_key: None,
        settings: SettingsArgs::default(),
    }
}

fn file(folder: &tempfile::TempDir, name: &str, text: &str) -> PathBuf {
    let path = folder.path().join(name);
    std::fs::write(&path, text).unwrap();
    path
}

async fn failure(args: &BrokerArgs) -> Failure {
    let asked = args.broker().unwrap().get::<serde_json::Value>("/api/v1/status").await;
    asked.expect_err("no good answer")
}

/// What a command says where this is answered.
async fn told(status: u16, headers: &'static [(&str, &str)], body: &'static str) -> (u8, String) {
    let server = TestServer::start(move |_| {
        let mut answer = answer(status, "text/html", body)?;
        for (name, value) in headers {
            answer.headers_mut().insert(*name, HeaderValue::from_static(value));
        }
        Some(answer)
    })
    .await;
    let url = format!("http://{}", server.address);
    let failure = failure(&args(&url)).await;
    (failure.code, failure.message.replace(&url, "[url]"))
}

#[tokio::test]
async fn the_token_goes_along_over_tls_and_below_a_sub_path() {
    let (pem, tls) = authority(&[]);
    let server = TestServer::start_tls(tls, |request| {
        let let_in = request.headers().get("authorization").is_some_and(|v| v == "Bearer secret");
        let body = if let_in && request.uri().path() == "/admin/api/v1/status" { "1" } else { "" };
        answer(200, "application/json", body)
    })
    .await;
    let folder = tempfile::tempdir().unwrap();
    let mut args = args(&format!("https://localhost:{}/admin/", server.address.port()));
    args.ca_file = Some(file(&folder, "ca.pem", &pem));
    args.admin_token_file = Some(file(&folder, "token", "secret\n"));
    let asked = args.broker().unwrap().get::<u32>("/api/v1/status").await;
    assert_eq!(asked, Ok(1));

    // Nobody knows this authority, or this machine knows none at all.
    args.ca_file = Some(file(&folder, "other.pem", &authority(&[]).0));
    let failure = failure(&args).await;
    assert_eq!(failure.code, Failure::UNAVAILABLE);
    assert!(failure.message.contains("UnknownIssuer"), "{}", failure.message);
    assert!(failure.message.contains("--ca-file"), "{}", failure.message);
}

#[tokio::test]
async fn what_is_no_broker_is_told_apart() {
    let (code, text) = told(302, &[("location", "https://sso/in?state=canary")], "").await;
    assert_eq!(code, Failure::UNAVAILABLE);
    assert!(text.starts_with("[url] sends to https://sso/in instead"), "{text}");
    let (code, text) = told(200, &[], "<html>").await;
    assert_eq!(code, Failure::UNAVAILABLE);
    assert!(text.contains("a web page") && text.contains("--url"), "{text}");
    let (code, text) = told(429, &[("retry-after", "7")], "slow down").await;
    assert_eq!(code, Failure::UNAVAILABLE);
    assert!(text.ends_with("try again in 7 s"), "{text}");
    let (code, text) = told(403, &[], "<html>").await;
    assert_eq!(code, Failure::FORBIDDEN);
    assert!(text.contains("the proxy in front of it"), "{text}");
    let (code, text) = told(204, &[("content-type", "text/plain")], "").await;
    assert_eq!(code, Failure::UNAVAILABLE);
    assert!(text.contains("no broker of this version"), "{text}");
}

#[tokio::test]
async fn a_problem_of_the_broker_becomes_an_exit_code() {
    for (status, code) in [
        (400, Failure::USAGE),
        (401, Failure::FORBIDDEN),
        (403, Failure::FORBIDDEN),
        (404, Failure::USAGE),
        (409, Failure::USAGE),
        (422, Failure::USAGE),
        (429, Failure::UNAVAILABLE),
        (500, Failure::INTERNAL),
        (502, Failure::INTERNAL),
        (503, Failure::UNAVAILABLE),
    ] {
        let problem = r#"{"type":"urn:x","title":"No","status":0,"detail":"a reason\u001b[31m"}"#;
        let (given, text) = told(status, &[], problem).await;
        assert_eq!(given, code, "{status}");
        if status == 401 {
            assert!(text.contains("--admin-token-file"), "{text}");
        } else {
            assert_eq!(text, "a reason\u{fffd}[31m");
        }
    }
}

#[tokio::test]
async fn a_token_that_is_not_taken_is_told_from_none() {
    let server = TestServer::start(|_| {
        answer(
            401,
            "application/problem+json",
            r#"{"type":"x","title":"","status":401,"detail":""}"#,
        )
    })
    .await;
    let mut args = args(&format!("http://{}", server.address));
    assert!(failure(&args).await.message.contains("asks for its admin token"));
    let folder = tempfile::tempdir().unwrap();
    args.admin_token_file = Some(file(&folder, "token", "canary"));
    let failure = failure(&args).await;
    assert!(failure.message.contains("does not take this admin token"), "{failure:?}");
    assert!(!failure.message.contains("canary"), "{failure:?}");
}

#[tokio::test]
async fn lists_are_read_page_after_page() {
    let asked = Arc::new(Mutex::new(Vec::new()));
    let journal = Arc::clone(&asked);
    let server = TestServer::start(move |request| -> Answer {
        let target = request.uri().to_string();
        let (body, next) = match target.split_once("cursor=").map(|(_, cursor)| cursor) {
            None => ("[1,2]", Some("<?limit=1000&cursor=b>; rel=\"next\"")),
            Some("b") => ("[3]", Some("</behind/a/proxy?cursor=c>; rel=\"next\"")),
            Some(_) => ("[4]", None),
        };
        journal.lock().unwrap().push(target);
        let mut answer = answer(200, "application/json", body)?;
        if let Some(next) = next {
            answer.headers_mut().insert("link", HeaderValue::from_static(next));
        }
        Some(answer)
    })
    .await;
    let broker = args(&format!("http://{}/sub", server.address)).broker().unwrap();
    let filters = [("what", Some("a b")), ("none", None)];
    let all: Vec<u32> = broker.list("/list", &filters, usize::MAX).await.unwrap();
    assert_eq!(all, [1, 2, 3, 4]);
    assert_eq!(
        asked.lock().unwrap().split_off(0),
        ["/sub/list?limit=1000&what=a%20b", "/sub/list?limit=1000&cursor=b", "/sub/list?cursor=c"]
    );
    let some: Vec<u32> = broker.list("/list", &[], 3).await.unwrap();
    assert_eq!(some, [1, 2, 3]);
    assert_eq!(asked.lock().unwrap()[0], "/sub/list?limit=3");
    assert_eq!(asked.lock().unwrap().len(), 2, "what is not wanted is not asked for");
}

#[tokio::test]
async fn a_list_without_end_is_noticed() {
    let server = TestServer::start(|_| {
        let mut answer = answer(200, "application/json", "[1]")?;
        let next = HeaderValue::from_static("<?cursor=same>; rel=\"next\"");
        answer.headers_mut().insert("link", next);
        Some(answer)
    })
    .await;
    let broker = args(&format!("http://{}", server.address)).broker().unwrap();
    let all = broker.list::<u32>("/list", &[], usize::MAX).await;
    assert_eq!(all.expect_err("no end").code, Failure::INTERNAL);
}

#[test]
fn an_address_is_checked_and_never_repeated() {
    for url in ["http://u:canary@host", "canary", "ftp://canary", "http://", "http://h/?canary"] {
        let failure = args(url).broker().err().expect("no address");
        assert_eq!(failure.code, Failure::USAGE, "{url}");
        assert!(failure.message.starts_with("--url takes "), "{failure:?}");
        assert!(!failure.message.contains("canary"), "{failure:?}");
    }
    let mut args = args("http://host");
    args.admin_token_file = Some("/missing/token".into());
    let failure = args.broker().err().expect("no token");
    assert_eq!(failure.code, Failure::SETTINGS);
    assert!(failure.message.starts_with("--admin-token-file: /missing/token"), "{failure:?}");
    args.admin_token_file = None;
    args.url = Some("https://host".into());
    args.ca_file = Some("/missing/ca".into());
    let failure = args.broker().err().expect("no authority");
    assert_eq!(failure.code, Failure::SETTINGS);
    assert!(failure.message.starts_with("--ca-file /missing/ca"), "{failure:?}");
}

#[test]
fn only_the_next_page_is_followed() {
    let next = |link: &'static str| {
        let mut headers = hyper::HeaderMap::new();
        headers.insert("link", HeaderValue::from_static(link));
        answer::next_page(&headers)
    };
    assert_eq!(next("</a?cursor=1>; rel=\"next\"").as_deref(), Some("cursor=1"));
    assert_eq!(next("</a?cursor=1>; rel=\"prev\""), None);
    assert_eq!(next("/a?cursor=1"), None);
}
