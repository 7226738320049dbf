//! Certificates, and whom traffic trusts.

use serde::{Deserialize, Serialize};

use super::Stamp;

/// Asks for a join token: for the proxies of one service, or for one gateway.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct TokenRequest {
    /// The service whose workload the proxy stands before.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub service: Option<String>,
    /// Or the gateway that it is.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub gateway: Option<String>,
    /// The one proxy of the service that may use it; any may, if it is left out.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub proxy: Option<String>,
    /// How long it is good for: 1 s to 24 h.
    pub ttl_ms: u64,
}

/// A join token. It is told once: the control plane keeps no more than its digest.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct JoinToken {
    /// The secret.
    pub token: String,
    /// When it ends.
    pub expires: Stamp,
}

impl std::fmt::Debug for JoinToken {
    /// Without the secret.
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("JoinToken").field("expires", &self.expires).finish_non_exhaustive()
    }
}

/// Asks for a certificate. Authenticated with a join token as the bearer token, not with the API's, or by `renews`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct CertificateRequest {
    /// The proxy's name; it must be placed.
    pub proxy: String,
    /// PKCS #10, PEM. Only its public key is used; the identity follows from the placement.
    pub csr: String,
    /// The certificate that proves who asks, instead of a join token.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub renews: Option<Renewal>,
}

/// A certificate and the proof that the asker has its key. Who hears it can do no more with it than ask for a certificate of
/// the same new key.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Renewal {
    /// PEM, leaf first; still valid.
    pub certificate: String,
    /// ECDSA (P-256, SHA-256, DER) by its key over [`Renewal::PREFIX`] and the request's `csr`, in hexadecimal.
    pub signature: String,
}

impl Renewal {
    /// What is signed begins with this, so that the signature means nothing elsewhere.
    pub const PREFIX: &str = "firedrill renews a certificate\n";
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

/// Whom proxies trust in traffic.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Trust {
    /// SPIFFE trust domain.
    pub trust_domain: String,
    /// PEM; empty: none came yet from whoever issues the mesh's certificates.
    pub roots: String,
    /// Where they come from, in words.
    #[serde(default)]
    pub source: String,
    /// Why nothing newer comes from there; what came last stays in force.
    #[serde(default)]
    pub failing: Option<String>,
    /// Foreign trust domains that the mesh is federated with.
    #[serde(default)]
    pub federation: Vec<FederatedReport>,
}

/// A foreign trust domain as it is known.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct FederatedReport {
    /// Its name.
    pub trust_domain: String,
    /// Where its bundle comes from.
    pub source: String,
    /// PEM; empty: nothing is known of it, or it vouches for nobody.
    pub roots: String,
    /// The number that it gave its bundle.
    pub sequence: Option<u64>,
    /// When its bundle was last read or fetched.
    pub refreshed: Option<Stamp>,
    /// Why that fails now; what was known stays in force.
    pub failing: Option<String>,
    /// A newer bundle should have come by now.
    pub stale: bool,
}
