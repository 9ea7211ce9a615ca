//! The certificate that the broker shows to a Gitea that asks for one.

use runner_broker::sandbox::gitea::{Options, StandInGitea};
use runner_broker::sandbox::runner::{RegisterOptions, StandInRunner};

use super::certs::Authority;
use super::value;
use crate::support::{Broker, ENROLLMENT_TOKEN, Site, eventually};

#[tokio::test]
async fn it_is_shown_and_read_again() {
    for http2 in [true, false] {
        let (authority, other) = (Authority::new(), Authority::new());
        let tls = authority.sign("127.0.0.1").gitea(http2, Some(authority.pem()));
        let gitea = StandInGitea::start(Options { tls: Some(tls), ..Options::default() }).unwrap();
        let site = Site::new(&gitea);
        std::fs::write(site.path("ca.pem"), authority.pem()).unwrap();
        let path = |name: &str| site.path(name).to_str().unwrap().to_owned();
        let (ca, cert, key) = (path("ca.pem"), path("client.crt"), path("client.key"));
        let site = site.set("gitea.ca_file", &ca);

        // Without one, Gitea hangs up, and the runner is told what is missing.
        let broker = Broker::start(&site).await;
        let options = RegisterOptions::new(ENROLLMENT_TOKEN.into(), "one");
        let error = StandInRunner::new(&broker.url).register(&options).await.unwrap_err();
        assert_eq!(error.code, "unavailable", "{error}");
        let error = StandInRunner::new(&broker.url).ping("one").await.unwrap_err();
        assert!(
            error.message.contains("gitea.client_cert_file and gitea.client_key_file"),
            "{error}"
        );
        broker.stop().await;
        assert!(gitea.journal().entries().is_empty(), "nothing was sent");

        // One of an authority that Gitea does not know does not help, until it is replaced.
        other.sign("broker").write(&site, "client.crt", "client.key");
        let site = site.set("gitea.client_cert_file", &cert).set("gitea.client_key_file", &key);
        let broker = Broker::start(&site).await;
        let program = StandInRunner::new(&broker.url);
        program.register(&options).await.unwrap_err();
        let metrics = broker.lifecycle.metrics.render().unwrap();
        let expiry =
            r#"runner_broker_tls_certificate_expiry_timestamp_seconds{certificate="gitea"}"#;
        assert!(value(&metrics, expiry).is_some(), "{metrics}");
        authority.sign("broker").write(&site, "client.crt", "client.key");
        eventually("Gitea lets the broker in", async || program.register(&options).await.is_ok())
            .await;
        assert_eq!(gitea.runners().len(), 1);
        broker.stop().await;
    }
}
