//! What a configuration holds, in a few lines.

use std::{collections::BTreeMap, fmt::Write as _};

use model::config::{
    Config, Drill, Fault, LoseHow, Pattern, ProbeKind, RecoveryPlan, ScenarioAction, Service, Tier, Trigger,
};
use model::unit::print_duration;
use serde_json::{Value, json};

use crate::{
    manifests::count,
    terminal::{Terminal, Tone},
};

/// For people: the mesh, its services, plans and drills.
pub fn text(config: &Config, terminal: &Terminal) -> String {
    let mesh = &config.mesh;
    let mut out = String::new();
    let title = |text: &str| terminal.paint(Tone::Strong, text);
    let _ = writeln!(
        out,
        "{} {}: regions {}, trust domain {}",
        title("Mesh"),
        mesh.name,
        join(&mesh.regions),
        mesh.trust_domain
    );
    for gateway in &mesh.gateways {
        let routes: Vec<_> = gateway.routes.iter().map(|r| format!("{} → {}", r.prefix, r.service)).collect();
        let _ = writeln!(
            out,
            "  {:<9} {:<16} {}   {}",
            "gateway",
            gateway.name.as_str(),
            gateway.listen,
            routes.join(", ")
        );
    }
    for service in config.services.values() {
        let _ = writeln!(out, "  {:<9} {:<16} {}", "service", service.name.as_str(), of_service(service));
    }
    for plan in config.plans.values() {
        let _ = writeln!(out, "  {:<9} {:<16} {}", "plan", plan.name.as_str(), of_plan(plan));
    }
    for drill in config.drills.values() {
        let _ = writeln!(out, "  {:<9} {:<16} {}", "drill", drill.name.as_str(), of_drill(drill));
    }
    for backup in config.backups.values() {
        let _ = writeln!(
            out,
            "  {:<9} {:<16} {} every {}",
            "backup",
            backup.name,
            backup.service.as_str(),
            print_duration(backup.every)
        );
    }
    out
}

/// For programs: names and numbers of what there is.
pub fn json(config: &Config) -> Value {
    let names = |keys: Vec<String>| Value::from(keys);
    json!({
        "mesh": config.mesh.name,
        "trustDomain": config.mesh.trust_domain,
        "regions": config.mesh.regions,
        "gateways": config.mesh.gateways.iter().map(|g| json!({"name": g.name, "listen": g.listen})).collect::<Vec<_>>(),
        "services": config.services.values().map(|s| json!({
            "name": s.name,
            "endpoints": s.endpoints.len(),
            "regions": per_region(s),
            "calls": s.calls,
        })).collect::<Vec<_>>(),
        "plans": names(config.plans.keys().map(ToString::to_string).collect()),
        "drills": names(config.drills.keys().map(ToString::to_string).collect()),
        "backups": names(config.backups.keys().cloned().collect()),
    })
}

/// Names separated by commas.
pub fn join<T: ToString>(names: &[T]) -> String {
    names.iter().map(ToString::to_string).collect::<Vec<_>>().join(", ")
}

/// `lose east (kill)`: what a step of a scenario does.
pub fn of_action(action: &ScenarioAction) -> String {
    match action {
        ScenarioAction::Lose { region, how } => {
            let how = match how {
                LoseHow::Kill => "kill",
                LoseHow::Pause => "pause",
                LoseHow::Partition => "partition",
            };
            format!("lose {region} ({how})")
        }
        ScenarioAction::Fault(Fault::Requests(fault)) => format!("fault on {}", fault.service),
        ScenarioAction::Fault(Fault::Partition(step)) => format!("cut off {}", join(&step.regions)),
        ScenarioAction::Fault(Fault::NoControl { region: None }) => "cut off the control plane".to_owned(),
        ScenarioAction::Fault(Fault::NoControl { region: Some(region) }) => {
            format!("cut off the control plane from {region}")
        }
        ScenarioAction::Run { name, .. } => format!("run {name}"),
        ScenarioAction::Wait { duration } => format!("wait {}", print_duration(*duration)),
    }
}

fn per_region(service: &Service) -> BTreeMap<String, usize> {
    service.endpoints.iter().fold(BTreeMap::new(), |mut regions, endpoint| {
        *regions.entry(endpoint.region.to_string()).or_default() += 1;
        regions
    })
}

fn of_service(service: &Service) -> String {
    let regions: Vec<_> = per_region(service).iter().map(|(region, number)| format!("{region} {number}")).collect();
    let calls = if service.calls.is_empty() { String::new() } else { format!("   calls {}", join(&service.calls)) };
    format!("{}   {}{calls}", count(service.endpoints.len(), "endpoint"), regions.join(", "))
}

fn of_plan(plan: &RecoveryPlan) -> String {
    let Pattern::ActivePassive { primary, standby, tier } = &plan.pattern;
    let tier = match tier {
        Tier::Hot => "hot",
        Tier::Warm => "warm",
        Tier::PilotLight => "pilot light",
    };
    let mut out = format!("{}   {primary} → {} ({tier})", join(&plan.services), join(standby));
    if let Some(bound) = plan.objectives.recovery_time {
        let _ = write!(out, ", recovery in {}", print_duration(bound));
    }
    if let Some(bound) = plan.objectives.data_loss {
        let _ = write!(out, ", loss up to {}", print_duration(bound));
    }
    match plan.failover.trigger {
        Trigger::Manual => out.push_str(", by hand"),
        Trigger::Automatic { unhealthy_for } => {
            let _ = write!(out, ", automatic after {}", print_duration(unhealthy_for));
        }
    }
    out
}

fn of_drill(drill: &Drill) -> String {
    let steps: Vec<_> = drill.scenario.iter().map(|s| of_action(&s.action)).collect();
    let probes: Vec<_> = drill
        .probes
        .iter()
        .map(|p| {
            let kind = match p.kind {
                ProbeKind::Http(_) => "",
                ProbeKind::Writes { .. } => " (writes)",
            };
            format!("{}{kind} {}", p.name, p.rate)
        })
        .collect();
    format!("plan {}   {}   probes {}", drill.plan, steps.join(", "), probes.join(", "))
}
