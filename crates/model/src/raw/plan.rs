//! Kind `RecoveryPlan`.

use schemars::JsonSchema;

use super::{Argv, List, Text};
use crate::{
    name::{RegionName, ServiceName},
    read::{At, Cx, FromNode, mapping, mismatch, words},
    scalar::{Time, Unsupported},
    tree::{Node, Value},
    unit::Percent,
};

mapping! {
    /// What is done when a region is lost, and what is asked of it.
    "the spec of a RecoveryPlan" RecoveryPlan {
        /// Services in scope. A service is in at most one plan.
        services: At<Vec<At<ServiceName>>>,
        /// One region serves, others stand by.
        active_passive: Option<At<ActivePassive>>,
        /// All regions serve.
        active_active: Option<At<Unsupported>>,
        /// Steps of share.
        canary: Option<At<Unsupported>>,
        /// Two colours.
        blue_green: Option<At<Unsupported>>,
        /// Numbers to reach.
        objectives: Option<At<Objectives>>,
        /// What is done when the primary is lost.
        failover: At<Failover>,
        /// What is done when it is back.
        failback: Option<At<Failback>>,
        /// Safety rules.
        safety: Option<At<Unsupported>>,
    }
}

mapping! {
    /// One region serves, others stand by.
    "`activePassive`" ActivePassive {
        /// The region that serves.
        primary: At<RegionName>,
        /// Regions that stand by, in order.
        standby: At<Vec<At<RegionName>>>,
        /// How ready they are. Default hot.
        tier: Option<At<Tier>>,
    }
}

words! {
    /// How ready a standby is.
    Tier {
        /// Takes traffic at once.
        Hot = "hot",
        /// Runs at less capacity.
        Warm = "warm",
        /// Must be started by a step of the plan.
        PilotLight = "pilotLight",
    }
}

mapping! {
    /// Numbers to reach. One that is not written is not judged.
    "`objectives`" Objectives {
        /// RTO: from the first failure that a client saw to sustained recovery.
        recovery_time: Option<At<Time>>,
        /// RPO: age of the oldest acknowledged write that was lost.
        data_loss: Option<At<Time>>,
        /// Share of requests answered well, in every slice of the sustain window. Default 99%.
        success_rate: Option<At<Percent>>,
        /// 99th percentile of latency, in every slice of the sustain window.
        latency_p99: Option<At<Time>>,
        /// Length of the window in which all must hold for recovery to count. Default 5s.
        sustain: Option<At<Time>>,
        /// Writes acknowledged after the fault, or during failback, that may be lost. More than these fail the drill,
        /// whatever `dataLoss` allows. Default 0.
        lost_after_fault: Option<At<u32>>,
        /// Violations of the store's integrity that are allowed. Default none.
        integrity: Option<At<Integrity>>,
        /// Time that the store may take until a write that it acknowledged is visible to a read. Writes that are younger
        /// are not judged by a read-back. Default 0s: a write is visible once it is acknowledged.
        settle: Option<At<Time>>,
        /// Requests that the lost region must have served before the fault; with fewer, the drill is inconclusive.
        /// Default 10.
        minimum_hits: Option<At<u32>>,
        /// Objectives from the command to fail back on. Default: the ones above.
        failback: Option<At<FailbackObjectives>>,
    }
}

mapping! {
    /// Violations of the store's integrity that are allowed.
    "`integrity`" Integrity {
        /// Extra copies of a write. Default 0.
        duplicated: Option<At<u32>>,
        /// Writes stored behind one that was sent only after they had been acknowledged. Default 0.
        reordered: Option<At<u32>>,
        /// Writes that were absent, and were there again later. Default 0.
        resurrected: Option<At<u32>>,
    }
}

mapping! {
    /// Objectives from the command to fail back on. One that is not written is the plan's.
    "`objectives.failback`" FailbackObjectives {
        /// Longest stretch in which clients are harmed.
        recovery_time: Option<At<Time>>,
        /// Age of the oldest acknowledged write that failback lost.
        data_loss: Option<At<Time>>,
        /// Share of requests answered well.
        success_rate: Option<At<Percent>>,
        /// 99th percentile of latency.
        latency_p99: Option<At<Time>>,
    }
}

mapping! {
    /// What is done when the primary is lost.
    "`failover`" Failover {
        /// `manual`, or when the primary has been unhealthy for some time. Default manual.
        trigger: Option<At<Trigger>>,
        /// How many of a service's callers outside the primary must report it lost. Default: a majority, 2 where there are 2.
        quorum: Option<At<u32>>,
        /// What, in order.
        steps: At<Vec<At<Step>>>,
    }
}

/// When something starts: `manual`, or `{automatic: {unhealthyFor: 1s}}`.
#[derive(Clone, Debug, JsonSchema)]
#[schemars(untagged)]
pub(crate) enum Trigger {
    /// On command.
    Manual(Manual),
    /// By itself.
    When(TriggerWhen),
}

words! {
    /// On command.
    Manual {
        /// On command.
        Manual = "manual",
    }
}

mapping! {
    /// By itself.
    "`trigger`" TriggerWhen {
        /// By itself.
        automatic: At<Automatic>,
    }
}

mapping! {
    /// When the primary has been unhealthy for some time.
    "`automatic`" Automatic {
        /// For how long.
        unhealthy_for: At<Time>,
    }
}

impl FromNode for Trigger {
    fn from_node(node: &Node, cx: &mut Cx<'_>) -> Option<Self> {
        match &node.value {
            Value::Scalar(text) if text == "automatic" => {
                cx.error("missing-field", node.at, "`automatic` needs a time")
                    .mend("write `trigger: {automatic: {unhealthyFor: 1s}}`");
                None
            }
            Value::Scalar(_) => FromNode::from_node(node, cx).map(Self::Manual),
            Value::Map(_) => FromNode::from_node(node, cx).map(Self::When),
            _ => mismatch(node, "`manual` or `{automatic: {unhealthyFor: 1s}}`", cx),
        }
    }
}

mapping! {
    /// A step of a failover: either `shift` or `run`.
    "a step" Step {
        /// Move the plan's services to a region.
        shift: Option<At<Shift>>,
        /// Run a command.
        run: Option<At<RunStep>>,
    }
}

mapping! {
    /// Move the plan's services to a region.
    "`shift`" Shift {
        /// The region; a standby.
        to: At<RegionName>,
    }
}

mapping! {
    /// A command with a bound, and how to take it back.
    "`run`" RunStep {
        /// Name, unique in the plan.
        name: Text,
        /// Region whose endpoints the command is told of.
        r#in: Option<At<RegionName>>,
        /// Command and arguments.
        command: Argv,
        /// Command that exits with 0 only while the step's effect is in place; proves the roles before and after a drill.
        check: Option<Argv>,
        /// After it the command is killed and the step has failed. Default 30s.
        timeout: Option<At<Time>>,
        /// Command and arguments of the inverse; it may be run more than once. Either this or `irreversible` is needed.
        undo: Option<Argv>,
        /// Nothing takes the step back: once it has begun, an aborted or crashed drill leaves the failover in force.
        irreversible: Option<At<bool>>,
    }
}

mapping! {
    /// What is done when the primary is back.
    "`failback`" Failback {
        /// Only `manual` yet.
        trigger: Option<At<Trigger>>,
        /// Commands before the ramp.
        steps: List<FailbackStep>,
        /// Shares of the primary, rising, ending in 100%. Default [100%].
        ramp: List<Percent>,
        /// Time on each share. Default 3s.
        dwell: Option<At<Time>>,
    }
}

mapping! {
    /// A step before the ramp.
    "a failback step" FailbackStep {
        /// Run a command.
        run: At<RunStep>,
    }
}
