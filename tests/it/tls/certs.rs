//! Authorities, what they sign, and clients that trust them.

use std::path::Path;
use std::sync::Arc;

use rcgen::{
    BasicConstraints, CertificateParams, CertifiedIssuer, DnType, ExtendedKeyUsagePurpose, IsCa,
    KeyPair,
};
use runner_broker::sandbox::gitea::Tls;
use rustls::crypto::aws_lc_rs;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName};
use rustls::{ClientConfig, RootCertStore};
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;

use crate::support::Site;

pub(super) struct Authority(CertifiedIssuer<'static, KeyPair>);

/// A certificate with its key, in PEM.
#[derive(Clone)]
pub(super) struct Signed {
    pub(super) cert: String,
    pub(super) key: String,
}

impl Authority {
    pub(super) fn new() -> Self {
        let mut params = CertificateParams::default();
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        params.distinguished_name.push(DnType::CommonName, "authority of the tests");
        Self(CertifiedIssuer::self_signed(params, KeyPair::generate().unwrap()).unwrap())
    }

    pub(super) fn pem(&self) -> String {
        self.0.pem()
    }

    /// For a server or a client of this name.
    pub(super) fn sign(&self, name: &str) -> Signed {
        self.sign_with(name, |_| {})
    }

    pub(super) fn sign_with(
        &self,
        name: &str,
        change: impl FnOnce(&mut CertificateParams),
    ) -> Signed {
        let key = KeyPair::generate().unwrap();
        let mut params = CertificateParams::new([name.to_owned()]).unwrap();
        params.extended_key_usages =
            vec![ExtendedKeyUsagePurpose::ServerAuth, ExtendedKeyUsagePurpose::ClientAuth];
        change(&mut params);
        let cert = params.signed_by(&key, &self.0).unwrap();
        Signed { cert: cert.pem(), key: key.serialize_pem() }
    }
}

impl Signed {
    /// What a listener of this site shows.
    pub(super) fn of(&self, site: Site, section: &str) -> Site {
        let (cert, key) = (format!("{section}.crt"), format!("{section}.key"));
        self.write(&site, &cert, &key);
        let path = |name: &str| site.path(name).to_str().unwrap().to_owned();
        let (cert, key) = (path(&cert), path(&key));
        site.set(&format!("{section}.tls.cert"), &cert).set(&format!("{section}.tls.key"), &key)
    }

    /// One after the other, as they are when they are seen in between.
    pub(super) fn write(&self, site: &Site, cert: &str, key: &str) {
        std::fs::write(site.path(cert), &self.cert).unwrap();
        site.write_secret(key, &self.key);
    }

    /// Both files in a folder.
    pub(super) fn write_into(&self, folder: &Path) {
        std::fs::write(folder.join("tls.crt"), &self.cert).unwrap();
        std::fs::write(folder.join("tls.key"), &self.key).unwrap();
    }

    /// What a stand-in Gitea shows.
    pub(super) fn gitea(&self, http2: bool, client_ca_pem: Option<String>) -> Tls {
        let (certificate_pem, key_pem) = (self.cert.clone(), self.key.clone().into());
        Tls { certificate_pem, key_pem, http2, client_ca_pem }
    }

    pub(super) fn chain(&self) -> Vec<CertificateDer<'static>> {
        CertificateDer::pem_slice_iter(self.cert.as_bytes()).map(Result::unwrap).collect()
    }
}

/// A client that trusts this authority, and names these versions of HTTP.
pub(super) fn trust(pem: &str, alpn: &[&str]) -> ClientConfig {
    client(pem, alpn, rustls::ALL_VERSIONS, None)
}

/// The same, with versions of TLS and a certificate.
pub(super) fn client(
    pem: &str,
    alpn: &[&str],
    versions: &[&'static rustls::SupportedProtocolVersion],
    shown: Option<&Signed>,
) -> ClientConfig {
    let mut roots = RootCertStore::empty();
    for authority in CertificateDer::pem_slice_iter(pem.as_bytes()) {
        roots.add(authority.unwrap()).unwrap();
    }
    let builder = ClientConfig::builder_with_provider(Arc::new(aws_lc_rs::default_provider()))
        .with_protocol_versions(versions)
        .unwrap()
        .with_root_certificates(roots);
    let mut config = match shown {
        None => builder.with_no_client_auth(),
        Some(signed) => {
            let key = PrivateKeyDer::from_pem_slice(signed.key.as_bytes()).unwrap();
            builder.with_client_auth_cert(signed.chain(), key).unwrap()
        }
    };
    config.alpn_protocols = alpn.iter().map(|name| name.as_bytes().to_vec()).collect();
    config
}

/// One connection by TLS to `https://127.0.0.1:port`, or `127.0.0.1:port`.
pub(super) async fn dial(url: &str, config: ClientConfig) -> std::io::Result<TlsStream<TcpStream>> {
    let authority = url.trim_start_matches("https://");
    let stream = TcpStream::connect(authority).await.unwrap();
    let name = ServerName::try_from("127.0.0.1").unwrap();
    TlsConnector::from(Arc::new(config)).connect(name, stream).await
}

/// The certificate that a listener shows to a new connection.
pub(super) async fn shown(url: &str, config: ClientConfig) -> Vec<CertificateDer<'static>> {
    let stream = dial(url, config).await.unwrap();
    let shown = stream.get_ref().1.peer_certificates().unwrap();
    shown.iter().map(|one| one.clone().into_owned()).collect()
}
