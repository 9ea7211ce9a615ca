//! The token page in a real browser, before a whole broker and a stand-in Gitea. It needs the Debian
//! packages chromium and chromium-driver: `cargo test --features browser --test browser`. Pictures of the
//! pages go to the folder that BROWSER_SCREENSHOTS names, where it is set.

// Clippy's exception for tests does not reach their helpers.
#![allow(clippy::unwrap_used, clippy::expect_used)]

mod driver;
mod keyboard;
mod life;
mod looks;
mod stage;
#[allow(dead_code, reason = "the other tests need more of it")]
#[path = "../it/support.rs"]
mod support;
