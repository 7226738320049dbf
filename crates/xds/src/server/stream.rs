//! One stream of state-of-the-world ADS as a pure state machine: what was asked for, what was sent, what was answered,
//! and from that, what to send next. No I/O and no clock of its own.

use std::{
    collections::{BTreeMap, BTreeSet},
    time::{Duration, Instant},
};

use envoy_types::pb::{
    envoy::service::{
        discovery::v3::{DiscoveryRequest, DiscoveryResponse, Resource},
        runtime::v3::Runtime,
    },
    google::protobuf::{self, Any, Struct},
};
use prost::{Message, Name};

use super::{
    Nack,
    desired::{Desired, Published},
    held::{Held, is_of},
};
use crate::{resource::ResourceKind, snapshot::ListenerProtocol};

/// A proxy that asks for more names than this at once is not ours.
const MOST_NAMES: usize = 10_000;

/// Longest detail of a refusal that is kept, in bytes.
const LONGEST_DETAIL: usize = 4096;

/// State of one stream.
#[derive(Debug, Default)]
pub(super) struct StreamCore {
    kinds: BTreeMap<ResourceKind, Subscription>,
    nonces: u64,
    renewals: u64,
    overlays: Promise,
    /// The proxy said that it has no clusters yet.
    anew: bool,
}

/// Until when the proxy keeps the overlays that it was told, by our clock: the earliest of their deadlines.
#[derive(Debug, Default)]
struct Promise {
    /// By the last response that the proxy answered.
    held: Option<Instant>,
    /// By the one that was sent last.
    told: Option<Instant>,
    awaited: bool,
    /// An answer came only when what the proxy held before may have lapsed there: it was paused or cut off. A heartbeat
    /// would not bring back what lapsed.
    late: bool,
}

impl Promise {
    /// What is told whole is held from then on, whatever was held before.
    fn tell(&mut self, until: Option<Instant>, whole: bool) {
        self.held.take_if(|_| whole);
        (self.told, self.awaited, self.late) = (until, true, false);
    }

    fn answered(&mut self, now: Instant) {
        if std::mem::take(&mut self.awaited) {
            self.late = self.held.is_some_and(|held| held <= now);
            self.held = self.told;
        }
    }
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

/// What a request told.
#[derive(Debug, PartialEq)]
pub(super) enum Heard {
    /// A subscription, or an answer to something older than the last response.
    Nothing,
    Acked {
        kind: ResourceKind,
        version: String,
    },
    Nacked(Nack),
}

impl StreamCore {
    /// Takes in a request. An error is the peer's fault and ends the stream.
    pub fn on_request(&mut self, request: &DiscoveryRequest) -> Result<Heard, String> {
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

    /// The next response, if one is due. Called again after each, until there is none: each call sees the latest
    /// configuration, so a slow proxy skips what was overtaken.
    pub fn next_response(&mut self, desired: &Desired, held: &mut Held, now: Instant) -> Option<DiscoveryResponse> {
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

    /// Whether the proxy accepted all of the published snapshot, and nothing beside it is kept any more.
    pub fn settled_all(&self, desired: &Desired) -> bool {
        let Some(published) = &desired.snapshot else { return false };
        let clusters = self.kinds.get(&ResourceKind::Cluster).and_then(|clusters| clusters.acked.as_ref());
        let bundles = published.resources.get(&ResourceKind::Trust);
        let trusts = self.kinds.get(&ResourceKind::Trust).is_none_or(|trust| {
            let asked = bundles.is_some_and(|bundles| bundles.keys().any(|name| trust.names.contains(name)));
            !asked || trust.accepted(&published.version)
        });
        trusts && self.moved(published) && clusters == Some(&published.version)
    }

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
        if !subscription.outstanding() {
            self.overlays.answered(now);
        }
        let lapsed = wildcard && self.overlays.late && subscription.accepted(&version);
        let mut whole = true;
        let resources = if lapsed || subscription.wants_version(&version) || (!wildcard && subscription.wants_names()) {
            self.renewals = desired.renewals;
            if wildcard { all_overlays(desired, now) } else { layers(desired, &subscription.names) }
        } else if wildcard && desired.renewals > self.renewals && subscription.accepted(&version) {
            let seen = std::mem::replace(&mut self.renewals, desired.renewals);
            let resources = heartbeats(desired, seen, now);
            if resources.is_empty() {
                return None;
            }
            whole = false;
            resources
        } else {
            return None;
        };
        let deadlines = desired.overlays.values().filter(|overlay| overlay.left(now).is_some());
        self.overlays.tell(deadlines.filter_map(|overlay| overlay.deadline).min(), whole);
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
                let mut detail = error.message.clone();
                let end = (0..=LONGEST_DETAIL.min(detail.len())).rev().find(|at| detail.is_char_boundary(*at));
                detail.truncate(end.unwrap_or(0));
                Heard::Nacked(Nack { kind, version, detail })
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
        chosen.map(|(_, body)| body.clone()).collect()
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
        ..DiscoveryResponse::default()
    }
}

/// The whole set, each overlay with the time left to it.
fn all_overlays(desired: &Desired, now: Instant) -> Vec<Any> {
    let live = desired.overlays.iter().filter_map(|(id, overlay)| Some((id, overlay, overlay.left(now)?)));
    live.map(|(id, overlay, left)| leased(desired, id, left, Some(overlay.body.clone()))).collect()
}

/// Renewals since `seen`: same version, no body.
fn heartbeats(desired: &Desired, seen: u64, now: Instant) -> Vec<Any> {
    let renewed = desired.overlays.iter().filter(|(_, overlay)| overlay.renewed > seen);
    renewed.filter_map(|(id, overlay)| Some(leased(desired, id, overlay.left(now)?, None))).collect()
}

fn leased(desired: &Desired, id: &str, left: Duration, body: Option<Any>) -> Any {
    let ttl = protobuf::Duration {
        seconds: i64::try_from(left.as_secs()).unwrap_or(i64::MAX),
        nanos: i32::try_from(left.subsec_nanos()).unwrap_or(0),
    };
    let resource = Resource {
        name: id.to_owned(),
        version: desired.generation.to_string(),
        resource: body,
        ttl: Some(ttl),
        ..Resource::default()
    };
    Any { type_url: Resource::type_url(), value: resource.encode_to_vec() }
}

/// Layers that an Envoy asks for by name: it needs an answer to start. None of our overlays is a value that it reads.
fn layers(desired: &Desired, names: &BTreeSet<String>) -> Vec<Any> {
    let layer = |name: &String| match desired.overlays.get(name) {
        Some(overlay) => overlay.body.clone(),
        None => {
            let empty = Runtime { name: name.clone(), layer: Some(Struct::default()) };
            Any { type_url: ResourceKind::Overlay.type_url().to_owned(), value: empty.encode_to_vec() }
        }
    };
    names.iter().map(layer).collect()
}
