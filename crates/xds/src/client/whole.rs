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

/// What the client holds. A new stream starts anew, but for what was last handed out.
#[derive(Debug)]
pub(super) struct WholeCore {
    node: NodeInfo,
    kinds: BTreeMap<ResourceKind, Held>,
    emitted: Option<(String, Arc<Snapshot>)>,
    /// Whose last part is not acknowledged before it is in force.
    offered: Option<Offered>,
}

/// A snapshot that was handed out on this stream.
#[derive(Debug)]
struct Offered {
    version: String,
    /// The part that made it whole.
    kind: ResourceKind,
    /// The version of that kind before.
    before: String,
    decided: bool,
}

#[derive(Debug, Default)]
struct Held {
    version: String,
    nonce: String,
    names: BTreeSet<String>,
    /// Each with the version of the response that brought it.
    resources: BTreeMap<String, (String, Resource)>,
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
            first.version_info = self.emitted.as_ref().map(|(version, _)| version.clone()).unwrap_or_default();
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
        let held = self.kinds.entry(kind).or_default();
        held.nonce.clone_from(&response.nonce);
        let before = held.version.clone();
        match self.take(kind, response) {
            Ok(update) => {
                reaction.updates.extend(update);
                let mut asked = Vec::new();
                self.subscribe(kind, &mut asked);
                let whole = self.whole();
                match &whole {
                    Some(Update::Snapshot { version, .. }) => {
                        self.offered = Some(Offered { version: version.clone(), kind, before, decided: false });
                    }
                    Some(Update::Rejected { reason, .. }) => {
                        self.kinds.entry(kind).or_default().version = before;
                        reaction.requests.push(self.request(kind, Some(reason)));
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
        let Some(Offered { version, kind, before, decided }) = offered else { return Vec::new() };
        *decided = true;
        let (kind, refused) = (*kind, verdict.refused.as_deref());
        let named = if refused.is_some() { before } else { version }.clone();
        self.kinds.entry(kind).or_default().version = named;
        match refused {
            // On the next stream it is offered again.
            Some(_) => self.emitted = None,
            None => self.offered = None,
        }
        vec![self.request(kind, refused)]
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
        Self { node, kinds: BTreeMap::new(), emitted: None, offered: None }
    }

    /// Decodes all of a response before any of it counts.
    fn take(&mut self, kind: ResourceKind, response: &DiscoveryResponse) -> Result<Option<Update>, String> {
        let held = self.kinds.entry(kind).or_default();
        let version = &response.version_info;
        if kind == ResourceKind::Overlay {
            let update = match read_overlays(response, &held.version)? {
                Overlays::All(overlays) => Update::Overlays(overlays),
                Overlays::Renewed(overlays) => Update::Heartbeat(overlays),
            };
            held.version.clone_from(version);
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
        held.version.clone_from(version);
        if kind.has_wildcard() {
            held.resources = resources;
        } else {
            // A server may send only what changed.
            resources.retain(|name, _| held.names.contains(name));
            held.resources.extend(resources);
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
                held.resources.retain(|name, _| names.contains(name));
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
            request.version_info.clone_from(&held.version);
            request.response_nonce.clone_from(&held.nonce);
            request.resource_names = held.names.iter().cloned().collect();
        }
        request
    }

    fn held(&self, kind: ResourceKind) -> impl Iterator<Item = &Resource> {
        self.kinds.get(&kind).into_iter().flat_map(|held| held.resources.values().map(|(_, resource)| resource))
    }

    fn names(&self, kind: ResourceKind) -> BTreeSet<String> {
        self.held(kind).map(|resource| resource.name().to_owned()).collect()
    }

    /// A new snapshot, if what is held is whole: every kind at one version, everything that is referred to there. Our
    /// control plane sends all kinds of a snapshot under one version, so parts of two are never put together.
    fn whole(&mut self) -> Option<Update> {
        let version = self.kinds.get(&ResourceKind::Listener)?.version.clone();
        if version.is_empty() || self.kinds.get(&ResourceKind::Cluster)?.version != version {
            return None;
        }
        for kind in [ResourceKind::Trust, ResourceKind::Endpoints, ResourceKind::Routes] {
            let held = self.kinds.get(&kind)?;
            let there = |name| held.resources.get(name).is_some_and(|(at, _)| *at == version);
            if !held.names.iter().all(there) {
                return None;
            }
        }
        let snapshot = parts::assemble(ResourceKind::ALL.into_iter().flat_map(|kind| self.held(kind)));
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
