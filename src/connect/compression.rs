//! Compression of bodies: which one they have, and how it is undone within bounds.

use std::io::{Read, Write};

use flate2::Compression;
use flate2::bufread::MultiGzDecoder;
use flate2::write::GzEncoder;
use hyper::header::HeaderValue;

use super::error::{Code, ConnectError};

/// How a body is compressed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Encoding {
    /// Not at all.
    Identity,
    /// As a `.gz` file.
    Gzip,
}

impl Encoding {
    /// Reads a `Content-Encoding`; absent and empty mean not compressed.
    ///
    /// # Errors
    /// `unimplemented` for an encoding that neither the broker nor Gitea reads.
    pub fn from_header(value: Option<&HeaderValue>) -> Result<Self, ConnectError> {
        let name = value.map(HeaderValue::as_bytes).unwrap_or_default().trim_ascii();
        if name.is_empty() || name.eq_ignore_ascii_case(b"identity") {
            return Ok(Self::Identity);
        }
        if name.eq_ignore_ascii_case(b"gzip") {
            return Ok(Self::Gzip);
        }
        let shown: String = String::from_utf8_lossy(name).chars().take(32).collect();
        Err(ConnectError::new(
            Code::Unimplemented,
            format!("unknown compression {shown:?}: supported encodings are gzip"),
        ))
    }
}

/// Decompresses a body of one or more gzip members. An empty body is an empty message, as it is to Gitea.
///
/// # Errors
/// `resource_exhausted` as soon as more than `limit` bytes come out, of which no more are kept;
/// `invalid_argument` where the body is cut, damaged, or followed by something else.
pub fn gunzip(body: &[u8], limit: usize) -> Result<Vec<u8>, ConnectError> {
    let mut out = Vec::new();
    if body.is_empty() {
        return Ok(out);
    }
    let mut decoder = MultiGzDecoder::new(body);
    let mut buffer = [0; 8 * 1024];
    loop {
        let count = decoder.read(&mut buffer).map_err(|_| malformed_gzip())?;
        if count == 0 {
            return Ok(out);
        }
        let needed = out.len() + count;
        if needed > limit {
            return Err(too_large(limit));
        }
        if needed > out.capacity() {
            // Doubling, as a Vec does by itself, but never past the limit.
            let capacity = out.capacity().saturating_mul(2).clamp(needed, limit);
            out.reserve_exact(capacity - out.len());
        }
        out.extend_from_slice(&buffer[..count]);
    }
}

/// Compresses a body.
#[must_use]
pub fn gzip(body: &[u8]) -> Vec<u8> {
    let mut encoder = GzEncoder::new(Vec::new(), Compression::default());
    encoder
        .write_all(body)
        .and_then(|()| encoder.finish())
        .expect("writing to memory does not fail")
}

fn malformed_gzip() -> ConnectError {
    ConnectError::new(
        Code::InvalidArgument,
        "the body is not valid gzip, though its Content-Encoding says so",
    )
}

fn too_large(limit: usize) -> ConnectError {
    ConnectError::new(
        Code::ResourceExhausted,
        format!("the body is larger than {limit} bytes when it is decompressed"),
    )
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::connect::recorded::{Exchange, exchange};

    const LIMIT: usize = 1 << 20;

    fn encoding(name: &'static str) -> Result<Encoding, ConnectError> {
        Encoding::from_header(Some(&HeaderValue::from_static(name)))
    }

    #[test]
    fn encodings_are_told_apart() {
        assert_eq!(Encoding::from_header(None), Ok(Encoding::Identity));
        assert_eq!(encoding("identity"), Ok(Encoding::Identity));
        assert_eq!(encoding("GZip"), Ok(Encoding::Gzip));
        assert_eq!(encoding("gzip, gzip").unwrap_err().code, Code::Unimplemented);
    }

    #[test]
    fn an_unknown_encoding_is_refused_as_gitea_refuses_it() {
        let Exchange { request, response } = exchange("register-encoding-unknown");
        let error = Encoding::from_header(request.header("Content-Encoding").as_ref()).unwrap_err();
        assert_eq!(error.to_json(), response.body());
        assert_eq!(error.code.http_status(), response.status());
    }

    #[test]
    fn recorded_garbage_is_refused_as_gitea_refuses_it() {
        let Exchange { request, response } = exchange("register-gzip-garbage");
        let error = gunzip(&request.body(), LIMIT).unwrap_err();
        assert_eq!(error.code.http_status(), response.status());
    }

    #[test]
    fn a_bomb_is_refused_at_the_limit() {
        let bomb = gzip(&vec![0; 8 << 20]);
        assert!(bomb.len() < LIMIT);
        let error = gunzip(&bomb, LIMIT).unwrap_err();
        assert_eq!(error.code, Code::ResourceExhausted);
        assert!(error.message.contains("1048576 bytes"), "{error}");
    }

    #[test]
    fn the_limit_itself_is_allowed() {
        let body = gzip(&[7; 1000]);
        assert_eq!(gunzip(&body, 1000).unwrap(), [7; 1000]);
        assert!(gunzip(&body, 999).is_err());
    }

    #[test]
    fn members_are_joined() {
        let body = [gzip(b"one "), gzip(b""), gzip(b"two")].concat();
        assert_eq!(gunzip(&body, LIMIT).unwrap(), b"one two");
    }

    #[test]
    fn garbage_after_the_last_member_is_refused() {
        for garbage in [&b"\0"[..], b"x", b"\x1f", b"\x1f\x8b", b"garbage and more of it"] {
            let body = [&gzip(b"one")[..], garbage].concat();
            let error = gunzip(&body, LIMIT).unwrap_err();
            assert_eq!(error.code, Code::InvalidArgument, "{garbage:?}");
        }
    }

    #[test]
    fn a_cut_or_damaged_body_is_refused() {
        let mut body = gzip(b"some text");
        for end in 1..body.len() {
            assert!(gunzip(&body[..end], LIMIT).is_err(), "cut at {end}");
        }
        let checksum = body.len() - 8;
        body[checksum] ^= 1;
        assert!(gunzip(&body, LIMIT).is_err());
    }

    #[test]
    fn an_empty_body_needs_no_gzip() {
        assert_eq!(gunzip(b"", LIMIT).unwrap(), b"");
    }

    proptest! {
        #[test]
        fn gunzip_undoes_gzip(body in proptest::collection::vec(any::<u8>(), 0..20_000)) {
            prop_assert_eq!(gunzip(&gzip(&body), body.len()).unwrap(), body);
        }

        #[test]
        fn gunzip_is_bounded(size in 0_usize..100_000, limit in 0_usize..100_000) {
            let out = gunzip(&gzip(&vec![1; size]), limit);
            match out {
                Ok(out) => {
                    prop_assert!(size <= limit);
                    prop_assert!(out.capacity() <= limit);
                }
                Err(error) => {
                    prop_assert!(size > limit);
                    prop_assert_eq!(error.code, Code::ResourceExhausted);
                }
            }
        }

        #[test]
        fn nothing_panics(body in proptest::collection::vec(any::<u8>(), 0..200)) {
            let _ = gunzip(&body, 100);
        }
    }
}
