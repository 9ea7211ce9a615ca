//! The audit trail, page by page.

use askama::Template;
use axum::extract::Query;
use axum::extract::rejection::QueryRejection;
use axum::http::StatusCode;
use axum::response::Response;
use serde::Deserialize;

use super::layout::{self, Frame};
use super::shown::EventRow;
use super::visit::Visit;
use crate::admin::problem::Problem;
use crate::broker::What;
use crate::store::EventFilter;

const PAGE: usize = 50;

/// What was asked for; fields that were left empty come as empty texts.
#[derive(Default, Deserialize)]
#[serde(default)]
pub(super) struct Asked {
    token_id: String,
    runner_id: String,
    what: String,
    before: String,
}

#[derive(Template)]
#[template(path = "events.html")]
struct EventsPage {
    frame: Frame,
    events: Vec<EventRow>,
    kinds: Vec<(String, String)>,
    asked: Asked,
    wrong: Option<&'static str>,
    /// The `before` of the next page.
    older: Option<i64>,
}

impl EventsPage {
    fn is_filtered(&self) -> bool {
        [&self.asked.token_id, &self.asked.runner_id, &self.asked.what]
            .into_iter()
            .any(|text| !text.is_empty())
    }
}

/// `GET /events`
pub(super) async fn list(visit: Visit, asked: Result<Query<Asked>, QueryRejection>) -> Response {
    let Query(mut asked) = match asked {
        Ok(asked) => asked,
        Err(rejection) => return visit.problem(rejection),
    };
    for text in [&mut asked.token_id, &mut asked.runner_id] {
        *text = text.trim().to_owned();
    }
    let (filter, wrong) = filter(&asked);
    let events = match wrong {
        Some(_) => Vec::new(),
        None => match visit.lifecycle().events(filter).await {
            Ok(events) => events,
            Err(error) => return visit.problem(Problem::internal(error.to_string())),
        },
    };
    let older = (events.len() > PAGE).then(|| events[PAGE - 1].seq);
    let status = if wrong.is_some() { StatusCode::BAD_REQUEST } else { StatusCode::OK };
    let page = EventsPage {
        frame: visit.frame("events"),
        events: EventRow::all(visit.lifecycle(), &events[..events.len().min(PAGE)]),
        kinds: What::ALL
            .iter()
            .map(|what| (what.to_string(), super::shown::words(*what)))
            .collect(),
        asked,
        wrong,
        older,
    };
    layout::page(status, &page)
}

fn filter(asked: &Asked) -> (EventFilter, Option<&'static str>) {
    let given = |text: &str| (!text.is_empty()).then(|| text.to_owned());
    let runner_id = given(&asked.runner_id).map(|text| text.parse::<i64>());
    let wrong = matches!(runner_id, Some(Err(_)))
        .then_some("give its number, which the list of runners shows");
    let filter = EventFilter {
        token_id: given(&asked.token_id),
        runner_id: runner_id.and_then(Result::ok),
        // Neither is typed by hand: what cannot be read does not filter.
        what: asked.what.parse().ok(),
        before: asked.before.parse().ok(),
        // One more tells whether there is a next page.
        limit: PAGE + 1,
    };
    (filter, wrong)
}
