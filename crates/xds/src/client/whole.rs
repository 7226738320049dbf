//! The client's side of a state-of-the-world stream as a pure state machine: collects resources until a snapshot is whole, refuses what
//! does not decode and keeps what is in force, and tells a heartbeat from a change.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
    time::{Duration, Instant},
};

use envoy_types::pb::envoy::service::discovery::v3::{
    DiscoveryRequest, DiscoveryResponse, Resource as Wrapper,
    aggregated_discovery_service_client::AggregatedDiscoveryServiceClient,
};
use prost::{Message, Name};
use tokio_stream::wrappers::ReceiverStream;
use tonic::{Request, Status, Streaming, transport::Channel};

use super::{
    Update, Verdict, parts,
    protocol::{Protocol, Reaction, refusal},
};
use crate::{
    codec::{self, Resource},
    node::NodeInfo,
    overlay::Overlay,
    resource::ResourceKind,
    snapshot::Snapshot,
};

/// Kinds whose resources are asked for by name.
const NAMED: [ResourceKind; 3] = [ResourceKind::Trust, ResourceKind::Endpoints, ResourceKind::Routes];

/// What the client holds. A new stream starts anew, but for what was last handed out.
#[derive(Debug)]
pub(super) struct WholeCore {
    node: NodeInfo,
    kinds: BTreeMap<ResourceKind, Held>,
    emitted: Option<(String, Arc<Snapshot>)>,
    /// Whose last part is not acknowledged before it is in force.
    offered: Option<Offered>,
    /// The control plane is ours: a snapshot has one version. One of others has a version for each kind, and is followed step
    /// by step, as an Envoy would.
    one_version: bool,
}

/// A snapshot that was handed out on this stream.
#[derive(Debug)]
struct Offered {
    version: String,
    /// The part that made it whole.
    kind: ResourceKind,
    /// What that kind was before, or, once it is refused, what it would be.
    other: State,
    refused: bool,
    decided: bool,
}

/// What is held of a kind: its version, and each resource with the version of the response that brought it.
#[derive(Clone, Debug, Default)]
struct State {
    answered: bool,
    version: String,
    resources: BTreeMap<String, (String, Resource)>,
}

#[derive(Debug, Default)]
struct Held {
    nonce: String,
    names: BTreeSet<String>,
    state: State,
}

/// What an overlay response holds.
enum Overlays {
    All(Vec<(Overlay, Duration)>),
    Renewed(Vec<(String, Duration)>),
}

impl Protocol for WholeCore {
    type Request = DiscoveryRequest;
    type Response = DiscoveryResponse;

    /// Everything of the kinds that have "everything".
    fn open(&mut self) -> Vec<DiscoveryRequest> {
        self.kinds.clear();
        self.offered = None;
        let kinds = [ResourceKind::Cluster, ResourceKind::Listener, ResourceKind::Overlay];
        let mut requests: Vec<_> = kinds.into_iter().map(|kind| self.request(kind, None)).collect();
        if let Some(first) = requests.first_mut() {
            first.node = Some(self.node.to_proto());
            // What is in force, so that the control plane can tell a proxy that comes back from a new one.
            // Another one would take it for the version of this kind, and tell nothing that it takes us to have.
            let emitted = self.emitted.as_ref().filter(|_| self.one_version);
            first.version_info = emitted.map(|(version, _)| version.clone()).unwrap_or_default();
        }
        requests
    }

    fn on_response(&mut self, response: &DiscoveryResponse, _: Instant) -> Reaction<DiscoveryRequest> {
        let mut reaction = Reaction::default();
        let Some(kind) = ResourceKind::of_type_url(&response.type_url) else {
            // We never asked for it. It is answered all the same, so that the server learns.
            reaction.requests.push(DiscoveryRequest {
                type_url: response.type_url.clone(),
                response_nonce: response.nonce.clone(),
                error_detail: Some(refusal("resources of this type are not supported")),
                ..DiscoveryRequest::default()
            });
            return reaction;
        };
        self.one_version = parts::is_ours(response.control_plane.as_ref());
        let held = self.kinds.entry(kind).or_default();
        held.nonce.clone_from(&response.nonce);
        let before = held.state.clone();
        match self.take(kind, response) {
            Ok(update) => {
                reaction.updates.extend(update);
                let mut asked = Vec::new();
                self.subscribe(kind, &mut asked);
                let whole = self.whole();
                match &whole {
                    Some(Update::Snapshot { version, .. }) => {
                        let version = version.clone();
                        self.offered = Some(Offered { version, kind, other: before, refused: false, decided: false });
                    }
                    Some(Update::Rejected { reason, .. }) => {
                        self.kinds.entry(kind).or_default().state = before;
                        reaction.requests.push(self.request(kind, Some(reason)));
                        self.subscribe(kind, &mut asked);
                    }
                    _ => reaction.requests.push(self.request(kind, None)),
                }
                reaction.requests.extend(asked);
                reaction.updates.extend(whole);
            }
            Err(reason) => {
                reaction.requests.push(self.request(kind, Some(&reason)));
                let version = response.version_info.clone();
                reaction.updates.push(Update::Rejected { kind, version, reason });
            }
        }
        reaction
    }

    fn undecided(&self) -> bool {
        self.offered.as_ref().is_some_and(|offered| !offered.decided)
    }

    fn on_verdict(&mut self, verdict: &Verdict) -> Vec<DiscoveryRequest> {
        let offered = self.offered.as_mut().filter(|offered| offered.version == verdict.version);
        let Some(offered) = offered else { return Vec::new() };
        offered.decided = true;
        let (kind, reason) = (offered.kind, verdict.refused.as_deref());
        let turned = offered.refused != reason.is_some();
        if turned {
            offered.refused = reason.is_some();
            std::mem::swap(&mut self.kinds.entry(kind).or_default().state, &mut offered.other);
        }
        match reason {
            // On the next stream it is offered again.
            Some(_) => self.emitted = None,
            None => self.offered = None,
        }
        let mut requests = vec![self.request(kind, reason)];
        if turned {
            self.subscribe(kind, &mut requests);
        }
        requests
    }

    async fn stream(
        mut client: AggregatedDiscoveryServiceClient<Channel>,
        requests: Request<ReceiverStream<DiscoveryRequest>>,
    ) -> Result<Streaming<DiscoveryResponse>, Status> {
        client.stream_aggregated_resources(requests).await.map(tonic::Response::into_inner)
    }
}

impl WholeCore {
    pub fn new(node: NodeInfo) -> Self {
        Self { node, kinds: BTreeMap::new(), emitted: None, offered: None, one_version: false }
    }

    /// Decodes all of a response before any of it counts.
    fn take(&mut self, kind: ResourceKind, response: &DiscoveryResponse) -> Result<Option<Update>, String> {
        let held = self.kinds.entry(kind).or_default();
        let version = &response.version_info;
        if kind == ResourceKind::Overlay {
            let update = match read_overlays(response, &held.state.version)? {
                Overlays::All(overlays) => Update::Overlays(overlays),
                Overlays::Renewed(overlays) => Update::Heartbeat(overlays),
            };
            held.state.version.clone_from(version);
            return Ok(Some(update));
        }
        let mut resources = BTreeMap::new();
        for any in &response.resources {
            let resource = parts::decode(kind, any)?;
            let name = resource.name().to_owned();
            if resources.insert(name.clone(), (version.clone(), resource)).is_some() {
                return Err(format!("{kind} {name} is there twice"));
            }
        }
        held.state.answered = true;
        held.state.version.clone_from(version);
        if kind.has_wildcard() {
            held.state.resources = resources;
        } else {
            // A server may send only what changed.
            resources.retain(|name, _| held.names.contains(name));
            held.state.resources.extend(resources);
        }
        Ok(None)
    }

    /// After clusters and listeners: asks for what they refer to, if that changed.
    fn subscribe(&mut self, kind: ResourceKind, requests: &mut Vec<DiscoveryRequest>) {
        let trust = parts::bundles(self.held(ResourceKind::Cluster).chain(self.held(ResourceKind::Listener)));
        let named = match kind {
            ResourceKind::Cluster => {
                [(ResourceKind::Trust, trust), (ResourceKind::Endpoints, self.names(ResourceKind::Cluster))]
            }
            ResourceKind::Listener => {
                let tables = parts::tables(self.held(ResourceKind::Listener));
                [(ResourceKind::Trust, trust), (ResourceKind::Routes, tables)]
            }
            _ => return,
        };
        for (kind, names) in named {
            let held = self.kinds.entry(kind).or_default();
            if held.names != names {
                held.state.resources.retain(|name, _| names.contains(name));
                held.names = names;
                requests.push(self.request(kind, None));
            }
        }
    }

    fn request(&self, kind: ResourceKind, error: Option<&str>) -> DiscoveryRequest {
        let mut request = DiscoveryRequest {
            type_url: kind.type_url().to_owned(),
            error_detail: error.map(refusal),
            ..DiscoveryRequest::default()
        };
        if let Some(held) = self.kinds.get(&kind) {
            request.version_info.clone_from(&held.state.version);
            request.response_nonce.clone_from(&held.nonce);
            request.resource_names = held.names.iter().cloned().collect();
        }
        request
    }

    fn held(&self, kind: ResourceKind) -> impl Iterator<Item = &Resource> {
        self.kinds.get(&kind).into_iter().flat_map(|held| held.state.resources.values().map(|(_, resource)| resource))
    }

    /// The versions of what is held, each once, in the order of kinds: what a snapshot of a foreign control plane is called.
    fn versions(&self) -> String {
        let kinds = self.kinds.iter().filter(|(kind, _)| **kind != ResourceKind::Overlay);
        let mut versions: Vec<&str> = Vec::new();
        for version in kinds.flat_map(|(_, held)| held.state.resources.values().map(|(at, _)| at.as_str())) {
            if !versions.contains(&version) {
                versions.push(version);
            }
        }
        versions.join(" ")
    }

    fn names(&self, kind: ResourceKind) -> BTreeSet<String> {
        self.held(kind).map(|resource| resource.name().to_owned()).collect()
    }

    /// A new snapshot, if what is held is whole: everything that is referred to is there, and from our control plane all of it
    /// at one version, so that parts of two are never put together.
    fn whole(&mut self) -> Option<Update> {
        let told = |kind| self.kinds.get(&kind).map(|held| &held.state).filter(|state| state.answered);
        let (listeners, clusters) = (told(ResourceKind::Listener)?, told(ResourceKind::Cluster)?);
        if self.one_version && clusters.version != listeners.version {
            return None;
        }
        let listeners = listeners.version.clone();
        for kind in NAMED {
            let Some(held) = self.kinds.get(&kind) else { continue };
            let mut at = held.names.iter().map(|name| held.state.resources.get(name).map(|(at, _)| at));
            if !at.all(|at| at.is_some_and(|at| !self.one_version || *at == listeners)) {
                return None;
            }
        }
        let version = if self.one_version { listeners } else { self.versions() };
        let snapshot = parts::assemble(ResourceKind::ALL.into_iter().flat_map(|kind| self.held(kind)));
        // Who tells kinds one by one may name a cluster before it tells it, or after it took it away.
        if !self.one_version && codec::missing_cluster(&snapshot).is_some() {
            return None;
        }
        if let Err(error) = codec::check(&snapshot) {
            let reason = error.to_string();
            return Some(Update::Rejected { kind: ResourceKind::Listener, version, reason });
        }
        if self.emitted.as_ref().is_some_and(|(at, last)| *at == version && **last == snapshot) {
            return None;
        }
        let snapshot = Arc::new(snapshot);
        self.emitted = Some((version.clone(), Arc::clone(&snapshot)));
        Some(Update::Snapshot { version, snapshot })
    }
}

/// A response without any body, of the version that is in force, renews what it names; any other is the whole set.
fn read_overlays(response: &DiscoveryResponse, in_force: &str) -> Result<Overlays, String> {
    let mut all = Vec::new();
    let mut renewed = Vec::new();
    let mut names = BTreeSet::new();
    for any in &response.resources {
        if any.type_url != Wrapper::type_url() {
            return Err(format!("an overlay without a time to live ({})", any.type_url));
        }
        let wrapper = Wrapper::decode(any.value.as_slice()).map_err(|error| format!("not a resource: {error}"))?;
        let ttl = parts::read_ttl(&wrapper)?;
        if !names.insert(wrapper.name.clone()) {
            return Err(format!("Runtime {} is there twice", wrapper.name));
        }
        let Some(body) = &wrapper.resource else {
            renewed.push((wrapper.name, ttl));
            continue;
        };
        match parts::decode(ResourceKind::Overlay, body)? {
            Resource::Overlay(overlay) if overlay.id == wrapper.name => all.push((overlay, ttl)),
            other => return Err(format!("Runtime {} is wrapped as {}", other.name(), wrapper.name)),
        }
    }
    match (all.is_empty(), renewed.is_empty()) {
        (_, true) => Ok(Overlays::All(all)),
        (true, false) if response.version_info == in_force => Ok(Overlays::Renewed(renewed)),
        _ => Err("overlays without a body in a new version".to_owned()),
    }
}
