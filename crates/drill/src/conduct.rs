//! The main loop of an attempt: feeds the life with time and events, and records what happens.

use std::{collections::BTreeSet, sync::Arc, time::Duration};

use evidence::{
    measure::measure,
    record::{
        Attempt, Ending, EngineRecord, EventRecord, Finding, GuardRecord, Nanos, Phase, Point, Registration, Residue,
    },
    results::Results,
};
use serde_json::json;
use tokio::{
    sync::mpsc,
    task::JoinSet,
    time::{MissedTickBehavior, interval, sleep},
};

use crate::{
    clock::{duration, nanos, seconds},
    context::{Context, LOOK, Message, Purpose},
    figures::figures,
    findings::{self, findings},
    guard::{self, Look},
    late::Late,
    life::{Action, Input, Life, Stage},
    normal,
    probe::{lock, log::record_of},
    progress::{Live, Progress},
    record::Abort,
    shell::Shell,
    target::{Meaning, Observed, Target},
    tasks::loads,
    undo::Undo,
};

/// How often time is looked at: the grain of the scenario's schedule.
const TICK: Duration = Duration::from_millis(10);
/// Guards are looked at every so many ticks.
const GUARD_TICKS: u64 = 5;
/// Live numbers and the live measurement come every so many ticks.
const LIVE_TICKS: u64 = 50;
/// Between two live measurements there is this many times what one takes.
const LIVE_SHARE: Nanos = 4;
/// Events that are kept.
const MOST_EVENTS: usize = 20_000;
/// Longest wait for an event in one question.
const EVENT_WAIT: Duration = Duration::from_secs(1);

/// One attempt under way.
pub struct Conductor<T> {
    context: Arc<Context<T>>,
    registration: Registration,
    number: u64,
    life: Life,
    shell: Shell<T>,
    pump: JoinSet<()>,
    guards: Vec<GuardRecord>,
    guards_judged: Vec<bool>,
    phases: Vec<Phase>,
    probes_since: Nanos,
    events: Vec<EventRecord>,
    events_dropped: u64,
    shown: BTreeSet<Point>,
    /// What is to be shown of the timeline, with its offset in seconds: it comes from several observers, not in order.
    beats: Vec<(f64, Progress)>,
    recovered: bool,
    /// How late the main loop looked at time.
    late: Late,
    /// A measurement is under way; the next one may begin at this time.
    measuring: bool,
    measure_next: Nanos,
    loss_shown: usize,
    ramp: Vec<f64>,
    failback_shown: bool,
}

impl<T: Target> Conductor<T> {
    /// A registered attempt.
    pub fn new(context: Arc<Context<T>>, registration: Registration, number: u64, life: Life) -> Self {
        let guard = |guard: &model::config::Guard| GuardRecord {
            guard: guard::describe(guard),
            tripped: None,
            seen: None,
            cleared: None,
        };
        let guards: Vec<GuardRecord> = context.drill.guards.iter().map(guard).collect();
        Self {
            shell: Shell::new(context.clone()),
            guards_judged: vec![false; guards.len()],
            guards,
            context,
            registration,
            number,
            life,
            pump: JoinSet::new(),
            phases: Vec::new(),
            probes_since: Nanos::MAX,
            events: Vec::new(),
            events_dropped: 0,
            shown: BTreeSet::new(),
            beats: Vec::new(),
            recovered: false,
            late: Late::default(),
            measuring: false,
            measure_next: 0,
            loss_shown: 0,
            ramp: Vec::new(),
            failback_shown: false,
        }
    }

    /// Lives it to its end.
    pub async fn conduct(&mut self, mut messages: mpsc::Receiver<Message>, mut abort: Abort) {
        self.pump.spawn(pump(self.context.clone()));
        let mut ticker = interval(TICK);
        ticker.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let mut ticks = 0u64;
        let mut aborts = true;
        self.feed(Input::Start).await;
        while self.life.stage() != Stage::Done {
            tokio::select! {
                biased;
                changed = abort.changed(), if aborts => {
                    aborts = changed.is_ok();
                }
                message = messages.recv() => match message {
                    Some(Message::Input(Input::ReadBack)) => self.measure_apart(Purpose::Loss),
                    Some(Message::Input(Input::Sustained(result))) => self.measure_apart(Purpose::FailedBack(result)),
                    Some(Message::Input(input)) => self.feed(input).await,
                    Some(Message::Measured(purpose, results, took)) => self.measured(purpose, &results, took).await,
                    Some(Message::Seen(events)) => self.seen(events).await,
                    None => break,
                },
                due = ticker.tick() => {
                    self.late.note(nanos(due.elapsed()));
                    ticks += 1;
                    self.feed(Input::Tick).await;
                    if ticks.is_multiple_of(GUARD_TICKS) {
                        self.look_at_guards().await;
                    }
                    if ticks.is_multiple_of(LIVE_TICKS) {
                        self.live();
                    }
                }
            }
            // Also one that was asked for before the attempt began.
            let asked = abort.borrow_and_update().clone();
            if let Some(reason) = asked {
                self.feed(Input::Stop(reason)).await;
            }
        }
        self.phase("").await;
        self.shell.end_spool().await;
        self.pump.abort_all();
    }

    async fn feed(&mut self, input: Input) {
        let before = self.life.stage();
        let ending = self.life.ending().clone();
        if matches!(input, Input::Stop(_) | Input::LeaseLost(_)) {
            self.context.facts().stopped.get_or_insert(self.context.clock.now());
        }
        let leased = input == Input::Leased(Ok(()));
        let cleared = input == Input::Cleared;
        let actions = self.life.on(self.context.clock.now(), input);
        if leased && self.life.stage() == Stage::Running {
            self.shell.keep_lease();
        }
        if cleared {
            self.cleared();
        }
        let stage = self.life.stage();
        if before != stage {
            self.stage_changed(before, stage).await;
        }
        if ending != *self.life.ending() {
            self.ending_changed().await;
        }
        for action in actions {
            if action == Action::StartProbes {
                self.probes_since = self.context.clock.now();
            }
            self.shell.act(action, self.life.ending());
        }
    }

    async fn stage_changed(&mut self, before: Stage, stage: Stage) {
        if stage == Stage::Undoing {
            self.context.facts().timeline.freeze();
            self.live_measure(true);
        }
        self.show_beats();
        // A baseline that is measured again begins anew.
        let again = before == Stage::Judging && stage == Stage::Baseline;
        if before.phase() != stage.phase() || again || self.phases.is_empty() {
            self.phase(stage.phase()).await;
        }
    }

    /// Ends the phase and begins the next; an empty name only ends it.
    async fn phase(&mut self, name: &'static str) {
        let now = self.context.clock.now();
        if let Some(last) = self.phases.last_mut() {
            last.to = Some(now);
        }
        if name.is_empty() {
            return;
        }
        self.phases.push(Phase { name: name.to_owned(), from: now, to: None });
        self.context.show(Progress::Phase { name, planned: self.planned(name) });
        self.context.observe("phase", name, json!({})).await;
    }

    fn planned(&self, phase: &str) -> Option<Duration> {
        match phase {
            "baseline" => Some(self.context.drill.baseline),
            "fault" => Some(self.context.drill.hold),
            _ => None,
        }
    }

    async fn ending_changed(&mut self) {
        self.show_points();
        match self.life.ending().clone() {
            Ending::Completed => {}
            Ending::Refused { reasons } => {
                self.context.observe("observation", "refused", json!({"reasons": reasons})).await;
                self.context.show(Progress::Refused { reasons });
            }
            Ending::Aborted { reason } => {
                self.context.show(Progress::Aborting { reason: reason.clone() });
                self.context.observe("observation", &format!("stopped: {reason}"), json!({})).await;
            }
            Ending::Crashed { reason } => {
                self.context.show(Progress::Crashed { reason: reason.clone() });
                self.context.observe("observation", &format!("crashed: {reason}"), json!({})).await;
            }
        }
    }

    fn cleared(&mut self) {
        let cleared = self.context.facts().cleared;
        for guard in self.guards.iter_mut().filter(|guard| guard.tripped.is_some()) {
            guard.cleared = cleared;
        }
    }

    async fn seen(&mut self, events: Vec<Observed>) {
        for event in events {
            let time = self.context.on_clock(event.time);
            if time < -self.context.facts().timeline.error() {
                // Of the time before this attempt.
                continue;
            }
            let input = self.understand(time, &event);
            if self.events.len() < MOST_EVENTS {
                self.events.push(EventRecord { time, source: event.source, event: event.raw });
            } else {
                self.events_dropped += 1;
            }
            if let Some(input) = input {
                self.feed(input).await;
            }
        }
    }

    fn understand(&mut self, time: Nanos, event: &Observed) -> Option<Input> {
        let primary = self.primary();
        let plan = self.context.plan.name.as_str();
        let mut facts = self.context.facts();
        facts.timeline.observe(time, &event.source, &event.meaning);
        let taken_out = |service: &str| (event.source.clone(), service.to_owned());
        match &event.meaning {
            Meaning::Detected { service, region, .. } if *region == primary => {
                if !facts.timeline.is_inside(&event.source) {
                    facts.taken_out.insert(taken_out(service));
                }
                Some(Input::Detected)
            }
            Meaning::Readmitted { service, region } if *region == primary => {
                facts.taken_out.remove(&taken_out(service));
                None
            }
            Meaning::StepFinished { name, took, result } => {
                drop(facts);
                let (name, took, result) = (name.clone(), *took, result.clone());
                let offset = self.life.start().map_or(0.0, |start| seconds(time - start));
                self.beats.push((offset, Progress::PlanStep { name, took, result, offset }));
                None
            }
            Meaning::RampStep { percent } => {
                drop(facts);
                self.ramp.push(*percent);
                self.context.facts().ramp.push((time, *percent));
                // A look at its beginning, so that what the proxies send within a short step can be told from the step before.
                let context = self.context.clone();
                self.pump.spawn(async move { loads::look(&context).await });
                self.context.show(Progress::Ramp { percent: *percent });
                None
            }
            Meaning::FailbackDone { plan: of } if of == plan => Some(Input::FailbackDone),
            Meaning::RecoveryFailed { plan: of, reason } if of == plan => Some(Input::RecoveryFailed(reason.clone())),
            _ => None,
        }
    }

    fn primary(&self) -> String {
        let model::config::Pattern::ActivePassive { primary, .. } = &self.context.plan.pattern;
        self.context.lost_region.clone().unwrap_or_else(|| primary.to_string())
    }

    async fn look_at_guards(&mut self) {
        if !self.life.stage().under_lease() {
            return;
        }
        let now = self.context.clock.now();
        let logs = self.context.facts().logs.clone();
        let mut tripped = None;
        for (index, guard) in self.context.drill.guards.iter().enumerate() {
            let Some(log) = logs.iter().find(|log| lock(log).name() == guard.probe.as_str()) else { continue };
            match guard::look(&guard.condition, &lock(log), self.probes_since, now) {
                Look::TooEarly => {}
                Look::Holds => self.guards_judged[index] = true,
                Look::Trips(seen) => {
                    self.guards_judged[index] = true;
                    tripped = tripped.or(Some((index, seen)));
                }
            }
        }
        if let Some((index, seen)) = tripped
            && let Some(record) = self.guards.get_mut(index)
        {
            record.tripped = Some(now);
            record.seen = Some(seen.clone());
            let reason = format!("guard `{}` tripped: {seen}", record.guard);
            self.feed(Input::Stop(reason)).await;
        }
    }

    fn live(&mut self) {
        let now = self.context.clock.now();
        let logs = self.context.facts().logs.clone();
        let phase = self.life.stage().phase();
        let since = self.phases.last().map_or(now, |phase| phase.from);
        self.context.show(Progress::Tick(Live {
            phase,
            elapsed: duration(now - since),
            planned: self.planned(phase),
            since_fault: self.life.start().map(|start| duration(now - start)),
            probes: logs.iter().map(|log| figures(&lock(log), now - 1_000_000_000, now)).collect(),
        }));
        if self.life.stage() == Stage::Running {
            self.live_measure(false);
        } else {
            self.show_beats();
        }
    }

    fn show_beats(&mut self) {
        self.beats.sort_by(|(one, _), (other, _)| one.total_cmp(other));
        for (_, beat) in self.beats.drain(..) {
            self.context.show(beat);
        }
    }

    /// Shows what follows from the samples so far; at the hold's end also that it has not recovered.
    fn live_measure(&mut self, last: bool) {
        if self.recovered {
            self.show_points();
            return;
        }
        if last || (!self.measuring && self.context.clock.now() >= self.measure_next) {
            self.measure_apart(Purpose::Live(last));
        }
    }

    /// Measures what is known now on a thread of its own: neither leases nor an abort wait for that, however many samples
    /// there are. What it says comes back as a message.
    fn measure_apart(&mut self, purpose: Purpose) {
        self.measuring = true;
        // Reaps those that have ended.
        while self.pump.try_join_next().is_some() {}
        let mut attempt = self.frame(Ending::Completed, Vec::new());
        let context = self.context.clone();
        let logs = context.facts().logs.clone();
        let began = context.clock.now();
        let measure = move || {
            attempt.probes = logs.iter().map(record_of).collect();
            measure(&attempt)
        };
        self.pump.spawn(async move {
            match tokio::task::spawn_blocking(measure).await {
                Ok(results) => {
                    let took = duration(context.clock.now() - began);
                    context.tell(Message::Measured(purpose, Box::new(results), took)).await;
                }
                Err(error) => context.tell(Message::Input(Input::Stop(format!("measuring failed: {error}")))).await,
            }
        });
    }

    async fn measured(&mut self, purpose: Purpose, results: &Results, took: Duration) {
        self.measuring = false;
        // However long it takes, most of a processor's time is left to the drill.
        self.measure_next = self.context.clock.now() + nanos(took) * LIVE_SHARE;
        match purpose {
            Purpose::Live(last) => self.show_recovery(results, last),
            Purpose::Loss => {
                self.show_loss(results);
                self.feed(Input::ReadBack).await;
            }
            Purpose::FailedBack(result) => {
                self.feed(Input::Sustained(result)).await;
                self.show_failback(results);
            }
        }
    }

    fn show_recovery(&mut self, results: &Results, last: bool) {
        if self.recovered {
            return;
        }
        let zero = self.context.facts().timeline.get(Point::T0c).map(|point| point.time);
        // Observed and derived ones together, so that they read in the order in which they happened.
        for point in &results.timeline {
            if zero.is_some() && self.shown.insert(point.point) {
                let (offset, observer, note) = (point.offset, point.observer.clone(), point.note.clone());
                self.beats.push((offset, Progress::Point { point: point.point, offset, observer, note }));
            }
        }
        self.show_beats();
        let Some(recovery) = &results.measured.recovery else { return };
        let offered = results.probes.iter().filter_map(|probe| probe.fault.as_ref());
        let (offered, failed) = offered.fold((0, 0), |(o, f), s| (o + s.offered, f + s.failed));
        let settled = !recovery.censored && self.sustain_has_passed();
        if settled {
            self.recovered = true;
            self.context.show(Progress::Recovered {
                seconds: recovery.seconds,
                error: recovery.error,
                objective: self.context.plan.objectives.recovery_time.map(|d| d.as_secs_f64()),
                client_visible: recovery.client_visible,
                offered,
                failed,
            });
        } else if last && recovery.censored {
            self.context.show(Progress::NotRecovered { longer_than: recovery.seconds });
        }
    }

    /// A client that has seen nothing yet may still see something: "no outage" takes a whole window.
    fn sustain_has_passed(&self) -> bool {
        let sustain = crate::clock::nanos(self.context.plan.objectives.sustain);
        self.life.start().is_some_and(|start| self.context.clock.now() - start > sustain)
    }

    /// Shows the points that were observed and not shown yet.
    fn show_points(&mut self) {
        let points = self.context.facts().timeline.points();
        let Some(zero) = points.iter().find(|p| p.point == Point::T0c).map(|p| p.time) else { return };
        for point in points {
            if self.shown.insert(point.point) {
                let (point, offset, observer, note) =
                    (point.point, seconds(point.time - zero), point.observer, point.note);
                self.beats.push((offset, Progress::Point { point, offset, observer, note }));
            }
        }
        self.show_beats();
    }

    fn show_loss(&mut self, results: &Results) {
        let logs = self.context.facts().logs.clone();
        let readbacks = logs.iter().map(|log| lock(log).readbacks().len()).sum();
        if readbacks == self.loss_shown {
            return;
        }
        let phase = if self.loss_shown == 0 { "recovered" } else { "failedBack" };
        self.loss_shown = readbacks;
        let measured = &results.measured;
        if let Some(loss) = &measured.loss {
            // What the fault had cost was said before: this is what the way back cost.
            let back = measured.failback.as_ref().filter(|_| phase == "failedBack");
            let (lost, seconds) = back.map_or((loss.lost, loss.seconds), |back| (back.lost, back.lost_seconds));
            self.context.show(Progress::Loss {
                phase,
                acknowledged: loss.acknowledged,
                lost,
                indeterminate: loss.indeterminate,
                seconds,
                objective: self.context.plan.objectives.data_loss.map(|d| d.as_secs_f64()),
            });
        }
    }

    fn show_failback(&mut self, results: &Results) {
        if let Some(failback) = &results.measured.failback
            && !self.failback_shown
        {
            self.failback_shown = true;
            self.context.show(Progress::FailedBack {
                ramp: self.ramp.clone(),
                offered: failback.offered,
                failed: failback.failed,
                problem: self.life.problems().last().cloned(),
            });
        }
    }

    /// The record as it is now.
    fn attempt(&self, ending: Ending, findings: Vec<Finding>) -> Attempt {
        let logs = self.context.facts().logs.clone();
        Attempt { probes: logs.iter().map(record_of).collect(), ..self.frame(ending, findings) }
    }

    /// The record as it is now, without what the probes saw.
    fn frame(&self, ending: Ending, findings: Vec<Finding>) -> Attempt {
        let facts = self.context.facts();
        Attempt {
            phases: self.phases.clone(),
            timeline: facts.timeline.points(),
            probes: Vec::new(),
            guards: self.guards.clone(),
            findings,
            residue: Residue { before: facts.before.clone(), after: facts.after.clone() },
            programs: self.context.target.programs(),
            served: facts.served.clone(),
            ramp: normal::ramp(&facts.ramp, self.context.clock.now(), &facts.loads, &self.context.plan),
            changes: facts.reconfigured.iter().cloned().collect(),
            ..self.registration.outline(self.number, ending)
        }
    }

    /// How well the engine did its own work.
    fn engine(&self) -> EngineRecord {
        let (logs, unsent) = {
            let facts = self.context.facts();
            (facts.logs.clone(), facts.unsent.clone())
        };
        EngineRecord {
            main_loop: self.late.summary(),
            sends: logs.iter().map(lock).map(|log| (log.name().to_owned(), log.lateness())).collect(),
            unsent,
            descriptor_limit: logs.iter().filter_map(|log| lock(log).descriptor_limit()).min(),
        }
    }

    /// What is to be sealed, with everything in it.
    ///
    /// # Errors
    /// When plan and drill have no canonical form.
    pub fn finish(mut self) -> Result<(Attempt, Results), evidence::canonical::CanonicalError> {
        let ending = self.life.ending().clone();
        let found = self.findings(&ending);
        let whole = self.registration.attempt(self.number, ending.clone())?;
        let mut attempt = self.attempt(ending, found);
        attempt.digest = whole.digest;
        attempt.registered = whole.registered;
        attempt.about = whole.about;
        let services: Vec<String> = self.context.plan.services.iter().map(ToString::to_string).collect();
        match self.context.undos.touching(&services) {
            Ok(owed) => attempt.undos = owed.iter().map(Undo::record).collect(),
            Err(error) => attempt.unproven.push(format!("whether an undo is outstanding could not be seen: {error}")),
        }
        attempt.engine = Some(self.engine());
        attempt.journal = self.context.journal();
        attempt.events = std::mem::take(&mut self.events);
        attempt.events.sort_by_key(|event| event.time);
        attempt.requests = self.context.facts().requests.take();
        let results = measure(&attempt);
        Ok((attempt, results))
    }

    /// With what the last try saw, which is on disk only.
    fn outstanding(&self, owed: &Undo) -> Finding {
        self.context.undos.get(&owed.id).ok().flatten().as_ref().unwrap_or(owed).finding()
    }

    fn findings(&self, ending: &Ending) -> Vec<Finding> {
        if matches!(ending, Ending::Refused { .. }) {
            // The reasons say it all.
            return Vec::new();
        }
        let results = measure(&self.attempt(ending.clone(), Vec::new()));
        let facts = self.context.facts();
        let mut problems: Vec<String> = self.life.problems().to_vec();
        problems.extend(facts.problems.iter().cloned());
        if self.events_dropped > 0 {
            problems.push(format!("Events beyond {MOST_EVENTS} were not kept: {}", self.events_dropped));
        }
        if let Some(now) = &facts.reconfigured {
            problems.push(format!(
                "{} applied revision {} during the attempt, which began with revision {}: what was measured is of both",
                now.operator.as_deref().unwrap_or("somebody"),
                now.to.revision,
                now.from.revision
            ));
        }
        let tries = facts.tries_start.as_deref().zip(facts.tries_end.as_deref());
        let mut found = findings(
            &findings::Facts {
                plan: &self.context.plan,
                drill: &self.context.drill,
                lost_region: self.context.lost_region.as_deref(),
                tries,
                detected: facts.timeline.get(Point::T2).is_some() || *ending != Ending::Completed,
                guards_judged: &self.guards_judged,
                problems: &problems,
                residue: facts.residue.as_deref().unwrap_or_default(),
            },
            &results,
        );
        // What is still owed was run and failed.
        found.splice(0..0, facts.owed.values().map(|owed| self.outstanding(owed)));
        for finding in &found {
            self.context.show(Progress::Finding(finding.clone()));
        }
        found
    }
}

/// Follows the mesh's event log. What cannot be asked now is asked again: events wait where they are.
async fn pump<T: Target>(context: Arc<Context<T>>) {
    let mut after = 0;
    loop {
        match context.target.events(after, EVENT_WAIT).await {
            Ok(events) => {
                let Some(last) = events.iter().map(|event| event.sequence).max() else { continue };
                after = last;
                context.tell(Message::Seen(events)).await;
            }
            Err(_) => sleep(LOOK * 2).await,
        }
    }
}
