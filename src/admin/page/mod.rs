//! The token page: plain HTML made here, with no script at all. Links are relative, so that it works at
//! any sub-path, whether or not a proxy takes that away.

mod address;
mod create;
mod events;
mod layout;
mod lines;
mod part;
mod runners;
mod session;
mod shown;
mod sign_in;
mod tokens;
mod visit;

use std::sync::Arc;

use axum::Router;
use axum::extract::DefaultBodyLimit;
use axum::http::Uri;
use axum::middleware::map_response;
use axum::routing::{get, post};

use super::Admin;
use session::Sessions;
use visit::Cookie;

/// Longest form, in bytes: the longest lists that a token may have fit.
const FORM_LIMIT: usize = 512 * 1024;

/// What the pages are made from. Cheap to clone.
#[derive(Clone)]
struct Pages {
    admin: Admin,
    sessions: Arc<Sessions>,
    cookie: Arc<Cookie>,
    /// As at the start: the paths below hang on it.
    public_url: Option<Uri>,
}

/// The page at `/`, and at the sub-path of `admin.public_url` too.
pub(super) fn router(admin: Admin) -> Router<Admin> {
    let (public_url, tls) = {
        let settings = &admin.lifecycle.settings.load().admin;
        (settings.public_url.clone(), settings.tls.is_some())
    };
    let pages = Pages {
        admin,
        sessions: Arc::default(),
        cookie: Arc::new(Cookie::of(public_url.as_ref(), tls)),
        public_url: public_url.clone(),
    };
    at(address::sub_path(public_url.as_ref())).with_state(pages)
}

/// The pages at the root, and below a sub-path.
fn at(sub_path: &str) -> Router<Pages> {
    let first = sub_path.split('/').nth(1).unwrap_or_default();
    // The API's own paths cannot be the page's too.
    if ["", "api"].contains(&first) {
        return routes();
    }
    // To the router, braces are a pattern.
    let sub_path = sub_path.replace('{', "{{").replace('}', "}}");
    let mut both = routes().without_v07_checks().nest(&format!("{sub_path}/"), routes());
    if !AT_ROOT.contains(&first) {
        let home = format!("{}/", sub_path.rsplit('/').next().unwrap_or_default());
        both = both.route(&sub_path, get(async move || address::redirect("./", &home)));
    }
    both
}

/// What the paths at the root begin with, those of other modules too.
const AT_ROOT: [&str; 8] =
    ["tokens", "runners", "events", "sign-in", "sign-out", "metrics", "healthz", "readyz"];

fn routes() -> Router<Pages> {
    Router::new()
        .route("/", get(tokens::list))
        .route("/tokens", get(tokens::home))
        .route("/tokens/new", get(create::form).post(create::create))
        .route("/tokens/{id}", get(tokens::show))
        .route("/tokens/{id}/enable", post(tokens::enable))
        .route("/tokens/{id}/pin", post(tokens::pin))
        .route("/tokens/{id}/unpin", post(tokens::unpin))
        .route("/tokens/{id}/disable", get(tokens::ask_disable).post(tokens::disable))
        .route("/tokens/{id}/delete", get(tokens::ask_delete).post(tokens::delete))
        .route("/tokens/{id}/rotate", get(create::ask_rotate).post(create::rotate))
        .route("/runners", get(runners::list))
        .route("/runners/{id}/deregister", get(runners::ask).post(runners::deregister))
        .route("/events", get(events::list))
        .route("/sign-in", get(sign_in::form).post(sign_in::sign_in))
        .route("/sign-out", post(sign_in::sign_out))
        .route(&format!("/{}", *layout::STYLE_NAME), get(layout::style))
        .route("/icon.svg", get(layout::icon))
        .layer(DefaultBodyLimit::max(FORM_LIMIT))
        .layer(map_response(layout::guard))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn any_sub_path_can_be_served() {
        for sub_path in [
            "",
            "/a",
            "/a/b",
            "/tokens",
            "/tokens/new",
            "/runners",
            "/runners/x",
            "/events",
            "/sign-in",
            "/metrics",
            "/api",
            "/api/v1",
            "/{a}",
            "/{*a",
            "/:a",
            "/*a",
            "/a//b",
        ] {
            let _ = at(sub_path);
        }
    }
}
