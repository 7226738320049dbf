//! Plain data of one attempt. Times are nanoseconds: `Nanos` since the start of the attempt's clock, and one wall-clock
//! anchor for all of them.

mod clock;
mod engine;
mod failback;
mod standing;
mod tested;
mod valid;

use std::fmt;

use serde::{Deserialize, Serialize};

pub use clock::{ClockReading, ClockRecord, ClockStep, ObserverClock};
pub use engine::{EngineRecord, Lateness};
pub use failback::{ProxyShare, RampStep};
pub use standing::{OutstandingUndo, Standing};
pub use tested::{Binary, Configuration, ConfigurationChange, NormalState, Served, Tested, TestedEndpoint};

/// Nanoseconds since the attempt's anchor; monotonic. May be negative for what was observed before it.
pub type Nanos = i64;

/// Where zero of the attempt's clock lies.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Anchor {
    /// Nanoseconds since the Unix epoch. A string in JSON, where integers beyond 2^53 are not exact.
    #[serde(with = "crate::canonical::big")]
    pub wall: i64,
    /// Bound on the difference between the clocks of any two observers of this attempt, in nanoseconds.
    pub error: Nanos,
}

/// One synthetic request, as it was intended and as it ended.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Sample {
    /// When it was due.
    pub due: Nanos,
    /// From `due` to the end of the answer (or to the failure).
    pub latency: Nanos,
    /// How it ended.
    pub outcome: Outcome,
    /// Region that answered, as an index into the probe's `regions`; `None` if unknown.
    pub region: Option<u16>,
    /// Tries that the mesh made, if it said so; 0 is unknown.
    pub tries: u8,
}

/// How a request ended. Everything but `Ok` is a failure.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub enum Outcome {
    /// The expected answer: by default any 2xx.
    Ok,
    /// An answer with a status that was not expected.
    Status(u16),
    /// An answer with the expected status, and without a header that was expected.
    WrongHeader,
    /// An answer with the expected status and headers, and a body that was not expected.
    WrongBody,
    /// No answer within the probe's timeout (from `due`).
    Timeout,
    /// The gateway could not be connected to.
    Connect,
    /// The connection ended before the answer did.
    Reset,
    /// Never sent: the engine was late or had too many in flight.
    NotSent,
}

/// All samples of one probe.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct ProbeRecord {
    /// From the manifest.
    pub name: String,
    /// Service that its requests reach first, and whose regions the samples name; `None` if unknown.
    #[serde(default)]
    pub service: Option<String>,
    /// Time between two due requests.
    pub interval: Nanos,
    /// From the manifest.
    pub timeout: Nanos,
    /// Region names that samples index.
    pub regions: Vec<String>,
    /// In order of `due`.
    pub samples: Vec<Sample>,
    /// For a `writes` probe.
    pub writes: Option<WritesRecord>,
}

/// What a `writes` probe wrote and read back.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct WritesRecord {
    /// Writes in order of sequence; the n-th belongs to the n-th sample.
    pub writes: Vec<Write>,
    /// Read-backs: after recovery, and after failback.
    pub readbacks: Vec<Readback>,
}

/// One write.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Write {
    /// Rises by one.
    pub sequence: u64,
    /// When it was acknowledged; `None` if it never was (indeterminate).
    pub acknowledged: Option<Nanos>,
    /// When it was sent; `None` if it never was.
    pub sent: Option<Nanos>,
    /// Region that acknowledged it, as an index into the probe's `regions`.
    pub region: Option<u16>,
    /// Exclusive epoch (term) that the store named in its acknowledgement, if it did.
    pub epoch: Option<u64>,
}

/// What was stored at one moment.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Readback {
    /// `recovered` or `failedBack`.
    pub phase: String,
    /// When it was read.
    pub time: Nanos,
    /// Writes with a sequence below this had ended when it was read; only they are judged.
    pub judged: u64,
    /// Sequences found, in stored order, duplicates kept. Foreign writes are left out.
    pub found: Vec<u64>,
}

/// Names of timeline points.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub enum Point {
    /// Fault commanded.
    T0c,
    /// Fault effective: first proxy or process in which it was seen.
    T0e,
    /// First failure a client saw (when it was due). Derived from samples.
    T1,
    /// Detected: first proxy that took the lost endpoints out.
    T2,
    /// Decided, by the recovery controller.
    T3,
    /// Shift commanded.
    T4,
    /// Last proxy has the shift.
    T5,
    /// First success proven from the recovery region after `t0e`. Derived from samples.
    T6,
    /// Start of the first window of length W in which every objective holds in every slice. Derived from samples.
    T7,
    /// Failback commanded.
    T8,
    /// Failback sustained.
    T9,
    /// All clear: no fault, no lease, no residue.
    T10,
}

impl fmt::Display for Point {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::T0c => "t0c",
            Self::T0e => "t0e",
            Self::T1 => "t1",
            Self::T2 => "t2",
            Self::T3 => "t3",
            Self::T4 => "t4",
            Self::T5 => "t5",
            Self::T6 => "t6",
            Self::T7 => "t7",
            Self::T8 => "t8",
            Self::T9 => "t9",
            Self::T10 => "t10",
        })
    }
}

/// A point of the timeline.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct TimelinePoint {
    /// Which.
    pub point: Point,
    /// When.
    pub time: Nanos,
    /// Bound on the error of `time`.
    pub error: Nanos,
    /// Who saw it: `engine`, `probe balance`, `proxy edge`, `control`.
    pub observer: String,
    /// For people.
    pub note: String,
}

/// Stretches of the attempt.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Phase {
    /// `preflight`, `baseline`, `fault`, `failback`, `verify`.
    pub name: String,
    /// Start.
    pub from: Nanos,
    /// End; absent if the attempt ended inside.
    pub to: Option<Nanos>,
}

/// What the plan asks for, as registered. A missing number is not judged.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Objectives {
    /// RTO in nanoseconds.
    pub recovery_time: Option<Nanos>,
    /// RPO in nanoseconds.
    pub data_loss: Option<Nanos>,
    /// Percent of requests in every slice.
    pub success_rate: f64,
    /// 99th percentile in every slice, in nanoseconds.
    pub latency_p99: Option<Nanos>,
    /// W: length of the window in which all must hold.
    pub sustain: Nanos,
    /// Writes acknowledged after the fault, or during failback, that may be lost. More than these fail the attempt,
    /// whatever `data_loss` allows.
    #[serde(default)]
    pub lost_after_fault: u64,
    /// Violations of the store's integrity that are allowed.
    #[serde(default)]
    pub integrity: Integrity,
    /// Time that a store may take until a write that it acknowledged is visible to a read: a read-back does not judge
    /// writes that were acknowledged less than this before it.
    #[serde(default)]
    pub settle: Nanos,
    /// Requests that the lost region must have served before the fault; with fewer, the attempt proves nothing. `None`:
    /// not judged (registered by format 1).
    #[serde(default)]
    pub minimum_hits: Option<u64>,
    /// Objectives from the command to fail back on; `None`: the ones above.
    #[serde(default)]
    pub failback: Option<FailbackObjectives>,
}

/// Violations of a store's integrity that the plan allows.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Integrity {
    /// Extra copies of a write.
    #[serde(default)]
    pub duplicated: u64,
    /// Writes stored behind one that was sent only after they had been acknowledged.
    #[serde(default)]
    pub reordered: u64,
    /// Writes that were absent, and were there again later.
    #[serde(default)]
    pub resurrected: u64,
}

/// Objectives of the way back.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct FailbackObjectives {
    /// Longest outage during failback, in nanoseconds; `None`: the plan's recovery time.
    #[serde(default)]
    pub recovery_time: Option<Nanos>,
    /// Loss by failback, in nanoseconds; `None`: the plan's.
    #[serde(default)]
    pub data_loss: Option<Nanos>,
    /// Percent of requests over the whole failback; `None`: the plan's.
    #[serde(default)]
    pub success_rate: Option<f64>,
    /// 99th percentile over the whole failback, in nanoseconds; `None`: the plan's.
    #[serde(default)]
    pub latency_p99: Option<Nanos>,
}

/// A guard as registered, and its trip.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct GuardRecord {
    /// For people: `balance successRate < 50 % over 5 s`.
    pub guard: String,
    /// When it tripped.
    pub tripped: Option<Nanos>,
    /// What it saw.
    pub seen: Option<String>,
    /// When the last proxy was without fault.
    pub cleared: Option<Nanos>,
}

/// A gap that the attempt found.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Finding {
    /// How bad.
    pub severity: Severity,
    /// One line.
    pub title: String,
    /// What was seen.
    pub detail: String,
    /// How to mend it.
    pub fix: String,
}

/// How bad a finding is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub enum Severity {
    /// Nice to mend.
    Low,
    /// Should be mended.
    Medium,
    /// Would have hurt in a real disaster.
    High,
}

/// Whether proxies were put back.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Residue {
    /// Configuration digests before the first fault, by proxy.
    pub before: std::collections::BTreeMap<String, String>,
    /// The same at the end; a proxy that could not be asked is absent.
    pub after: std::collections::BTreeMap<String, String>,
}

/// How an attempt ended, apart from what the numbers say.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub enum Ending {
    /// Ran to its end: the numbers decide.
    Completed,
    /// Stopped before any fault.
    Refused {
        /// Why, one sentence each.
        reasons: Vec<String>,
    },
    /// Stopped by a guard or a person.
    Aborted {
        /// Why.
        reason: String,
    },
    /// Engine, control plane or machine died.
    Crashed {
        /// What is known.
        reason: String,
    },
}

/// Verdict of an attempt.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub enum Verdict {
    /// Every objective was met, and nothing is unproven.
    Passed,
    /// An objective was missed.
    Failed,
    /// Stopped on purpose.
    Aborted,
    /// Never started.
    Refused,
    /// Died.
    Crashed,
    /// Within the error bound of an objective, or unproven.
    Inconclusive,
}

impl fmt::Display for Verdict {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Passed => "passed",
            Self::Failed => "failed",
            Self::Aborted => "aborted",
            Self::Refused => "refused",
            Self::Crashed => "crashed",
            Self::Inconclusive => "inconclusive",
        })
    }
}

/// Something that was done, or seen, with its time: the journal of the attempt.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct JournalEntry {
    /// When.
    pub time: Nanos,
    /// `intent`, `effect`, `undo`, `observation`, `phase`.
    pub kind: String,
    /// For people.
    pub text: String,
    /// Machine-readable detail (undo command, ids); secrets never.
    pub detail: serde_json::Value,
}

/// An event of a proxy, the control plane or the supervisor, on the attempt's clock.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct EventRecord {
    /// When, by the source's clock.
    pub time: Nanos,
    /// `proxy edge`, `control`, `supervisor`.
    pub source: String,
    /// As the source said it.
    pub event: serde_json::Value,
}

/// Requests at the gateways that probes go through, for a drill that asks for them.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct RequestLog {
    /// Entries kept at most, as the drill says.
    pub most: u64,
    /// Requests beyond that.
    pub beyond: u64,
    /// Requests that a gateway counted and could not tell.
    pub lost: u64,
    /// Stretches of which nothing is known: a gateway did not answer, or was started anew.
    pub gaps: u64,
    /// In the order in which they came.
    pub entries: Vec<RequestEntry>,
}

/// One request at a gateway.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct RequestEntry {
    /// Name of the gateway.
    pub gateway: String,
    /// With Envoy's field names, whichever program the gateway is.
    pub request: serde_json::Value,
}

/// Everything of an attempt that is sealed.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Attempt {
    /// Drill name.
    pub drill: String,
    /// Number, from 1, gapless per drill.
    pub number: u64,
    /// Plan name.
    pub plan: String,
    /// `sha256:…` over the canonical plan and drill.
    pub digest: String,
    /// The canonical plan and drill, as registered.
    pub registered: serde_json::Value,
    /// Type, purpose, people, scope: for the report.
    pub about: serde_json::Value,
    /// The region that the scenario takes away, if it does.
    pub lost_region: Option<String>,
    /// Where recovery goes, in order.
    pub recovery_regions: Vec<String>,
    /// Zero of all times.
    pub anchor: Anchor,
    /// What was asked.
    pub objectives: Objectives,
    /// Stretches.
    pub phases: Vec<Phase>,
    /// Observed points (t1, t6, t7 are derived, and not here).
    pub timeline: Vec<TimelinePoint>,
    /// Probes with raw samples.
    pub probes: Vec<ProbeRecord>,
    /// Guards.
    pub guards: Vec<GuardRecord>,
    /// Findings.
    pub findings: Vec<Finding>,
    /// Proxies before and after.
    pub residue: Residue,
    /// What was done.
    pub journal: Vec<JournalEntry>,
    /// What was seen at proxies and control plane.
    pub events: Vec<EventRecord>,
    /// Requests at gateways; `None` if the drill did not ask for them.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub requests: Option<RequestLog>,
    /// Programs and their versions.
    pub programs: std::collections::BTreeMap<String, String>,
    /// What was tested, as registered.
    #[serde(default)]
    pub tested: Tested,
    /// The normal state of the plan's services, as registered. Empty: unknown.
    #[serde(default)]
    pub normal: Vec<NormalState>,
    /// What each region served before the fault, as the proxies counted it. Empty: unknown.
    #[serde(default)]
    pub served: Vec<Served>,
    /// Steps of the failback, in order.
    #[serde(default)]
    pub ramp: Vec<RampStep>,
    /// What stands after irreversible steps; `None`: nothing does.
    #[serde(default)]
    pub standing: Option<Standing>,
    /// Undo that was not done when the attempt ended, of this attempt or an earlier one.
    #[serde(default)]
    pub undos: Vec<OutstandingUndo>,
    /// Changes of the configuration during the attempt.
    #[serde(default)]
    pub changes: Vec<ConfigurationChange>,
    /// Shortcomings of the engine; `None`: unknown.
    #[serde(default)]
    pub engine: Option<EngineRecord>,
    /// Clocks; `None`: unknown beyond `anchor`.
    #[serde(default)]
    pub clock: Option<ClockRecord>,
    /// Samples of a crashed attempt are whole up to here; `None`: they were not cut.
    #[serde(default)]
    pub truncated: Option<Nanos>,
    /// What the attempt could not prove, for reasons that are not in the record otherwise; one full sentence each.
    #[serde(default)]
    pub unproven: Vec<String>,
    /// How it ended.
    pub ending: Ending,
}

/// What goes into the ledger before anything else happens: the number of the attempt is given to exactly this.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Registration {
    /// Drill name.
    pub drill: String,
    /// Plan name.
    pub plan: String,
    /// The canonical plan and drill; its digest is computed when it is registered.
    pub registered: serde_json::Value,
    /// Type, purpose, people, scope: for the report.
    pub about: serde_json::Value,
    /// The region that the scenario takes away, if it does.
    pub lost_region: Option<String>,
    /// Where recovery goes, in order.
    pub recovery_regions: Vec<String>,
    /// Zero of all times of the attempt.
    pub anchor: Anchor,
    /// What is asked.
    pub objectives: Objectives,
    /// What is tested.
    #[serde(default)]
    pub tested: Tested,
    /// The normal state of the plan's services. Empty: unknown.
    #[serde(default)]
    pub normal: Vec<NormalState>,
}

impl Registration {
    /// `sha256:…` over the canonical plan and drill.
    ///
    /// # Errors
    /// If `registered` has no canonical form.
    pub fn digest(&self) -> Result<String, crate::canonical::CanonicalError> {
        crate::canonical::digest_of(&self.registered)
    }

    /// An attempt with nothing seen yet; large integers in opaque values are strings, as the ledger holds them.
    ///
    /// # Errors
    /// If `registered` has no canonical form.
    pub fn attempt(&self, number: u64, ending: Ending) -> Result<Attempt, crate::canonical::CanonicalError> {
        Ok(Attempt {
            digest: self.digest()?,
            registered: crate::canonical::exact(self.registered.clone()),
            about: crate::canonical::exact(self.about.clone()),
            ..self.outline(number, ending)
        })
    }

    /// As [`Registration::attempt`], without the opaque values and their digest: enough to measure, cheap to make.
    pub fn outline(&self, number: u64, ending: Ending) -> Attempt {
        Attempt {
            drill: self.drill.clone(),
            number,
            plan: self.plan.clone(),
            digest: String::new(),
            registered: serde_json::Value::Null,
            about: serde_json::Value::Null,
            lost_region: self.lost_region.clone(),
            recovery_regions: self.recovery_regions.clone(),
            anchor: self.anchor.clone(),
            objectives: self.objectives.clone(),
            phases: Vec::new(),
            timeline: Vec::new(),
            probes: Vec::new(),
            guards: Vec::new(),
            findings: Vec::new(),
            residue: Residue::default(),
            journal: Vec::new(),
            events: Vec::new(),
            requests: None,
            programs: std::collections::BTreeMap::new(),
            tested: self.tested.clone(),
            normal: self.normal.clone(),
            served: Vec::new(),
            ramp: Vec::new(),
            standing: None,
            undos: Vec::new(),
            changes: Vec::new(),
            engine: None,
            clock: None,
            truncated: None,
            unproven: Vec::new(),
            ending,
        }
    }
}
