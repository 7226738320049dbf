//! What of a snapshot is not as it was before: found out once, since comparing a large one is most of the price of a small change.

use std::{
    collections::{HashMap, HashSet},
    sync::Arc,
};

use crate::{
    resource::ResourceKind,
    snapshot::{Cluster, EndpointSet, Listener, RouteTable, Snapshot, TrustBundle},
};

/// The parts of a snapshot that are new, or not as they were in the one before it. Names are unique by kind.
#[derive(Debug)]
pub struct News<'a> {
    after: &'a Snapshot,
    parts: HashSet<(ResourceKind, &'a str)>,
}

/// A part of a snapshot, which has a name.
trait Part: PartialEq {
    fn name(&self) -> &str;
}

impl Part for TrustBundle {
    fn name(&self) -> &str {
        &self.name
    }
}

impl Part for Cluster {
    fn name(&self) -> &str {
        &self.name
    }
}

impl Part for EndpointSet {
    fn name(&self) -> &str {
        &self.cluster
    }
}

impl Part for Listener {
    fn name(&self) -> &str {
        &self.name
    }
}

impl Part for Arc<RouteTable> {
    fn name(&self) -> &str {
        &self.name
    }
}

impl<'a> News<'a> {
    /// Of a snapshot that comes after another.
    pub fn of(before: &Snapshot, after: &'a Snapshot) -> Self {
        let mut news = Self { after, parts: HashSet::new() };
        news.add(ResourceKind::Trust, &before.trust, &after.trust);
        news.add(ResourceKind::Cluster, &before.clusters, &after.clusters);
        news.add(ResourceKind::Endpoints, &before.endpoints, &after.endpoints);
        news.add(ResourceKind::Listener, &before.listeners, &after.listeners);
        news.add(ResourceKind::Routes, &before.routes, &after.routes);
        news
    }

    fn add<T: Part>(&mut self, kind: ResourceKind, before: &[T], after: &'a [T]) {
        let mut known: Option<HashMap<&str, &T>> = None;
        for (at, part) in after.iter().enumerate() {
            // Nearly always they come in the same order.
            let old = match before.get(at) {
                Some(old) if old.name() == part.name() => Some(old),
                _ => known
                    .get_or_insert_with(|| before.iter().map(|part| (part.name(), part)).collect())
                    .get(part.name())
                    .copied(),
            };
            if old != Some(part) {
                self.parts.insert((kind, part.name()));
            }
        }
    }

    /// Whether a part of the later snapshot is news.
    pub fn has(&self, kind: ResourceKind, name: &str) -> bool {
        self.parts.contains(&(kind, name))
    }

    /// The later snapshot without what is as it was before.
    pub fn snapshot(&self) -> Snapshot {
        Snapshot {
            listeners: self.only(ResourceKind::Listener, &self.after.listeners),
            routes: self.only(ResourceKind::Routes, &self.after.routes),
            clusters: self.only(ResourceKind::Cluster, &self.after.clusters),
            endpoints: self.only(ResourceKind::Endpoints, &self.after.endpoints),
            trust: self.only(ResourceKind::Trust, &self.after.trust),
        }
    }

    fn only<T: Part + Clone>(&self, kind: ResourceKind, parts: &[T]) -> Vec<T> {
        parts.iter().filter(|part| self.has(kind, part.name())).cloned().collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn bundle(name: &str, roots: &str) -> TrustBundle {
        TrustBundle { name: name.to_owned(), roots: roots.to_owned(), ..TrustBundle::default() }
    }

    #[test]
    fn news_are_what_is_new_or_other_wherever_it_stands() {
        let before =
            Snapshot { trust: vec![bundle("a", "1"), bundle("b", "1"), bundle("c", "1")], ..Snapshot::default() };
        let after = Snapshot {
            trust: vec![bundle("c", "1"), bundle("b", "2"), bundle("d", "1"), bundle("a", "1")],
            ..Snapshot::default()
        };
        let news = News::of(&before, &after);
        let told: Vec<_> =
            ["a", "b", "c", "d"].into_iter().filter(|name| news.has(ResourceKind::Trust, name)).collect();
        assert_eq!(told, ["b", "d"]);
        assert!(!news.has(ResourceKind::Cluster, "b"));
        assert_eq!(news.snapshot().trust, [bundle("b", "2"), bundle("d", "1")]);
        assert_eq!(News::of(&after, &after).snapshot(), Snapshot::default());
    }
}
