//! The log on standard error.

use std::io::IsTerminal;

use tracing::level_filters::LevelFilter;
use tracing_subscriber::filter::Targets;
use tracing_subscriber::fmt::MakeWriter;
use tracing_subscriber::layer::SubscriberExt;
use tracing_subscriber::{Layer, Registry};

use crate::config::{Log, LogFormat, LogLevel};

/// Makes standard error the log of this process. A second call changes nothing.
pub fn init(settings: Log) {
    let ansi = std::io::stderr().is_terminal();
    // A logger that is already there (a test's) stays.
    let _ = tracing::subscriber::set_global_default(subscriber(settings, ansi, std::io::stderr));
}

/// A subscriber that writes to `writer`.
pub fn subscriber<W>(settings: Log, ansi: bool, writer: W) -> impl tracing::Subscriber + Send + Sync
where
    W: for<'a> MakeWriter<'a> + Send + Sync + 'static,
{
    let level = level(settings.level);
    // Libraries below us may show headers, and so tokens, in their finer levels: they stay at info.
    let targets = Targets::new()
        .with_default(level.min(LevelFilter::INFO))
        // It warns of frames that a client makes up, as many as that likes.
        .with_target("h2", level.min(LevelFilter::ERROR))
        .with_target("runner_broker", level);
    let layer = tracing_subscriber::fmt::layer().with_ansi(ansi).with_target(false);
    let layer = match settings.format {
        LogFormat::Text => layer.with_writer(writer).boxed(),
        LogFormat::Json => layer.json().flatten_event(true).with_writer(writer).boxed(),
    };
    Registry::default().with(layer.with_filter(targets))
}

fn level(level: LogLevel) -> LevelFilter {
    match level {
        LogLevel::Error => LevelFilter::ERROR,
        LogLevel::Warn => LevelFilter::WARN,
        LogLevel::Info => LevelFilter::INFO,
        LogLevel::Debug => LevelFilter::DEBUG,
        LogLevel::Trace => LevelFilter::TRACE,
    }
}
