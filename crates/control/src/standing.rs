//! What of a plan's recovery outlives the process, and which edits of the plan it allows. Steps are known by their names:
//! an edit that moves them changes nothing of what ran.

use std::time::Duration;

use model::{
    config::{RecoveryPlan, RunStep, Step},
    name::RegionName,
};
use serde::{Deserialize, Serialize};

use crate::compile;

/// Where it stands.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Phase {
    Normal,
    /// The command of the failover with this name runs.
    FailingOver(String),
    FailedOver,
    /// Failback was commanded; the primary must be healthy first.
    AwaitPrimary,
    /// The command of the failback with this name runs.
    FailbackStep(String),
    /// All of them have run; the primary must be healthy before it takes traffic.
    AwaitReturn,
    /// The primary has this share.
    Ramp(u8),
    /// Commands of the failover are being taken back, the last one first; then it is normal.
    Undo,
    /// Commands of the failback are being taken back, the last one first; then it is failed over.
    UndoFailback,
}

/// A command that began, with what takes it back as it was then.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct Begun {
    pub(crate) name: String,
    pub(crate) region: Option<RegionName>,
    /// `None`: it is irreversible.
    pub(crate) undo: Option<Vec<String>>,
    pub(crate) timeout_ms: u64,
}

impl Begun {
    pub(crate) fn of(step: &RunStep) -> Self {
        Self {
            name: step.name.clone(),
            region: step.region.clone(),
            undo: step.undo.clone(),
            timeout_ms: u64::try_from(step.timeout.as_millis()).unwrap_or(u64::MAX),
        }
    }

    pub(crate) fn timeout(&self) -> Duration {
        Duration::from_millis(self.timeout_ms)
    }
}

/// What outlives the process.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct Saved {
    phase: StoredPhase,
    /// The lease that what was done stands on.
    pub(crate) lease: Option<String>,
    /// The lease under which failback was commanded.
    #[serde(default)]
    pub(crate) back_under: Option<String>,
    pub(crate) shifted: Option<RegionName>,
    /// Commands of the failover that began.
    ran: Vec<StoredStep>,
    /// Commands of the failback that began.
    #[serde(default)]
    back: Vec<StoredStep>,
    pub(crate) flaps: u32,
    #[serde(default)]
    pub(crate) failure: Option<String>,
    #[serde(default)]
    pub(super) reason: Option<String>,
}

/// A phase as it is stored. Rows of former versions name steps and shares by their place in the plan.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
enum StoredPhase {
    Normal,
    FailingOver(StoredName),
    FailedOver,
    AwaitPrimary,
    FailbackStep(StoredName),
    AwaitReturn,
    /// The place in the ramp, in rows of former versions.
    Ramp(usize),
    Share(u8),
    /// With the places of the steps, in rows of former versions.
    Undo(Vec<usize>),
    UndoFailback,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(untagged)]
enum StoredName {
    Name(String),
    Place(usize),
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(untagged)]
enum StoredStep {
    Begun(Begun),
    /// The place among the steps of the failover, in rows of former versions.
    Place(usize),
}

/// What was saved, in terms of the plan.
pub(crate) struct Restored {
    pub(crate) phase: Phase,
    pub(crate) ran: Vec<Begun>,
    pub(crate) back: Vec<Begun>,
}

impl Saved {
    pub(crate) fn new(phase: &Phase, ran: &[Begun], back: &[Begun]) -> Self {
        let named = |name: &String| StoredName::Name(name.clone());
        let phase = match phase {
            Phase::Normal => StoredPhase::Normal,
            Phase::FailingOver(name) => StoredPhase::FailingOver(named(name)),
            Phase::FailedOver => StoredPhase::FailedOver,
            Phase::AwaitPrimary => StoredPhase::AwaitPrimary,
            Phase::FailbackStep(name) => StoredPhase::FailbackStep(named(name)),
            Phase::AwaitReturn => StoredPhase::AwaitReturn,
            Phase::Ramp(share) => StoredPhase::Share(*share),
            Phase::Undo => StoredPhase::Undo(Vec::new()),
            Phase::UndoFailback => StoredPhase::UndoFailback,
        };
        let steps = |begun: &[Begun]| begun.iter().cloned().map(StoredStep::Begun).collect();
        let (ran, back) = (steps(ran), steps(back));
        Self { phase, lease: None, back_under: None, shifted: None, ran, back, flaps: 0, failure: None, reason: None }
    }

    /// What it says of this plan. A step of a former version's row is the one at that place.
    pub(crate) fn restored(&self, plan: &RecoveryPlan) -> Restored {
        let over = |place: usize| match plan.failover.steps.get(place) {
            Some(Step::Run(run)) => Some(run),
            _ => None,
        };
        let name = |stored: &StoredName, at: &dyn Fn(usize) -> Option<String>| match stored {
            StoredName::Name(name) => name.clone(),
            StoredName::Place(place) => at(*place).unwrap_or_default(),
        };
        let begun = |stored: &StoredStep| match stored {
            StoredStep::Begun(begun) => Some(begun.clone()),
            StoredStep::Place(place) => over(*place).map(Begun::of),
        };
        let mut ran: Vec<Begun> = self.ran.iter().filter_map(begun).collect();
        let back: Vec<Begun> = self.back.iter().filter_map(begun).collect();
        let phase = match &self.phase {
            StoredPhase::Normal => Phase::Normal,
            StoredPhase::FailingOver(stored) => {
                Phase::FailingOver(name(stored, &|place| over(place).map(|run| run.name.clone())))
            }
            StoredPhase::FailedOver => Phase::FailedOver,
            StoredPhase::AwaitPrimary => Phase::AwaitPrimary,
            StoredPhase::FailbackStep(stored) => {
                Phase::FailbackStep(name(stored, &|place| plan.failback.steps.get(place).map(|run| run.name.clone())))
            }
            StoredPhase::AwaitReturn => Phase::AwaitReturn,
            StoredPhase::Ramp(place) => {
                let ramp = compile::ramp_steps(&plan.failback);
                Phase::Ramp(ramp.get(*place).or(ramp.last()).copied().unwrap_or(100))
            }
            StoredPhase::Share(share) => Phase::Ramp(*share),
            StoredPhase::Undo(places) => {
                if !places.is_empty() {
                    ran = places.iter().filter_map(|place| over(*place)).map(Begun::of).collect();
                }
                Phase::Undo
            }
            StoredPhase::UndoFailback => Phase::UndoFailback,
        };
        Restored { phase, ran, back }
    }
}

/// Why a plan whose recovery stands so cannot be edited to `new`; `None`: it can. What already ran must stay as it was, and so
/// must what it was done to; what is still to come may change.
pub(crate) fn objection(saved: &Saved, old: &RecoveryPlan, new: &RecoveryPlan) -> Option<String> {
    let Restored { phase, .. } = saved.restored(old);
    if phase == Phase::Normal {
        return None;
    }
    let refused = |what: String| Some(format!("recovery of {} is not at rest: {what} cannot change now", old.name));
    if old.services != new.services {
        return refused("`services`".to_owned());
    }
    if old.pattern != new.pattern {
        return refused("`activePassive`".to_owned());
    }
    let is_named = |step: &Step, name: &str| matches!(step, Step::Run(run) if run.name == name);
    let over = match &phase {
        Phase::FailingOver(name) => {
            old.failover.steps.iter().position(|step| is_named(step, name)).map_or(0, |place| place + 1)
        }
        _ => old.failover.steps.len(),
    };
    if let Some(place) = differs(&old.failover.steps, &new.failover.steps, over) {
        return refused(match old.failover.steps.get(place) {
            Some(Step::Run(run)) => format!("step `{}`, which ran already,", run.name),
            _ => "the step that shifted traffic".to_owned(),
        });
    }
    let back = match &phase {
        Phase::FailbackStep(name) => {
            old.failback.steps.iter().position(|run| run.name == *name).map_or(0, |place| place + 1)
        }
        Phase::AwaitReturn | Phase::Ramp(_) | Phase::UndoFailback => old.failback.steps.len(),
        _ => 0,
    };
    let place = differs(&old.failback.steps, &new.failback.steps, back)?;
    let name = old.failback.steps.get(place).map(|run| run.name.clone()).unwrap_or_default();
    refused(format!("step `{name}` of the failback, which ran already,"))
}

/// As [`objection`], of a row of the store. A row that cannot be read refuses every edit.
pub(crate) fn edit_refused(row: &str, old: &RecoveryPlan, new: &RecoveryPlan) -> Option<String> {
    if old == new {
        return None;
    }
    match serde_json::from_str(row) {
        Ok(saved) => objection(&saved, old, new),
        Err(error) => Some(format!("where recovery of {} stands cannot be read: {error}", old.name)),
    }
}

/// The first of so many that is another one.
fn differs<T: PartialEq>(old: &[T], new: &[T], count: usize) -> Option<usize> {
    (0..count).find(|place| old.get(*place) != new.get(*place))
}
