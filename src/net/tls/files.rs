//! The files of a certificate: read, and looked at before anything is done with them.

use std::fs::File;
use std::io::Read;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use rustls::crypto::aws_lc_rs;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::sign::CertifiedKey;
use rustls::{InconsistentKeys, RootCertStore};
use zeroize::{Zeroize, Zeroizing};

use super::expiry::Validity;
use crate::broker::secret::{Digest, digest};
use crate::config::{Pair, unreadable};

/// No chain and no list of authorities for clients is longer.
const LIMIT: u64 = 1024 * 1024;

/// Which of the files.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Part {
    Cert,
    Key,
    ClientCa,
}

/// What is wrong with one of the files, and what to do. The message names the file.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Wrong {
    pub(crate) part: Part,
    pub(crate) message: String,
}

/// What the files hold, as it was read.
pub(crate) struct Files {
    pair: Pair,
    client_ca: Option<PathBuf>,
    cert_pem: Vec<u8>,
    key_pem: Zeroizing<Vec<u8>>,
    client_ca_pem: Option<Vec<u8>>,
}

/// A certificate with its key, ready to be shown.
pub(crate) struct Identity {
    pub(crate) key: Arc<CertifiedKey>,
    pub(crate) validity: Validity,
}

impl Files {
    /// Reads all of them.
    ///
    /// # Errors
    /// Each that cannot be read.
    pub(crate) fn read(pair: &Pair, client_ca: Option<&Path>) -> Result<Self, Vec<Wrong>> {
        let mut wrong = Vec::new();
        let mut take = |part, path: &Path| {
            read(path).unwrap_or_else(|message| {
                wrong.push(Wrong { part, message });
                Zeroizing::default()
            })
        };
        let mut cert = take(Part::Cert, &pair.cert);
        let files = Self {
            cert_pem: std::mem::take(&mut cert),
            key_pem: take(Part::Key, &pair.key),
            client_ca_pem: client_ca.map(|path| std::mem::take(&mut *take(Part::ClientCa, path))),
            pair: pair.clone(),
            client_ca: client_ca.map(Into::into),
        };
        if wrong.is_empty() { Ok(files) } else { Err(wrong) }
    }

    /// Tells these contents from others.
    pub(crate) fn digest(&self) -> Digest {
        let parts = [&self.cert_pem, &*self.key_pem, self.client_ca_pem.as_deref().unwrap_or(&[])];
        digest(&parts.map(digest).concat())
    }

    /// The certificate with its key.
    ///
    /// # Errors
    /// All that is wrong with the two.
    pub(crate) fn identity(&self) -> Result<Identity, Vec<Wrong>> {
        let chain = certificates(&self.pair.cert, &self.cert_pem);
        let chain = chain.and_then(|chain| Ok((validity(&self.pair.cert, &chain)?, chain)));
        let chain = chain.map_err(|message| Wrong { part: Part::Cert, message });
        let key = self.key().map_err(|message| Wrong { part: Part::Key, message });
        let ((validity, chain), key) = match (chain, key) {
            (Ok(chain), Ok(key)) => (chain, key),
            (chain, key) => return Err(chain.err().into_iter().chain(key.err()).collect()),
        };
        let key = CertifiedKey::new(chain, key);
        match key.keys_match() {
            // Where that cannot be told, the first handshake tells.
            Ok(()) | Err(rustls::Error::InconsistentKeys(InconsistentKeys::Unknown)) => {
                Ok(Identity { key: Arc::new(key), validity })
            }
            Err(_) => Err(vec![Wrong {
                part: Part::Key,
                message: format!(
                    "{} does not belong to the certificate in {}: give the two that were made for each \
                     other",
                    self.pair.key.display(),
                    self.pair.cert.display()
                ),
            }]),
        }
    }

    /// The authorities of clients, where there is a file of them.
    ///
    /// # Errors
    /// What is wrong with it.
    pub(crate) fn client_roots(&self) -> Result<Option<RootCertStore>, Wrong> {
        let (Some(path), Some(pem)) = (&self.client_ca, &self.client_ca_pem) else {
            return Ok(None);
        };
        let wrong = |message| Wrong { part: Part::ClientCa, message };
        let mut roots = RootCertStore::empty();
        for certificate in certificates(path, pem).map_err(wrong)? {
            roots.add(certificate).map_err(|error| {
                wrong(format!(
                    "{} holds a certificate that is no use as an authority ({error}): give the \
                     certificates of those who sign the clients'",
                    path.display()
                ))
            })?;
        }
        Ok(Some(roots))
    }

    fn key(&self) -> Result<Arc<dyn rustls::sign::SigningKey>, String> {
        let path = self.pair.key.display();
        if self.key_pem.windows(ENCRYPTED.len()).any(|at| at == ENCRYPTED) {
            return Err(format!(
                "{path} is encrypted, and nobody can type its passphrase: write it out without one, \
                 openssl pkey -in {path} -out NEW"
            ));
        }
        let mut der = PrivateKeyDer::from_pem_slice(&self.key_pem).map_err(|_| {
            format!(
                "{path} holds no private key that can be read: give a PEM file (-----BEGIN PRIVATE \
                 KEY-----)"
            )
        })?;
        let key = aws_lc_rs::sign::any_supported_type(&der).map_err(|_| {
            format!(
                "{path} holds a key of a kind that is not taken: give an ECDSA, Ed25519 or RSA key"
            )
        });
        der.zeroize();
        key
    }
}

const ENCRYPTED: &[u8] = b"ENCRYPTED";

fn read(path: &Path) -> Result<Zeroizing<Vec<u8>>, String> {
    let unread = |error| unreadable(path, &error);
    let mut file = File::open(path).map_err(unread)?;
    // Room for all of it at once: a buffer that grows leaves copies behind.
    let length = file.metadata().map_err(unread)?.len().min(LIMIT);
    let mut bytes = Zeroizing::new(Vec::with_capacity(usize::try_from(length).unwrap_or(0) + 1));
    file.by_ref().take(LIMIT + 1).read_to_end(&mut bytes).map_err(unread)?;
    if bytes.len() as u64 > LIMIT {
        return Err(format!("{} is longer than 1 MiB: name the right file", path.display()));
    }
    Ok(bytes)
}

/// At least one.
fn certificates(path: &Path, pem: &[u8]) -> Result<Vec<CertificateDer<'static>>, String> {
    match CertificateDer::pem_slice_iter(pem).collect::<Result<Vec<_>, _>>() {
        Ok(found) if !found.is_empty() => Ok(found),
        _ => Err(format!(
            "{} holds no certificate that can be read: give a PEM file (-----BEGIN CERTIFICATE-----)",
            path.display()
        )),
    }
}

fn validity(path: &Path, chain: &[CertificateDer<'_>]) -> Result<Validity, String> {
    chain.first().and_then(|leaf| Validity::of(leaf)).ok_or_else(|| {
        format!("{} begins with something that is no X.509 certificate: give one", path.display())
    })
}

#[cfg(test)]
mod tests {
    use rcgen::generate_simple_self_signed;
    use tempfile::TempDir;

    use super::*;

    /// Files with these contents.
    fn files(folder: &TempDir, cert: &str, key: &str, client_ca: Option<&str>) -> Files {
        let write = |name: &str, text: &str| {
            let path = folder.path().join(name);
            std::fs::write(&path, text).unwrap();
            path
        };
        let pair = Pair { cert: write("cert", cert), key: write("key", key) };
        let client_ca = client_ca.map(|text| write("client_ca", text));
        Files::read(&pair, client_ca.as_deref()).unwrap()
    }

    fn said(wrong: Vec<Wrong>, folder: &TempDir) -> Vec<(Part, String)> {
        let folder = format!("{}/", folder.path().display());
        wrong.into_iter().map(|it| (it.part, it.message.replace(&folder, ""))).collect()
    }

    #[test]
    fn all_that_is_wrong_is_told_at_once() {
        let folder = tempfile::tempdir().unwrap();
        let wrong = files(&folder, "", "nothing", None).identity().err().unwrap();
        let said = said(wrong, &folder);
        assert_eq!(said.len(), 2, "{said:?}");
        assert_eq!(said[0].0, Part::Cert);
        assert!(said[0].1.starts_with("cert holds no certificate"), "{said:?}");
        assert_eq!(said[1].0, Part::Key);
        assert!(said[1].1.starts_with("key holds no private key"), "{said:?}");
        let missing = |name| folder.path().join(name);
        let pair = Pair { cert: missing("a"), key: missing("b") };
        let wrong = Files::read(&pair, Some(&missing("c"))).err().unwrap();
        let parts: Vec<_> = wrong.iter().map(|it| it.part).collect();
        assert_eq!(parts, [Part::Cert, Part::Key, Part::ClientCa]);
        assert!(wrong.iter().all(|it| it.message.contains("is missing; make it")), "{wrong:?}");
    }

    #[test]
    fn a_key_must_fit_and_be_plain() {
        let folder = tempfile::tempdir().unwrap();
        let [one, other] =
            ["a", "b"].map(|name| generate_simple_self_signed([name.into()]).unwrap());
        let good = files(&folder, &one.cert.pem(), &one.signing_key.serialize_pem(), None);
        assert!(good.identity().is_ok());
        let crossed = files(&folder, &one.cert.pem(), &other.signing_key.serialize_pem(), None);
        assert_ne!(good.digest(), crossed.digest());
        let said_of = said(crossed.identity().err().unwrap(), &folder);
        assert_eq!(said_of[0].0, Part::Key);
        assert!(said_of[0].1.starts_with("key does not belong to the certificate in cert"));
        let locked =
            "-----BEGIN ENCRYPTED PRIVATE KEY-----\nAAAA\n-----END ENCRYPTED PRIVATE KEY-----";
        let locked = files(&folder, &one.cert.pem(), locked, None);
        assert!(
            said(locked.identity().err().unwrap(), &folder)[0].1.starts_with("key is encrypted")
        );
        let kind = "-----BEGIN PRIVATE KEY-----\nAAAA\n-----END PRIVATE KEY-----";
        let kind = files(&folder, &one.cert.pem(), kind, None);
        assert!(said(kind.identity().err().unwrap(), &folder)[0].1.contains("not taken"));
    }

    #[test]
    fn authorities_are_certificates_of_authorities() {
        let folder = tempfile::tempdir().unwrap();
        let of = |text: Option<&str>| files(&folder, "", "", text).client_roots();
        assert!(of(None).unwrap().is_none());
        let made = generate_simple_self_signed(["a".into()]).unwrap();
        assert_eq!(of(Some(&made.cert.pem())).unwrap().unwrap().len(), 1);
        let none = of(Some("")).err().unwrap();
        assert_eq!(none.part, Part::ClientCa);
        assert!(none.message.contains("holds no certificate"), "{none:?}");
        let junk = "-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n";
        let junk = of(Some(junk)).err().unwrap();
        assert!(junk.message.contains("no use as an authority"), "{junk:?}");
    }
}
