//! Other meshes that this one is federated with.

use super::Text;
use crate::read::{At, mapping};

mapping! {
    /// A foreign trust domain that is trusted for its own ids.
    "a federated trust domain" Federated {
        /// SPIFFE trust domain of the other mesh, as `partner.example`.
        trust_domain: Text,
        /// Its bundle: an absolute path on the control plane's machine, of a file in SPIFFE form (JSON) or PEM; read again when it
        /// changes. With `endpoint`, the first one. Left out where `identity` is `spire`, whose Workload API hands it out.
        bundle: Option<Text>,
        /// Where newer bundles are fetched from.
        endpoint: Option<At<BundleEndpoint>>,
    }
}

mapping! {
    /// Where a trust domain serves its bundle (profile `https_spiffe`).
    "a bundle endpoint" BundleEndpoint {
        /// As `https://10.0.0.1:7003/`.
        url: Text,
        /// SPIFFE id of who serves there. Default: `spiffe://TRUST-DOMAIN/control`.
        id: Option<Text>,
    }
}
