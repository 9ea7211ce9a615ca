use std::sync::Mutex;
use std::time::Duration;

use bytes::Bytes;
use hyper::{HeaderMap, Method, Request, StatusCode};
use secrecy::SecretString;
use tokio::io::AsyncReadExt;
use tokio::net::TcpListener;

use super::*;
use crate::broker::Credentials;
use crate::config::{Scope, Served};
use crate::connect::messages::{TaskResult, UpdateTaskRequest};
use crate::connect::{self, Code, Codec};
use crate::net::UpstreamErrorKind;
use crate::net::test_server::{Answer, TestServer, answer, gitea, recorded, recorded_request};

/// The token of the API, and the token of the runner, that no error may show.
const API_TOKEN: &str = "api-token-canary";
const RUNNER_TOKEN: &str = "runner-token-canary";

fn client(url: &str, api: Option<&str>) -> GiteaClient {
    let mut settings = gitea(url);
    settings.default.api_token = api.map(SecretString::from);
    settings.further = vec![Served {
        section: "gitea.scopes[org:acme]".into(),
        scope: Scope::Org("acme".into()),
        registration_token: None,
        api_token: api.map(SecretString::from),
    }];
    GiteaClient::new(Upstream::new(&settings).unwrap(), &settings)
}

async fn served<F>(handler: F) -> (TestServer, GiteaClient)
where
    F: Fn(Request<Bytes>) -> Answer + Send + Sync + 'static,
{
    let server = TestServer::start(handler).await;
    let client = client(&format!("http://{}/sub", server.address), Some(API_TOKEN));
    (server, client)
}

fn credentials() -> Credentials {
    Credentials { id: 5, uuid: "some-uuid".into(), token: SecretString::from(RUNNER_TOKEN) }
}

fn redirect() -> Answer {
    let mut response = answer(302, "text/html", "<a>moved</a>").unwrap();
    let location = HeaderValue::from_static("https://git.example/api?token=query-canary");
    response.headers_mut().insert(hyper::header::LOCATION, location);
    Some(response)
}

fn too_much(retry_after: &'static str) -> Answer {
    let mut response = answer(429, "text/plain", "slow down").unwrap();
    let wait = HeaderValue::from_static(retry_after);
    response.headers_mut().insert(hyper::header::RETRY_AFTER, wait);
    Some(response)
}

#[tokio::test]
async fn ping_tells_whether_gitea_is_up() {
    let (_server, client) = served(|request| {
        assert_eq!(request.uri(), "/sub/api/actions/ping.v1.PingService/Ping");
        recorded("ping")
    })
    .await;
    assert!(!client.is_up());
    client.ping().await.unwrap();
    assert!(client.is_up());
}

#[tokio::test]
async fn a_silent_gitea_is_down() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let client = client(&format!("http://{}", listener.local_addr().unwrap()), None);
    client.upstream.set_up(true);
    let server = async {
        let (mut tcp, _) = listener.accept().await.unwrap();
        tcp.read_u8().await.unwrap();
        tokio::time::pause();
        tcp
    };
    let (pong, _tcp) = tokio::join!(client.ping(), server);
    assert!(matches!(pong, Err(CallError::Unreachable(_))));
    assert!(!client.is_up());
}

#[tokio::test]
async fn declare_shows_the_credentials_and_names_the_runner() {
    let (_server, client) = served(|request| {
        assert_eq!(request.uri(), "/sub/api/actions/runner.v1.RunnerService/Declare");
        assert_eq!(request.headers()["x-runner-uuid"], "some-uuid");
        assert_eq!(request.headers()["x-runner-token"], RUNNER_TOKEN);
        assert_eq!(*request.body(), recorded_request("declare"));
        recorded("declare")
    })
    .await;
    let labels = ["host".to_owned(), "ubuntu-latest".to_owned()];
    let runner = client.declare(&credentials(), "v0.3.0", &labels).await.unwrap();
    assert_eq!((runner.id, runner.labels.as_slice()), (5, labels.as_slice()));
}

#[tokio::test]
async fn both_ways_to_say_unregistered_are_known() {
    let real = |_| answer(401, "application/json", r#"{"code":"unauthenticated"}"#);
    for (_server, client) in
        [served(|_| recorded("fetch-task-unregistered")).await, served(real).await]
    {
        let error = client.declare(&credentials(), "", &[]).await.unwrap_err();
        assert!(matches!(error, CallError::Unregistered), "{error}");
    }
}

#[tokio::test]
async fn who_asks_for_a_login_does_not_say_unregistered() {
    for body in [r#"{"message":"sign in"}"#, r#"{"code":"UNAUTHORIZED","message":"sign in"}"#] {
        let (_server, client) = served(move |_| answer(401, "application/json", body)).await;
        client.upstream.set_up(true);
        let error = client.declare(&credentials(), "", &[]).await.unwrap_err();
        assert!(matches!(error, CallError::Garbage(_)), "{error}");
        assert!(!client.is_up(), "Gitea itself said nothing");
    }
}

#[tokio::test]
async fn what_gitea_did_not_write_is_garbage() {
    let page = |_| answer(401, "text/html; charset=utf-8", "<html>log in</html>");
    let empty = |_| answer(200, "application/proto", "");
    let wrong = |_| answer(200, "application/proto", "<!doctype>");
    let large = |_| answer(200, "application/proto", vec![0; BODY_LIMIT + 1]);
    for ((_server, client), expected) in [
        (served(|_| redirect()).await, "set gitea.url to the address that answers itself"),
        (served(page).await, "turns the broker away (401 Unauthorized"),
        (served(empty).await, "without naming the runner"),
        (served(wrong).await, "not what Gitea answers"),
        (served(large).await, "larger than"),
    ] {
        let error = client.declare(&credentials(), "", &[]).await.unwrap_err();
        assert!(matches!(error, CallError::Garbage(_)), "{error}");
        assert!(error.to_string().contains(expected), "{error}");
        assert!(!format!("{error} {error:?}").contains("canary"), "{error:?}");
    }
}

#[tokio::test]
async fn a_task_is_reported_cancelled() {
    let (_server, client) = served(|request| {
        let said: UpdateTaskRequest = connect::decode(Codec::Proto, request.body()).unwrap();
        let state = said.state.unwrap();
        assert_eq!((state.id, state.result()), (2, TaskResult::Cancelled));
        assert!(state.stopped_at.unwrap().seconds > 1_700_000_000);
        recorded("update-task-success")
    })
    .await;
    client.report_cancelled(&credentials(), 2).await.unwrap();
}

async fn register(client: &GiteaClient, codec: Codec) -> Result<RegisterAnswer, RegisterFailure> {
    let body = recorded_request(match codec {
        Codec::Proto => "register",
        Codec::Json => "register-json",
    });
    let mut headers = HeaderMap::new();
    headers.insert("x-kept", HeaderValue::from_static("yes"));
    headers.insert("content-length", HeaderValue::from_static("1"));
    headers.insert("content-encoding", HeaderValue::from_static("gzip"));
    client.register(codec, body, headers, &SecretString::from("unused")).await
}

#[tokio::test]
async fn register_answers_in_the_codec_of_the_request() {
    for (codec, name, id) in [(Codec::Proto, "register", 5), (Codec::Json, "register-json", 6)] {
        let (_server, client) = served(move |request| {
            assert_eq!(request.uri(), "/sub/api/actions/runner.v1.RunnerService/Register");
            assert_eq!(request.headers()["x-kept"], "yes");
            assert_eq!(request.headers()["content-type"], codec.content_type());
            assert!(!request.headers().contains_key("content-encoding"));
            assert_eq!(*request.body(), recorded_request(name));
            recorded(name)
        })
        .await;
        let answer = register(&client, codec).await.unwrap();
        assert_eq!(answer.runner.id, id);
        assert!(!format!("{answer:?}").contains(&answer.runner.token));
        assert!(answer.headers.contains_key("accept-encoding"));
        assert!(!answer.headers.contains_key("content-length"));
    }
}

#[tokio::test]
async fn register_decompresses_the_answer() {
    let (_server, client) = served(|_| {
        let (mut head, body) = recorded("register").unwrap().into_parts();
        let plain = http_body_util::BodyExt::collect(body);
        let plain = futures_util::FutureExt::now_or_never(plain).unwrap().unwrap().to_bytes();
        head.headers.insert("content-encoding", HeaderValue::from_static("gzip"));
        head.headers.remove("content-length");
        Some(hyper::Response::from_parts(head, Bytes::from(connect::gzip(&plain)).into()))
    })
    .await;
    let answer = register(&client, Codec::Proto).await.unwrap();
    let said: connect::messages::RegisterResponse =
        connect::decode(Codec::Proto, &answer.body).unwrap();
    assert_eq!(said.runner.unwrap(), answer.runner);
    assert!(!answer.headers.contains_key("content-encoding"));
}

#[tokio::test]
async fn recorded_refusals_are_definite() {
    for (name, expected) in [
        ("register-token-not-found", RegisterRefusal::TokenNotFound),
        ("register-token-invalidated", RegisterRefusal::TokenInvalidated),
        ("register-name-missing", RegisterRefusal::MissingFields),
        ("register-body-garbage", RegisterRefusal::Other),
        ("register-encoding-unknown", RegisterRefusal::Other),
        ("register-content-type-unknown", RegisterRefusal::Other),
        ("register-get", RegisterRefusal::Other),
    ] {
        let (_server, client) = served(move |_| recorded(name)).await;
        match register(&client, Codec::Proto).await {
            Err(RegisterFailure::Refused { refusal, .. }) => {
                assert_eq!(refusal, expected, "{name}")
            }
            other => panic!("{name}: {other:?}"),
        }
    }
}

#[tokio::test]
async fn a_redirected_register_is_refused_with_a_remedy() {
    let (_server, client) = served(|_| redirect()).await;
    match register(&client, Codec::Proto).await {
        Err(RegisterFailure::Refused { refusal: RegisterRefusal::Other, error }) => {
            assert_eq!(error.code, Code::Unavailable);
            assert!(error.message.contains(r#""https://git.example/api""#), "{error}");
        }
        other => panic!("{other:?}"),
    }
}

#[tokio::test]
async fn unclear_outcomes_are_told_apart_from_refusals() {
    let failed = r#"{"code":"unknown","message":"can't update runner token status"}"#;
    let no_token = r#"{"runner":{"id":"6","uuid":"some-uuid"}}"#;
    for (_server, client) in [
        served(move |_| answer(500, "application/json", failed)).await,
        served(|_| answer(502, "text/html", "<html>bad gateway</html>")).await,
        served(|_| answer(200, "text/html", "<html>welcome</html>")).await,
        served(|_| answer(200, "application/json", "{")).await,
        served(|_| recorded("register")).await,
        served(move |_| answer(200, "application/json", no_token)).await,
        served(|_| None).await,
    ] {
        match register(&client, Codec::Json).await {
            Err(RegisterFailure::Unclear(_)) => {}
            other => panic!("{other:?}"),
        }
    }
}

#[tokio::test]
async fn a_register_that_no_one_took_was_not_sent() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let client = client(&format!("http://{}", listener.local_addr().unwrap()), None);
    drop(listener);
    match register(&client, Codec::Proto).await {
        Err(RegisterFailure::NotSent(_)) => {}
        other => panic!("{other:?}"),
    }
}

#[tokio::test]
async fn a_gitea_that_is_left_alone_is_asked_only_whether_it_is_back() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let client = client(&format!("http://{address}"), None);
    drop(listener);
    let wait = loop {
        match register(&client, Codec::Proto).await {
            Err(RegisterFailure::NotSent(error)) if error.kind == UpstreamErrorKind::Open => {
                assert!(!error.sent);
                break error.retry_after.unwrap();
            }
            Err(RegisterFailure::NotSent(_)) => {}
            other => panic!("{other:?}"),
        }
        tokio::time::sleep(Duration::from_millis(10)).await;
    };
    assert!(wait <= Duration::from_secs(1), "{wait:?}");
    let _server = TestServer::start_at(address, |_| recorded("ping")).await;
    client.ping().await.unwrap();
    let error = client.declare(&credentials(), "", &[]).await.unwrap_err();
    assert!(matches!(error, CallError::Garbage(_)), "it is asked again: {error}");
}

#[tokio::test]
async fn a_register_that_is_too_much_says_when_to_ask_again() {
    let (_server, client) = served(|_| too_much("17")).await;
    match register(&client, Codec::Proto).await {
        Err(RegisterFailure::Refused { refusal: RegisterRefusal::Other, error }) => {
            assert_eq!(error.code, Code::Unavailable);
            assert_eq!(error.retry_after, Some(Duration::from_secs(17)));
        }
        other => panic!("{other:?}"),
    }
}

#[tokio::test]
async fn a_register_with_no_answer_in_time_is_unclear() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let client = client(&format!("http://{}", listener.local_addr().unwrap()), None);
    let server = async {
        let (mut tcp, _) = listener.accept().await.unwrap();
        tcp.read_u8().await.unwrap();
        tokio::time::pause();
        tcp
    };
    let begun = tokio::time::Instant::now();
    let (answer, _tcp) = tokio::join!(register(&client, Codec::Proto), server);
    assert!(matches!(answer, Err(RegisterFailure::Unclear(_))), "{answer:?}");
    assert!(begun.elapsed() < REGISTER_LIMIT + Duration::from_secs(1));
}

#[tokio::test]
async fn rest_answers_are_read_as_recorded() {
    let (_server, client) = served(|request| {
        assert_eq!(request.headers()["authorization"], format!("token {API_TOKEN}"));
        let path = request.uri().path().strip_prefix("/sub/api/v1/admin/actions/runners").unwrap();
        recorded(match (request.method(), path) {
            (&Method::DELETE, "/5") => "rest-runner-delete",
            (_, "/9" | "/9223372036854775807") => "rest-runner-delete-again",
            (&Method::GET, "") => "rest-runners-list",
            other => panic!("{other:?}"),
        })
    })
    .await;
    let scope = Scope::Instance;
    assert_eq!(client.delete_runner(&scope, 5).await.unwrap(), DeleteAnswer::Deleted);
    assert_eq!(client.delete_runner(&scope, 9).await.unwrap(), DeleteAnswer::NotFound);
    let Listing { runners, complete } = client.list_all(&scope).await.unwrap();
    assert!(complete);
    assert_eq!(runners.len(), 5);
    let labelled = runners.iter().filter(|one| one.labels.iter().any(|label| label == "host"));
    assert_eq!(labelled.map(|one| one.id).collect::<Vec<_>>(), [5, 6, 7]);
    assert!(runners.iter().all(|one| !one.name.is_empty()));
    client.probe(&scope).await.unwrap();
}

#[tokio::test]
async fn only_giteas_own_answer_is_a_deletion() {
    for (kind, body) in [("text/html", "<html>sign in</html>"), ("application/json", "{}")] {
        let (_server, client) = served(move |_| answer(200, kind, body)).await;
        let error = client.delete_runner(&Scope::Instance, 5).await.unwrap_err();
        assert!(matches!(error, RestError::Unexpected(StatusCode::OK, _)), "{error}");
    }
}

/// Found by fuzzing: the secret was looked for in the text of the answer alone.
#[tokio::test]
async fn a_secret_that_comes_back_escaped_is_hidden_too() {
    let escaped =
        |secret: &str| format!("\\u{:04x}{}", u32::from(secret.as_bytes()[0]), &secret[1..]);
    let message = format!("no {} here, nor {}", escaped(API_TOKEN), escaped(RUNNER_TOKEN));
    let body = format!(r#"{{"code":"not_found","message":"{message}"}}"#);
    let (_server, client) = served(move |_| answer(404, "application/json", body.clone())).await;
    let error = client.list_once(&Scope::Instance).await.err().unwrap().to_string();
    assert!(error.contains("no (hidden) here") && !error.contains(API_TOKEN), "{error}");
    let error = client.declare(&credentials(), "v", &[]).await.unwrap_err().to_string();
    assert!(error.contains("nor (hidden)") && !error.contains(RUNNER_TOKEN), "{error}");
}

/// A list has no names, and would do for any object.
#[tokio::test]
async fn a_list_in_place_of_an_object_is_no_answer_of_gitea() {
    let (_server, client) =
        served(|_| answer(404, "application/json", r#"["Runner not found"]"#)).await;
    let error = client.delete_runner(&Scope::Instance, 5).await.unwrap_err();
    assert!(matches!(error, RestError::Unexpected(StatusCode::NOT_FOUND, _)), "{error}");
    let (_server, client) = served(|_| answer(200, "application/json", r#"["1.26.0"]"#)).await;
    assert!(client.version().await.is_err());
    let (_server, client) =
        served(|_| answer(200, "application/json", r#"[[[5,"a",[],"x",true,false]],1]"#)).await;
    assert!(client.list_once(&Scope::Instance).await.is_err());
}

#[tokio::test]
async fn rest_refusals_say_what_to_set() {
    let org = Scope::Org("acme".into());
    let no_token = client("http://127.0.0.1:1", None);
    let said = no_token.probe(&org).await.unwrap_err().to_string();
    assert!(said.contains(
        "set gitea.scopes[org:acme].api_token_file to one with the scope write:organization"
    ));

    let missing = |_| answer(404, "text/plain", "404 page not found");
    let (_server, old) = served(missing).await;
    let error = old.delete_runner(&org, 5).await.unwrap_err();
    assert!(matches!(error, RestError::Unexpected(StatusCode::NOT_FOUND, _)), "{error}");

    for ((_server, client), expected) in [
        (served(|_| recorded("rest-token-bad")).await, "does not accept the API token"),
        (served(|_| recorded("rest-token-lacks-scope")).await, "required=[write:organization]"),
        (served(|_| recorded("rest-runner-delete-again")).await, "check gitea.scope"),
        (served(|_| redirect()).await, "set gitea.url"),
        (served(|_| answer(500, "text/html", "<html>")).await, "a web page (500"),
        (served(|_| answer(200, "application/json", "[]")).await, "not what Gitea answers"),
    ] {
        let error = client.probe(&org).await.unwrap_err();
        assert!(error.to_string().contains(expected), "{error}");
        assert!(!format!("{error} {error:?}").contains("canary"), "{error:?}");
    }
}

#[tokio::test]
async fn a_rest_api_that_takes_no_more_says_how_long_to_wait() {
    let later = |_| {
        let mut response = too_much("120").unwrap();
        *response.status_mut() = StatusCode::SERVICE_UNAVAILABLE;
        Some(response)
    };
    for ((_server, client), expected) in [
        (served(|_| too_much("90")).await, 90),
        (served(|_| answer(429, "application/json", r#"{"message":"no"}"#)).await, 2),
        (served(later).await, 120),
    ] {
        match client.probe(&Scope::Instance).await.unwrap_err() {
            RestError::Busy { retry_after, .. } => {
                assert_eq!(retry_after, Duration::from_secs(expected))
            }
            other => panic!("{other}"),
        }
    }
}

/// Answers page after page what the test says: ids and the total. What is `None` cannot be read. Returns what
/// was listed, or asked for in vain, and the pages that were asked for.
async fn paged(pages: &'static [Option<(&'static [i64], usize)>]) -> (Result<Listing, ()>, String) {
    let asked = Arc::new(Mutex::new(Vec::new()));
    let kept = Arc::clone(&asked);
    let (_server, client) = served(move |request| {
        let mut asked = kept.lock().unwrap();
        let query = request.uri().query().unwrap();
        asked.push(query.replace("page=", "").replace("&limit=", "/"));
        let Some((ids, total)) = pages.get(asked.len() - 1).copied().flatten() else {
            return answer(200, "application/json", "{\"runners\": [{\"id\": ");
        };
        let runners: Vec<_> = ids.iter().map(|id| serde_json::json!({"id": id})).collect();
        let page = serde_json::json!({"runners": runners, "total_count": total});
        answer(200, "application/json", page.to_string())
    })
    .await;
    let listed = client.list_all(&Scope::Instance).await.map_err(drop);
    let asked = asked.lock().unwrap().join(" ");
    (listed, asked)
}

#[tokio::test]
async fn a_list_that_moves_is_read_again_and_not_for_ever() {
    let ids = |listed: Result<Listing, ()>| {
        let Listing { runners, complete } = listed.unwrap();
        (runners.iter().map(|one| one.id).collect::<Vec<_>>(), complete)
    };
    let (listed, asked) = paged(&[Some((&[], 0))]).await;
    assert_eq!((ids(listed), &*asked), ((vec![], true), "1/50"));
    let (listed, asked) = paged(&[Some((&[2, 1], 2))]).await;
    assert_eq!((ids(listed), &*asked), ((vec![1, 2], true), "1/50"));
    const TWO: Option<(&[i64], usize)> = Some((&[1, 2], 3));
    let (listed, asked) = paged(&[TWO, Some((&[3], 3)), TWO, Some((&[3], 3))]).await;
    assert_eq!((ids(listed), &*asked), ((vec![1, 2, 3], true), "1/50 2/2 1/50 2/2"));
    // One is hidden, every time.
    let (listed, asked) = paged(&[TWO; 10]).await;
    assert_eq!(ids(listed), (vec![1, 2], false));
    assert_eq!(asked.split(' ').count(), 10, "{asked}");
}

#[tokio::test]
async fn a_page_that_cannot_be_read_is_asked_for_in_smaller_ones() {
    let (listed, asked) = paged(&[None, None, Some((&[7], 1))]).await;
    assert_eq!(asked, "1/50 1/10 1/1");
    assert!(listed.unwrap().complete);
    let (listed, asked) = paged(&[None]).await;
    assert_eq!((listed, &*asked), (Err(()), "1/50 1/10 1/1"));
}

#[tokio::test]
async fn few_runners_are_asked_for_by_id_and_many_by_the_list() {
    let asked = Arc::new(Mutex::new(Vec::new()));
    let kept = Arc::clone(&asked);
    let (_server, client) = served(move |request| {
        let target = request.uri().path_and_query().unwrap().as_str();
        let target = target.strip_prefix("/sub/api/v1/admin/actions/runners").unwrap();
        kept.lock().unwrap().push(target.to_owned());
        let shown = |id: usize| serde_json::json!({"id": id, "status": "online"});
        if target == "/404" {
            return answer(404, "application/json", r#"{"message":"Runner not found"}"#);
        }
        if let Some(id) = target.strip_prefix('/') {
            return answer(200, "application/json", shown(id.parse().unwrap()).to_string());
        }
        let page: usize = target.split(['=', '&']).nth(1).unwrap().parse().unwrap();
        let runners: Vec<_> = (1..=150).skip((page - 1) * 50).take(50).map(shown).collect();
        let body = serde_json::json!({"runners": runners, "total_count": 150});
        answer(200, "application/json", body.to_string())
    })
    .await;
    let targets = async |ids: &[i64]| {
        let ids = ids.iter().copied().collect();
        let mut shown: Vec<_> = client.show_runners(&Scope::Instance, &ids).await.unwrap();
        shown.sort_by_key(|one| one.id);
        let shown: Vec<_> = shown.iter().map(|one| one.id).collect();
        (shown, asked.lock().unwrap().drain(..).collect::<Vec<_>>())
    };
    assert_eq!(targets(&[]).await, (vec![], vec![]));
    let first = "?page=1&limit=50".to_owned();
    assert_eq!(targets(&[3, 1]).await, (vec![1, 3], vec![first.clone()]));
    assert_eq!(targets(&[3, 120]).await, (vec![3, 120], vec![first.clone(), "/120".into()]));
    assert_eq!(targets(&[404]).await, (vec![], vec![first, "/404".into()]));
    let (shown, asked) = targets(&[60, 110, 120, 130]).await;
    assert_eq!((shown, asked.len()), (vec![60, 110, 120, 130], 4), "the first page twice");
}

#[tokio::test]
async fn whether_runners_can_be_switched_off_is_learnt_from_the_answer() {
    let shown = r#"{"id":5,"status":"online","busy":true,"disabled":true,"labels":[]}"#;
    for (answered, expected) in [
        (Some((200, shown)), SwitchAnswer::Done),
        (Some((200, r#"{"id":5}"#)), SwitchAnswer::Unsupported),
        (Some((404, r#"{"message":"Runner not found"}"#)), SwitchAnswer::NotFound),
        (None, SwitchAnswer::Unsupported),
    ] {
        let (_server, client) = served(move |request| {
            assert_eq!(request.method(), Method::PATCH);
            assert_eq!(request.uri(), "/sub/api/v1/admin/actions/runners/5");
            assert_eq!(request.headers()["content-type"], "application/json");
            assert_eq!(request.body(), &r#"{"disabled":true}"#);
            match answered {
                Some((status, body)) => answer(status, "application/json", body),
                None => recorded("rest-runner-patch-disable-unsupported"),
            }
        })
        .await;
        let switched = client.switch_runner(&Scope::Instance, 5, true).await.unwrap();
        assert_eq!(switched, expected);
        assert_eq!(client.can_switch(), expected != SwitchAnswer::Unsupported);
    }
}

#[tokio::test]
async fn one_runner_is_shown_with_what_it_does() {
    let (_server, client) = served(|_| recorded("rest-runner-get-busy")).await;
    let runner = client.show_runner(&Scope::Instance, 5).await.unwrap().unwrap();
    assert_eq!((runner.online, runner.busy, runner.disabled), (true, true, false));
    let (_server, client) = served(|_| recorded("rest-runner-delete-again")).await;
    assert_eq!(client.show_runner(&Scope::Instance, 9).await.unwrap(), None);
}
