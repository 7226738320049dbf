//! Mutual TLS: our own certificate, whom we trust, and the configurations of both sides.

pub mod identity;
pub mod spiffe;

use std::sync::Arc;

use rustls::{
    ClientConfig, RootCertStore, ServerConfig,
    crypto::{CryptoProvider, aws_lc_rs},
    pki_types::{CertificateDer, pem::PemObject},
};
use xds::snapshot::{ClusterTls, TrustBundle};

use self::{
    identity::Identity,
    spiffe::{ClientVerifier, ServerVerifier},
};

/// ALPN of HTTP/2.
pub const H2: &[u8] = b"h2";
/// ALPN of HTTP/1.1.
pub const HTTP11: &[u8] = b"http/1.1";

/// What cannot be set up.
#[derive(Debug, thiserror::Error)]
pub enum TlsError {
    /// Not PEM, or not certificates.
    #[error("trust bundle `{name}`: {reason}")]
    Bundle {
        /// The bundle's name.
        name: String,
        /// Why.
        reason: String,
    },
    /// Refused by the TLS library.
    #[error("TLS cannot be set up: {0}")]
    Rustls(#[from] rustls::Error),
}

/// The cryptography of this process.
pub fn provider() -> Arc<CryptoProvider> {
    static PROVIDER: std::sync::OnceLock<Arc<CryptoProvider>> = std::sync::OnceLock::new();
    PROVIDER.get_or_init(|| Arc::new(aws_lc_rs::default_provider())).clone()
}

/// Reads a bundle's roots. A bundle without certificates trusts nobody.
pub fn roots(bundle: &TrustBundle) -> Result<RootCertStore, TlsError> {
    let error = |reason: String| TlsError::Bundle { name: bundle.name.clone(), reason };
    let mut store = RootCertStore::empty();
    for certificate in CertificateDer::pem_slice_iter(bundle.roots.as_bytes()) {
        let certificate = certificate.map_err(|e| error(e.to_string()))?;
        store.add(certificate).map_err(|e| error(e.to_string()))?;
    }
    if store.is_empty() && !bundle.roots.trim().is_empty() {
        return Err(error("no certificate in it".into()));
    }
    Ok(store)
}

/// The listening side of a trust relation.
#[derive(Clone, Debug)]
pub struct ServerTls {
    /// For new connections.
    pub config: Arc<ServerConfig>,
    /// For connections that are up when the bundle changes.
    pub verifier: Arc<ClientVerifier>,
    /// Ours.
    pub identity: Identity,
}

impl ServerTls {
    /// Callers must chain to the roots and carry a SPIFFE id; HTTP listeners negotiate their version.
    pub fn new(roots: Arc<RootCertStore>, identity: &Identity, http: bool) -> Result<Self, TlsError> {
        let verifier = Arc::new(ClientVerifier::new(roots)?);
        let mut config = ServerConfig::builder_with_provider(provider())
            .with_safe_default_protocol_versions()?
            .with_client_cert_verifier(verifier.clone())
            .with_cert_resolver(identity.resolver());
        if http {
            config.alpn_protocols = vec![H2.to_vec(), HTTP11.to_vec()];
        }
        // A resumed session would skip the look at the caller's certificate, after its root was taken away too.
        config.session_storage = Arc::new(rustls::server::NoServerSessionStorage {});
        config.send_tls13_tickets = 0;
        Ok(Self { config: Arc::new(config), verifier, identity: identity.clone() })
    }
}

/// The connecting side of a trust relation.
#[derive(Clone, Debug)]
pub struct UpstreamTls {
    /// For new connections.
    pub config: Arc<ClientConfig>,
    /// For connections that are up when the bundle changes.
    pub verifier: Arc<ServerVerifier>,
    /// Ours.
    pub identity: Identity,
}

impl UpstreamTls {
    /// The server must chain to the roots and carry one of the SPIFFE ids.
    pub fn new(
        roots: Arc<RootCertStore>,
        tls: &ClusterTls,
        identity: &Identity,
        alpn: &[&[u8]],
    ) -> Result<Self, TlsError> {
        let verifier = Arc::new(ServerVerifier::new(roots, tls.server_ids.clone()));
        let mut config = ClientConfig::builder_with_provider(provider())
            .with_safe_default_protocol_versions()?
            .dangerous()
            .with_custom_certificate_verifier(verifier.clone())
            .with_client_cert_resolver(identity.resolver());
        config.alpn_protocols = alpn.iter().map(|name| name.to_vec()).collect();
        config.resumption = rustls::client::Resumption::disabled();
        config.enable_sni = false;
        Ok(Self { config: Arc::new(config), verifier, identity: identity.clone() })
    }
}
