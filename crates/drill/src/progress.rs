//! What a drill tells while it runs, for a terminal or a console. Display only: nothing is decided from it, and a slow
//! receiver loses lines rather than holding up the drill.

use std::{collections::BTreeMap, path::PathBuf, time::Duration};

use evidence::record::{Finding, Point, Verdict};

/// One thing worth showing, in the order in which it happened.
#[derive(Clone, Debug, PartialEq)]
pub enum Progress {
    /// The attempt has its number and is in the ledger.
    Registered {
        /// Drill name.
        drill: String,
        /// Attempt number.
        attempt: u64,
        /// Plan name.
        plan: String,
        /// `sha256:…` of the canonical plan and drill.
        digest: String,
        /// Index of the ledger's entry.
        entry: u64,
    },
    /// A phase began: `preflight`, `baseline`, `fault`, `return`, `failback`, `verify`.
    Phase {
        /// Its name.
        name: &'static str,
        /// How long it should take, if that is fixed.
        planned: Option<Duration>,
    },
    /// Preflight passed.
    Preflight {
        /// Endpoints audited.
        endpoints: usize,
        /// Proxies in sync.
        proxies: usize,
        /// From the last sign of life of the harmless lease to the last proxy without its overlay.
        lapse: Duration,
    },
    /// Baseline passed.
    Baseline {
        /// Its length.
        took: Duration,
        /// What every probe saw.
        probes: Vec<ProbeFigures>,
    },
    /// A step of the scenario took effect, or failed.
    Step {
        /// `east is lost`, `fault on ledger`, the name of a `run` step.
        title: String,
        /// `SIGKILL to 5 workloads, 5 proxies`; or why it failed.
        result: Result<String, String>,
        /// Since the scenario's start (t0).
        offset: Duration,
    },
    /// A step of the scenario was taken back, or could not be.
    Undone {
        /// As in `Step`.
        title: String,
        /// Or why it could not be.
        result: Result<(), String>,
        /// Since the scenario's start (t0).
        offset: Duration,
    },
    /// A point of the timeline was seen. Each point comes once.
    Point {
        /// Which.
        point: Point,
        /// Since the scenario's start (t0), in seconds; may be below 0 by the clock's error.
        offset: f64,
        /// Who saw it.
        observer: String,
        /// For people.
        note: String,
    },
    /// A step of the recovery plan ended.
    PlanStep {
        /// Its name.
        name: String,
        /// Took.
        took: Duration,
        /// Or why it failed.
        result: Result<(), String>,
        /// Since the scenario's start (t0), in seconds.
        offset: f64,
    },
    /// Every objective holds again over a whole sustain window.
    Recovered {
        /// Measured recovery time, in seconds.
        seconds: f64,
        /// Bound on its error, in seconds.
        error: f64,
        /// The objective, in seconds.
        objective: Option<f64>,
        /// Whether any client saw a failure at all.
        client_visible: bool,
        /// Requests offered since the fault, and how many of them failed.
        offered: u64,
        /// Failed of them.
        failed: u64,
    },
    /// The hold ended and it had not recovered.
    NotRecovered {
        /// Recovery takes longer than this, in seconds.
        longer_than: f64,
    },
    /// Writes were read back.
    Loss {
        /// `recovered` or `failedBack`.
        phase: &'static str,
        /// Writes acknowledged up to then.
        acknowledged: u64,
        /// Acknowledged and absent.
        lost: u64,
        /// Without acknowledgement.
        indeterminate: u64,
        /// Oldest lost write's acknowledgement before the fault, in seconds.
        seconds: f64,
        /// The objective, in seconds.
        objective: Option<f64>,
    },
    /// Failback put this share on the primary.
    Ramp {
        /// Percent.
        percent: f64,
    },
    /// Failback is done and objectives held for a whole sustain window, or not.
    FailedBack {
        /// Shares that were seen on the way.
        ramp: Vec<f64>,
        /// Requests offered during failback.
        offered: u64,
        /// Failed of them.
        failed: u64,
        /// Why it did not end well, if so.
        problem: Option<String>,
    },
    /// Every proxy was compared with what it was before the fault.
    Residue {
        /// Proxies before.
        proxies: usize,
        /// As before.
        unchanged: usize,
        /// Those that differ or do not answer.
        differing: Vec<String>,
        /// Steps whose undo failed.
        owed: Vec<String>,
    },
    /// It is being stopped: by a guard, a person, or because a step failed.
    Aborting {
        /// Why.
        reason: String,
    },
    /// After a stop: no proxy carries any fault of this drill.
    Cleared {
        /// From the trip to the last proxy.
        after: Duration,
    },
    /// Preflight or baseline failed; no fault was laid.
    Refused {
        /// One sentence each.
        reasons: Vec<String>,
    },
    /// The mesh was lost under the drill.
    Crashed {
        /// What is known.
        reason: String,
    },
    /// The mesh is not in the plan's normal state, and is waited for.
    Waiting {
        /// Why not, one sentence each.
        reasons: Vec<String>,
        /// For how long it will still be waited for.
        left: Duration,
    },
    /// Worth knowing, and not a verdict.
    Warning {
        /// One sentence.
        text: String,
    },
    /// A gap was found.
    Finding(Finding),
    /// The bundle is written.
    Sealed {
        /// Verdict.
        verdict: Verdict,
        /// The bundle.
        bundle: PathBuf,
    },
    /// Numbers of the last seconds; twice a second while probes run.
    Tick(Live),
}

/// What a probe saw over a stretch.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct ProbeFigures {
    /// Probe name.
    pub name: String,
    /// Requests that were due.
    pub offered: u64,
    /// Succeeded of them.
    pub ok: u64,
    /// Failed of them.
    pub failed: u64,
    /// Not sent of them, for reasons of the drill engine's own: they say nothing of the service.
    pub unsent: u64,
    /// 99th percentile of latency.
    pub p99: Option<Duration>,
    /// Answers by region, in percent of those whose region is known.
    pub shares: BTreeMap<String, f64>,
}

/// Live numbers.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Live {
    /// Phase that it is in.
    pub phase: &'static str,
    /// Since the phase began.
    pub elapsed: Duration,
    /// How long the phase should take, if that is fixed.
    pub planned: Option<Duration>,
    /// Since the scenario's start (t0), once it has.
    pub since_fault: Option<Duration>,
    /// Every probe over the last second.
    pub probes: Vec<ProbeFigures>,
}
