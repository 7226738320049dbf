//! Proxies as the control plane sees them.

use std::{collections::BTreeMap, net::SocketAddr};

use serde::{Deserialize, Serialize};
use xds::{load::LocalityLoad, overlay::Overlay, resource::ResourceKind, snapshot::Snapshot, status::ProxyStatus};

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
    /// Whether it has what it should have: digests are equal, or, for proxies that tell no digest (an Envoy without an agent), everything
    /// published is acknowledged.
    pub in_sync: bool,
    /// What it says of itself, asked now.
    pub status: Option<ProxyStatus>,
    /// Why it could not be asked.
    pub error: Option<String>,
}

/// The load that a proxy reported of a locality of a cluster over the last minute.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct LoadReport {
    /// Whose report it is.
    pub proxy: String,
    /// The cluster: a service, `service.region`, `service@version`, or `local` for a sidecar's own workload.
    pub cluster: String,
    /// Where it went, and how much of it.
    #[serde(flatten)]
    pub locality: LocalityLoad,
    /// Milliseconds that the counts are of.
    pub over_ms: u64,
    /// Milliseconds since the last report.
    pub age_ms: u64,
}

/// Requests that were over at a proxy, as its access log has them.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct RequestsReport {
    /// Random per start of the proxy: positions are of one start.
    pub boot: String,
    /// Position of the last of these, from which to read on.
    pub last: u64,
    /// Requests after the asked position that were let go before they were asked for.
    pub dropped: u64,
    /// Requests since its start that the proxy could not tell at all.
    pub lost: u64,
    /// In order, with Envoy's field names.
    pub requests: Vec<serde_json::Value>,
}

impl From<xds::server::Load> for LoadReport {
    fn from(load: xds::server::Load) -> Self {
        let millis = |time: std::time::Duration| u64::try_from(time.as_millis()).unwrap_or(u64::MAX);
        let xds::server::Load { proxy, cluster, locality, over, age } = load;
        Self { proxy, cluster, locality, over_ms: millis(over), age_ms: millis(age) }
    }
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
