//! No Register that the broker did not author reaches Gitea, whatever the spelling of its path.

use runner_broker::connect::{Codec, encode};

use crate::bad_input::error_of;
use crate::capture::Capture;
use crate::raw::{REGISTER, Wire, request};
use crate::register::{intent_label, registers};
use crate::support::{Broker, Site, gitea, is_probe};

/// Paths that a lenient server may take for Register's.
const SPELLINGS: &str = include_str!("../data/register-spellings.txt");

#[tokio::test]
async fn no_spelling_of_registers_path_passes_by() {
    let log = Capture::start();
    let gitea = gitea();
    let site = Site::new(&gitea);
    let broker = Broker::start(&site).await;
    let body = encode(Codec::Proto, &request("one"));
    let service = "/api/actions/runner.v1.RunnerService";
    let mut authored = 0;
    let mut targets: Vec<String> = SPELLINGS.lines().map(str::to_owned).collect();
    targets.push(REGISTER.to_owned());
    targets.extend(targets.clone().iter().map(|path| format!("http://gitea.example{path}")));
    targets.extend([
        format!("{REGISTER}?x=1"),
        format!("/x?{REGISTER}"),
        format!("{service}/Register?/../y"),
    ]);
    for target in &targets {
        for (method, version, more) in [
            ("POST", "1.1", ""),
            ("POST", "1.0", ""),
            ("GET", "1.1", ""),
            ("post", "1.1", ""),
            ("CONNECT", "1.1", ""),
            (
                "POST",
                "1.1",
                "Connection: Upgrade, HTTP2-Settings\r\nUpgrade: h2c\r\nHTTP2-Settings: AAMAAABkAAQAAP__\r\n",
            ),
            (
                "POST",
                "1.1",
                "X-HTTP-Method-Override: POST\r\nX-Original-URL: /api/actions/runner.v1.RunnerService/Register\r\n",
            ),
        ] {
            let case = format!("{method} {target} HTTP/{version} {more}");
            let head = format!(
                "{method} {target} HTTP/{version}\r\nHost: broker\r\nContent-Type: application/proto\r\n\
                 {more}Content-Length: {}\r\n\r\n",
                body.len()
            );
            let complaints = log.complaints();
            let mut wire = Wire::dial(&broker.url).await;
            let _ = wire.try_say(&[head.as_bytes(), &body].concat()).await;
            let got = wire.answer().await.unwrap_or_else(|| panic!("{case}: no answer"));
            if got.status == 200 {
                authored += 1;
            } else if !target.starts_with("/x?") && method != "CONNECT" {
                let (_, message) = error_of(&got);
                assert!(message.contains("POST") || message.contains(service), "{case}: {message}");
                assert!(log.complaints() > complaints, "{case}: nothing in the log");
            }
        }
    }
    let arrived = registers(&gitea);
    assert!(authored >= 8, "{authored}");
    for entry in gitea.journal().entries().into_iter().filter(|entry| !is_probe(entry)) {
        let path = entry.target.split('?').next().unwrap().to_lowercase();
        let looks =
            path.contains("egister") || path.contains("runnerservice") || path.contains('%');
        if looks {
            assert_eq!(entry.target.split('?').next(), Some(REGISTER), "{entry:?}");
            intent_label(&entry);
        }
    }
    // `/x?…` is passed on and is no Register.
    let real = arrived.iter().filter(|entry| entry.target.starts_with("/api")).count();
    assert_eq!(real, authored);
    assert_eq!(gitea.runners().len(), authored);
}
