//! Certificates that the broker shows: the settings that name their files, and whether the files are right.

use std::path::PathBuf;
use std::time::SystemTime;

use super::reader::Reader;
use super::{Gitea, Pair, Tls, secret};
use crate::net::tls::{Files, Name, Part, Wrong, expiry, is_https, server_config};

/// The files that a listener's section names, unread; `None` where it has none, or too few.
pub(super) fn listener(reader: &mut Reader, name: Name) -> Option<Tls> {
    let pair = pair(reader, name);
    let key = name.key(Part::ClientCa);
    let client_ca: Option<PathBuf> = reader.optional(key);
    let named = [Part::Cert, Part::Key].map(|part| is_named(reader, name.key(part)));
    if client_ca.is_some() && named == [false, false] {
        let message = format!(
            "is of no use without a certificate of the broker's own: set {} and {} too",
            name.key(Part::Cert),
            name.key(Part::Key)
        );
        let origin = reader.origin(key);
        reader.problem(key, &origin, message);
    }
    Some(Tls { pair: pair?, client_ca })
}

/// The certificate and its key, of which none is there without the other.
pub(super) fn pair(reader: &mut Reader, name: Name) -> Option<Pair> {
    let keys = [Part::Cert, Part::Key].map(|part| name.key(part));
    let values: [Option<PathBuf>; 2] = keys.map(|key| reader.optional(key));
    let named = keys.map(|key| is_named(reader, key));
    for (at, other, what) in [(0, 1, "private key"), (1, 0, "certificate")] {
        if named[at] && !named[other] {
            let message = format!("is of no use without its {what}: set {} too", keys[other]);
            let origin = reader.origin(keys[at]);
            reader.problem(keys[at], &origin, message);
        }
    }
    let [cert, key] = values;
    cert.zip(key).map(|(cert, key)| Pair { cert, key })
}

/// Whether a key is given, be it wrong.
fn is_named(reader: &Reader, key: &str) -> bool {
    let used = |used: &super::Used| used.key == key && used.origin != "default";
    reader.used.iter().any(used) || reader.problems.iter().any(|problem| problem.key == key)
}

/// Reads and checks a listener's files, and notes what is wrong and what is a risk.
pub(super) fn check_listener(reader: &mut Reader, name: Name, tls: &Tls) {
    let files = Files::read(&tls.pair, tls.client_ca.as_deref());
    let validity = files.and_then(|files| server_config(&files).map(|(_, validity)| validity));
    match validity {
        Ok(validity) => warn(reader, name, &tls.pair, expiry(validity, SystemTime::now())),
        Err(wrong) => note(reader, name, wrong),
    }
}

/// The same for what is shown to Gitea.
pub(super) fn check_gitea(reader: &mut Reader, gitea: &Gitea) {
    const NAME: Name = Name::Gitea;
    let Some(pair) = &gitea.client else { return };
    if !is_https(gitea) {
        let message = "is shown over https alone, and gitea.url is http://: it is not used";
        reader.warn(NAME.key(Part::Cert), message);
    }
    match Files::read(pair, None).and_then(|files| files.identity()) {
        Ok(identity) => warn(reader, NAME, pair, expiry(identity.validity, SystemTime::now())),
        Err(wrong) => note(reader, NAME, wrong),
    }
}

fn note(reader: &mut Reader, name: Name, wrong: Vec<Wrong>) {
    for Wrong { part, message } in wrong {
        let key = name.key(part);
        let origin = reader.origin(key);
        reader.problem(key, &origin, message);
    }
}

fn warn(reader: &mut Reader, name: Name, pair: &Pair, expiry: Option<crate::net::tls::Expiry>) {
    if let Some(expiry) = expiry {
        let message = format!(
            "the certificate in {} {}: put a new one in its place",
            pair.cert.display(),
            expiry.sentence()
        );
        reader.warn(name.key(Part::Cert), &message);
    }
    if let Some(open) = secret::open_to_all(&pair.key) {
        reader.warn(name.key(Part::Key), &open);
    }
}
