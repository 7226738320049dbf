//! The client's side of an incremental stream as a pure state machine: keeps what it has resource by resource, hands out a
//! snapshot when it has all of one, refuses a response as a whole, and comes back with what it has.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
    time::{Duration, Instant},
};

use envoy_types::pb::envoy::service::discovery::v3::{
    DeltaDiscoveryRequest, DeltaDiscoveryResponse, Resource as Wrapper,
    aggregated_discovery_service_client::AggregatedDiscoveryServiceClient,
};
use tokio_stream::wrappers::ReceiverStream;
use tonic::{Request, Status, Streaming, transport::Channel};

use super::{
    Update, Verdict, parts,
    protocol::{Protocol, Reaction, refusal},
};
use crate::{
    codec::{self, Resource},
    lease::Leases,
    node::NodeInfo,
    overlay::Overlay,
    resource::{MORE, ResourceKind},
    snapshot::Snapshot,
};

/// Kinds whose resources are asked for by name.
const NAMED: [ResourceKind; 3] = [ResourceKind::Trust, ResourceKind::Endpoints, ResourceKind::Routes];

/// What the client holds, over streams.
#[derive(Debug)]
pub(super) struct DeltaCore {
    node: NodeInfo,
    kinds: BTreeMap<ResourceKind, Held>,
    overlays: BTreeMap<String, (String, Overlay)>,
    leases: Leases<String>,
    emitted: Option<(String, Arc<Snapshot>)>,
    offered: Option<Offered>,
    /// A part of this version was refused: nothing of it is handed out.
    refused: Option<String>,
    /// What is held is what was handed out and accepted.
    clean: bool,
    /// The control plane is ours: the version of a response is that of the whole snapshot.
    one_version: bool,
}

#[derive(Debug, Default)]
struct Held {
    names: BTreeSet<String>,
    resources: BTreeMap<String, Entry>,
    answered: bool,
}

/// A resource and its version.
type Entry = (String, Resource);

/// What a response replaced, or what it brought: one is exchanged for the other.
type Replaced = Vec<(String, Option<Entry>)>;

/// A snapshot that was handed out on this stream, with the response that made it whole.
#[derive(Debug)]
struct Offered {
    version: String,
    kind: ResourceKind,
    nonce: String,
    replaced: Replaced,
    refused: bool,
    decided: bool,
}

impl Held {
    /// Exchanges resources; doing it again with the answer takes it back.
    fn exchange(&mut self, entries: Replaced) -> Replaced {
        let exchanged = entries.into_iter().map(|(name, entry)| {
            let before = match entry {
                Some(entry) => self.resources.insert(name.clone(), entry),
                None => self.resources.remove(&name),
            };
            (name, before)
        });
        // The last change of a name is taken back first.
        let mut exchanged: Replaced = exchanged.collect();
        exchanged.reverse();
        exchanged
    }
}

impl Protocol for DeltaCore {
    type Request = DeltaDiscoveryRequest;
    type Response = DeltaDiscoveryResponse;

    fn open(&mut self) -> Vec<DeltaDiscoveryRequest> {
        // Half of a version, or one that was refused, is not built upon.
        if !self.clean {
            self.kinds.clear();
        }
        (self.offered, self.refused) = (None, None);
        (self.overlays, self.leases) = (BTreeMap::new(), Leases::new());
        let mut kinds = vec![ResourceKind::Cluster, ResourceKind::Listener, ResourceKind::Overlay];
        kinds.extend(NAMED.iter().filter(|kind| self.kinds.get(kind).is_some_and(|held| !held.names.is_empty())));
        let mut requests: Vec<DeltaDiscoveryRequest> = kinds.into_iter().map(|kind| self.resume(kind)).collect();
        if let Some(first) = requests.first_mut() {
            // What is in force, so that the control plane can tell a proxy that comes back from a new one.
            let version = self.emitted.as_ref().map_or("", |(version, _)| version);
            first.node = Some(self.node.to_proto_with(version));
        }
        requests
    }

    fn on_response(&mut self, response: &DeltaDiscoveryResponse, now: Instant) -> Reaction<DeltaDiscoveryRequest> {
        let mut reaction = Reaction::default();
        let Some(kind) = ResourceKind::of_type_url(&response.type_url) else {
            // We never asked for it. It is answered all the same, so that the server learns.
            let reason = "resources of this type are not supported";
            reaction.requests.push(answer(&response.type_url, &response.nonce, Some(reason)));
            return reaction;
        };
        let (version, more) = version_of(response);
        self.one_version = parts::is_ours(response.control_plane.as_ref());
        if kind == ResourceKind::Overlay {
            match self.take_overlays(response, now) {
                Ok(update) => {
                    reaction.requests.push(answer(kind.type_url(), &response.nonce, None));
                    reaction.updates.push(update);
                }
                Err(reason) => self.refuse(kind, &version, reason, &response.nonce, &mut reaction),
            }
            return reaction;
        }
        match self.take(kind, response) {
            Ok(replaced) => self.follow(kind, response, &version, more, replaced, &mut reaction),
            Err(reason) => self.refuse(kind, &version, reason, &response.nonce, &mut reaction),
        }
        reaction
    }

    fn undecided(&self) -> bool {
        self.offered.as_ref().is_some_and(|offered| !offered.decided)
    }

    fn on_verdict(&mut self, verdict: &Verdict) -> Vec<DeltaDiscoveryRequest> {
        let Some(mut offered) = self.offered.take_if(|offered| offered.version == verdict.version) else {
            return Vec::new();
        };
        let reason = verdict.refused.as_deref();
        let mut requests = vec![answer(offered.kind.type_url(), &offered.nonce, reason)];
        if reason.is_some() != offered.refused {
            let held = self.kinds.entry(offered.kind).or_default();
            offered.replaced = held.exchange(std::mem::take(&mut offered.replaced));
            offered.refused = reason.is_some();
            self.subscribe(offered.kind, &mut requests);
        }
        offered.decided = true;
        self.clean = reason.is_none();
        self.refused = reason.map(|_| offered.version.clone());
        // What was refused may be in force later; on the next stream it is offered again.
        self.offered = Some(offered).filter(|_| reason.is_some());
        requests
    }

    async fn stream(
        mut client: AggregatedDiscoveryServiceClient<Channel>,
        requests: Request<ReceiverStream<DeltaDiscoveryRequest>>,
    ) -> Result<Streaming<DeltaDiscoveryResponse>, Status> {
        client.delta_aggregated_resources(requests).await.map(tonic::Response::into_inner)
    }
}

impl DeltaCore {
    pub fn new(node: NodeInfo) -> Self {
        Self {
            node,
            kinds: BTreeMap::new(),
            overlays: BTreeMap::new(),
            leases: Leases::new(),
            emitted: None,
            offered: None,
            refused: None,
            clean: false,
            one_version: false,
        }
    }

    fn resume(&mut self, kind: ResourceKind) -> DeltaDiscoveryRequest {
        let held = self.kinds.entry(kind).or_default();
        let versions = held.resources.iter().map(|(name, (version, _))| (name.clone(), version.clone()));
        DeltaDiscoveryRequest {
            type_url: kind.type_url().to_owned(),
            initial_resource_versions: versions.collect(),
            resource_names_subscribe: held.names.iter().cloned().collect(),
            ..DeltaDiscoveryRequest::default()
        }
    }

    /// Decodes all of a response before any of it counts. Answers what it replaced.
    fn take(&mut self, kind: ResourceKind, response: &DeltaDiscoveryResponse) -> Result<Replaced, String> {
        if !response.removed_resource_names.is_empty() {
            return Err(format!("removed_resource_names: {kind}: dynamic parameters are not supported"));
        }
        let mut changes = BTreeMap::new();
        for wrapper in &response.resources {
            let name = &wrapper.name;
            let resource = unwrap(kind, wrapper)?;
            if changes.insert(name.clone(), Some((wrapper.version.clone(), resource))).is_some() {
                return Err(format!("{kind} {name} is there twice"));
            }
        }
        for name in &response.removed_resources {
            if changes.insert(name.clone(), None).is_some() {
                return Err(format!("{kind} {name} is there and removed"));
            }
        }
        let held = self.kinds.entry(kind).or_default();
        changes.retain(|name, _| kind.has_wildcard() || held.names.contains(name));
        held.answered = true;
        Ok(held.exchange(changes.into_iter().collect()))
    }

    /// After a response was taken in: asks for what it refers to, and hands the snapshot out if that makes it whole.
    fn follow(
        &mut self,
        kind: ResourceKind,
        response: &DeltaDiscoveryResponse,
        version: &str,
        more: bool,
        replaced: Replaced,
        reaction: &mut Reaction<DeltaDiscoveryRequest>,
    ) {
        (self.offered, self.clean) = (None, false);
        let mut asked = Vec::new();
        self.subscribe(kind, &mut asked);
        let refused = self.one_version && self.refused.as_deref() == Some(version);
        let whole = if more || refused { None } else { self.whole(version) };
        match whole {
            Some(Update::Rejected { reason, .. }) => {
                self.kinds.entry(kind).or_default().exchange(replaced);
                reaction.requests.append(&mut asked);
                self.refuse(kind, version, reason, &response.nonce, reaction);
                self.subscribe(kind, &mut reaction.requests);
            }
            Some(update) => {
                let (version, nonce) = (version.to_owned(), response.nonce.clone());
                self.offered = Some(Offered { version, kind, nonce, replaced, refused: false, decided: false });
                reaction.requests.append(&mut asked);
                reaction.updates.push(update);
            }
            None => {
                reaction.requests.push(answer(kind.type_url(), &response.nonce, None));
                reaction.requests.append(&mut asked);
            }
        }
    }

    fn refuse(
        &mut self,
        kind: ResourceKind,
        version: &str,
        reason: String,
        nonce: &str,
        reaction: &mut Reaction<DeltaDiscoveryRequest>,
    ) {
        if kind != ResourceKind::Overlay {
            (self.offered, self.clean) = (None, false);
            self.refused = Some(version.to_owned());
        }
        reaction.requests.push(answer(kind.type_url(), nonce, Some(&reason)));
        reaction.updates.push(Update::Rejected { kind, version: version.to_owned(), reason });
    }

    /// After clusters and listeners: asks for what they refer to, and for nothing else any more.
    fn subscribe(&mut self, kind: ResourceKind, requests: &mut Vec<DeltaDiscoveryRequest>) {
        let trust = parts::bundles(self.held(ResourceKind::Cluster).chain(self.held(ResourceKind::Listener)));
        let (named, names) = match kind {
            ResourceKind::Cluster => {
                let clusters = self.held(ResourceKind::Cluster).map(|cluster| cluster.name().to_owned());
                (ResourceKind::Endpoints, clusters.collect())
            }
            ResourceKind::Listener => (ResourceKind::Routes, parts::tables(self.held(ResourceKind::Listener))),
            _ => return,
        };
        for (kind, names) in [(ResourceKind::Trust, trust), (named, names)] {
            let held = self.kinds.entry(kind).or_default();
            let subscribe: Vec<String> = names.difference(&held.names).cloned().collect();
            let unsubscribe: Vec<String> = held.names.difference(&names).cloned().collect();
            if subscribe.is_empty() && unsubscribe.is_empty() {
                continue;
            }
            held.resources.retain(|name, _| names.contains(name));
            held.names = names;
            requests.push(DeltaDiscoveryRequest {
                type_url: kind.type_url().to_owned(),
                resource_names_subscribe: subscribe,
                resource_names_unsubscribe: unsubscribe,
                ..DeltaDiscoveryRequest::default()
            });
        }
    }

    fn held(&self, kind: ResourceKind) -> impl Iterator<Item = &Resource> {
        self.kinds.get(&kind).into_iter().flat_map(|held| held.resources.values().map(|(_, resource)| resource))
    }

    /// A new snapshot, if everything that is referred to is there. Our control plane says when more of a version follows;
    /// another one does not, and is followed step by step, as an Envoy would.
    fn whole(&mut self, version: &str) -> Option<Update> {
        let answered = |kind| self.kinds.get(kind).is_some_and(|held: &Held| held.answered);
        if ![ResourceKind::Cluster, ResourceKind::Listener].iter().all(answered) {
            return None;
        }
        let there = |held: &Held| held.names.iter().all(|name| held.resources.contains_key(name));
        if !NAMED.iter().filter_map(|kind| self.kinds.get(kind)).all(there) {
            return None;
        }
        let snapshot = parts::assemble(ResourceKind::ALL.into_iter().flat_map(|kind| self.held(kind)));
        // Who tells kinds one by one may name a cluster before it tells it, or after it took it away.
        if !self.one_version && codec::missing_cluster(&snapshot).is_some() {
            return None;
        }
        if let Err(error) = codec::check(&snapshot) {
            let (kind, version, reason) = (ResourceKind::Listener, version.to_owned(), error.to_string());
            return Some(Update::Rejected { kind, version, reason });
        }
        if self.emitted.as_ref().is_some_and(|(at, last)| at == version && **last == snapshot) {
            self.clean = true;
            return None;
        }
        let snapshot = Arc::new(snapshot);
        self.emitted = Some((version.to_owned(), Arc::clone(&snapshot)));
        Some(Update::Snapshot { version: version.to_owned(), snapshot })
    }

    /// Renewals alone are a heartbeat; anything else makes a new set, each overlay with the time left to it.
    fn take_overlays(&mut self, response: &DeltaDiscoveryResponse, now: Instant) -> Result<Update, String> {
        let (mut new, mut renewed) = (Vec::new(), Vec::new());
        let mut names = BTreeSet::new();
        for wrapper in &response.resources {
            let (name, ttl) = (&wrapper.name, parts::read_ttl(wrapper)?);
            if !names.insert(name) {
                return Err(format!("Runtime {name} is there twice"));
            }
            let Some(body) = &wrapper.resource else {
                if self.overlays.get(name).is_none_or(|(version, _)| *version != wrapper.version) {
                    return Err(format!("Runtime {name} has no body, and its version was never told"));
                }
                renewed.push((name.clone(), ttl));
                continue;
            };
            match parts::decode(ResourceKind::Overlay, body)? {
                Resource::Overlay(overlay) if overlay.id == *name => new.push((wrapper.version.clone(), overlay, ttl)),
                other => return Err(format!("Runtime {} is wrapped as {name}", other.name())),
            }
        }
        for (name, ttl) in &renewed {
            // What lapsed here is gone, as it is where overlays are in force; it comes again with its body.
            self.leases.renew_for(name, *ttl, now);
        }
        if new.is_empty() && response.removed_resources.is_empty() && !renewed.is_empty() {
            return Ok(Update::Heartbeat(renewed));
        }
        for name in &response.removed_resources {
            self.overlays.remove(name);
            self.leases.release(name);
        }
        for (version, overlay, ttl) in new {
            self.leases.take(overlay.id.clone(), ttl, now);
            self.overlays.insert(overlay.id.clone(), (version, overlay));
        }
        let left = |id: &String| self.leases.remaining(id, now).filter(|left| *left > Duration::ZERO);
        let live = self.overlays.iter().filter_map(|(id, (_, overlay))| Some((overlay.clone(), left(id)?)));
        Ok(Update::Overlays(live.collect()))
    }
}

/// The version of which a response is, and whether more of it follows.
fn version_of(response: &DeltaDiscoveryResponse) -> (String, bool) {
    let version = &response.system_version_info;
    match version.strip_suffix(MORE) {
        Some(version) => (version.to_owned(), true),
        // A server need not name one.
        None if version.is_empty() => (response.nonce.clone(), false),
        None => (version.clone(), false),
    }
}

fn unwrap(kind: ResourceKind, wrapper: &Wrapper) -> Result<Resource, String> {
    let name = &wrapper.name;
    if wrapper.ttl.is_some() {
        return Err(format!("{kind} {name}: ttl: is supported for Runtime only"));
    }
    let body = wrapper.resource.as_ref().ok_or_else(|| format!("{kind} {name}: resource: is missing"))?;
    let resource = parts::decode(kind, body)?;
    if resource.name() != name {
        return Err(format!("{kind} {} is wrapped as {name}", resource.name()));
    }
    Ok(resource)
}

fn answer(type_url: &str, nonce: &str, error: Option<&str>) -> DeltaDiscoveryRequest {
    DeltaDiscoveryRequest {
        type_url: type_url.to_owned(),
        response_nonce: nonce.to_owned(),
        error_detail: error.map(refusal),
        ..DeltaDiscoveryRequest::default()
    }
}
