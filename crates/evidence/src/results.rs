//! What follows from an attempt: the JSON contract of `evidence show --format json`. Times are seconds.
//!
//! A field that format 1 did not have is left out where it is empty, so that the results of a bundle of format 1 read as
//! they were sealed.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use crate::record::{Configuration, Finding, Point, Standing, Tested, Verdict};

/// Measured values, judged objectives and the verdict of one attempt. Field names are stable; fields may be added.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Results {
    /// Drill name.
    pub drill: String,
    /// Number, from 1.
    pub attempt: u64,
    /// Verdict.
    pub verdict: Verdict,
    /// Why it is not `passed`, one full sentence each; empty if it is.
    pub reasons: Vec<String>,
    /// Measured values.
    pub measured: Measured,
    /// What was asked against what was seen.
    pub objectives: Vec<ObjectiveResult>,
    /// Observed and derived points, in order of time.
    pub timeline: Vec<TimelineResult>,
    /// Counts per probe.
    pub probes: Vec<ProbeResult>,
    /// Guards and their trips.
    pub guards: Vec<GuardResult>,
    /// Gaps: those that the engine found, then those that follow from the samples.
    pub findings: Vec<Finding>,
    /// Whether proxies are as before.
    pub residue: ResidueResult,
    /// Requests kept of the gateways' access logs; absent if the drill did not ask for them.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub requests: Option<RequestsResult>,
    /// What the attempt did not prove, one full sentence each. An attempt with any of these never passes.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub unproven: Vec<String>,
    /// What was tested.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub tested: Option<Tested>,
    /// What stands after irreversible steps.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub standing: Option<Standing>,
    /// Undo that was not done when the attempt ended.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub undos: Vec<UndoResult>,
    /// Changes of the configuration during the attempt, with permission.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub changes: Vec<ChangeResult>,
    /// Steps of the failback: what was commanded beside what was observed.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub ramp: Vec<RampResult>,
    /// What the drill engine was late by, or did not do.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub engine: Option<EngineResult>,
    /// What is known of the clocks.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub clock: Option<ClockResult>,
    /// The engine died: the samples are whole up to this offset, as in the timeline.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub truncated: Option<f64>,
}

/// An undo that has not succeeded yet.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct UndoResult {
    /// Step that it takes back.
    pub name: String,
    /// Command, if it is one.
    pub command: Option<Vec<String>>,
    /// Why the last try failed; `null` if it was not tried yet.
    pub error: Option<String>,
    /// RFC 3339, UTC.
    pub since: String,
}

/// A change of the configuration.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct ChangeResult {
    /// When, as in the timeline.
    pub offset: f64,
    /// In force before.
    pub from: Configuration,
    /// In force after.
    pub to: Configuration,
    /// Who changed it.
    pub operator: Option<String>,
}

/// A step of the failback.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct RampResult {
    /// Service that was moved.
    pub service: String,
    /// Region that it was moved to.
    pub region: String,
    /// Percent of requests that were to go there.
    pub commanded: f64,
    /// When it was commanded, as in the timeline.
    pub offset: f64,
    /// Percent of good answers that came from there, once the share had been seen; `null`: unknown.
    pub clients: Option<f64>,
    /// What each proxy sent there.
    pub proxies: Vec<ProxyShareResult>,
    /// When the share was seen at clients and proxies, as in the timeline; `null`: it never was.
    pub observed: Option<f64>,
}

/// What one proxy sent to a region.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct ProxyShareResult {
    /// Name of the proxy.
    pub proxy: String,
    /// Percent of its requests.
    pub share: f64,
    /// When it was seen, as in the timeline.
    pub offset: f64,
}

/// What the drill engine was late by, or did not do.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct EngineResult {
    /// Longest delay of the main loop.
    pub loop_late: f64,
    /// 99th percentile of it.
    pub loop_late_p99: f64,
    /// Longest time from when a request was due until it was sent, of the worst probe.
    pub send_late: f64,
    /// 99th percentile of it, of the worst probe.
    pub send_late_p99: f64,
    /// Requests that were due and never sent, by probe.
    pub unsent: BTreeMap<String, u64>,
    /// The limit of open files was hit.
    pub descriptor_limit: bool,
}

/// What is known of the clocks.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct ClockResult {
    /// Bound on the difference between any two clocks; it is part of every other bound.
    pub error: f64,
    /// Steps of the engine's wall clock during the attempt. They do not touch measured times.
    pub steps: Vec<ClockStepResult>,
}

/// A step of a wall clock.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct ClockStepResult {
    /// When it was detected, as in the timeline.
    pub offset: f64,
    /// By how much; positive is forward.
    pub by: f64,
}

/// Requests kept of the gateways' access logs.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct RequestsResult {
    /// Kept in the bundle.
    pub entries: u64,
    /// Came beyond the number that the drill allows.
    pub beyond: u64,
    /// Were counted by a gateway that could not tell them.
    pub lost: u64,
    /// Stretches of which nothing is known.
    pub gaps: u64,
}

/// Measured values. What could not be measured is `null`, never zero.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Measured {
    /// t7 − t1; `null` if there was no fault, or no samples after it.
    pub recovery: Option<Recovery>,
    /// t7 − t4: from the command to shift to the client's recovery.
    pub execution: Option<f64>,
    /// Stretches of the recovery.
    pub phases: PhaseTimes,
    /// Acknowledged writes that are gone; `null` without a `writes` probe that was read back.
    pub loss: Option<Loss>,
    /// Failed intended requests since the fault, over the probe's rate; of the worst probe.
    pub bad_seconds: f64,
    /// Longest time between the due times of two successes since the fault, of the worst probe.
    pub longest_gap: f64,
    /// From a guard's trip to the last proxy without fault.
    pub time_to_abort: Option<f64>,
    /// The way back; `null` if it was never begun.
    pub failback: Option<Failback>,
    /// Success rates of the worst probe, by what they are over.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub success: Option<SuccessRates>,
    /// Every outage after the fault, in order; the first one is that of `recovery`, if a client saw one.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub outages: Vec<OutageResult>,
    /// Requests that the lost region served before the fault.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub lost_region_hits: Option<u64>,
}

/// Percent of good answers in time, of the worst probe.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct SuccessRates {
    /// From the fault to the end of the drill, outages included.
    pub whole_drill: f64,
    /// From recovery to failback; `null` if recovery was not seen.
    pub after_recovery: Option<f64>,
    /// During failback.
    pub during_failback: Option<f64>,
}

/// A stretch in which clients were harmed.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct OutageResult {
    /// When it began.
    pub stage: Stage,
    /// Due time of its first harmed request, as in the timeline.
    pub offset: f64,
    /// Its length; if `censored`, it was longer.
    pub seconds: f64,
    /// Bound on the error of `seconds`.
    pub error: f64,
    /// Its end was not seen.
    pub censored: bool,
    /// Requests that failed in it.
    pub failed: u64,
    /// Answers that were slower than the latency objective.
    pub slow: u64,
}

/// A stage of the drill after the fault.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub enum Stage {
    /// The fault is in force.
    Fault,
    /// The fault is undone, and failback is not commanded yet.
    Undo,
    /// Failback goes on.
    Failback,
    /// After failback.
    Verify,
}

impl Stage {
    /// Words for people.
    pub fn words(self) -> &'static str {
        match self {
            Self::Fault => "after recovery, before failback",
            Self::Undo => "while the fault was undone",
            Self::Failback => "during failback",
            Self::Verify => "after failback",
        }
    }

    /// Whether the objectives of failback apply.
    pub fn is_failback(self) -> bool {
        matches!(self, Self::Failback | Self::Verify)
    }
}

/// Measured recovery time.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Recovery {
    /// Seconds; if `censored`, the true value is more than this.
    pub seconds: f64,
    /// Bound on the error of `seconds`.
    pub error: f64,
    /// No sustained window was seen: `> seconds`.
    pub censored: bool,
    /// A client saw a failure. If not, `seconds` is 0.
    pub client_visible: bool,
}

/// Stretches of the recovery, for those whose points were seen in this order.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct PhaseTimes {
    /// t2 − t0e.
    pub detect: Option<f64>,
    /// t3 − t2.
    pub decide: Option<f64>,
    /// t5 − t4.
    pub propagate: Option<f64>,
    /// t7 − t5.
    pub warm_up: Option<f64>,
}

/// Measured loss over all `writes` probes.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Loss {
    /// Acknowledged writes that a readback has judged.
    pub acknowledged: u64,
    /// Of these: absent in any readback that judged them (by the rules of format 1: in the last one).
    pub lost: u64,
    /// Of these: absent in a readback before failback.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub absent_at_recovery: Option<u64>,
    /// Of these: absent in the last readback that judged them.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub lost_for_good: Option<u64>,
    /// Of these: there until failback, and absent after it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub lost_by_failback: Option<u64>,
    /// Of these: acknowledged when the fault was in force everywhere, or during failback (by the rules of format 1: at or
    /// after `t0e`).
    pub lost_after_fault: u64,
    /// Sent and never acknowledged: neither lost nor kept by promise.
    pub indeterminate: u64,
    /// Extra copies in the last readback.
    pub duplicated: u64,
    /// Stored behind a write that was sent only after this one had been acknowledged.
    pub reordered: u64,
    /// Absent in a readback that judged them, and found in a later one.
    pub resurrected: u64,
    /// Acknowledged after the last readback, so not judged.
    pub unjudged: u64,
    /// t0e − acknowledge time of the oldest write that the fault lost, at least 0.
    pub seconds: f64,
    /// Two regions acknowledged within one exclusive epoch.
    pub split_brain: bool,
}

/// The way back to the original state.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Failback {
    /// Requests due between t8 and its end.
    pub offered: u64,
    /// Of these failed.
    pub failed: u64,
    /// Acknowledged writes that the failback lost: found after recovery (or written later) and absent after failback.
    pub lost: u64,
    /// t8 − acknowledge time of the oldest of them, at least 0.
    pub lost_seconds: f64,
    /// t9 − t8.
    pub seconds: Option<f64>,
}

/// One objective against what was seen.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct ObjectiveResult {
    /// `recoveryTime`, `dataLoss` (seconds), `successRate` (percent, after recovery), `latencyP99` (seconds); the same with
    /// `failback.` before it from the command to fail back on.
    pub name: String,
    /// From the plan.
    pub asked: f64,
    /// Seen; `null` if it could not be measured. For a censored recovery time, the true value is more.
    pub measured: Option<f64>,
    /// Bound on the error of `measured`.
    pub error: f64,
    /// `null`: inconclusive.
    pub met: Option<bool>,
}

/// A point of the timeline.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct TimelineResult {
    /// Which.
    pub point: Point,
    /// RFC 3339, UTC.
    pub time: String,
    /// Seconds since `t0c` (`t0e`, or the start of the attempt's clock, if there is none).
    pub offset: f64,
    /// Bound on the error.
    pub error: f64,
    /// Who saw it.
    pub observer: String,
    /// For people.
    pub note: String,
}

/// Counts of one probe over the whole attempt.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct ProbeResult {
    /// From the manifest.
    pub name: String,
    /// Requests that were due.
    pub offered: u64,
    /// Requests that were sent.
    pub sent: u64,
    /// Requests that had an answer, good or bad.
    pub answered: u64,
    /// Requests without a good answer in time.
    pub failed: u64,
    /// Failed by class: `status 503`, `wrongHeader`, `wrongBody`, `timeout`, `connect`, `reset`, `late` (by the rules of
    /// format 1 also `notSent`).
    pub failures: BTreeMap<String, u64>,
    /// Before the fault.
    pub baseline: Option<Stretch>,
    /// From the fault to the command to fail back.
    pub fault: Option<Stretch>,
}

/// Figures of one probe over a stretch of time.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Stretch {
    /// Requests that were due.
    pub offered: u64,
    /// Of these failed.
    pub failed: u64,
    /// Percent of good answers.
    pub success_rate: f64,
    /// Median latency of good answers in seconds, from the due time.
    pub p50: Option<f64>,
    /// 99th percentile.
    pub p99: Option<f64>,
    /// Slowest.
    pub max: Option<f64>,
    /// Percent of good answers by the region that gave them, where known.
    pub regions: BTreeMap<String, f64>,
}

/// A guard and its trip.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct GuardResult {
    /// For people.
    pub guard: String,
    /// Offset of the trip, as in the timeline.
    pub tripped: Option<f64>,
    /// What it saw.
    pub seen: Option<String>,
    /// From the trip to the last proxy without fault; `null` if that was not seen.
    pub time_to_abort: Option<f64>,
}

/// Whether proxies are as before.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct ResidueResult {
    /// Proxies known before the first fault.
    pub proxies: u64,
    /// Of these with the same configuration digest at the end.
    pub unchanged: u64,
}
