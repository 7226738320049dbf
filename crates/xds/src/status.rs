//! What a proxy says of itself when asked: `GET /status` of its admin address.

use serde::{Deserialize, Serialize};

use crate::snapshot::{Bound, RoutingPriority};

/// A proxy at one moment.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct ProxyStatus {
    /// The proxy's name.
    pub name: String,
    /// Random per start, to tell a restart from a gap.
    pub boot: String,
    /// Program version.
    pub program: String,
    /// Digest of the effective configuration: snapshot and active overlays, versions left out.
    pub digest: String,
    /// Version of the snapshot in force; empty before the first.
    pub snapshot: String,
    /// Ids of active overlays, sorted.
    pub overlays: Vec<String>,
    /// Listening, with an identity, and with a snapshot.
    pub ready: bool,
    /// Whether the stream to the control plane is up.
    pub connected: bool,
    /// Why no newer certificate comes from whoever issues it, if somebody else than the control plane does.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub identity_failing: Option<String>,
    /// Every cluster, sorted by name.
    pub clusters: Vec<ClusterStatus>,
}

/// A cluster at one moment.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct ClusterStatus {
    /// Cluster name.
    pub name: String,
    /// The service it stands for.
    pub service: String,
    /// Percent for each priority, from 0.
    pub tier_load: Vec<u8>,
    /// Every endpoint.
    pub endpoints: Vec<EndpointStatus>,
    /// Circuit breakers that hold or have refused something.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub breakers: Vec<BreakerStatus>,
}

/// A circuit breaker at one moment.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct BreakerStatus {
    /// Whose requests it counts.
    pub priority: RoutingPriority,
    /// What it bounds.
    pub bound: Bound,
    /// How many there are; 0 for retries, which are paid for and not held.
    pub used: u64,
    /// How many were ever refused.
    pub refused: u64,
    /// Whether some were refused just now; see [`crate::event::EventKind::BreakerOpened`].
    pub open: bool,
}

/// An endpoint at one moment.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct EndpointStatus {
    /// Workload name.
    pub name: String,
    /// Its address.
    pub address: String,
    /// Its region.
    pub region: String,
    /// Its version.
    pub version: String,
    /// Its tier.
    pub priority: u32,
    /// Result of active checks; true where there are none.
    pub healthy: bool,
    /// Out by outlier detection.
    pub ejected: bool,
    /// Requests in flight.
    pub active: u64,
    /// Tries ever sent to it (connects that failed included, health checks not).
    pub tries: u64,
    /// Of these, failed.
    pub failures: u64,
}
