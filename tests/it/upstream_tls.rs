//! Gitea behind TLS, with HTTP/1.1 and HTTP/2, and below a sub-path.

use std::time::Duration;

use hyper::Method;
use rcgen::{BasicConstraints, CertificateParams, CertifiedIssuer, DnType, IsCa, KeyPair};
use runner_broker::sandbox::gitea::{Options, StandInGitea, Tls, download_sha256};
use runner_broker::sandbox::runner::{RegisterOptions, RpcError, StandInRunner};
use rustix::process::Signal;
use serde_json::Value;

use crate::binary::Binary;
use crate::raw::Wire;
use crate::support::{Broker, ENROLLMENT_TOKEN, PATIENCE, Site, runner_file};

const MIB: usize = 1 << 20;

/// An authority's certificate in PEM, and what a server of this name shows that it signed.
pub(crate) fn authority(name: &str, http2: bool) -> (String, Tls) {
    let mut params = CertificateParams::default();
    params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    params.distinguished_name.push(DnType::CommonName, "authority of the tests");
    let issuer = CertifiedIssuer::self_signed(params, KeyPair::generate().unwrap()).unwrap();
    let key = KeyPair::generate().unwrap();
    let params = CertificateParams::new([name.to_owned()]).unwrap();
    let certificate = params.signed_by(&key, &issuer).unwrap();
    let tls = Tls {
        certificate_pem: certificate.pem(),
        key_pem: key.serialize_pem().into(),
        http2,
        client_ca_pem: None,
    };
    (issuer.pem(), tls)
}

pub(crate) fn gitea(tls: Tls) -> StandInGitea {
    StandInGitea::start(Options { tls: Some(tls), ..Options::default() }).unwrap()
}

pub(crate) fn trusting(gitea: &StandInGitea, pem: &str) -> Site {
    let site = Site::new(gitea);
    let path = site.path("ca.pem");
    std::fs::write(&path, pem).unwrap();
    site.set("gitea.ca_file", path.to_str().unwrap())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_runner_lives_behind_either_version_of_http() {
    for (http2, version) in [(true, "HTTP/2.0"), (false, "HTTP/1.1")] {
        let (pem, tls) = authority("127.0.0.1", http2);
        let gitea = gitea(tls);
        let site = trusting(&gitea, &pem);
        let broker = Broker::start(&site).await;
        let program = StandInRunner::new(&broker.url);
        let options = RegisterOptions::new(ENROLLMENT_TOKEN.into(), "one");
        let runner = program.register(&options).await.unwrap();
        runner.declare(&["host"]).await.unwrap();
        gitea.queue_task(&["host"]);
        let (task, _) = runner.fetch_task(0).await.unwrap();
        runner.run_task(&task.unwrap()).await.unwrap();
        assert_eq!(runner_file(&site.runner_file("one"))["address"], broker.url);

        let more = [("x-forwarded-proto", "http"), ("connection", "x-a"), ("x-a", "1")];
        let echo = program.send(Method::POST, "/echo/a%2Fb?c=d&e", &more, "body").await.unwrap();
        let echo: Value = serde_json::from_slice(&echo.body).unwrap();
        assert_eq!(echo["version"], version);
        assert!(echo["uri"].as_str().unwrap().ends_with("/echo/a%2Fb?c=d&e"), "{echo}");
        assert_eq!(echo["body_bytes"], 4);
        for name in ["x-forwarded-proto", "x-a"] {
            let headers = echo["headers"].as_array().unwrap();
            assert!(!headers.iter().any(|pair| pair[0] == name), "{name}");
        }

        for (length, query) in [(64 * MIB, ""), (3 * MIB, "?chunked")] {
            let path = format!("/download/{length}{query}");
            let down = program.send(Method::GET, &path, &[], "").await.unwrap();
            assert_eq!(down.body.len(), length);
            let up = program.send(Method::PUT, "/upload", &[], down.body).await.unwrap();
            let up: Value = serde_json::from_slice(&up.body).unwrap();
            assert_eq!(up["sha256"], download_sha256(length as u64), "{version}");
        }
        runner.deregister().await.unwrap();
        assert!(gitea.runners().is_empty());
        broker.stop().await;
    }
}

#[tokio::test]
async fn slow_readers_do_not_hold_up_the_others_of_their_connection() {
    let (pem, tls) = authority("127.0.0.1", true);
    let gitea = gitea(tls);
    let site = trusting(&gitea, &pem);
    let broker = Broker::start(&site).await;
    let mut idle = Vec::new();
    for _ in 0..8 {
        let mut client = Wire::dial(&broker.url).await;
        client.say("GET /download/67108864 HTTP/1.1\r\nHost: b\r\n\r\n").await;
        client.head().await.unwrap();
        idle.push(client);
    }
    // Time for each to take all that it can without being read.
    tokio::time::sleep(Duration::from_millis(500)).await;
    let program = StandInRunner::new(&broker.url);
    let path = format!("/download/{}", 4 * MIB);
    let others = async {
        program.ping("one").await.unwrap();
        assert_eq!(program.send(Method::GET, &path, &[], "").await.unwrap().body.len(), 4 * MIB);
    };
    tokio::time::timeout(PATIENCE, others).await.expect("the others go on");
    // And the slow ones can go on, too.
    for client in &mut idle {
        client.bytes(64 * MIB).await;
    }
}

/// What a runner hears, and what the log has, where Gitea is not trusted.
async fn refusal(site: &Site) -> (RpcError, String) {
    let mut broker = Binary::start(site);
    let program = StandInRunner::new(&broker.url);
    let options = RegisterOptions::new(ENROLLMENT_TOKEN.into(), "one");
    let error = program.register(&options).await.unwrap_err();
    let passed = program.ping("one").await.unwrap_err();
    assert_eq!((passed.status, &passed.code), (error.status, &error.code));
    // With its end comes the last line of the log.
    broker.kill(Signal::KILL);
    broker.ended();
    (passed, broker.log_text())
}

#[tokio::test]
async fn an_unknown_authority_is_refused_with_the_remedy() {
    let (_, tls) = authority("127.0.0.1", true);
    let (other, _) = authority("127.0.0.1", true);
    let gitea = gitea(tls);
    let site = trusting(&gitea, &other);
    let (error, log) = refusal(&site).await;
    assert_eq!((error.status.unwrap().as_u16(), &*error.code), (503, "unavailable"));
    assert!(error.message.contains("set gitea.ca_file"), "{error}");
    assert!(log.contains("set gitea.ca_file"), "{log}");
    assert!(gitea.journal().entries().is_empty(), "nothing was sent");
}

#[tokio::test]
async fn a_certificate_of_another_name_is_refused() {
    let made = rcgen::generate_simple_self_signed(["gitea.example.org".to_owned()]).unwrap();
    let gitea = gitea(Tls {
        certificate_pem: made.cert.pem(),
        key_pem: made.signing_key.serialize_pem().into(),
        http2: true,
        client_ca_pem: None,
    });
    let site = trusting(&gitea, &made.cert.pem());
    let (error, log) = refusal(&site).await;
    assert_eq!(error.code, "unavailable");
    for text in [&error.message, &log] {
        assert!(text.contains("set gitea.url to a name that the certificate holds"), "{text}");
    }
    assert!(gitea.journal().entries().is_empty(), "nothing was sent");
}

#[tokio::test]
async fn gitea_below_a_sub_path() {
    let options = Options { sub_path: "/git".into(), ..Options::default() };
    let gitea = StandInGitea::start(options).unwrap();
    let site = Site::new(&gitea).set("listen.public_url", "http://broker.example.org/git");
    let broker = Broker::start(&site).await;
    let program = StandInRunner::new(&format!("{}/git", broker.url));
    program.ping("one").await.unwrap();
    let options = RegisterOptions::new(ENROLLMENT_TOKEN.into(), "one");
    let runner = program.register(&options).await.unwrap();
    runner.declare(&["host"]).await.unwrap();
    gitea.queue_task(&["host"]);
    let (task, _) = runner.fetch_task(0).await.unwrap();
    runner.run_task(&task.unwrap()).await.unwrap();
    let echo = program.send(Method::GET, "/echo?x", &[], "").await.unwrap();
    let echo: Value = serde_json::from_slice(&echo.body).unwrap();
    assert_eq!(echo["uri"], "/git/echo?x");

    // Who leaves the sub-path out is told, and Gitea hears nothing of it.
    let stray = StandInRunner::new(&broker.url);
    let error = stray.register(&options).await.unwrap_err();
    assert_eq!(error.code, "invalid_argument");
    assert!(error.message.contains("/git at its end"), "{error}");
    let registers = gitea.journal().count(|entry| entry.target.contains("Register"));
    assert_eq!(registers, 1);
    runner.deregister().await.unwrap();
    assert!(gitea.runners().is_empty());
}
