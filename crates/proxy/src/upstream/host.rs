//! One endpoint as every worker shares it: its facts and its atomics. It survives a snapshot that leaves it in place.

use std::{
    net::SocketAddr,
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicBool, AtomicU32, AtomicU64, Ordering},
    },
    time::{Duration, Instant},
};

use tokio::sync::watch;
use xds::snapshot::Endpoint;

use crate::{gate::Gate, upstream::outlier::Silence};

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
    /// From 1.
    pub fn number(self) -> u64 {
        self.0
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
    failures_in_row: AtomicU32,
    /// Whether `silence` holds anything; spares the lock on every answer.
    silent: AtomicBool,
    silence: Mutex<Silence>,
    retired: watch::Sender<u64>,
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
            failures_in_row: AtomicU32::new(0),
            silent: AtomicBool::new(false),
            silence: Mutex::new(Silence::default()),
            retired: watch::Sender::new(0),
        }
    }

    /// Whether an endpoint of a new snapshot is this one.
    pub fn is(&self, endpoint: &Endpoint, region: &str) -> bool {
        self.name == endpoint.name
            && self.address == endpoint.address
            && self.version == endpoint.version
            && &*self.region == region
    }

    /// It answered.
    pub fn succeeded(&self) {
        if self.failures_in_row.load(Ordering::Relaxed) != 0 {
            self.failures_in_row.store(0, Ordering::Relaxed);
        }
        self.answered();
    }

    /// Anything at all came from it, even a bad status.
    pub fn answered(&self) {
        if self.silent.swap(false, Ordering::Relaxed) {
            self.silence.lock().unwrap_or_else(PoisonError::into_inner).broken();
        }
    }

    /// It failed a try; returns how many in a row that makes.
    pub fn failed(&self) -> u32 {
        self.failures.fetch_add(1, Ordering::Relaxed);
        self.failures_in_row.fetch_add(1, Ordering::Relaxed).saturating_add(1)
    }

    /// A try sent at `sent` was abandoned unanswered; true when it counts as hanging. See [`Silence`].
    pub fn abandoned(&self, sent: Instant, now: Instant, consecutive: u32, patience: Duration) -> bool {
        self.silent.store(true, Ordering::Relaxed);
        let mut silence = self.silence.lock().unwrap_or_else(PoisonError::into_inner);
        silence.abandoned(sent, now, consecutive, patience)
    }

    /// Forgets failures in a row, when it comes back.
    pub fn forgive(&self) {
        self.succeeded();
    }

    /// Closes its pooled connections: idle ones at once, busy ones when they are done or the drain time is over.
    pub fn retire_connections(&self) {
        self.retired.send_modify(|epoch| *epoch += 1);
    }

    /// Connections made in an earlier epoch are not used any more.
    pub fn epoch(&self) -> u64 {
        *self.retired.borrow()
    }

    /// Sees epochs change.
    pub fn watch_epoch(&self) -> watch::Receiver<u64> {
        self.retired.subscribe()
    }
}
