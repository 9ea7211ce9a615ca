//! Client certificates that the broker asks for.

use runner_broker::sandbox::runner::StandInRunner;
use rustls::version::{TLS12, TLS13};

use super::certs::{Authority, client};
use super::{H1, H2, Stack, value};
use crate::capture::Capture;
use crate::support::{Broker, Site, eventually, gitea};

#[tokio::test]
async fn who_shows_none_or_a_wrong_one_does_not_come_in() {
    let capture = Capture::start();
    let gitea = gitea();
    let (authority, other) = (Authority::new(), Authority::new());
    let site = authority.sign("127.0.0.1").of(Site::new(&gitea), "listen");
    let ca = site.path("clients.pem");
    std::fs::write(&ca, authority.pem()).unwrap();
    let site = site.set("listen.tls.client_ca", ca.to_str().unwrap());
    let broker = Broker::start(&site).await;
    let stack = Stack { gitea, site, broker, authority };
    let (right, wrong) = (stack.authority.sign("runner-1"), other.sign("runner-1"));
    let over = |shown| client(&stack.authority.pem(), H2, &[&TLS13], shown);
    for refused in [over(None), over(Some(&wrong))] {
        let program = StandInRunner::over_tls(&stack.broker.url, refused);
        let error = program.ping("let me in").await.unwrap_err();
        assert_eq!(error.status, None, "{error}");
    }
    let failures = r#"runner_broker_tls_handshake_failures_total{listener="runners"}"#;
    eventually("both are counted", async || value(&stack.metrics().await, failures) == Some(2.0))
        .await;
    // The first is told at once; a second within the minute only to whoever looks closely.
    assert_eq!(capture.complaints(), 1, "{}", capture.text());
    assert!(
        capture.text().contains("the client showed no certificate, and listen.tls.client_ca asks")
    );
    assert!(
        capture.text().contains("the client's certificate is not one that listen.tls.client_ca")
    );
    for version in [&TLS12, &TLS13] {
        for alpn in [H1, H2] {
            let config = client(&stack.authority.pem(), alpn, &[version], Some(&right));
            let program = StandInRunner::over_tls(&stack.broker.url, config);
            program.ping("let me in").await.unwrap();
        }
    }
    // The authorities are read again too.
    std::fs::write(&ca, other.pem()).unwrap();
    eventually("the other is let in", async || {
        let program = StandInRunner::over_tls(&stack.broker.url, over(Some(&wrong)));
        program.ping("let me in").await.is_ok()
    })
    .await;
    let program = StandInRunner::over_tls(&stack.broker.url, over(Some(&right)));
    program.ping("let me in").await.unwrap_err();
}
