//! How protobuf's JSON writes fields: what is left out, and what has another form than its type.

use serde::{Deserialize, Deserializer};

pub(super) fn or_default<'de, T, D>(deserializer: D) -> Result<T, D::Error>
where
    T: Default + Deserialize<'de>,
    D: Deserializer<'de>,
{
    Option::deserialize(deserializer).map(Option::unwrap_or_default)
}

pub(super) fn is_false(value: &bool) -> bool {
    !value
}

pub(super) fn is_zero(value: &i64) -> bool {
    *value == 0
}

pub(super) fn is_running(value: &i32) -> bool {
    *value == 0
}

/// protobuf's JSON writes an `int64` as a string and reads a string or a number.
pub(super) mod int64 {
    use serde::{Deserialize, Deserializer, Serializer};

    #[derive(Deserialize)]
    #[serde(untagged)]
    enum Form {
        Number(i64),
        Text(String),
    }

    pub(in super::super) fn serialize<S: Serializer>(
        value: &i64,
        serializer: S,
    ) -> Result<S::Ok, S::Error> {
        serializer.collect_str(value)
    }

    pub(in super::super) fn deserialize<'de, D: Deserializer<'de>>(
        deserializer: D,
    ) -> Result<i64, D::Error> {
        match Option::deserialize(deserializer)? {
            None => Ok(0),
            Some(Form::Number(value)) => Ok(value),
            Some(Form::Text(text)) => text.parse().map_err(serde::de::Error::custom),
        }
    }
}

/// protobuf's JSON writes an enum by name and reads a name or a number.
pub(super) mod task_result {
    use serde::{Deserialize, Deserializer, Serializer};

    use crate::connect::messages::TaskResult;

    const NAMES: [&str; 5] = [
        "RESULT_UNSPECIFIED",
        "RESULT_SUCCESS",
        "RESULT_FAILURE",
        "RESULT_CANCELLED",
        "RESULT_SKIPPED",
    ];

    #[derive(Deserialize)]
    #[serde(untagged)]
    enum Form {
        Number(i32),
        Name(String),
    }

    pub(in super::super) fn serialize<S: Serializer>(
        value: &i32,
        serializer: S,
    ) -> Result<S::Ok, S::Error> {
        match TaskResult::try_from(*value) {
            Ok(result) => serializer.serialize_str(NAMES[result as usize]),
            Err(_) => serializer.serialize_i32(*value),
        }
    }

    pub(in super::super) fn deserialize<'de, D: Deserializer<'de>>(
        deserializer: D,
    ) -> Result<i32, D::Error> {
        match Option::deserialize(deserializer)? {
            None => Ok(0),
            Some(Form::Number(value)) => Ok(value),
            Some(Form::Name(name)) => NAMES
                .iter()
                .position(|known| *known == name)
                .and_then(|position| i32::try_from(position).ok())
                .ok_or_else(|| serde::de::Error::custom(format!("unknown result {name:?}"))),
        }
    }
}
