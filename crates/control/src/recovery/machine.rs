//! Recovery of one plan as a state machine: no I/O, time passed in. What it wants done it answers as [`Action`]s.
//!
//! ```text
//! Normal ── lost for unhealthyFor, or commanded ──> FailingOver(step) ──> FailedOver
//!   ^                                                  ^                      │ commanded, or healthy long enough
//!   │                                                  │ lost again           v
//!   └── Ramp(step) done <── Ramp <── FailbackStep <────┴───────── AwaitPrimary
//! ```
//! If the lease that it stands on goes away, or failover fails before traffic was shifted, commands that ran are undone
//! in reverse order (`Undo`), and it is normal again.

use std::time::{Duration, Instant};

use model::{
    config::{Pattern, RecoveryPlan, RunStep, Step, Trigger},
    name::RegionName,
};
use serde::{Deserialize, Serialize};
use xds::overlay::SwitchState;

use crate::{api::RecoveryState, compile, health::Health, mesh::PlanSwitches};

/// After a start, and after a lease ended, the mesh is given this long before the automatic trigger is armed: workloads
/// that are still coming up, or that a drill had taken away, are no disaster.
pub(crate) const SETTLE: Duration = Duration::from_secs(10);
/// A primary that was never seen healthy arms the trigger after this long.
pub(crate) const GIVE_UP: Duration = Duration::from_secs(30);
/// A primary must have been healthy for this long before failback begins, and lost for this long to count as lost again
/// under a plan that is triggered by hand.
pub(crate) const STEADY: Duration = Duration::from_secs(1);
/// Flapping doubles waits, at most so many times.
const MAX_FLAPS: u32 = 3;

/// Where it stands.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(crate) enum Phase {
    Normal,
    /// The failover step with this index runs.
    FailingOver(usize),
    FailedOver,
    /// Failback was commanded; the primary must be healthy first.
    AwaitPrimary,
    /// The failback step with this index runs.
    FailbackStep(usize),
    /// The primary has the share with this index.
    Ramp(usize),
    /// Inverses of these failover steps are to run, the last one first.
    Undo(Vec<usize>),
}

/// What it wants done. The order matters.
#[derive(Clone, Debug, PartialEq)]
pub(crate) enum Action {
    /// Tell that the primary is lost.
    Detected,
    /// Tell that failover was decided, and why.
    Decided(String),
    /// Set routing controls; traffic goes to this region.
    Shift(RegionName, PlanSwitches),
    /// Set routing controls; the primary gets this share.
    Share(u8, PlanSwitches),
    /// Remove all routing controls of the plan.
    Clear,
    /// Run a command; its end comes back with this number.
    Run(u64, Command),
    /// Kill what runs; its end is not waited for.
    Kill,
    /// Tell that failback was commanded, and why.
    FailbackCommanded(String),
    /// Tell that failback is complete.
    FailbackDone,
    /// Tell that it failed.
    Failed(String),
    /// Tell that it was taken back.
    Reset(String),
}

/// A command to run.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Command {
    pub(crate) name: String,
    pub(crate) argv: Vec<String>,
    pub(crate) region: Option<RegionName>,
    pub(crate) timeout: Duration,
}

/// What outlives the process.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct Saved {
    phase: Phase,
    lease: Option<String>,
    shifted: Option<RegionName>,
    ran: Vec<usize>,
    flaps: u32,
}

/// The machine.
#[derive(Debug)]
pub(crate) struct Machine {
    plan: RecoveryPlan,
    phase: Phase,
    /// Since when in this phase (or, in a ramp, on this step).
    since: Instant,
    /// The lease that holds the plan now.
    lease: Option<String>,
    /// The lease that what was done stands on.
    under: Option<String>,
    health: Health,
    health_since: Instant,
    seen_healthy: bool,
    settled_at: Instant,
    gives_up_at: Instant,
    detected: bool,
    shifted: Option<RegionName>,
    /// Failover steps whose commands ran (or began to).
    ran: Vec<usize>,
    flaps: u32,
    running: Option<u64>,
    runs: u64,
    failure: Option<String>,
}

impl Machine {
    /// A machine at rest.
    pub(crate) fn new(plan: RecoveryPlan, now: Instant) -> Self {
        Self {
            plan,
            phase: Phase::Normal,
            since: now,
            lease: None,
            under: None,
            health: Health::Unknown,
            health_since: now,
            seen_healthy: false,
            settled_at: now + SETTLE,
            gives_up_at: now + GIVE_UP,
            detected: false,
            shifted: None,
            ran: Vec::new(),
            flaps: 0,
            running: None,
            runs: 0,
            failure: None,
        }
    }

    /// Goes on where a former process stopped. A step that was running runs again. What stood on a lease goes on if that
    /// lease is the one that holds the plan now, else it is undone.
    pub(crate) fn restore(plan: RecoveryPlan, saved: Saved, held: Option<&str>, now: Instant) -> (Self, Vec<Action>) {
        let mut machine = Self::new(plan, now);
        machine.phase = saved.phase;
        machine.shifted = saved.shifted;
        machine.ran = saved.ran;
        machine.flaps = saved.flaps;
        let mut actions = Vec::new();
        machine.lease = held.map(str::to_owned);
        if saved.lease.is_some() && saved.lease.as_deref() == held {
            machine.under = saved.lease;
        } else if let Some(lease) = saved.lease {
            machine.take_back(now, format!("lease {lease} ended with the former control plane"), &mut actions);
            return (machine, actions);
        }
        match machine.phase.clone() {
            Phase::FailingOver(step) => machine.fail_over_from(step, now, &mut actions),
            Phase::FailbackStep(step) => machine.fail_back_from(step, now, &mut actions),
            Phase::Ramp(step) => machine.ramp_from(step, now, &mut actions),
            Phase::Undo(steps) => machine.undo(steps, now, &mut actions),
            Phase::Normal | Phase::FailedOver | Phase::AwaitPrimary => {}
        }
        (machine, actions)
    }

    /// What must be stored; `None` if it is at rest.
    pub(crate) fn saved(&self) -> Option<Saved> {
        (self.phase != Phase::Normal).then(|| Saved {
            phase: self.phase.clone(),
            lease: self.under.clone(),
            shifted: self.shifted.clone(),
            ran: self.ran.clone(),
            flaps: self.flaps,
        })
    }

    /// The state in the API's words.
    pub(crate) fn state(&self) -> RecoveryState {
        match self.phase {
            Phase::Normal => RecoveryState::Normal,
            Phase::FailingOver(_) => RecoveryState::FailingOver,
            Phase::FailedOver => RecoveryState::FailedOver,
            Phase::AwaitPrimary | Phase::FailbackStep(_) | Phase::Ramp(_) | Phase::Undo(_) => {
                RecoveryState::FailingBack
            }
        }
    }

    pub(crate) fn plan(&self) -> &RecoveryPlan {
        &self.plan
    }

    /// The plan was edited. What is under way goes on with the new steps.
    pub(crate) fn set_plan(&mut self, plan: RecoveryPlan) {
        self.plan = plan;
    }

    /// The plan was removed: what it did is taken back; what is being undone already goes on.
    pub(crate) fn removed(&mut self, now: Instant) -> Vec<Action> {
        let mut actions = Vec::new();
        if !matches!(self.phase, Phase::Normal | Phase::Undo(_)) {
            self.take_back(now, "the plan was removed".to_owned(), &mut actions);
        }
        actions
    }

    pub(crate) fn since(&self) -> Instant {
        self.since
    }

    /// The lease that what was done stands on.
    pub(crate) fn under(&self) -> Option<&str> {
        self.under.as_deref()
    }

    pub(crate) fn health(&self) -> &Health {
        &self.health
    }

    pub(crate) fn failure(&self) -> Option<&str> {
        self.failure.as_deref()
    }

    /// Share of the primary while failing back.
    pub(crate) fn share(&self) -> Option<u8> {
        match self.phase {
            Phase::Ramp(step) => self.ramp().get(step).copied(),
            _ => None,
        }
    }

    /// Whether the automatic trigger may act. A lease holder vouches for the mesh: it has checked it.
    pub(crate) fn armed(&self, now: Instant) -> bool {
        let settled = self.lease.is_some() || now >= self.settled_at;
        (settled && self.seen_healthy) || now >= self.gives_up_at
    }

    /// The routing controls that are in force.
    pub(crate) fn switches(&self) -> PlanSwitches {
        let Some(to) = &self.shifted else { return Vec::new() };
        let primary = match self.share() {
            Some(share) => SwitchState::Share(share),
            None => SwitchState::Off,
        };
        let Pattern::ActivePassive { primary: region, standby, .. } = &self.plan.pattern;
        // Everything that would be used before the target is off, so that it is the one that is used.
        let before = standby.iter().take_while(|other| *other != to).map(|other| (other, SwitchState::Off));
        let states: Vec<_> =
            [(region, primary)].into_iter().chain(before).filter(|(region, _)| *region != to).collect();
        let services = self.plan.services.iter();
        services.flat_map(|s| states.iter().map(|(r, state)| (s.clone(), (*r).clone(), *state))).collect()
    }

    fn ramp(&self) -> Vec<u8> {
        compile::ramp_steps(&self.plan.failback)
    }

    /// Flapping lengthens.
    fn lengthened(&self, wait: Duration) -> Duration {
        wait.saturating_mul(1 << self.flaps.min(MAX_FLAPS))
    }

    fn unhealthy_for(&self) -> Duration {
        match self.plan.failover.trigger {
            Trigger::Automatic { unhealthy_for } => unhealthy_for,
            Trigger::Manual => STEADY,
        }
    }

    fn enter(&mut self, phase: Phase, now: Instant) {
        self.phase = phase;
        self.since = now;
    }

    /// How the primary looks now.
    pub(crate) fn observe(&mut self, health: Health, now: Instant) -> Vec<Action> {
        if std::mem::discriminant(&self.health) != std::mem::discriminant(&health) {
            self.health_since = now;
        }
        self.health = health;
        let mut actions = Vec::new();
        match self.health {
            Health::Healthy => {
                self.seen_healthy = true;
                self.detected = false;
            }
            Health::Lost(_) if self.seen_healthy && !self.detected && self.phase == Phase::Normal => {
                self.detected = true;
                actions.push(Action::Detected);
            }
            Health::Lost(_) | Health::Unknown => {}
        }
        actions.extend(self.tick(now));
        actions
    }

    /// Which lease holds the plan now.
    pub(crate) fn lease(&mut self, lease: Option<&str>, now: Instant) -> Vec<Action> {
        let mut actions = Vec::new();
        if self.lease.as_deref() == lease {
            return actions;
        }
        let ended = std::mem::replace(&mut self.lease, lease.map(str::to_owned));
        if let Some(ended) = ended {
            // What its holder broke is not a disaster of our own.
            self.distrust(now);
            if self.under.as_ref() == Some(&ended) {
                self.take_back(now, format!("lease {ended} ended"), &mut actions);
            }
        }
        actions.extend(self.tick(now));
        actions
    }

    fn distrust(&mut self, now: Instant) {
        self.seen_healthy = false;
        self.detected = false;
        self.settled_at = now + SETTLE;
        self.gives_up_at = now + GIVE_UP;
    }

    /// Commands failover. Nothing happens if it is under way or done.
    pub(crate) fn failover(&mut self, reason: &str, now: Instant) -> Result<Vec<Action>, String> {
        match self.phase {
            Phase::Normal => {}
            Phase::FailingOver(_) | Phase::FailedOver => return Ok(Vec::new()),
            _ => return Err("failback is under way; wait for its end".to_owned()),
        }
        let mut actions = Vec::new();
        self.begin(reason, now, &mut actions);
        Ok(actions)
    }

    /// Commands failback. Nothing happens if it is under way.
    pub(crate) fn failback(&mut self, reason: &str, now: Instant) -> Result<Vec<Action>, String> {
        match self.phase {
            Phase::FailedOver => {}
            Phase::AwaitPrimary | Phase::FailbackStep(_) | Phase::Ramp(_) => return Ok(Vec::new()),
            Phase::Normal | Phase::Undo(_) => return Err("there is nothing to fail back from".to_owned()),
            Phase::FailingOver(_) => return Err("failover is still under way; wait for its end".to_owned()),
        }
        self.failure = None;
        self.enter(Phase::AwaitPrimary, now);
        let mut actions = vec![Action::FailbackCommanded(reason.to_owned())];
        actions.extend(self.tick(now));
        Ok(actions)
    }

    fn begin(&mut self, reason: &str, now: Instant, actions: &mut Vec<Action>) {
        if self.phase == Phase::Normal {
            self.under = self.lease.clone();
            self.ran.clear();
            self.shifted = None;
        }
        self.failure = None;
        if matches!(self.health, Health::Lost(_)) && !self.detected {
            self.detected = true;
            actions.push(Action::Detected);
        }
        actions.push(Action::Decided(reason.to_owned()));
        self.fail_over_from(0, now, actions);
    }

    /// When time alone changes something next.
    pub(crate) fn deadline(&self, now: Instant) -> Option<Instant> {
        let lost = matches!(self.health, Health::Lost(_)).then(|| self.health_since + self.unhealthy_for());
        match &self.phase {
            Phase::Normal => {
                let due = lost.filter(|_| matches!(self.plan.failover.trigger, Trigger::Automatic { .. }))?;
                let armed = if self.armed(now) {
                    now
                } else if self.seen_healthy {
                    self.settled_at.min(self.gives_up_at)
                } else {
                    self.gives_up_at
                };
                Some(due.max(armed))
            }
            Phase::FailedOver => self.failback_due(),
            Phase::AwaitPrimary => self.steady_at(),
            Phase::FailbackStep(_) => lost,
            Phase::Ramp(_) => {
                let next = self.since + self.lengthened(self.plan.failback.dwell);
                Some(lost.map_or(next, |lost| lost.min(next)))
            }
            Phase::FailingOver(_) | Phase::Undo(_) => None,
        }
    }

    fn healthy_for(&self, wait: Duration) -> Option<Instant> {
        let healthy = matches!(self.health, Health::Healthy);
        healthy.then(|| self.health_since.max(self.since) + self.lengthened(wait))
    }

    /// When the primary has been healthy for long enough to take traffic; it may have been so before the command.
    fn steady_at(&self) -> Option<Instant> {
        let healthy = matches!(self.health, Health::Healthy);
        healthy.then(|| self.health_since + self.lengthened(STEADY))
    }

    fn failback_due(&self) -> Option<Instant> {
        match self.plan.failback.trigger {
            Trigger::Automatic { unhealthy_for: healthy_for } => self.healthy_for(healthy_for),
            Trigger::Manual => None,
        }
    }

    /// Time passed.
    pub(crate) fn tick(&mut self, now: Instant) -> Vec<Action> {
        let mut actions = Vec::new();
        let due = |at: Option<Instant>| at.is_some_and(|at| at <= now);
        match self.phase {
            Phase::Normal if due(self.deadline(now)) => self.begin("automatic", now, &mut actions),
            Phase::FailedOver if due(self.failback_due()) => {
                self.enter(Phase::AwaitPrimary, now);
                actions.push(Action::FailbackCommanded("automatic".to_owned()));
            }
            Phase::AwaitPrimary if due(self.steady_at()) => self.fail_back_from(0, now, &mut actions),
            Phase::FailbackStep(_) | Phase::Ramp(_) if self.lost_again(now) => self.relapse(now, &mut actions),
            Phase::Ramp(step) if now >= self.since + self.lengthened(self.plan.failback.dwell) => {
                self.ramp_from(step + 1, now, &mut actions);
            }
            _ => {}
        }
        actions
    }

    fn lost_again(&self, now: Instant) -> bool {
        matches!(self.health, Health::Lost(_)) && now >= self.health_since + self.unhealthy_for()
    }

    fn relapse(&mut self, now: Instant, actions: &mut Vec<Action>) {
        self.flaps = self.flaps.saturating_add(1);
        if self.running.take().is_some() {
            actions.push(Action::Kill);
        }
        self.begin("the primary was lost again during failback", now, actions);
    }

    fn fail_over_from(&mut self, from: usize, now: Instant, actions: &mut Vec<Action>) {
        for (index, step) in self.plan.failover.steps.clone().iter().enumerate().skip(from) {
            self.enter(Phase::FailingOver(index), now);
            match step {
                Step::Shift { to } => {
                    self.shifted = Some(to.clone());
                    actions.push(Action::Shift(to.clone(), self.switches()));
                }
                Step::Run(run) => {
                    if !self.ran.contains(&index) {
                        self.ran.push(index);
                    }
                    self.run(command(run), actions);
                    return;
                }
            }
        }
        self.enter(Phase::FailedOver, now);
    }

    fn fail_back_from(&mut self, from: usize, now: Instant, actions: &mut Vec<Action>) {
        if let Some(step) = self.plan.failback.steps.get(from) {
            let command = command(step);
            self.enter(Phase::FailbackStep(from), now);
            self.run(command, actions);
        } else {
            self.ramp_from(0, now, actions);
        }
    }

    fn ramp_from(&mut self, from: usize, now: Instant, actions: &mut Vec<Action>) {
        // Without a shift there is nothing to ramp: proxies went back by themselves.
        let share = self.ramp().get(from).copied().filter(|_| self.shifted.is_some());
        if let Some(share) = share {
            self.enter(Phase::Ramp(from), now);
            actions.push(Action::Share(share, self.switches()));
        } else {
            self.rest(now);
            actions.extend([Action::Clear, Action::FailbackDone]);
        }
    }

    fn rest(&mut self, now: Instant) {
        self.enter(Phase::Normal, now);
        self.under = None;
        self.shifted = None;
        self.ran.clear();
        self.flaps = 0;
        self.detected = false;
    }

    fn run(&mut self, command: Command, actions: &mut Vec<Action>) {
        self.runs += 1;
        self.running = Some(self.runs);
        actions.push(Action::Run(self.runs, command));
    }

    /// A command ended. Ends of commands that were killed are passed over.
    pub(crate) fn ended(&mut self, run: u64, result: Result<(), String>, now: Instant) -> Vec<Action> {
        let mut actions = Vec::new();
        if self.running != Some(run) {
            return actions;
        }
        self.running = None;
        match (self.phase.clone(), result) {
            (Phase::FailingOver(step), Ok(())) => self.fail_over_from(step + 1, now, &mut actions),
            (Phase::FailbackStep(step), Ok(())) => self.fail_back_from(step + 1, now, &mut actions),
            // An inverse that fails does not keep the others from running; its own event tells.
            (Phase::Undo(mut steps), _) => {
                steps.pop();
                self.undo(steps, now, &mut actions);
            }
            (Phase::FailingOver(_), Err(reason)) => self.failed_over_badly(reason, now, &mut actions),
            (Phase::FailbackStep(_), Err(reason)) => {
                // The standby goes on serving; the next try waits longer.
                self.flaps = self.flaps.saturating_add(1);
                self.failure = Some(reason.clone());
                self.enter(Phase::FailedOver, now);
                actions.push(Action::Failed(reason));
            }
            _ => {}
        }
        actions
    }

    fn failed_over_badly(&mut self, reason: String, now: Instant, actions: &mut Vec<Action>) {
        actions.push(Action::Failed(reason.clone()));
        self.failure = Some(reason);
        if self.shifted.is_some() {
            // Traffic is at the standby. To take it back to a lost primary would help nobody: people must look.
            self.enter(Phase::FailedOver, now);
        } else {
            self.distrust(now);
            let ran = std::mem::take(&mut self.ran);
            self.undo(ran, now, actions);
        }
    }

    fn take_back(&mut self, now: Instant, reason: String, actions: &mut Vec<Action>) {
        if self.running.take().is_some() {
            actions.push(Action::Kill);
        }
        if self.phase == Phase::Normal {
            self.under = None;
            return;
        }
        actions.extend([Action::Clear, Action::Reset(reason)]);
        // What was being undone already stays to be undone.
        let steps = match &self.phase {
            Phase::Undo(steps) => steps.clone(),
            _ => std::mem::take(&mut self.ran),
        };
        self.shifted = None;
        self.under = None;
        self.undo(steps, now, actions);
    }

    fn undo(&mut self, mut steps: Vec<usize>, now: Instant, actions: &mut Vec<Action>) {
        while let Some(index) = steps.last() {
            if let Some(Step::Run(run)) = self.plan.failover.steps.get(*index)
                && let Some(argv) = &run.undo
            {
                let undo = Command { name: format!("undo {}", run.name), argv: argv.clone(), ..command(run) };
                self.enter(Phase::Undo(steps), now);
                self.run(undo, actions);
                return;
            }
            steps.pop();
        }
        self.rest(now);
    }
}

/// The routing controls that are compiled into snapshots where recovery of a plan stands so.
pub(crate) fn switches_of(plan: &RecoveryPlan, saved: Saved) -> PlanSwitches {
    // Those of a lease are overlays.
    if saved.lease.is_some() {
        return Vec::new();
    }
    let mut machine = Machine::new(plan.clone(), Instant::now());
    (machine.phase, machine.shifted) = (saved.phase, saved.shifted);
    machine.switches()
}

fn command(step: &RunStep) -> Command {
    Command { name: step.name.clone(), argv: step.command.clone(), region: step.region.clone(), timeout: step.timeout }
}

#[cfg(test)]
#[path = "machine_tests.rs"]
mod tests;
