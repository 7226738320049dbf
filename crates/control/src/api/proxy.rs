//! Proxies as the control plane sees them.

use std::{collections::BTreeMap, net::SocketAddr};

use serde::{Deserialize, Serialize};
use xds::{overlay::Overlay, resource::ResourceKind, snapshot::Snapshot, status::ProxyStatus};

/// One proxy as the control plane sees it.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct ProxyReport {
    /// Its name.
    pub name: String,
    /// Its region; `None` for a gateway.
    pub region: Option<String>,
    /// The service it stands before, if it is a sidecar.
    pub service: Option<String>,
    /// The gateway it is, if it is one.
    pub gateway: Option<String>,
    /// Its admin address.
    pub admin: SocketAddr,
    /// Whether it has an ADS stream now.
    pub connected: bool,
    /// Version of the snapshot published for it.
    pub published: Option<String>,
    /// Versions acknowledged by kind.
    pub acked: BTreeMap<ResourceKind, String>,
    /// The last refusal, until it is mended.
    pub nack: Option<NackReport>,
    /// Digest that its effective configuration should have now (snapshot and overlays).
    pub wanted_digest: Option<String>,
    /// Ids of the overlays it should have now, sorted.
    pub wanted_overlays: Vec<String>,
    /// Whether it has what it should have: digests are equal, or, for proxies that tell no digest (Envoy), everything
    /// published is acknowledged.
    pub in_sync: bool,
    /// What it says of itself, asked now.
    pub status: Option<ProxyStatus>,
    /// Why it could not be asked.
    pub error: Option<String>,
}

/// A refused resource.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct NackReport {
    /// What.
    pub kind: ResourceKind,
    /// Its version.
    pub version: String,
    /// Why.
    pub detail: String,
}

/// What a proxy should have now: `firedrill get proxies NAME`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct ProxyConfiguration {
    /// Its name.
    pub proxy: String,
    /// Version of the snapshot.
    pub version: Option<String>,
    /// Digest of snapshot and overlays together, to be compared with the proxy's own.
    pub digest: String,
    /// Overlays in force.
    pub overlays: Vec<Overlay>,
    /// Listeners, routes, clusters, endpoints, trust.
    pub snapshot: Snapshot,
}
