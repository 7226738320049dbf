//! The mesh as a drill sees it. Implemented for the embedded mesh in the binary; later for Envoy fleets and Kubernetes.

use std::{collections::BTreeMap, future::Future, net::SocketAddr, time::Duration};

use evidence::record::{Configuration, Tested};
use model::config::{Fault, LoseHow};
use model::name::{PlanName, RegionName};
use serde_json::Value;

/// Nanoseconds since the Unix epoch on the anchored clock that all observers share.
pub type Stamp = i64;

/// Why the mesh did not do what was asked.
#[derive(Clone, Debug, thiserror::Error)]
pub enum TargetError {
    /// The control plane (or supervisor) does not answer; leases will lapse.
    #[error("{who} does not answer: {reason}")]
    Unreachable {
        /// `control plane` or `supervisor`.
        who: &'static str,
        /// What was seen.
        reason: String,
    },
    /// It answered no.
    #[error("{who} refused to {what}: {reason}")]
    Refused {
        /// Who.
        who: &'static str,
        /// What was asked.
        what: String,
        /// Why not.
        reason: String,
    },
}

/// One endpoint checked by the audit.
#[derive(Clone, Debug, PartialEq)]
pub struct EndpointReport {
    /// Workload name.
    pub workload: String,
    /// Service name.
    pub service: String,
    /// Region.
    pub region: String,
    /// Checks by name (`reachable`, `identity`, `refusesPlaintext`, `refusesStrangers`); `Err` says what was seen.
    pub checks: BTreeMap<String, Result<(), String>>,
}

/// One proxy at one moment.
#[derive(Clone, Debug, PartialEq)]
pub struct ProxyReport {
    /// Proxy name.
    pub name: String,
    /// Region; `None` for a gateway outside the regions.
    pub region: Option<String>,
    /// Service whose calls it carries; `None` for a gateway.
    pub service: Option<String>,
    /// Digest of its effective configuration; `Err` if it could not be asked.
    pub digest: Result<String, String>,
    /// Whether it holds what the control plane wants it to hold.
    pub in_sync: bool,
    /// Overlay ids in force.
    pub overlays: Vec<String>,
    /// Tries sent since start by (service, region of the endpoint).
    pub tries: BTreeMap<(String, String), u64>,
    /// How it spreads the requests of each cluster.
    pub loads: Vec<ClusterLoad>,
    /// Random per start of the process, to tell a restart (whose counters begin at 0) from a gap.
    pub boot: String,
}

/// How a proxy spreads the requests of one cluster over the regions of its service, at one moment.
#[derive(Clone, Debug, PartialEq)]
pub struct ClusterLoad {
    /// Cluster name: the service, or a part of it that a route names.
    pub cluster: String,
    /// Service that it stands for.
    pub service: String,
    /// Percent of the load by priority, from 0.
    pub tiers: Vec<u8>,
    /// Its endpoints by priority and region.
    pub groups: Vec<GroupLoad>,
}

/// The endpoints of one region in one priority of a cluster.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct GroupLoad {
    /// Priority.
    pub priority: u32,
    /// Region.
    pub region: String,
    /// Tries sent to them since the proxy's start.
    pub tries: u64,
    /// Requests (over TCP: connections) in flight.
    pub active: u64,
}

/// Where recovery of a plan stands.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Recovery {
    /// The primary serves, and nothing is under way.
    AtRest,
    /// A failover or failback is in force or under way; what, in words.
    Active(String),
}

/// Something seen in the mesh.
#[derive(Clone, Debug, PartialEq)]
pub struct Observed {
    /// Position in the merged log.
    pub sequence: u64,
    /// When, by its source.
    pub time: Stamp,
    /// `proxy edge`, `control`, `supervisor`.
    pub source: String,
    /// What it means for a drill, if anything.
    pub meaning: Meaning,
    /// As the source said it, for the record.
    pub raw: Value,
}

/// What an event means for a drill.
#[derive(Clone, Debug, PartialEq)]
pub enum Meaning {
    /// A proxy took an endpoint (or tier) of the region out, by itself.
    Detected {
        /// Service.
        service: String,
        /// Region of the endpoint.
        region: String,
        /// `connection refused`, …
        cause: String,
    },
    /// An endpoint of the region is back in use at a proxy.
    Readmitted {
        /// Service.
        service: String,
        /// Region of the endpoint.
        region: String,
    },
    /// A proxy got its first answer from the region after a change.
    FirstAnswer {
        /// Service.
        service: String,
        /// Region.
        region: String,
    },
    /// An overlay took effect at a proxy.
    OverlayApplied {
        /// Overlay id.
        id: String,
    },
    /// An overlay is gone from a proxy.
    OverlayEnded {
        /// Overlay id.
        id: String,
        /// By its TTL, rather than released.
        lapsed: bool,
    },
    /// The recovery controller saw the primary as lost.
    RecoveryDetected {
        /// Plan.
        plan: String,
    },
    /// The recovery controller decided to fail over.
    Decided {
        /// Plan.
        plan: String,
    },
    /// The recovery controller told proxies to shift; overlay ids that carry it.
    ShiftCommanded {
        /// Plan.
        plan: String,
        /// Overlay ids, to be matched with `OverlayApplied`.
        overlays: Vec<String>,
    },
    /// A step of the plan ended.
    StepFinished {
        /// Name.
        name: String,
        /// Took.
        took: Duration,
        /// Or why it failed.
        result: Result<(), String>,
    },
    /// The recovery controller was told to fail back, or decided to.
    FailbackCommanded {
        /// Plan.
        plan: String,
    },
    /// Failback reached this share of the primary.
    RampStep {
        /// Percent.
        percent: f64,
    },
    /// Failback is complete.
    FailbackDone {
        /// Plan.
        plan: String,
    },
    /// Failover or failback failed.
    RecoveryFailed {
        /// Plan.
        plan: String,
        /// Why.
        reason: String,
    },
    /// Nothing special.
    Other,
}

/// What a lost region consisted of.
#[derive(Clone, Debug, PartialEq)]
pub struct Lost {
    /// Workload processes hit.
    pub workloads: usize,
    /// Proxies hit (killed, stopped, or told to cut off).
    pub proxies: usize,
    /// When the first effect was seen by whoever made it (process dead or stopped); `None` when only proxies' events tell.
    pub effective: Option<Stamp>,
    /// Overlay ids that carry the loss (a partition's), to be matched with `OverlayApplied`; empty for processes.
    pub overlays: Vec<String>,
}

/// Requests that were over at a gateway.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Requests {
    /// Random per start of its proxy: positions and counts are of one start.
    pub boot: String,
    /// Position of the last of these, from which to read on.
    pub last: u64,
    /// Requests after the asked position that were let go before they were asked for.
    pub dropped: u64,
    /// Requests since its start that the proxy could not tell at all.
    pub lost: u64,
    /// In order, with Envoy's field names.
    pub requests: Vec<Value>,
}

/// Who may be asked what. Every effect is under the lease: when heartbeats stop, it goes away by itself.
pub trait Target: Send + Sync + 'static {
    /// The present on the shared clock, and the bound on its error.
    fn now(&self) -> (Stamp, Duration);
    /// Address that a gateway listens on.
    fn gateway(&self, name: &str) -> Option<SocketAddr>;
    /// Program versions, for the record.
    fn programs(&self) -> BTreeMap<String, String>;
    /// What is tested, without its operator: the endpoints are those of the plan's services.
    fn tested(&self, plan: &PlanName) -> impl Future<Output = Result<Tested, TargetError>> + Send;
    /// The configuration in force now, and who applied it.
    fn configuration(&self) -> impl Future<Output = Result<(Configuration, String), TargetError>> + Send;
    /// Takes the lease.
    fn take_lease(
        &self,
        id: &str,
        ttl: Duration,
        plan: Option<&PlanName>,
    ) -> impl Future<Output = Result<(), TargetError>> + Send;
    /// Renews the lease everywhere (control plane and supervisor).
    fn heartbeat(&self, id: &str) -> impl Future<Output = Result<(), TargetError>> + Send;
    /// Gives the lease back: all overlays and holds under it go.
    fn release_lease(&self, id: &str) -> impl Future<Output = Result<(), TargetError>> + Send;
    /// Lays an overlay that does nothing; used to prove the undo path. Returns its id.
    fn lay_harmless(&self, lease: &str) -> impl Future<Output = Result<String, TargetError>> + Send;
    /// Takes a region away under the lease.
    fn lose(
        &self,
        lease: &str,
        step: &str,
        region: &RegionName,
        how: LoseHow,
    ) -> impl Future<Output = Result<Lost, TargetError>> + Send;
    /// Lays a fault under the lease; returns overlay ids.
    fn fault(
        &self,
        lease: &str,
        step: &str,
        fault: &Fault,
    ) -> impl Future<Output = Result<Vec<String>, TargetError>> + Send;
    /// Undoes one step (`lose` or `fault`) before the lease ends.
    fn undo(&self, lease: &str, step: &str) -> impl Future<Output = Result<(), TargetError>> + Send;
    /// Entrusts an undo command, which is on disk already, to somebody who outlives the engine and runs it when heartbeats
    /// of the lease stop. Returns once that is certain.
    fn entrust_undo(&self, lease: &str, undo: &str) -> impl Future<Output = Result<(), TargetError>> + Send;
    /// From now on nobody but the engine runs undo commands of this lease: it has run them.
    fn keep_undos(&self, lease: &str) -> impl Future<Output = Result<(), TargetError>> + Send;
    /// Asks the recovery controller to fail over (for plans with a manual trigger).
    fn failover(&self, plan: &PlanName, reason: &str) -> impl Future<Output = Result<(), TargetError>> + Send;
    /// Asks the recovery controller to fail back.
    fn failback(&self, plan: &PlanName, reason: &str) -> impl Future<Output = Result<(), TargetError>> + Send;
    /// Where recovery of the plan stands.
    fn recovery(&self, plan: &PlanName) -> impl Future<Output = Result<Recovery, TargetError>> + Send;
    /// Every proxy, asked now.
    fn proxies(&self) -> impl Future<Output = Result<Vec<ProxyReport>, TargetError>> + Send;
    /// Every endpoint of the plan's services, checked now.
    fn audit(&self, plan: &PlanName) -> impl Future<Output = Result<Vec<EndpointReport>, TargetError>> + Send;
    /// Events after a position, waiting at most this long for one.
    fn events(&self, after: u64, wait: Duration) -> impl Future<Output = Result<Vec<Observed>, TargetError>> + Send;
    /// Requests at a gateway after a position; none without one, which is the beginning. They are collected as long as this
    /// is asked every second or so.
    fn requests(&self, gateway: &str, after: Option<u64>)
    -> impl Future<Output = Result<Requests, TargetError>> + Send;
    /// Environment for the commands of `run` steps.
    fn environment(&self, region: Option<&RegionName>) -> BTreeMap<String, String>;
}
