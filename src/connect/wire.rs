//! Walks over the fields of a protobuf message without knowing what they mean.

use prost::encoding::{WireType, decode_key, decode_varint, encode_key, encode_varint};

/// One field as it lies on the wire.
#[derive(Clone, Copy, Debug)]
pub(super) struct Field<'a> {
    /// Its number, 1 or more.
    pub(super) number: u32,
    /// Key, length and value.
    pub(super) raw: &'a [u8],
    /// What it holds.
    pub(super) value: Value<'a>,
}

/// The value of a field.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Value<'a> {
    /// A number of variable length.
    Varint(u64),
    /// Four or eight bytes.
    Fixed,
    /// A string, bytes or a message.
    Bytes(&'a [u8]),
    /// As [`Value::Bytes`], but the body ends before it does; no field follows.
    Cut(&'a [u8]),
}

/// The bytes are no protobuf message, or only the beginning of one.
#[derive(Clone, Copy, Debug)]
pub(super) struct Malformed;

impl From<prost::DecodeError> for Malformed {
    fn from(_: prost::DecodeError) -> Self {
        Self
    }
}

/// The fields of `message` in order, up to the first that is malformed. Groups count as malformed: no
/// message of the protocol has any.
pub(super) fn fields(message: &[u8]) -> impl Iterator<Item = Result<Field<'_>, Malformed>> {
    let mut rest = message;
    std::iter::from_fn(move || {
        if rest.is_empty() {
            return None;
        }
        let field = split_field(&mut rest);
        if field.is_err() {
            rest = &[];
        }
        Some(field)
    })
}

/// Appends a field that holds `value`.
pub(super) fn put_bytes(out: &mut Vec<u8>, number: u32, value: &[u8]) {
    encode_key(number, WireType::LengthDelimited, out);
    encode_varint(value.len() as u64, out);
    out.extend_from_slice(value);
}

/// Appends a field that holds a number.
pub(super) fn put_varint(out: &mut Vec<u8>, number: u32, value: u64) {
    encode_key(number, WireType::Varint, out);
    encode_varint(value, out);
}

fn split_field<'a>(rest: &mut &'a [u8]) -> Result<Field<'a>, Malformed> {
    let start = *rest;
    let (number, kind) = decode_key(rest)?;
    let value = match kind {
        WireType::Varint => Value::Varint(decode_varint(rest)?),
        WireType::SixtyFourBit => split_fixed(rest, 8)?,
        WireType::ThirtyTwoBit => split_fixed(rest, 4)?,
        WireType::LengthDelimited => split_bytes(rest)?,
        WireType::StartGroup | WireType::EndGroup => return Err(Malformed),
    };
    Ok(Field { number, raw: &start[..start.len() - rest.len()], value })
}

fn split_fixed<'a>(rest: &mut &'a [u8], size: usize) -> Result<Value<'a>, Malformed> {
    *rest = rest.get(size..).ok_or(Malformed)?;
    Ok(Value::Fixed)
}

fn split_bytes<'a>(rest: &mut &'a [u8]) -> Result<Value<'a>, Malformed> {
    let length = decode_varint(rest)?;
    let split = usize::try_from(length).ok().and_then(|length| rest.split_at_checked(length));
    let Some((value, after)) = split else {
        return Ok(Value::Cut(std::mem::take(rest)));
    };
    *rest = after;
    Ok(Value::Bytes(value))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn all(message: &[u8]) -> Result<Vec<(u32, Value<'_>)>, Malformed> {
        fields(message).map(|field| field.map(|field| (field.number, field.value))).collect()
    }

    #[test]
    fn every_wire_type_is_walked_over() {
        let message = [
            0x08, 0x96, 0x01, // 1: varint 150
            0x11, 1, 2, 3, 4, 5, 6, 7, 8, // 2: eight bytes
            0x1a, 2, b'h', b'i', // 3: two bytes
            0x25, 1, 2, 3, 4, // 4: four bytes
        ];
        let expected = [
            (1, Value::Varint(150)),
            (2, Value::Fixed),
            (3, Value::Bytes(b"hi")),
            (4, Value::Fixed),
        ];
        assert_eq!(all(&message).unwrap(), expected);
    }

    #[test]
    fn a_cut_value_is_the_last() {
        assert_eq!(all(&[0x0a, 5, b'a', b'b']).unwrap(), [(1, Value::Cut(b"ab"))]);
    }

    #[test]
    fn malformed_fields_end_the_walk() {
        let bad: [&[u8]; 8] = [
            &[0x80],                                                             // a key with no end
            &[0x00, 0x00],                                                       // field number 0
            &[0x0b, 0x0c],                                                       // a group
            &[0x0f, 0x00], // no such wire type
            &[0x08],       // no varint
            &[0x08, 0x80, 0x80, 0x80, 0x80, 0x80, 0x80, 0x80, 0x80, 0x80, 0x02], // above 64 bits
            &[0x09, 1, 2, 3], // eight bytes cut
            &[0x80, 0x80, 0x80, 0x80, 0x10, 0x00], // a field number above 2^29
        ];
        for message in bad {
            assert!(all(message).is_err(), "{message:02x?}");
            assert_eq!(fields(message).count(), 1, "{message:02x?}");
        }
    }
}
