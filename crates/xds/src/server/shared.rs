//! State that publishers and streams share: one slot per proxy.

use std::{
    collections::BTreeMap,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::{Duration, Instant},
};

use tokio::sync::{Notify, broadcast, watch};
use tonic::Status;

use super::{
    Authenticator, Credentials, Notice, ProxyState,
    bodies::Bodies,
    book::Book,
    desired::Desired,
    held::Held,
    protocol::{Heard, Protocol},
};
use crate::{
    codec::{Beside, CodecError},
    node::NodeInfo,
    resource::ResourceKind,
    snapshot::Snapshot,
};

/// Notices kept for a receiver that falls behind.
const NOTICES: usize = 1024;

pub(super) struct Shared {
    authenticator: Box<Authenticator>,
    loads: Mutex<Book>,
    /// How often proxies report.
    pub reports: Duration,
    slots: Mutex<Slots>,
    notices: broadcast::Sender<Notice>,
    closing: watch::Sender<bool>,
}

#[derive(Default)]
struct Slots {
    proxies: BTreeMap<String, Slot>,
    streams: u64,
    bodies: Bodies,
}

#[derive(Default)]
struct Slot {
    desired: Desired,
    held: Held,
    state: ProxyState,
    changed: Arc<Notify>,
    /// The stream that speaks for the proxy; a newer one takes its place.
    stream: Option<u64>,
}

impl Slot {
    /// All of the snapshot is accepted: so is the part of each kind, whether or not its version came with any of it.
    fn settle(&mut self, kinds: &[ResourceKind]) {
        let Some(version) = &self.state.published else { return };
        for kind in kinds.iter().filter(|kind| **kind != ResourceKind::Overlay) {
            self.state.acked.insert(*kind, version.clone());
        }
        self.state.nack.take_if(|nack| nack.kind != ResourceKind::Overlay);
    }
}

/// A stream's hold on its proxy's slot.
pub(super) struct Ticket {
    proxy: String,
    stream: u64,
    changed: Arc<Notify>,
}

impl Ticket {
    /// Resolves when the slot changed since the last time. (One permit is kept, so no change is missed.)
    pub async fn changed(&self) {
        self.changed.notified().await;
    }
}

impl Shared {
    pub fn new(authenticator: Box<Authenticator>, reports: Duration) -> Self {
        let (notices, closing) = (broadcast::Sender::new(NOTICES), watch::Sender::new(false));
        Self { authenticator, loads: Mutex::default(), reports, slots: Mutex::default(), notices, closing }
    }

    /// What was reported. Held for as long as it takes to note a report or to read them.
    pub fn loads(&self) -> MutexGuard<'_, Book> {
        self.loads.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub fn authenticate(&self, credentials: Credentials<'_>) -> Result<String, String> {
        (self.authenticator)(credentials)
    }

    /// No code panics while it holds the lock; were it to, the slots are still whole.
    fn slots(&self) -> MutexGuard<'_, Slots> {
        self.slots.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Changes the overlays that a proxy is to have and wakes its stream.
    pub fn change<T>(&self, proxy: &str, change: impl FnOnce(&mut Desired) -> T) -> T {
        let mut slots = self.slots();
        let slot = slots.proxies.entry(proxy.to_owned()).or_default();
        let result = change(&mut slot.desired);
        slot.changed.notify_one();
        result
    }

    /// Changes a proxy's snapshot, and wakes its stream if that is another one. Answers its version.
    pub fn publish(
        &self,
        proxy: &str,
        name: &str,
        snapshot: Arc<Snapshot>,
        beside: Beside,
    ) -> Result<String, CodecError> {
        let mut slots = self.slots();
        let Slots { proxies, bodies, .. } = &mut *slots;
        let slot = proxies.entry(proxy.to_owned()).or_default();
        let (version, changed) = slot.desired.publish(name, snapshot, beside, bodies)?;
        if changed {
            slot.state.settled = false;
            slot.state.published = Some(version.clone());
            slot.changed.notify_one();
        }
        Ok(version)
    }

    /// Whether a proxy is to have any overlay.
    pub fn has_overlays(&self, proxy: &str) -> bool {
        self.slots().proxies.get(proxy).is_some_and(|slot| !slot.desired.overlays.is_empty())
    }

    pub fn remove(&self, proxy: &str) {
        if let Some(slot) = self.slots().proxies.remove(proxy) {
            slot.changed.notify_one();
        }
    }

    pub fn proxy(&self, proxy: &str) -> Option<ProxyState> {
        self.slots().proxies.get(proxy).map(|slot| slot.state.clone())
    }

    pub fn proxies(&self) -> BTreeMap<String, ProxyState> {
        self.slots().proxies.iter().map(|(name, slot)| (name.clone(), slot.state.clone())).collect()
    }

    pub fn versions(&self, proxy: &str) -> BTreeMap<ResourceKind, BTreeMap<String, String>> {
        let slots = self.slots();
        let published = slots.proxies.get(proxy).and_then(|slot| slot.desired.snapshot.as_ref());
        published.map(|published| published.versions.clone()).unwrap_or_default()
    }

    pub fn subscribe(&self) -> broadcast::Receiver<Notice> {
        self.notices.subscribe()
    }

    pub fn close_all(&self) {
        self.closing.send_replace(true);
    }

    pub fn closing(&self) -> watch::Receiver<bool> {
        self.closing.subscribe()
    }

    /// Nobody listening is no error.
    fn tell(&self, notice: Notice) {
        let _ = self.notices.send(notice);
    }

    pub fn open(&self, proxy: &str, node: NodeInfo) -> Ticket {
        let mut slots = self.slots();
        slots.streams += 1;
        let stream = slots.streams;
        let slot = slots.proxies.entry(proxy.to_owned()).or_default();
        // A stream that this one replaces waits on the old signal: it is woken, and finds that it is replaced.
        std::mem::take(&mut slot.changed).notify_one();
        slot.stream = Some(stream);
        slot.state.connected = true;
        slot.state.acked.clear();
        slot.state.nack = None;
        slot.state.settled = false;
        slot.state.node = Some(node.clone());
        let changed = Arc::clone(&slot.changed);
        drop(slots);
        self.tell(Notice::Connected { proxy: proxy.to_owned(), node });
        Ticket { proxy: proxy.to_owned(), stream, changed }
    }

    pub fn close(&self, ticket: &Ticket, reason: String) {
        let mut slots = self.slots();
        if let Some(slot) = slots.proxies.get_mut(&ticket.proxy)
            && slot.stream == Some(ticket.stream)
        {
            slot.stream = None;
            slot.state.connected = false;
            slot.state.settled = false;
        }
        drop(slots);
        self.tell(Notice::Disconnected { proxy: ticket.proxy.clone(), reason });
    }

    pub fn heard(&self, ticket: &Ticket, heard: Heard) {
        let mut slots = self.slots();
        let Some(slot) = slots.proxies.get_mut(&ticket.proxy).filter(|slot| slot.stream == Some(ticket.stream)) else {
            return;
        };
        let proxy = ticket.proxy.clone();
        let notice = match heard {
            Heard::Nothing => return,
            Heard::Acked { kind, version } => {
                // A heartbeat's answer is no news.
                if slot.state.acked.insert(kind, version.clone()).as_ref() == Some(&version) {
                    return;
                }
                slot.state.nack.take_if(|nack| nack.kind == kind);
                Notice::Acked { proxy, kind, version }
            }
            Heard::Nacked(nack) => {
                slot.state.nack = Some(nack.clone());
                Notice::Nacked { proxy, nack }
            }
        };
        drop(slots);
        self.tell(notice);
    }

    pub fn next_response<P: Protocol>(&self, ticket: &Ticket, core: &mut P) -> Result<Option<P::Response>, Status> {
        let mut slots = self.slots();
        match slots.proxies.get_mut(&ticket.proxy) {
            Some(slot) if slot.stream == Some(ticket.stream) => {
                let response = core.next_response(&slot.desired, &mut slot.held, Instant::now());
                let settled = core.settled_all(&slot.desired);
                if settled && !slot.state.settled {
                    slot.settle(&core.kinds());
                }
                slot.state.settled = settled;
                Ok(response)
            }
            Some(_) => Err(Status::aborted("a newer stream took its place")),
            None => Err(Status::aborted("the proxy was removed")),
        }
    }
}
