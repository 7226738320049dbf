//! Recovery of one plan as a state machine: no I/O, time passed in. What it wants done it answers as [`Action`]s.
//!
//! ```text
//! Normal ── lost for unhealthyFor, or commanded ──> FailingOver(step) ──> FailedOver <───────────┐
//!   ^                                                  ^                      │ commanded         │ a step failed,
//!   │                                                  │ lost in the ramp     v                   │ or was abandoned
//!   └── Ramp(100 %) done <── Ramp <── AwaitReturn <────┴── FailbackStep <── AwaitPrimary ── UndoFailback
//! ```
//! If the lease that it stands on goes away, or failover fails before traffic was shifted, commands that ran are undone
//! in reverse order (`Undo`), and it is normal again. Not so once an irreversible command has begun: before it begins, what was
//! done becomes the plan's own (durable, under no lease), and it stays until it is failed back.
//!
//! While commands of the plan run, what they do to the primary is no loss of it: the trigger is not armed.

use std::time::{Duration, Instant};

use model::{
    config::{Pattern, RecoveryPlan, RunStep, Step, Trigger},
    name::RegionName,
};
use xds::overlay::SwitchState;

use crate::{
    api::RecoveryState,
    compile,
    health::Health,
    mesh::PlanSwitches,
    standing::{Begun, Phase, Restored, Saved, objection},
};

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
    /// What was done under a lease becomes the plan's own, before this step begins. Proxies keep the lease's overlays until
    /// it ends.
    Commit(String, PlanSwitches),
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
    /// Tell that the lease is gone and why what was done stays.
    Kept(String),
}

/// A command to run.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Command {
    pub(crate) name: String,
    pub(crate) argv: Vec<String>,
    pub(crate) region: Option<RegionName>,
    pub(crate) timeout: Duration,
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
    /// Commands of the failover that began.
    ran: Vec<Begun>,
    /// Commands of the failback that began.
    back: Vec<Begun>,
    /// The lease under which failback was commanded.
    back_under: Option<String>,
    flaps: u32,
    running: Option<u64>,
    runs: u64,
    failure: Option<String>,
    /// Why it moved last.
    reason: Option<String>,
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
            back: Vec::new(),
            back_under: None,
            flaps: 0,
            running: None,
            runs: 0,
            failure: None,
            reason: None,
        }
    }

    /// Goes on where a former process stopped. A step that was running runs again. What stood on a lease goes on if that
    /// lease is the one that holds the plan now, else it is undone.
    pub(crate) fn restore(plan: RecoveryPlan, saved: Saved, held: Option<&str>, now: Instant) -> (Self, Vec<Action>) {
        let Restored { phase, ran, back } = saved.restored(&plan);
        let mut machine = Self::new(plan, now);
        (machine.phase, machine.ran, machine.back) = (phase, ran, back);
        machine.shifted = saved.shifted;
        machine.flaps = saved.flaps;
        machine.failure = saved.failure;
        machine.reason = saved.reason;
        machine.lease = held.map(str::to_owned);
        machine.under = saved.lease;
        machine.back_under = saved.back_under;
        let mut actions = Vec::new();
        let ended = |lease: &Option<String>| lease.as_ref().filter(|lease| Some(lease.as_str()) != held).cloned();
        let lost = ended(&machine.under).or_else(|| ended(&machine.back_under));
        if let Some(lease) = lost
            && machine.lease_ended(
                &lease,
                format!("lease {lease} ended with the former control plane"),
                now,
                &mut actions,
            )
        {
            return (machine, actions);
        }
        match machine.phase.clone() {
            Phase::FailingOver(name) => machine.fail_over_at(&name, now, &mut actions),
            Phase::FailbackStep(name) => machine.fail_back_at(&name, now, &mut actions),
            Phase::Ramp(share) => machine.ramp_at(share, now, &mut actions),
            Phase::Undo | Phase::UndoFailback => machine.undo(now, &mut actions),
            Phase::Normal | Phase::FailedOver | Phase::AwaitPrimary | Phase::AwaitReturn => {}
        }
        (machine, actions)
    }

    /// What must be stored; `None` if it is at rest.
    pub(crate) fn saved(&self) -> Option<Saved> {
        if self.phase == Phase::Normal {
            return None;
        }
        let mut saved = Saved::new(&self.phase, &self.ran, &self.back);
        saved.lease.clone_from(&self.under);
        saved.back_under.clone_from(&self.back_under);
        saved.shifted.clone_from(&self.shifted);
        saved.flaps = self.flaps;
        saved.failure.clone_from(&self.failure);
        saved.reason.clone_from(&self.reason);
        Some(saved)
    }

    /// The state in the API's words.
    pub(crate) fn state(&self) -> RecoveryState {
        match self.phase {
            Phase::Normal => RecoveryState::Normal,
            Phase::FailingOver(_) => RecoveryState::FailingOver,
            Phase::FailedOver => RecoveryState::FailedOver,
            Phase::AwaitPrimary
            | Phase::FailbackStep(_)
            | Phase::AwaitReturn
            | Phase::Ramp(_)
            | Phase::Undo
            | Phase::UndoFailback => RecoveryState::FailingBack,
        }
    }

    pub(crate) fn plan(&self) -> &RecoveryPlan {
        &self.plan
    }

    /// The plan was edited. An edit of what already ran waits until it is at rest again.
    pub(crate) fn set_plan(&mut self, plan: RecoveryPlan) {
        if self.saved().is_none_or(|saved| objection(&saved, &self.plan, &plan).is_none()) {
            self.plan = plan;
        }
    }

    /// The plan was removed: what it did is taken back, as far as it can be; what is being undone already goes on.
    pub(crate) fn removed(&mut self, now: Instant) -> Vec<Action> {
        let mut actions = Vec::new();
        if !matches!(self.phase, Phase::Normal | Phase::Undo) {
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

    pub(crate) fn reason(&self) -> Option<&str> {
        self.reason.as_deref()
    }

    pub(crate) fn failure(&self) -> Option<&str> {
        self.failure.as_deref()
    }

    /// Share of the primary while failing back.
    pub(crate) fn share(&self) -> Option<u8> {
        match self.phase {
            Phase::Ramp(share) => Some(share),
            _ => None,
        }
    }

    /// The phase, for who explains it.
    pub(super) fn phase(&self) -> &Phase {
        &self.phase
    }

    /// Where traffic was shifted to.
    pub(super) fn shifted(&self) -> Option<&RegionName> {
        self.shifted.as_ref()
    }

    /// Commands that began and that nothing takes back.
    pub(super) fn irreversible(&self) -> impl Iterator<Item = &str> {
        self.ran.iter().chain(&self.back).filter(|begun| begun.undo.is_none()).map(|begun| begun.name.as_str())
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
            self.lease_ended(&ended, format!("lease {ended} ended"), now, &mut actions);
        }
        actions.extend(self.tick(now));
        actions
    }

    /// What stood on a lease that ended is taken back; what cannot be stays. Answers whether it stood on that one.
    fn lease_ended(&mut self, lease: &str, reason: String, now: Instant, actions: &mut Vec<Action>) -> bool {
        if self.under.as_deref() == Some(lease) {
            self.take_back(now, reason, actions);
            return true;
        }
        let commanded = self.back_under.take_if(|back| back == lease).is_some();
        // Where an irreversible command of the failback has begun, the way on is the safe one.
        if commanded && self.back.iter().all(|begun| begun.undo.is_some()) {
            return self.abandon_failback(now, reason, actions);
        }
        if self.phase != Phase::Normal && self.irreversible().next().is_some() {
            actions.push(Action::Kept(reason));
        }
        false
    }

    /// Failback ends before the primary has everything: the standby goes on serving.
    fn abandon_failback(&mut self, now: Instant, reason: String, actions: &mut Vec<Action>) -> bool {
        match self.phase {
            Phase::AwaitPrimary => self.enter(Phase::FailedOver, now),
            Phase::FailbackStep(_) | Phase::AwaitReturn | Phase::Ramp(_) => {
                if self.running.take().is_some() {
                    actions.push(Action::Kill);
                }
                let ramps = matches!(self.phase, Phase::Ramp(_));
                self.enter(Phase::UndoFailback, now);
                if let Some(to) = self.shifted.clone().filter(|_| ramps) {
                    actions.push(Action::Shift(to, self.switches()));
                }
                self.undo(now, actions);
            }
            _ => return false,
        }
        actions.push(Action::Kept(reason));
        true
    }

    fn distrust(&mut self, now: Instant) {
        self.seen_healthy = false;
        self.detected = false;
        self.settled_at = now + SETTLE;
        self.gives_up_at = now + GIVE_UP;
    }

    /// Commands failover. Nothing happens if it is under way or done; one that failed is tried again. A failback that has
    /// not moved traffic yet is called off; in its ramp, traffic moves over again.
    pub(crate) fn failover(&mut self, reason: &str, now: Instant) -> Result<Vec<Action>, String> {
        let mut actions = Vec::new();
        match self.phase {
            Phase::Normal => self.begin(reason, now, &mut actions),
            Phase::FailedOver if self.failure.is_some() => self.begin(reason, now, &mut actions),
            Phase::FailingOver(_) | Phase::FailedOver => {}
            Phase::AwaitPrimary => {
                self.back_under = None;
                self.enter(Phase::FailedOver, now);
            }
            Phase::AwaitReturn | Phase::Ramp(_) => self.begin(reason, now, &mut actions),
            Phase::FailbackStep(_) => return Err("a command of the failback is running; wait for its end".to_owned()),
            Phase::Undo | Phase::UndoFailback => {
                return Err("commands are being undone; wait for their end".to_owned());
            }
        }
        Ok(actions)
    }

    /// Commands failback. Nothing happens if it is under way.
    pub(crate) fn failback(&mut self, reason: &str, now: Instant) -> Result<Vec<Action>, String> {
        match self.phase {
            Phase::FailedOver => {}
            Phase::AwaitPrimary | Phase::FailbackStep(_) | Phase::AwaitReturn | Phase::Ramp(_) => return Ok(Vec::new()),
            Phase::Normal | Phase::Undo => return Err("there is nothing to fail back from".to_owned()),
            Phase::FailingOver(_) => return Err("failover is still under way; wait for its end".to_owned()),
            Phase::UndoFailback => return Err("the last failback is being undone; wait for its end".to_owned()),
        }
        self.failure = None;
        self.back.clear();
        self.back_under.clone_from(&self.lease);
        self.enter(Phase::AwaitPrimary, now);
        self.reason = Some(reason.to_owned());
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
        self.back.clear();
        self.back_under = None;
        if matches!(self.health, Health::Lost(_)) && !self.detected {
            self.detected = true;
            actions.push(Action::Detected);
        }
        self.reason = Some(reason.to_owned());
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
            Phase::AwaitReturn => self.healthy_for(STEADY),
            Phase::Ramp(_) => {
                let next = self.since + self.lengthened(self.plan.failback.dwell);
                Some(lost.map_or(next, |lost| lost.min(next)))
            }
            Phase::FailingOver(_) | Phase::FailbackStep(_) | Phase::Undo | Phase::UndoFailback => None,
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
            Phase::AwaitReturn if due(self.healthy_for(STEADY)) => self.ramp_after(0, now, &mut actions),
            Phase::Ramp(_) if self.lost_again(now) => self.relapse(now, &mut actions),
            Phase::Ramp(share) if now >= self.since + self.lengthened(self.plan.failback.dwell) => {
                self.ramp_after(share, now, &mut actions);
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
        self.begin("the primary was lost again during failback", now, actions);
    }

    /// Goes on with the command of the failover that has this name.
    fn fail_over_at(&mut self, name: &str, now: Instant, actions: &mut Vec<Action>) {
        match self.plan.failover.steps.iter().position(|step| matches!(step, Step::Run(run) if run.name == name)) {
            Some(place) => self.fail_over_from(place, now, actions),
            None => self.failed_over_badly(format!("step {name} is not in the plan any more"), now, actions),
        }
    }

    fn fail_over_from(&mut self, from: usize, now: Instant, actions: &mut Vec<Action>) {
        let ramped = matches!(self.phase, Phase::Ramp(_));
        self.enter(Phase::FailedOver, now);
        // What the ramp gave to the primary is taken from it before anything else is done.
        if let Some(to) = self.shifted.clone().filter(|_| ramped)
            && !matches!(self.plan.failover.steps.first(), Some(Step::Shift { .. }))
        {
            actions.push(Action::Shift(to, self.switches()));
        }
        for step in self.plan.failover.steps.clone().iter().skip(from) {
            match step {
                Step::Shift { to } => {
                    self.shifted = Some(to.clone());
                    actions.push(Action::Shift(to.clone(), self.switches()));
                }
                Step::Run(run) => {
                    self.enter(Phase::FailingOver(run.name.clone()), now);
                    note(&mut self.ran, run);
                    if run.is_irreversible() && self.under.take().is_some() {
                        actions.push(Action::Commit(run.name.clone(), self.switches()));
                    }
                    self.run(command(run), actions);
                    return;
                }
            }
        }
    }

    /// Goes on with the command of the failback that has this name.
    fn fail_back_at(&mut self, name: &str, now: Instant, actions: &mut Vec<Action>) {
        match self.plan.failback.steps.iter().position(|run| run.name == name) {
            Some(place) => self.fail_back_from(place, now, actions),
            None => self.failed_back_badly(format!("step {name} is not in the plan any more"), now, actions),
        }
    }

    fn fail_back_from(&mut self, from: usize, now: Instant, actions: &mut Vec<Action>) {
        match self.plan.failback.steps.get(from).cloned() {
            Some(run) => {
                self.enter(Phase::FailbackStep(run.name.clone()), now);
                note(&mut self.back, &run);
                if run.is_irreversible() && self.under.take().is_some() {
                    actions.push(Action::Commit(run.name.clone(), self.switches()));
                }
                self.run(command(&run), actions);
            }
            // What the commands did to the primary must be over before it takes traffic.
            None if from > 0 => self.enter(Phase::AwaitReturn, now),
            None => self.ramp_after(0, now, actions),
        }
    }

    /// The next share of the ramp above this one.
    fn ramp_after(&mut self, share: u8, now: Instant, actions: &mut Vec<Action>) {
        let next = compile::ramp_steps(&self.plan.failback).into_iter().find(|next| *next > share);
        match next {
            Some(next) => self.ramp_at(next, now, actions),
            None => self.failed_back(now, actions),
        }
    }

    fn ramp_at(&mut self, share: u8, now: Instant, actions: &mut Vec<Action>) {
        // Without a shift there is nothing to ramp: proxies went back by themselves.
        if self.shifted.is_none() {
            return self.failed_back(now, actions);
        }
        self.enter(Phase::Ramp(share), now);
        actions.push(Action::Share(share, self.switches()));
    }

    fn failed_back(&mut self, now: Instant, actions: &mut Vec<Action>) {
        self.rest(now);
        actions.extend([Action::Clear, Action::FailbackDone]);
    }

    fn rest(&mut self, now: Instant) {
        self.enter(Phase::Normal, now);
        self.under = None;
        self.shifted = None;
        self.ran.clear();
        self.back.clear();
        self.back_under = None;
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
            (Phase::FailingOver(name), Ok(())) => self.fail_over_after(&name, now, &mut actions),
            (Phase::FailbackStep(name), Ok(())) => self.fail_back_after(&name, now, &mut actions),
            (Phase::Undo, result) => {
                self.undone(self.ran.last().cloned(), result, &mut actions);
                self.ran.pop();
                self.undo(now, &mut actions);
            }
            (Phase::UndoFailback, result) => {
                self.undone(self.back.last().cloned(), result, &mut actions);
                self.back.pop();
                self.undo(now, &mut actions);
            }
            (Phase::FailingOver(_), Err(reason)) => self.failed_over_badly(reason, now, &mut actions),
            (Phase::FailbackStep(_), Err(reason)) => self.failed_back_badly(reason, now, &mut actions),
            _ => {}
        }
        actions
    }

    /// An inverse that fails does not keep the others from running; it is told.
    fn undone(&mut self, step: Option<Begun>, result: Result<(), String>, actions: &mut Vec<Action>) {
        if let (Some(step), Err(reason)) = (step, result) {
            let reason = format!("step {} is not undone: {reason}", step.name);
            actions.push(Action::Failed(reason.clone()));
            self.failure = Some(reason);
        }
    }

    fn fail_over_after(&mut self, name: &str, now: Instant, actions: &mut Vec<Action>) {
        let is_it = |step: &Step| matches!(step, Step::Run(run) if run.name == name);
        let place = self.plan.failover.steps.iter().position(is_it);
        self.fail_over_from(place.map_or(usize::MAX, |place| place + 1), now, actions);
    }

    fn fail_back_after(&mut self, name: &str, now: Instant, actions: &mut Vec<Action>) {
        let place = self.plan.failback.steps.iter().position(|run| run.name == name);
        self.fail_back_from(place.map_or(usize::MAX, |place| place + 1), now, actions);
    }

    fn failed_over_badly(&mut self, reason: String, now: Instant, actions: &mut Vec<Action>) {
        actions.push(Action::Failed(reason.clone()));
        self.failure = Some(reason);
        if self.shifted.is_some() || self.irreversible().next().is_some() {
            // To take traffic back to a lost primary, or to one that is none any more, would help nobody: people must look.
            self.enter(Phase::FailedOver, now);
        } else {
            self.distrust(now);
            self.enter(Phase::Undo, now);
            self.undo(now, actions);
        }
    }

    fn failed_back_badly(&mut self, reason: String, now: Instant, actions: &mut Vec<Action>) {
        // The standby goes on serving; the next try waits longer.
        self.flaps = self.flaps.saturating_add(1);
        self.back_under = None;
        self.failure = Some(reason.clone());
        actions.push(Action::Failed(reason));
        self.enter(Phase::UndoFailback, now);
        self.undo(now, actions);
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
        // The failback's commands are the later ones. What was being undone already stays to be undone.
        self.ran.append(&mut self.back);
        self.shifted = None;
        self.under = None;
        self.back_under = None;
        self.enter(Phase::Undo, now);
        self.undo(now, actions);
    }

    /// Runs the next inverse. Of the failback's commands nothing is taken back that lies before an irreversible one.
    fn undo(&mut self, now: Instant, actions: &mut Vec<Action>) {
        let failback = self.phase == Phase::UndoFailback;
        loop {
            let next = if failback { self.back.last() } else { self.ran.last() };
            match next.cloned() {
                Some(Begun { undo: Some(argv), name, region, timeout_ms }) => {
                    let step = Begun { undo: None, name, region, timeout_ms };
                    let name = format!("undo {}", step.name);
                    self.since = now;
                    self.run(Command { name, argv, timeout: step.timeout(), region: step.region }, actions);
                    return;
                }
                Some(_) if !failback => drop(self.ran.pop()),
                Some(_) | None => break,
            }
        }
        if failback { self.enter(Phase::FailedOver, now) } else { self.rest(now) }
    }
}

/// Notes that a command begins.
fn note(begun: &mut Vec<Begun>, run: &RunStep) {
    begun.retain(|begun| begun.name != run.name);
    begun.push(Begun::of(run));
}

/// The routing controls that are compiled into snapshots where recovery of a plan stands so.
pub(crate) fn switches_of(plan: &RecoveryPlan, saved: Saved) -> PlanSwitches {
    // Those of a lease are overlays.
    if saved.lease.is_some() {
        return Vec::new();
    }
    let mut machine = Machine::new(plan.clone(), Instant::now());
    machine.phase = saved.restored(plan).phase;
    machine.shifted = saved.shifted;
    machine.switches()
}

fn command(step: &RunStep) -> Command {
    Command { name: step.name.clone(), argv: step.command.clone(), region: step.region.clone(), timeout: step.timeout }
}

#[cfg(test)]
#[path = "machine_tests.rs"]
mod tests;
