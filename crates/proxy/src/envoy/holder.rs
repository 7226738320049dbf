//! What an Envoy is to have, what it has, and what is said of that: snapshot, overlays under their leases, digest, status.

use std::{
    collections::{BTreeMap, BTreeSet},
    mem,
    path::Path,
    sync::{Arc, atomic::Ordering},
    time::{Duration, Instant},
};

use xds::{
    codec::{Beside, IDENTITY, KeyPair, Layer, REQUESTS, Share},
    digest::Parts,
    event::EventKind,
    lease::Leases,
    lower::{Lowered, key, lower},
    news::News,
    overlay::{Overlay, SwitchState},
    resource::ResourceKind,
    server::Server,
    snapshot::{ListenerProtocol, Snapshot},
};

use super::{
    dump::{Dump, Versions, hex},
    hosts::{self, Hosts},
    sight::Sight,
    told::Told,
};
use crate::{apply::switches, check, index::Index, lastgood::LastGood};

/// A look at Envoy.
#[derive(Debug)]
pub struct Look {
    /// When it began: what changed later may not be in it.
    pub began: Instant,
    /// Its configuration.
    pub dump: Dump,
    /// Its hosts.
    pub hosts: Hosts,
}

/// The one writer.
pub struct Holder {
    told: Arc<Told>,
    server: Server,
    last_good: LastGood,
    identity: Option<KeyPair>,
    /// To be in force, and what was before that.
    wanted: Option<Version>,
    /// What Envoy took last.
    accepted: Option<Version>,
    overlays: BTreeMap<String, Overlay>,
    leases: Leases<String>,
    lowered: Lowered,
    sight: Sight,
    /// When what it is to have changed last.
    changed: Instant,
    /// What happened, to be told once Envoy has it; the digest is filled in then.
    pending: Vec<EventKind>,
    agreed: bool,
    /// Whether Envoy is told what it is to have; not before there is a certificate.
    published: bool,
    /// Bodies that Envoy showed, by kind, name and version: one that changes under its version is no longer what was sent.
    bodies: BTreeMap<(ResourceKind, String, String), String>,
    refusals: BTreeMap<String, String>,
    /// The percent of requests that Envoy tells of in any case.
    logged: u8,
    /// Until when somebody asks for all of them.
    tapped: Option<Instant>,
}

#[derive(Clone)]
struct Version {
    name: String,
    snapshot: Arc<Snapshot>,
    parts: Arc<Parts>,
}

/// What the last good snapshot is called: told apart from what the control plane says now.
const LAST_GOOD: &str = "last-good";
/// Envoy drops leased faults by itself this long after the agent would have: only when that hangs.
const GRACE: Duration = Duration::from_millis(500);
/// Bodies that are remembered beyond those in force.
const REMEMBERED: usize = 1024;

impl Holder {
    /// With nothing yet; Envoy tells of `logged` percent of its requests though nobody asks.
    pub fn new(told: Arc<Told>, server: Server, folder: &Path, logged: u8) -> Self {
        Self {
            told,
            server,
            last_good: LastGood::new(folder),
            identity: None,
            wanted: None,
            accepted: None,
            overlays: BTreeMap::new(),
            leases: Leases::new(),
            lowered: lower(&Snapshot::default(), []),
            sight: Sight::default(),
            changed: Instant::now(),
            pending: Vec::new(),
            agreed: false,
            published: false,
            bodies: BTreeMap::new(),
            refusals: BTreeMap::new(),
            logged,
            tapped: None,
        }
    }

    /// Starts from the last good snapshot, if there is one.
    pub fn start_from_last_good(&mut self) {
        match self.last_good.load() {
            Ok(None) => {}
            Ok(Some((version, snapshot))) => {
                if let Err(reason) = self.snapshot(LAST_GOOD, Arc::new(snapshot)) {
                    tracing::error!(reason, version, "the last good snapshot is not used");
                }
            }
            Err(error) => tracing::error!(%error, "no last good snapshot"),
        }
    }

    /// A new certificate.
    pub fn identity(&mut self, pair: KeyPair) {
        self.identity = Some(pair);
        if let Err(reason) = self.publish() {
            tracing::error!(reason, "Envoy is not told of a new certificate");
        }
    }

    /// Has Envoy told of a snapshot.
    ///
    /// # Errors
    /// When it is refused before Envoy hears of it. What is in force stays in force.
    pub fn snapshot(&mut self, name: &str, snapshot: Arc<Snapshot>) -> Result<(), String> {
        let nothing = Snapshot::default();
        let old = self.wanted.as_ref().map_or(&nothing, |wanted| &*wanted.snapshot);
        let (before, after) = (Index::new(old), Index::new(&snapshot));
        if let Some(reason) = check::mass_shrink(&before, &after, &snapshot) {
            let reason = format!("{reason}; push it in smaller steps if it is meant");
            return self.refuse(name, reason);
        }
        let parts = match &self.wanted {
            Some(wanted) => wanted.parts.followed_by(&News::of(&wanted.snapshot, &snapshot), &snapshot),
            None => Parts::of(&snapshot),
        };
        let new = Version { name: name.to_owned(), snapshot, parts: Arc::new(parts) };
        let old = self.wanted.replace(new);
        if let Err(reason) = self.publish() {
            self.wanted = old;
            return self.refuse(name, reason);
        }
        self.pending.retain(|event| !matches!(event, EventKind::SnapshotApplied { .. }));
        self.pending.push(EventKind::SnapshotApplied { version: name.to_owned(), digest: String::new() });
        Ok(())
    }

    fn refuse(&self, version: &str, reason: String) -> Result<(), String> {
        self.told.events.push(EventKind::SnapshotRejected { version: version.to_owned(), reason: reason.clone() });
        Err(reason)
    }

    /// Envoy refused what it was sent: it goes on with what it took before.
    pub fn nacked(&mut self, reason: &str) {
        let refused = self.wanted.as_ref().map(|wanted| wanted.name.clone()).unwrap_or_default();
        self.told.events.push(EventKind::SnapshotRejected { version: refused, reason: reason.to_owned() });
        if let Some(accepted) = &self.accepted {
            self.pending.retain(|event| !matches!(event, EventKind::SnapshotApplied { .. }));
            self.wanted = Some(accepted.clone());
            if let Err(reason) = self.publish() {
                tracing::error!(reason, "Envoy is not told of what it had before");
            }
        }
    }

    /// These are the overlays now, each for its time to live.
    pub fn set_overlays(&mut self, overlays: Vec<(Overlay, Duration)>, now: Instant) {
        self.expire(now);
        let mut wanted = BTreeMap::new();
        for (overlay, ttl) in overlays {
            self.leases.take(overlay.id.clone(), ttl, now);
            wanted.insert(overlay.id.clone(), overlay);
        }
        let before = mem::replace(&mut self.overlays, wanted);
        for id in before.keys().filter(|id| !self.overlays.contains_key(*id)) {
            self.leases.release(id);
        }
        self.overlays_changed(&before, false);
        self.lay(now);
    }

    /// These live on.
    pub fn heartbeat(&mut self, renewed: &[(String, Duration)], now: Instant) {
        for (id, ttl) in renewed {
            self.leases.renew_for(id, *ttl, now);
        }
        self.lay(now);
    }

    /// Faults are in force at Envoy as long as the first of their leases, and a little longer: it is we who take them back, but for a
    /// time in which we cannot.
    fn lay(&self, now: Instant) {
        let mut layer: Layer = self.lowered.layer.clone();
        let gated = self.overlays.keys().filter(|id| layer.contains_key(&key(id)));
        let left = gated.filter_map(|id| self.leases.remaining(id, now)).min();
        let tapped = self.tapped.map(|until| until.saturating_duration_since(now));
        let ttl = left.into_iter().chain(tapped).min().unwrap_or_default().saturating_add(GRACE);
        if tapped.is_some() {
            layer.insert(REQUESTS.to_owned(), Share::Whole(100));
        }
        self.server.set_layer(&self.told.name, layer, ttl);
    }

    /// Somebody asks for requests until then.
    pub fn tap(&mut self, until: Option<Instant>, now: Instant) {
        self.tapped = until.filter(|until| *until > now);
        self.lay(now);
    }

    /// Takes back what was not renewed in time.
    pub fn expire(&mut self, now: Instant) {
        if self.tapped.is_some_and(|until| until <= now) {
            self.tap(None, now);
        }
        let lapsed = self.leases.expire(now);
        if lapsed.is_empty() {
            return;
        }
        let before = self.overlays.clone();
        self.overlays.retain(|id, _| !lapsed.contains(id));
        self.overlays_changed(&before, true);
    }

    /// When to come again for [`Holder::expire`].
    pub fn next_deadline(&self) -> Option<Instant> {
        self.leases.next_deadline().into_iter().chain(self.tapped).min()
    }

    fn overlays_changed(&mut self, before: &BTreeMap<String, Overlay>, lapsed: bool) {
        let same = |id: &String, overlay: &Overlay, other: &BTreeMap<String, Overlay>| {
            other.get(id).is_some_and(|other| other.effect == overlay.effect)
        };
        let ended: Vec<String> = before.keys().filter(|id| !self.overlays.contains_key(*id)).cloned().collect();
        let laid = self.overlays.iter().filter(|(id, overlay)| !same(id, overlay, before));
        let laid: Vec<String> = laid.map(|(id, _)| id.clone()).collect();
        if ended.is_empty() && laid.is_empty() {
            return;
        }
        let had = mem::take(&mut self.refusals);
        if let Err(reason) = self.publish() {
            tracing::error!(reason, "Envoy is not told of overlays");
        }
        for (id, reason) in &self.lowered.refused {
            if had.get(id) != Some(reason) {
                let (version, reason) = (id.clone(), reason.clone());
                self.told.events.push(EventKind::SnapshotRejected { version, reason });
            }
        }
        let digest = String::new;
        let ended = ended.into_iter().filter(|id| !had.contains_key(id));
        self.pending.extend(ended.map(|id| EventKind::OverlayEnded { id, lapsed, digest: digest() }));
        let laid = laid.into_iter().filter(|id| !self.lowered.refused.contains_key(id));
        self.pending.extend(laid.map(|id| EventKind::OverlayApplied { id, digest: digest() }));
        self.pending.extend(switched(before, &self.overlays));
        self.refusals.clone_from(&self.lowered.refused);
    }

    /// Has Envoy told of what it is to have now.
    fn publish(&mut self) -> Result<(), String> {
        let Some(wanted) = &self.wanted else { return Ok(()) };
        let tls = wanted.snapshot.listeners.iter().any(|listener| listener.tls.is_some())
            || wanted.snapshot.clusters.iter().any(|cluster| cluster.tls.is_some());
        if tls && self.identity.is_none() {
            // It would wait for a certificate, and so does this.
            return Ok(());
        }
        let lowered = lower(&wanted.snapshot, self.overlays.values());
        let Lowered { draining, gates, .. } = &lowered;
        let beside = Beside {
            draining: draining.clone(),
            gates: gates.clone(),
            requests: Some(self.logged),
            identity: self.identity.clone(),
        };
        let snapshot = Arc::new(lowered.snapshot.clone());
        self.server
            .publish_beside(&self.told.name, &wanted.name, snapshot, beside)
            .map_err(|error| error.to_string())?;
        self.lowered = lowered;
        self.published = true;
        self.changed = Instant::now();
        self.lay(self.changed);
        self.agreed = false;
        // Whoever asks now is told neither the digest before nor the one to come.
        let digest = hex(format!("{} {:?} is not there yet", wanted.name, self.overlays.keys()).as_bytes());
        self.told.status(|status| status.digest = digest);
        Ok(())
    }

    /// Overlays that Envoy was told.
    fn in_force(&self) -> Vec<Overlay> {
        let refused = &self.lowered.refused;
        self.overlays.values().filter(|overlay| !refused.contains_key(&overlay.id)).cloned().collect()
    }

    /// Whether what Envoy is to have is what it has.
    pub fn agreed(&self) -> bool {
        self.agreed
    }

    /// Takes in a look at Envoy: compares, and tells what came into force.
    pub fn looked(&mut self, look: &Look, now: Instant) {
        let Some(wanted) = self.wanted.clone() else { return };
        if look.began < self.changed || !self.published {
            return;
        }
        let events = self.sight.look(&wanted.snapshot, &self.lowered, self.overlays.values(), &look.hosts, now);
        self.told.events.extend(events);
        let mut differences = look.dump.differences(&self.versions(), &self.lowered.layer);
        differences.extend(hosts::differences(&look.hosts, &self.lowered));
        differences.extend(self.other_bodies(&look.dump));
        let overlays = self.in_force();
        let was = mem::replace(&mut self.agreed, differences.is_empty());
        let digest = if self.agreed {
            wanted.parts.with(&overlays)
        } else {
            tracing::debug!(?differences, "Envoy has something else");
            hex(format!("{} {differences:?}", look.dump.digest()).as_bytes())
        };
        let clusters = self.sight.statuses();
        let known = self.sight.knows(&wanted.snapshot);
        self.told.status(|status| {
            status.digest.clone_from(&digest);
            status.clusters = clusters;
            if self.agreed {
                status.snapshot.clone_from(&wanted.name);
                status.overlays = overlays.iter().map(|overlay| overlay.id.clone()).collect();
            }
        });
        if !self.agreed {
            return;
        }
        if !was {
            self.take(&wanted);
        }
        self.tell(&digest, known);
        if known {
            self.told.ready.store(true, Ordering::Release);
        }
    }

    /// Of all that Envoy asks for: bundles and tables that nothing refers to are never told.
    fn versions(&self) -> Versions {
        let mut versions = self.server.versions(&self.told.name);
        let snapshot = &self.lowered.snapshot;
        let of_clusters = snapshot.clusters.iter().filter_map(|cluster| Some(cluster.tls.as_ref()?.trust.as_str()));
        let of_listeners = snapshot.listeners.iter().filter_map(|listener| Some(listener.tls.as_ref()?.trust.as_str()));
        let mut trust: BTreeSet<&str> = of_clusters.chain(of_listeners).collect();
        if !trust.is_empty() {
            trust.insert(IDENTITY);
        }
        let tables: BTreeSet<&str> = snapshot
            .listeners
            .iter()
            .filter_map(|listener| match &listener.protocol {
                ListenerProtocol::Http(http) => Some(http.routes.as_str()),
                ListenerProtocol::Tcp { .. } => None,
            })
            .collect();
        for (kind, asked) in [(ResourceKind::Trust, trust), (ResourceKind::Routes, tables)] {
            versions.entry(kind).or_default().retain(|name, _| asked.contains(name.as_str()));
        }
        versions
    }

    /// Envoy has it.
    fn take(&mut self, wanted: &Version) {
        let known = self.accepted.as_ref().is_some_and(|accepted| accepted.name == wanted.name);
        self.accepted = Some(wanted.clone());
        if !known
            && wanted.name != LAST_GOOD
            && let Err(error) = self.last_good.store(&wanted.name, &wanted.snapshot)
        {
            tracing::error!(%error, "the last good snapshot could not be kept");
        }
    }

    /// A snapshot counts as applied once its clusters are known too: whoever hears of it asks what they are like.
    fn tell(&mut self, now: &str, known: bool) {
        let due = |event: &EventKind| known || !matches!(event, EventKind::SnapshotApplied { .. });
        let (due, later): (Vec<_>, Vec<_>) = mem::take(&mut self.pending).into_iter().partition(due);
        self.pending = later;
        for mut event in due {
            if let EventKind::SnapshotApplied { digest, .. }
            | EventKind::OverlayApplied { digest, .. }
            | EventKind::OverlayEnded { digest, .. } = &mut event
            {
                now.clone_into(digest);
            }
            self.told.events.push(event);
        }
    }

    fn other_bodies(&mut self, dump: &Dump) -> Vec<String> {
        if self.bodies.len() > dump.bodies.len() + REMEMBERED {
            self.bodies.clear();
        }
        let mut differences = Vec::new();
        for ((kind, name), body) in &dump.bodies {
            let version = dump.versions.get(kind).and_then(|versions| versions.get(name)).cloned().unwrap_or_default();
            let known = self.bodies.entry((*kind, name.clone(), version)).or_insert_with(|| body.clone());
            if known != body {
                differences.push(format!("{kind} {name} changed under its version"));
            }
        }
        differences
    }
}

/// Routing controls that are others now.
fn switched(before: &BTreeMap<String, Overlay>, after: &BTreeMap<String, Overlay>) -> Vec<EventKind> {
    let (before, after) = (switches(before.values()), switches(after.values()));
    let keys: BTreeSet<_> = before.keys().chain(after.keys()).collect();
    let changed = keys.into_iter().filter(|key| before.get(*key) != after.get(*key));
    let event = |key: &(String, String)| EventKind::Switched {
        service: key.0.clone(),
        region: key.1.clone(),
        state: after.get(key).copied().unwrap_or(SwitchState::On),
    };
    changed.map(event).collect()
}
