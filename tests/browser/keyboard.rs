//! The page without a mouse.

use crate::driver::{BACKSPACE, Browser, END, ENTER, Profile, SPACE, TAB};
use crate::stage::{ADMIN_TOKEN, Stage};

/// Presses Tab until the focus is on what a screen reader calls so. Each stop must be seen.
fn tab_to(browser: &Browser, label: &str) {
    let mut stops = Vec::new();
    for _ in 0..60 {
        browser.press(&TAB.to_string());
        let focused = browser.focused();
        let name = browser.label(&focused);
        assert_ne!(browser.style(&focused, "outline-style"), "none", "the focus on {name} is seen");
        if name == label {
            return;
        }
        stops.push(name);
    }
    panic!("no way to {label} by Tab: {stops:#?}");
}

/// Goes to a link or button by Tab, and to the page that Enter leads to.
fn go(browser: &Browser, label: &str) {
    tab_to(browser, label);
    browser.leave(|| browser.press(&ENTER.to_string()));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_token_is_made_and_deleted_by_keys_alone() {
    let stage = Stage::set(Profile { javascript: false }).await;
    let browser = &stage.browser;
    browser.open(&stage.at(""));
    assert_eq!(browser.label(&browser.focused()), "Admin token", "the one field has the focus");
    browser.leave(|| browser.press(&format!("{ADMIN_TOKEN}{ENTER}")));
    assert_eq!(browser.said("h1"), "Enrollment tokens");

    browser.press(&TAB.to_string());
    let skip = browser.focused();
    assert_eq!(browser.label(&skip), "Skip to the content", "the first stop of each page");
    browser.press(&ENTER.to_string());
    assert!(browser.url().ends_with("#main"));
    browser.press(&TAB.to_string());
    let (live, new) = (browser.focused(), browser.named("New token"));
    assert_eq!(browser.label(&live), "0 live runners", "the navigation is skipped");
    browser.press(&TAB.to_string());
    assert_eq!(browser.focused(), new);
    browser.leave(|| browser.press(&ENTER.to_string()));

    tab_to(browser, "Description");
    browser.press("By keys");
    tab_to(browser, "Networks");
    browser.press("nowhere");
    go(browser, "Create token");
    let summary = browser.focused();
    assert_eq!(browser.attribute(&summary, "role").as_deref(), Some("alert"), "it is read out");
    tab_to(browser, "Networks");
    browser.press(&ENTER.to_string());
    assert!(browser.url().ends_with("#allowed_cidrs"));
    assert_eq!(browser.label(&browser.focused()), "Networks", "the link leads into the field");
    browser.press(&format!("{END}{}", BACKSPACE.to_string().repeat("nowhere".len())));
    tab_to(
        browser,
        "Only ephemeral runners Gitea removes them after one task (GITEA_RUNNER_EPHEMERAL=1).",
    );
    browser.press(&SPACE.to_string());
    go(browser, "Create token");
    let secret = browser.said(".secret");
    tab_to(browser, "The secret");
    go(browser, "I have copied it");
    let id = secret.split('_').nth(1).unwrap();
    assert_eq!(browser.said("h1"), format!("Token {id}"));
    let token = stage.broker.lifecycle.token(id).unwrap().token;
    assert_eq!((token.description.as_str(), token.policy.ephemeral_only), ("By keys", true));

    go(browser, "Delete…");
    go(browser, "Delete");
    assert_eq!(browser.said("[role=status]"), format!("The token {id} is deleted."));
    go(browser, "Sign out");
    assert_eq!(browser.said("h1"), "Sign in");
}
