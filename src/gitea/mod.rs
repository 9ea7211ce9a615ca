//! What the broker itself asks of Gitea. Everything that knows Gitea's paths, texts and abilities is here.
//!
//! [`GiteaClient`] speaks the actions protocol as a runner does (in `rpc`) and the REST API as an
//! administrator does (in `rest`, its lists in `list`). `error_text` tells what Gitea's refusals mean, and
//! `scope` where a scope lies in the REST API.

mod answer;
mod error_text;
mod list;
mod rest;
mod rpc;
mod scope;
mod version;

use std::sync::Arc;
use std::sync::atomic::AtomicBool;
use std::time::Duration;

use arc_swap::ArcSwap;
use hyper::header::HeaderValue;
use secrecy::SecretString;

pub(crate) use self::answer::describe;
pub use self::error_text::RegisterRefusal;
pub use self::list::{RunnerPage, Search};
pub use self::rest::{DeleteAnswer, RestError, RestRunner, SwitchAnswer};
pub use self::rpc::{CallError, RegisterAnswer, RegisterFailure};
pub(crate) use self::scope::escape;
pub use self::scope::token_scope;
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

/// The secrets that Gitea gave out. They are swapped whole when the settings are read again.
#[derive(Clone, Debug)]
pub struct Tokens {
    /// With it runners join.
    pub registration: SecretString,
    /// With it runners are listed and deleted.
    pub api: Option<SecretString>,
}

/// Calls that the broker authors. Cheap to clone.
#[derive(Clone, Debug)]
pub struct GiteaClient {
    upstream: Upstream,
    tokens: Arc<ArcSwap<Tokens>>,
    register_limit: Duration,
    /// It has answered that it cannot switch runners off.
    cannot_switch: Arc<AtomicBool>,
}

impl GiteaClient {
    /// A client that takes the secrets anew for each call.
    #[must_use]
    pub fn new(upstream: Upstream, tokens: Arc<ArcSwap<Tokens>>) -> Self {
        Self { upstream, tokens, register_limit: REGISTER_LIMIT, cannot_switch: Arc::default() }
    }

    /// The same client, with another limit for how long Register may take.
    #[must_use]
    pub fn with_register_limit(self, register_limit: Duration) -> Self {
        Self { register_limit, ..self }
    }

    /// The secrets of this moment.
    #[must_use]
    pub fn tokens(&self) -> Arc<Tokens> {
        self.tokens.load_full()
    }

    /// Whether the last that came from Gitea's address was Gitea's own word; false before the first.
    #[must_use]
    pub fn is_up(&self) -> bool {
        self.upstream.is_up()
    }
}

#[cfg(test)]
mod tests;
