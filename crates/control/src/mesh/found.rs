//! Endpoints that are found: what their sources say comes into force, and is told.

use std::{collections::BTreeSet, time::Instant};

use super::{Mesh, State};
use crate::{
    api::{ControlEvent, SourceOfEndpoints},
    compile::Change,
    sources::{Found, News, Origin, words},
};

impl Mesh {
    /// Takes up a source; what is remembered of it comes into force.
    pub(crate) fn add_source(&self, endpoint: String, source: Origin) {
        let mut state = self.state();
        let known = !source.known.addresses.is_empty();
        let change = Change::of(&endpoint);
        state.sources.insert(endpoint, source);
        if known {
            self.publish(&mut state, &change);
        }
    }

    /// Drops a source that the manifests do not have any more.
    pub(crate) fn forget_source(&self, endpoint: &str) {
        self.state().sources.remove(endpoint);
    }

    /// A source was asked.
    pub(crate) fn source_said(&self, endpoint: &str, seen: Result<BTreeSet<Found>, String>) {
        let mut state = self.state();
        let State { sources, views, .. } = &mut *state;
        let Some(source) = sources.get_mut(endpoint) else { return };
        let is_down = |found: &Found| views.is_down(&format!("{endpoint}@{}", found.address));
        let Some(news) = source.known.saw(seen, is_down, Instant::now()) else { return };
        let (name, addresses) = (words(&source.place), source.known.addresses.len() as u64);
        let change = Change::of(endpoint);
        let endpoint = endpoint.to_owned();
        let event = match &news {
            News::Taken | News::Mended => ControlEvent::EndpointsFound { endpoint, source: name, addresses },
            News::Failing(reason) => {
                ControlEvent::SourceFailing { endpoint, source: name, reason: reason.clone(), kept: addresses }
            }
            News::HeldBack(count) => {
                ControlEvent::EndpointsHeldBack { endpoint, source: name, addresses: *count as u64, kept: addresses }
            }
            News::Dropped => ControlEvent::EndpointsDropped { endpoint, source: name },
        };
        if matches!(news, News::Taken | News::Dropped) {
            self.publish(&mut state, &change);
        }
        drop(state);
        self.log.say(event);
        self.found.notify_one();
    }

    /// Every source as it is now.
    pub(crate) fn sources_of_endpoints(&self) -> Vec<SourceOfEndpoints> {
        let now = Instant::now();
        let state = self.state();
        let report = |(endpoint, source): (&String, &Origin)| {
            let known = &source.known;
            let fresh = known.fresh.map(|fresh| now.saturating_duration_since(fresh).as_millis());
            SourceOfEndpoints {
                endpoint: endpoint.clone(),
                service: source.service.clone(),
                region: source.region.clone(),
                source: words(&source.place),
                addresses: known.addresses.iter().map(|found| found.address).collect(),
                age_ms: fresh.map(|age| u64::try_from(age).unwrap_or(u64::MAX)),
                failing: known.failing.clone(),
                held_back: known.held_back.as_ref().map(|(held, _)| held.len()),
            }
        };
        state.sources.iter().map(report).collect()
    }
}
