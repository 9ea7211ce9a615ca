//! Registration broker in front of Gitea's runners.

pub mod admin;
pub mod app;
pub mod broker;
pub mod cli;
pub mod config;
pub mod connect;
pub mod credential;
pub mod fault;
pub mod gitea;
pub mod lifecycle;
pub mod net;
pub mod proxy;
pub mod sandbox;
pub mod shutdown;
pub mod store;
pub mod telemetry;
