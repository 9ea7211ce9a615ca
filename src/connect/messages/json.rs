//! How protobuf's JSON writes fields: what is left out, and what has another form than its type.

use std::fmt;
use std::marker::PhantomData;

use serde::de::value::MapAccessDeserializer;
use serde::de::{MapAccess, Visitor};
use serde::{Deserialize, Deserializer};

pub(super) fn or_default<'de, T, D>(deserializer: D) -> Result<T, D::Error>
where
    T: Default + Deserialize<'de>,
    D: Deserializer<'de>,
{
    Option::deserialize(deserializer).map(Option::unwrap_or_default)
}

/// A message within another. By itself, serde would take a list of its values, in the order of its fields.
pub(super) fn object<'de, T, D>(deserializer: D) -> Result<Option<T>, D::Error>
where
    T: Deserialize<'de>,
    D: Deserializer<'de>,
{
    let object: Option<Object<T>> = Option::deserialize(deserializer)?;
    Ok(object.map(|Object(message)| message))
}

struct Object<T>(T);

impl<'de, T: Deserialize<'de>> Deserialize<'de> for Object<T> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_map(Members(PhantomData)).map(Self)
    }
}

struct Members<T>(PhantomData<T>);

impl<'de, T: Deserialize<'de>> Visitor<'de> for Members<T> {
    type Value = T;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a message")
    }

    fn visit_map<A: MapAccess<'de>>(self, map: A) -> Result<T, A::Error> {
        T::deserialize(MapAccessDeserializer::new(map))
    }
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
