//! What the broker itself asks of Gitea. Everything that knows Gitea's paths, texts and abilities is here.
//!
//! This is the seam to what is behind the broker: another back end that speaks the same actions protocol
//! (Forgejo, say) differs in paths, texts and abilities alone. The rest of the crate asks for what is to be
//! done (register, prove, list, delete, mint) and gets values of this module, never a status or a text.
//!
//! [`GiteaClient`] speaks the actions protocol as a runner does (in `rpc`) and the REST API as an
//! administrator does (in `rest`, its lists in `list`). `error_text` tells what Gitea's refusals mean, and
//! `scope` where a scope lies in the REST API. `tokens` has what Gitea gave out, and mints what is missing.
//! `abilities` finds out what this Gitea can do.

mod abilities;
mod answer;
mod error_text;
mod list;
mod rest;
mod rpc;
mod scope;
mod tokens;
mod version;

use std::sync::Arc;
use std::time::Duration;

use arc_swap::ArcSwap;
use hyper::header::HeaderValue;

pub use self::abilities::{Abilities, Minting, Skew};
pub(crate) use self::answer::describe;
pub use self::error_text::{RegisterRefusal, is_unregistered};
pub use self::list::{RunnerPage, Search};
pub use self::rest::{DeleteAnswer, RestError, RestRunner, SwitchAnswer};
pub use self::rpc::{CallError, RegisterAnswer, RegisterFailure};
pub(crate) use self::scope::escape;
pub use self::scope::token_scope;
pub use self::tokens::Registration;
use self::tokens::Tokens;
pub use self::version::numbers;
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
    abilities: Arc<ArcSwap<Abilities>>,
}

impl GiteaClient {
    /// A client with the tokens of these settings.
    #[must_use]
    pub fn new(upstream: Upstream, gitea: &config::Gitea) -> Self {
        Self {
            upstream,
            tokens: Arc::new(Tokens::new(gitea)),
            register_limit: REGISTER_LIMIT,
            abilities: Arc::default(),
        }
    }

    /// The same client, with another limit for how long Register may take.
    #[must_use]
    pub fn with_register_limit(self, register_limit: Duration) -> Self {
        Self { register_limit, ..self }
    }

    /// Whether the last that came from Gitea's address was Gitea's own word; false before the first.
    #[must_use]
    pub fn is_up(&self) -> bool {
        self.upstream.is_up()
    }
}

#[cfg(test)]
mod tests;
