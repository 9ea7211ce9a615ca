//! Readers of the targets' own, written anew and as plainly as can be: what the broker makes of a body is
//! compared with what these see in it.

use std::ops::Range;

use runner_broker::connect::Codec;

/// The codec that a target's first byte chooses.
pub fn codec(choice: u8) -> Codec {
    if choice & 1 == 0 { Codec::Proto } else { Codec::Json }
}

/// A field of a protobuf message.
pub struct Field<'a> {
    pub number: u64,
    /// 0: a number, 1 and 5: fixed, 2: bytes.
    pub kind: u64,
    /// Key and value.
    pub raw: &'a [u8],
    /// What is between them, of bytes.
    pub bytes: &'a [u8],
}

/// All fields; `None` where it is no message, or has groups.
pub fn fields(message: &[u8]) -> Option<Vec<Field<'_>>> {
    let mut fields = Vec::new();
    let mut at = 0;
    while at < message.len() {
        let start = at;
        let key = varint(message, &mut at)?;
        let (number, kind) = (key >> 3, key & 7);
        if number == 0 || key > u64::from(u32::MAX) {
            return None;
        }
        let length = match kind {
            0 => varint(message, &mut at).map(|_| 0)?,
            1 => 8,
            2 => usize::try_from(varint(message, &mut at)?).ok()?,
            5 => 4,
            _ => return None,
        };
        let bytes = message.get(at..at.checked_add(length)?)?;
        at += length;
        fields.push(Field { number, kind, raw: &message[start..at], bytes });
    }
    Some(fields)
}

fn varint(message: &[u8], at: &mut usize) -> Option<u64> {
    let mut value = 0_u64;
    for shift in 0..10 {
        let byte = *message.get(*at)?;
        *at += 1;
        if shift == 9 && byte > 1 {
            return None;
        }
        value |= u64::from(byte & 0x7f) << (7 * shift);
        if byte & 0x80 == 0 {
            return Some(value);
        }
    }
    None
}

/// A field of bytes as it is written.
pub fn field(number: u64, bytes: &[u8]) -> Vec<u8> {
    let mut out = Vec::new();
    for mut value in [number << 3 | 2, bytes.len() as u64] {
        while value > 0x7f {
            out.push(u8::try_from(value & 0x7f).expect("seven bits") | 0x80);
            value >>= 7;
        }
        out.push(u8::try_from(value).expect("seven bits"));
    }
    [out, bytes.to_vec()].concat()
}

/// The members of a JSON object, or the elements of an array, by where their values lie in the text, which
/// is known to be JSON. An element has no name.
pub fn parts(json: &str) -> Vec<(String, Range<usize>)> {
    let bytes = json.as_bytes();
    let space = |mut at: usize| {
        while bytes[at].is_ascii_whitespace() {
            at += 1;
        }
        at
    };
    let mut parts = Vec::new();
    let open = space(0);
    let mut at = space(open + 1);
    while !matches!(bytes[at], b'}' | b']') {
        let mut name = String::new();
        if bytes[open] == b'{' {
            let end = value(bytes, at);
            name = serde_json::from_str(&json[at..end]).unwrap_or_default();
            at = space(space(end) + 1);
        }
        let end = value(bytes, at);
        parts.push((name, at..end));
        at = space(end);
        if bytes[at] == b',' {
            at = space(at + 1);
        }
    }
    parts
}

/// Where a value ends that begins here.
fn value(json: &[u8], start: usize) -> usize {
    let mut depth = 0;
    let mut at = start;
    loop {
        match json.get(at) {
            Some(b'"') => {
                at += 1;
                while json[at] != b'"' {
                    at += if json[at] == b'\\' { 2 } else { 1 };
                }
            }
            Some(b'{' | b'[') => depth += 1,
            Some(b'}' | b']') if depth == 0 => return at,
            Some(b'}' | b']') => depth -= 1,
            Some(b',' | b':' | b' ' | b'\t' | b'\r' | b'\n') if depth == 0 => return at,
            Some(_) => {}
            None => return at,
        }
        at += 1;
        if depth == 0 && matches!(json[at - 1], b'"' | b'}' | b']') {
            return at;
        }
    }
}

/// Where the value of the only member of this name lies.
pub fn member(json: &str, name: &str) -> Option<Range<usize>> {
    let mut found = parts(json).into_iter().filter(|(other, _)| other == name);
    let (_, range) = found.next()?;
    assert!(found.next().is_none(), "there are two {name}");
    Some(range)
}
