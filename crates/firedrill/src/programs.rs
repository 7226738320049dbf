//! Programs that the manifests name: are they on this machine?

use std::path::{Path, PathBuf};

use model::{
    Problem, Severity,
    config::{Config, Drill, Place, RecoveryPlan, RunStep, ScenarioAction, Step},
    problem::Place as At,
};
use rustix::fs::{Access, access};

/// A program that cannot be started here.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Missing {
    /// Who needs it: `service web in east`, `step promote of plan bank-west`.
    pub owner: String,
    /// As written.
    pub program: String,
}

/// Programs that a drill and its plan need and that are not here, each once for each owner.
pub fn missing_for_drill(config: &Config, drill: &Drill) -> Vec<Missing> {
    let mut named = Vec::new();
    of_drill(drill, &mut named);
    if let Some(plan) = config.plans.get(&drill.plan) {
        of_plan(plan, &mut named);
    }
    absent(named)
}

/// The same for everything in the manifests, as warnings: they may be checked elsewhere than they are used.
pub fn warnings(config: &Config) -> Vec<Problem> {
    let mut named = Vec::new();
    for service in config.services.values() {
        for endpoint in &service.endpoints {
            if let Place::Run(command) = &endpoint.place {
                named.push((format!("service {} in {}", service.name, endpoint.region), command));
            }
        }
    }
    config.plans.values().for_each(|plan| of_plan(plan, &mut named));
    config.drills.values().for_each(|drill| of_drill(drill, &mut named));
    let problem = |Missing { owner, program }| Problem {
        severity: Severity::Warning,
        code: "program-not-found",
        place: At { path: String::new(), line: 0, column: 0, offset: 0, length: 0 },
        message: format!("the program `{program}` of {owner} is not on this machine, or cannot be executed"),
        help: Some("install it, or write its full path".to_owned()),
        related: Vec::new(),
    };
    absent(named).into_iter().map(problem).collect()
}

fn of_plan<'c>(plan: &'c RecoveryPlan, named: &mut Vec<(String, &'c Vec<String>)>) {
    let mut add = |step: &'c RunStep| {
        let owner = format!("step {} of plan {}", step.name, plan.name);
        named.extend([&step.command].into_iter().chain(&step.undo).map(|command| (owner.clone(), command)));
    };
    for step in &plan.failover.steps {
        if let Step::Run(step) = step {
            add(step);
        }
    }
    plan.failback.steps.iter().for_each(add);
}

fn of_drill<'c>(drill: &'c Drill, named: &mut Vec<(String, &'c Vec<String>)>) {
    for step in &drill.scenario {
        if let ScenarioAction::Run { name, command, undo, .. } = &step.action {
            let owner = format!("step {name} of drill {}", drill.name);
            named.extend([command, undo].map(|command| (owner.clone(), command)));
        }
    }
}

fn absent(named: Vec<(String, &Vec<String>)>) -> Vec<Missing> {
    let mut missing: Vec<_> = named
        .into_iter()
        .filter_map(|(owner, command)| command.first().map(|program| Missing { owner, program: program.clone() }))
        .filter(|needed| !is_here(model::program(&needed.program)))
        .collect();
    missing.sort();
    missing.dedup();
    missing
}

/// Whether the operating system would find a program to start: by its path, or by its name in `PATH`.
fn is_here(program: &str) -> bool {
    let executable = |path: &Path| path.is_file() && access(path, Access::EXEC_OK).is_ok();
    if program.contains('/') {
        return executable(Path::new(program));
    }
    let folders = std::env::var_os("PATH").unwrap_or_default();
    std::env::split_paths(&folders).any(|folder: PathBuf| executable(&folder.join(program)))
}
