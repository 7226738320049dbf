//! What one proxy is to have: encoded once, when it is published.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
    time::{Duration, Instant},
};

use envoy_types::pb::google::protobuf::Any;
use prost::Message as _;

use super::bodies::Bodies;
use crate::{
    codec::{self, Beside, CodecError, LAYER, Layer, Resource},
    digest::Parts,
    news::News,
    overlay::Overlay,
    resource::ResourceKind,
    snapshot::{ListenerProtocol, Snapshot},
};

/// What one proxy is to have.
#[derive(Debug, Default)]
pub(super) struct Desired {
    pub snapshot: Option<Published>,
    pub overlays: BTreeMap<String, LeasedOverlay>,
    /// Counts changes of the set of overlays: its version on the wire.
    pub generation: u64,
    /// Counts heartbeats; each renewed overlay holds the count of its last one.
    pub renewals: u64,
}

/// A snapshot, encoded.
#[derive(Debug)]
pub(super) struct Published {
    pub snapshot: Arc<Snapshot>,
    beside: Beside,
    /// As the publisher named it.
    pub name: String,
    /// As the wire names it: the name, with a count if other content had it before.
    pub version: String,
    count: u64,
    pub resources: BTreeMap<ResourceKind, BTreeMap<String, Arc<Any>>>,
    /// What each of them is called where they are told one by one: by its content, so that it is the same at every
    /// control plane and after a restart.
    pub versions: BTreeMap<ResourceKind, BTreeMap<String, String>>,
    /// What a proxy asks for by name once it has clusters and listeners.
    pub referred: BTreeMap<ResourceKind, BTreeSet<String>>,
    parts: Parts,
}

/// An overlay or a layer, encoded, with its deadline here.
#[derive(Debug)]
pub(super) struct LeasedOverlay {
    content: Content,
    pub body: Any,
    pub deadline: Option<Instant>,
    pub renewed: u64,
}

/// What is leased.
#[derive(Debug, PartialEq)]
enum Content {
    /// For a proxy of ours.
    Overlay(Box<Overlay>),
    /// For an Envoy.
    Layer(Layer),
}

impl LeasedOverlay {
    /// Time left at `now`; `None` if there is none.
    pub fn left(&self, now: Instant) -> Option<Duration> {
        let left = self.deadline.map_or(Duration::MAX, |deadline| deadline.saturating_duration_since(now));
        (!left.is_zero()).then_some(left)
    }
}

impl Desired {
    /// Returns the version on the wire, and whether anything changed.
    pub fn publish(
        &mut self,
        name: &str,
        snapshot: Arc<Snapshot>,
        beside: Beside,
        bodies: &mut Bodies,
    ) -> Result<(String, bool), CodecError> {
        if let Some(current) = &self.snapshot
            && *current.snapshot == *snapshot
            && current.beside == beside
        {
            return Ok((current.version.clone(), false));
        }
        codec::check(&snapshot)?;
        let parts = match &self.snapshot {
            Some(current) => current.parts.followed_by(&News::of(&current.snapshot, &snapshot), &snapshot),
            None => Parts::of(&snapshot),
        };
        let mut resources: BTreeMap<ResourceKind, BTreeMap<String, Arc<Any>>> = BTreeMap::new();
        let mut versions: BTreeMap<ResourceKind, BTreeMap<String, String>> = BTreeMap::new();
        for resource in codec::resources(&snapshot) {
            let (kind, name) = (resource.kind(), resource.name().to_owned());
            let mark = beside.mark(&resource);
            let body = if mark.is_empty() && !beside.amends() {
                bodies.get(kind, parts.digest(kind, &name), || encode(&resource, &beside))?
            } else {
                Arc::new(encode(&resource, &beside)?)
            };
            let version = parts.short(kind, &name) + &mark;
            versions.entry(kind).or_default().insert(name.clone(), version);
            resources.entry(kind).or_default().insert(name, body);
        }
        if let Some((name, version, body)) = beside.secret() {
            versions.entry(ResourceKind::Trust).or_default().insert(name.clone(), version);
            resources.entry(ResourceKind::Trust).or_default().insert(name, Arc::new(body));
        }
        let count = match &self.snapshot {
            Some(current) if current.name == name => current.count + 1,
            _ => 0,
        };
        let version = if count == 0 { name.to_owned() } else { format!("{name}+{count}") };
        self.snapshot = Some(Published {
            referred: referred(&snapshot),
            snapshot,
            beside,
            name: name.to_owned(),
            version: version.clone(),
            count,
            resources,
            versions,
            parts,
        });
        Ok((version, true))
    }

    /// Replaces the overlays. The same overlays with new times to live are a heartbeat, not a new generation.
    pub fn set_overlays(&mut self, overlays: Vec<(Overlay, Duration)>, now: Instant) -> Result<(), CodecError> {
        let mut next = BTreeMap::new();
        for (overlay, ttl) in overlays {
            let body = encode(&Resource::Overlay(overlay.clone()), &Beside::default())?;
            let (id, deadline) = (overlay.id.clone(), now.checked_add(ttl));
            let content = Content::Overlay(Box::new(overlay));
            next.insert(id, LeasedOverlay { content, body, deadline, renewed: self.renewals });
        }
        self.lease(next, now);
        Ok(())
    }

    /// The same with the layer of an Envoy's runtime; an empty one is none.
    pub fn set_layer(&mut self, layer: Layer, ttl: Duration, now: Instant) {
        let runtime = codec::write_layer(LAYER, &layer);
        let body = Any { type_url: ResourceKind::Overlay.type_url().to_owned(), value: runtime.encode_to_vec() };
        let (deadline, renewed) = (now.checked_add(ttl), self.renewals);
        let next = (!layer.is_empty())
            .then(|| (LAYER.to_owned(), LeasedOverlay { content: Content::Layer(layer), body, deadline, renewed }));
        self.lease(next.into_iter().collect(), now);
    }

    fn lease(&mut self, mut next: BTreeMap<String, LeasedOverlay>, now: Instant) {
        let live = |overlay: &&LeasedOverlay| overlay.left(now).is_some();
        let same = next.len() == self.overlays.len()
            && next.values().zip(self.overlays.values()).all(|(a, b)| a.content == b.content && live(&b));
        if same {
            self.renewals += 1;
            next.values_mut().for_each(|overlay| overlay.renewed = self.renewals);
        } else {
            self.generation += 1;
        }
        self.overlays = next;
    }

    /// Renews overlays. One whose time has passed is gone at the proxy, and is sent again in full.
    pub fn heartbeat(&mut self, overlays: &[(String, Duration)], now: Instant) {
        self.renewals += 1;
        for (id, ttl) in overlays {
            if let Some(overlay) = self.overlays.get_mut(id) {
                if overlay.left(now).is_none() {
                    self.generation += 1;
                }
                overlay.deadline = now.checked_add(*ttl);
                overlay.renewed = self.renewals;
            }
        }
    }
}

fn referred(snapshot: &Snapshot) -> BTreeMap<ResourceKind, BTreeSet<String>> {
    let tables = snapshot.listeners.iter().filter_map(|listener| match &listener.protocol {
        ListenerProtocol::Http(http) => Some(http.routes.clone()),
        ListenerProtocol::Tcp { .. } => None,
    });
    let of_clusters = snapshot.clusters.iter().filter_map(|cluster| Some(cluster.tls.as_ref()?.trust.clone()));
    let of_listeners = snapshot.listeners.iter().filter_map(|listener| Some(listener.tls.as_ref()?.trust.clone()));
    BTreeMap::from([
        (ResourceKind::Trust, of_clusters.chain(of_listeners).collect()),
        (ResourceKind::Endpoints, snapshot.endpoints.iter().map(|set| set.cluster.clone()).collect()),
        (ResourceKind::Routes, tables.collect()),
    ])
}

fn encode(resource: &Resource, beside: &Beside) -> Result<Any, CodecError> {
    let value = codec::encode_beside(resource, beside)?;
    Ok(Any { type_url: resource.kind().type_url().to_owned(), value })
}
