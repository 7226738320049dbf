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

/// A source of endpoints that are found rather than written.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct SourceOfEndpoints {
    /// Name of the endpoint in the manifests, `<service>-<region>-<n>`; each address is `<endpoint>@<address>` to proxies.
    pub endpoint: String,
    /// Its service.
    pub service: String,
    /// Its region.
    pub region: String,
    /// What it is, as `dns fx.example:8080`.
    pub source: String,
    /// Those in force.
    pub addresses: Vec<SocketAddr>,
    /// How long ago it last said so; `None`: it never said anything.
    pub age_ms: Option<u64>,
    /// Why it says nothing now: the addresses are its last answer.
    pub failing: Option<String>,
    /// Number of addresses of an answer that is held back, since more than half would go at once.
    pub held_back: Option<usize>,
}
