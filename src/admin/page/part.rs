//! Long lists, a page at a time: a browser bears no table of thousands of rows, nor do the runners that wait while
//! it is made.

use axum::extract::Query;
use axum::extract::rejection::QueryRejection;
use serde::Deserialize;

/// So many rows are on a page.
pub(super) const ROWS: usize = 100;

/// Which part of a list was asked for; fields that were left empty come as empty texts.
#[derive(Default, Deserialize)]
#[serde(default)]
pub(super) struct Asked {
    /// Those that came by this token.
    pub(super) token_id: String,
    page: String,
}

impl Asked {
    /// What cannot be read asks for nothing.
    pub(super) fn of(query: Result<Query<Self>, QueryRejection>) -> Self {
        query.map(|Query(asked)| asked).unwrap_or_default()
    }
}

/// Some rows of a list.
pub(super) struct Part<T> {
    pub(super) rows: Vec<T>,
    /// How many the whole list has.
    pub(super) all: usize,
    /// How many come before these.
    skipped: usize,
}

impl<T> Part<T> {
    /// The part that was asked for, or the last one where there are fewer.
    pub(super) fn of<U>(list: Vec<U>, asked: &Asked, row: impl FnMut(U) -> T) -> Self {
        let all = list.len();
        let page: usize = asked.page.parse().unwrap_or(1);
        let last = all.div_ceil(ROWS).max(1);
        let skipped = (page.clamp(1, last) - 1) * ROWS;
        let rows = list.into_iter().skip(skipped).take(ROWS).map(row).collect();
        Self { rows, all, skipped }
    }

    /// Whether there are more than are shown.
    pub(super) fn is_cut(&self) -> bool {
        self.rows.len() < self.all
    }

    /// `101 to 200 of 230`
    pub(super) fn place(&self) -> String {
        format!("{} to {} of {}", self.skipped + 1, self.skipped + self.rows.len(), self.all)
    }

    /// The number of the page before this one.
    pub(super) fn before(&self) -> Option<usize> {
        (self.skipped > 0).then_some(self.skipped / ROWS)
    }

    /// The number of the page after this one.
    pub(super) fn after(&self) -> Option<usize> {
        (self.skipped + self.rows.len() < self.all).then_some(self.skipped / ROWS + 2)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn part(all: usize, page: &str) -> (usize, Option<usize>, Option<usize>, Vec<usize>) {
        let asked = Asked { page: page.into(), ..Asked::default() };
        let part = Part::of((0..all).collect(), &asked, |number: usize| number);
        assert_eq!(part.is_cut(), part.rows.len() < all);
        (part.all, part.before(), part.after(), part.rows)
    }

    #[test]
    fn every_row_is_on_one_page() {
        for all in [0, 1, ROWS, ROWS + 1, 3 * ROWS, 3 * ROWS + 7] {
            let mut rows = Vec::new();
            let mut next = Some(1);
            while let Some(page) = next {
                let (_, before, after, mut some) = part(all, &page.to_string());
                assert_eq!(before, (page > 1).then(|| page - 1));
                rows.append(&mut some);
                next = after;
            }
            assert_eq!(rows, (0..all).collect::<Vec<_>>());
        }
    }

    #[test]
    fn what_is_no_page_is_the_nearest() {
        let last = part(2 * ROWS + 5, "3");
        assert_eq!(part(2 * ROWS + 5, "99"), last);
        for page in ["", "0", "-1", "x", "1"] {
            assert_eq!(part(2 * ROWS + 5, page).3[0], 0, "{page}");
        }
    }
}
