//! The stand-in Gitea answers as the Gitea of its version does.

use hyper::{Method, StatusCode};
use runner_broker::config::Scope;
use runner_broker::connect::messages::TaskResult;
use runner_broker::sandbox::gitea::{Options, RunnerSeed};
use runner_broker::sandbox::runner::{RawAnswer, RegisterOptions};
use runner_broker::sandbox::{StandInGitea, StandInRunner};
use secrecy::ExposeSecret;
use serde_json::{Value, json};

use crate::wire::{recordings, replay};

/// What is known of a version from Gitea's own source.
struct Facts {
    version: &'static str,
    get_token: bool,
    post_token: bool,
    manage: bool,
    ephemeral: bool,
    disable: bool,
}

const NOTHING: Facts = Facts {
    version: "1.21.11",
    get_token: false,
    post_token: false,
    manage: false,
    ephemeral: false,
    disable: false,
};
const GET_ONLY: Facts = Facts { version: "1.22.6", get_token: true, ..NOTHING };
const BOTH: Facts =
    Facts { version: "1.24.7", post_token: true, manage: true, ephemeral: true, ..GET_ONLY };
const POST_ONLY: Facts = Facts { version: "1.26.0", get_token: false, disable: true, ..BOTH };

const FACTS: [Facts; 9] = [
    NOTHING,
    GET_ONLY,
    Facts { version: "11.0.1+gitea-1.22.0", ..GET_ONLY },
    Facts { version: "1.23.8", ..GET_ONLY },
    BOTH,
    Facts { version: "1.25.3", ..BOTH },
    Facts { version: "1.26.0+dev-45-g193a24c30e", ..BOTH },
    POST_ONLY,
    Facts { version: "1.27.1", ..POST_ONLY },
];

const LEGACY: &str = "/api/v1/admin/runners/registration-token";

/// The four places, with the scope of their runners.
fn places() -> [(&'static str, Scope); 4] {
    let repo = Scope::Repo { owner: "acme".into(), name: "app".into() };
    [
        ("/api/v1/admin/actions/runners", Scope::Instance),
        ("/api/v1/orgs/acme/actions/runners", Scope::Org("acme".into())),
        ("/api/v1/user/actions/runners", Scope::User),
        ("/api/v1/repos/acme/app/actions/runners", repo),
    ]
}

struct Scene {
    gitea: StandInGitea,
    api_token: String,
}

impl Scene {
    fn of(facts: &Facts) -> Self {
        let options = Options { version: facts.version.into(), ..Options::default() };
        let gitea = StandInGitea::start(options).unwrap();
        let api_token = format!("token {}", gitea.api_token(&["all"]).expose_secret());
        Self { gitea, api_token }
    }

    fn program(&self) -> StandInRunner {
        StandInRunner::new(&self.gitea.url())
    }

    async fn ask(&self, method: Method, path: &str) -> RawAnswer {
        self.send(method, path, Some(&self.api_token), "").await
    }

    async fn send(&self, method: Method, path: &str, token: Option<&str>, body: &str) -> RawAnswer {
        let header = token.map(|token| ("Authorization", token));
        self.program()
            .send(method, path, header.as_slice(), body.as_bytes().to_vec())
            .await
            .unwrap()
    }
}

fn json_of(answer: &RawAnswer) -> Value {
    serde_json::from_slice(&answer.body).unwrap()
}

/// What Go's router says of a path that it does not have.
#[track_caller]
fn no_such_path(answer: &RawAnswer, what: &str) {
    assert_eq!(answer.status, StatusCode::NOT_FOUND, "{what}");
    assert_eq!(answer.body.as_ref(), b"404 page not found\n", "{what}");
}

/// The methods in `Allow`, sorted, as Gitea lists them in no order.
fn allowed(answer: &RawAnswer) -> Vec<&str> {
    let all = answer.headers.get_all("allow").iter();
    let mut all: Vec<&str> = all.map(|value| value.to_str().unwrap()).collect();
    all.sort_unstable();
    all
}

#[tokio::test]
async fn each_answers_the_recorded_exchanges_that_hold_for_it() {
    let recordings = recordings();
    for facts in &FACTS {
        let mut replayed = 0;
        for (name, recorded) in &recordings {
            if holds(name, facts) {
                replay(facts.version, name, recorded).await;
                replayed += 1;
            }
        }
        // Those of the runners' protocol hold for all.
        assert!(replayed >= 20, "{}: only {replayed}", facts.version);
    }
}

/// Whether the recorded answer is that of this version too.
fn holds(name: &str, facts: &Facts) -> bool {
    match name {
        "register-ephemeral" => facts.ephemeral,
        "rest-admin-registration-token-get-legacy" => facts.get_token,
        "rest-admin-registration-token-get-on-new-path" => facts.manage,
        "rest-runner-delete" | "rest-runner-delete-again" => facts.manage,
        // Later a runner is shown with `disabled`.
        "rest-runner-patch-disable-unsupported" => facts.manage && !facts.disable,
        _ if name.starts_with("rest-runner") => facts.manage && !facts.disable,
        "rest-token-lacks-scope" => facts.post_token,
        _ if name.contains("-registration-token-post") => facts.post_token,
        _ => true,
    }
}

#[tokio::test]
async fn registration_tokens_are_minted_as_each_can() {
    for facts in &FACTS {
        let scene = Scene::of(facts);
        for (place, scope) in places() {
            let what = format!("{} {place}", facts.version);
            let path = format!("{place}/registration-token");
            let get = if scope == Scope::Instance { LEGACY } else { path.as_str() };
            for (has, method, path) in
                [(facts.get_token, Method::GET, get), (facts.post_token, Method::POST, &*path)]
            {
                let answer = scene.ask(method, path).await;
                if has {
                    let token = scene.gitea.registration_token(&scope);
                    let expected = json!({ "token": token.expose_secret() });
                    assert_eq!(
                        (answer.status, json_of(&answer)),
                        (StatusCode::OK, expected),
                        "{what}"
                    );
                } else if facts.manage && path != LEGACY {
                    // GET is the runner's of that id.
                    assert_eq!(answer.status, StatusCode::NOT_FOUND, "{what}");
                    assert_eq!(json_of(&answer)["message"], "Runner not found", "{what}");
                } else if facts.get_token {
                    if path == LEGACY || scope == Scope::Instance {
                        no_such_path(&answer, &what);
                    } else {
                        assert_eq!(answer.status, StatusCode::METHOD_NOT_ALLOWED, "{what}");
                        assert_eq!(allowed(&answer), ["GET"], "{what}");
                    }
                } else {
                    no_such_path(&answer, &what);
                }
            }
        }
    }
}

#[tokio::test]
async fn runners_are_managed_where_that_can_be() {
    for facts in &FACTS {
        let scene = Scene::of(facts);
        for (place, scope) in places() {
            let what = format!("{} {place}", facts.version);
            let runner = scene.gitea.add_runner(RunnerSeed { scope, ..RunnerSeed::default() });
            let path = format!("{place}/{}", runner.id);
            let list = scene.ask(Method::GET, place).await;
            let shown = scene.ask(Method::GET, &path).await;
            let switch = r#"{"disabled":true}"#;
            let switched = scene.send(Method::PATCH, &path, Some(&scene.api_token), switch).await;
            if !facts.manage {
                for answer in [&list, &shown, &switched, &scene.ask(Method::DELETE, &path).await] {
                    no_such_path(answer, &what);
                }
                continue;
            }
            assert_eq!(json_of(&list)["total_count"], 1, "{what}");
            let expected = facts.disable.then_some(json!(false));
            assert_eq!(json_of(&shown).get("disabled"), expected.as_ref(), "{what}");
            assert_eq!(json_of(&list)["runners"], json!([json_of(&shown)]), "{what}");
            if facts.disable {
                assert_eq!(switched.status, StatusCode::OK, "{what}");
                assert_eq!(json_of(&switched)["disabled"], true, "{what}");
            } else {
                assert_eq!(switched.status, StatusCode::METHOD_NOT_ALLOWED, "{what}");
                assert_eq!(allowed(&switched), ["DELETE", "GET"], "{what}");
            }
            let disabled = scene.gitea.runner(runner.id).unwrap().disabled;
            assert_eq!(disabled, facts.disable, "{what}");
            assert_eq!(scene.ask(Method::DELETE, &path).await.status, StatusCode::NO_CONTENT);
            let again = scene.ask(Method::DELETE, &path).await;
            assert_eq!(again.status, StatusCode::NOT_FOUND, "{what}");
            assert_eq!(json_of(&again)["message"], "Runner not found", "{what}");
        }
        let foreign = RunnerSeed { scope: Scope::User, ..RunnerSeed::default() };
        let foreign = scene.gitea.add_runner(foreign).id;
        if facts.manage {
            let path = format!("/api/v1/orgs/acme/actions/runners/{foreign}");
            let denied = scene.ask(Method::DELETE, &path).await;
            assert_eq!(denied.status, StatusCode::NOT_FOUND);
            assert_eq!(json_of(&denied)["message"], "No permission to access this runner");
        }
    }
}

/// A method that no version routes tells, with nobody's leave, what a path has.
#[tokio::test]
async fn a_method_that_is_not_routed_tells_the_others() {
    for facts in &FACTS {
        let scene = Scene::of(facts);
        let methods = |pairs: &[(bool, &'static str)]| {
            let has = pairs.iter().filter(|(has, _)| *has).map(|(_, method)| *method);
            let mut has: Vec<&str> = has.collect();
            has.sort_unstable();
            has
        };
        let runner = [(facts.manage, "GET"), (facts.manage, "DELETE"), (facts.disable, "PATCH")];
        let mut expected = vec![
            ("/api/v1/version".to_owned(), vec!["GET"]),
            (LEGACY.into(), methods(&[(facts.get_token, "GET")])),
        ];
        for (place, scope) in places() {
            let get = facts.get_token && scope != Scope::Instance;
            // Of two routes: that of the token, and that of a runner of this id.
            let token = [&[(get, "GET"), (facts.post_token, "POST")], &runner[..]].concat();
            expected.push((place.into(), methods(&[(facts.manage, "GET")])));
            expected.push((format!("{place}/1"), methods(&runner)));
            expected.push((format!("{place}/registration-token"), methods(&token)));
        }
        for (path, expected) in expected {
            for method in [Method::PUT, Method::OPTIONS] {
                let what = format!("{} {method} {path}", facts.version);
                for token in [None, Some(scene.api_token.as_str())] {
                    let answer = scene.send(method.clone(), &path, token, "").await;
                    if expected.is_empty() {
                        no_such_path(&answer, &what);
                        continue;
                    }
                    assert_eq!(answer.status, StatusCode::METHOD_NOT_ALLOWED, "{what}");
                    assert_eq!(allowed(&answer), expected, "{what}");
                    assert!(answer.body.is_empty(), "{what}");
                }
                let answer = scene.send(method, &path, Some("token bad"), "").await;
                assert_eq!(answer.status, StatusCode::UNAUTHORIZED, "{what}");
            }
        }
    }
}

#[tokio::test]
async fn ephemeral_runners_end_where_there_are_such() {
    for facts in &FACTS {
        let scene = Scene::of(facts);
        let token = scene.gitea.registration_token(&Scope::Instance);
        let options = RegisterOptions { ephemeral: true, ..RegisterOptions::new(token, "once") };
        let runner = scene.program().register(&options).await.unwrap();
        let id = runner.credentials.id;
        let before = scene.gitea.runner(id).unwrap().ephemeral;
        assert_eq!(before, facts.ephemeral, "{}", facts.version);
        let task = scene.gitea.queue_task(&["host"]);
        assert!(runner.fetch_task(0).await.unwrap().0.is_some());
        runner.update_task(task, TaskResult::Success).await.unwrap();
        let left = scene.gitea.runner(id).is_some();
        assert_eq!(left, !facts.ephemeral, "{}", facts.version);
    }
}

#[tokio::test]
async fn refusals_are_worded_alike() {
    const INVALIDATED: &str =
        "runner registration token has been invalidated, please use the latest one";
    const UNREGISTERED: &str = "rpc error: code = Unauthenticated desc = unregistered runner";
    for facts in &FACTS {
        let scene = Scene::of(facts);
        let token = scene.gitea.registration_token(&Scope::Instance);
        let register = async |token: &str, name: &str| {
            scene.program().register(&RegisterOptions::new(token.into(), name)).await
        };
        let runner = register(token.expose_secret(), "a").await.unwrap();
        let unknown = register("no-such-token", "b").await.unwrap_err();
        let nameless = register(token.expose_secret(), "").await.unwrap_err();
        scene.gitea.invalidate_registration_token(&Scope::Instance);
        let old = register(token.expose_secret(), "c").await.unwrap_err();
        scene.gitea.remove_runner(runner.credentials.id);
        let gone = runner.fetch_task(0).await.unwrap_err();
        for (error, text) in [
            (unknown, "runner registration token not found"),
            (nameless, "missing runner token, name"),
            (old, INVALIDATED),
            (gone, UNREGISTERED),
        ] {
            let expected = (Some(StatusCode::INTERNAL_SERVER_ERROR), "unknown", text);
            let got = (error.status, error.code.as_str(), error.message.as_str());
            assert_eq!(got, expected, "{}", facts.version);
        }
    }
}
