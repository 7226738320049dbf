//! Overlays on a stream of either protocol: told whole when the set changes, and renewed by heartbeats (same version, no
//! body) as long as the proxy still holds what a heartbeat renews. Pure.

use std::{
    collections::BTreeSet,
    time::{Duration, Instant},
};

use envoy_types::pb::{
    envoy::service::{discovery::v3::Resource, runtime::v3::Runtime},
    google::protobuf::{self, Any, Struct},
};
use prost::Message;

use super::desired::Desired;
use crate::resource::ResourceKind;

/// What a stream has told of overlays.
#[derive(Debug, Default)]
pub(super) struct Leased {
    promise: Promise,
    renewals: u64,
}

/// How a stream stands with overlays.
#[derive(Debug)]
pub(super) struct Asked<'a> {
    /// Layers by name; `None` is all overlays.
    pub names: Option<&'a BTreeSet<String>>,
    /// An answer is awaited.
    pub outstanding: bool,
    /// Not told yet: this version, or these names.
    pub news: bool,
    /// The proxy accepted this version.
    pub accepted: bool,
}

/// What to send.
#[derive(Debug)]
pub(super) struct Told {
    /// Overlays have a time to live, layers have none.
    pub resources: Vec<Resource>,
    /// All that there is, rather than renewals.
    pub whole: bool,
}

impl Leased {
    /// What is to be sent next, if anything.
    pub fn next(&mut self, desired: &Desired, asked: &Asked<'_>, now: Instant) -> Option<Told> {
        if !asked.outstanding {
            self.promise.answered(now);
        }
        let wildcard = asked.names.is_none();
        let renewable = wildcard && asked.accepted;
        let told = if asked.news || (renewable && self.promise.late) {
            self.renewals = desired.renewals;
            let resources = asked.names.map_or_else(|| all_overlays(desired, now), |names| layers(desired, names));
            Told { resources, whole: true }
        } else if renewable && desired.renewals > self.renewals {
            let seen = std::mem::replace(&mut self.renewals, desired.renewals);
            let resources = heartbeats(desired, seen, now);
            if resources.is_empty() {
                return None;
            }
            Told { resources, whole: false }
        } else {
            return None;
        };
        let deadlines = desired.overlays.values().filter(|overlay| overlay.left(now).is_some());
        self.promise.tell(deadlines.filter_map(|overlay| overlay.deadline).min(), told.whole);
        Some(told)
    }
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

/// The whole set, each overlay with the time left to it.
fn all_overlays(desired: &Desired, now: Instant) -> Vec<Resource> {
    let live = desired.overlays.iter().filter_map(|(id, overlay)| Some((id, overlay, overlay.left(now)?)));
    live.map(|(id, overlay, left)| leased(desired, id, left, Some(overlay.body.clone()))).collect()
}

/// Renewals since `seen`: same version, no body.
fn heartbeats(desired: &Desired, seen: u64, now: Instant) -> Vec<Resource> {
    let renewed = desired.overlays.iter().filter(|(_, overlay)| overlay.renewed > seen);
    renewed.filter_map(|(id, overlay)| Some(leased(desired, id, overlay.left(now)?, None))).collect()
}

fn leased(desired: &Desired, id: &str, left: Duration, body: Option<Any>) -> Resource {
    let ttl = protobuf::Duration {
        seconds: i64::try_from(left.as_secs()).unwrap_or(i64::MAX),
        nanos: i32::try_from(left.subsec_nanos()).unwrap_or(0),
    };
    Resource {
        name: id.to_owned(),
        version: desired.generation.to_string(),
        resource: body,
        ttl: Some(ttl),
        ..Resource::default()
    }
}

/// Layers that an Envoy asks for by name: it needs an answer to start. None of our overlays is a value that it reads.
fn layers(desired: &Desired, names: &BTreeSet<String>) -> Vec<Resource> {
    let layer = |name: &String| match desired.overlays.get(name) {
        Some(overlay) => overlay.body.clone(),
        None => {
            let empty = Runtime { name: name.clone(), layer: Some(Struct::default()) };
            Any { type_url: ResourceKind::Overlay.type_url().to_owned(), value: empty.encode_to_vec() }
        }
    };
    let version = desired.generation.to_string();
    let named = |name: &String| Resource {
        name: name.clone(),
        version: version.clone(),
        resource: Some(layer(name)),
        ..Resource::default()
    };
    names.iter().map(named).collect()
}
