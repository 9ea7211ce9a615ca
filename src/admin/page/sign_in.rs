//! Signing in with the admin token, and out again.

use std::time::Instant;

use askama::Template;
use axum::extract::{Extension, RawQuery, Request, State};
use axum::http::header::SET_COOKIE;
use axum::http::{StatusCode, Uri};
use axum::response::{IntoResponse, Response};

use super::Pages;
use super::address::{ours, redirect, root_of};
use super::layout::{self, Frame};
use super::visit::{Sent, Visit, fields};
use crate::admin::auth::{Client, check_token};
use crate::admin::problem::Problem;
use crate::broker::{Event, What};

#[derive(Template)]
#[template(path = "sign_in.html")]
struct SignInPage {
    frame: Frame,
    /// The page to show afterwards, from the root on.
    to: String,
    wrong: Option<String>,
}

/// `GET /sign-in`
pub(super) async fn form(
    State(pages): State<Pages>,
    visit: Result<Visit, Response>,
    RawQuery(query): RawQuery,
    uri: Uri,
) -> Response {
    let to = query.as_deref().and_then(|query| query.strip_prefix("to=")).unwrap_or_default();
    let to = if ours(to) { to.to_owned() } else { String::new() };
    if let Ok(visit) = visit {
        return visit.go(&to);
    }
    let frame = Frame::signed_out(root_of(&uri));
    if pages.admin.lifecycle.settings.load().admin.token.is_none() {
        return layout::closed(frame);
    }
    layout::page(StatusCode::OK, &SignInPage { frame, to, wrong: None })
}

/// `POST /sign-in`
pub(super) async fn sign_in(
    State(pages): State<Pages>,
    Extension(client): Extension<Client>,
    request: Request,
) -> Response {
    let root = root_of(request.uri());
    let fields = match fields(request, &pages).await {
        Ok(fields) => fields,
        Err(problem) => return layout::problem(Frame::signed_out(root), &problem),
    };
    let settings = pages.admin.lifecycle.settings.load_full();
    let Some(admin_token) = &settings.admin.token else {
        return layout::closed(Frame::signed_out(root));
    };
    let to = if ours(fields.text("to")) { fields.text("to") } else { "" };
    let by = match check_token(&pages.admin, &client, fields.text("token").as_bytes()) {
        Ok(by) => by,
        Err(problem) => return refused(root, to, problem),
    };
    let mut event = Event::now(by.actor, What::AdminSignedIn);
    event.peer = by.peer;
    pages.admin.lifecycle.note_event(event);
    let secret = pages.sessions.open(admin_token, Instant::now());
    let mut response = redirect(&root, to);
    response.headers_mut().insert(SET_COOKIE, pages.cookie.with(&secret));
    response
}

/// `POST /sign-out`
pub(super) async fn sign_out(sent: Sent) -> Response {
    sent.visit.sign_out()
}

fn refused(root: String, to: &str, problem: Problem) -> Response {
    let (told, _) = problem.clone().into_response().into_parts();
    let page = SignInPage {
        frame: Frame::signed_out(root),
        to: to.to_owned(),
        wrong: Some(problem.detail),
    };
    let mut response = layout::page(told.status, &page);
    layout::keep_headers(response.headers_mut(), told.headers);
    response
}
