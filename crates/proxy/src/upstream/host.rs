//! One endpoint as every worker shares it: its facts and its atomics. It survives a snapshot that leaves it in place.

use std::{
    net::SocketAddr,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    time::{Duration, Instant},
};

use xds::snapshot::{Endpoint, RoutingPriority};

use crate::{
    gate::Gate,
    upstream::{
        detect::{Rows, Tally},
        epoch::Epoch,
        ewma::PeakEwma,
        farewell::Farewells,
        silence::{Patience, Silence},
    },
};

/// Counts something under way at an endpoint while it lives.
#[derive(Debug)]
pub struct Active(Arc<Host>);

impl Active {
    /// Something begins.
    pub fn new(host: &Arc<Host>) -> Self {
        host.active.fetch_add(1, Ordering::Relaxed);
        Self(host.clone())
    }
}

impl Drop for Active {
    fn drop(&mut self) {
        self.0.active.fetch_sub(1, Ordering::Relaxed);
    }
}

static NEXT_ID: AtomicU64 = AtomicU64::new(1);

/// Unique in the process; pools are keyed by it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct HostId(u64);

impl HostId {
    /// For tests of what is handed ids.
    #[cfg(test)]
    pub fn of(number: u64) -> Self {
        Self(number)
    }

    /// From 1.
    pub fn number(self) -> u64 {
        self.0
    }
}

/// Which connections a request may use: those to its endpoint that requests of its priority have. A single number, since
/// every request looks for them.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Lane(u64);

impl Lane {
    /// To this host, for requests of this priority.
    pub fn new(host: &Host, priority: RoutingPriority) -> Self {
        Self((host.id.0 << 1) | u64::from(priority == RoutingPriority::High))
    }
}

/// An endpoint of a cluster.
#[derive(Debug)]
pub struct Host {
    /// Its identity in this process.
    pub id: HostId,
    /// The workload's name.
    pub name: String,
    /// Where it listens.
    pub address: SocketAddr,
    /// Its failure domain.
    pub region: Arc<str>,
    /// As declared in the manifest.
    pub version: String,
    /// Every link to it passes this gate.
    pub gate: Arc<Gate>,
    /// By outlier detection.
    pub ejected: AtomicBool,
    /// Requests in flight.
    pub active: AtomicU64,
    /// Tries ever sent to it.
    pub tries: AtomicU64,
    /// Of these, failed.
    pub failures: AtomicU64,
    /// Failures in a row.
    pub rows: Rows,
    /// What came of tries, where rates are compared.
    pub tally: Tally,
    /// It answered nobody for some time: it is passed over while there is another one, until it answers or is ejected.
    suspect: AtomicBool,
    /// Whether `silence` holds anything; spares the lock on every answer.
    silent: AtomicBool,
    silence: Mutex<Silence>,
    /// It sent something over TCP when it was ejected for silence.
    spoke: AtomicBool,
    farewells: Mutex<Farewells>,
    latency: Mutex<PeakEwma>,
    /// Path of the safe request that failed last: the question that proves that the endpoint is well again.
    question: Mutex<Option<String>>,
    epoch: Epoch,
    doubts: Epoch,
}

impl Host {
    /// A new endpoint, healthy until found otherwise.
    pub fn new(endpoint: &Endpoint, region: Arc<str>, gate: Arc<Gate>) -> Self {
        Self {
            id: HostId(NEXT_ID.fetch_add(1, Ordering::Relaxed)),
            name: endpoint.name.clone(),
            address: endpoint.address,
            region,
            version: endpoint.version.clone(),
            gate,
            ejected: AtomicBool::new(false),
            active: AtomicU64::new(0),
            tries: AtomicU64::new(0),
            failures: AtomicU64::new(0),
            rows: Rows::default(),
            tally: Tally::default(),
            suspect: AtomicBool::new(false),
            silent: AtomicBool::new(false),
            silence: Mutex::default(),
            spoke: AtomicBool::new(false),
            farewells: Mutex::default(),
            latency: Mutex::default(),
            question: Mutex::default(),
            epoch: Epoch::default(),
            doubts: Epoch::default(),
        }
    }

    /// Whether an endpoint of a new snapshot is this one.
    pub fn is(&self, endpoint: &Endpoint, region: &str) -> bool {
        self.name == endpoint.name
            && self.address == endpoint.address
            && self.version == endpoint.version
            && &*self.region == region
    }

    /// Anything at all came from it, even a bad status.
    pub fn answered(&self) {
        if self.silent.load(Ordering::Relaxed) && self.silent.swap(false, Ordering::Relaxed) {
            self.suspect.store(false, Ordering::Relaxed);
            *lock(&self.silence) = Silence::default();
        }
    }

    /// Bytes of its own came over a TCP connection.
    pub fn spoke(&self) {
        let was_silent = self.silent.load(Ordering::Relaxed);
        self.answered();
        if was_silent && self.ejected.load(Ordering::Relaxed) {
            self.spoke.store(true, Ordering::Relaxed);
        }
    }

    /// Whether it sent something over TCP after it was ejected for silence, which proves that its silence is over.
    pub fn has_spoken(&self) -> bool {
        self.spoke.load(Ordering::Relaxed)
    }

    /// What it does at the end of connections.
    pub fn farewells(&self) -> MutexGuard<'_, Farewells> {
        lock(&self.farewells)
    }

    /// A try sent at `sent` is unanswered for too long; when the endpoint counts as hanging. See [`Silence`].
    pub fn unanswered(&self, sent: Instant, now: Instant, consecutive: u32, patience: Patience) -> Option<Instant> {
        self.silent.store(true, Ordering::Relaxed);
        let mut silence = lock(&self.silence);
        let hangs_at = silence.unanswered(sent, now, consecutive, patience);
        self.suspect.store(hangs_at.is_some(), Ordering::Relaxed);
        hangs_at
    }

    /// Since when it is under suspicion, it counts as hanging at this time.
    pub fn hangs_at(&self) -> Option<Instant> {
        if self.is_suspect() { lock(&self.silence).hangs_at() } else { None }
    }

    /// Whether it answered nobody for some time.
    pub fn is_suspect(&self) -> bool {
        self.suspect.load(Ordering::Relaxed)
    }

    /// Forgets failures, when it comes back.
    pub fn forgive(&self) {
        self.rows.clear();
        self.answered();
        self.spoke.store(false, Ordering::Relaxed);
        *lock(&self.question) = None;
    }

    /// A moving average of its answers' times, in nanoseconds.
    pub fn latency(&self, now: Instant) -> f64 {
        lock(&self.latency).nanos(now)
    }

    /// Takes note of an answer's time.
    pub fn observe(&self, took: Duration, now: Instant) {
        lock(&self.latency).observe(took, now);
    }

    /// A request that may be sent again as a question failed here.
    pub fn remember(&self, path: &str) {
        let mut question = lock(&self.question);
        if question.as_deref() != Some(path) {
            *question = Some(path.to_owned());
        }
    }

    /// The path that failed last.
    pub fn question(&self) -> Option<String> {
        lock(&self.question).clone()
    }

    /// Closes its pooled connections: idle ones at once, busy ones when they are done or the drain time is over.
    pub fn retire_connections(&self) {
        self.epoch.end();
    }

    /// It was ejected since nothing comes from it: connections on which that goes on are ended.
    pub fn doubt_connections(&self) {
        self.doubts.end();
    }

    /// How often it was.
    pub fn doubts(&self) -> u64 {
        self.doubts.number()
    }

    /// Waits until its connections are doubted more often than this.
    pub async fn doubted(&self, doubts: u64) {
        self.doubts.over(doubts).await;
    }

    /// Connections made in an earlier epoch are not used any more.
    pub fn epoch(&self) -> u64 {
        self.epoch.number()
    }

    /// Waits until this epoch is over.
    pub async fn epoch_over(&self, epoch: u64) {
        self.epoch.over(epoch).await;
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
