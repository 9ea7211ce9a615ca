//! Lists of runners. They move while they are paged: whoever calls comes first, and runners come and go.

use std::collections::HashSet;

use hyper::Method;
use serde::Deserialize;

use super::rest::decoded;
use super::scope::runners_path;
use super::{GiteaClient, RestError, RestRunner};
use crate::config::Scope;

/// Gitea's own bound on `limit`.
const PAGE_SIZE: u32 = 50;
/// A list longer than this many pages is not read to its end.
const MAX_PAGES: u32 = 1000;

/// One page of a scope's runners.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RunnerPage {
    /// Those on this page.
    pub runners: Vec<RestRunner>,
    /// How many there are on all pages.
    pub total_count: usize,
}

/// What came of a search through all pages.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Search {
    /// The ids of all that have the label.
    Found(Vec<i64>),
    /// None was seen. Runners move while they are paged: only a steady absence means anything.
    Absent {
        /// The count was the same on every page, and as many different runners were seen.
        steady: bool,
    },
}

impl GiteaClient {
    /// Reads all pages of a scope's runners. They move while they are paged: absence proves nothing.
    pub async fn list_all(&self, scope: &Scope) -> Result<Vec<RestRunner>, RestError> {
        let mut all = Vec::new();
        for page in 1..=MAX_PAGES {
            let RunnerPage { runners, total_count } = self.list_page(scope, page).await?;
            let at_end = runners.is_empty();
            all.extend(runners);
            if at_end || all.len() >= total_count {
                break;
            }
        }
        Ok(all)
    }

    /// Reads one page of a scope's runners; pages count from 1.
    pub async fn list_page(&self, scope: &Scope, page: u32) -> Result<RunnerPage, RestError> {
        self.list(scope, page, PAGE_SIZE).await
    }

    /// Reads all pages for the runners that have this label.
    pub async fn find_by_label(&self, scope: &Scope, label: &str) -> Result<Search, RestError> {
        let mut found = Vec::new();
        let mut seen = HashSet::new();
        let mut read = 0;
        let mut totals = HashSet::new();
        let mut at_end = false;
        // An instance may answer less than what was asked for, so a short page is not the last one.
        for page in 1..=MAX_PAGES {
            let RunnerPage { runners, total_count } = self.list_page(scope, page).await?;
            totals.insert(total_count);
            read += runners.len();
            at_end = runners.is_empty() || read >= total_count;
            for runner in runners {
                if seen.insert(runner.id) && runner.labels.iter().any(|name| name == label) {
                    found.push(runner.id);
                }
            }
            if at_end {
                break;
            }
        }
        if !found.is_empty() {
            return Ok(Search::Found(found));
        }
        Ok(Search::Absent { steady: at_end && totals == HashSet::from([seen.len()]) })
    }

    pub(super) async fn list(
        &self,
        scope: &Scope,
        page: u32,
        limit: u32,
    ) -> Result<RunnerPage, RestError> {
        #[derive(Deserialize)]
        struct Page {
            runners: Option<Vec<RestRunner>>,
            total_count: usize,
        }

        let path = format!("{}?page={page}&limit={limit}", runners_path(scope));
        let answer = self.rest(Method::GET, scope, &path, None).await?;
        let Page { runners, total_count } = decoded(&answer)?;
        Ok(RunnerPage { runners: runners.unwrap_or_default(), total_count })
    }
}
