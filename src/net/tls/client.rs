//! Whom the broker trusts when it dials Gitea over TLS, and what it shows there.

use std::fmt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use arc_swap::ArcSwap;
use hyper::http::uri::Scheme;
use rustls::client::ResolvesClientCert;
use rustls::crypto::aws_lc_rs;
use rustls::pki_types::CertificateDer;
use rustls::pki_types::pem::{self, PemObject};
use rustls::sign::CertifiedKey;
use rustls::{ClientConfig, RootCertStore, SignatureScheme};

use super::certificates::{Name, sentence};
use super::files::Files;
use crate::config;

/// Why TLS towards Gitea cannot be set up.
#[derive(Debug, thiserror::Error)]
pub enum TlsError {
    /// The file cannot be read, or is not PEM.
    #[error("gitea.ca_file {path}: {source}; it must be a readable PEM file of certificates")]
    CaFile {
        /// As set.
        path: PathBuf,
        /// What went wrong.
        source: pem::Error,
    },
    /// The file was read and holds no certificate.
    #[error("gitea.ca_file {0} holds no certificate (-----BEGIN CERTIFICATE-----)")]
    NoCertificate(PathBuf),
    /// The file holds a certificate that cannot be an authority.
    #[error("gitea.ca_file {path} holds a certificate that is no use as an authority: {source}")]
    BadCertificate {
        /// As set.
        path: PathBuf,
        /// What went wrong.
        source: rustls::Error,
    },
    /// The system has no list of authorities.
    #[error(
        "gitea.url is https, and this system has no list of trusted authorities: \
         install ca-certificates or set gitea.ca_file{}", because(.0)
    )]
    NoSystemRoots(Vec<rustls_native_certs::Error>),
    /// The certificate that is to be shown to Gitea is no use.
    #[error("{0}")]
    ClientCertificate(String),
    /// The crypto provider refuses the protocol versions.
    #[error("TLS cannot be set up: {0}")]
    Provider(#[from] rustls::Error),
}

/// The certificate that is shown to Gitea at the moment. Connections that are open keep what they were made
/// with.
pub(crate) struct Shown(ArcSwap<CertifiedKey>);

impl Shown {
    /// One that shows this.
    pub(super) fn new(key: Arc<CertifiedKey>) -> Arc<Self> {
        Arc::new(Self(ArcSwap::new(key)))
    }

    /// From now on it shows this.
    pub(super) fn set(&self, key: Arc<CertifiedKey>) {
        self.0.store(key);
    }
}

impl ResolvesClientCert for Shown {
    fn resolve(&self, _: &[&[u8]], schemes: &[SignatureScheme]) -> Option<Arc<CertifiedKey>> {
        let key = self.0.load_full();
        key.key.choose_scheme(schemes).is_some().then_some(key)
    }

    fn has_certs(&self) -> bool {
        true
    }
}

impl fmt::Debug for Shown {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Shown")
    }
}

/// The client's side of TLS, with the certificate that the settings name.
pub fn client_config(gitea: &config::Gitea) -> Result<ClientConfig, TlsError> {
    let shown = match &gitea.client {
        Some(pair) if is_https(gitea) => {
            let files = Files::read(pair, None);
            let identity = files
                .and_then(|files| files.identity())
                .map_err(|wrong| TlsError::ClientCertificate(sentence(Name::Gitea, wrong)))?;
            Some(Shown::new(identity.key))
        }
        _ => None,
    };
    client_config_showing(gitea, shown)
}

/// The client's side of TLS: the system's authorities, or those of `gitea.ca_file` alone. Where
/// Gitea's address is plain http nothing is loaded, so that an image without authorities will do.
pub(crate) fn client_config_showing(
    gitea: &config::Gitea,
    shown: Option<Arc<Shown>>,
) -> Result<ClientConfig, TlsError> {
    let roots = match &gitea.ca_file {
        _ if !is_https(gitea) => RootCertStore::empty(),
        Some(path) => roots_of_file(path)?,
        None => roots_of_system()?,
    };
    let builder = ClientConfig::builder_with_provider(Arc::new(aws_lc_rs::default_provider()))
        .with_safe_default_protocol_versions()?
        .with_root_certificates(roots);
    Ok(match shown {
        Some(shown) => builder.with_client_cert_resolver(shown),
        None => builder.with_no_client_auth(),
    })
}

/// Whether TLS is spoken with Gitea at all.
pub(crate) fn is_https(gitea: &config::Gitea) -> bool {
    gitea.url.scheme() == Some(&Scheme::HTTPS)
}

fn roots_of_file(path: &Path) -> Result<RootCertStore, TlsError> {
    let unreadable = |source| TlsError::CaFile { path: path.into(), source };
    let mut roots = RootCertStore::empty();
    for certificate in CertificateDer::pem_file_iter(path).map_err(unreadable)? {
        roots
            .add(certificate.map_err(unreadable)?)
            .map_err(|source| TlsError::BadCertificate { path: path.into(), source })?;
    }
    if roots.is_empty() { Err(TlsError::NoCertificate(path.into())) } else { Ok(roots) }
}

fn roots_of_system() -> Result<RootCertStore, TlsError> {
    let found = rustls_native_certs::load_native_certs();
    let mut roots = RootCertStore::empty();
    roots.add_parsable_certificates(found.certs);
    if roots.is_empty() { Err(TlsError::NoSystemRoots(found.errors)) } else { Ok(roots) }
}

fn because(errors: &[rustls_native_certs::Error]) -> String {
    errors.iter().map(|error| format!("; {error}")).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn gitea(url: &str, ca_file: Option<&Path>) -> config::Gitea {
        config::Gitea {
            url: url.parse().unwrap(),
            default: config::Served {
                section: "gitea".into(),
                scope: config::Scope::Instance,
                registration_token: None,
                api_token: None,
            },
            further: Vec::new(),
            ca_file: ca_file.map(Into::into),
            client: None,
            lost_wakeup_workaround: true,
        }
    }

    #[test]
    fn says_what_is_wrong_with_the_file() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("ca.pem");
        let refusal = || {
            client_config(&gitea("https://gitea", Some(&path)))
                .expect_err("no usable file")
                .to_string()
        };
        assert!(refusal().contains("readable PEM file"), "{}", refusal());
        std::fs::write(&path, "nothing").unwrap();
        assert!(refusal().contains("holds no certificate"), "{}", refusal());
        let junk = "-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n";
        std::fs::write(&path, junk).unwrap();
        assert!(refusal().contains("no use as an authority"), "{}", refusal());
    }

    #[test]
    fn plain_http_needs_no_authorities() {
        assert!(client_config(&gitea("http://gitea", Some(Path::new("/missing")))).is_ok());
    }
}
