//! Recovery of plans.

use serde::{Deserialize, Serialize};

use super::Stamp;

/// State of a plan.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub enum RecoveryState {
    /// The primary serves.
    Normal,
    /// Steps of failover are running.
    FailingOver,
    /// The standby serves.
    FailedOver,
    /// Steps of failback, the ramp, or undo commands are running.
    FailingBack,
}

/// What the observers of a service say of the primary: the proxies outside its region that send the service requests.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct ServiceSight {
    /// Service.
    pub service: String,
    /// Observers that must see no endpoint there before the primary counts as lost.
    pub quorum: usize,
    /// Those that see none.
    pub lost: Vec<String>,
    /// Those that see one.
    pub healthy: Vec<String>,
    /// Those that do not answer, or have no endpoint there. They count among the observers.
    pub silent: Vec<String>,
    /// Why the first of `lost` sees none.
    pub cause: Option<String>,
}

/// Recovery of one plan.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct RecoveryReport {
    /// Plan.
    pub plan: String,
    /// Where it stands.
    pub state: RecoveryState,
    /// Since when.
    pub since: Stamp,
    /// The lease that holds it; `None` if it is normal or durable.
    pub lease: Option<String>,
    /// Whether the automatic trigger is armed (the primary was seen healthy and the mesh has settled).
    pub armed: bool,
    /// Whether the primary is healthy now, as proxies outside it see it; `None` if none sees it, or they disagree.
    pub primary_healthy: Option<bool>,
    /// What its observers say, by service.
    #[serde(default)]
    pub sights: Vec<ServiceSight>,
    /// Share of the primary while failing back.
    pub share: Option<u8>,
    /// Why the last failover or failback failed.
    pub failure: Option<String>,
    /// Why it moved: `automatic`, or the reason of who commanded it.
    #[serde(default)]
    pub reason: Option<String>,
    /// What it waits for now.
    #[serde(default)]
    pub waits_for: Option<String>,
    /// The command that goes on.
    #[serde(default)]
    pub command: Option<String>,
    /// One sentence: what is in force, what of it cannot be undone, and what leads back. `None` while everything can be
    /// undone.
    #[serde(default)]
    pub stands: Option<String>,
    /// Irreversible steps that have begun.
    #[serde(default)]
    pub not_undone: Vec<String>,
    /// How the old primary is kept from traffic, where that is durable.
    #[serde(default)]
    pub fence: Option<Fence>,
    /// Steps of the present (or last) failover and failback.
    pub steps: Vec<StepReport>,
}

/// The old primary, which routing controls keep from traffic at every caller.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Fence {
    /// The old primary.
    pub region: String,
    /// Every proxy that sends one of the plan's services requests.
    pub callers: Vec<FencedCaller>,
}

/// One caller of a fenced region.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct FencedCaller {
    /// Its proxy.
    pub proxy: String,
    /// Whether it is connected and has accepted the configuration without that region.
    pub acknowledged: bool,
}

/// A step with its times.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct StepReport {
    /// Name.
    pub name: String,
    /// When it began.
    pub started: Stamp,
    /// When it ended.
    pub finished: Option<Stamp>,
    /// Whether it succeeded.
    pub ok: Option<bool>,
}

/// Asks for failover or failback.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct RecoveryRequest {
    /// Why; for events.
    pub reason: String,
}
