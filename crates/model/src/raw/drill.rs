//! Kind `Drill`.

use super::{
    Argv, List, Text,
    fault::{Fault, NoControl, Partition},
};
use crate::{
    name::{PlanName, ProbeName, RegionName},
    read::{At, mapping, words},
    scalar::{Time, Unsupported},
    unit::Rate,
};

mapping! {
    /// A recovery plan put to the test.
    "the spec of a Drill" Drill {
        /// The recovery plan that it tests.
        plan: At<PlanName>,
        /// Only `live` yet: real faults.
        r#type: Option<At<DrillType>>,
        /// Why it is done.
        purpose: Option<Text>,
        /// People.
        stakeholders: Option<At<Stakeholders>>,
        /// Synthetic clients; at least one with `http`.
        probes: At<Vec<At<Probe>>>,
        /// How long the steady state is measured first. Default 10s.
        baseline: Option<At<Time>>,
        /// What is broken, and when.
        scenario: At<Vec<At<ScenarioStep>>>,
        /// How long the fault is held from the start of the scenario. Default 20s.
        hold: Option<At<Time>>,
        /// What aborts it.
        guards: List<Guard>,
        /// What is sealed beside what probes see.
        evidence: Option<At<Evidence>>,
        /// When it is repeated.
        schedule: Option<At<Unsupported>>,
        /// When it may run.
        windows: Option<At<Unsupported>>,
    }
}

mapping! {
    /// What is sealed beside what probes see.
    "`evidence`" Evidence {
        /// Every request at the gateways that probes go through, as an access log has it; `{}` takes the default.
        access_log: Option<At<AccessLog>>,
    }
}

mapping! {
    /// Requests as an access log has them.
    "`accessLog`" AccessLog {
        /// How many are kept, at most 100000; the rest is counted. Default 10000.
        entries: Option<At<u32>>,
    }
}

words! {
    /// Whether faults are real.
    DrillType {
        /// Real faults.
        Live = "live",
        #[schemars(skip)]
        Simulated = "simulated",
        #[schemars(skip)]
        Tabletop = "tabletop",
    }
}

mapping! {
    /// People and their roles.
    "`stakeholders`" Stakeholders {
        /// Answers for it.
        lead: Option<Text>,
        /// Must approve; recorded.
        approvers: List<String>,
        /// Watch.
        observers: List<String>,
    }
}

mapping! {
    /// A synthetic client: either `http` or `writes`.
    "a probe" Probe {
        /// Name, unique in the drill.
        name: At<ProbeName>,
        /// Method and URL, as `GET http://edge/accounts/42`; the host is a gateway or an IP address and port.
        http: Option<Text>,
        /// Writes with unique ids, read back at the end.
        writes: Option<At<Writes>>,
        /// Requests a second, as `200/s`, sent whether or not earlier ones were answered.
        rate: At<Rate>,
        /// After it a request has failed. Default 1s.
        timeout: Option<At<Time>>,
        /// Which answers are successes. Default: those with a 2xx status.
        expect: Option<At<Expect>>,
    }
}

mapping! {
    /// Which answers of a probe are successes: those that meet all of it.
    "`expect`" Expect {
        /// Statuses, as `200`, `2xx` or `200, 404`. Default 2xx.
        status: Option<Text>,
        /// Text that the body contains, within its first MiB.
        body: Option<Text>,
        /// A header that the answer carries, with its whole value, as `x-role: primary`.
        header: Option<Text>,
    }
}

mapping! {
    /// Writes with unique ids, read back at the end.
    "`writes`" Writes {
        /// Method and URL that stores a JSON body `{"id": …, "sequence": …}`; a 2xx acknowledges it.
        put: Text,
        /// Method and URL that lists what is stored, as a JSON array of `{"id", "sequence"}`.
        get: Text,
    }
}

mapping! {
    /// Something that is broken at a time: one of `lose`, `fault`, `partition`, `noControl`, `run`, `wait`.
    "a scenario step" ScenarioStep {
        /// When, from the start of the scenario. Default 0s.
        at: Option<At<Time>>,
        /// Undone after this long; not with `run` and `wait`. Default: at the hold's end.
        r#for: Option<At<Time>>,
        /// A region is gone.
        lose: Option<At<Lose>>,
        /// The proxies hurt matching requests.
        fault: Option<At<Fault>>,
        /// The network between regions loses bytes.
        partition: Option<At<Partition>>,
        /// Proxies do not hear the control plane; what it says is taken when that is over.
        no_control: Option<At<NoControl>>,
        /// A command of yours breaks something.
        run: Option<At<ScenarioRun>>,
        /// Time passes.
        wait: Option<At<Time>>,
    }
}

mapping! {
    /// A region is gone.
    "`lose`" Lose {
        /// Which.
        region: At<RegionName>,
        /// How. Default kill.
        how: Option<At<LoseHow>>,
    }
}

words! {
    /// How a region is lost.
    LoseHow {
        /// SIGKILL to every workload and sidecar; needs endpoints with `run`.
        Kill = "kill",
        /// SIGSTOP to them: they hang; needs endpoints with `run`.
        Pause = "pause",
        /// Proxies drop all traffic between the region and the rest.
        Partition = "partition",
    }
}

mapping! {
    /// A command of yours, with its inverse.
    "`run`" ScenarioRun {
        /// For people.
        name: Text,
        /// Command and arguments.
        command: Argv,
        /// Command and arguments of the inverse; also run when the drill aborts or crashed. It runs at least once and must be idempotent.
        undo: Argv,
        /// Bound on each. Default 30s.
        timeout: Option<At<Time>>,
    }
}

mapping! {
    /// A condition that aborts the drill: one of `successRate`, `latencyP99`, `indeterminate`.
    "a guard" Guard {
        /// The probe that is watched.
        probe: At<ProbeName>,
        /// Trips when the success rate is below, as `"< 50%"`.
        success_rate: Option<Text>,
        /// Trips when the 99th percentile is above, as `"> 1s"`.
        latency_p99: Option<Text>,
        /// Trips when more writes than this are without acknowledgement, as `"> 200"`.
        indeterminate: Option<Text>,
        /// Trailing window of `successRate` and `latencyP99`. Default 5s.
        over: Option<At<Time>>,
    }
}
