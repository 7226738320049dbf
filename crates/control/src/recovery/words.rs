//! Where recovery of a plan stands, in words for the person who must act.

use std::time::Instant;

use model::config::Trigger;

use super::machine::Machine;
use crate::{api::ServiceSight, health::Health, standing::Phase};

/// What a report says beside the state.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct Words {
    /// What it waits for; `None`: for nothing.
    pub(super) waits_for: Option<String>,
    /// What stands, and what of it cannot be undone.
    pub(super) stands: Option<String>,
    /// The command that goes on.
    pub(super) command: Option<String>,
}

/// Explains a machine.
pub(super) fn explain(machine: &Machine, sights: &[ServiceSight], now: Instant) -> Words {
    let plan = machine.plan();
    let (name, primary) = (&plan.name, plan.primary());
    let run = format!("firedrill plan run {name}");
    let back = format!("firedrill plan failback {name}");
    let (waits_for, command) = match machine.phase() {
        Phase::Normal => {
            let wait = at_rest(machine, sights, now);
            let command = wait.is_some().then_some(run);
            (wait, command)
        }
        Phase::FailingOver(step) | Phase::FailbackStep(step) => (Some(format!("the end of step `{step}`")), None),
        Phase::FailedOver if machine.failure().is_some() => {
            (Some("somebody to look at the failure, and to run the plan again or fail it back".to_owned()), Some(run))
        }
        Phase::FailedOver => (Some("somebody to fail it back".to_owned()), Some(back)),
        Phase::AwaitPrimary | Phase::AwaitReturn => {
            (Some(format!("{primary} to be healthy{}", doubts(sights))), Some(run))
        }
        Phase::Ramp(share) => {
            (Some(format!("the next share of the ramp: {primary} has {share} % while it stays healthy")), None)
        }
        Phase::Undo | Phase::UndoFailback => (Some("the commands that take steps back".to_owned()), None),
    };
    Words { waits_for, stands: stands(machine), command }
}

/// What a plan at rest waits for, if its primary is not well.
fn at_rest(machine: &Machine, sights: &[ServiceSight], now: Instant) -> Option<String> {
    let primary = machine.plan().primary();
    match (machine.health(), machine.plan().failover.trigger) {
        (Health::Lost(_), Trigger::Manual) => {
            Some(format!("somebody to run the plan: {primary} is lost, and the trigger is manual"))
        }
        (Health::Lost(_), Trigger::Automatic { .. }) if !machine.armed(now) => {
            Some(format!("the trigger to be armed: {primary} is lost, and was not seen healthy for long enough before"))
        }
        (Health::Lost(_), Trigger::Automatic { .. }) => {
            Some(format!("{primary} to be lost for longer than `unhealthyFor`"))
        }
        _ => {
            let sight = sights.iter().find(|sight| !sight.lost.is_empty())?;
            Some(format!(
                "more observers to agree: {} of the {} that are needed see no endpoint of {} in {primary} ({})",
                sight.lost.len(),
                sight.quorum,
                sight.service,
                sight.lost.join(", ")
            ))
        }
    }
}

/// Who does not see a healthy primary.
fn doubts(sights: &[ServiceSight]) -> String {
    let doubts: Vec<String> = sights
        .iter()
        .filter(|sight| sight.healthy.len() <= sight.lost.len())
        .map(|sight| match &sight.lost[..] {
            [] => format!("no proxy tells of {}", sight.service),
            lost => format!("{} sees no endpoint of {}", lost.join(", "), sight.service),
        })
        .collect();
    if doubts.is_empty() { String::new() } else { format!("; {}", doubts.join("; ")) }
}

/// One sentence: what is in force, and what cannot be undone.
fn stands(machine: &Machine) -> Option<String> {
    let plan = machine.plan();
    let irreversible: Vec<String> = machine.irreversible().map(|step| format!("`{step}`")).collect();
    if *machine.phase() == Phase::Normal || irreversible.is_empty() {
        return None;
    }
    let services: Vec<&str> = plan.services.iter().map(|service| service.as_str()).collect();
    let (services, steps, primary) = (services.join(", "), irreversible.join(", "), plan.primary());
    let traffic = match (machine.shifted(), machine.share()) {
        (Some(to), None) => format!("traffic of {services} stays in {to} and {primary} is fenced"),
        (Some(to), Some(share)) => format!("{primary} has {share} % of the traffic of {services}, {to} the rest"),
        (None, _) => format!("traffic of {services} is not shifted"),
    };
    Some(format!(
        "{traffic}; {steps} began and cannot be undone; `firedrill plan failback {}` leads back to {primary}",
        plan.name
    ))
}
