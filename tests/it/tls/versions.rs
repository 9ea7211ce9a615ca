//! Which versions of TLS and of HTTP are spoken, and what whoever speaks another language is told.

use std::time::{Duration, Instant};

use runner_broker::lifecycle::Timing;
use runner_broker::sandbox::runner::{RegisterOptions, StandInRunner};
use rustls::ProtocolVersion;
use rustls::version::{TLS12, TLS13};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

use super::certs::{Authority, client, dial};
use super::{H1, H2, Stack, value};
use crate::raw::Wire;
use crate::support::{
    Broker, ENROLLMENT_TOKEN, Site, eventually, gitea, quick, runner_file, within,
};

#[tokio::test]
async fn tls_1_2_and_1_3_carry_either_version_of_http() {
    let stack = Stack::start().await;
    for (version, spoken) in
        [(&TLS12, ProtocolVersion::TLSv1_2), (&TLS13, ProtocolVersion::TLSv1_3)]
    {
        for (alpn, agreed) in [
            (&["h2", "http/1.1"][..], Some("h2")),
            (H2, Some("h2")),
            (H1, Some("http/1.1")),
            (&[], None),
        ] {
            let config = client(&stack.authority.pem(), alpn, &[version], None);
            let stream = dial(&stack.broker.url, config.clone()).await.unwrap();
            let session = stream.get_ref().1;
            assert_eq!(session.protocol_version(), Some(spoken));
            assert_eq!(session.alpn_protocol(), agreed.map(str::as_bytes), "{alpn:?}");
            if alpn.len() < 2 {
                let program = StandInRunner::over_tls(&stack.broker.url, config);
                program.ping("there").await.unwrap();
            }
        }
        let config = client(&stack.authority.pem(), &["spdy/1"], &[version], None);
        dial(&stack.broker.url, config).await.expect_err("nothing in common");
    }
}

#[tokio::test]
async fn tls_1_1_is_refused() {
    let stack = Stack::start().await;
    let mut stream =
        TcpStream::connect(stack.broker.url.trim_start_matches("https://")).await.unwrap();
    // A ClientHello of TLS 1.1: no session, one suite, no compression; as for extensions, one of the groups
    // and, as a generous client does, one of the signatures that it takes.
    let mut hello = vec![3, 2];
    hello.extend([7; 32]);
    hello.extend([0, 0, 2, 0xc0, 0x13, 1, 0]);
    hello.extend([0, 16, 0, 10, 0, 4, 0, 2, 0, 23, 0, 13, 0, 4, 0, 2, 4, 3]);
    let mut record = vec![22, 3, 1, 0, u8::try_from(hello.len() + 4).unwrap()];
    record.extend([1, 0, 0, u8::try_from(hello.len()).unwrap()]);
    record.extend(hello);
    stream.write_all(&record).await.unwrap();
    let mut answer = Vec::new();
    within(stream.read_to_end(&mut answer)).await.unwrap();
    // A fatal alert, protocol_version.
    assert_eq!((answer[0], &answer[3..]), (21, &[0, 2, 2, 70][..]), "{answer:?}");
    let failures = r#"runner_broker_tls_handshake_failures_total{listener="runners"}"#;
    assert_eq!(value(&stack.metrics().await, failures), Some(1.0));
}

#[tokio::test]
async fn a_runner_lives_over_either_version_of_http() {
    let stack = Stack::start().await;
    for (alpn, name) in [(H1, "one"), (H2, "two")] {
        let runner = stack.runner(alpn, name).await;
        runner.declare(&["host"]).await.unwrap();
        let file = runner_file(&stack.site.runner_file(name));
        assert_eq!(file["address"], stack.broker.url);
        assert!(stack.broker.url.starts_with("https://"));
        let id = stack.gitea.queue_task(&["host"]);
        let (task, _) = runner.fetch_task(0).await.unwrap();
        // With its log.
        runner.run_task(&task.unwrap()).await.unwrap();
        assert!(!stack.gitea.task(id).unwrap().log.is_empty(), "{name}");
        runner.deregister().await.unwrap();
    }
    assert!(stack.gitea.runners().is_empty());
    stack.broker.stop().await;
}

#[tokio::test]
async fn who_has_the_wrong_scheme_is_told() {
    let stack = Stack::start().await;
    let plain = stack.broker.url.replace("https://", "http://");
    let options = RegisterOptions::new(ENROLLMENT_TOKEN.into(), "one");
    let error = StandInRunner::new(&plain).register(&options).await.unwrap_err();
    assert_eq!((error.status.unwrap().as_u16(), &*error.code), (400, "failed_precondition"));
    assert!(error.message.contains("begin the address with https://"), "{error}");
    let mut wire = Wire::dial(&plain).await;
    wire.say("GET /api/healthz HTTP/1.1\r\nHost: b\r\n\r\n").await;
    let answer = wire.answer().await.unwrap();
    assert_eq!(answer.status, 400);
    assert_eq!(answer.head.all("connection"), ["close"]);
    assert_eq!(stack.registers(), 0);
    let failures = r#"runner_broker_tls_handshake_failures_total{listener="runners"}"#;
    assert_eq!(value(&stack.metrics().await, failures), Some(2.0));
    // And where no TLS is spoken, there is nothing to count.
    let gitea = gitea();
    let site = Site::new(&gitea);
    let broker = Broker::start(&site).await;
    let text = broker.lifecycle.metrics.render().unwrap();
    assert!(!text.contains("_tls_"), "{text}");
}

#[tokio::test]
async fn a_slow_handshake_ends_in_time_and_holds_up_nobody() {
    let gitea = gitea();
    let authority = Authority::new();
    let site = authority.sign("127.0.0.1").of(Site::new(&gitea), "listen");
    let limit = Duration::from_secs(2);
    let timing = Timing { handshake: limit, ..quick() };
    let broker = Broker::start_with(&site, timing).await;
    let stack = Stack { gitea, site, broker, authority };
    let address = stack.broker.url.trim_start_matches("https://");
    let begun = Instant::now();
    let mut slow = Vec::new();
    for bytes in [&[][..], &[22], &[22, 3, 1, 0, 200, 1, 0, 0]] {
        let mut stream = TcpStream::connect(address).await.unwrap();
        stream.write_all(bytes).await.unwrap();
        slow.push(stream);
    }
    stack.program(H2).ping("others").await.unwrap();
    assert!(begun.elapsed() < limit, "nobody waits for them");
    for mut stream in slow {
        // With an alert or a reset, it is over.
        let _ = within(stream.read_to_end(&mut Vec::new())).await;
    }
    assert!(begun.elapsed() >= limit);
    let failures = r#"runner_broker_tls_handshake_failures_total{listener="runners"}"#;
    eventually("each is counted", async || value(&stack.metrics().await, failures) == Some(3.0))
        .await;
    // One that has only begun does not hold up the end.
    let _slow = TcpStream::connect(address).await.unwrap();
    stack.program(H1).ping("others").await.unwrap();
    assert!(stack.broker.stop().await < limit);
}
