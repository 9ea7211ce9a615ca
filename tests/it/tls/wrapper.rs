//! The wrapper's way to a broker that speaks TLS.

use std::io::{BufRead, BufReader};
use std::process::{Command, Stdio};

use super::Stack;
use crate::support::{ENROLLMENT_TOKEN, runner_file};

/// `enroll` at this broker, which it trusts.
fn enroll(stack: &Stack) -> Command {
    let ca = stack.site.path("ca.pem");
    std::fs::write(&ca, stack.authority.pem()).unwrap();
    let mut command = Command::new(env!("CARGO_BIN_EXE_runner-broker"));
    command
        .env_clear()
        .env("GITEA_INSTANCE_URL", &stack.broker.url)
        .env("GITEA_RUNNER_REGISTRATION_TOKEN", ENROLLMENT_TOKEN)
        .args(["enroll", "--name", "one", "--labels", "host:host", "--backoff", "10ms", "--out"])
        .arg(stack.site.path("enrolled"))
        .arg("--ca-file")
        .arg(ca);
    command
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn it_trusts_an_authority_of_your_own() {
    let stack = Stack::start().await;
    let output = enroll(&stack).output().unwrap();
    let text = String::from_utf8(output.stderr).unwrap();
    assert!(output.status.success(), "{text}");
    assert_eq!(runner_file(&stack.site.path("enrolled"))["address"], stack.broker.url);
    assert_eq!(stack.gitea.runners().len(), 1);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn it_says_that_it_can_show_no_certificate() {
    let stack = Stack::start_with(|site| {
        let ca = site.path("listen.crt");
        site.set("listen.tls.client_ca", ca.to_str().unwrap())
    })
    .await;
    // It asks again and again, as a broker that restarts would come back.
    let mut enrolling = enroll(&stack).stderr(Stdio::piped()).spawn().unwrap();
    let stderr = BufReader::new(enrolling.stderr.take().unwrap());
    let said = stderr.lines().next().unwrap().unwrap();
    enrolling.kill().unwrap();
    enrolling.wait().unwrap();
    assert!(said.contains("dial a proxy that shows one"), "{said}");
    assert!(stack.gitea.runners().is_empty());
}
