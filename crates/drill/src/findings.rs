//! Gaps that follow from what was observed during an attempt. Pure.

use std::collections::BTreeMap;

use evidence::{
    record::{Finding, Severity},
    results::Results,
};
use model::config::{Drill, RecoveryPlan, Step};

use crate::target::ProxyReport;

/// An objective that is met with less than this share of it to spare deserves a word.
const MARGIN: f64 = 0.2;

/// What findings are derived from.
#[derive(Debug)]
pub struct Facts<'a> {
    /// The plan.
    pub plan: &'a RecoveryPlan,
    /// The drill.
    pub drill: &'a Drill,
    /// The region that the scenario took away, if it did.
    pub lost_region: Option<&'a str>,
    /// Proxies just after the fault took effect, and just before failback (or the end).
    pub tries: Option<(&'a [ProxyReport], &'a [ProxyReport])>,
    /// Whether any proxy outside the lost region detected the loss.
    pub detected: bool,
    /// For each guard of the drill: whether it was ever judged.
    pub guards_judged: &'a [bool],
    /// What went wrong without stopping the attempt.
    pub problems: &'a [String],
    /// Proxies that are not as before.
    pub residue: &'a [String],
}

/// All findings: the worst first.
pub fn findings(facts: &Facts<'_>, results: &Results) -> Vec<Finding> {
    let mut found = hidden_dependencies(facts);
    found.extend(facts.problems.iter().map(|problem| Finding {
        severity: Severity::High,
        title: first_clause(problem),
        detail: problem.clone(),
        fix: "Find the cause and run the drill again; a real recovery would have met the same.".to_owned(),
    }));
    found.extend(residue(facts));
    found.extend(undetected(facts));
    found.extend(margins(results));
    found.extend(guards(facts));
    found.extend(no_undo(facts));
    found.sort_by_key(|finding| std::cmp::Reverse(finding.severity));
    found
}

fn first_clause(problem: &str) -> String {
    problem.split_once(':').map_or(problem, |(clause, _)| clause).to_owned()
}

/// Tries that proxies outside the lost region sent into it after it was lost, for services that the plan does not move.
fn hidden_dependencies(facts: &Facts<'_>) -> Vec<Finding> {
    let (Some(lost), Some((start, end))) = (facts.lost_region, facts.tries) else { return Vec::new() };
    let before: BTreeMap<&str, &ProxyReport> = start.iter().map(|p| (p.name.as_str(), p)).collect();
    let mut sums: BTreeMap<(String, String, String), (u64, Vec<&str>)> = BTreeMap::new();
    for proxy in end {
        let (Some(region), Some(caller)) = (&proxy.region, &proxy.service) else { continue };
        if region == lost {
            continue;
        }
        // After a restart, counters begin at 0: all that they show came later.
        let same = before.get(proxy.name.as_str()).filter(|b| b.boot == proxy.boot);
        for ((service, to), count) in &proxy.tries {
            let moved = facts.plan.services.iter().any(|s| s.as_str() == service);
            let earlier = same.and_then(|b| b.tries.get(&(service.clone(), to.clone()))).copied().unwrap_or(0);
            let tries = count.saturating_sub(earlier);
            if to == lost && !moved && tries > 0 {
                let sum = sums.entry((caller.clone(), region.clone(), service.clone())).or_default();
                sum.0 += tries;
                sum.1.push(&proxy.name);
            }
        }
    }
    sums.into_iter()
        .map(|((caller, region, service), (tries, proxies))| Finding {
            severity: Severity::High,
            title: format!("{caller} in {region} calls {service} in {lost}"),
            detail: format!(
                "While {lost} was lost, {} sent {tries} tries for {service} into it. Recovery in {region} depends on the \
                 region that it is to replace.",
                proxies.join(", ")
            ),
            fix: format!("Give {service} an endpoint in {region}, and let {caller} in {region} prefer it."),
        })
        .collect()
}

fn residue(facts: &Facts<'_>) -> Option<Finding> {
    (!facts.residue.is_empty()).then(|| Finding {
        severity: Severity::High,
        title: match facts.residue.len() {
            1 => "1 proxy is not as before the drill".to_owned(),
            number => format!("{number} proxies are not as before the drill"),
        },
        detail: format!("Their configuration differs, or they do not answer: {}.", facts.residue.join(", ")),
        fix: "Compare their configuration with the control plane's revision, and restart what does not answer."
            .to_owned(),
    })
}

fn undetected(facts: &Facts<'_>) -> Option<Finding> {
    let lost = facts.lost_region.filter(|_| !facts.detected)?;
    Some(Finding {
        severity: Severity::Medium,
        title: format!("no proxy detected the loss of {lost}"),
        detail: format!("From the fault to its end, no proxy outside {lost} took an endpoint there out."),
        fix: "Add an active check to the services' detection, or shorten its interval.".to_owned(),
    })
}

fn margins(results: &Results) -> Vec<Finding> {
    let near = |objective: &&evidence::results::ObjectiveResult| {
        let timed = matches!(objective.name.as_str(), "recoveryTime" | "dataLoss");
        let used = objective.measured.map_or(0.0, |m| m + objective.error);
        timed && objective.met == Some(true) && used > objective.asked * (1.0 - MARGIN)
    };
    let finding = |objective: &evidence::results::ObjectiveResult| Finding {
        severity: Severity::Medium,
        title: format!("{} was met with less than {:.0} % to spare", objective.name, MARGIN * 100.0),
        detail: format!(
            "{:.3} s ± {:.3} s were measured, {:.3} s are asked.",
            objective.measured.unwrap_or_default(),
            objective.error,
            objective.asked
        ),
        fix: "Shorten the longest phase of the recovery, or ask for what is needed.".to_owned(),
    };
    results.objectives.iter().filter(near).map(finding).collect()
}

fn guards(facts: &Facts<'_>) -> Vec<Finding> {
    let unjudged = facts.drill.guards.iter().zip(facts.guards_judged).filter(|(_, judged)| !**judged);
    let mut found: Vec<Finding> = unjudged
        .map(|(guard, _)| Finding {
            severity: Severity::Low,
            title: format!("guard `{}` was never judged", crate::guard::describe(guard)),
            detail: "Its window was never full while the fault was in force.".to_owned(),
            fix: "Shorten its window, or hold the fault for longer.".to_owned(),
        })
        .collect();
    if facts.drill.guards.is_empty() {
        found.push(Finding {
            severity: Severity::Low,
            title: format!("drill {} has no guard", facts.drill.name),
            detail: "Nothing but a person would have stopped it.".to_owned(),
            fix: "Add a guard on the success rate of a probe.".to_owned(),
        });
    }
    found
}

fn no_undo(facts: &Facts<'_>) -> Vec<Finding> {
    let run = |step: &Step| match step {
        Step::Run(run) if run.undo.is_none() => Some(run.name.clone()),
        _ => None,
    };
    let plan = &facts.plan.name;
    let finding = |name: String| Finding {
        severity: Severity::Low,
        title: format!("step {name} of plan {plan} has no undo"),
        detail: format!("When recovery stops half-way, nothing takes back what {name} has done."),
        fix: format!("Declare `undo:` on step {name}."),
    };
    facts.plan.failover.steps.iter().filter_map(run).map(finding).collect()
}
