//! The server's side: what a listener shows, and whom it asks for a certificate.

use std::sync::Arc;

use arc_swap::ArcSwap;
use rustls::ServerConfig;
use rustls::crypto::{CryptoProvider, aws_lc_rs};
use rustls::server::WebPkiClientVerifier;
use rustls::sign::SingleCertAndKey;

use super::expiry::Validity;
use super::files::{Files, Part, Wrong};

/// What a listener shows at the moment. Connections that are open keep what they were made with.
pub(crate) struct Listener(ArcSwap<ServerConfig>);

impl Listener {
    /// One that shows this.
    pub(super) fn new(config: Arc<ServerConfig>) -> Self {
        Self(ArcSwap::new(config))
    }

    /// From now on it shows this.
    pub(super) fn set(&self, config: Arc<ServerConfig>) {
        self.0.store(config);
    }

    /// For one handshake.
    pub(super) fn config(&self) -> Arc<ServerConfig> {
        self.0.load_full()
    }
}

/// TLS 1.2 and 1.3 with these files. Where there are authorities of clients, each client must show a
/// certificate of theirs. What was agreed on by earlier files is not resumed.
///
/// # Errors
/// All that is wrong with the files.
pub(crate) fn server_config(files: &Files) -> Result<(Arc<ServerConfig>, Validity), Vec<Wrong>> {
    let provider = Arc::new(aws_lc_rs::default_provider());
    let (identity, roots) = match (files.identity(), files.client_roots()) {
        (Ok(identity), Ok(roots)) => (identity, roots),
        (identity, roots) => {
            return Err(identity.err().into_iter().flatten().chain(roots.err()).collect());
        }
    };
    let builder = ServerConfig::builder_with_provider(Arc::clone(&provider))
        .with_safe_default_protocol_versions()
        .expect("the provider has what TLS 1.2 and 1.3 need");
    let builder = match roots {
        None => builder.with_no_client_auth(),
        Some(roots) => builder.with_client_cert_verifier(verifier(roots, provider)?),
    };
    let shown = SingleCertAndKey::from(identity.key);
    let mut config = builder.with_cert_resolver(Arc::new(shown));
    config.alpn_protocols = vec![H2.to_vec(), b"http/1.1".to_vec()];
    Ok((Arc::new(config), identity.validity))
}

/// HTTP/2 in ALPN.
pub(super) const H2: &[u8] = b"h2";

fn verifier(
    roots: rustls::RootCertStore,
    provider: Arc<CryptoProvider>,
) -> Result<Arc<dyn rustls::server::danger::ClientCertVerifier>, Vec<Wrong>> {
    let verifier = WebPkiClientVerifier::builder_with_provider(Arc::new(roots), provider).build();
    verifier.map_err(|error| {
        vec![Wrong {
            part: Part::ClientCa,
            message: format!("the authorities are no use: {error}"),
        }]
    })
}
