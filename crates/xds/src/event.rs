//! What happened at a proxy, in order: the ordered, bounded event log that a drill reads.

use serde::{Deserialize, Serialize};

use crate::{
    clock::Stamp,
    overlay::SwitchState,
    snapshot::{Bound, RoutingPriority},
};

/// One transition.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Event {
    /// Position in this proxy's log since it started; gapless, from 1.
    pub sequence: u64,
    /// When it happened, by the proxy's clock.
    pub time: Stamp,
    /// What happened.
    pub kind: EventKind,
}

/// Kinds of transitions, each with its cause.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", rename_all_fields = "camelCase", tag = "type")]
pub enum EventKind {
    /// The process began; a new boot means a new sequence.
    Started {
        /// Program version.
        version: String,
    },
    /// A snapshot took effect.
    SnapshotApplied {
        /// Version as the control plane named it, or `last-good` for the file.
        version: String,
        /// Digest of the effective configuration after it.
        digest: String,
    },
    /// A resource was refused; what was in force stays in force.
    SnapshotRejected {
        /// Version that was refused.
        version: String,
        /// Why, with the path of the field.
        reason: String,
    },
    /// An overlay took effect.
    OverlayApplied {
        /// Its id.
        id: String,
        /// Digest of the effective configuration after it.
        digest: String,
    },
    /// An overlay is gone.
    OverlayEnded {
        /// Its id.
        id: String,
        /// Whether its lease ran out here, rather than being released by the control plane.
        lapsed: bool,
        /// Digest of the effective configuration after it.
        digest: String,
    },
    /// An endpoint's health changed by an active check.
    Health {
        /// Cluster name.
        cluster: String,
        /// Endpoint name.
        endpoint: String,
        /// Its region.
        region: String,
        /// The new state.
        healthy: bool,
        /// For people: `connection refused`, `status 503`, `passed`.
        cause: String,
    },
    /// Outlier detection took an endpoint out.
    Ejected {
        /// Cluster name.
        cluster: String,
        /// Endpoint name.
        endpoint: String,
        /// Its region.
        region: String,
        /// The last failure that counted.
        cause: String,
    },
    /// An ejected endpoint is back.
    Readmitted {
        /// Cluster name.
        cluster: String,
        /// Endpoint name.
        endpoint: String,
        /// Its region.
        region: String,
    },
    /// The shares of a cluster's tiers changed.
    TierLoad {
        /// Cluster name.
        cluster: String,
        /// Percent for each priority, from 0.
        percent: Vec<u8>,
    },
    /// Panic mode was entered or left at a tier.
    Panic {
        /// Cluster name.
        cluster: String,
        /// The tier.
        priority: u32,
        /// Entered, or left.
        entered: bool,
    },
    /// A circuit breaker refused something, for the first time or after a second in which it refused nothing.
    BreakerOpened {
        /// Cluster name.
        cluster: String,
        /// Whose requests it counts.
        priority: RoutingPriority,
        /// What it bounds.
        bound: Bound,
    },
    /// It has refused nothing for a second.
    BreakerClosed {
        /// Cluster name.
        cluster: String,
        /// Whose requests it counts.
        priority: RoutingPriority,
        /// What it bounds.
        bound: Bound,
        /// How many it refused since the process began.
        refused: u64,
    },
    /// A routing control changed.
    Switched {
        /// Service name.
        service: String,
        /// Region name.
        region: String,
        /// The new state.
        state: SwitchState,
    },
    /// First response headers from a region since the last `TierLoad` or switch of the cluster.
    FirstAnswer {
        /// Cluster name.
        cluster: String,
        /// The region that answered.
        region: String,
    },
    /// A certificate that somebody else issues is in use: another one, or the same whose source answers again.
    IdentityApplied {
        /// Its SPIFFE id.
        id: String,
        /// When it ends.
        until: Stamp,
    },
    /// No newer certificate comes; what came last, if anything did, stays in use.
    IdentityFailing {
        /// Where it is looked for, and why there is none.
        reason: String,
    },
    /// The stream to the control plane broke.
    ControlLost {
        /// Why.
        reason: String,
    },
    /// The stream to the control plane is up.
    ControlConnected,
    /// The process was asked to drain.
    Draining,
}
