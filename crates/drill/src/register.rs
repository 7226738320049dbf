//! What is registered before anything else happens: plan and drill with every default filled in, as JSON.

use std::{collections::BTreeMap, time::Duration};

use evidence::record::{Anchor, NormalState, Objectives as Asked, Registration, Tested};
use model::config::{
    Caller, Config, Delay, Drill, DrillKind, Expect, Fault, FaultAction, FaultStep, GuardCondition, HttpRequest,
    LoseHow, Objectives, Pattern, Probe, ProbeHost, ProbeKind, RecoveryPlan, RunStep, ScenarioAction, ScenarioStep,
    Step, Tier, TlsFault, Trigger, Way,
};
use model::name::ServiceName;
use serde_json::{Value, json};

use crate::clock::nanos;

/// The registration of a drill of this plan.
pub fn registration(
    config: &Config,
    drill: &Drill,
    plan: &RecoveryPlan,
    anchor: Anchor,
    tested: Tested,
) -> Registration {
    let Pattern::ActivePassive { standby, .. } = &plan.pattern;
    Registration {
        drill: drill.name.to_string(),
        plan: plan.name.to_string(),
        registered: canonical(json!({"plan": plan_json(plan), "drill": drill_json(drill)})),
        about: canonical(about(config, drill, plan)),
        lost_region: lost_region(drill),
        recovery_regions: standby.iter().map(ToString::to_string).collect(),
        anchor,
        objectives: asked(&plan.objectives),
        tested,
        normal: normal(plan),
    }
}

/// Every service of the plan is served by its primary.
fn normal(plan: &RecoveryPlan) -> Vec<NormalState> {
    let shares = BTreeMap::from([(plan.primary().to_string(), 100.0)]);
    let state = |service: &ServiceName| NormalState { service: service.to_string(), shares: shares.clone() };
    plan.services.iter().map(state).collect()
}

/// The region that the scenario takes away: the first `lose`.
pub fn lost_region(drill: &Drill) -> Option<String> {
    drill.scenario.iter().find_map(|step| match &step.action {
        ScenarioAction::Lose { region, .. } => Some(region.to_string()),
        _ => None,
    })
}

/// As it reads once it has been written canonically (`5.0` becomes `5`), so that it equals what the ledger holds.
fn canonical(value: Value) -> Value {
    let written = evidence::canonical::to_vec(&value).ok();
    // What has no canonical form is refused when it is registered.
    written.and_then(|bytes| serde_json::from_slice(&bytes).ok()).unwrap_or(value)
}

fn asked(objectives: &Objectives) -> Asked {
    Asked {
        recovery_time: objectives.recovery_time.map(nanos),
        data_loss: objectives.data_loss.map(nanos),
        success_rate: objectives.success_rate.0,
        latency_p99: objectives.latency_p99.map(nanos),
        sustain: nanos(objectives.sustain),
        lost_after_fault: objectives.lost_after_fault.into(),
        integrity: evidence::record::Integrity {
            duplicated: objectives.integrity.duplicated.into(),
            reordered: objectives.integrity.reordered.into(),
            resurrected: objectives.integrity.resurrected.into(),
        },
        settle: nanos(objectives.settle),
        minimum_hits: Some(objectives.minimum_hits.into()),
        failback: Some(evidence::record::FailbackObjectives {
            recovery_time: objectives.failback.recovery_time.map(nanos),
            data_loss: objectives.failback.data_loss.map(nanos),
            success_rate: objectives.failback.success_rate.map(|rate| rate.0),
            latency_p99: objectives.failback.latency_p99.map(nanos),
        }),
    }
}

fn about(config: &Config, drill: &Drill, plan: &RecoveryPlan) -> Value {
    json!({
        "type": kind(drill.kind),
        "purpose": drill.purpose,
        "lead": drill.stakeholders.lead,
        "approvers": drill.stakeholders.approvers,
        "observers": drill.stakeholders.observers,
        "mesh": config.mesh.name,
        "trustDomain": config.mesh.trust_domain,
        "regions": config.mesh.regions,
        "services": plan.services,
    })
}

fn kind(kind: DrillKind) -> &'static str {
    match kind {
        DrillKind::Live => "live",
    }
}

/// Durations as numbers of seconds: one form, whatever the manifest wrote.
fn s(duration: Duration) -> Value {
    json!(duration.as_secs_f64())
}

fn plan_json(plan: &RecoveryPlan) -> Value {
    let Pattern::ActivePassive { primary, standby, tier } = &plan.pattern;
    let tier = match tier {
        Tier::Hot => "hot",
        Tier::Warm => "warm",
        Tier::PilotLight => "pilotLight",
    };
    let steps: Vec<Value> = plan.failover.steps.iter().map(step_json).collect();
    let before: Vec<Value> = plan.failback.steps.iter().map(run_json).collect();
    json!({
        "name": plan.name,
        "services": plan.services,
        "activePassive": {"primary": primary, "standby": standby, "tier": tier},
        "objectives": {
            "recoveryTime": plan.objectives.recovery_time.map(s),
            "dataLoss": plan.objectives.data_loss.map(s),
            "successRate": plan.objectives.success_rate,
            "latencyP99": plan.objectives.latency_p99.map(s),
            "sustain": s(plan.objectives.sustain),
            "lostAfterFault": plan.objectives.lost_after_fault,
            "integrity": {
                "duplicated": plan.objectives.integrity.duplicated,
                "reordered": plan.objectives.integrity.reordered,
                "resurrected": plan.objectives.integrity.resurrected,
            },
            "settle": s(plan.objectives.settle),
            "minimumHits": plan.objectives.minimum_hits,
            "failback": {
                "recoveryTime": plan.objectives.failback.recovery_time.map(s),
                "dataLoss": plan.objectives.failback.data_loss.map(s),
                "successRate": plan.objectives.failback.success_rate,
                "latencyP99": plan.objectives.failback.latency_p99.map(s),
            },
        },
        "failover": {
            "trigger": trigger_json(plan.failover.trigger),
            "quorum": plan.failover.quorum,
            "steps": steps,
        },
        "failback": {
            "trigger": trigger_json(plan.failback.trigger),
            "steps": before,
            "ramp": plan.failback.ramp,
            "dwell": s(plan.failback.dwell),
        },
    })
}

fn trigger_json(trigger: Trigger) -> Value {
    match trigger {
        Trigger::Manual => json!("manual"),
        Trigger::Automatic { unhealthy_for } => json!({"automatic": {"unhealthyFor": s(unhealthy_for)}}),
    }
}

fn step_json(step: &Step) -> Value {
    match step {
        Step::Shift { to } => json!({"shift": {"to": to}}),
        Step::Run(run) => json!({"run": run_json(run)}),
    }
}

fn run_json(run: &RunStep) -> Value {
    let mut value = json!({
        "name": run.name,
        "in": run.region,
        "command": run.command,
        "timeout": s(run.timeout),
        "undo": run.undo,
    });
    // What is not asked for leaves no mark: digests of plans that were registered before stay what they are.
    if let Some(check) = &run.check {
        value["check"] = json!(check);
    }
    value
}

fn drill_json(drill: &Drill) -> Value {
    let probes: Vec<Value> = drill.probes.iter().map(probe_json).collect();
    let scenario: Vec<Value> = drill.scenario.iter().map(scenario_json).collect();
    let guards: Vec<Value> = drill.guards.iter().map(|guard| guard_json(&guard.probe, &guard.condition)).collect();
    let mut value = json!({
        "name": drill.name,
        "plan": drill.plan,
        "type": kind(drill.kind),
        "purpose": drill.purpose,
        "stakeholders": {
            "lead": drill.stakeholders.lead,
            "approvers": drill.stakeholders.approvers,
            "observers": drill.stakeholders.observers,
        },
        "probes": probes,
        "baseline": s(drill.baseline),
        "scenario": scenario,
        "hold": s(drill.hold),
        "guards": guards,
    });
    // What is not asked for leaves no mark: digests of drills that were registered before stay what they are.
    if let Some(entries) = drill.access_log {
        value["evidence"] = json!({"accessLog": {"entries": entries}});
    }
    value
}

fn request(request: &HttpRequest) -> String {
    let host = match &request.host {
        ProbeHost::Gateway(name) => name.to_string(),
        ProbeHost::Address(address) => address.to_string(),
    };
    format!("{} http://{host}{}", request.method, request.path)
}

fn probe_json(probe: &Probe) -> Value {
    let mut value = json!({"name": probe.name, "rate": probe.rate, "timeout": s(probe.timeout)});
    match &probe.kind {
        ProbeKind::Http(get) => value["http"] = json!(request(get)),
        ProbeKind::Writes { put, get } => value["writes"] = json!({"put": request(put), "get": request(get)}),
    }
    if probe.expect != Expect::default() {
        let Expect { body, header, .. } = &probe.expect;
        value["expect"] = json!({"status": probe.expect.statuses(), "body": body, "header": header});
    }
    value
}

fn scenario_json(step: &ScenarioStep) -> Value {
    let mut value = json!({"at": s(step.at), "for": step.lasts.map(s)});
    match &step.action {
        ScenarioAction::Lose { region, how } => {
            value["lose"] = json!({"region": region, "how": how_text(*how)});
        }
        ScenarioAction::Fault(Fault::Requests(fault)) => value["fault"] = fault_json(fault),
        ScenarioAction::Fault(Fault::Partition(step)) => {
            let way = match step.way {
                Way::Both => "both",
                Way::To => "to",
                Way::From => "from",
            };
            value["partition"] = json!({"regions": step.regions, "from": step.from, "way": way});
        }
        ScenarioAction::Fault(Fault::NoControl { region }) => value["noControl"] = json!({"region": region}),
        ScenarioAction::Run { name, command, undo, timeout } => {
            value["run"] = json!({"name": name, "command": command, "undo": undo, "timeout": s(*timeout)});
        }
        ScenarioAction::Wait { duration } => value["wait"] = s(*duration),
    }
    value
}

/// As the manifest writes it.
pub fn how_text(how: LoseHow) -> &'static str {
    match how {
        LoseHow::Kill => "kill",
        LoseHow::Pause => "pause",
        LoseHow::Partition => "partition",
    }
}

fn fault_json(fault: &FaultStep) -> Value {
    let action = match &fault.action {
        FaultAction::Delay(Delay::Fixed(delay)) => json!({"delay": s(*delay)}),
        FaultAction::Delay(Delay::Normal { mean, deviation }) => {
            json!({"delay": {"mean": s(*mean), "deviation": s(*deviation)}})
        }
        FaultAction::Delay(Delay::Spike { base, spike, percent }) => {
            json!({"delay": {"base": s(*base), "spike": s(*spike), "percent": percent}})
        }
        FaultAction::Abort(status) => json!({"abort": status}),
        FaultAction::AbortGrpc(status) => json!({"abortGrpc": status}),
        FaultAction::Refuse => json!("refuse"),
        FaultAction::Reset => json!("reset"),
        FaultAction::ResetAfter(bytes) => json!({"resetAfter": bytes}),
        FaultAction::Blackhole => json!("blackhole"),
        FaultAction::DropConnect => json!("dropConnect"),
        FaultAction::Bandwidth(bytes) => json!({"bandwidth": bytes}),
        FaultAction::Truncate(bytes) => json!({"truncate": bytes}),
        FaultAction::Dns => json!("dns"),
        FaultAction::Tls(TlsFault::Expired) => json!({"tls": "expired"}),
        FaultAction::Tls(TlsFault::Untrusted) => json!({"tls": "untrusted"}),
        FaultAction::Tls(TlsFault::WrongIdentity) => json!({"tls": "wrongIdentity"}),
    };
    let from = fault.from.as_ref().map(|from| match from {
        Caller::Service(name) => name.as_str(),
        Caller::Gateway(name) => name.as_str(),
    });
    json!({
        "service": fault.service,
        "from": from,
        "region": fault.region,
        "path": fault.path,
        "method": fault.method,
        "header": fault.header,
        "percent": fault.percent,
        "action": action,
    })
}

fn guard_json(probe: &model::name::ProbeName, condition: &GuardCondition) -> Value {
    match condition {
        GuardCondition::SuccessRateBelow { percent, over } => {
            json!({"probe": probe, "successRateBelow": percent, "over": s(*over)})
        }
        GuardCondition::LatencyP99Above { latency, over } => {
            json!({"probe": probe, "latencyP99Above": s(*latency), "over": s(*over)})
        }
        GuardCondition::IndeterminateAbove { count } => json!({"probe": probe, "indeterminateAbove": count}),
    }
}
