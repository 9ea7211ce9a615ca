//! A fault of the broker's own ends one call, tells no secret, and the broker goes on.

use hyper::{Method, StatusCode};
use runner_broker::sandbox::runner::{RegisterOptions, StandInRunner};
use rustix::process::Signal as Unix;

use crate::binary::Binary;
use crate::support::{ENROLLMENT_TOKEN, Site, gitea};

const CANARY: &str = "CanaryOfAPanic-8sKd2Lq0Vn5Xr7Zb";
const ADMIN_TOKEN: &str = "admin-token-of-the-tests-0123456789abcdef";

/// Where the broker panics; its text quotes a secret, as one that shows a value would.
fn panicking(site: &Site, point: &str) -> Binary {
    Binary::start_with(site, &[("RUNNER_BROKER_FAULT_PANIC", &format!("{point}:{CANARY}"))])
}

fn ends_well(mut binary: Binary) {
    binary.kill(Unix::TERM);
    assert!(binary.ended().success(), "{}", binary.log_text());
    let log = binary.log_text();
    let told: Vec<_> = binary
        .lines()
        .into_iter()
        .filter(|line| line["message"] == "a fault of the broker's: please report it")
        .collect();
    assert_eq!(told.len(), 1, "{log}");
    assert_eq!(told[0]["level"], "ERROR");
    assert!(told[0]["at"].as_str().unwrap().starts_with("src/fault.rs:"), "{}", told[0]);
    assert!(!log.contains("CanaryOf"), "{log}");
    assert!(!log.contains("panicked at"), "{log}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_panic_ends_one_call_and_quotes_nothing() {
    // In the call itself, and in the task that goes on where the runner hangs up.
    for point in ["request-begun", "register-begun", "credentials-stored"] {
        let gitea = gitea();
        let site = Site::new(&gitea).set("shutdown.deregister", "none");
        let binary = panicking(&site, point);
        let options = RegisterOptions::new(ENROLLMENT_TOKEN.into(), "one");
        let error = StandInRunner::new(&binary.url).register(&options).await.unwrap_err();
        assert!(["internal", "unavailable"].contains(&&*error.code), "{point}: {error}");
        assert!(!format!("{error:?}").contains("CanaryOf"), "{point}: {error:?}");
        // It goes on: for the same one, and for others.
        for name in ["one", "two"] {
            let options = RegisterOptions::new(ENROLLMENT_TOKEN.into(), name);
            let runner = StandInRunner::new(&binary.url).register(&options).await.unwrap();
            runner.declare(&["host"]).await.unwrap();
        }
        ends_well(binary);
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_panic_in_the_admin_api_ends_one_call() {
    let gitea = gitea();
    let site = Site::new(&gitea);
    site.write_secret("admin_token", ADMIN_TOKEN);
    let file = site.path("admin_token").to_str().unwrap().to_owned();
    let site = site.set("admin.token_file", &file);
    for point in ["admin-asked", "token-deleted"] {
        let binary = panicking(&site, point);
        fails_once(&binary, point).await;
        ends_well(binary);
    }
}

/// In the call itself, or in the task that does what it asks.
async fn fails_once(binary: &Binary, point: &str) {
    let admin = StandInRunner::new(&format!("http://{}", binary.admin));
    let bearer = format!("Bearer {ADMIN_TOKEN}");
    let headers = [("authorization", bearer.as_str()), ("content-type", "application/json")];
    let failed = if point == "admin-asked" {
        admin.send(Method::GET, "/api/v1/tokens", &headers, "").await.unwrap()
    } else {
        let made = admin.send(Method::POST, "/api/v1/tokens", &headers, "{}").await.unwrap();
        let made: serde_json::Value = serde_json::from_slice(&made.body).unwrap();
        let path = format!("/api/v1/tokens/{}", made["id"].as_str().unwrap());
        admin.send(Method::DELETE, &path, &headers, "").await.unwrap()
    };
    assert_eq!(failed.status, StatusCode::INTERNAL_SERVER_ERROR, "{point}");
    assert_eq!(failed.headers["content-type"], "application/problem+json", "{point}");
    let text = String::from_utf8(failed.body.to_vec()).unwrap();
    assert!(text.contains("log tells what happened") && !text.contains("CanaryOf"), "{text}");
    let listed = admin.send(Method::GET, "/api/v1/tokens", &headers, "").await.unwrap();
    assert_eq!(listed.status, StatusCode::OK, "{point}");
}
