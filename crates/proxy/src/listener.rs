//! A listener as all workers share it. Its sockets and connections outlive a snapshot that leaves its address in place.

use std::sync::{
    Arc,
    atomic::{AtomicU32, Ordering},
};

use arc_swap::ArcSwap;
use tokio::sync::watch;
use xds::snapshot;

use crate::{admission::Admission, route::authorization::Permissions, tls::ServerTls};

/// What a listener is told to do now.
#[derive(Clone, Debug)]
pub struct Settings {
    /// As configured.
    pub config: snapshot::Listener,
    /// `None` is plaintext.
    pub tls: Option<ServerTls>,
    /// Who gets to the workload; `None` is everyone.
    pub admission: Option<Arc<Admission>>,
    /// Who may call; `None` is everyone that TLS let pass.
    pub permissions: Option<Arc<Permissions>>,
}

/// A listener.
#[derive(Debug)]
pub struct Listener {
    settings: ArcSwap<Settings>,
    trust: watch::Sender<u64>,
    connections: AtomicU32,
}

impl Listener {
    /// Not bound yet.
    pub fn new(settings: Settings) -> Self {
        Self { settings: ArcSwap::from_pointee(settings), trust: watch::Sender::new(0), connections: AtomicU32::new(0) }
    }

    /// What it is told now.
    pub fn settings(&self) -> Arc<Settings> {
        self.settings.load_full()
    }

    /// Takes new settings; with another trust relation, connections look again at their peers.
    pub fn reconfigure(&self, settings: Settings, trust_changed: bool) {
        self.settings.store(Arc::new(settings));
        if trust_changed {
            self.trust.send_modify(|epoch| *epoch += 1);
        }
    }

    /// Sees the trust relation change.
    pub fn watch_trust(&self) -> watch::Receiver<u64> {
        self.trust.subscribe()
    }

    /// Counts a connection; `None` when there are as many as allowed.
    pub fn admit(self: &Arc<Self>, most: u32) -> Option<Admitted> {
        let before = self.connections.fetch_add(1, Ordering::Relaxed);
        let admitted = Admitted(self.clone());
        (before < most).then_some(admitted)
    }
}

/// A connection that counts.
#[derive(Debug)]
pub struct Admitted(Arc<Listener>);

impl Drop for Admitted {
    fn drop(&mut self) {
        self.0.connections.fetch_sub(1, Ordering::Relaxed);
    }
}
