//! Registration broker in front of Gitea's runners.

pub mod broker;
pub mod cli;
pub mod config;
pub mod connect;
pub mod credential;
pub mod net;
pub mod store;
