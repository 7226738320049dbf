//! How services recover from the loss of a region.

use std::time::Duration;

use crate::{
    name::{PlanName, RegionName, ServiceName},
    unit::Percent,
};

/// Kind `RecoveryPlan`.
#[derive(Clone, Debug, PartialEq)]
pub struct RecoveryPlan {
    /// From `metadata.name`.
    pub name: PlanName,
    /// In scope; at least one. A service is in at most one plan.
    pub services: Vec<ServiceName>,
    /// How it recovers.
    pub pattern: Pattern,
    /// Numbers to reach.
    pub objectives: Objectives,
    /// What is done when the primary is lost.
    pub failover: Failover,
    /// What is done when it is back.
    pub failback: Failback,
}

/// Recovery pattern. The first issue has one; others are refused with "not supported yet".
#[derive(Clone, Debug, PartialEq)]
pub enum Pattern {
    /// One region serves, others stand by.
    ActivePassive {
        /// Serves.
        primary: RegionName,
        /// In order; at least one.
        standby: Vec<RegionName>,
        /// How ready they are.
        tier: Tier,
    },
}

/// How ready a standby is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Tier {
    /// Takes traffic at once.
    Hot,
    /// Runs at less capacity.
    Warm,
    /// Must be started.
    PilotLight,
}

/// Numbers to reach. A missing one is not judged, except `sustain`.
#[derive(Clone, Debug, PartialEq)]
pub struct Objectives {
    /// RTO.
    pub recovery_time: Option<Duration>,
    /// RPO.
    pub data_loss: Option<Duration>,
    /// Of requests in every slice of the sustain window, and at baseline. Default 99 %.
    pub success_rate: Percent,
    /// 99th percentile in every slice of the sustain window.
    pub latency_p99: Option<Duration>,
    /// Length of the window in which all must hold for recovery to count. Default 5 s.
    pub sustain: Duration,
    /// Writes acknowledged after the fault, or during failback, that may be lost. Default 0.
    pub lost_after_fault: u32,
    /// Violations of the store's integrity that are allowed. Default none.
    pub integrity: Integrity,
    /// Time until an acknowledged write is visible to a read. Default 0.
    pub settle: Duration,
    /// Requests that the lost region must have served before the fault. Default 10.
    pub minimum_hits: u32,
    /// From the command to fail back on.
    pub failback: FailbackObjectives,
}

/// Violations of a store's integrity that a plan allows.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Integrity {
    /// Extra copies of a write.
    pub duplicated: u32,
    /// Writes stored behind one that was sent only after they had been acknowledged.
    pub reordered: u32,
    /// Writes that were absent, and were there again later.
    pub resurrected: u32,
}

/// Objectives of failback; `None` is the plan's.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct FailbackObjectives {
    /// Longest stretch in which clients are harmed.
    pub recovery_time: Option<Duration>,
    /// Age of the oldest write that failback lost.
    pub data_loss: Option<Duration>,
    /// Of requests.
    pub success_rate: Option<Percent>,
    /// 99th percentile.
    pub latency_p99: Option<Duration>,
}

/// What is done when the primary is lost.
#[derive(Clone, Debug, PartialEq)]
pub struct Failover {
    /// When.
    pub trigger: Trigger,
    /// Observers of a service that must report the primary unhealthy before it counts as lost. `None`: a majority of them,
    /// and never fewer than two where there are two.
    pub quorum: Option<u32>,
    /// What, in order.
    pub steps: Vec<Step>,
}

/// When recovery starts.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Trigger {
    /// On command.
    Manual,
    /// When the primary has been unhealthy for this long.
    Automatic {
        /// How long.
        unhealthy_for: Duration,
    },
}

/// One step of a plan.
#[derive(Clone, Debug, PartialEq)]
pub enum Step {
    /// Move the plan's services to a region.
    Shift {
        /// Where to.
        to: RegionName,
    },
    /// Run a command.
    Run(RunStep),
}

/// A command with a bound, and how to take it back.
#[derive(Clone, Debug, PartialEq)]
pub struct RunStep {
    /// Unique in the plan.
    pub name: String,
    /// Region whose endpoints the command is told of.
    pub region: Option<RegionName>,
    /// argv; never empty.
    pub command: Vec<String>,
    /// argv of a command that exits with 0 while the effect of the step is in place, and with anything else while it is
    /// not. A drill starts and ends in the state in which failback steps are in place and failover steps are not.
    pub check: Option<Vec<String>>,
    /// After it the command is killed and the step has failed. Default 30 s.
    pub timeout: Duration,
    /// argv of the inverse. `None`: the step is irreversible, and what it was run for stays in force when a drill is
    /// aborted or its engine dies.
    pub undo: Option<Vec<String>>,
}

/// What is done when the primary is back.
#[derive(Clone, Debug, PartialEq)]
pub struct Failback {
    /// When. Default manual.
    pub trigger: Trigger,
    /// Commands before the ramp.
    pub steps: Vec<RunStep>,
    /// Share of the primary, rising, ending in 100. Default 100 %.
    pub ramp: Vec<Percent>,
    /// Time on each step. Default 3 s.
    pub dwell: Duration,
}

impl RunStep {
    /// Whether nothing takes it back: the plan says so, since a step without `undo` must.
    pub fn is_irreversible(&self) -> bool {
        self.undo.is_none()
    }
}

impl RecoveryPlan {
    /// The region that serves at rest.
    pub fn primary(&self) -> &RegionName {
        let Pattern::ActivePassive { primary, .. } = &self.pattern;
        primary
    }

    /// The command of the failover or the failback with this name.
    pub fn command(&self, name: &str) -> Option<&RunStep> {
        let failover = self.failover.steps.iter().filter_map(|step| match step {
            Step::Run(run) => Some(run),
            Step::Shift { .. } => None,
        });
        failover.chain(&self.failback.steps).find(|run| run.name == name)
    }
}
