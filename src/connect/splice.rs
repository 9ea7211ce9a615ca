//! Changes single fields of a body where it lies: all else survives byte for byte and in its order, also
//! fields that later versions add.

mod json;
mod proto;

#[cfg(test)]
mod properties;

use super::codec::Codec;
use super::error::ConnectError;

/// Puts `token` in the place of the token of a `RegisterRequest` and `label` after its last label.
///
/// # Errors
/// `invalid_argument` where the body is malformed, or two readers could take it for two different things.
pub fn register_request(
    codec: Codec,
    body: &[u8],
    token: &str,
    label: &str,
) -> Result<Vec<u8>, ConnectError> {
    match codec {
        Codec::Proto => proto::register_request(body, token, label),
        Codec::Json => json::register_request(body, token, label),
    }
}

/// Takes every label equal to `label` from the runner in an answer of Register or Declare.
///
/// # Errors
/// `invalid_argument` where the body is malformed.
pub fn without_label(codec: Codec, body: &[u8], label: &str) -> Result<Vec<u8>, ConnectError> {
    match codec {
        Codec::Proto => proto::without_label(body, label),
        Codec::Json => json::without_label(body, label),
    }
}

/// Puts `version` in the place of the tasks' version of a `FetchTaskResponse`; one that has none is left as
/// it is.
///
/// # Errors
/// `invalid_argument` where the body is malformed.
pub fn tasks_version(codec: Codec, body: &[u8], version: i64) -> Result<Vec<u8>, ConnectError> {
    match codec {
        Codec::Proto => proto::tasks_version(body, version),
        Codec::Json => json::tasks_version(body, version),
    }
}
