//! Who gets in and who does not.

use runner_broker::broker::What;
use runner_broker::shutdown::Signal;
use runner_broker::store::EventFilter;

use super::client::{ADMIN_TOKEN, Stack, Visitor};
use crate::support::eventually;

/// Actors and peers of the latest events of this kind.
async fn actors(stack: &Stack, what: What) -> Vec<(String, String)> {
    let filter = EventFilter { what: Some(what), limit: 100, ..EventFilter::default() };
    let events = stack.broker.lifecycle.events(filter).await.unwrap();
    let peer = |event: &runner_broker::broker::Event| event.peer.unwrap().to_string();
    events.iter().map(|event| (event.actor.clone(), peer(event))).collect()
}

#[tokio::test]
async fn the_admin_token_opens_the_page_and_the_way_back() {
    let stack = Stack::start().await;
    let mut visitor = stack.visitor();
    for (path, to_sign_in) in [
        ("/", "./sign-in"),
        ("/events?token_id=settings&what=", "./sign-in?to=events?token_id=settings&what="),
        ("/tokens/settings", "../sign-in?to=tokens/settings"),
        ("/tokens/settings/delete", "../../sign-in?to=tokens/settings/delete"),
    ] {
        assert_eq!(visitor.get(path).await.location(), to_sign_in);
    }
    let form = visitor.get("/sign-in?to=events?token_id=settings&what=").await;
    assert_eq!(form.status, 200);
    assert!(
        form.body.contains(r#"name="to" value="events?token_id=settings&#38;what=""#),
        "{}",
        form.body
    );

    let wrong = visitor.sign_in("/sign-in", "not the admin token").await;
    assert_eq!(wrong.status, 401);
    assert!(wrong.body.contains("this is not the admin token"), "{}", wrong.body);
    assert!(wrong.body.contains(r#"aria-describedby="token-hint token-wrong""#), "{}", wrong.body);
    assert!(!wrong.body.contains("not the admin token\""), "what was typed is not shown");
    assert!(wrong.header("set-cookie").is_none());

    let fields = [("token", ADMIN_TOKEN), ("to", "tokens/settings")];
    assert_eq!(visitor.post("/sign-in", &fields).await.location(), "./tokens/settings");
    visitor.sign_in("/sign-in", ADMIN_TOKEN).await;
    assert_eq!(visitor.get("/").await.status, 200);
    assert_eq!(visitor.get("/sign-in").await.location(), "./", "who is in needs no form");
    assert_eq!(actors(&stack, What::AdminSignedIn).await.len(), 2);
    assert_eq!(actors(&stack, What::AdminRefused).await, [("admin".into(), "127.0.0.1".into())]);

    let out = visitor.send("/", "./sign-out", &[]).await;
    assert_eq!(out.location(), "./sign-in");
    assert!(out.header("set-cookie").unwrap().contains("Max-Age=0"));
    assert_eq!(visitor.get("/").await.location(), "./sign-in", "the cookie opens nothing any more");
}

#[tokio::test]
async fn after_the_sign_in_nobody_is_sent_elsewhere() {
    let stack = Stack::start().await;
    for to in [
        "//evil.example",
        "https://evil.example",
        "/\\evil.example",
        "\\\\evil.example",
        "/etc",
        "a//b",
        "../x",
        "x\r\nSet-Cookie: a=b",
        "javascript:alert(1)",
        "data:,x",
    ] {
        let answer = stack.visitor().post("/sign-in", &[("token", ADMIN_TOKEN), ("to", to)]).await;
        assert_eq!(answer.location(), "./", "{to}");
    }
}

#[tokio::test]
async fn without_an_admin_token_the_page_says_how_to_switch_it_on() {
    let stack = Stack::start_with(|mut site| {
        site.extra.retain(|(key, _)| key != "admin.token_file");
        site
    })
    .await;
    let visitor = stack.visitor();
    for path in ["/", "/sign-in", "/tokens/new", "/runners", "/events"] {
        let answer = visitor.get(path).await;
        assert_eq!(answer.status, 403, "{path}");
        assert!(answer.body.contains("admin.token_file") || answer.body.contains("token_file ="));
    }
    assert_eq!(visitor.post("/sign-in", &[("token", "")]).await.status, 403);
    assert_eq!(visitor.post("/sign-out", &[]).await.status, 403);
}

#[tokio::test]
async fn a_form_needs_the_sessions_own_word_and_a_page_of_ours() {
    let stack = Stack::start().await;
    let visitor = stack.signed_in().await;
    let other = stack.signed_in().await;
    let create = async |visitor: &Visitor, csrf: Option<&str>| {
        let page = visitor.get("/tokens/new").await;
        let form = page.body.split("name=\"form\" value=\"").nth(1).unwrap();
        let mut fields = vec![("form", form.split('"').next().unwrap())];
        fields.extend(csrf.map(|csrf| ("csrf", csrf)));
        visitor.post("/tokens/new", &fields).await
    };
    let csrf = async |visitor: &Visitor| {
        let page = visitor.get("/").await.body;
        page.split("name=\"csrf\" value=\"").nth(1).unwrap().split('"').next().unwrap().to_owned()
    };
    let (own, foreign) = (csrf(&visitor).await, csrf(&other).await);
    assert_ne!(own, foreign);
    for wrong in [None, Some(""), Some("0"), Some(foreign.as_str()), Some(&own[1..])] {
        assert_eq!(create(&visitor, wrong).await.status, 403, "{wrong:?}");
    }
    assert_eq!(stack.broker.lifecycle.tokens().len(), 1);

    let authority = format!("http://{}", stack.broker.admin);
    for (header, value, status) in [
        ("Sec-Fetch-Site", "cross-site", 403),
        ("Sec-Fetch-Site", "same-site", 403),
        ("Origin", "null", 403),
        ("Origin", "https://evil.example", 403),
        ("Origin", "http://127.0.0.1", 403),
        ("Sec-Fetch-Site", "same-origin", 200),
        ("Origin", authority.as_str(), 200),
    ] {
        let sent = create(&visitor.clone().with(header, value), Some(&own)).await;
        assert_eq!(sent.status, status, "{header}: {value}\n{}", sent.body);
        let signed = stack.visitor().with(header, value).sign_in("/sign-in", ADMIN_TOKEN).await;
        assert_eq!(signed.status, if status == 200 { 303 } else { 403 }, "{header}: {value}");
    }
    assert_eq!(stack.broker.lifecycle.tokens().len(), 3);

    let nobody = stack.visitor().post("/tokens/new", &[("csrf", &own)]).await;
    assert_eq!(nobody.location(), "../sign-in");
}

#[tokio::test]
async fn the_cookie_is_as_narrow_as_the_address_allows() {
    for (public_url, name, attributes) in [
        ("", "runner-broker", "; Path=/; HttpOnly; SameSite=Lax"),
        ("http://broker.lan:8081", "runner-broker", "; Path=/; HttpOnly; SameSite=Lax"),
        ("http://x.lan/sub/path", "runner-broker", "; Path=/sub/path; HttpOnly; SameSite=Lax"),
        ("https://x.lan", "__Host-runner-broker", "; Path=/; HttpOnly; SameSite=Lax; Secure"),
        (
            "https://x.lan/sub/path",
            "__Secure-runner-broker",
            "; Path=/sub/path; HttpOnly; SameSite=Lax; Secure",
        ),
    ] {
        let stack = Stack::start_with(|site| match public_url {
            "" => site,
            url => site.set("admin.public_url", url),
        })
        .await;
        let origin = public_url.split("/sub").next().unwrap().to_owned();
        let mut visitor = stack.visitor();
        if !origin.is_empty() {
            // A proxy in front has put its own name for the broker there.
            visitor = visitor.with("Origin", &origin);
        }
        let answer = visitor.sign_in("/sign-in", ADMIN_TOKEN).await;
        assert_eq!(answer.status, 303, "{}", answer.body);
        let cookie = answer.header("set-cookie").unwrap();
        let (secret, said) = cookie.split_at(cookie.find(';').unwrap());
        assert_eq!(said, attributes);
        let secret = secret.strip_prefix(&format!("{name}=")).unwrap();
        assert_eq!(secret.len(), 64, "256 bits");
        assert_eq!(visitor.get("/").await.status, 200);
    }
}

#[tokio::test]
async fn another_admin_token_ends_every_session() {
    let stack = Stack::start().await;
    let visitor = stack.signed_in().await;
    assert_eq!(visitor.get("/").await.status, 200);
    stack.site.write_secret("admin_token", "another-admin-token-0123456789abcdefghij");
    stack.broker.signal(Signal::Reload).await;
    eventually("the session is over", async || visitor.get("/").await.status == 303).await;
    let mut visitor = stack.visitor();
    assert_eq!(visitor.sign_in("/sign-in", ADMIN_TOKEN).await.status, 401);
}

#[tokio::test]
async fn guessing_is_slowed_down() {
    let stack = Stack::start().await;
    let mut visitor = stack.visitor();
    let mut tries = 0;
    let refused = loop {
        let answer = visitor.sign_in("/sign-in", "a guess").await;
        if answer.status != 401 {
            break answer;
        }
        tries += 1;
        assert!(tries < 100, "nobody slows this down");
    };
    assert_eq!(refused.status, 429);
    assert!(refused.header("retry-after").is_some());
    assert!(refused.body.contains("try again in"), "{}", refused.body);
    assert_eq!(visitor.sign_in("/sign-in", ADMIN_TOKEN).await.status, 429, "a right one waits too");
}

#[tokio::test]
async fn a_trusted_proxy_names_the_actor_each_time_anew() {
    let stack = Stack::start_with(|site| {
        site.set("admin.trusted_proxies", "127.0.0.0/8").set("admin.user_header", "X-User")
    })
    .await;
    let mut visitor = stack.visitor().with("X-User", "ada").with("X-Forwarded-For", "192.0.2.7");
    visitor.sign_in("/sign-in", ADMIN_TOKEN).await;
    assert!(visitor.get("/").await.body.contains("ada"));
    let ada = ("admin:ada".to_owned(), "192.0.2.7".to_owned());
    assert_eq!(actors(&stack, What::AdminSignedIn).await, std::slice::from_ref(&ada));
    visitor.send("/tokens/new", "../tokens/new", &[]).await;
    assert_eq!(actors(&stack, What::TokenCreated).await, std::slice::from_ref(&ada));
    visitor.headers[0].1 = "<b>eve</b>".into();
    let created = visitor.send("/tokens/new", "../tokens/new", &[]).await;
    assert!(created.body.contains("&#60;b&#62;eve&#60;/b&#62;"), "{}", created.body);
    let eve = ("admin:<b>eve</b>".to_owned(), "192.0.2.7".to_owned());
    assert_eq!(actors(&stack, What::TokenCreated).await, [eve, ada]);
}
