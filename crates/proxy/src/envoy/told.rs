//! What is said of an Envoy, from memory: its status, its events.

use std::sync::{
    Arc, Mutex, PoisonError,
    atomic::{AtomicBool, Ordering},
};

use xds::{clock::Clock, status::ProxyStatus};

use crate::{events::EventLog, tap::Tap, tls::identity::Identity};

/// Written by the agent's one task, read by whoever asks.
#[derive(Debug)]
pub struct Told {
    /// The proxy's name.
    pub name: String,
    /// Random per start.
    pub boot: String,
    /// What happened.
    pub events: Arc<EventLog>,
    /// Our certificate, and Envoy's.
    pub identity: Identity,
    /// Requests for whoever asks.
    pub tap: Tap,
    /// Whether the stream to the control plane is up.
    pub connected: AtomicBool,
    /// Whether Envoy has what it should have, and knows its endpoints; stays so.
    pub ready: AtomicBool,
    /// Whether the end has begun.
    pub leaving: AtomicBool,
    status: Mutex<ProxyStatus>,
}

impl Told {
    /// Of a proxy that has nothing yet.
    pub fn new(name: String, program: String, clock: Clock) -> Self {
        let boot = format!("{:032x}", fastrand::u128(..));
        let status = ProxyStatus {
            name: name.clone(),
            boot: boot.clone(),
            program,
            digest: String::new(),
            snapshot: String::new(),
            overlays: Vec::new(),
            ready: false,
            connected: false,
            identity_failing: None,
            clusters: Vec::new(),
        };
        Self {
            name,
            boot,
            events: Arc::new(EventLog::new(clock)),
            identity: Identity::default(),
            tap: Tap::default(),
            connected: AtomicBool::new(false),
            ready: AtomicBool::new(false),
            leaving: AtomicBool::new(false),
            status: Mutex::new(status),
        }
    }

    /// Whether it takes traffic.
    pub fn is_ready(&self) -> bool {
        self.ready.load(Ordering::Acquire) && !self.leaving.load(Ordering::Acquire)
    }

    /// Changes the status.
    pub fn status<R>(&self, change: impl FnOnce(&mut ProxyStatus) -> R) -> R {
        // Plain data: a thread that panicked with it in hand left it usable.
        change(&mut self.status.lock().unwrap_or_else(PoisonError::into_inner))
    }

    /// The status, now.
    pub fn now(&self) -> ProxyStatus {
        let status = self.status(|status| status.clone());
        let (ready, connected) = (self.is_ready(), self.connected.load(Ordering::Acquire));
        ProxyStatus { ready, connected, identity_failing: self.identity.failing(), ..status }
    }
}
