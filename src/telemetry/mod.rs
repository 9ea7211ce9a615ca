//! What the broker tells of itself: log lines and metrics.

pub mod log;
pub mod metrics;
pub mod panics;

pub use metrics::Metrics;
