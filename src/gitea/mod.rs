//! What the broker itself asks of Gitea. Everything that knows Gitea's paths, texts and abilities is here.
//!
//! [`GiteaClient`] speaks the actions protocol as a runner does (in `rpc`) and the REST API as an
//! administrator does (in `rest`, its lists in `list`). `error_text` tells what Gitea's refusals mean, and
//! `scope` where a scope lies in the REST API. `tokens` has what Gitea
//! gave out, and mints what is missing.

mod answer;
mod error_text;
mod list;
mod rest;
mod rpc;
mod scope;
mod tokens;
mod version;

use std::sync::Arc;
use std::sync::atomic::AtomicBool;
use std::time::Duration;

use hyper::header::HeaderValue;

pub use self::error_text::RegisterRefusal;
pub use self::list::Listing;
pub use self::rest::{DeleteAnswer, RestError, RestRunner, SwitchAnswer};
pub use self::rpc::{CallError, RegisterAnswer, RegisterFailure};
pub(crate) use self::scope::escape;
pub use self::scope::token_scope;
use self::tokens::Tokens;
use crate::config;
use crate::net::upstream::Upstream;

/// How long a call may take, its answer's body included.
const CALL_LIMIT: Duration = Duration::from_secs(10);
/// How long Register may take: Gitea hashes and writes, and its outcome must not be guessed at.
pub const REGISTER_LIMIT: Duration = Duration::from_secs(30);
/// How large the body of an answer may be, compressed or not.
const BODY_LIMIT: usize = 1024 * 1024;
/// How the broker names itself.
const USER_AGENT: HeaderValue =
    HeaderValue::from_static(concat!("runner-broker/", env!("CARGO_PKG_VERSION")));

/// Calls that the broker authors. Cheap to clone.
#[derive(Clone, Debug)]
pub struct GiteaClient {
    upstream: Upstream,
    tokens: Arc<Tokens>,
    register_limit: Duration,
    /// It has answered that it cannot switch runners off.
    cannot_switch: Arc<AtomicBool>,
}

impl GiteaClient {
    /// A client with the tokens of these settings.
    #[must_use]
    pub fn new(upstream: Upstream, gitea: &config::Gitea) -> Self {
        Self {
            upstream,
            tokens: Arc::new(Tokens::new(gitea)),
            register_limit: REGISTER_LIMIT,
            cannot_switch: Arc::default(),
        }
    }

    /// The same client, with another limit for how long Register may take.
    #[must_use]
    pub fn with_register_limit(self, register_limit: Duration) -> Self {
        Self { register_limit, ..self }
    }

    /// Whether Gitea answered the last time that anyone dialled it; false before the first answer.
    #[must_use]
    pub fn is_up(&self) -> bool {
        self.upstream.is_up()
    }
}

#[cfg(test)]
mod tests;
