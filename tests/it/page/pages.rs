//! What the pages show and what their forms do.

use std::time::{Duration, Instant};

use runner_broker::broker::RecordId;
use runner_broker::broker::token::State;
use runner_broker::store::EventFilter;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::UnixStream;

use super::client::{Answer, Stack, create};
use super::shape::{crawl, guarded};
use crate::support::{ENROLLMENT_TOKEN, eventually};

fn state(stack: &Stack, id: &str) -> State {
    stack.broker.lifecycle.token(id).unwrap().state
}

#[tokio::test]
async fn the_secret_is_shown_once_and_a_reload_makes_no_second_token() {
    let stack =
        Stack::start_with(|site| site.set("listen.public_url", "http://broker:8080/")).await;
    let visitor = stack.signed_in().await;
    let page = visitor.get("/tokens/new").await;
    let form = page.body.split("name=\"form\" value=\"").nth(1).unwrap().split('"').next().unwrap();
    let csrf = page.body.split("name=\"csrf\" value=\"").nth(1).unwrap().split('"').next().unwrap();
    let fields =
        [("csrf", csrf), ("form", form), ("name_pattern", "ci-*"), ("ephemeral_only", "yes")];
    let made = visitor.post("/tokens/new", &fields).await;
    assert_eq!(made.status, 200, "{}", made.body);
    guarded(&made, "/tokens/new");
    let secret = made.secret().unwrap();
    let id = secret.split('_').nth(1).unwrap();
    for line in [
        "GITEA_INSTANCE_URL: &#34;http://broker:8080&#34;".to_owned(),
        format!("--env GITEA_RUNNER_REGISTRATION_TOKEN=&#39;{secret}&#39;"),
        format!("token: &#34;{secret}&#34;"),
        "GITEA_RUNNER_NAME: &#34;ci-1&#34;".into(),
        "GITEA_RUNNER_EPHEMERAL: &#34;1&#34;".into(),
        "secretKeyRef:".into(),
        "GITEA_RUNNER_REGISTRATION_TOKEN_FILE".into(),
        "gitea/runner:".into(),
    ] {
        assert!(made.body.contains(&line), "{line} in {}", made.body);
    }
    let again = visitor.post("/tokens/new", &fields).await;
    assert_eq!((again.status, again.secret()), (409, None), "{}", again.body);
    assert_eq!(stack.broker.lifecycle.tokens().len(), 2);
    for path in crawl(&visitor, "", true).await {
        assert!(!visitor.get(&path).await.body.contains(&secret), "{path}");
    }

    let rotate = format!("/tokens/{id}/rotate");
    let action = format!("../../tokens/{id}/rotate");
    let rotated = visitor.send(&rotate, &action, &[("overlap", "0s")]).await;
    let new = rotated.secret().unwrap();
    assert!(new != secret && new.starts_with(&format!("rb_{id}_")), "{new}");
    assert!(rotated.body.contains("The old one has ended."), "{}", rotated.body);
    let rotated = visitor.send(&rotate, &action, &[("overlap", "1h")]).await;
    assert!(rotated.body.contains("goes on for 1h"), "{}", rotated.body);
    assert_eq!(visitor.send(&rotate, &action, &[("overlap", "long")]).await.status, 400);
}

#[tokio::test]
async fn the_form_offers_the_scopes_where_there_are_several() {
    let alone = Stack::start().await.signed_in().await.get("/tokens/new").await;
    assert!(!alone.body.contains("name=\"scope\""), "one is no choice");

    let stack = Stack::start_with(|site| {
        let scopes = ["org:acme", "repo:acme/app"]
            .map(|scope| format!("[[gitea.scopes]]\nscope = \"{scope}\"\napi_token = \"x\"\n"));
        site.write_config(&scopes.concat());
        site
    })
    .await;
    let visitor = stack.signed_in().await;
    let page = visitor.get("/tokens/new").await;
    for scope in ["instance", "org:acme", "repo:acme/app"] {
        assert!(page.body.contains(&format!("<option value=\"{scope}\"")), "{}", page.body);
    }
    let send =
        async |fields: &[(&str, &str)]| visitor.send("/tokens/new", "../tokens/new", fields).await;
    let wrong = send(&[("scope", "org:acme"), ("max_uses", "many")]).await;
    let kept = "<option value=\"org:acme\" selected>";
    assert!(wrong.status == 422 && wrong.body.contains(kept), "{}", wrong.body);
    let other = send(&[("scope", "org:other")]).await;
    assert!(other.body.contains("scope: the broker does not serve org:other"), "{}", other.body);
    for (named, scope) in [("org:acme", "org:acme"), ("", "instance")] {
        let made = send(&[("scope", named)]).await;
        let secret = made.secret().unwrap_or_else(|| panic!("{}", made.body));
        let token = stack.broker.lifecycle.token(secret.split('_').nth(1).unwrap()).unwrap();
        assert_eq!(token.token.policy.scope.to_string(), scope);
    }
}

#[tokio::test]
async fn a_form_with_mistakes_comes_back_as_it_was_with_all_of_them() {
    let stack = Stack::start().await;
    let visitor = stack.signed_in().await;
    let answer = visitor
        .send(
            "/tokens/new",
            "../tokens/new",
            &[
                ("description", "for <the> hosts"),
                ("kind", "single_use"),
                ("labels", "a:b, c"),
                ("max_uses", "many"),
                ("max_runners", "0"),
                ("allowed_cidrs", "10.0.0.0/33"),
                ("expires_in", "soon"),
                ("ephemeral_only", "yes"),
            ],
        )
        .await;
    assert_eq!(answer.status, 422);
    assert!(answer.body.contains("<title>Error: New token"), "{}", answer.body);
    for field in ["labels", "max_uses", "max_runners", "allowed_cidrs", "expires_in"] {
        let tied = format!(r#"aria-describedby="{field}-hint {field}-wrong" aria-invalid="true""#);
        assert!(answer.body.contains(&tied), "{tied} in {}", answer.body);
        assert!(answer.body.contains(&format!("id=\"{field}-wrong\"")), "{field}");
        assert!(answer.body.contains(&format!("<a href=\"#{field}\"")), "{field}");
    }
    for kept in [
        "value=\"for &#60;the&#62; hosts\"",
        "value=\"single_use\" checked",
        ">\na:b, c</textarea>",
        "value=\"many\"",
        "value=\"0\"",
        "value=\"soon\"",
        "value=\"yes\" checked",
    ] {
        assert!(answer.body.contains(kept), "{kept} in {}", answer.body);
    }
    assert_eq!(stack.broker.lifecycle.tokens().len(), 1);
}

#[tokio::test]
async fn the_form_makes_what_it_says() {
    let stack = Stack::start().await;
    let visitor = stack.signed_in().await;
    let fields = [
        ("description", "Hosts"),
        ("kind", "reusable"),
        ("labels", "a, b\r\nc"),
        ("name_pattern", "ci-*"),
        ("max_uses", "5"),
        ("max_runners", "3"),
        ("allowed_cidrs", "10.0.0.0/8 2001:db8::/32"),
        ("life", "1h"),
        ("expires_in", "2h"),
        ("ephemeral_only", "yes"),
    ];
    let id = create(&visitor, &fields).await.0;
    let token = stack.broker.lifecycle.token(&id).unwrap().token;
    assert_eq!(token.policy.labels, ["a", "b", "c"]);
    assert_eq!(token.policy.name_pattern.as_deref(), Some("ci-*"));
    assert_eq!((token.policy.max_uses, token.policy.max_runners), (Some(5), Some(3)));
    assert_eq!(token.policy.allowed_cidrs.len(), 2);
    assert!(token.policy.ephemeral_only);
    let life = token.policy.expires_at.unwrap().duration_since(token.created_at).unwrap();
    assert!(life.abs_diff(Duration::from_secs(7200)) < Duration::from_secs(60), "{life:?}");
    assert_eq!((token.description.as_str(), token.created_by.as_str()), ("Hosts", "admin"));
    let page = visitor.get(&format!("/tokens/{id}")).await.body;
    for said in ["Hosts", "ci-*", "10.0.0.0/8", "2001:db8::/32", "0 of 5", "0 of 3", "in 1 h"] {
        assert!(page.contains(said), "{said} in {page}");
    }
}

#[tokio::test]
async fn a_token_is_switched_pinned_and_deleted_with_its_runners() {
    let stack = Stack::start().await;
    let visitor = stack.signed_in().await;
    let (id, secret) = create(&visitor, &[("description", "Hosts")]).await;
    stack.runner(secret.as_str(), "a").await;
    let page = format!("/tokens/{id}");
    let act = async |action: &str, fields: &[(&str, &str)]| {
        let asked = ["disable", "delete"].contains(&action);
        let on = if asked { format!("{page}/{action}") } else { page.clone() };
        let root = if asked { "../../" } else { "../" };
        visitor.send(&on, &format!("{root}tokens/{id}/{action}"), fields).await
    };
    let disabled = act("disable", &[("cascade", "")]).await;
    assert_eq!(disabled.location(), format!("../../tokens/{id}"));
    assert_eq!(state(&stack, &id), State::Disabled);
    let told = visitor.get(&page).await.body;
    assert!(told.contains(r#"<p class="notice" role="status">It is disabled"#), "{told}");
    assert!(!visitor.get(&page).await.body.contains("class=\"notice\""), "told once");
    act("enable", &[]).await;
    assert_eq!(state(&stack, &id), State::Active);
    act("unpin", &[]).await;
    assert_eq!(state(&stack, &id), State::UsedUp);
    act("pin", &[]).await;
    assert_eq!(state(&stack, &id), State::Active);
    assert!(visitor.get(&format!("{page}/delete")).await.body.contains("its 1 live runner"));
    assert_eq!(act("delete", &[("cascade", "yes")]).await.location(), "../../");
    assert!(visitor.get("/").await.body.contains("Its 1 live runner is being deregistered."));
    eventually("its runner is gone", async || stack.gitea.runners().is_empty()).await;
    for path in [page.clone(), format!("{page}/disable"), format!("{page}/rotate")] {
        let gone = visitor.get(&path).await;
        assert_eq!(gone.status, 404, "{path}");
        assert!(gone.body.contains("no enrollment token has the id"), "{}", gone.body);
    }
    let events = visitor.get(&format!("/events?token_id={id}")).await.body;
    for what in ["Token created", "Token disabled", "Token enabled", "Token deleted"] {
        assert!(events.contains(what), "{what} in {events}");
    }
}

#[tokio::test]
async fn what_the_settings_own_cannot_be_changed_here() {
    let stack = Stack::start().await;
    let visitor = stack.signed_in().await;
    let page = visitor.get("/tokens/settings").await;
    assert!(page.body.contains("The settings own this token."), "{}", page.body);
    assert_eq!(page.attributes("action"), ["../sign-out"]);
    let csrf = page.attributes("value").remove(0);
    for action in ["enable", "disable", "pin", "unpin", "delete", "rotate"] {
        let path = format!("/tokens/settings/{action}");
        let answer = visitor.post(&path, &[("csrf", &csrf), ("overlap", "0s")]).await;
        assert_eq!(answer.status, 409, "{action}");
        assert!(answer.body.contains("declared in the settings"), "{}", answer.body);
    }
    assert_eq!(state(&stack, "settings"), State::Active);
}

#[tokio::test]
async fn a_runner_is_deregistered_and_a_busy_one_only_with_its_task() {
    let stack = Stack::start().await;
    let visitor = stack.signed_in().await;
    let idle = stack.runner(ENROLLMENT_TOKEN, "idle-one").await;
    let busy = stack.runner(ENROLLMENT_TOKEN, "busy-one").await;
    stack.gitea.queue_task(&["host"]);
    busy.fetch_task(0).await.unwrap().0.expect("the task");
    let path =
        |id: i64| (format!("/runners/{id}/deregister"), format!("../../runners/{id}/deregister"));

    let (page, action) = path(idle.credentials.id);
    assert_eq!(visitor.send(&page, &action, &[]).await.location(), "../../runners");
    let list = visitor.get("/runners").await.body;
    assert!(list.contains("The runner idle-one is deregistered."), "{list}");
    assert_eq!(visitor.get(&page).await.status, 404);

    let (page, action) = path(busy.credentials.id);
    assert!(visitor.get(&page).await.body.contains("It is busy"));
    let left = visitor.send(&page, &action, &[]).await;
    assert_eq!(left.status, 409);
    assert!(left.body.contains("wait for its end"), "{}", left.body);
    stack.gitea.set_down().await.unwrap();
    let unreachable = visitor.send(&page, &action, &[("cancel_task", "yes")]).await;
    assert_eq!(unreachable.status, 503, "{}", unreachable.body);
    assert!(unreachable.header("retry-after").is_some());
    assert_eq!(visitor.get("/runners/no-number/deregister").await.status, 404);
}

#[tokio::test]
async fn events_are_filtered_and_paged() {
    let stack = Stack::start().await;
    let visitor = stack.signed_in().await;
    let id = create(&visitor, &[]).await.0;
    let page = format!("/tokens/{id}");
    for round in 0..60 {
        let action = if round % 2 == 0 { "unpin" } else { "pin" };
        visitor.send(&page, &format!("../tokens/{id}/{action}"), &[]).await.location();
    }
    let rows = |answer: &Answer| answer.body.matches("<th role=\"rowheader\"").count();
    let first = visitor.get(&format!("/events?token_id={id}&what=&runner_id=")).await;
    assert_eq!(rows(&first), 50);
    let before = first.body.split("name=\"before\" value=\"").nth(1).unwrap();
    let before = before.split('"').next().unwrap();
    let second = visitor.get(&format!("/events?token_id={id}&before={before}")).await;
    assert_eq!(rows(&second), 11, "{}", second.body);
    assert!(second.body.contains("Latest") && !second.body.contains("Older"), "{}", second.body);
    assert_eq!(rows(&visitor.get("/events?what=token.created").await), 1);
    assert_eq!(rows(&visitor.get(&format!("/events?token_id={id}&what=token.pinned")).await), 30);
    assert_eq!(rows(&visitor.get("/events?token_id=none").await), 0);
    let wrong = visitor.get("/events?runner_id=builder").await;
    assert_eq!(wrong.status, 400);
    assert!(wrong.body.contains("aria-describedby=\"runner_id-wrong\""), "{}", wrong.body);
    let all = EventFilter { limit: 1000, ..EventFilter::default() };
    assert!(stack.broker.lifecycle.events(all).await.unwrap().len() >= 62);
}

#[tokio::test]
async fn a_long_list_of_runners_is_shown_in_parts() {
    let stack = Stack::start().await;
    let roster = &stack.broker.lifecycle.roster;
    stack.runner(ENROLLMENT_TOKEN, "first").await;
    let known = roster.all()[0].record();
    for number in 1..230 {
        let mut record = known.clone();
        record.record_id = RecordId(number + 1000);
        record.presented.uuid = format!("uuid-{number}");
        record.name = format!("of-many-{number:03}");
        if number >= 220 {
            record.parent_id = "another".into();
        }
        roster.insert(record);
    }
    let visitor = stack.signed_in().await;
    let rows = |answer: &Answer| answer.body.matches("<th role=\"rowheader\"").count();
    let first = visitor.get("/runners").await;
    assert_eq!(rows(&first), 100);
    assert!(first.body.contains("230 live runners"), "{}", first.body);
    assert!(first.body.contains(">Next<") && !first.body.contains(">Previous<"));
    let last = visitor.get("/runners?token_id=&page=3").await;
    assert_eq!(rows(&last), 30);
    assert!(last.body.contains("of-many-229") && last.body.contains("201 to 230 of 230"));
    assert!(!last.body.contains(">Next<") && last.body.contains(">Previous<"));

    let token = visitor.get("/tokens/settings").await;
    assert!(token.body.contains("1 to 100 of 220"), "{}", token.body);
    assert!(token.body.contains("../runners?token_id=settings"), "{}", token.body);
    let its = visitor.get("/runners?token_id=settings&page=3").await;
    assert_eq!(rows(&its), 20);
    assert!(its.body.contains("value=\"settings\""), "{}", its.body);
    guarded(&its, "/runners");
    assert_eq!(rows(&visitor.get("/runners?token_id=none").await), 0);
}

#[tokio::test]
async fn the_page_is_not_on_the_socket_and_a_great_form_is_refused() {
    let stack = Stack::start().await;
    let mut socket = UnixStream::connect(stack.site.path("admin.sock")).await.unwrap();
    socket.write_all(b"GET / HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n").await.unwrap();
    let mut answer = String::new();
    socket.read_to_string(&mut answer).await.unwrap();
    assert!(answer.starts_with("HTTP/1.1 404"), "{answer}");

    let visitor = stack.signed_in().await;
    let begun = Instant::now();
    let great = visitor.post("/tokens/new", &[("description", &"x".repeat(600 << 10))]).await;
    assert_eq!(great.status, 400, "{}", great.body);
    assert!(begun.elapsed() < crate::support::PATIENCE);
}
