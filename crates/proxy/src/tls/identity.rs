//! Our own certificate and key. Renewed in place: connections that are up keep theirs, new ones get the newest.

use std::{sync::Arc, time::Duration};

use arc_swap::ArcSwapOption;
use rustls::{
    SignatureScheme,
    client::ResolvesClientCert,
    pki_types::{CertificateDer, PrivateKeyDer, UnixTime, pem::PemObject},
    server::{ClientHello, ResolvesServerCert},
    sign::CertifiedKey,
};
use x509_parser::prelude::{FromDer, X509Certificate};
use xds::spiffe::{self, provider};

/// What is wrong with a certificate or key that was handed to us.
#[derive(Debug, thiserror::Error)]
pub enum IdentityError {
    /// Not PEM, or nothing in it.
    #[error("the certificate chain or key cannot be read: {0}")]
    Pem(String),
    /// Key and certificate do not fit, or the key is of no known kind.
    #[error("the certificate and key cannot be used: {0}")]
    Unusable(#[from] rustls::Error),
}

/// The identity of this process; empty until a certificate came. Clones share it.
#[derive(Clone, Debug, Default)]
pub struct Identity {
    current: Arc<ArcSwapOption<CertifiedKey>>,
    failing: Arc<ArcSwapOption<String>>,
}

/// When a certificate is valid, in seconds since the Unix epoch.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Validity {
    /// Not before.
    pub from: i64,
    /// Not after.
    pub until: i64,
}

impl Identity {
    /// Whether there is a certificate.
    pub fn is_set(&self) -> bool {
        self.current.load().is_some()
    }

    /// Why nothing newer comes from whoever issues it.
    pub fn failing(&self) -> Option<String> {
        self.failing.load().as_deref().cloned()
    }

    /// Says why nothing newer comes, or that it does; answers whether that is news.
    pub fn fail(&self, reason: Option<String>) -> bool {
        let news = self.failing() != reason;
        self.failing.store(reason.map(Arc::new));
        news
    }

    /// Our SPIFFE id; `None` without a certificate, or if it names none.
    pub fn id(&self) -> Option<Arc<str>> {
        self.current.load().as_ref().and_then(|certified| spiffe::id(certified.cert.first()?))
    }

    /// Takes a PEM chain and the DER of its key (PKCS #8); returns the certificate's validity.
    pub fn set(&self, chain_pem: &str, key: PrivateKeyDer<'static>) -> Result<Validity, IdentityError> {
        let chain: Vec<CertificateDer<'static>> = CertificateDer::pem_slice_iter(chain_pem.as_bytes())
            .collect::<Result<_, _>>()
            .map_err(|error| IdentityError::Pem(error.to_string()))?;
        let leaf = chain.first().ok_or_else(|| IdentityError::Pem("no certificate".into()))?;
        let validity = validity(leaf).ok_or_else(|| IdentityError::Pem("not an X.509 certificate".into()))?;
        let certified = CertifiedKey::from_der(chain, key, &provider())?;
        self.current.store(Some(Arc::new(certified)));
        Ok(validity)
    }

    /// The same with a PEM key, as in a file.
    pub fn set_pem(&self, chain_pem: &str, key_pem: &str) -> Result<Validity, IdentityError> {
        let key =
            PrivateKeyDer::from_pem_slice(key_pem.as_bytes()).map_err(|error| IdentityError::Pem(error.to_string()))?;
        self.set(chain_pem, key)
    }

    /// How much longer a connection is good for that was made with our certificate and one of a peer: until the first of
    /// both ends.
    pub fn lasts(&self, chain: &[CertificateDer<'_>]) -> Duration {
        let current = self.current.load();
        let own = current.as_ref().and_then(|certified| validity(certified.cert.first()?));
        let peer = chain.first().and_then(validity);
        let until = own.into_iter().chain(peer).map(|validity| validity.until).min().unwrap_or(i64::MAX);
        let now = i64::try_from(UnixTime::now().as_secs()).unwrap_or(i64::MAX);
        Duration::from_secs(u64::try_from(until.saturating_sub(now)).unwrap_or(0))
    }

    /// What our key signs of a message: ECDSA on P-256 with SHA-256, DER; `None` without a key that can.
    pub fn sign(&self, message: &[u8]) -> Option<Vec<u8>> {
        let current = self.current.load_full()?;
        current.key.choose_scheme(&[SignatureScheme::ECDSA_NISTP256_SHA256])?.sign(message).ok()
    }

    /// For TLS configurations of both sides.
    pub fn resolver(&self) -> Arc<Resolver> {
        Arc::new(Resolver(self.clone()))
    }
}

/// When a certificate is valid; `None` if it is none.
fn validity(certificate: &CertificateDer<'_>) -> Option<Validity> {
    let (_, parsed) = X509Certificate::from_der(certificate).ok()?;
    let validity = parsed.validity();
    Some(Validity { from: validity.not_before.timestamp(), until: validity.not_after.timestamp() })
}

/// Hands out the newest certificate.
#[derive(Debug)]
pub struct Resolver(Identity);

impl ResolvesServerCert for Resolver {
    fn resolve(&self, _hello: ClientHello<'_>) -> Option<Arc<CertifiedKey>> {
        self.0.current.load_full()
    }
}

impl ResolvesClientCert for Resolver {
    fn resolve(&self, _hints: &[&[u8]], _schemes: &[SignatureScheme]) -> Option<Arc<CertifiedKey>> {
        self.0.current.load_full()
    }

    fn has_certs(&self) -> bool {
        self.0.is_set()
    }
}
