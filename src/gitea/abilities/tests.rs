use hyper::{Request, Response};
use secrecy::SecretString;

use super::*;
use crate::config::Scope;
use crate::net::test_server::{Answer as Answered, TestServer, answer, gitea, recorded};
use crate::net::upstream::Upstream;

const API_TOKEN: &str = "api-token-canary";
const RUNNERS: &str = "admin/actions/runners";
const RUNNER: &str = "admin/actions/runners/0";
const TOKEN: &str = "admin/actions/runners/registration-token";
const LEGACY: &str = "admin/runners/registration-token";

async fn served<F>(handler: F) -> (TestServer, GiteaClient)
where
    F: Fn(Request<Bytes>) -> Answered + Send + Sync + 'static,
{
    let server = TestServer::start(handler).await;
    let mut settings = gitea(&format!("http://{}", server.address));
    settings.default.api_token = Some(SecretString::from(API_TOKEN));
    let client = GiteaClient::new(Upstream::new(&settings).unwrap(), &settings);
    (server, client)
}

/// What Gitea's router says to a method that a path does not have.
fn not_allowed(methods: &[&str]) -> Answered {
    let mut response = Response::builder().status(405);
    for method in methods {
        response = response.header("allow", *method);
    }
    Some(response.body(Bytes::new().into()).unwrap())
}

fn version(text: &str) -> Answered {
    answer(200, "application/json", format!(r#"{{"version":"{text}"}}"#))
}

/// A Gitea of this version, with the methods of these paths.
fn router(
    told: &'static str,
    routes: &'static [(&'static str, &'static [&'static str])],
) -> impl Fn(Request<Bytes>) -> Answered {
    move |request| {
        let path = request.uri().path();
        if path == "/api/actions/runner.v1.RunnerService/Deregister" {
            return recorded("deregister-unknown-to-gitea");
        }
        let path = path.strip_prefix("/api/v1/").unwrap();
        if path == "version" {
            return version(told);
        }
        assert_eq!(request.method(), Method::PUT, "{path}");
        assert!(request.body().is_empty());
        assert!(!request.headers().contains_key("authorization"), "no right is needed");
        match routes.iter().find(|(known, _)| *known == path) {
            Some((_, methods)) => not_allowed(methods),
            None => answer(404, "text/plain; charset=utf-8", "404 page not found\n"),
        }
    }
}

fn known(version: &str, manage: bool, mint: Minting, switch_off: bool) -> Abilities {
    Abilities {
        version: Some(version.into()),
        list: Some(manage),
        delete: Some(manage),
        mint: Some(mint),
        switch_off: Some(switch_off),
        deregister: Some(false),
    }
}

#[tokio::test]
async fn each_version_is_known_by_its_routes_and_not_by_its_number() {
    for (gitea, expected) in [
        (router("odd", &[]), known("odd", false, Minting::No, false)),
        (router("odd", &[(LEGACY, &["GET"])]), known("odd", false, Minting::Get, false)),
        (
            router(
                "odd",
                &[
                    (RUNNERS, &["GET"]),
                    (RUNNER, &["GET", "DELETE"]),
                    (TOKEN, &["POST", "GET", "DELETE"]),
                    (LEGACY, &["GET"]),
                ],
            ),
            known("odd", true, Minting::Post, false),
        ),
        (
            router(
                "1.21.0",
                &[(RUNNERS, &["GET"]), (RUNNER, &["DELETE, GET, PATCH"]), (TOKEN, &["POST"])],
            ),
            known("1.21.0", true, Minting::Post, true),
        ),
    ] {
        let (_server, client) = served(gitea).await;
        assert_eq!(*client.abilities(), Abilities::default());
        let found = client.probe_abilities(&Scope::Instance).await.unwrap();
        assert_eq!(*found, expected);
        assert_eq!(*client.abilities(), expected);
        assert_eq!(client.can_delete(&Scope::Instance), expected.delete == Some(true));
        assert_eq!(client.can_switch(), expected.switch_off == Some(true));
    }
}

#[tokio::test]
async fn an_organization_of_an_old_gitea_has_get_on_its_own_path() {
    let gitea = router("1.23.8", &[("orgs/acme/actions/runners/registration-token", &["GET"])]);
    let (_server, client) = served(gitea).await;
    let found = client.probe_abilities(&Scope::Org("acme".into())).await.unwrap();
    assert_eq!(*found, known("1.23.8", false, Minting::Get, false));
}

#[tokio::test]
async fn where_a_proxy_answers_the_release_decides() {
    let html = |status: u16| answer(status, "text/html", "<html>no</html>");
    let bare = || not_allowed(&[]);
    for proxy in [
        Box::new(move || html(405)) as Box<dyn Fn() -> Answered + Send + Sync>,
        Box::new(move || html(403)),
        Box::new(move || html(404)),
        Box::new(move || html(502)),
        Box::new(bare),
        Box::new(|| None),
    ] {
        let proxy = std::sync::Arc::new(proxy);
        for (told, expected) in [
            ("1.23.8", known("1.23.8", false, Minting::Get, false)),
            ("1.25.3", known("1.25.3", true, Minting::Post, false)),
            ("1.27.1", known("1.27.1", true, Minting::Post, true)),
            (
                "development",
                Abilities { version: Some("development".into()), ..Abilities::default() },
            ),
        ] {
            let proxy = std::sync::Arc::clone(&proxy);
            let (_server, client) = served(move |request| match request.method() {
                &Method::GET => version(told),
                _ => proxy(),
            })
            .await;
            let found = client.probe_abilities(&Scope::Instance).await.unwrap();
            assert_eq!(*found, Abilities { deregister: None, ..expected });
            let unknown = found.delete.is_none();
            assert!(
                !unknown || client.can_delete(&Scope::Instance),
                "what is not known may be tried"
            );
        }
    }
}

#[tokio::test]
async fn a_gitea_that_wants_a_sign_in_is_asked_with_the_token() {
    let (_server, client) = served(|request| {
        let forbidden = r#"{"message":"Only signed in user is allowed to call APIs."}"#;
        match request.headers().get("authorization") {
            None => answer(403, "application/json", forbidden),
            Some(token) => {
                assert_eq!(token, &format!("token {API_TOKEN}"));
                not_allowed(&["GET", "DELETE", "POST"])
            }
        }
    })
    .await;
    let found = client.probe_abilities(&Scope::Instance).await.unwrap();
    assert_eq!((found.version.as_ref(), found.delete), (None, Some(true)));
    assert_eq!(found.mint, Some(Minting::Post));
}

#[tokio::test]
async fn what_was_learnt_holds_for_its_version() {
    let told = std::sync::Arc::new(std::sync::Mutex::new("dev-1"));
    let tells = std::sync::Arc::clone(&told);
    let (_server, client) = served(move |request| match *request.method() {
        Method::GET => version(*tells.lock().unwrap()),
        Method::DELETE => not_allowed(&["GET"]),
        _ => answer(502, "text/html", "<html>"),
    })
    .await;
    let scope = Scope::Instance;
    client.probe_abilities(&scope).await.unwrap();
    assert!(client.can_delete(&scope));
    client.delete_runner(&scope, 5).await.unwrap_err();
    assert!(!client.can_delete(&scope), "the router said so");
    client.probe_abilities(&scope).await.unwrap();
    assert!(!client.can_delete(&scope), "and nothing says otherwise");
    *told.lock().unwrap() = "dev-2";
    client.probe_abilities(&scope).await.unwrap();
    assert!(client.can_delete(&scope));
}

#[tokio::test]
async fn deregister_is_there_where_an_unknown_runner_is_refused() {
    let refused = |code: Code| {
        move || {
            let (head, body) = ConnectError::new(code, "no").into_response().into_parts();
            Some(Response::from_parts(head, body.into()))
        }
    };
    for (answers, expected) in [
        (
            Box::new(refused(Code::Unauthenticated)) as Box<dyn Fn() -> Answered + Send + Sync>,
            Some(true),
        ),
        (Box::new(refused(Code::Unimplemented)), Some(false)),
        (Box::new(refused(Code::Unavailable)), None),
        (Box::new(|| recorded("deregister-unknown-to-gitea")), Some(false)),
        (Box::new(|| answer(404, "text/html", "<html>")), None),
        (Box::new(|| answer(200, "application/proto", "")), None),
    ] {
        let (_server, client) = served(move |request| match *request.method() {
            Method::GET => version("x"),
            Method::POST => answers(),
            _ => not_allowed(&["GET"]),
        })
        .await;
        let found = client.probe_abilities(&Scope::Instance).await.unwrap();
        assert_eq!(found.deregister, expected);
    }
}

#[tokio::test]
async fn where_the_api_does_not_answer_nothing_is_forgotten() {
    let up = std::sync::Arc::new(std::sync::atomic::AtomicBool::new(true));
    let is_up = std::sync::Arc::clone(&up);
    let gitea = router("1.22.6", &[(LEGACY, &["GET"])]);
    let (_server, client) = served(move |request| {
        if is_up.load(std::sync::atomic::Ordering::Relaxed) { gitea(request) } else { None }
    })
    .await;
    let found = client.probe_abilities(&Scope::Instance).await.unwrap();
    up.store(false, std::sync::atomic::Ordering::Relaxed);
    client.probe_abilities(&Scope::Instance).await.unwrap_err();
    assert_eq!(client.abilities(), found);
}

#[tokio::test]
async fn the_right_to_delete_is_proved_with_an_id_that_no_runner_has() {
    let (_server, client) = served(|request| {
        assert_eq!(request.headers()["authorization"], format!("token {API_TOKEN}"));
        match (request.method(), request.uri().path()) {
            (&Method::GET, "/api/v1/admin/actions/runners") => recorded("rest-runners-list"),
            (&Method::DELETE, "/api/v1/admin/actions/runners/9223372036854775807") => {
                recorded("rest-runner-delete-again")
            }
            other => panic!("{other:?}"),
        }
    })
    .await;
    client.probe(&Scope::Instance).await.unwrap();

    let (_server, reads) = served(|request| match request.method() {
        &Method::GET => recorded("rest-runners-list"),
        _ => recorded("rest-token-lacks-scope"),
    })
    .await;
    reads.sees(&Scope::Instance).await.unwrap();
    let error = reads.probe(&Scope::Instance).await.unwrap_err();
    assert!(matches!(error, RestError::Forbidden { .. }), "{error}");
    assert!(!format!("{error} {error:?}").contains("canary"), "{error:?}");
}

#[tokio::test]
async fn an_old_gitea_is_asked_for_what_needs_the_same_right() {
    let gitea = router("1.23.8", &[(LEGACY, &["GET"])]);
    let (_server, client) = served(move |request| match request.uri().path() {
        "/api/v1/admin/cron" => {
            assert_eq!(request.method(), Method::GET);
            assert_eq!(request.headers()["authorization"], format!("token {API_TOKEN}"));
            answer(200, "application/json", "[]")
        }
        _ => gitea(request),
    })
    .await;
    client.probe_abilities(&Scope::Instance).await.unwrap();
    client.probe(&Scope::Instance).await.unwrap();

    let (_server, client) = served(router("1.21.11", &[])).await;
    client.probe_abilities(&Scope::Instance).await.unwrap();
    let error = client.probe(&Scope::Instance).await.unwrap_err();
    assert!(error.to_string().contains("Gitea 1.21.11 has nothing to do"), "{error}");
}

#[test]
fn each_thing_that_is_missing_is_told_with_its_cost() {
    assert_eq!(known("1.27.0", true, Minting::Post, true).missing(), Vec::<String>::new());
    assert_eq!(Abilities::default().missing(), Vec::<String>::new(), "not known is not missing");
    let said = known("1.21.0", false, Minting::No, false).missing();
    assert_eq!(said.len(), 3);
    for (sentence, word) in said.iter().zip(["parked", "needs one in the settings", "drained"]) {
        assert!(sentence.starts_with("Gitea 1.21.0 ") && sentence.contains(word), "{sentence}");
    }
}

#[tokio::test]
async fn the_clocks_are_compared() {
    let (_server, client) = served(|_| {
        let mut response = version("x").unwrap();
        let date = "Sun, 06 Nov 1994 08:49:37 GMT".parse().unwrap();
        response.headers_mut().insert("date", date);
        Some(response)
    })
    .await;
    match client.clock_skew().await.unwrap() {
        Some(skew @ Skew::Behind(_)) => assert!(skew.size() > Duration::from_secs(60 * 60)),
        other => panic!("{other:?}"),
    }
    assert!(matches!(
        Skew::between(SystemTime::now() + Duration::from_secs(90), SystemTime::now()),
        Skew::Ahead(_)
    ));
}
