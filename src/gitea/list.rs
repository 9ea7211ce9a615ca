//! Lists of runners. They move while they are paged: whoever calls comes first, and runners come and go, so
//! that a reading repeats some and hides others. [`Seen`] tells when all of them were seen in spite of that.

use std::collections::{HashMap, HashSet};
use std::time::Duration;

use hyper::Method;
use serde::Deserialize;
use tokio::time::Instant;

use super::rest::decoded;
use super::scope::runners_path;
use super::{GiteaClient, RestError, RestRunner};
use crate::config::Scope;

/// How many runners a page has. The first is Gitea's own bound; the others are for a page that is too large,
/// or has something on it that cannot be read.
const PAGE_SIZES: [usize; 3] = [50, 10, 1];
/// A list longer than this many pages is not read to its end.
const MAX_PAGES: usize = 1000;
/// How often a list that moves is read, to see all that is on it.
const READINGS: usize = 5;
/// No page is asked for when a list was read for so long.
const LIST_LIMIT: Duration = Duration::from_secs(120);

/// A scope's runners, as far as they were seen.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Listing {
    /// By their ids.
    pub runners: Vec<RestRunner>,
    /// At some moment of the reading these were all: who is not among them was not there the whole time.
    pub complete: bool,
}

/// One page of a scope's runners.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Page {
    /// Those on this page.
    runners: Vec<RestRunner>,
    /// How many there are on all pages.
    total_count: usize,
}

impl GiteaClient {
    /// Reads all pages of a scope's runners, and again, a few times, until it is known that these were all.
    pub async fn list_all(&self, scope: &Scope) -> Result<Listing, RestError> {
        self.read_list(scope, READINGS).await
    }

    /// Reads all pages once. Only a list of one page is sure to be complete.
    pub async fn list_once(&self, scope: &Scope) -> Result<Listing, RestError> {
        self.read_list(scope, 1).await
    }

    /// What Gitea shows of these runners, with as few calls as may be: each by its id, or the list. Those that
    /// it does not show are left out, which proves nothing.
    pub async fn show_runners(
        &self,
        scope: &Scope,
        ids: &HashSet<i64>,
    ) -> Result<Vec<RestRunner>, RestError> {
        if ids.is_empty() {
            return Ok(Vec::new());
        }
        // Who called last is on the first page, so that it often tells enough.
        let (mut shown, pages) = match self.list(scope, 1, PAGE_SIZES[0]).await {
            Ok(Page { runners, total_count }) => {
                let pages = total_count.div_ceil(runners.len().max(1));
                (runners, pages)
            }
            Err(error) if is_unreadable(&error) => (Vec::new(), MAX_PAGES),
            Err(error) => return Err(error),
        };
        shown.retain(|runner| ids.contains(&runner.id));
        let known: HashSet<_> = shown.iter().map(|runner| runner.id).collect();
        let others: Vec<_> = ids.difference(&known).collect();
        if others.len() < pages {
            for id in others {
                shown.extend(self.show_runner(scope, *id).await?);
            }
        } else if !others.is_empty() {
            shown = self.list_once(scope).await?.runners;
            shown.retain(|runner| ids.contains(&runner.id));
        }
        Ok(shown)
    }

    async fn read_list(&self, scope: &Scope, readings: usize) -> Result<Listing, RestError> {
        let deadline = Instant::now() + LIST_LIMIT;
        let mut seen = Seen::default();
        for _ in 0..readings {
            let to_end = self.read_pages(scope, &mut seen, deadline).await?;
            if !to_end || seen.is_complete() {
                break;
            }
        }
        Ok(seen.into_listing())
    }

    /// Reads all pages once; false: there was no time, or there are too many.
    async fn read_pages(
        &self,
        scope: &Scope,
        seen: &mut Seen,
        deadline: Instant,
    ) -> Result<bool, RestError> {
        let mut place = Place::default();
        for _ in 0..MAX_PAGES {
            if Instant::now() >= deadline {
                return Ok(false);
            }
            match self.list(scope, place.page(), place.size()).await {
                Ok(page) => {
                    let at_end = place.passes(page.runners.len(), page.total_count);
                    seen.add(page);
                    if at_end {
                        return Ok(true);
                    }
                }
                Err(error) if is_unreadable(&error) && place.narrows() => {}
                Err(error) => return Err(error),
            }
        }
        Ok(false)
    }

    /// One page; they count from 1.
    pub(super) async fn list(
        &self,
        scope: &Scope,
        page: usize,
        limit: usize,
    ) -> Result<Page, RestError> {
        #[derive(Deserialize)]
        struct Body {
            runners: Option<Vec<RestRunner>>,
            total_count: usize,
        }

        let path = format!("{}?page={page}&limit={limit}", runners_path(scope));
        let answer = self.rest(Method::GET, scope, &path, None).await?;
        let Body { runners, total_count } = decoded(&answer)?;
        Ok(Page { runners: runners.unwrap_or_default(), total_count })
    }
}

/// Gitea answered, and what it answered is too large or no list.
fn is_unreadable(error: &RestError) -> bool {
    matches!(error, RestError::Unexpected(status, _) if status.is_success())
}

/// Where a reading stands.
struct Place {
    /// How many runners were passed.
    passed: usize,
    sizes: [usize; 3],
    /// Pages of the sizes before this one could not be read here.
    narrowed: usize,
}

impl Default for Place {
    fn default() -> Self {
        Self { passed: 0, sizes: PAGE_SIZES, narrowed: 0 }
    }
}

impl Place {
    /// The largest that may be asked for, and that a whole number of pages fills up to here.
    fn size(&self) -> usize {
        let sizes = &self.sizes[self.narrowed..];
        sizes.iter().copied().find(|size| self.passed.is_multiple_of(*size)).unwrap_or(1)
    }

    fn page(&self) -> usize {
        self.passed / self.size() + 1
    }

    /// The page was read. Returns whether it was the last one.
    fn passes(&mut self, count: usize, total: usize) -> bool {
        let mut size = self.size();
        if self.passed == 0 && (1..size).contains(&count) && count < total {
            // This instance answers less than it is asked for.
            size = count;
            self.sizes = self.sizes.map(|size| size.min(count));
        }
        self.passed += size;
        self.narrowed = 0;
        count == 0 || self.passed >= total
    }

    /// The page cannot be read. Returns whether there is a smaller one to ask for.
    fn narrows(&mut self) -> bool {
        let size = self.size();
        let smaller = self.sizes.iter().position(|smaller| *smaller < size);
        smaller.inspect(|smaller| self.narrowed = *smaller).is_some()
    }
}

/// What several readings of one list showed.
///
/// Gitea never gives an id to a second runner, so one that was seen twice was there in between. Where, at the
/// moment of one answer, as many are known to have been there as Gitea counted, these were all.
#[derive(Default)]
struct Seen {
    /// How many there were, as each answer told it.
    totals: Vec<usize>,
    rows: HashMap<i64, Row>,
}

struct Row {
    runner: RestRunner,
    /// Numbers of the answers that showed it first and last.
    first: usize,
    last: usize,
}

impl Seen {
    fn add(&mut self, page: Page) {
        let answer = self.totals.len();
        self.totals.push(page.total_count);
        for runner in page.runners {
            let first = self.rows.get(&runner.id).map_or(answer, |row| row.first);
            self.rows.insert(runner.id, Row { runner, first, last: answer });
        }
    }

    fn is_complete(&self) -> bool {
        let (mut came, mut went) = (vec![0; self.totals.len()], vec![0; self.totals.len()]);
        for row in self.rows.values() {
            came[row.first] += 1;
            went[row.last] += 1;
        }
        let mut there = 0;
        self.totals.iter().zip(came.into_iter().zip(went)).any(|(total, (came, went))| {
            there += came;
            let complete = there == *total;
            there -= went;
            complete
        })
    }

    fn into_listing(self) -> Listing {
        let complete = self.is_complete();
        let mut runners: Vec<_> = self.rows.into_values().map(|row| row.runner).collect();
        runners.sort_unstable_by_key(|runner| runner.id);
        Listing { runners, complete }
    }
}

#[cfg(test)]
mod tests;
