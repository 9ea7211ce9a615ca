//! The runners' listener: what comes in is told apart, refused, decided or passed on.

mod answer;
mod body;
mod connection;
mod decide;
mod form;
mod forward;
mod headers;
mod pass;
mod poll;
mod route;
mod service;
mod watch;
mod wrong_word;

pub use body::{BodyError, ProxyBody};
pub use connection::Connection;
pub use route::{Class, Route, classify};
pub use service::Proxy;
