//! A drill: who probes, what is broken, and what aborts it.

use std::{net::SocketAddr, time::Duration};

use super::Fault;
use crate::{
    name::{DrillName, GatewayName, PlanName, ProbeName, RegionName},
    unit::{Percent, Rate},
};

/// Kind `Drill`.
#[derive(Clone, Debug, PartialEq)]
pub struct Drill {
    /// From `metadata.name`.
    pub name: DrillName,
    /// The plan it tests.
    pub plan: PlanName,
    /// Live only, in the first issue; others are refused with "not supported yet".
    pub kind: DrillKind,
    /// Why.
    pub purpose: String,
    /// People.
    pub stakeholders: Stakeholders,
    /// At least one `http` probe.
    pub probes: Vec<Probe>,
    /// Length of the baseline. Default 10 s.
    pub baseline: Duration,
    /// What is broken; in order of `at`; at least one.
    pub scenario: Vec<ScenarioStep>,
    /// How long the fault is held from the first step. Default 20 s.
    pub hold: Duration,
    /// What aborts it.
    pub guards: Vec<Guard>,
    /// How many requests of the gateways' access logs are kept as evidence; `None` asks for none.
    pub access_log: Option<u32>,
}

/// Whether faults are real.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum DrillKind {
    /// Real faults.
    Live,
}

/// People and their roles.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Stakeholders {
    /// Answers for it.
    pub lead: Option<String>,
    /// Must sign (recorded; signatures come with a later issue).
    pub approvers: Vec<String>,
    /// Watch.
    pub observers: Vec<String>,
}

/// A synthetic client.
#[derive(Clone, Debug, PartialEq)]
pub struct Probe {
    /// Unique in the drill.
    pub name: ProbeName,
    /// What it does.
    pub kind: ProbeKind,
    /// Open loop: one request due every 1/rate.
    pub rate: Rate,
    /// After it a request has failed. Default 1 s.
    pub timeout: Duration,
    /// Which answers are successes.
    pub expect: Expect,
}

/// Which answers of a probe are successes: those that meet all of it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Expect {
    /// Ranges of statuses, both ends included; one of them must hold the answer's. Default 200 to 299.
    pub status: Vec<(u16, u16)>,
    /// Text that the body contains, within its first MiB.
    pub body: Option<String>,
    /// Name in lower case and whole value of a header that the answer carries.
    pub header: Option<(String, String)>,
}

impl Default for Expect {
    fn default() -> Self {
        Self { status: vec![(200, 299)], body: None, header: None }
    }
}

/// What a probe does.
#[derive(Clone, Debug, PartialEq)]
pub enum ProbeKind {
    /// One request.
    Http(HttpRequest),
    /// Writes with unique ids, read back at the end.
    Writes {
        /// Writes one: JSON body `{"id": …, "sequence": …}`; 2xx acknowledges. An answer `{"epoch": …, "region": …}`
        /// names the exclusive epoch and the region that stored it: two regions in one epoch are split brain.
        put: HttpRequest,
        /// Lists what is stored: JSON array of `{"id", "sequence"}` in stored order; `?probe=<run id>` narrows it.
        get: HttpRequest,
    },
}

/// `GET http://edge/accounts/42`.
#[derive(Clone, Debug, PartialEq)]
pub struct HttpRequest {
    /// Upper case.
    pub method: String,
    /// A gateway's name, resolved to its `listen`, or a literal `host:port`.
    pub host: ProbeHost,
    /// Path with query; begins with `/`.
    pub path: String,
}

/// Where a probe sends to.
#[derive(Clone, Debug, PartialEq)]
pub enum ProbeHost {
    /// Through a gateway of the mesh.
    Gateway(GatewayName),
    /// Anything else.
    Address(SocketAddr),
}

/// Something that is broken at a time after the start.
#[derive(Clone, Debug, PartialEq)]
pub struct ScenarioStep {
    /// After the start of the scenario.
    pub at: Duration,
    /// Undone after this long; `None` lasts until the hold's end.
    pub lasts: Option<Duration>,
    /// What.
    pub action: ScenarioAction,
}

/// What a scenario step does.
#[derive(Clone, Debug, PartialEq)]
pub enum ScenarioAction {
    /// A region is gone.
    Lose {
        /// Which.
        region: RegionName,
        /// How.
        how: LoseHow,
    },
    /// The proxies break something.
    Fault(Fault),
    /// A command of the user, with its mandatory inverse.
    Run {
        /// For people.
        name: String,
        /// argv; never empty.
        command: Vec<String>,
        /// argv of the inverse; also run when the drill aborts or crashed.
        undo: Vec<String>,
        /// For each. Default 30 s.
        timeout: Duration,
    },
    /// Nothing: time passes, named in the timeline.
    Wait {
        /// How long.
        duration: Duration,
    },
}

/// How a region is lost.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum LoseHow {
    /// SIGKILL to every workload and sidecar; needs `run:` endpoints.
    Kill,
    /// SIGSTOP to them: they hang; needs `run:` endpoints.
    Pause,
    /// Every proxy outside drops traffic to it, every proxy inside drops traffic to outside.
    Partition,
}

/// A condition that aborts a drill.
#[derive(Clone, Debug, PartialEq)]
pub struct Guard {
    /// The probe that is watched.
    pub probe: ProbeName,
    /// The condition that trips it.
    pub condition: GuardCondition,
}

/// What trips a guard.
#[derive(Clone, Debug, PartialEq)]
pub enum GuardCondition {
    /// Success rate below this over the trailing window.
    SuccessRateBelow {
        /// The bound.
        percent: Percent,
        /// The window; it must be full once. Default 5 s.
        over: Duration,
    },
    /// 99th percentile above this over the trailing window.
    LatencyP99Above {
        /// The bound.
        latency: Duration,
        /// The window. Default 5 s.
        over: Duration,
    },
    /// More writes than this without acknowledgement.
    IndeterminateAbove {
        /// The bound.
        count: u64,
    },
}
