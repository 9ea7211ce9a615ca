//! What is around every page, and the pages that stand for none.

use std::sync::LazyLock;

use askama::Template;
use axum::http::header::{CACHE_CONTROL, CONTENT_TYPE};
use axum::http::{HeaderMap, HeaderValue, StatusCode};
use axum::response::{Html, IntoResponse, Response};
use tracing::error;

use crate::admin::problem::Problem;
use crate::broker::secret::digest;

const STYLE: &str = include_str!("style.css");
const ICON: &str = include_str!("icon.svg");

/// The style sheet's name, which is another for another content.
pub(super) static STYLE_NAME: LazyLock<String> = LazyLock::new(|| {
    let hash: String =
        digest(STYLE.as_bytes())[..8].iter().map(|byte| format!("{byte:02x}")).collect();
    format!("style-{hash}.css")
});

/// What is around a page.
pub(super) struct Frame {
    /// The way to the root of all pages.
    pub(super) root: String,
    /// `tokens`, `runners`, `events`, or none.
    pub(super) section: &'static str,
    /// What each form carries; `None`: nobody is signed in.
    pub(super) csrf: Option<String>,
    /// Who a trusted proxy says it is.
    pub(super) user: Option<String>,
    /// What was just done.
    pub(super) notice: Option<String>,
    pub(super) style: &'static str,
    pub(super) version: &'static str,
}

impl Frame {
    /// Where nobody is signed in.
    pub(super) fn signed_out(root: String) -> Self {
        Self {
            root,
            section: "",
            csrf: None,
            user: None,
            notice: None,
            style: STYLE_NAME.as_str(),
            version: env!("CARGO_PKG_VERSION"),
        }
    }

    /// What each form carries.
    pub(super) fn csrf(&self) -> &str {
        self.csrf.as_deref().unwrap_or_default()
    }
}

/// A page.
pub(super) fn page(status: StatusCode, template: &impl Template) -> Response {
    match template.render() {
        Ok(html) => (status, Html(html)).into_response(),
        Err(error) => {
            error!(%error, "a page was not made");
            StatusCode::INTERNAL_SERVER_ERROR.into_response()
        }
    }
}

#[derive(Template)]
#[template(path = "problem.html")]
struct ProblemPage<'a> {
    frame: Frame,
    problem: &'a Problem,
}

/// An error as a page, with its status and headers.
pub(super) fn problem(frame: Frame, problem: &Problem) -> Response {
    let (told, _) = problem.clone().into_response().into_parts();
    let mut response = page(told.status, &ProblemPage { frame, problem });
    keep_headers(response.headers_mut(), told.headers);
    response
}

/// Takes over what an error says in its headers, for example when to try again.
pub(super) fn keep_headers(to: &mut HeaderMap, from: HeaderMap) {
    for (name, value) in from {
        if let Some(name) = name
            && !to.contains_key(&name)
        {
            to.insert(name, value);
        }
    }
}

#[derive(Template)]
#[template(path = "closed.html")]
struct ClosedPage {
    frame: Frame,
}

/// How to switch the page on.
pub(super) fn closed(frame: Frame) -> Response {
    page(StatusCode::FORBIDDEN, &ClosedPage { frame })
}

/// The style sheet; its name changes with it.
pub(super) async fn style() -> Response {
    asset("text/css; charset=utf-8", "public, max-age=31536000, immutable", STYLE)
}

/// The icon in the browser's tab.
pub(super) async fn icon() -> Response {
    asset("image/svg+xml", "public, max-age=86400", ICON)
}

fn asset(kind: &'static str, caching: &'static str, text: &'static str) -> Response {
    ([(CONTENT_TYPE, kind), (CACHE_CONTROL, caching)], text).into_response()
}

/// What browsers must know of every answer.
pub(super) async fn guard(mut response: Response) -> Response {
    let headers = response.headers_mut();
    for (name, value) in [
        (
            "content-security-policy",
            "default-src 'none'; style-src 'self'; img-src 'self'; form-action 'self'; \
             base-uri 'none'; frame-ancestors 'none'",
        ),
        ("x-content-type-options", "nosniff"),
        // With no-referrer, forms would not tell their origin.
        ("referrer-policy", "same-origin"),
        ("cross-origin-opener-policy", "same-origin"),
        ("cross-origin-resource-policy", "same-origin"),
    ] {
        headers.insert(name, HeaderValue::from_static(value));
    }
    headers.entry(CACHE_CONTROL).or_insert(HeaderValue::from_static("no-store"));
    response
}
