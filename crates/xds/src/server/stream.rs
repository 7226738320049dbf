//! One stream of state-of-the-world ADS as a pure state machine: what was asked for, what was sent, what was answered,
//! and from that, what to send next. No I/O and no clock of its own.

use std::{
    collections::{BTreeMap, BTreeSet},
    time::Instant,
};

use envoy_types::pb::{
    envoy::{
        config::core::v3::{ControlPlane, Node},
        service::discovery::v3::{DiscoveryRequest, DiscoveryResponse, Resource},
    },
    google::protobuf::Any,
};
use prost::{Message, Name};

use super::{
    desired::{Desired, Published},
    held::{Held, is_of},
    leased::{Asked, Leased},
    protocol::{Heard, MOST_NAMES, Protocol, nack},
};
use crate::{
    resource::{CONTROL_PLANE, ResourceKind},
    snapshot::ListenerProtocol,
};

/// State of one stream.
#[derive(Debug, Default)]
pub(super) struct StreamCore {
    kinds: BTreeMap<ResourceKind, Subscription>,
    nonces: u64,
    overlays: Leased,
    /// The proxy said that it has no clusters yet.
    anew: bool,
}

#[derive(Debug, Default)]
struct Subscription {
    /// Empty means everything where the kind has that, nothing otherwise.
    names: BTreeSet<String>,
    sent: Option<Sent>,
    acked: Option<String>,
    refused: Option<String>,
}

#[derive(Debug)]
struct Sent {
    version: String,
    nonce: String,
    names: BTreeSet<String>,
    answered: bool,
}

impl Protocol for StreamCore {
    type Request = DiscoveryRequest;
    type Response = DiscoveryResponse;

    fn node(request: &DiscoveryRequest) -> Option<&Node> {
        request.node.as_ref()
    }

    /// What it has of each kind is told when it asks for that kind first.
    fn version(request: &DiscoveryRequest) -> Option<String> {
        request.response_nonce.is_empty().then(|| request.version_info.clone())
    }

    fn on_request(&mut self, request: &DiscoveryRequest) -> Result<Heard, String> {
        let Some(kind) = ResourceKind::of_type_url(&request.type_url) else {
            // A stock Envoy may ask for kinds that we do not serve; it is left waiting, as the protocol has it.
            return Ok(Heard::Nothing);
        };
        if request.resource_names.len() > MOST_NAMES {
            return Err(format!("more than {MOST_NAMES} names of {kind}"));
        }
        let subscription = self.kinds.entry(kind).or_default();
        let fresh = request.response_nonce.is_empty();
        let last = subscription.sent.as_ref().is_some_and(|sent| sent.nonce == request.response_nonce);
        if !fresh && !last {
            // It answers an older response; the answer to the last one is still to come, with the names of that time.
            return Ok(Heard::Nothing);
        }
        subscription.names = request.resource_names.iter().filter(|name| *name != "*").cloned().collect();
        if fresh {
            subscription.sent = None;
            self.anew |= kind == ResourceKind::Cluster && request.version_info.is_empty();
            return Ok(Heard::Nothing);
        }
        Ok(subscription.answer(kind, request))
    }

    fn next_response(&mut self, desired: &Desired, held: &mut Held, now: Instant) -> Option<DiscoveryResponse> {
        if std::mem::take(&mut self.anew) {
            held.forget();
        }
        let due = desired.snapshot.as_ref().and_then(|published| {
            if self.moved(published) {
                held.moved(published);
            }
            let mut kinds = ResourceKind::ALL.into_iter().filter(|kind| *kind != ResourceKind::Overlay);
            kinds.find(|kind| self.due(*kind, published, held)).map(|kind| (kind, published))
        });
        match due {
            Some((kind, published)) => Some(self.send(kind, published, held)),
            None => self.next_overlays(desired, now),
        }
    }

    fn settled_all(&self, desired: &Desired) -> bool {
        let Some(published) = &desired.snapshot else { return false };
        let clusters = self.kinds.get(&ResourceKind::Cluster).and_then(|clusters| clusters.acked.as_ref());
        let bundles = published.resources.get(&ResourceKind::Trust);
        let trusts = self.kinds.get(&ResourceKind::Trust).is_none_or(|trust| {
            let asked = bundles.is_some_and(|bundles| bundles.keys().any(|name| trust.names.contains(name)));
            !asked || trust.accepted(&published.version)
        });
        trusts && self.moved(published) && clusters == Some(&published.version)
    }

    fn kinds(&self) -> Vec<ResourceKind> {
        self.kinds.keys().copied().collect()
    }
}

impl StreamCore {
    /// Make before break: endpoints right behind their clusters (Envoy acknowledges changed clusters only once their
    /// endpoints are there, too), listeners once both are accepted, routes once the listeners are, and clusters that go
    /// only after that. A refusal stops the rest of that version: what is in force stays in force, whole.
    fn due(&self, kind: ResourceKind, published: &Published, held: &Held) -> bool {
        let Some(subscription) = self.kinds.get(&kind) else { return false };
        let version = &published.version;
        let in_turn = match kind {
            ResourceKind::Trust | ResourceKind::Cluster | ResourceKind::Overlay => true,
            ResourceKind::Endpoints => self.told(ResourceKind::Cluster, version),
            ResourceKind::Listener => self.settled(ResourceKind::Cluster, version) && self.endpoints_settled(published),
            ResourceKind::Routes => self.settled(ResourceKind::Listener, version),
        };
        let present = kind.has_wildcard() || !subscription.chosen(kind, published, held).is_empty();
        in_turn && present && subscription.wants(kind, &wire_version(kind, published, held))
    }

    /// Whether nothing that the proxy has leads to a cluster that is not of this snapshot.
    fn moved(&self, published: &Published) -> bool {
        let version = &published.version;
        // Clusters are kept only for who has listeners: on a new stream it must have asked for both again.
        [ResourceKind::Cluster, ResourceKind::Listener].iter().all(|kind| self.kinds.contains_key(kind))
            && self.settled(ResourceKind::Cluster, version)
            && self.endpoints_settled(published)
            && self.settled(ResourceKind::Listener, version)
            && self.routes_settled(published)
    }

    /// Whether the tables of every listener were asked for and accepted.
    fn routes_settled(&self, published: &Published) -> bool {
        let mut needed = published.snapshot.listeners.iter().filter_map(|listener| match &listener.protocol {
            ListenerProtocol::Http(http) => Some(&http.routes),
            ListenerProtocol::Tcp { .. } => None,
        });
        match self.kinds.get(&ResourceKind::Routes) {
            None => needed.next().is_none(),
            Some(subscription) => needed.all(|table| {
                let asked = subscription.sent.as_ref().is_some_and(|sent| sent.names.contains(table));
                asked && subscription.accepted(&published.version)
            }),
        }
    }

    /// Whether this kind was sent at this version and not refused since, or is not asked for at all.
    fn told(&self, kind: ResourceKind, version: &str) -> bool {
        self.kinds.get(&kind).is_none_or(|subscription| {
            let sent = subscription.sent.as_ref().is_some_and(|sent| is_of(&sent.version, version));
            sent && !subscription.refuses(version)
        })
    }

    /// Whether this kind is accepted at this version, or not asked for at all.
    fn settled(&self, kind: ResourceKind, version: &str) -> bool {
        self.kinds.get(&kind).is_none_or(|subscription| subscription.accepted(version))
    }

    /// Whether the endpoints of every cluster were asked for and accepted.
    fn endpoints_settled(&self, published: &Published) -> bool {
        let needed = published.resources.get(&ResourceKind::Endpoints);
        let Some(needed) = needed.filter(|_| self.kinds.contains_key(&ResourceKind::Cluster)) else { return true };
        let Some(subscription) = self.kinds.get(&ResourceKind::Endpoints) else { return false };
        let covered = |sent: &Sent| needed.keys().all(|name| sent.names.contains(name));
        subscription.accepted(&published.version) && subscription.sent.as_ref().is_some_and(covered)
    }

    fn send(&mut self, kind: ResourceKind, published: &Published, held: &mut Held) -> DiscoveryResponse {
        let nonce = self.nonce();
        let version = wire_version(kind, published, held);
        let subscription = self.kinds.entry(kind).or_default();
        let resources = subscription.chosen(kind, published, held);
        subscription.sending(&version, &nonce);
        match kind {
            ResourceKind::Cluster => held.told(published),
            ResourceKind::Listener | ResourceKind::Routes => held.used(published),
            _ => {}
        }
        respond(kind, &version, nonce, resources)
    }

    fn nonce(&mut self) -> String {
        self.nonces += 1;
        self.nonces.to_string()
    }

    /// Overlays wait for nothing: a fault must go when its lease goes, whatever became of the snapshot.
    fn next_overlays(&mut self, desired: &Desired, now: Instant) -> Option<DiscoveryResponse> {
        let subscription = self.kinds.get(&ResourceKind::Overlay)?;
        let version = desired.generation.to_string();
        let wildcard = subscription.names.is_empty();
        let asked = Asked {
            names: (!wildcard).then_some(&subscription.names),
            outstanding: subscription.outstanding(),
            news: subscription.wants_version(&version) || (!wildcard && subscription.wants_names()),
            accepted: subscription.accepted(&version),
        };
        let told = self.overlays.next(desired, &asked, now)?;
        let resources = told.resources.into_iter().map(|resource| match resource.ttl {
            Some(_) => Some(Any { type_url: Resource::type_url(), value: resource.encode_to_vec() }),
            None => resource.resource,
        });
        let resources = resources.flatten().collect();
        let nonce = self.nonce();
        self.kinds.entry(ResourceKind::Overlay).or_default().sending(&version, &nonce);
        Some(respond(ResourceKind::Overlay, &version, nonce, resources))
    }
}

impl Subscription {
    fn answer(&mut self, kind: ResourceKind, request: &DiscoveryRequest) -> Heard {
        let Some(sent) = self.sent.as_mut() else { return Heard::Nothing };
        let again = std::mem::replace(&mut sent.answered, true);
        let version = sent.version.clone();
        // A proxy that could put into force what it had refused before names that version now.
        let after_all = self.refused.as_ref() == Some(&version)
            && request.error_detail.is_none()
            && request.version_info == version;
        if again && !after_all {
            // The same nonce again only changes the names.
            return Heard::Nothing;
        }
        match &request.error_detail {
            None => {
                self.acked = Some(version.clone());
                self.refused = None;
                Heard::Acked { kind, version }
            }
            Some(error) => {
                self.refused = Some(version.clone());
                Heard::Nacked(nack(kind, version, error))
            }
        }
    }

    fn outstanding(&self) -> bool {
        self.sent.as_ref().is_some_and(|sent| !sent.answered)
    }

    fn accepted(&self, version: &str) -> bool {
        let acked = self.acked.as_ref().is_some_and(|acked| is_of(acked, version));
        !self.outstanding() && acked && !self.refuses(version)
    }

    fn refuses(&self, version: &str) -> bool {
        self.refused.as_ref().is_some_and(|refused| is_of(refused, version))
    }

    /// One response of a kind is under way at a time, so what a slow proxy gets next is the latest.
    fn wants_version(&self, version: &str) -> bool {
        let sent = self.sent.as_ref().map(|sent| sent.version.as_str());
        !self.outstanding() && sent != Some(version)
    }

    fn wants_names(&self) -> bool {
        !self.outstanding() && self.sent.as_ref().is_none_or(|sent| !self.names.is_subset(&sent.names))
    }

    fn wants(&self, kind: ResourceKind, version: &str) -> bool {
        let refused = self.refused.as_deref() == Some(version);
        let names = !kind.has_wildcard() && self.wants_names();
        // A refused version is not sent again, unless under a new subscription or for more names.
        (self.wants_version(version) && !(refused && self.sent.is_some())) || names
    }

    fn chosen(&self, kind: ResourceKind, published: &Published, held: &Held) -> Vec<Any> {
        let resources = published.resources.get(&kind).into_iter().flatten().chain(held.kept(kind, published));
        let everything = kind.has_wildcard() && self.names.is_empty();
        let chosen = resources.filter(|(name, _)| everything || self.names.contains(*name));
        chosen.map(|(_, body)| Any::clone(body)).collect()
    }

    fn sending(&mut self, version: &str, nonce: &str) {
        let (version, nonce) = (version.to_owned(), nonce.to_owned());
        self.sent = Some(Sent { version, nonce, names: self.names.clone(), answered: false });
    }
}

/// Only clusters are told under another version than their snapshot's.
fn wire_version(kind: ResourceKind, published: &Published, held: &Held) -> String {
    if kind == ResourceKind::Cluster { held.version(published) } else { published.version.clone() }
}

fn respond(kind: ResourceKind, version: &str, nonce: String, resources: Vec<Any>) -> DiscoveryResponse {
    DiscoveryResponse {
        version_info: version.to_owned(),
        resources,
        type_url: kind.type_url().to_owned(),
        nonce,
        control_plane: Some(ControlPlane { identifier: CONTROL_PLANE.to_owned() }),
        ..DiscoveryResponse::default()
    }
}
