//! The text of an enrollment token, `rb_<id>_<secret>`, and what is kept of it.

use aws_lc_rs::{constant_time, digest as sha};
use secrecy::SecretString;

/// SHA-256 of a token's secret: all that is kept of it.
pub type Digest = [u8; 32];

/// Characters of an id.
pub const ID_LENGTH: usize = 10;
/// Characters of a secret: 27 of base62 hold 160.7 bits.
pub const SECRET_LENGTH: usize = 27;

const BASE62: &[u8; 62] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789";

/// A token as it was presented.
pub struct Presented<'a> {
    /// The id in it, where it has the form of a token that the broker made.
    pub id: Option<&'a str>,
    /// Of its secret, or of all of it where it has another form.
    pub digest: Digest,
}

impl<'a> Presented<'a> {
    /// Takes what someone presented, whatever it is.
    #[must_use]
    pub fn of(text: &'a str) -> Self {
        let parts = text
            .strip_prefix("rb_")
            .and_then(|rest| rest.split_once('_'))
            .filter(|(id, secret)| id.len() == ID_LENGTH && secret.len() == SECRET_LENGTH);
        match parts {
            Some((id, secret)) => Self { id: Some(id), digest: digest(secret.as_bytes()) },
            None => Self { id: None, digest: digest(text.as_bytes()) },
        }
    }
}

/// The text that runners present.
#[must_use]
pub fn compose(id: &str, secret: &str) -> SecretString {
    format!("rb_{id}_{secret}").into()
}

/// A new id, of random bytes. It begins with a capital letter, which the name of a declared token never
/// does.
pub fn new_id(mut random: impl FnMut() -> u8) -> String {
    let first = uniform(&BASE62[..26], &mut random);
    std::iter::once(first).chain((1..ID_LENGTH).map(|_| uniform(BASE62, &mut random))).collect()
}

/// A new secret, of random bytes.
pub fn new_secret(mut random: impl FnMut() -> u8) -> String {
    (0..SECRET_LENGTH).map(|_| uniform(BASE62, &mut random)).collect()
}

/// Compares two secrets in a time that depends on the presented one's length alone.
#[must_use]
pub fn secrets_match(kept: &[u8], presented: &[u8]) -> bool {
    constant_time::verify_slices_are_equal(kept, presented).is_ok()
}

/// SHA-256.
#[must_use]
pub fn digest(text: &[u8]) -> Digest {
    let mut digest = [0; 32];
    digest.copy_from_slice(sha::digest(&sha::SHA256, text).as_ref());
    digest
}

/// Each character is as likely as the others: bytes beyond the last whole round are thrown away.
fn uniform(alphabet: &[u8], random: &mut impl FnMut() -> u8) -> char {
    let rounds = 256 / alphabet.len() * alphabet.len();
    loop {
        let byte = usize::from(random());
        if byte < rounds {
            return char::from(alphabet[byte % alphabet.len()]);
        }
    }
}

#[cfg(test)]
mod tests {
    use secrecy::ExposeSecret;

    use super::*;

    #[test]
    fn what_is_composed_is_taken_apart() {
        let mut next = 0_u8;
        let mut count = || {
            next = next.wrapping_add(41);
            next
        };
        let (id, secret) = (new_id(&mut count), new_secret(&mut count));
        assert_eq!((id.len(), secret.len()), (ID_LENGTH, SECRET_LENGTH));
        assert!(id.starts_with(|c: char| c.is_ascii_uppercase()));
        let text = compose(&id, &secret);
        let presented = Presented::of(text.expose_secret());
        assert_eq!(presented.id, Some(id.as_str()));
        assert_eq!(presented.digest, digest(secret.as_bytes()));
    }

    #[test]
    fn any_other_form_is_one_secret() {
        for text in ["", "x", "rb_", "rb_a_b", "rb__", "rb_ABCDEFGHIJ_short"] {
            let presented = Presented::of(text);
            assert_eq!(presented.id, None);
            assert_eq!(presented.digest, digest(text.as_bytes()));
        }
    }

    #[test]
    fn every_character_is_as_likely() {
        let mut counts = std::collections::BTreeMap::new();
        for byte in 0..=255 {
            let mut bytes = [byte, 0].into_iter();
            *counts.entry(uniform(BASE62, &mut || bytes.next().unwrap())).or_insert(0) += 1;
        }
        // The eight bytes that are thrown away fall to the byte after them here.
        let first = counts.remove(&'A').unwrap();
        assert_eq!(first, 4 + 8);
        assert!(counts.len() == 61 && counts.values().all(|count| *count == 4));
    }
}
