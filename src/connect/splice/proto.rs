//! The protobuf side: fields are dropped, written and copied whole.

use crate::connect::codec::malformed_proto;
use crate::connect::error::ConnectError;
use crate::connect::wire::{Field, Value, fields, put_bytes};

/// Numbers of the fields touched.
const REQUEST_TOKEN: u32 = 2;
const REQUEST_LABELS: u32 = 6;
const RESPONSE_RUNNER: u32 = 1;
const RUNNER_LABELS: u32 = 9;

pub(super) fn register_request(
    body: &[u8],
    token: &str,
    label: &str,
) -> Result<Vec<u8>, ConnectError> {
    let mut last_label = None;
    for (index, field) in whole_fields(body).enumerate() {
        if is_bytes(&field?, REQUEST_LABELS) {
            last_label = Some(index);
        }
    }

    let mut out = Vec::with_capacity(body.len() + token.len() + label.len() + 16);
    let mut has_token = false;
    for (index, field) in whole_fields(body).enumerate() {
        let field = field?;
        if !is_bytes(&field, REQUEST_TOKEN) {
            out.extend_from_slice(field.raw);
        } else if !has_token {
            put_bytes(&mut out, REQUEST_TOKEN, token.as_bytes());
            has_token = true;
        }
        if Some(index) == last_label {
            put_bytes(&mut out, REQUEST_LABELS, label.as_bytes());
        }
    }
    if !has_token {
        put_bytes(&mut out, REQUEST_TOKEN, token.as_bytes());
    }
    if last_label.is_none() {
        put_bytes(&mut out, REQUEST_LABELS, label.as_bytes());
    }
    Ok(out)
}

pub(super) fn without_label(body: &[u8], label: &str) -> Result<Vec<u8>, ConnectError> {
    let mut out = Vec::with_capacity(body.len());
    for field in whole_fields(body) {
        let field = field?;
        match field.value {
            Value::Bytes(runner) if field.number == RESPONSE_RUNNER => {
                let kept = runner_without_label(runner, label)?;
                if kept.len() == runner.len() {
                    out.extend_from_slice(field.raw);
                } else {
                    put_bytes(&mut out, RESPONSE_RUNNER, &kept);
                }
            }
            _ => out.extend_from_slice(field.raw),
        }
    }
    Ok(out)
}

fn runner_without_label(runner: &[u8], label: &str) -> Result<Vec<u8>, ConnectError> {
    let mut kept = Vec::with_capacity(runner.len());
    for field in whole_fields(runner) {
        let field = field?;
        if field.number != RUNNER_LABELS || field.value != Value::Bytes(label.as_bytes()) {
            kept.extend_from_slice(field.raw);
        }
    }
    Ok(kept)
}

fn whole_fields(message: &[u8]) -> impl Iterator<Item = Result<Field<'_>, ConnectError>> {
    fields(message).map(|field| match field {
        Ok(field) if !matches!(field.value, Value::Cut(_)) => Ok(field),
        _ => Err(malformed_proto()),
    })
}

fn is_bytes(field: &Field<'_>, number: u32) -> bool {
    field.number == number && matches!(field.value, Value::Bytes(_))
}
