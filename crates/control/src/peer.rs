//! Whether somebody has the key of a certificate.

use aws_lc_rs::signature::{ECDSA_P256_SHA256_ASN1, UnparsedPublicKey};
use rustls::pki_types::CertificateDer;
use x509_parser::prelude::{FromDer as _, X509Certificate};

/// Whether the key of a certificate signed a message: ECDSA on P-256 with SHA-256, as proxies make them.
pub(crate) fn signed(certificate: &CertificateDer<'_>, message: &[u8], signature: &[u8]) -> bool {
    let Ok((_, certificate)) = X509Certificate::from_der(certificate) else { return false };
    let key = &certificate.public_key().subject_public_key.data;
    UnparsedPublicKey::new(&ECDSA_P256_SHA256_ASN1, key).verify(message, signature).is_ok()
}

/// What a certificate says of whom it was signed for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Proved {
    /// SPIFFE id: of the service or gateway.
    pub(crate) id: String,
    /// The one proxy that may use it; `None` if it does not say.
    pub(crate) proxy: Option<String>,
}

/// How the common name of a certificate begins that is one proxy's.
const PROXY: &str = "proxy ";

/// The common name of a proxy's certificate.
pub(crate) fn common_name(proxy: &str) -> String {
    format!("{PROXY}{proxy}")
}

impl Proved {
    /// Reads a certificate; `None` if it has no SPIFFE id.
    pub(crate) fn of(leaf: &CertificateDer<'_>) -> Option<Self> {
        let id = xds::spiffe::id(leaf)?.to_string();
        let (_, certificate) = X509Certificate::from_der(leaf).ok()?;
        let name = certificate.subject().iter_common_name().next().and_then(|name| name.as_str().ok());
        let proxy = name.and_then(|name| name.strip_prefix(PROXY)).map(str::to_owned);
        Some(Self { id, proxy })
    }

    /// In one text, for the stream that the connection carries: neither part has spaces.
    pub(crate) fn words(&self) -> String {
        match &self.proxy {
            Some(proxy) => format!("{} {proxy}", self.id),
            None => self.id.clone(),
        }
    }

    /// Reads [`Proved::words`].
    pub(crate) fn parse(words: &str) -> Self {
        match words.split_once(' ') {
            Some((id, proxy)) => Self { id: id.to_owned(), proxy: Some(proxy.to_owned()) },
            None => Self { id: words.to_owned(), proxy: None },
        }
    }

    /// True unless the certificate is another proxy's.
    pub(crate) fn is_for(&self, proxy: &str) -> bool {
        self.proxy.as_ref().is_none_or(|own| own == proxy)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_certificate_that_names_a_proxy_is_its_alone() {
        for (words, proxy) in [("spiffe://b/service/fx", None), ("spiffe://b/service/fx fx-east-0", Some("fx-east-0"))]
        {
            let proved = Proved::parse(words);
            assert_eq!((proved.id.as_str(), proved.proxy.as_deref()), ("spiffe://b/service/fx", proxy));
            assert_eq!(proved.words(), words);
            assert!(proved.is_for("fx-east-0"));
            assert_eq!(proved.is_for("fx-east-1"), proxy.is_none());
        }
    }
}
