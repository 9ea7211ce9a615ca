//! When certificates end: a metric, and a warning before that.

use std::time::{Duration, SystemTime};

use super::certs::Authority;
use super::{Stack, value};
use crate::capture::Capture;
use crate::support::{Broker, Site, eventually, gitea};

const SERIES: &str = "runner_broker_tls_certificate_expiry_timestamp_seconds";

#[tokio::test]
async fn it_is_a_metric_and_a_warning_before() {
    let capture = Capture::start();
    let gitea = gitea();
    let authority = Authority::new();
    let now = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap();
    let at = |days: u64| Duration::from_secs(now.as_secs() / 60 * 60 + days * 86_400);
    let until = |days| {
        authority.sign_with("127.0.0.1", |params| {
            params.not_after = (SystemTime::UNIX_EPOCH + at(days)).into();
        })
    };
    let site = until(3).of(Site::new(&gitea), "listen");
    let site = until(400).of(site, "admin");
    let broker = Broker::start(&site).await;
    let stack = Stack { gitea, site, broker, authority: Authority::new() };
    let of =
        async |name| value(&stack.metrics().await, &format!("{SERIES}{{certificate=\"{name}\"}}"));
    assert_eq!(of("runners").await, Some(at(3).as_secs_f64()));
    assert_eq!(of("admin").await, Some(at(400).as_secs_f64()));
    assert_eq!(of("gitea").await, None);
    let hints = stack.status().await["hints"].to_string();
    assert!(hints.contains("the certificate for runners expires in 2 days"), "{hints}");
    let warned =
        || capture.text().matches("the certificate expires in 2 days: put a new one").count();
    eventually("it is in the log", async || warned() == 1).await;

    until(300).write(&stack.site, "listen.crt", "listen.key");
    eventually("the new one counts", async || of("runners").await == Some(at(300).as_secs_f64()))
        .await;
    assert_eq!(warned(), 1, "not with each look");
    assert!(!stack.status().await["hints"].to_string().contains("certificate"));
}
