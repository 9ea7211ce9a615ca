//! The forms of JSON that only the stand-ins write; messages have [`crate::connect`]'s codec.

use serde::{Serialize, Serializer};

/// No message is longer than this once it is decompressed.
pub(super) const MESSAGE_LIMIT: usize = 64 << 20;

/// JSON of a value that always has one: its maps have text as keys.
pub(super) fn json<T: Serialize>(value: &T) -> Vec<u8> {
    serde_json::to_vec(value).expect("values with text keys have a JSON form")
}

/// protobuf's JSON writes an `int64` as a string.
pub(super) fn text<S: Serializer>(value: &i64, serializer: S) -> Result<S::Ok, S::Error> {
    serializer.collect_str(value)
}
