//! Leases and the overlays under them.

use serde::{Deserialize, Serialize};
use xds::overlay::{Fault, Switch, Way};

/// Longest time to live of a lease, in milliseconds.
pub const MAX_LEASE_TTL_MS: u64 = 3_000;
/// Shortest time to live of a lease, in milliseconds.
pub const MIN_LEASE_TTL_MS: u64 = 100;

/// Takes a lease, or takes it anew with its overlays kept.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct LeaseRequest {
    /// [`MIN_LEASE_TTL_MS`]–[`MAX_LEASE_TTL_MS`].
    pub ttl_ms: u64,
    /// For logs and events.
    pub reason: String,
    /// Who holds it, for people.
    pub holder: String,
    /// Recovery of this plan is laid under the lease while it is held.
    #[serde(default)]
    pub plan: Option<String>,
}

/// A lease that is held.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct LeaseReport {
    /// Its id.
    pub id: String,
    /// Its time to live.
    pub ttl_ms: u64,
    /// What is left of it.
    pub remaining_ms: u64,
    /// For logs and events.
    pub reason: String,
    /// Who holds it.
    pub holder: String,
    /// The plan whose recovery is under it.
    pub plan: Option<String>,
    /// Overlays under it.
    pub overlays: Vec<OverlayReport>,
}

/// Lays an overlay under a lease, or replaces the one of this name.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct OverlayRequest {
    /// At which proxies.
    #[serde(default)]
    pub targets: Targets,
    /// What it does.
    pub effect: OverlayEffect,
}

/// At which proxies an overlay is laid.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", rename_all_fields = "camelCase", tag = "kind", deny_unknown_fields)]
pub enum Targets {
    /// At those that its effect concerns.
    #[default]
    Concerned,
    /// Of those, only proxies in this region.
    Region {
        /// Which.
        region: String,
    },
    /// Of those, only proxies of workloads of this service, or the gateway of this name.
    Caller {
        /// Which.
        name: String,
    },
}

/// What an overlay does, as a drill says it. Each proxy gets its own part.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub enum OverlayEffect {
    /// At proxies that call the service (all proxies if it names none).
    Fault(Fault),
    /// A network between regions that loses bytes. Gateways are outside every region.
    Partition {
        /// One side.
        regions: Vec<String>,
        /// The other side; empty is all else, gateways among it.
        #[serde(default)]
        from: Vec<String>,
        /// Which way bytes are lost, seen from the other side: `to` is on the way to `regions`.
        #[serde(default)]
        way: Way,
    },
    /// Cuts proxies off from the control plane: all of a region, or all there are.
    NoControl {
        /// Which.
        region: Option<String>,
    },
    /// A routing control, at proxies that call the service.
    Switch(Switch),
    /// Nothing, at all proxies.
    Harmless {},
}

/// An overlay that is laid.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct OverlayReport {
    /// `<lease>/<name>`: what proxies' events and statuses call it.
    pub id: String,
    /// Proxies that were told.
    pub proxies: Vec<String>,
    /// What it does.
    pub effect: OverlayEffect,
}
