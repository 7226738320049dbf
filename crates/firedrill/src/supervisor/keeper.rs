//! Looks after processes: starts them, starts them again when they die, holds a region down, ends them in order.
//!
//! One task for each process starts it and waits for its end; everybody else only sends signals to process groups and
//! watches the table.

use std::{
    collections::BTreeMap,
    convert::Infallible,
    fmt,
    path::PathBuf,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::{Duration, Instant},
};

use rustix::process::{Pid, Signal};
use tokio::{process::Child, sync::watch};
use xds::clock::Stamp;

use super::{
    api::{EventKind, HoldHow, ProcessReport, ProcessState},
    journal::Journal,
    ready::Ready,
    restart::Restarts,
    silence::{ASK_EVERY as ASK_AGAIN, Silence, Step},
    spawn::{Recipe, Spawner, signal_group, signal_leader},
};

/// Between two questions whether a process is ready.
const ASK_EVERY: Duration = Duration::from_millis(50);

/// What a process is for; in the order in which they are ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Kind {
    /// Takes requests from outside.
    Gateway,
    /// A user's process.
    Workload,
    /// Stands before a workload.
    Sidecar,
    /// The control plane.
    Control,
}

impl Kind {
    /// Whether it is a proxy, of whichever program.
    pub fn is_proxy(self) -> bool {
        matches!(self, Self::Gateway | Self::Sidecar)
    }
}

/// A process among others.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Key {
    /// What it is for.
    pub kind: Kind,
    /// Workload or proxy.
    pub name: String,
}

impl fmt::Display for Key {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.kind {
            Kind::Gateway => write!(f, "gateway {}", self.name),
            Kind::Sidecar => write!(f, "proxy of {}", self.name),
            Kind::Workload | Kind::Control => f.write_str(&self.name),
        }
    }
}

/// A process to look after.
#[derive(Clone, Debug)]
pub struct Task {
    /// Who.
    pub key: Key,
    /// Failure domain; `None` is outside of all.
    pub region: Option<String>,
    /// How it is started.
    pub recipe: Recipe,
    /// When it is ready.
    pub ready: Ready,
}

/// One row of the table.
#[derive(Debug)]
struct Row {
    task: Task,
    pid: Option<Pid>,
    state: ProcessState,
    restarts: u32,
    held: Option<HoldHow>,
    ending: bool,
    /// Whether the present process was seen ready.
    ready: bool,
    /// When its last end was seen.
    ended: Option<Stamp>,
    /// What it last answered instead of ready.
    doubt: String,
}

/// What a hold hit.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Hit {
    /// Workload processes.
    pub workloads: usize,
    /// Sidecars.
    pub proxies: usize,
    /// When the first was certainly down.
    pub first: Stamp,
    /// When the last was.
    pub last: Stamp,
}

/// What is seen of a process that is not as it should be.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Doubt {
    /// Who.
    pub name: String,
    /// What it answered.
    pub reason: String,
    /// Its log.
    pub log: PathBuf,
    /// Whether waiting longer makes no sense.
    pub hopeless: bool,
}

type Told = Arc<dyn Fn(String) + Send + Sync>;

/// The processes of a mesh. Cheap to clone.
#[derive(Clone)]
pub struct Keeper {
    rows: Arc<Mutex<BTreeMap<Key, Row>>>,
    changed: watch::Sender<()>,
    spawner: Arc<Spawner>,
    journal: Arc<Journal>,
    trouble: Told,
}

impl Keeper {
    /// Nothing to look after yet. `trouble` is told what people should know.
    pub fn new(spawner: Arc<Spawner>, journal: Arc<Journal>, trouble: Told) -> Self {
        Self { rows: Arc::default(), changed: watch::Sender::new(()), spawner, journal, trouble }
    }

    fn lock(&self) -> MutexGuard<'_, BTreeMap<Key, Row>> {
        self.rows.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Changes a row and wakes whoever watches. `None` if there is no such row.
    fn change<T>(&self, key: &Key, change: impl FnOnce(&mut Row) -> T) -> Option<T> {
        let changed = self.lock().get_mut(key).map(change);
        self.changed.send_replace(());
        changed
    }

    /// Waits until the condition on the table holds.
    async fn wait_until(&self, mut condition: impl FnMut(&BTreeMap<Key, Row>) -> bool) {
        let mut changed = self.changed.subscribe();
        loop {
            changed.borrow_and_update();
            if condition(&self.lock()) {
                return;
            }
            if changed.changed().await.is_err() {
                return;
            }
        }
    }

    /// Looks after one more process from now on.
    pub fn add(&self, task: Task) {
        let key = task.key.clone();
        let row = Row {
            task,
            pid: None,
            state: ProcessState::Starting,
            restarts: 0,
            held: None,
            ending: false,
            ready: false,
            ended: None,
            doubt: "not started yet".to_owned(),
        };
        self.lock().insert(key.clone(), row);
        tokio::spawn(self.clone().look_after(key));
    }

    /// One process as it is now.
    pub fn report(&self, key: &Key) -> Option<ProcessReport> {
        self.lock().get(key).map(|row| ProcessReport {
            name: key.name.clone(),
            pid: row.pid.and_then(|pid| u32::try_from(pid.as_raw_pid()).ok()),
            state: row.state,
            restarts: row.restarts,
            log: row.task.recipe.log.clone(),
        })
    }

    /// Those of a kind that are not running, and why.
    pub fn doubts(&self, of: impl Fn(Kind) -> bool) -> Vec<Doubt> {
        let rows = self.lock();
        let doubtful = rows.iter().filter(|(key, row)| of(key.kind) && row.state != ProcessState::Running);
        let doubt = doubtful.map(|(key, row)| Doubt {
            name: key.to_string(),
            reason: row.doubt.clone(),
            log: row.task.recipe.log.clone(),
            hopeless: row.state == ProcessState::CrashLoop,
        });
        doubt.collect()
    }

    async fn look_after(self, key: Key) {
        let mut restarts = Restarts::default();
        loop {
            self.wait_until(|rows| rows.get(&key).is_none_or(|row| row.held.is_none() || row.ending)).await;
            let Some(recipe) = self.lock().get(&key).filter(|row| !row.ending).map(|row| row.task.recipe.clone())
            else {
                self.change(&key, |row| row.state = ProcessState::Stopped);
                return;
            };
            let started = Instant::now();
            let cause = match self.spawner.spawn(&recipe).await {
                Ok((child, pid)) => self.live(&key, child, pid).await,
                Err(error) => format!("it cannot be started: {error}"),
            };
            let (held, ending) = self.lock().get(&key).map_or((None, true), |row| (row.held, row.ending));
            if held.is_some() || ending {
                continue;
            }
            let verdict = restarts.died(started.elapsed());
            self.died(&key, &cause, verdict.wait, verdict.crash_loop);
            // A hold or the end need not wait for the back-off.
            let disturbed = self.wait_until(|rows| rows.get(&key).is_none_or(|r| r.held.is_some() || r.ending));
            // Not disturbed is the usual case.
            let _ = tokio::time::timeout(verdict.wait, disturbed).await;
        }
    }

    /// From the start of a process to its end. Returns how it ended.
    async fn live(&self, key: &Key, mut child: Child, pid: Pid) -> String {
        let number = pid.as_raw_pid().unsigned_abs();
        let (held, ending) = self
            .change(key, |row| {
                row.pid = Some(pid);
                row.ready = false;
                if row.state != ProcessState::CrashLoop {
                    row.state = ProcessState::Starting;
                }
                (row.held, row.ending)
            })
            .unwrap_or((None, true));
        self.journal.add(EventKind::Started { process: key.to_string(), pid: number });
        // It was decided otherwise while it was being started.
        if ending || held == Some(HoldHow::Kill) {
            signal_group(pid, Signal::KILL);
        } else if held == Some(HoldHow::Pause) {
            signal_group(pid, Signal::STOP);
            self.change(key, |row| row.state = ProcessState::Paused);
        }
        let watched = async {
            self.watch_ready(key).await;
            self.watch_silence(key, pid).await
        };
        let ended = tokio::select! {
            ended = child.wait() => ended,
            never = watched => match never {},
        };
        let seen = self.journal.clock().now();
        self.spawner.finish(pid);
        let cause = match ended {
            Ok(status) => cause(status),
            Err(error) => error.to_string(),
        };
        // Before the table changes: who waits for the table finds the event.
        self.journal.add(EventKind::Exited { process: key.to_string(), pid: number, cause: cause.clone() });
        self.change(key, |row| {
            row.pid = None;
            row.ended = Some(seen);
            row.doubt = format!("it ended ({cause})");
            if row.held == Some(HoldHow::Kill) {
                row.state = ProcessState::Killed;
            }
        });
        cause
    }

    /// Asks until the process is ready.
    async fn watch_ready(&self, key: &Key) {
        let Some(ready) = self.lock().get(key).map(|row| row.task.ready.clone()) else { return };
        loop {
            match ready.ask().await {
                Ok(()) => {
                    let running = self.change(key, |row| {
                        row.ready = row.held.is_none();
                        if row.ready {
                            row.state = ProcessState::Running;
                        }
                        row.ready
                    });
                    if running == Some(true) {
                        self.journal.add(EventKind::Ready { process: key.to_string() });
                        return;
                    }
                }
                Err(reason) => {
                    self.change(key, |row| row.doubt = reason);
                }
            }
            tokio::time::sleep(ASK_EVERY).await;
        }
    }

    /// Asks one of ours whether it answers, for as long as it lives: a process that hangs is no better than one that died.
    async fn watch_silence(&self, key: &Key, pid: Pid) -> Infallible {
        let ready = self.lock().get(key).filter(|_| key.kind != Kind::Workload).map(|row| row.task.ready.clone());
        let Some(alive) = ready.and_then(|ready| ready.alive()) else { return std::future::pending().await };
        let mut silence = Silence::default();
        let mut worked = work(pid);
        loop {
            tokio::time::sleep(ASK_AGAIN).await;
            let answered = alive.ask().await.is_ok();
            if answered {
                worked = work(pid);
            }
            // Under the lock, so that nobody who pauses it at this moment is undone.
            let rows = self.lock();
            let disturbed = rows.get(key).is_none_or(|row| row.held.is_some() || row.ending);
            if answered || disturbed {
                silence = Silence::default();
                continue;
            }
            let works = work(pid);
            let busy = works > worked;
            worked = works;
            match silence.lasts(busy) {
                Step::Wait => {}
                Step::Continue => {
                    signal_group(pid, Signal::CONT);
                }
                Step::End => {
                    signal_group(pid, Signal::KILL);
                    drop(rows);
                    self.journal
                        .add(EventKind::Hung { process: key.to_string(), pid: pid.as_raw_pid().unsigned_abs() });
                    (self.trouble)(format!("{key} answered nobody for long; it is ended"));
                }
            }
        }
    }

    fn died(&self, key: &Key, cause: &str, wait: Duration, crash_loop: bool) {
        let entered = self.change(key, |row| {
            row.restarts = row.restarts.saturating_add(1);
            let was = row.state;
            row.state = if crash_loop { ProcessState::CrashLoop } else { ProcessState::Starting };
            crash_loop && was != ProcessState::CrashLoop
        });
        if entered == Some(true) {
            self.journal.add(EventKind::CrashLoop { process: key.to_string() });
            (self.trouble)(format!("{key} dies again and again ({cause}); its log says why"));
        } else if !crash_loop {
            (self.trouble)(format!("{key} ended ({cause}); started again in {} ms", wait.as_millis()));
        }
    }

    /// Takes a region down and waits until that is certain.
    ///
    /// # Errors
    /// When nothing of it runs here, or somebody holds it already, or it did not go down in time.
    pub async fn hold(&self, region: &str, how: HoldHow, hold: &str) -> Result<Hit, String> {
        let hit = self.strike(region, how, hold)?;
        let commanded = self.journal.clock().now();
        let times = match how {
            HoldHow::Kill => self.wait_dead(&hit).await?,
            HoldHow::Pause => self.wait_stopped(&hit).await?,
        };
        let count = |kind: Kind| hit.iter().filter(|(key, _)| key.kind == kind).count();
        Ok(Hit {
            workloads: count(Kind::Workload),
            proxies: count(Kind::Sidecar),
            first: times.iter().copied().min().unwrap_or(commanded),
            last: times.iter().copied().max().unwrap_or(commanded),
        })
    }

    /// Marks the region as held and sends the signals: all in one go, sidecars first, so that none of them has time to
    /// answer for a workload that is gone.
    fn strike(&self, region: &str, how: HoldHow, hold: &str) -> Result<Vec<(Key, Pid)>, String> {
        let mut rows = self.lock();
        let mut of_region: Vec<&mut Row> =
            rows.values_mut().filter(|row| row.task.region.as_deref() == Some(region)).collect();
        if of_region.is_empty() {
            return Err(format!("nothing that was started here runs in region {region}"));
        }
        if of_region.iter().any(|row| row.held.is_some()) {
            return Err(format!("region {region} is held already"));
        }
        of_region.sort_by_key(|row| std::cmp::Reverse(row.task.key.kind));
        let signal = match how {
            HoldHow::Kill => Signal::KILL,
            HoldHow::Pause => Signal::STOP,
        };
        let mut hit = Vec::new();
        for row in of_region {
            row.held = Some(how);
            if let Some(pid) = row.pid {
                signal_group(pid, signal);
                hit.push((row.task.key.clone(), pid));
            }
            row.state = match how {
                HoldHow::Kill => ProcessState::Killed,
                HoldHow::Pause => ProcessState::Paused,
            };
        }
        drop(rows);
        self.changed.send_replace(());
        for (key, _) in &hit {
            self.journal.add(EventKind::Held { process: key.to_string(), hold: hold.to_owned(), how });
        }
        Ok(hit)
    }

    async fn wait_dead(&self, hit: &[(Key, Pid)]) -> Result<Vec<Stamp>, String> {
        let alive = |rows: &BTreeMap<Key, Row>| {
            hit.iter().filter(|(key, pid)| rows.get(key).is_some_and(|row| row.pid == Some(*pid))).count()
        };
        let dead = self.wait_until(|rows| alive(rows) == 0);
        if tokio::time::timeout(Duration::from_secs(2), dead).await.is_err() {
            return Err(format!("{} processes did not die", alive(&self.lock())));
        }
        let rows = self.lock();
        Ok(hit.iter().filter_map(|(key, _)| rows.get(key)?.ended).collect())
    }

    async fn wait_stopped(&self, hit: &[(Key, Pid)]) -> Result<Vec<Stamp>, String> {
        let deadline = Instant::now() + Duration::from_secs(2);
        let mut times = Vec::new();
        let mut waiting: Vec<Pid> = hit.iter().map(|(_, pid)| *pid).collect();
        while !waiting.is_empty() {
            waiting.retain(|pid| {
                let still = !stopped(*pid);
                if !still {
                    times.push(self.journal.clock().now());
                }
                still
            });
            if Instant::now() > deadline {
                return Err(format!("{} processes did not stop", waiting.len()));
            }
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
        Ok(times)
    }

    /// Lets a region come back.
    pub fn release(&self, region: &str) {
        for row in self.lock().values_mut().filter(|row| row.task.region.as_deref() == Some(region)) {
            let Some(how) = row.held.take() else { continue };
            row.state = ProcessState::Starting;
            if let (HoldHow::Pause, Some(pid)) = (how, row.pid) {
                signal_group(pid, Signal::CONT);
                row.state = if row.ready { ProcessState::Running } else { ProcessState::Starting };
            }
        }
        self.changed.send_replace(());
    }

    /// Ends every process of a kind: TERM, after `patience` KILL, and waits for the last.
    pub async fn end(&self, kind: Kind, patience: Duration) {
        let signal = |signals: &[Signal]| {
            for (_, row) in self.lock().iter_mut().filter(|(key, _)| key.kind == kind) {
                row.ending = true;
                for signal in signals {
                    let Some(pid) = row.pid else { continue };
                    // A proxy's agent lets its Envoy finish its requests, so it alone is asked.
                    if *signal == Signal::TERM && kind.is_proxy() {
                        signal_leader(pid, *signal);
                    } else {
                        signal_group(pid, *signal);
                    }
                }
            }
            self.changed.send_replace(());
        };
        let of_kind = |rows: &BTreeMap<Key, Row>| {
            rows.iter().filter(|(key, _)| key.kind == kind).all(|(_, row)| row.state == ProcessState::Stopped)
        };
        // A stopped process acts on TERM only when it goes on.
        signal(&[Signal::TERM, Signal::CONT]);
        if tokio::time::timeout(patience, self.wait_until(of_kind)).await.is_err() {
            signal(&[Signal::KILL]);
            self.wait_until(of_kind).await;
        }
    }

    /// Kills everything at once.
    pub fn kill_all(&self) {
        for row in self.lock().values_mut() {
            row.ending = true;
            row.pid.map(|pid| signal_group(pid, Signal::KILL));
        }
        self.changed.send_replace(());
    }
}

/// Whether a process is stopped, by the kernel's word.
fn stopped(pid: Pid) -> bool {
    let stat = std::fs::read_to_string(format!("/proc/{}/stat", pid.as_raw_pid())).unwrap_or_default();
    // The name in parentheses may hold anything; the state follows the last one. Gone is as still as stopped.
    stat.rsplit_once(") ").is_none_or(|(_, rest)| rest.starts_with(['T', 't', 'Z', 'X']))
}

/// Processor time of a process so far, in clock ticks; 0 if it is gone.
fn work(pid: Pid) -> u64 {
    let stat = std::fs::read_to_string(format!("/proc/{}/stat", pid.as_raw_pid())).unwrap_or_default();
    // Fields 14 and 15, of which the first after the name is the third.
    let fields = stat.rsplit_once(") ").map(|(_, rest)| rest.split(' ')).into_iter().flatten();
    fields.skip(11).take(2).filter_map(|field| field.parse::<u64>().ok()).sum()
}

fn cause(status: std::process::ExitStatus) -> String {
    use std::os::unix::process::ExitStatusExt;
    match (status.code(), status.signal()) {
        (Some(code), _) => format!("exit code {code}"),
        (None, Some(signal)) => format!("signal {signal}"),
        (None, None) => status.to_string(),
    }
}
