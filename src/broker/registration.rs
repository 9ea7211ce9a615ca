//! The states of a registration: what is written before Gitea is asked, and what its answer means.

use std::net::IpAddr;
use std::time::SystemTime;

use crate::config::Scope;
use crate::connect::Codec;

/// Begins the label that an intent carries to Gitea; no runner may use it itself.
pub const INTENT_LABEL_PREFIX: &str = "rb-intent-";

/// Who asks: a second Register of the same key may be the same runner, asking again for an answer that
/// it lost. The codec is part of it because the answer is kept as bytes.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Key {
    /// Id of the enrollment token presented.
    pub parent_id: String,
    /// The name asked for.
    pub name: String,
    /// The labels asked for, in their order.
    pub labels: Vec<String>,
    /// Whether an ephemeral runner is asked for.
    pub ephemeral: bool,
    /// The peer's address, without its port.
    pub peer: IpAddr,
    /// How the answer is written.
    pub codec: Codec,
}

/// What is in the store before Gitea is asked.
#[derive(Clone, Debug)]
pub struct Intent {
    /// 32 hexadecimal digits, random; the label `rb-intent-<nonce>` tells an orphan by it.
    pub nonce: String,
    /// Where the runner will serve.
    pub scope: Scope,
    /// Who asks.
    pub key: Key,
    /// The runner's own version, as its Register told it.
    pub version: String,
    /// When Gitea was about to be asked.
    pub created_at: SystemTime,
}

impl Intent {
    /// The label that Register takes along.
    #[must_use]
    pub fn label(&self) -> String {
        format!("{INTENT_LABEL_PREFIX}{}", self.nonce)
    }

    /// The nonce that a label tells, where it is one of these.
    #[must_use]
    pub fn nonce_of(label: &str) -> Option<&str> {
        label.strip_prefix(INTENT_LABEL_PREFIX)
    }
}
