//! A table in Markdown.

use std::fmt;

/// The first column is of words, the others are of numbers.
pub(crate) struct Table {
    rows: Vec<Vec<String>>,
}

impl Table {
    /// With these headings.
    pub(crate) fn new<T: ToString>(headings: impl IntoIterator<Item = T>) -> Self {
        Self { rows: vec![headings.into_iter().map(|heading| heading.to_string()).collect()] }
    }

    /// Adds a row.
    pub(crate) fn row<T: ToString>(&mut self, cells: impl IntoIterator<Item = T>) {
        self.rows.push(cells.into_iter().map(|cell| cell.to_string()).collect());
    }
}

impl fmt::Display for Table {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (number, row) in self.rows.iter().enumerate() {
            writeln!(f, "| {} |", row.join(" | "))?;
            if number == 0 {
                let rule = (0..row.len()).map(|column| if column == 0 { "---" } else { "---:" });
                writeln!(f, "|{}|", rule.collect::<Vec<_>>().join("|"))?;
            }
        }
        Ok(())
    }
}
