//! The life of an attempt: which thing is done when. Pure: time and events come in, actions come out.
//!
//! `inspect → prove undo → baseline → lease → scenario and hold → undo → return → read back → fail back → sustain →
//! stop probes → read back → release → compare → done`. A reason to stop leaves this path at any point: everything is
//! released at once, and the way out (`clear → stop probes → compare → done`) is the same for all of them.

use evidence::record::{Ending, Nanos};

/// What the life needs to know of the drill.
#[derive(Clone, Debug)]
pub struct Script {
    /// Length of the baseline.
    pub baseline: Nanos,
    /// For so long from the start, a baseline that is no steady normal state is measured again.
    pub wait: Nanos,
    /// How long the fault is held from the first step.
    pub hold: Nanos,
    /// The scenario.
    pub steps: Vec<StepTiming>,
    /// The engine, in place of an operator, commands the failover.
    pub manual_failover: bool,
    /// After this the failback has failed.
    pub failback_bound: Nanos,
}

/// When a step happens.
#[derive(Clone, Copy, Debug)]
pub struct StepTiming {
    /// After the start.
    pub at: Nanos,
    /// Undone after this long.
    pub lasts: Option<Nanos>,
    /// Whether it breaks anything (a `wait` does not).
    pub breaks: bool,
}

/// A `manual` failover is commanded when proxies have detected the loss, and at the latest this long after the fault.
const OPERATOR: Nanos = 1_000_000_000;

/// What happened.
#[derive(Clone, Debug, PartialEq)]
pub enum Input {
    /// It is registered.
    Start,
    /// Time passed.
    Tick,
    /// The mesh was looked at; reasons against a drill.
    Inspected(Vec<String>),
    /// The harmless lease lapsed everywhere, or not.
    Proved(Result<(), String>),
    /// Probes run, or cannot.
    ProbesStarted(Result<(), String>),
    /// The baseline was judged; reasons against a drill.
    BaselineJudged(Vec<String>),
    /// The lease is held, or not.
    Leased(Result<(), String>),
    /// A step took effect, or failed.
    StepDone(usize, Result<(), String>),
    /// A step was undone, or could not be.
    StepUndone(usize, Result<(), String>),
    /// Proxies took the lost endpoints out.
    Detected,
    /// What was lost is back, or not in time.
    Returned(Result<(), String>),
    /// Writes were read back, or could not be.
    ReadBack,
    /// The failback was commanded (`true`), was not needed (`false`), or refused.
    FailbackCommanded(Result<bool, String>),
    /// The recovery controller is at rest again.
    FailbackDone,
    /// The recovery controller failed.
    RecoveryFailed(String),
    /// Objectives held for the sustain window, or not in time.
    Sustained(Result<(), String>),
    /// Nothing is in flight any more.
    ProbesStopped,
    /// The lease was given back (or lapses by itself).
    Released,
    /// No proxy carries a fault any more, or that could not be seen.
    Cleared,
    /// Proxies were compared with before.
    Compared,
    /// A guard, a person, a failed record: stop.
    Stop(String),
    /// The lease is lost: nobody renewed it in time, or the mesh forgot it.
    LeaseLost(String),
}

/// What to do.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Action {
    /// Audit endpoints, ask proxies and recovery.
    Inspect,
    /// Lay a harmless lease and see it lapse.
    ProveUndo,
    /// Start all probes.
    StartProbes,
    /// Judge what was due between these times, once it has ended.
    JudgeBaseline(Nanos, Nanos),
    /// Take the lease and keep renewing it.
    TakeLease,
    /// Do a step of the scenario.
    Do(usize),
    /// Undo a step of the scenario.
    Undo(usize),
    /// Command the failover.
    FailOver,
    /// Wait until everything lost is back.
    AwaitReturn,
    /// Read writes back, as this phase.
    ReadBack(&'static str),
    /// Command the failback, if a failover is in force.
    FailBack,
    /// Wait for a sustain window in which every objective holds.
    AwaitSustained,
    /// Stop all probes.
    StopProbes,
    /// Give the lease back.
    Release,
    /// Release everything at once, undo commands, and see proxies clear.
    Clear,
    /// Compare proxies with before.
    Compare,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum StepState {
    Waiting,
    Doing,
    Done(Nanos),
    Undoing,
    Undone,
}

/// Where an attempt is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Stage {
    /// Registered.
    Registered,
    /// Looking at the mesh.
    Inspecting,
    /// Proving the undo path.
    Proving,
    /// Starting probes.
    Probing,
    /// Measuring the steady state.
    Baseline,
    /// Waiting for the last answers of the baseline.
    Judging,
    /// Taking the lease.
    Leasing,
    /// Scenario and hold.
    Running,
    /// Taking the scenario back.
    Undoing,
    /// Waiting for what was lost.
    Returning,
    /// Reading writes back.
    ReadingRecovered,
    /// Failing back.
    FailingBack,
    /// Steady state again.
    Sustaining,
    /// Stopping probes.
    Stopping,
    /// Reading writes back for the last time.
    ReadingFailedBack,
    /// Giving the lease back.
    Releasing,
    /// Releasing everything early.
    Clearing,
    /// Stopping probes after that.
    Draining,
    /// Comparing proxies.
    Comparing,
    /// Nothing is left to do.
    Done,
}

impl Stage {
    /// Phase of the record that it belongs to.
    pub fn phase(self) -> &'static str {
        match self {
            Self::Registered | Self::Inspecting | Self::Proving => "preflight",
            Self::Probing | Self::Baseline | Self::Judging | Self::Leasing => "baseline",
            // What works again while the fault is taken back has not recovered from it.
            Self::Running => "fault",
            Self::Undoing | Self::Returning | Self::ReadingRecovered => "return",
            Self::FailingBack | Self::Sustaining => "failback",
            _ => "verify",
        }
    }

    /// Whether faults may be in force, so that guards count and a lost lease is a crash.
    pub fn under_lease(self) -> bool {
        matches!(
            self,
            Self::Running
                | Self::Undoing
                | Self::Returning
                | Self::ReadingRecovered
                | Self::FailingBack
                | Self::Sustaining
                | Self::Stopping
                | Self::ReadingFailedBack
        )
    }
}

/// The state machine.
#[derive(Debug)]
pub struct Life {
    script: Script,
    stage: Stage,
    since: Nanos,
    /// When it was started.
    begun: Nanos,
    start: Option<Nanos>,
    steps: Vec<StepState>,
    broke: Option<Nanos>,
    detected: bool,
    failover_commanded: bool,
    probing: bool,
    ending: Ending,
    problems: Vec<String>,
}

impl Life {
    /// A registered attempt.
    pub fn new(script: Script) -> Self {
        let steps = vec![StepState::Waiting; script.steps.len()];
        Self {
            script,
            stage: Stage::Registered,
            since: 0,
            begun: 0,
            start: None,
            steps,
            broke: None,
            detected: false,
            failover_commanded: false,
            probing: false,
            ending: Ending::Completed,
            problems: Vec::new(),
        }
    }

    /// Where it is.
    pub fn stage(&self) -> Stage {
        self.stage
    }

    /// When the scenario started.
    pub fn start(&self) -> Option<Nanos> {
        self.start
    }

    /// How it ends, as far as is known.
    pub fn ending(&self) -> &Ending {
        &self.ending
    }

    /// What went wrong without stopping it, one sentence each.
    pub fn problems(&self) -> &[String] {
        &self.problems
    }

    /// Takes what happened, gives what to do. An input that does not belong to the stage changes nothing.
    pub fn on(&mut self, now: Nanos, input: Input) -> Vec<Action> {
        match input {
            Input::Stop(reason) => self.stop(now, reason),
            Input::LeaseLost(reason) => self.lose_lease(now, reason),
            input => match self.stage {
                Stage::Registered | Stage::Inspecting | Stage::Proving => self.preflight(now, input),
                Stage::Probing | Stage::Baseline | Stage::Judging | Stage::Leasing => self.baseline(now, input),
                Stage::Running | Stage::Undoing => self.fault(now, input),
                Stage::Returning | Stage::ReadingRecovered | Stage::FailingBack | Stage::Sustaining => {
                    self.failback(now, input)
                }
                _ => self.verify(now, input),
            },
        }
    }

    fn go(&mut self, now: Nanos, stage: Stage, actions: Vec<Action>) -> Vec<Action> {
        self.stage = stage;
        self.since = now;
        actions
    }

    fn refuse(&mut self, now: Nanos, reasons: Vec<String>) -> Vec<Action> {
        self.ending = Ending::Refused { reasons };
        if self.probing {
            self.go(now, Stage::Draining, vec![Action::StopProbes])
        } else {
            self.go(now, Stage::Done, vec![])
        }
    }

    fn preflight(&mut self, now: Nanos, input: Input) -> Vec<Action> {
        match (self.stage, input) {
            (Stage::Registered, Input::Start) => {
                self.begun = now;
                self.go(now, Stage::Inspecting, vec![Action::Inspect])
            }
            (Stage::Inspecting, Input::Inspected(reasons)) if reasons.is_empty() => {
                self.go(now, Stage::Proving, vec![Action::ProveUndo])
            }
            (Stage::Inspecting, Input::Inspected(reasons)) => self.refuse(now, reasons),
            (Stage::Proving, Input::Proved(Ok(()))) => self.go(now, Stage::Probing, vec![Action::StartProbes]),
            (Stage::Proving, Input::Proved(Err(reason))) => {
                self.refuse(now, vec![format!("the undo path is not proved: {reason}")])
            }
            _ => vec![],
        }
    }

    fn baseline(&mut self, now: Nanos, input: Input) -> Vec<Action> {
        match (self.stage, input) {
            (Stage::Probing, Input::ProbesStarted(Ok(()))) => {
                self.probing = true;
                self.go(now, Stage::Baseline, vec![])
            }
            (Stage::Probing, Input::ProbesStarted(Err(reason))) => {
                self.refuse(now, vec![format!("probes cannot run: {reason}")])
            }
            (Stage::Baseline, Input::Tick) if now - self.since >= self.script.baseline => {
                let from = self.since;
                let to = from + self.script.baseline;
                self.go(now, Stage::Judging, vec![Action::JudgeBaseline(from, to)])
            }
            (Stage::Judging, Input::BaselineJudged(reasons)) if reasons.is_empty() => {
                self.go(now, Stage::Leasing, vec![Action::TakeLease])
            }
            (Stage::Judging, Input::BaselineJudged(_)) if now < self.begun.saturating_add(self.script.wait) => {
                self.go(now, Stage::Baseline, vec![])
            }
            (Stage::Judging, Input::BaselineJudged(reasons)) => self.refuse(now, reasons),
            (Stage::Leasing, Input::Leased(Ok(()))) => {
                self.start = Some(now);
                self.go(now, Stage::Running, vec![]);
                self.schedule(now)
            }
            (Stage::Leasing, Input::Leased(Err(reason))) => {
                self.refuse(now, vec![format!("the lease cannot be taken: {reason}")])
            }
            _ => vec![],
        }
    }

    fn fault(&mut self, now: Nanos, input: Input) -> Vec<Action> {
        match input {
            Input::StepDone(index, Ok(())) => {
                self.set(index, StepState::Done(now));
                if self.script.steps.get(index).is_some_and(|step| step.breaks) {
                    self.broke.get_or_insert(now);
                }
            }
            Input::StepDone(index, Err(reason)) => {
                // It may have had part of its effect: it stays to be undone, by the way out.
                return self.stop(now, format!("step {} of the scenario failed: {reason}", index + 1));
            }
            Input::StepUndone(index, result) => {
                self.set(index, StepState::Undone);
                if let Err(reason) = result {
                    self.problems.push(format!("Step {} of the scenario could not be undone: {reason}", index + 1));
                }
            }
            Input::Detected => self.detected = true,
            Input::RecoveryFailed(reason) => self.problems.push(format!("Recovery failed: {reason}")),
            _ => {}
        }
        if self.stage == Stage::Undoing { self.undo_next(now) } else { self.schedule(now) }
    }

    fn set(&mut self, index: usize, state: StepState) {
        if let Some(step) = self.steps.get_mut(index) {
            *step = state;
        }
    }

    /// What is due in the scenario. A step begins when it is due and all before it have taken effect.
    fn schedule(&mut self, now: Nanos) -> Vec<Action> {
        let Some(start) = self.start else { return vec![] };
        let mut actions = Vec::new();
        let mut ready = true;
        for (index, (state, timing)) in self.steps.iter_mut().zip(&self.script.steps).enumerate() {
            match *state {
                StepState::Waiting if ready && now >= start + timing.at => {
                    *state = StepState::Doing;
                    actions.push(Action::Do(index));
                    ready = false;
                }
                StepState::Waiting | StepState::Doing => ready = false,
                StepState::Done(since) if timing.lasts.is_some_and(|lasts| now >= since + lasts) => {
                    *state = StepState::Undoing;
                    actions.push(Action::Undo(index));
                }
                StepState::Done(_) | StepState::Undoing | StepState::Undone => {}
            }
        }
        let wanted = self.script.manual_failover && !self.failover_commanded;
        if wanted && self.broke.is_some_and(|since| self.detected || now >= since + OPERATOR) {
            self.failover_commanded = true;
            actions.push(Action::FailOver);
        }
        if ready && now >= start + self.script.hold {
            self.go(now, Stage::Undoing, vec![]);
            actions.extend(self.undo_next(now));
        }
        actions
    }

    /// Undoes one step after the other, last first.
    fn undo_next(&mut self, now: Nanos) -> Vec<Action> {
        if self.steps.contains(&StepState::Undoing) {
            return vec![];
        }
        match self.steps.iter().rposition(|state| matches!(state, StepState::Done(_))) {
            Some(index) => {
                self.set(index, StepState::Undoing);
                vec![Action::Undo(index)]
            }
            None => self.go(now, Stage::Returning, vec![Action::AwaitReturn]),
        }
    }

    fn failback(&mut self, now: Nanos, input: Input) -> Vec<Action> {
        match (self.stage, input) {
            (Stage::Returning, Input::Returned(result)) => match result {
                Ok(()) => self.go(now, Stage::ReadingRecovered, vec![Action::ReadBack("recovered")]),
                Err(reason) => {
                    self.problems.push(format!("What was lost did not come back, so there was no failback: {reason}"));
                    self.go(now, Stage::Stopping, vec![Action::StopProbes])
                }
            },
            (Stage::ReadingRecovered, Input::ReadBack) => self.go(now, Stage::FailingBack, vec![Action::FailBack]),
            (Stage::FailingBack, Input::FailbackCommanded(Ok(true))) => vec![],
            (Stage::FailingBack, Input::FailbackCommanded(Ok(false)) | Input::FailbackDone) => self.sustain(now),
            (Stage::FailingBack, Input::FailbackCommanded(Err(reason)) | Input::RecoveryFailed(reason)) => {
                self.problems.push(format!("Failback failed: {reason}"));
                self.sustain(now)
            }
            (Stage::FailingBack, Input::Tick) if now - self.since > self.script.failback_bound => {
                self.problems.push("Failback did not end in the time that its ramp and steps allow".to_owned());
                self.sustain(now)
            }
            (Stage::Sustaining, Input::Sustained(result)) => {
                if let Err(reason) = result {
                    self.problems.push(format!("No steady state after failback: {reason}"));
                }
                self.go(now, Stage::Stopping, vec![Action::StopProbes])
            }
            _ => vec![],
        }
    }

    fn sustain(&mut self, now: Nanos) -> Vec<Action> {
        self.go(now, Stage::Sustaining, vec![Action::AwaitSustained])
    }

    fn verify(&mut self, now: Nanos, input: Input) -> Vec<Action> {
        match (self.stage, input) {
            (Stage::Stopping, Input::ProbesStopped) => {
                self.go(now, Stage::ReadingFailedBack, vec![Action::ReadBack("failedBack")])
            }
            (Stage::ReadingFailedBack, Input::ReadBack) => self.go(now, Stage::Releasing, vec![Action::Release]),
            (Stage::Releasing, Input::Released) => self.go(now, Stage::Comparing, vec![Action::Compare]),
            (Stage::Clearing, Input::Cleared) => self.go(now, Stage::Draining, vec![Action::StopProbes]),
            (Stage::Draining, Input::ProbesStopped) => match self.ending {
                // Refused: nothing was ever laid, so there is nothing to compare.
                Ending::Refused { .. } => self.go(now, Stage::Done, vec![]),
                _ => self.go(now, Stage::Comparing, vec![Action::Compare]),
            },
            (Stage::Comparing, Input::Compared) => self.go(now, Stage::Done, vec![]),
            _ => vec![],
        }
    }

    fn stop(&mut self, now: Nanos, reason: String) -> Vec<Action> {
        match self.stage {
            // The way out is already under way, and shorter than any other.
            Stage::Releasing | Stage::Clearing | Stage::Draining | Stage::Comparing | Stage::Done => vec![],
            _ => {
                self.ending = Ending::Aborted { reason };
                self.go(now, Stage::Clearing, vec![Action::Clear])
            }
        }
    }

    fn lose_lease(&mut self, now: Nanos, reason: String) -> Vec<Action> {
        if self.stage == Stage::Clearing {
            // The mesh went away while it was being cleared: that is more than an abort.
            self.ending = Ending::Crashed { reason };
            return vec![];
        }
        if !self.stage.under_lease() {
            return vec![];
        }
        self.ending = Ending::Crashed { reason };
        self.go(now, Stage::Clearing, vec![Action::Clear])
    }
}

#[cfg(test)]
#[path = "life_tests.rs"]
mod tests;
