//! Mutual TLS: our own certificate, whom we trust, and the configurations of both sides.

pub mod identity;

use std::sync::Arc;

use rustls::{ClientConfig, ServerConfig};
use xds::{
    snapshot::ClusterTls,
    spiffe::{ClientVerifier, Roots, RootsError, ServerVerifier, provider},
};

use self::identity::Identity;

/// ALPN of HTTP/2.
pub const H2: &[u8] = b"h2";
/// ALPN of HTTP/1.1.
pub const HTTP11: &[u8] = b"http/1.1";

/// What cannot be set up.
#[derive(Debug, thiserror::Error)]
pub enum TlsError {
    /// A trust bundle is none.
    #[error(transparent)]
    Bundle(#[from] RootsError),
    /// Refused by the TLS library.
    #[error("TLS cannot be set up: {0}")]
    Rustls(#[from] rustls::Error),
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
    /// Callers must carry a SPIFFE id that the roots vouch for; HTTP listeners negotiate their version.
    pub fn new(roots: &Roots, identity: &Identity, http: bool) -> Result<Self, TlsError> {
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
    /// The server must carry one of the SPIFFE ids, and the roots vouch for it.
    pub fn new(roots: Roots, tls: &ClusterTls, identity: &Identity, alpn: &[&[u8]]) -> Result<Self, TlsError> {
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
