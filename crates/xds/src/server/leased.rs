//! Overlays on a stream of either protocol: told whole when the set changes, and renewed by heartbeats (same version, no
//! body) as long as the proxy still holds what a heartbeat renews. Pure.

use std::{
    collections::BTreeSet,
    time::{Duration, Instant},
};

use envoy_types::pb::{
    envoy::service::discovery::v3::Resource,
    google::protobuf::{self, Any},
};
use prost::Message;

use super::desired::{Desired, LeasedOverlay};
use crate::{
    codec::{self, Layer},
    resource::ResourceKind,
};

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
    /// What is leased has a time to live, an empty layer has none.
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
        let told = if asked.news || (asked.accepted && self.promise.late) {
            self.renewals = desired.renewals;
            let resources = match asked.names {
                None => all_overlays(desired, now),
                Some(names) => names.iter().map(|name| layer(desired, name, now)).collect(),
            };
            Told { resources, whole: true }
        } else if asked.accepted && desired.renewals > self.renewals {
            let seen = std::mem::replace(&mut self.renewals, desired.renewals);
            let mut resources = heartbeats(desired, seen, now);
            resources.retain(|resource| asked.names.is_none_or(|names| names.contains(&resource.name)));
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

/// A layer that an Envoy asks for by name: it needs an answer to start, whether or not there is one.
fn layer(desired: &Desired, name: &str, now: Instant) -> Resource {
    let live = |overlay: &LeasedOverlay| Some((overlay.left(now)?, overlay.body.clone()));
    if let Some((left, body)) = desired.overlays.get(name).and_then(live) {
        return leased(desired, name, left, Some(body));
    }
    let empty = codec::write_layer(name, &Layer::new());
    let body = Any { type_url: ResourceKind::Overlay.type_url().to_owned(), value: empty.encode_to_vec() };
    Resource {
        name: name.to_owned(),
        version: desired.generation.to_string(),
        resource: Some(body),
        ..Resource::default()
    }
}
