//! Certificates, and whom traffic trusts.

use serde::{Deserialize, Serialize};

use super::Stamp;

/// Asks for a certificate. Authenticated with the proxy's join token, not with the API's.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct CertificateRequest {
    /// The proxy's name; it must be placed.
    pub proxy: String,
    /// PKCS #10, PEM. Only its public key is used; the identity follows from the placement.
    pub csr: String,
}

/// A certificate.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Certificate {
    /// PEM, leaf first.
    pub certificate: String,
    /// PEM, the roots to trust.
    pub roots: String,
    /// The identity it carries.
    pub spiffe_id: String,
    /// When it begins to be valid.
    pub not_before: Stamp,
    /// When it ends. Renew at half of the lifetime.
    pub not_after: Stamp,
}

/// Whom proxies trust in traffic: what is in force of the file `ca/trust.pem`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Trust {
    /// SPIFFE trust domain.
    pub trust_domain: String,
    /// PEM.
    pub roots: String,
}
