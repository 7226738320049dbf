//! Puts snapshots and overlays into force: make before break, and no request lost on the way.

use std::{
    borrow::Cow,
    collections::{BTreeMap, HashMap},
    io,
    net::SocketAddr,
    sync::{Arc, atomic::Ordering},
    time::{Duration, Instant},
};

use tokio::sync::mpsc::UnboundedSender;
use xds::{
    event::EventKind,
    lease::Leases,
    news::News,
    overlay::{Effect, Overlay, SwitchState},
    resource::ResourceKind,
    snapshot::{self, EndpointSet, ListenerProtocol, Snapshot, UpstreamProtocol},
    spiffe::Roots,
};

use crate::{
    admission::Admission,
    check,
    checks::Checks,
    fault::Faults,
    gate::Shut,
    index::Index,
    listener::{Listener, Settings},
    route::{Table, authorization::Permissions},
    state::{Shared, State},
    tls::{self, ServerTls, TlsError, UpstreamTls},
    upstream::cluster::Cluster,
    worker::Command,
};

/// Connections that may wait to be accepted.
const BACKLOG: i32 = 1024;

/// Why a snapshot is not taken. What is in force stays in force.
#[derive(Debug, thiserror::Error)]
pub enum Refused {
    /// It is not consistent.
    #[error("{0}")]
    Invalid(String),
    /// It would remove most endpoints.
    #[error("{0}; push it in smaller steps if it is meant")]
    MassShrink(String),
    /// A trust bundle cannot be used.
    #[error("{0}")]
    Tls(#[from] TlsError),
    /// A socket cannot be bound.
    #[error("listeners[{name}].address: {address} cannot be bound: {error}")]
    Bind {
        /// Listener name.
        name: String,
        /// Its address.
        address: SocketAddr,
        /// Why.
        error: io::Error,
    },
}

/// The one writer of the state.
#[derive(Debug)]
pub struct Keeper {
    shared: Arc<Shared>,
    workers: Vec<UnboundedSender<Command>>,
    overlays: BTreeMap<String, Overlay>,
    leases: Leases<String>,
    checks: Checks,
    /// Version and reason that were told last.
    refused: Option<(String, String)>,
}

/// What is prepared before anything is changed, so that a refusal changes nothing.
struct Prepared {
    upstream: HashMap<String, Option<UpstreamTls>>,
    listening: HashMap<String, Option<ServerTls>>,
    sockets: HashMap<String, Vec<std::net::TcpListener>>,
}

impl Keeper {
    /// With nothing in force.
    pub fn new(shared: Arc<Shared>, workers: Vec<UnboundedSender<Command>>) -> Self {
        Self {
            shared,
            workers,
            overlays: BTreeMap::new(),
            leases: Leases::new(),
            checks: Checks::default(),
            refused: None,
        }
    }

    /// Puts a snapshot into force, or says why not; both are told as events, the same refusal once.
    ///
    /// # Errors
    /// When it is refused.
    pub fn snapshot(&mut self, version: &str, snapshot: Arc<Snapshot>, now: Instant) -> Result<(), Refused> {
        let began = Instant::now();
        let old = self.shared.state.load_full();
        let news = News::of(&old.snapshot, &snapshot);
        let (before, after) = (Index::new(&old.snapshot), Index::new(&snapshot));
        let prepared = match self.prepare((&before, &after), &news, &snapshot) {
            Ok(prepared) => prepared,
            Err(refused) => {
                self.tell_refusal(version, &refused);
                return Err(refused);
            }
        };
        self.refused = None;
        let Prepared { mut upstream, listening, sockets } = prepared;
        let clusters = self.clusters(&old, (&before, &after), (&news, &snapshot), &mut upstream, now);
        let tables = snapshot.routes.iter().map(|table| {
            let kept = old.tables.get(&table.name).filter(|_| !news.has(ResourceKind::Routes, &table.name)).cloned();
            (table.name.clone(), kept.unwrap_or_else(|| Arc::new(Table::new(table, now))))
        });
        let tables = tables.collect();
        let listeners = kept_listeners(&old, &snapshot, &listening, now);
        let overlays = old.overlays.clone();
        let parts = old.parts.followed_by(&news, &snapshot);
        let state = State {
            version: version.to_owned(),
            digest: parts.with(&overlays),
            parts: Arc::new(parts),
            faults: Faults::new(&overlays),
            overlays,
            snapshot,
            tables,
            clusters,
            listeners,
        };
        let state = Arc::new(state);
        self.shared.state.store(state.clone());
        self.tell_workers(&old, &state, sockets);
        let micros = u64::try_from(began.elapsed().as_micros()).unwrap_or(u64::MAX);
        tracing::info!(version, micros, "snapshot in force");
        for (name, cluster) in &old.clusters {
            if !state.clusters.contains_key(name) {
                cluster.retire();
            }
        }
        self.checks.follow(state.clusters.values());
        self.shared.bound.store(true, Ordering::Release);
        let (version, digest) = (version.to_owned(), state.digest.clone());
        self.shared.around.events.push(EventKind::SnapshotApplied { version, digest });
        self.shared.around.wake.notify_one();
        Ok(())
    }

    fn tell_refusal(&mut self, version: &str, refused: &Refused) {
        let (version, reason) = (version.to_owned(), refused.to_string());
        if self.refused.as_ref() != Some(&(version.clone(), reason.clone())) {
            self.refused = Some((version.clone(), reason.clone()));
            self.shared.around.events.push(EventKind::SnapshotRejected { version, reason });
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
        let gone: Vec<String> = self.overlays.keys().filter(|id| !wanted.contains_key(*id)).cloned().collect();
        let new: Vec<String> = wanted
            .iter()
            .filter(|(id, overlay)| self.overlays.get(*id).is_none_or(|present| present.effect != overlay.effect))
            .map(|(id, _)| id.clone())
            .collect();
        for id in &gone {
            self.leases.release(id);
        }
        self.overlays = wanted;
        self.changed(gone, false, new, now);
    }

    /// Puts the set into force as a whole, so that nobody is served under a part of it, and tells what changed.
    fn changed(&self, ended: Vec<String>, lapsed: bool, applied: Vec<String>, now: Instant) {
        if ended.is_empty() && applied.is_empty() {
            return;
        }
        self.lay(now);
        let digest = self.shared.state.load().digest.clone();
        let ended = ended.into_iter().map(|id| EventKind::OverlayEnded { id, lapsed, digest: digest.clone() });
        let applied = applied.into_iter().map(|id| EventKind::OverlayApplied { id, digest: digest.clone() });
        self.shared.around.events.extend(ended.chain(applied).collect());
    }

    /// These live on.
    pub fn heartbeat(&mut self, renewed: &[(String, Duration)], now: Instant) {
        for (id, ttl) in renewed {
            self.leases.renew_for(id, *ttl, now);
        }
    }

    /// Takes back what was not renewed in time.
    pub fn expire(&mut self, now: Instant) {
        let lapsed = self.leases.expire(now).into_iter().filter(|id| self.overlays.remove(id).is_some()).collect();
        self.changed(lapsed, true, Vec::new(), now);
    }

    /// Whether an overlay keeps us from hearing the control plane.
    pub fn cut_off_from_control(&self) -> bool {
        self.overlays.values().any(|overlay| overlay.effect == Effect::NoControl)
    }

    /// When to come again for [`Keeper::expire`].
    pub fn next_deadline(&self) -> Option<Instant> {
        self.leases.next_deadline()
    }

    /// Makes the overlays' effects what is in force.
    fn lay(&self, now: Instant) {
        let old = self.shared.state.load_full();
        let overlays: Vec<Overlay> = self.overlays.values().cloned().collect();
        let mut regions: HashMap<&str, Shut> = HashMap::new();
        for overlay in &overlays {
            let Effect::CutOff { regions: cut_off, way } = &overlay.effect else { continue };
            for region in cut_off {
                let shut = regions.entry(region).or_default();
                *shut = shut.and(Shut::of(*way));
            }
        }
        self.shared.cut_off(&regions);
        let state = State {
            version: old.version.clone(),
            snapshot: old.snapshot.clone(),
            digest: old.parts.with(&overlays),
            parts: old.parts.clone(),
            tables: old.tables.clone(),
            clusters: old.clusters.clone(),
            listeners: old.listeners.clone(),
            faults: Faults::new(&overlays),
            overlays,
        };
        self.tell_switches(&old.overlays, &state.overlays);
        for cluster in state.clusters.values() {
            cluster.switch(self.switches(&cluster.view().config), now);
        }
        self.shared.state.store(Arc::new(state));
    }

    /// Routing controls of a cluster. One that is pinned to a region (`ledger.east`) has none: its caller has chosen.
    fn switches(&self, config: &xds::snapshot::Cluster) -> HashMap<String, SwitchState> {
        if config.name != config.service {
            return HashMap::new();
        }
        switches(self.overlays.values())
            .into_iter()
            .filter(|((s, _), _)| *s == config.service)
            .map(|((_, r), s)| (r, s))
            .collect()
    }

    fn tell_switches(&self, before: &[Overlay], after: &[Overlay]) {
        let (before, after) = (switches(before), switches(after));
        for ((service, region), state) in &after {
            if before.get(&(service.clone(), region.clone())) != Some(state) {
                let (service, region, state) = (service.clone(), region.clone(), *state);
                self.shared.around.events.push(EventKind::Switched { service, region, state });
            }
        }
        for (service, region) in before.into_keys().filter(|key| !after.contains_key(key)) {
            self.shared.around.events.push(EventKind::Switched { service, region, state: SwitchState::On });
        }
    }

    fn prepare(
        &self,
        (before, after): (&Index<'_>, &Index<'_>),
        news: &News<'_>,
        new: &Snapshot,
    ) -> Result<Prepared, Refused> {
        if let Some(reason) = check::refuse(news, new) {
            return Err(Refused::Invalid(reason));
        }
        if let Some(reason) = check::mass_shrink(before, after, new) {
            return Err(Refused::MassShrink(reason));
        }
        let mut roots = HashMap::new();
        for bundle in &new.trust {
            roots.insert(bundle.name.as_str(), Roots::read(bundle).map_err(TlsError::from)?);
        }
        let identity = &self.shared.identity;
        let mut upstream = HashMap::new();
        let trust_changed =
            |cluster: &&snapshot::Cluster| before.cluster_trust(&cluster.name) != after.cluster_trust(&cluster.name);
        for cluster in new.clusters.iter().filter(trust_changed) {
            let made = match cluster.tls.as_ref().and_then(|tls| Some((tls, roots.get(tls.trust.as_str())?))) {
                None => None,
                Some((tls, roots)) => Some(UpstreamTls::new(roots.clone(), tls, identity, alpn(cluster.protocol))?),
            };
            upstream.insert(cluster.name.clone(), made);
        }
        let mut listening = HashMap::new();
        let mut sockets = HashMap::new();
        for listener in &new.listeners {
            if before.listener_trust(&listener.name) != after.listener_trust(&listener.name) {
                let http = matches!(listener.protocol, ListenerProtocol::Http(_));
                let made = match listener.tls.as_ref().and_then(|tls| roots.get(tls.trust.as_str())) {
                    None => None,
                    Some(roots) => Some(ServerTls::new(roots, identity, http)?),
                };
                listening.insert(listener.name.clone(), made);
            }
            if before.listener(&listener.name).is_none_or(|before| before.address != listener.address) {
                let bound = (0..self.workers.len()).map(|_| bind(listener.address)).collect::<io::Result<Vec<_>>>();
                let refused = |error| Refused::Bind { name: listener.name.clone(), address: listener.address, error };
                sockets.insert(listener.name.clone(), bound.map_err(refused)?);
            }
        }
        Ok(Prepared { upstream, listening, sockets })
    }

    fn clusters(
        &self,
        old: &State,
        (before, after): (&Index<'_>, &Index<'_>),
        (news, new): (&News<'_>, &Snapshot),
        upstream: &mut HashMap<String, Option<UpstreamTls>>,
        now: Instant,
    ) -> HashMap<String, Arc<Cluster>> {
        let mut clusters = HashMap::new();
        for config in &new.clusters {
            let nobody = || EndpointSet { cluster: config.name.clone(), localities: Vec::new() };
            let endpoints = || after.endpoints(&config.name).map_or_else(|| Cow::Owned(nobody()), Cow::Borrowed);
            let gate = |region: &str| self.shared.gate(region);
            let cluster = match old.clusters.get(&config.name) {
                Some(cluster) => {
                    let gone = before.endpoints(&config.name).is_some() && after.endpoints(&config.name).is_none();
                    let changed = |kind| news.has(kind, &config.name);
                    if changed(ResourceKind::Cluster) || changed(ResourceKind::Endpoints) || gone {
                        cluster.reconfigure(config.clone(), &endpoints(), gate, now);
                    }
                    cluster.clone()
                }
                None => {
                    let (switches, around) = (self.switches(config), self.shared.around.clone());
                    Arc::new(Cluster::new(config.clone(), &endpoints(), switches, gate, around, now))
                }
            };
            if let Some(tls) = upstream.remove(&config.name) {
                cluster.set_tls(tls.map(Arc::new));
            }
            clusters.insert(config.name.clone(), cluster);
        }
        clusters
    }

    fn tell_workers(&self, old: &State, new: &State, mut sockets: HashMap<String, Vec<std::net::TcpListener>>) {
        let send = |worker: &UnboundedSender<Command>, command| {
            if worker.send(command).is_err() {
                tracing::error!("a data worker is gone");
            }
        };
        for (name, listener) in &new.listeners {
            for (worker, socket) in self.workers.iter().zip(sockets.remove(name).unwrap_or_default()) {
                send(worker, Command::Listen { name: name.clone(), listener: listener.clone(), socket });
            }
        }
        for name in old.listeners.keys().filter(|name| !new.listeners.contains_key(*name)) {
            self.workers.iter().for_each(|worker| send(worker, Command::Close { name: name.clone() }));
        }
    }
}

/// The routing controls among overlays. Where several address the same region, the most restrictive wins.
pub fn switches<'a>(overlays: impl IntoIterator<Item = &'a Overlay>) -> BTreeMap<(String, String), SwitchState> {
    let rank = |state: &SwitchState| match state {
        SwitchState::Off => 0,
        SwitchState::Share(percent) => 1 + u16::from(*percent),
        SwitchState::On => u16::MAX,
    };
    let mut switches = BTreeMap::new();
    for overlay in overlays {
        let Effect::Switch(switch) = &overlay.effect else { continue };
        let present = switches.entry((switch.service.clone(), switch.region.clone())).or_insert(switch.state);
        if rank(&switch.state) < rank(present) {
            *present = switch.state;
        }
    }
    switches
}

fn alpn(protocol: UpstreamProtocol) -> &'static [&'static [u8]] {
    match protocol {
        UpstreamProtocol::Http1 => &[tls::HTTP11],
        UpstreamProtocol::Http2 => &[tls::H2],
        UpstreamProtocol::Tcp => &[],
    }
}

fn kept_listeners(
    old: &State,
    new: &Snapshot,
    listening: &HashMap<String, Option<ServerTls>>,
    now: Instant,
) -> HashMap<String, Arc<Listener>> {
    let mut listeners = HashMap::new();
    for config in &new.listeners {
        let fresh = listening.get(&config.name);
        let kept = old.listeners.get(&config.name);
        let tls = match fresh {
            Some(tls) => tls.clone(),
            None => kept.and_then(|kept| kept.settings().tls.clone()),
        };
        let settings = Settings {
            config: config.clone(),
            tls,
            admission: admission(config, kept, now),
            permissions: permissions(config),
        };
        let listener = match kept {
            Some(kept) => {
                kept.reconfigure(settings, fresh.is_some());
                kept.clone()
            }
            None => Arc::new(Listener::new(settings)),
        };
        listeners.insert(config.name.clone(), listener);
    }
    listeners
}

/// What is in flight and what was learnt outlives a snapshot that leaves the limit's settings in place.
fn admission(config: &snapshot::Listener, kept: Option<&Arc<Listener>>, now: Instant) -> Option<Arc<Admission>> {
    let ListenerProtocol::Http(http) = &config.protocol else { return None };
    let limit = http.admission.as_ref()?;
    let present = kept.and_then(|kept| kept.settings().admission.clone());
    let present = present.filter(|present| present.config() == limit);
    Some(present.unwrap_or_else(|| Arc::new(Admission::new(limit, now))))
}

fn permissions(config: &snapshot::Listener) -> Option<Arc<Permissions>> {
    let ListenerProtocol::Http(http) = &config.protocol else { return None };
    http.authorization.as_ref().map(|rules| Arc::new(Permissions::new(rules)))
}

/// One of several sockets on one address: the kernel spreads connections over the workers.
fn bind(address: SocketAddr) -> io::Result<std::net::TcpListener> {
    use socket2::{Domain, Protocol, Socket, Type};
    let socket = Socket::new(Domain::for_address(address), Type::STREAM, Some(Protocol::TCP))?;
    socket.set_reuse_address(true)?;
    socket.set_reuse_port(true)?;
    socket.set_nonblocking(true)?;
    socket.bind(&address.into())?;
    socket.listen(BACKLOG)?;
    Ok(socket.into())
}
