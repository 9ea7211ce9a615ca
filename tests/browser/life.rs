//! The whole life of a token and its runners, by clicks, in a browser that runs no script.

use runner_broker::broker::What;
use runner_broker::store::EventFilter;

use crate::driver::{Browser, Profile};
use crate::stage::{ADMIN_TOKEN, Stage};

/// The texts of the first column of the page's table.
fn rows(browser: &Browser) -> Vec<String> {
    let heads = browser.all("tbody th");
    heads.iter().map(|head| browser.text(head).lines().next().unwrap().to_owned()).collect()
}

/// What a term of the token's record says.
fn fact(browser: &Browser, term: &str) -> String {
    let facts = browser.all("dl > div");
    let texts: Vec<_> = facts.iter().map(|fact| browser.text(fact)).collect();
    let found = texts.iter().find_map(|text| text.strip_prefix(&format!("{term}\n")));
    found.unwrap_or_else(|| panic!("{term} in {texts:#?}")).to_owned()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_token_lives_and_ends_without_any_script() {
    let stage = Stage::set(Profile { javascript: false }).await;
    let browser = &stage.browser;
    browser.open("data:text/html,<title>off</title><script>document.title='on'</script>");
    assert_eq!(browser.title(), "off", "scripts do not run here");

    browser.open(&stage.at("events"));
    assert_eq!(browser.said("h1"), "Sign in");
    browser.write("#token", "not the admin token");
    browser.follow("Sign in");
    assert!(browser.said("#token-wrong").contains("not the admin token"));
    browser.write("#token", ADMIN_TOKEN);
    browser.follow("Sign in");
    assert_eq!(browser.said("h1"), "Events", "back where it began");
    let cookies = browser.cookies();
    assert_eq!((cookies.len(), &cookies[0]["httpOnly"]), (1, &true.into()), "{cookies:?}");
    assert_eq!(cookies[0]["sameSite"], "Lax");

    browser.follow("Tokens");
    browser.follow("New token");
    browser.write("#description", "Hosts of the test");
    browser.write("#max_runners", "0");
    browser.follow("Create token");
    assert!(browser.title().starts_with("Error: "));
    assert!(browser.said("#max_runners-wrong").contains("1 or more"));
    browser.write("#max_runners", "5");
    browser.follow("Create token");
    let secret = browser.said(".secret");
    assert!(browser.source().contains("GITEA_RUNNER_REGISTRATION_TOKEN"));
    let id = secret.split('_').nth(1).unwrap().to_owned();
    browser.reload();
    assert_eq!(browser.said("h1"), "This form was sent before");
    assert!(!browser.source().contains(&secret));
    browser.follow("To the tokens");
    assert_eq!(rows(browser), [id.clone(), "settings declared".into()]);

    let first = stage.runner(&secret.clone().into(), "first").await;
    let second = stage.runner(&secret.clone().into(), "second").await;
    browser.follow("Runners");
    assert_eq!(rows(browser), ["first", "second"]);
    browser.follow("Tokens");
    browser.follow(&id);
    assert_eq!(fact(browser, "Live runners"), "2 of 5");
    assert!(!browser.source().contains(&secret));

    browser.follow("Unpin");
    assert!(browser.said("[role=status]").starts_with("It is unpinned"));
    assert_eq!(fact(browser, "Kind"), "single use");
    assert_eq!(browser.said(".head .badge"), "used up");
    browser.follow("Pin");
    assert_eq!(browser.said(".head .badge"), "active");

    browser.follow("Disable…");
    browser.follow("Disable");
    assert_eq!(browser.said(".head .badge"), "disabled");
    assert_eq!(stage.gitea.runners().len(), 2, "they stay");
    browser.follow("Enable");
    assert_eq!(browser.said(".head .badge"), "active");

    browser.follow("Rotate…");
    browser.click(&browser.one("#overlap option[value='1h']"));
    browser.follow("Rotate");
    assert!(browser.said(".once").contains("The old one goes on for 1h."));
    let new = browser.said(".secret");
    assert_ne!(new, secret);
    let third = stage.runner(&new.into(), "third").await;
    browser.follow("I have copied it");
    assert_eq!(fact(browser, "Live runners"), "3 of 5");

    browser.follow("Runners");
    let names = ["first", "second", "third"];
    assert_eq!(rows(browser), names);
    stage.gitea.queue_task(&["host"]);
    second.fetch_task(0).await.unwrap().0.expect("the task");
    let second_row = browser.all("td.act a").remove(1);
    browser.leave(|| browser.click(&second_row));
    assert_eq!(browser.said("h1"), "Deregister second?");
    browser.follow("Deregister");
    assert_eq!(browser.said("h1"), "The runner has a task");
    browser.open(&stage.at(&format!("runners/{}/deregister", second.credentials.id)));
    browser.click(&browser.one("[name=cancel_task]"));
    browser.follow("Deregister");
    assert_eq!(browser.said("[role=status]"), "The runner second is deregistered.");
    assert_eq!(rows(browser), ["first", "third"]);

    browser.open(&stage.at(&format!("tokens/{id}/delete")));
    browser.click(&browser.one("[name=cascade][value=yes]"));
    browser.follow("Delete");
    assert!(browser.said("[role=status]").contains("Its 2 live runners are being deregistered."));
    assert_eq!(rows(browser), ["settings declared"]);
    browser.follow("Runners");
    browser.eventually("its runners are gone", |browser| browser.all("tbody tr").is_empty());
    assert!(stage.gitea.runners().is_empty());
    for runner in [first, third] {
        runner.declare(&["host"]).await.expect_err("Gitea does not know it any more");
    }

    browser.follow("Events");
    browser.click(&browser.one("#what option[value='token.deleted']"));
    browser.follow("Show");
    assert_eq!(rows(browser), ["Token deleted"]);
    browser.follow("Sign out");
    assert_eq!(browser.said("h1"), "Sign in");
    browser.open(&stage.at("events"));
    assert_eq!(browser.said("h1"), "Sign in");
    let filter =
        EventFilter { what: Some(What::AdminSignedIn), limit: 9, ..EventFilter::default() };
    assert_eq!(stage.broker.lifecycle.events(filter).await.unwrap().len(), 1);
}
