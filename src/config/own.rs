//! The broker's own secrets: long, visible, and no two of all secrets the same.

use std::mem;

use secrecy::{ExposeSecret, SecretString};

use super::reader::Reader;
use crate::broker::secrets_match;

/// A secret that someone presents to the broker; `remedy` says how to give one that must be there.
pub(super) fn secret(reader: &mut Reader, key: &str, remedy: Option<&str>) -> Option<SecretString> {
    let secret = reader.secret(key, remedy)?;
    if secret.expose_secret().len() < 32 || !is_visible(&secret) {
        refuse(
            reader,
            key,
            "is not 32 or more visible ASCII characters: make a new one with openssl rand -hex 32",
        );
    }
    Some(secret)
}

/// Refuses each own secret that is another one too. Gitea's tokens are Gitea's to choose.
pub(super) fn distinct(reader: &mut Reader) {
    let (gitea, own): (Vec<_>, Vec<_>) =
        mem::take(&mut reader.secrets).into_iter().partition(|(key, _)| key.starts_with("gitea."));
    for (index, (key, secret)) in own.iter().enumerate() {
        let same = gitea.iter().chain(&own[..index]).find(|(_, other)| same(other, secret));
        if let Some((other, _)) = same {
            let hidden = other.starts_with("gitea.") || other.starts_with("admin.");
            let never = if hidden { ", which runners must never see" } else { "" };
            let message =
                format!("is the same as {other}{never}: make a new one with openssl rand -hex 32");
            refuse(reader, key, &message);
        }
    }
}

/// Notes a problem with a secret under the name by which it was given.
pub(super) fn refuse(reader: &mut Reader, key: &str, message: &str) {
    let file_key = format!("{key}_file");
    let by_file = reader.used.iter().any(|used| used.key == file_key);
    let key = if by_file { &file_key } else { key };
    let origin = reader.origin(key);
    reader.problem(key, &origin, message.into());
}

pub(super) fn same(a: &SecretString, b: &SecretString) -> bool {
    secrets_match(a.expose_secret().as_bytes(), b.expose_secret().as_bytes())
}

pub(super) fn is_visible(secret: &SecretString) -> bool {
    secret.expose_secret().bytes().all(|b| b.is_ascii_graphic())
}
