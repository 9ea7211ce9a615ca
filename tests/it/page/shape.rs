//! What every page has: its headers, links that lead somewhere, and texts that are no markup.

use std::collections::BTreeSet;

use super::client::{ADMIN_TOKEN, Answer, Stack, Visitor, create, resolve};

const CSP: &str = "default-src 'none'; style-src 'self'; img-src 'self'; form-action 'self'; \
                   base-uri 'none'; frame-ancestors 'none'";

/// What browsers are told with each answer.
pub(super) fn guarded(answer: &Answer, path: &str) {
    assert_eq!(answer.header("content-security-policy"), Some(CSP), "{path}");
    assert_eq!(answer.header("x-content-type-options"), Some("nosniff"), "{path}");
    assert_eq!(answer.header("referrer-policy"), Some("same-origin"), "{path}");
    assert_eq!(answer.header("cross-origin-opener-policy"), Some("same-origin"), "{path}");
    let asset = path.ends_with(".css") || path.ends_with(".svg");
    assert_eq!(answer.header("cache-control") == Some("no-store"), !asset, "{path}");
    for word in ["<script", " style=", " onclick=", "javascript:"] {
        assert!(!answer.body.contains(word), "{word} in {path}");
    }
}

/// Follows every link from the home page on, below `prefix` as a browser sees it.
pub(super) async fn crawl(visitor: &Visitor, prefix: &str, stripped: bool) -> BTreeSet<String> {
    let home = format!("{prefix}/");
    let mut seen = BTreeSet::from([home.clone()]);
    let mut waiting = vec![home];
    while let Some(path) = waiting.pop() {
        let sent = if stripped { path.strip_prefix(prefix).unwrap() } else { &path };
        let answer = visitor.get(sent).await;
        assert_eq!(answer.status, 200, "{path}");
        guarded(&answer, sent.split('?').next().unwrap());
        let links = ["href", "src"].map(|name| answer.attributes(name)).concat();
        for link in links.iter().filter(|link| !link.starts_with('#')) {
            assert!(link.starts_with("./") || link.starts_with("../"), "{link} in {path}");
            let next = resolve(&path, &link.replace("&#38;", "&"));
            assert!(next.starts_with(&format!("{prefix}/")), "{link} in {path}");
            if seen.insert(next.clone()) {
                waiting.push(next);
            }
        }
        for action in answer.attributes("action") {
            let next = resolve(&path, &action);
            let sent = if stripped { next.strip_prefix(prefix).unwrap() } else { &next };
            let known = visitor.get(sent).await.status;
            assert!([200, 405].contains(&known), "{action} in {path}: {known}");
        }
    }
    seen
}

#[tokio::test]
async fn every_link_leads_somewhere_at_the_root_and_at_a_sub_path() {
    for public_url in ["", "https://x.lan/sub/path", "https://x.lan/runners"] {
        let stack = Stack::start_with(|site| match public_url {
            "" => site,
            url => site.set("admin.public_url", url),
        })
        .await;
        let visitor = stack.signed_in().await;
        let (id, secret) = create(&visitor, &[("description", "a")]).await;
        let off = create(&visitor, &[("kind", "single_use")]).await.0;
        visitor
            .send(&format!("/tokens/{off}/disable"), &format!("../../tokens/{off}/disable"), &[])
            .await;
        stack.runner(secret, "a").await;
        let prefix = public_url.strip_prefix("https://x.lan").unwrap_or_default();
        for stripped in [true, false] {
            let seen = crawl(&visitor, prefix, stripped).await;
            for path in [
                "/".to_owned(),
                "/tokens/new".into(),
                "/runners".into(),
                "/events".into(),
                format!("/tokens/{id}/delete"),
                format!("/tokens/{id}/rotate"),
                format!("/tokens/{off}"),
                "/runners/1/deregister".into(),
                "/icon.svg".into(),
            ] {
                assert!(seen.contains(&format!("{prefix}{path}")), "{path} in {seen:?}");
            }
        }
    }
    let stack =
        Stack::start_with(|site| site.set("admin.public_url", "http://x.lan/sub/path")).await;
    let mut visitor = stack.visitor();
    assert_eq!(visitor.get("/sub/path").await.location(), "./path/");
    assert_eq!(visitor.get("/sub/path/tokens/a").await.location(), "../sign-in?to=tokens/a");
    assert_eq!(visitor.sign_in("/sub/path/sign-in", ADMIN_TOKEN).await.location(), "./");
    assert_eq!(visitor.get("/sub/path/").await.status, 200);
}

#[tokio::test]
async fn the_style_sheet_may_be_kept_for_ever_and_pages_not_at_all() {
    let stack = Stack::start().await;
    let form = stack.visitor().get("/sign-in").await;
    guarded(&form, "/sign-in");
    let sheets: Vec<_> =
        form.attributes("href").into_iter().filter(|href| href.ends_with(".css")).collect();
    let [sheet] = sheets.as_slice() else { panic!("{sheets:?}") };
    let style = stack.visitor().get(&resolve("/sign-in", sheet)).await;
    assert_eq!(style.status, 200);
    assert_eq!(style.header("content-type"), Some("text/css; charset=utf-8"));
    assert!(style.header("cache-control").unwrap().contains("immutable"));
    assert!(!style.body.contains("url(") && !style.body.contains("@import"), "nothing foreign");
    for path in ["/", "/tokens/none"] {
        guarded(&stack.visitor().get(path).await, path);
        guarded(&stack.signed_in().await.get(path).await, path);
    }
}

#[tokio::test]
async fn what_others_wrote_is_text() {
    let stack = Stack::start().await;
    let visitor = stack.signed_in().await;
    let evil = "<script>alert('1')</script>\"&";
    let (id, secret) = create(&visitor, &[("description", evil)]).await;
    stack.runner(secret, "<img src=x onerror=alert(1)>").await;
    for path in [
        "/".to_owned(),
        format!("/tokens/{id}"),
        format!("/tokens/{id}/delete"),
        "/runners".into(),
        "/runners/1/deregister".into(),
        "/events".into(),
        "/events?token_id=%22%3E%3Cscript%3E".into(),
    ] {
        let answer = visitor.get(&path).await;
        assert_eq!(answer.status, 200, "{path}");
        for markup in ["<script", "<img src=x", "alert('1')"] {
            assert!(!answer.body.contains(markup), "{markup} in {path}: {}", answer.body);
        }
    }
    let list = visitor.get("/").await.body;
    assert!(
        list.contains("&#60;script&#62;alert(&#39;1&#39;)&#60;/script&#62;&#34;&#38;"),
        "{list}"
    );
    let runners = visitor.get("/runners").await.body;
    assert!(runners.contains("&#60;img src=x onerror=alert(1)&#62;"), "{runners}");
    let missing = visitor.get("/tokens/%3Cscript%3E").await;
    assert_eq!(missing.status, 404);
    assert!(missing.body.contains("&#60;script&#62;"), "{}", missing.body);
}
