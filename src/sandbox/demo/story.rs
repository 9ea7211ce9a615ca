//! How the demo is told: numbered steps in plain lines, and claims that are checked as they are made.

use std::io::{self, Write};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use tracing_subscriber::fmt::MakeWriter;

use super::DemoError;

/// No line is longer, but for words that are.
const WIDTH: usize = 100;
const BOLD: &str = "1";
const FAINT: &str = "2";
const GREEN: &str = "32";

/// Where the demo is told to.
pub struct Story<W> {
    out: W,
    colours: bool,
    pause: Duration,
    steps: usize,
    claims: usize,
}

impl<W: Write> Story<W> {
    /// `pause`: how long a reader gets before each step.
    pub fn new(out: W, colours: bool, pause: Duration) -> Self {
        Self { out, colours, pause, steps: 0, claims: 0 }
    }

    /// How many claims were checked so far.
    #[must_use]
    pub fn claims(&self) -> usize {
        self.claims
    }

    /// A heading without a number.
    pub fn head(&mut self, title: &str) -> io::Result<()> {
        self.block("", "", BOLD, title)
    }

    /// Begins a step.
    pub async fn step(&mut self, title: &str) -> io::Result<()> {
        tokio::time::sleep(self.pause).await;
        self.steps += 1;
        self.line("", "")?;
        self.block(&format!("{:2}. ", self.steps), "    ", BOLD, title)
    }

    /// Tells something.
    pub fn say(&mut self, text: &str) -> io::Result<()> {
        self.block("    ", "    ", "", text)
    }

    /// Shows a line as a file, a log or a list has it; what follows a break in it is indented.
    pub fn show(&mut self, line: &str) -> io::Result<()> {
        // The blanks that it begins with would be lost with the other breaks.
        let text = line.trim_start_matches(' ');
        let first = format!("    | {}", &line[..line.len() - text.len()]);
        self.block(&first, "    |     ", FAINT, text)
    }

    /// Tells what must be so.
    ///
    /// # Errors
    /// It is not.
    pub fn claim(&mut self, holds: bool, what: &str) -> Result<(), DemoError> {
        if !holds {
            return Err(DemoError::Untrue(what.to_owned()));
        }
        self.claims += 1;
        Ok(self.block(" ok ", "    ", GREEN, what)?)
    }

    /// Breaks a text at its blanks; `first` and `next` begin its lines.
    fn block(&mut self, first: &str, next: &str, style: &str, text: &str) -> io::Result<()> {
        let mut line = first.to_owned();
        let mut bare = true;
        for word in text.split_whitespace() {
            if !bare && line.chars().count() + 1 + word.chars().count() > WIDTH {
                self.line(style, &line)?;
                line = next.to_owned();
                bare = true;
            }
            if !bare {
                line.push(' ');
            }
            line.push_str(word);
            bare = false;
        }
        self.line(style, &line)
    }

    fn line(&mut self, style: &str, line: &str) -> io::Result<()> {
        let written = match self.colours && !style.is_empty() && !line.is_empty() {
            true => writeln!(self.out, "\x1b[{style}m{line}\x1b[0m"),
            false => writeln!(self.out, "{line}"),
        };
        match written {
            // A reader that has left, as `head` does, is no failure.
            Err(error) if error.kind() == io::ErrorKind::BrokenPipe => Ok(()),
            written => written.and_then(|()| self.out.flush()),
        }
    }
}

/// The lines that the broker logs, kept until they are shown.
#[derive(Clone, Debug, Default)]
pub struct LogLines(Arc<Mutex<Vec<String>>>);

impl LogLines {
    /// Those that came since the last time, without their times.
    #[must_use]
    pub fn take(&self) -> Vec<String> {
        std::mem::take(&mut *self.0.lock().unwrap_or_else(PoisonError::into_inner))
    }
}

impl Write for LogLines {
    /// The log writes whole lines, which begin with the time.
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let text = String::from_utf8_lossy(bytes);
        let lines = text.lines().map(|line| match line.split_once(' ') {
            Some((_time, line)) => line.trim_start().to_owned(),
            None => line.to_owned(),
        });
        self.0.lock().unwrap_or_else(PoisonError::into_inner).extend(lines);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

impl<'a> MakeWriter<'a> for LogLines {
    type Writer = Self;

    fn make_writer(&'a self) -> Self {
        self.clone()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn told(tell: impl FnOnce(&mut Story<&mut Vec<u8>>)) -> String {
        let mut out = Vec::new();
        tell(&mut Story::new(&mut out, false, Duration::ZERO));
        String::from_utf8(out).unwrap()
    }

    #[test]
    fn long_texts_are_broken_and_keep_their_indent() {
        let text = told(|story| story.say(&"word ".repeat(40)).unwrap());
        let lines: Vec<_> = text.lines().collect();
        assert_eq!(lines.len(), 3);
        assert!(lines.iter().all(|line| line.starts_with("    word") && line.len() <= WIDTH));
        let file = told(|story| story.show("  \"id\": 1,").unwrap());
        assert_eq!(file, "    |   \"id\": 1,\n");
    }

    #[test]
    fn a_claim_that_is_not_so_is_an_error() {
        let text = told(|story| {
            story.claim(true, "this is so").unwrap();
            let error = story.claim(false, "that is so").unwrap_err();
            assert!(error.to_string().contains("that is so"), "{error}");
            assert_eq!(story.claims(), 1);
        });
        assert_eq!(text, " ok this is so\n");
    }

    #[test]
    fn log_lines_lose_their_times() {
        let log = LogLines::default();
        log.clone().write_all(b"2025-01-01T00:00:00.0Z  INFO stopped took_ms=3\n").unwrap();
        assert_eq!(log.take(), ["INFO stopped took_ms=3"]);
        assert!(log.take().is_empty());
    }
}
