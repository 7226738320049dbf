//! Make before break for clusters that go: what listeners and routes may still use stays until they no longer do.
//!
//! A response of clusters is the whole set, so a cluster that is left out is gone at once, while routes that lead to it
//! are replaced only later. A proxy's clusters are therefore told twice when some go: first the new ones and those that
//! go, under the version with [`KEPT`] behind it; then, when the routes of that version are accepted, the new ones only.

use std::{collections::BTreeMap, sync::Arc};

use envoy_types::pb::google::protobuf::Any;

use super::desired::Published;
use crate::resource::ResourceKind;

/// Stands behind the version of a response of clusters that holds more than its snapshot.
pub(super) const KEPT: &str = "~kept";

/// Most clusters that are kept beyond a snapshot: a proxy that refuses version after version shall not gather them all.
const MOST: usize = 1000;

/// Clusters that listeners and routes which the proxy was sent may lead to, as it was last told them. It outlives a
/// stream: a proxy that comes back still has them.
#[derive(Debug, Default)]
pub(super) struct Held(BTreeMap<String, Body>);

#[derive(Clone, Debug)]
struct Body {
    cluster: Arc<Any>,
    endpoints: Option<Arc<Any>>,
}

/// The version on the wire belongs to this version of a snapshot.
pub(super) fn is_of(wire: &str, version: &str) -> bool {
    wire == version || wire.strip_suffix(KEPT) == Some(version)
}

impl Held {
    /// The proxy begins anew and has nothing.
    pub fn forget(&mut self) {
        self.0.clear();
    }

    /// Listeners or routes of this snapshot are sent: from now on its clusters may be in use.
    pub fn used(&mut self, published: &Published) {
        for (name, body) in bodies(published) {
            self.0.insert(name.to_owned(), body);
        }
        let beyond: Vec<String> = self.beyond(published).map(|(name, _)| name.clone()).skip(MOST).collect();
        for name in beyond {
            self.0.remove(&name);
        }
    }

    /// Clusters of this snapshot are sent: what is kept later is kept as it is now.
    pub fn told(&mut self, published: &Published) {
        for (name, body) in bodies(published) {
            if let Some(held) = self.0.get_mut(name) {
                *held = body;
            }
        }
    }

    /// Nothing but this snapshot is in use any more.
    pub fn moved(&mut self, published: &Published) {
        let clusters = published.resources.get(&ResourceKind::Cluster);
        self.0.retain(|name, _| clusters.is_some_and(|clusters| clusters.contains_key(name)));
    }

    /// What clusters are told under now.
    pub fn version(&self, published: &Published) -> String {
        let kept = if self.beyond(published).next().is_some() { KEPT } else { "" };
        format!("{}{kept}", published.version)
    }

    /// Resources of a kind that are told beside those of the snapshot.
    pub fn kept<'a>(
        &'a self,
        kind: ResourceKind,
        published: &'a Published,
    ) -> impl Iterator<Item = (&'a String, &'a Arc<Any>)> {
        self.beyond(published).filter_map(move |(name, body)| match kind {
            ResourceKind::Cluster => Some((name, &body.cluster)),
            ResourceKind::Endpoints => Some((name, body.endpoints.as_ref()?)),
            _ => None,
        })
    }

    fn beyond<'a>(&'a self, published: &'a Published) -> impl Iterator<Item = (&'a String, &'a Body)> {
        let clusters = published.resources.get(&ResourceKind::Cluster);
        self.0.iter().filter(move |(name, _)| clusters.is_none_or(|clusters| !clusters.contains_key(*name)))
    }
}

fn bodies(published: &Published) -> impl Iterator<Item = (&str, Body)> {
    let endpoints = published.resources.get(&ResourceKind::Endpoints);
    let clusters = published.resources.get(&ResourceKind::Cluster).into_iter().flatten();
    clusters.map(move |(name, cluster)| {
        let endpoints = endpoints.and_then(|endpoints| endpoints.get(name)).cloned();
        (name.as_str(), Body { cluster: cluster.clone(), endpoints })
    })
}
