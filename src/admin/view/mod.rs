//! What the admin API answers and takes, as JSON; the commands and the page read the same types. Only
//! [`IssuedToken`] holds a secret.

mod event;
mod pruned;
mod runner;
mod status;
mod token;

use std::time::{Duration, SystemTime};

use utoipa::openapi::schema::{ObjectBuilder, Type};

pub use event::Event;
pub use pruned::PrunedRunner;
pub use runner::{ExistingRunner, Runner};
pub use status::{
    Abilities, Addresses, ApiToken, Certificate, EnrollmentTokens, Gitea, Minting,
    RegistrationToken, ScopeTokens, Status, Store,
};
pub use token::{IssuedToken, NewChild, NewToken, Token};

fn rfc3339(time: SystemTime) -> String {
    humantime::format_rfc3339_seconds(time).to_string()
}

/// A duration in its largest unit, as the page and the commands say it.
pub(crate) fn rough(duration: Duration) -> String {
    let seconds = duration.as_secs();
    match seconds {
        0..60 => format!("{seconds} s"),
        60..3600 => format!("{} min", seconds / 60),
        3600..86_400 => format!("{} h", seconds / 3600),
        86_400..172_800 => "1 day".into(),
        _ => format!("{} days", seconds / 86_400),
    }
}

/// The schema of a text that is one of a few words.
pub(super) fn one_of<'a>(what: &str, words: impl IntoIterator<Item = &'a str>) -> ObjectBuilder {
    let words: Vec<_> = words.into_iter().collect();
    ObjectBuilder::new().description(Some(what)).schema_type(Type::String).enum_values(Some(words))
}
