//! Recovery plans and drills, written out as manifests.

use model::{
    config::{Drill, DrillKind, FaultAction, FaultStep, Guard, GuardCondition, HttpRequest, LoseHow, Objectives, Pattern, Probe, ProbeHost, ProbeKind, RecoveryPlan, RunStep, ScenarioAction, ScenarioStep, Step, Tier, Trigger},
    unit::print_duration,
};
use serde_json::{Value, json};

/// The spec of a plan.
pub fn plan(plan: &RecoveryPlan) -> Value {
    let Pattern::ActivePassive { primary, standby, tier } = &plan.pattern;
    let tier = match tier {
        Tier::Hot => "hot",
        Tier::Warm => "warm",
        Tier::PilotLight => "pilotLight",
    };
    let steps = plan.failover.steps.iter().map(|step| match step {
        Step::Shift { to } => json!({"shift": {"to": to}}),
        Step::Run(run) => json!({"run": run_step(run)}),
    });
    let before = plan.failback.steps.iter().map(|run| json!({"run": run_step(run)}));
    json!({
        "services": plan.services,
        "activePassive": {"primary": primary, "standby": standby, "tier": tier},
        "objectives": objectives(&plan.objectives),
        "failover": {"trigger": trigger(plan.failover.trigger), "steps": steps.collect::<Vec<_>>()},
        "failback": {
            "trigger": trigger(plan.failback.trigger),
            "steps": before.collect::<Vec<_>>(),
            "ramp": plan.failback.ramp.iter().map(ToString::to_string).collect::<Vec<_>>(),
            "dwell": print_duration(plan.failback.dwell),
        },
    })
}

/// The spec of a drill.
pub fn drill(drill: &Drill) -> Value {
    let DrillKind::Live = drill.kind;
    let mut people = json!({});
    if let Some(lead) = &drill.stakeholders.lead {
        people["lead"] = json!(lead);
    }
    people["approvers"] = json!(drill.stakeholders.approvers);
    people["observers"] = json!(drill.stakeholders.observers);
    json!({
        "plan": drill.plan,
        "type": "live",
        "purpose": drill.purpose,
        "stakeholders": people,
        "probes": drill.probes.iter().map(probe).collect::<Vec<_>>(),
        "baseline": print_duration(drill.baseline),
        "scenario": drill.scenario.iter().map(scenario_step).collect::<Vec<_>>(),
        "hold": print_duration(drill.hold),
        "guards": drill.guards.iter().map(guard).collect::<Vec<_>>(),
    })
}

fn trigger(trigger: Trigger) -> Value {
    match trigger {
        Trigger::Manual => json!("manual"),
        Trigger::Automatic { unhealthy_for } => json!({"automatic": {"unhealthyFor": print_duration(unhealthy_for)}}),
    }
}

fn run_step(run: &RunStep) -> Value {
    let mut out = json!({"name": run.name});
    if let Some(region) = &run.region {
        out["in"] = json!(region);
    }
    out["command"] = json!(run.command);
    out["timeout"] = print_duration(run.timeout).into();
    if let Some(undo) = &run.undo {
        out["undo"] = json!(undo);
    }
    out
}

fn objectives(asked: &Objectives) -> Value {
    let mut out = json!({});
    if let Some(bound) = asked.recovery_time {
        out["recoveryTime"] = print_duration(bound).into();
    }
    if let Some(bound) = asked.data_loss {
        out["dataLoss"] = print_duration(bound).into();
    }
    out["successRate"] = asked.success_rate.to_string().into();
    if let Some(bound) = asked.latency_p99 {
        out["latencyP99"] = print_duration(bound).into();
    }
    out["sustain"] = print_duration(asked.sustain).into();
    out
}

fn probe(probe: &Probe) -> Value {
    let mut out = json!({"name": probe.name});
    match &probe.kind {
        ProbeKind::Http(request) => out["http"] = url(request).into(),
        ProbeKind::Writes { put, get } => out["writes"] = json!({"put": url(put), "get": url(get)}),
    }
    out["rate"] = probe.rate.to_string().into();
    out["timeout"] = print_duration(probe.timeout).into();
    out
}

fn url(request: &HttpRequest) -> String {
    let host = match &request.host {
        ProbeHost::Gateway(name) => name.to_string(),
        ProbeHost::Address(address) => address.to_string(),
    };
    format!("{} http://{host}{}", request.method, request.path)
}

fn scenario_step(step: &ScenarioStep) -> Value {
    let mut out = json!({"at": print_duration(step.at)});
    if let Some(lasts) = step.lasts {
        out["for"] = print_duration(lasts).into();
    }
    match &step.action {
        ScenarioAction::Lose { region, how } => {
            let how = match how {
                LoseHow::Kill => "kill",
                LoseHow::Pause => "pause",
                LoseHow::Partition => "partition",
            };
            out["lose"] = json!({"region": region, "how": how});
        }
        ScenarioAction::Fault(step) => out["fault"] = fault(step),
        ScenarioAction::Run { name, command, undo, timeout } => {
            out["run"] = json!({"name": name, "command": command, "undo": undo, "timeout": print_duration(*timeout)});
        }
        ScenarioAction::Wait { duration } => out["wait"] = print_duration(*duration).into(),
    }
    out
}

fn fault(step: &FaultStep) -> Value {
    let mut out = json!({"to": step.service});
    if let Some(region) = &step.region {
        out["region"] = json!(region);
    }
    if let Some(path) = &step.path {
        out["path"] = json!(path);
    }
    if let Some(method) = &step.method {
        out["method"] = json!(method);
    }
    out["percent"] = step.percent.to_string().into();
    match &step.action {
        FaultAction::Delay(delay) => out["delay"] = print_duration(*delay).into(),
        FaultAction::Abort(status) => out["abort"] = json!(status),
        FaultAction::Refuse => out["refuse"] = json!(true),
        FaultAction::Reset => out["reset"] = json!(true),
        FaultAction::Blackhole => out["blackhole"] = json!(true),
    }
    out
}

fn guard(guard: &Guard) -> Value {
    let mut out = json!({"probe": guard.probe});
    match &guard.condition {
        GuardCondition::SuccessRateBelow { percent, over } => {
            out["successRate"] = format!("< {percent}").into();
            out["over"] = print_duration(*over).into();
        }
        GuardCondition::LatencyP99Above { latency, over } => {
            out["latencyP99"] = format!("> {}", print_duration(*latency)).into();
            out["over"] = print_duration(*over).into();
        }
        GuardCondition::IndeterminateAbove { count } => out["indeterminate"] = format!("> {count}").into(),
    }
    out
}
