//! The runners' listener: what comes in is told apart, refused, decided or passed on.

mod answer;
mod body;
mod connection;
mod decide;
mod form;
mod forward;
mod headers;
mod limits;
mod pass;
mod poll;
mod route;
mod service;
mod watch;
mod wrong_word;

pub use body::ProxyBody;
pub use connection::Connection;
pub use headers::{clean_request, clean_response, dialled};
pub use limits::{Limit, RequestPlace};
pub use pass::may_pass;
pub use route::{Class, Route, classify};
pub use service::Proxy;
