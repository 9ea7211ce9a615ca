//! The log, as a test sees it.

use std::io;
use std::sync::{Arc, Mutex};

use runner_broker::config::{Log, LogFormat, LogLevel};
use runner_broker::telemetry;
use serde_json::Value;

/// The log of this thread, in JSON, while this lives: so it is of use only in tests with one thread.
pub(crate) struct Capture {
    bytes: Arc<Mutex<Vec<u8>>>,
    _guard: tracing::subscriber::DefaultGuard,
}

impl Capture {
    /// Begins to listen.
    pub(crate) fn start() -> Self {
        let bytes = Arc::<Mutex<Vec<u8>>>::default();
        let log = Log { format: LogFormat::Json, level: LogLevel::Trace };
        let kept = Arc::clone(&bytes);
        let writer = move || Tail(Arc::clone(&kept));
        let subscriber = telemetry::log::subscriber(log, false, writer);
        Self { bytes, _guard: tracing::subscriber::set_default(subscriber) }
    }

    /// The lines so far.
    pub(crate) fn lines(&self) -> Vec<Value> {
        let text = self.text();
        text.lines().map(|line| serde_json::from_str(line).unwrap()).collect()
    }

    /// The lines so far, as text.
    pub(crate) fn text(&self) -> String {
        String::from_utf8(self.bytes.lock().unwrap().clone()).unwrap()
    }

    /// How many lines an admin sees: warnings and errors.
    pub(crate) fn complaints(&self) -> usize {
        self.lines()
            .iter()
            .filter(|line| line["level"] == "WARN" || line["level"] == "ERROR")
            .count()
    }
}

struct Tail(Arc<Mutex<Vec<u8>>>);

impl io::Write for Tail {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.0.lock().unwrap().extend_from_slice(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}
