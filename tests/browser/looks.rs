//! Every page in both schemes, on a desk and on a phone.

use std::time::{Duration, SystemTime};

use runner_broker::broker::token::Kind;
use runner_broker::lifecycle::By;
use runner_broker::sandbox::runner::Runner;

use serde_json::Value;

use crate::driver::{Browser, Profile};
use crate::stage::{Stage, keep_picture};
use crate::support::ENROLLMENT_TOKEN;

const DESK: (u32, u32, bool) = (1280, 900, false);
const PHONE: (u32, u32, bool) = (360, 780, true);

#[tokio::test(flavor = "multi_thread")]
async fn every_page_fits_and_is_named_in_both_schemes() {
    let stage = Stage::set(Profile { javascript: true }).await;
    let browser = &stage.browser;
    let look = |name: &str| look(browser, name);

    browser.open(&stage.at(""));
    look("sign-in");
    browser.write("#token", "not the admin token");
    browser.follow("Sign in");
    look("sign-in-wrong");
    stage.sign_in();
    let (_runners, id) = furnish(&stage).await;
    browser.open(&stage.at(""));
    look("tokens");
    for (name, path) in [
        ("new", "tokens/new".to_owned()),
        ("token", format!("tokens/{id}")),
        ("token-declared", "tokens/settings".into()),
        ("disable", format!("tokens/{id}/disable")),
        ("delete", format!("tokens/{id}/delete")),
        ("rotate", format!("tokens/{id}/rotate")),
        ("runners", "runners".into()),
        ("deregister-busy", "runners/1/deregister".into()),
        ("deregister", "runners/2/deregister".into()),
        ("events", "events".into()),
        ("events-wrong", "events?runner_id=builder".into()),
        ("events-none", "events?token_id=none".into()),
        ("missing", "tokens/none".into()),
    ] {
        browser.open(&stage.at(&path));
        look(name);
    }
    browser.open(&stage.at("tokens/new"));
    browser.write("#labels", "ubuntu-latest, a:b");
    browser.write("#allowed_cidrs", "10.0.0.0/33");
    browser.write("#max_uses", "many");
    browser.follow("Create token");
    look("new-wrong");
    browser.open(&stage.at("tokens/new"));
    browser.write("#description", "Build hosts in Berlin");
    browser.write("#labels", "ubuntu-latest");
    browser.follow("Create token");
    look("issued");
    browser.follow("I have copied it");
    browser.follow("Unpin");
    look("changed");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_page_that_is_off_looks_as_good() {
    let stage = Stage::set_with(Profile { javascript: true }, |site| site).await;
    stage.browser.open(&stage.at(""));
    assert_eq!(stage.browser.said("h1"), "The token page is off");
    look(&stage.browser, "off");
}

/// Looks at the page that is shown in every way.
fn look(browser: &Browser, name: &str) {
    for (size, (width, height, phone)) in [("phone", PHONE), ("desk", DESK)] {
        browser.window(width, height, phone);
        for scheme in ["dark", "light"] {
            browser.scheme(scheme);
            keep_picture(browser, &format!("{name}-{size}-{scheme}"));
            let faint = browser.run(FAINT);
            assert_eq!(faint, Value::Array(vec![]), "{name} in {scheme}");
        }
        fits(browser, name);
    }
    is_named(browser, name);
}

/// Tokens in every state, runners, events and texts that are hard to show.
async fn furnish(stage: &Stage) -> (Vec<Runner>, String) {
    let lifecycle = &stage.broker.lifecycle;
    let by = By { actor: "admin:ada".into(), peer: Some([192, 0, 2, 7].into()) };
    let soon = SystemTime::now() + Duration::from_secs(30 * 86_400 + 60);
    let builders = stage
        .token(|draft| {
            draft.description = "Build hosts in Berlin, second floor".into();
            draft.policy.labels = vec!["host".into(), "ubuntu-latest".into(), "arm64".into()];
            draft.policy.name_pattern = Some("builder-*".into());
            draft.policy.max_runners = Some(10);
            draft.policy.expires_at = Some(soon);
            draft.policy.allowed_cidrs =
                vec!["127.0.0.0/8".parse().unwrap(), "2001:db8::/32".parse().unwrap()];
        })
        .await;
    let mut runners = vec![
        stage.runner(&builders.secret, "builder-1").await,
        stage.runner(&builders.secret, "builder-2").await,
    ];
    stage.gitea.queue_task(&["host"]);
    runners[0].fetch_task(0).await.unwrap().0.expect("the task");
    let single = stage.token(|draft| {
        draft.kind = Kind::SingleUse;
        draft.description = "For the laptop on the desk of ada".into();
    });
    runners.push(stage.runner(&single.await.secret, "ada-laptop").await);
    runners.push(
        stage
            .runner(
                &ENROLLMENT_TOKEN.into(),
                "a-runner-with-a-name-that-does-not-end-soon-".repeat(3).as_str(),
            )
            .await,
    );
    let off = stage.token(|draft| draft.description = "Old cluster".into()).await;
    lifecycle.disable_token(&off.token.token.id, false, &by).await.unwrap();
    let brief = stage.token(|draft| {
        draft.description = "<script>alert(1)</script> & \"quotes\"".into();
        draft.policy.expires_at = Some(SystemTime::now() + Duration::from_millis(50));
    });
    brief.await;
    tokio::time::sleep(Duration::from_millis(60)).await;
    (runners, builders.token.token.id)
}

fn fits(browser: &Browser, name: &str) {
    let (window, content) = browser.widths();
    assert!(content <= window, "{name}: {content} wide in a window of {window}");
}

/// The texts whose contrast to their ground is less than WCAG's 4.5.
const FAINT: &str = r"
    const parts = colour => colour.match(/[\d.]+/g).map(Number);
    const light = colour => {
        const [r, g, b] = parts(colour).slice(0, 3).map(part => part / 255)
            .map(part => part <= 0.04045 ? part / 12.92 : ((part + 0.055) / 1.055) ** 2.4);
        return 0.2126 * r + 0.7152 * g + 0.0722 * b;
    };
    const ground = element => {
        const colour = getComputedStyle(element).backgroundColor;
        return parts(colour)[3] === 0 ? ground(element.parentElement) : colour;
    };
    const faint = [], nodes = document.createTreeWalker(document.body, NodeFilter.SHOW_TEXT);
    while (nodes.nextNode()) {
        const text = nodes.currentNode.data.trim(), element = nodes.currentNode.parentElement;
        if (!text || !element.getClientRects().length) continue;
        const [a, b] = [light(getComputedStyle(element).color), light(ground(element))];
        const contrast = (Math.max(a, b) + 0.05) / (Math.min(a, b) + 0.05);
        if (contrast < 4.5) faint.push(`${contrast.toFixed(2)}: ${text}`);
    }
    return faint;
";

/// What a screen reader needs on each page.
fn is_named(browser: &Browser, name: &str) {
    assert_eq!(browser.all("h1").len(), 1, "{name}");
    assert_eq!(browser.all("main, header, footer").len(), 3, "{name}");
    assert!(browser.title().ends_with(" · Runner broker"), "{name}");
    let controls =
        browser.all("a, button, input:not([type=hidden], [hidden]), select, textarea, pre");
    let mut roles = Vec::new();
    for control in controls {
        assert_ne!(browser.label(&control), "", "{name}: {}", browser.text(&control));
        roles.push(browser.role(&control));
    }
    assert!(roles.iter().all(|role| role != "generic" && role != "none"), "{name}: {roles:?}");
    for cell in browser.all("table") {
        assert_eq!(browser.role(&cell), "table");
        assert_ne!(browser.label(&cell), "", "{name}");
    }
    let complaints: Vec<_> = browser
        .complaints()
        .into_iter()
        // A page with a status of 400 and more is one of ours, as it should be.
        .filter(|it| it["source"] != "network")
        .collect();
    assert!(complaints.is_empty(), "{name}: {complaints:#?}");
}
