//! The audit trail.

use axum::extract::State;
use serde::Deserialize;
use utoipa::IntoParams;
use utoipa::openapi::schema::ObjectBuilder;

use super::extract::Query;
use super::paging::{Page, limit, number, place};
use crate::admin::Admin;
use crate::admin::problem::Problem;
use crate::admin::view::{Event, one_of};
use crate::broker::What;
use crate::store::EventFilter;

#[derive(Deserialize, IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
pub(super) struct Listing {
    /// Those about this enrollment token.
    token_id: Option<String>,
    /// Those about the runner of this id of Gitea's.
    runner_id: Option<i64>,
    /// Those of this kind.
    #[param(schema_with = what)]
    what: Option<String>,
    /// At most so many.
    #[param(minimum = 1, maximum = 1000, default = 100)]
    limit: Option<usize>,
    /// As the link to the next page has it.
    #[param(pattern = "^[0-9]{1,18}$")]
    cursor: Option<String>,
}

/// The audit trail, latest first
#[utoipa::path(
    get, path = "/api/v1/events", operation_id = "listEvents", tag = "events",
    params(Listing),
    responses(
        (status = 200, description = "One page", body = Vec<Event>, headers(
            ("Link" = String, description = "The next page, as a relative reference; absent on the last"),
        )),
        (status = 503, description = "The store cannot be read"),
    ),
)]
pub(super) async fn list(
    State(admin): State<Admin>,
    Query(listing): Query<Listing>,
) -> Result<Page<Event>, Problem> {
    let limit = limit(listing.limit)?;
    let what = listing.what.as_deref().map(str::parse::<What>).transpose();
    let filter = EventFilter {
        token_id: listing.token_id,
        runner_id: listing.runner_id,
        what: what.map_err(|error| Problem::of_request(format!("what: {error}")))?,
        before: place(listing.cursor.as_deref(), number)?,
        // One more tells whether there is a next page.
        limit: limit + 1,
    };
    let held = [
        ("token_id", filter.token_id.clone()),
        ("runner_id", filter.runner_id.map(|id| id.to_string())),
        ("what", filter.what.map(|what| what.to_string())),
    ];
    let events = admin.lifecycle.events(filter).await?;
    let page = Page::cut(events, limit, "events", &held, |last| last.seq.to_string());
    Ok(page.map(|event| Event::of(&event)))
}

fn what() -> ObjectBuilder {
    one_of("Those of this kind.", What::ALL.iter().map(|what| what.as_str()))
}
