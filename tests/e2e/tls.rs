//! A real runner and its jobs over TLS, which for the runner means HTTP/2, with an authority of one's own.

use std::fs;

use rcgen::{BasicConstraints, CertificateParams, DnType, IsCa, Issuer, KeyPair};
use rustix::process::Signal;
use serde_json::Value;

use crate::broker::{Broker, ENROLLMENT_TOKEN};
use crate::gitea::Gitea;
use crate::runner::Runner;
use crate::{BROKER_SCOPES, job};

/// Clones its repository, asks the API and takes 8 MiB up and down, all at the runner's address.
const JOB: &str = r#"
on: push
jobs:
  tls:
    runs-on: e2e
    steps:
      - run: |
          case "$GITHUB_SERVER_URL" in https://*) ;; *) exit 1 ;; esac
          key=$(printf 'x-access-token:%s' "$TOKEN" | base64 -w0)
          git -c http.sslCAInfo=AUTHORITY -c "http.extraheader=Authorization: Basic $key" \
            clone -q "$GITHUB_SERVER_URL/$GITHUB_REPOSITORY" tree
          test "$(git -C tree rev-parse HEAD)" = "$GITHUB_SHA"
          curl -fsS --cacert AUTHORITY "$GITHUB_API_URL/version" | grep version
          seq 5000 | sed 's/^/e2e: a long log, line /'
          echo "e2e: the whole job is done"
        env:
          TOKEN: ${{ github.token }}
"#;

#[test]
fn a_runner_and_its_jobs_work_over_tls() {
    let gitea = Gitea::start("");
    let api_token = gitea.access_token(BROKER_SCOPES);
    let mut broker = Broker::new(&gitea, &gitea.registration_token(), Some(&api_token));

    let key = KeyPair::generate().expect("a key");
    let mut params = CertificateParams::new(Vec::new()).expect("no names");
    params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    // Else it has the name of what it signs, which OpenSSL then takes for signed by itself.
    params.distinguished_name.push(DnType::CommonName, "authority");
    let authority = params.self_signed(&key).expect("an authority");
    let issuer = Issuer::new(params, key);
    let own_key = KeyPair::generate().expect("a key");
    let own = CertificateParams::new(["127.0.0.1".to_owned()]).expect("an address");
    let own = own.signed_by(&own_key, &issuer).expect("a certificate");
    let mut runner = Runner::new("tls");
    let ca = runner.path("ca.pem");
    for (name, pem) in [("tls.crt", own.pem()), ("tls.key", own_key.serialize_pem())] {
        fs::write(broker.path(name), pem).expect("a folder of this test");
    }
    fs::write(&ca, authority.pem()).expect("a folder of this test");
    let path = |name: &str| broker.path(name).to_str().expect("a path of text").to_owned();
    let (cert, key) = (path("tls.crt"), path("tls.key"));
    broker.set("LISTEN__TLS__CERT", &cert);
    broker.set("LISTEN__TLS__KEY", &key);
    broker.set("CREDENTIALS__ADDRESS", "broker");
    broker.up();
    let url = broker.url().replace("http://", "https://");

    runner.trust(&ca);
    runner.register(&url, ENROLLMENT_TOKEN).expect("the broker enrolls the runner");
    assert_eq!(runner.file()["address"], url);
    runner.start();
    let ca = ca.to_str().expect("a path of text").to_owned();
    gitea.push_workflow("tls", &JOB.replace("AUTHORITY", &ca));
    let log = gitea.wait_for_success("tls");
    assert!(log.lines().any(|line| line.ends_with(job::DONE)), "{log}");
    assert!(log.contains("a long log, line 5000"), "all of the log is there");
    runner.stop();
    assert!(broker.down(Signal::TERM).success(), "{}", broker.output());
    assert_eq!(gitea.runners(), [Value::Null; 0], "the runner had left");
}
