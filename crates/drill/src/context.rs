//! What all tasks of one attempt share.

use std::{
    collections::{BTreeMap, BTreeSet},
    future::Future,
    path::PathBuf,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use evidence::{
    journal::Journal,
    record::{Configuration, ConfigurationChange, JournalEntry, Nanos, Point, RequestLog, Served, TimelinePoint},
    results::Results,
};
use model::config::{Drill, RecoveryPlan};
use serde_json::{Value, json};
use tokio::{
    sync::mpsc,
    time::{Instant, sleep},
};

use crate::{
    clock::{AttemptClock, duration},
    life::Input,
    normal::Loads,
    probe::{ProbeSpec, SharedLog},
    progress::Progress,
    target::{Observed, ProxyReport, Stamp, Target, TargetError},
    timeline::Timeline,
    undo::{Undo, Undos},
};

/// Between two looks at something that is waited for.
pub const LOOK: Duration = Duration::from_millis(50);

/// What reaches the main loop.
#[derive(Debug)]
pub enum Message {
    /// A task has ended, or something happened.
    Input(Input),
    /// Events of the mesh.
    Seen(Vec<Observed>),
    /// What follows from the samples so far, and how long it took to say.
    Measured(Purpose, Box<Results>, Duration),
}

/// What is measured for while the drill runs.
#[derive(Clone, Debug, PartialEq)]
pub enum Purpose {
    /// To show how far recovery is; `true` at the end of the hold.
    Live(bool),
    /// To show what the writes that were read back say, before the life goes on.
    Loss,
    /// To show how the failback went, before the life goes on with this.
    FailedBack(Result<(), String>),
}

/// What tasks have learnt.
#[derive(Debug)]
pub struct Facts {
    /// Points of the timeline.
    pub timeline: Timeline,
    /// Logs of the running probes.
    pub logs: Vec<SharedLog>,
    /// Undo commands owed, by step.
    pub owed: BTreeMap<usize, Undo>,
    /// Leases that may be held.
    pub leases: BTreeSet<String>,
    /// Digests before the first fault.
    pub before: BTreeMap<String, String>,
    /// Digests at the end.
    pub after: BTreeMap<String, String>,
    /// Proxies that differ at the end; `None` if they were not compared.
    pub residue: Option<Vec<String>>,
    /// Proxies just after the fault.
    pub tries_start: Option<Vec<ProxyReport>>,
    /// Proxies just before failback.
    pub tries_end: Option<Vec<ProxyReport>>,
    /// Endpoints that a proxy took out and has not readmitted: source, service.
    pub taken_out: BTreeSet<(String, String)>,
    /// When the stop was asked for: by a person, a guard, or what went wrong.
    pub stopped: Option<Nanos>,
    /// When, after a stop, the last proxy was clear.
    pub cleared: Option<Nanos>,
    /// The configuration in force at the end, if that is another one than at the start.
    pub reconfigured: Option<ConfigurationChange>,
    /// What the baseline showed of the load at the proxies.
    pub served: Vec<Served>,
    /// Steps of the failback: percent, and when it was commanded.
    pub ramp: Vec<(Nanos, f64)>,
    /// Load at the proxies over time.
    pub loads: Loads,
    /// Requests at gateways, if the drill asks for them.
    pub requests: Option<RequestLog>,
    /// Requests that were due and never begun, by probe.
    pub unsent: BTreeMap<String, u64>,
    /// What went wrong in tasks without stopping the attempt.
    pub problems: Vec<String>,
}

/// Shared by all tasks.
pub struct Context<T> {
    /// The mesh.
    pub target: Arc<T>,
    /// The drill.
    pub drill: Drill,
    /// Its plan.
    pub plan: RecoveryPlan,
    /// Its probes, resolved.
    pub specs: Vec<ProbeSpec>,
    /// The attempt's clock.
    pub clock: AttemptClock,
    /// Zero of the attempt's clock, in nanoseconds since the Unix epoch.
    pub wall: i64,
    /// Lease id.
    pub lease: String,
    /// The region that the scenario takes away.
    pub lost_region: Option<String>,
    /// Undo commands on disk.
    pub undos: Undos,
    /// Number of the attempt.
    pub number: u64,
    /// Where samples are spooled to.
    pub spool: PathBuf,
    /// How long the plan's normal state is waited for.
    pub wait: Duration,
    /// In force when the attempt was registered.
    pub configuration: Option<Configuration>,
    journal: Mutex<Journal>,
    messages: mpsc::Sender<Message>,
    progress: mpsc::Sender<Progress>,
    facts: Mutex<Facts>,
}

/// What a [`Context`] is made of.
pub struct Parts<T> {
    pub target: Arc<T>,
    pub drill: Drill,
    pub plan: RecoveryPlan,
    pub specs: Vec<ProbeSpec>,
    pub clock: AttemptClock,
    pub wall: i64,
    pub lease: String,
    pub lost_region: Option<String>,
    pub undos: Undos,
    pub number: u64,
    pub spool: PathBuf,
    pub wait: Duration,
    pub configuration: Option<Configuration>,
    pub journal: Journal,
    pub messages: mpsc::Sender<Message>,
    pub progress: mpsc::Sender<Progress>,
    pub timeline: Timeline,
}

impl<T: Target> Context<T> {
    /// Nothing is known yet.
    pub fn new(parts: Parts<T>) -> Self {
        let facts = Facts {
            timeline: parts.timeline,
            logs: Vec::new(),
            owed: BTreeMap::new(),
            leases: BTreeSet::new(),
            before: BTreeMap::new(),
            after: BTreeMap::new(),
            residue: None,
            tries_start: None,
            tries_end: None,
            taken_out: BTreeSet::new(),
            stopped: None,
            cleared: None,
            reconfigured: None,
            served: Vec::new(),
            ramp: Vec::new(),
            loads: Loads::default(),
            requests: None,
            unsent: BTreeMap::new(),
            problems: Vec::new(),
        };
        Self {
            target: parts.target,
            drill: parts.drill,
            plan: parts.plan,
            specs: parts.specs,
            clock: parts.clock,
            wall: parts.wall,
            lease: parts.lease,
            lost_region: parts.lost_region,
            undos: parts.undos,
            number: parts.number,
            spool: parts.spool,
            wait: parts.wait,
            configuration: parts.configuration,
            journal: Mutex::new(parts.journal),
            messages: parts.messages,
            progress: parts.progress,
            facts: Mutex::new(facts),
        }
    }

    /// What is known; to be held for a moment only.
    pub fn facts(&self) -> MutexGuard<'_, Facts> {
        self.facts.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Tells the main loop.
    pub async fn tell(&self, message: Message) {
        // The main loop is gone only when the attempt is over.
        let _ = self.messages.send(message).await;
    }

    /// Shows something. A receiver that does not keep up loses lines rather than holding up the drill.
    pub fn show(&self, progress: Progress) {
        let _ = self.progress.try_send(progress);
    }

    /// Writes into the journal; durable when it returns.
    ///
    /// # Errors
    /// When it could not be made durable: an effect must not happen then.
    pub async fn note(self: &Arc<Self>, kind: &str, text: &str, detail: Value) -> Result<(), String> {
        let entry = JournalEntry { time: self.clock.now(), kind: kind.to_owned(), text: text.to_owned(), detail };
        let context = self.clone();
        let append = move || context.journal.lock().unwrap_or_else(PoisonError::into_inner).append(entry);
        match tokio::task::spawn_blocking(append).await {
            Ok(result) => result.map_err(|error| error.to_string()),
            Err(error) => Err(format!("the journal was not written: {error}")),
        }
    }

    /// Writes what was seen into the journal. An attempt that cannot keep its record is stopped.
    pub async fn observe(self: &Arc<Self>, kind: &str, text: &str, detail: Value) {
        if let Err(reason) = self.note(kind, text, detail).await {
            self.tell(Message::Input(Input::Stop(reason))).await;
        }
    }

    /// What the journal holds.
    pub fn journal(&self) -> Vec<JournalEntry> {
        self.journal.lock().unwrap_or_else(PoisonError::into_inner).entries().to_vec()
    }

    /// Records a point that the engine itself saw, in the timeline and in the journal.
    pub async fn point(self: &Arc<Self>, point: Point, time: Nanos, note: &str) {
        let clock_error = self.facts().timeline.error();
        self.facts().timeline.set(point, time, 0, "engine", note);
        let seen = TimelinePoint { point, time, error: clock_error, observer: "engine".into(), note: note.into() };
        self.observe("observation", note, json!({ "point": seen })).await;
    }

    /// The present on the clock that all observers share.
    pub fn stamp(&self) -> Stamp {
        self.wall.saturating_add(self.clock.now())
    }

    /// Where an observer's stamp lies on the attempt's clock.
    pub fn on_clock(&self, stamp: Stamp) -> Nanos {
        stamp.saturating_sub(self.wall)
    }

    /// Time since the fault was commanded; zero before.
    pub fn offset(&self) -> Duration {
        let commanded = self.facts().timeline.get(Point::T0c).map(|point| point.time);
        commanded.map_or(Duration::ZERO, |time| duration(self.clock.now() - time))
    }
}

/// Repeats what could not be asked, until it is answered or the time is up.
///
/// # Errors
/// The answer, if it is no; the last failure, if the time is up.
pub async fn insist<R, F>(until: Instant, ask: impl Fn() -> F) -> Result<R, TargetError>
where
    F: Future<Output = Result<R, TargetError>>,
{
    loop {
        match ask().await {
            Err(TargetError::Unreachable { .. }) if Instant::now() < until => sleep(LOOK * 2).await,
            other => return other,
        }
    }
}
