//! What is in force: the snapshot with overlays, indexed for the data path, and what all threads share.

use std::{
    collections::HashMap,
    sync::{Arc, Mutex, PoisonError, atomic::AtomicBool},
    time::Instant,
};

use arc_swap::ArcSwap;
use tokio::sync::watch;
use xds::{clock::Clock, digest::Parts, overlay::Overlay, snapshot::Snapshot};

use crate::{
    access::AccessLog,
    events::EventLog,
    fault::Faults,
    gate::{Gate, Shut},
    listener::Listener,
    metrics::Metrics,
    route::Table,
    tap::Tap,
    tls::identity::Identity,
    trace::Tracer,
    upstream::cluster::{Cluster, Surroundings},
};

/// What is in force; immutable, replaced whole.
#[derive(Debug)]
pub struct State {
    /// As the control plane named it; empty before the first.
    pub version: String,
    /// As received.
    pub snapshot: Arc<Snapshot>,
    /// Active ones, sorted by id.
    pub overlays: Vec<Overlay>,
    /// Of snapshot and overlays.
    pub digest: String,
    /// Of the snapshot's parts.
    pub parts: Arc<Parts>,
    /// Route tables by name.
    pub tables: HashMap<String, Arc<Table>>,
    /// Clusters by name.
    pub clusters: HashMap<String, Arc<Cluster>>,
    /// Listeners by name.
    pub listeners: HashMap<String, Arc<Listener>>,
    /// The faults among the overlays.
    pub faults: Faults,
}

impl State {
    /// Nothing.
    pub fn empty() -> Self {
        let snapshot = Arc::new(Snapshot::default());
        Self {
            version: String::new(),
            digest: Parts::default().with(&[]),
            parts: Arc::default(),
            snapshot,
            overlays: Vec::new(),
            tables: HashMap::new(),
            clusters: HashMap::new(),
            listeners: HashMap::new(),
            faults: Faults::default(),
        }
    }
}

/// What all threads share.
#[derive(Debug)]
pub struct Shared {
    /// The proxy's name.
    pub name: String,
    /// The service it stands for; empty for a gateway.
    pub service: String,
    /// Random per start.
    pub boot: String,
    /// The process's clock.
    pub clock: Clock,
    /// What is in force.
    pub state: ArcSwap<State>,
    /// Log and wake-up.
    pub around: Surroundings,
    /// Our certificate.
    pub identity: Identity,
    /// Counters.
    pub metrics: Metrics,
    /// The access log, if wanted.
    pub access: Option<AccessLog>,
    /// Requests for whoever asks.
    pub tap: Tap,
    /// Traces, if wanted.
    pub tracer: Option<Tracer>,
    /// Whether the stream to the control plane is up.
    pub connected: AtomicBool,
    /// Whether every listener of the state is bound.
    pub bound: AtomicBool,
    /// Whether the process is about to end; it is not ready any more.
    pub leaving: AtomicBool,
    /// Whether nothing new is taken any more.
    pub draining: watch::Sender<bool>,
    /// Connections accepted and requests they carry; the drain waits for it.
    pub busy: Arc<()>,
    gates: Mutex<HashMap<String, Arc<Gate>>>,
}

/// What is given at the start.
#[derive(Debug)]
pub struct Setting {
    /// The proxy's name.
    pub name: String,
    /// Its service.
    pub service: String,
    /// The process's clock.
    pub clock: Clock,
    /// The access log, if wanted.
    pub access: Option<AccessLog>,
    /// Traces, if wanted.
    pub tracer: Option<Tracer>,
}

impl Shared {
    /// Nothing in force yet.
    pub fn new(setting: Setting) -> Self {
        let Setting { name, service, clock, access, tracer } = setting;
        let events = Arc::new(EventLog::new(clock));
        Self {
            name,
            service,
            boot: format!("{:032x}", fastrand::u128(..)),
            clock,
            state: ArcSwap::from_pointee(State::empty()),
            around: Surroundings { events, wake: Arc::default() },
            identity: Identity::default(),
            metrics: Metrics::default(),
            access,
            tap: Tap::default(),
            tracer,
            connected: AtomicBool::new(false),
            bound: AtomicBool::new(false),
            leaving: AtomicBool::new(false),
            draining: watch::Sender::new(false),
            busy: Arc::new(()),
            gates: Mutex::default(),
        }
    }

    /// The gate of a region; made when first asked for.
    pub fn gate(&self, region: &str) -> Arc<Gate> {
        let mut gates = self.gates.lock().unwrap_or_else(PoisonError::into_inner);
        gates.entry(region.to_owned()).or_default().clone()
    }

    /// Shuts the gates of these regions and opens all others.
    pub fn cut_off(&self, regions: &HashMap<&str, Shut>) {
        for region in regions.keys() {
            self.gate(region);
        }
        let gates = self.gates.lock().unwrap_or_else(PoisonError::into_inner);
        for (region, gate) in gates.iter() {
            gate.set(regions.get(region.as_str()).copied().unwrap_or_default());
        }
    }

    /// Does what is due by time in all clusters; returns when to come again.
    pub fn tick(&self, now: Instant) -> Option<Instant> {
        let state = self.state.load_full();
        state.clusters.values().filter_map(|cluster| cluster.tick(now)).min()
    }
}
