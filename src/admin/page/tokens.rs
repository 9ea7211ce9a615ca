//! The list of tokens, the page of each, and what changes it without a new secret.

use askama::Template;
use axum::extract::rejection::{PathRejection, QueryRejection};
use axum::extract::{Path, Query};
use axum::http::StatusCode;
use axum::response::Response;

use super::layout::{self, Frame};
use super::part::{Asked, Part};
use super::shown::{EventRow, RunnerRow, TokenRow, count};
use super::visit::{Sent, Visit};
use crate::admin::problem::Problem;
use crate::broker::token::State;
use crate::lifecycle::{TokenError, TokenNow};
use crate::store::EventFilter;

/// So many events are on a token's page; the rest is one link away.
const EVENTS: usize = 20;

pub(super) type Id = Result<Path<String>, PathRejection>;

#[derive(Template)]
#[template(path = "tokens.html")]
struct TokensPage {
    frame: Frame,
    part: Part<TokenRow>,
    active: usize,
    live_runners: usize,
}

/// `GET /`
pub(super) async fn list(visit: Visit, asked: Result<Query<Asked>, QueryRejection>) -> Response {
    let mut tokens = visit.lifecycle().tokens();
    // The newest first: it is the one that was just made.
    tokens.reverse();
    let page = TokensPage {
        frame: visit.frame("tokens"),
        active: tokens.iter().filter(|token| token.state == State::Active).count(),
        live_runners: visit.lifecycle().roster.len(),
        part: Part::of(tokens, &Asked::of(asked), |token| TokenRow::of(&token)),
    };
    layout::page(StatusCode::OK, &page)
}

/// `GET /tokens`, where the list might be looked for.
pub(super) async fn home(visit: Visit) -> Response {
    visit.go("")
}

#[derive(Template)]
#[template(path = "token.html")]
struct TokenPage {
    frame: Frame,
    row: TokenRow,
    part: Part<RunnerRow>,
    events: Vec<EventRow>,
}

/// `GET /tokens/{id}`
pub(super) async fn show(visit: Visit, id: Id) -> Response {
    let token = match find(&visit, id) {
        Ok(token) => token.token,
        Err(problem) => return visit.problem(problem),
    };
    let lifecycle = visit.lifecycle();
    let filter =
        EventFilter { token_id: Some(token.id.clone()), limit: EVENTS, ..EventFilter::default() };
    let events = match lifecycle.events(filter).await {
        Ok(events) => EventRow::all(lifecycle, &events),
        Err(error) => return visit.problem(Problem::internal(error.to_string())),
    };
    // Looked up again: the events may have taken a while.
    let row = match lifecycle.token(&token.id) {
        Ok(token) => TokenRow::of(&token),
        Err(error) => return visit.problem(error),
    };
    let part =
        RunnerRow::part(lifecycle, RunnerRow::of_token(lifecycle, &token.id), &Asked::default());
    layout::page(StatusCode::OK, &TokenPage { frame: visit.frame("tokens"), row, part, events })
}

/// `POST /tokens/{id}/enable`
pub(super) async fn enable(id: Id, sent: Sent) -> Response {
    let visit = &sent.visit;
    let changed = match id {
        Ok(Path(id)) => visit.lifecycle().enable_token(&id, &visit.by).await,
        Err(rejection) => return visit.problem(rejection),
    };
    changed_to(visit, changed, "It is enabled: runners can register with it again.")
}

/// `POST /tokens/{id}/pin`
pub(super) async fn pin(id: Id, sent: Sent) -> Response {
    let visit = &sent.visit;
    let changed = match id {
        Ok(Path(id)) => visit.lifecycle().pin_token(&id, &visit.by).await,
        Err(rejection) => return visit.problem(rejection),
    };
    changed_to(visit, changed, "It is pinned: it is reusable now.")
}

/// `POST /tokens/{id}/unpin`
pub(super) async fn unpin(id: Id, sent: Sent) -> Response {
    let visit = &sent.visit;
    let changed = match id {
        Ok(Path(id)) => visit.lifecycle().unpin_token(&id, &visit.by).await,
        Err(rejection) => return visit.problem(rejection),
    };
    changed_to(visit, changed, "It is unpinned: it admits a single runner.")
}

#[derive(Template)]
#[template(path = "token_end.html")]
struct EndPage {
    frame: Frame,
    row: TokenRow,
    deletes: bool,
}

/// `GET /tokens/{id}/disable`
pub(super) async fn ask_disable(visit: Visit, id: Id) -> Response {
    ask(&visit, id, false)
}

/// `GET /tokens/{id}/delete`
pub(super) async fn ask_delete(visit: Visit, id: Id) -> Response {
    ask(&visit, id, true)
}

/// `POST /tokens/{id}/disable`
pub(super) async fn disable(id: Id, sent: Sent) -> Response {
    let visit = &sent.visit;
    let cascade = sent.ticked("cascade");
    let changed = match id {
        Ok(Path(id)) => visit.lifecycle().disable_token(&id, cascade, &visit.by).await,
        Err(rejection) => return visit.problem(rejection),
    };
    let notice = match cascade {
        true => "It is disabled, and its runners are being deregistered.",
        false => "It is disabled: no runner can register with it.",
    };
    changed_to(visit, changed, notice)
}

/// `POST /tokens/{id}/delete`
pub(super) async fn delete(id: Id, sent: Sent) -> Response {
    let visit = &sent.visit;
    let cascade = sent.ticked("cascade");
    let deleted = match id {
        Ok(Path(id)) => visit.lifecycle().delete_token(&id, cascade, &visit.by).await,
        Err(rejection) => return visit.problem(rejection),
    };
    match deleted {
        Ok(now) => {
            let its = match (cascade, now.live_runners) {
                (true, 1..) => format!(
                    " Its {} {} being deregistered.",
                    count(&now.live_runners, "live runner"),
                    if now.live_runners == 1 { "is" } else { "are" }
                ),
                _ => String::new(),
            };
            visit.done(format!("The token {} is deleted.{its}", now.token.id), "")
        }
        Err(error) => visit.problem(error),
    }
}

fn ask(visit: &Visit, id: Id, deletes: bool) -> Response {
    match changeable(visit, id) {
        Ok(token) => {
            let (frame, row) = (visit.frame("tokens"), TokenRow::of(&token));
            layout::page(StatusCode::OK, &EndPage { frame, row, deletes })
        }
        Err(problem) => visit.problem(problem),
    }
}

fn changed_to(visit: &Visit, changed: Result<TokenNow, TokenError>, notice: &str) -> Response {
    match changed {
        Ok(now) => visit.done(notice, &format!("tokens/{}", now.token.id)),
        Err(error) => visit.problem(error),
    }
}

fn find(visit: &Visit, id: Id) -> Result<TokenNow, Problem> {
    let Path(id) = id?;
    Ok(visit.lifecycle().token(&id)?)
}

/// One that can be changed here.
pub(super) fn changeable(visit: &Visit, id: Id) -> Result<TokenNow, Problem> {
    let token = find(visit, id)?;
    if token.token.origin == crate::broker::token::Origin::Declared {
        return Err(TokenError::Declared(token.token.id).into());
    }
    Ok(token)
}
