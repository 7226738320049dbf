//! Where proxies run.

use std::net::SocketAddr;

use serde::{Deserialize, Serialize};

/// Where everything runs: the whole truth, replacing what was there. Endpoints with `address:` are not in it.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Placements {
    /// One per proxy.
    pub proxies: Vec<Placement>,
}

/// One proxy's place.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Placement {
    /// The proxy's name: its workload's or its gateway's.
    pub proxy: String,
    /// Where its admin interface listens.
    pub admin: SocketAddr,
    /// What it stands before.
    pub role: Role,
}

/// What a proxy stands before.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", rename_all_fields = "camelCase", tag = "kind", deny_unknown_fields)]
pub enum Role {
    /// A workload of the manifests. Its service, region, version and weight come from them.
    Sidecar {
        /// The service.
        service: String,
        /// The workload; also the proxy's name.
        workload: String,
        /// The region.
        region: String,
        /// Where the workload itself listens.
        app: SocketAddr,
        /// Where the sidecar accepts mutual TLS.
        inbound: SocketAddr,
        /// Where the sidecar accepts its workload's plaintext.
        outbound: SocketAddr,
    },
    /// A gateway of the manifests.
    Gateway {
        /// Its name; also the proxy's.
        gateway: String,
        /// Overrides the manifest's `listen`.
        #[serde(default)]
        listen: Option<SocketAddr>,
    },
}
