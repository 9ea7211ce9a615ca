//! Long lists, a page at a time.

use axum::Json;
use axum::http::header::{HeaderValue, LINK};
use axum::response::{IntoResponse, Response};
use serde::Serialize;

use crate::admin::problem::Problem;
use crate::gitea::escape;

/// Longest page.
pub(super) const MAX_LIMIT: usize = 1000;
/// How long a page is where nobody says.
const DEFAULT_LIMIT: usize = 100;

/// One page, and the way to the next one where there is one.
pub(super) struct Page<T> {
    items: Vec<T>,
    next: Option<String>,
}

impl<T> Page<T> {
    /// Cuts `items`, which begin after the cursor, at `limit`. `list` is the last part of the list's
    /// path, `filter` are the parameters that hold on, and `cursor` tells the place of an item.
    pub(super) fn cut(
        mut items: Vec<T>,
        limit: usize,
        list: &str,
        filter: &[(&str, Option<String>)],
        cursor: impl FnOnce(&T) -> String,
    ) -> Self {
        let more = items.len() > limit;
        items.truncate(limit);
        let next = items.last().filter(|_| more).map(|last| {
            let set = filter.iter().filter_map(|(name, value)| Some((*name, value.as_ref()?)));
            let mut link = format!("{list}?limit={limit}");
            for (name, value) in set.chain([("cursor", &cursor(last))]) {
                link += &format!("&{name}={}", escape(value));
            }
            link
        });
        Self { items, next }
    }

    /// The same page of other items.
    pub(super) fn map<U>(self, change: impl FnMut(T) -> U) -> Page<U> {
        Page { items: self.items.into_iter().map(change).collect(), next: self.next }
    }
}

impl<T: Serialize> IntoResponse for Page<T> {
    fn into_response(self) -> Response {
        let mut response = Json(self.items).into_response();
        let link = self.next.map(|next| format!("<{next}>; rel=\"next\""));
        // All of it is escaped.
        if let Some(Ok(link)) = link.map(HeaderValue::try_from) {
            response.headers_mut().insert(LINK, link);
        }
        response
    }
}

/// How long a page is to be.
pub(super) fn limit(wanted: Option<usize>) -> Result<usize, Problem> {
    match wanted {
        None => Ok(DEFAULT_LIMIT),
        Some(limit @ 1..=MAX_LIMIT) => Ok(limit),
        Some(_) => Err(Problem::of_request(format!("limit: give 1 to {MAX_LIMIT}"))),
    }
}

/// The place that a cursor stands for.
pub(super) fn place<T>(
    cursor: Option<&str>,
    read: impl FnOnce(&str) -> Option<T>,
) -> Result<Option<T>, Problem> {
    let Some(cursor) = cursor else { return Ok(None) };
    let place = read(cursor).ok_or_else(|| {
        Problem::of_request("cursor: give the one of the link to the next page, or leave it out")
    });
    place.map(Some)
}

/// A cursor that is a number.
pub(super) fn number(cursor: &str) -> Option<i64> {
    cursor.parse().ok().filter(|place| *place >= 0)
}
