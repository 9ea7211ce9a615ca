//! What is wrong with the settings, in lines that name the key, its origin and the remedy.

use std::fmt;

/// One thing that is wrong. Never holds a secret.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Problem {
    /// The setting, as `section.key`.
    pub key: String,
    /// Where its value came from.
    pub origin: String,
    /// What is wrong and what to do.
    pub message: String,
}

impl fmt::Display for Problem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&one_line(&format!("{} ({}): {}", self.key, self.origin, self.message)))
    }
}

/// All that is wrong, at least one thing; shown one line each.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Problems(pub Vec<Problem>);

impl fmt::Display for Problems {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (index, problem) in self.0.iter().enumerate() {
            let end = if index == 0 { "" } else { "\n" };
            write!(f, "{end}{problem}")?;
        }
        Ok(())
    }
}

impl std::error::Error for Problems {}

/// The same text with its control characters escaped: keys, paths and values are not ours, and must
/// not break a line or steer a terminal.
pub(super) fn one_line(text: &str) -> String {
    let mut line = String::with_capacity(text.len());
    for c in text.chars() {
        if c.is_control() { line.extend(c.escape_default()) } else { line.push(c) }
    }
    line
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_problem_is_one_line_whatever_it_holds() {
        let problem = Problem {
            key: "a\nb".into(),
            origin: "file \u{1b}[31m".into(),
            message: "wrong\r".into(),
        };
        assert_eq!(problem.to_string(), r"a\nb (file \u{1b}[31m): wrong\r");
        let two = Problems(vec![problem.clone(), problem]);
        assert_eq!(two.to_string().lines().count(), 2);
    }
}
