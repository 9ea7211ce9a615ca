//! The runners: what they do, and how to send one away.

use std::sync::Arc;

use askama::Template;
use axum::extract::rejection::{PathRejection, QueryRejection};
use axum::extract::{Path, Query};
use axum::http::StatusCode;
use axum::response::Response;

use super::layout::{self, Frame};
use super::part::{Asked, Part};
use super::shown::{RunnerRow, count};
use super::visit::{Sent, Visit};
use crate::admin::problem::{Problem, UNKNOWN_RUNNER};
use crate::broker::Reason;
use crate::lifecycle::{Force, Live, STATES};

#[derive(Template)]
#[template(path = "runners.html")]
struct RunnersPage {
    frame: Frame,
    part: Part<RunnerRow>,
    /// How many are in each state that is there.
    counts: Vec<(&'static str, usize)>,
    asked: Asked,
}

/// `GET /runners`
pub(super) async fn list(visit: Visit, asked: Result<Query<Asked>, QueryRejection>) -> Response {
    let (lifecycle, asked) = (visit.lifecycle(), Asked::of(asked));
    let runners = match asked.token_id.as_str() {
        "" => lifecycle.roster.all(),
        id => RunnerRow::of_token(lifecycle, id),
    };
    let mut counts: Vec<(&str, usize)> = Vec::new();
    for live in &runners {
        let state = lifecycle.state_of(live);
        match counts.iter_mut().find(|(one, _)| *one == state) {
            Some((_, count)) => *count += 1,
            None => counts.push((state, 1)),
        }
    }
    counts.sort_unstable_by_key(|(state, _)| STATES.iter().position(|one| one == state));
    let part = RunnerRow::part(lifecycle, runners, &asked);
    let page = RunnersPage { frame: visit.frame("runners"), part, counts, asked };
    layout::page(StatusCode::OK, &page)
}

#[derive(Template)]
#[template(path = "runner_deregister.html")]
struct DeregisterPage {
    frame: Frame,
    row: RunnerRow,
}

/// `GET /runners/{id}/deregister`
pub(super) async fn ask(visit: Visit, id: Result<Path<String>, PathRejection>) -> Response {
    match find(&visit, id) {
        Ok(live) => {
            let row = RunnerRow::of(visit.lifecycle(), &live);
            layout::page(StatusCode::OK, &DeregisterPage { frame: visit.frame("runners"), row })
        }
        Err(problem) => visit.problem(problem),
    }
}

/// `POST /runners/{id}/deregister`
pub(super) async fn deregister(id: Result<Path<String>, PathRejection>, sent: Sent) -> Response {
    let visit = &sent.visit;
    let live = match find(visit, id) {
        Ok(live) => live,
        Err(problem) => return visit.problem(problem),
    };
    let force = match sent.ticked("cancel_task") {
        true => Force::CancelTask,
        false => Force::LeaveBusy,
    };
    match visit.lifecycle().deregister(&live, Reason::Admin, force, &visit.by).await {
        Ok(()) => {
            visit.done(format!("The runner {} is deregistered.", live.record().name), "runners")
        }
        Err(error) => visit.problem(error),
    }
}

fn find(visit: &Visit, id: Result<Path<String>, PathRejection>) -> Result<Arc<Live>, Problem> {
    let Path(id) = id?;
    let all = visit.lifecycle().roster.all();
    let found = id.parse().ok().and_then(|id: i64| all.into_iter().find(|live| live.id() == id));
    found.ok_or_else(|| {
        Problem::new(
            StatusCode::NOT_FOUND,
            UNKNOWN_RUNNER,
            "No such runner",
            format!("no registered runner has the id {id:?}; perhaps it has left meanwhile"),
        )
    })
}
