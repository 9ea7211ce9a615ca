//! What the admin API answers and takes, as JSON; the commands and the page read the same types. Only
//! [`IssuedToken`] holds a secret.

mod event;
mod runner;
mod status;
mod token;

use std::time::SystemTime;

use utoipa::openapi::schema::{ObjectBuilder, Type};

pub use event::Event;
pub use runner::Runner;
pub use status::{Addresses, ApiToken, EnrollmentTokens, Gitea, Status, Store};
pub use token::{IssuedToken, NewChild, NewToken, Token};

fn rfc3339(time: SystemTime) -> String {
    humantime::format_rfc3339_seconds(time).to_string()
}

/// The schema of a text that is one of a few words.
pub(super) fn one_of<'a>(what: &str, words: impl IntoIterator<Item = &'a str>) -> ObjectBuilder {
    let words: Vec<_> = words.into_iter().collect();
    ObjectBuilder::new().description(Some(what)).schema_type(Type::String).enum_values(Some(words))
}
