//! The digest of a proxy's effective configuration: how two moments are compared to prove that nothing was left behind.

use std::{collections::BTreeMap, fmt::Write, sync::Arc};

use serde::Serialize;
use sha2::{Digest, Sha256};

use crate::{
    news::News,
    overlay::Overlay,
    resource::ResourceKind,
    snapshot::{EndpointSet, RouteTable, Snapshot},
};

/// SHA-256 (lower-case hex) over the canonical form of a snapshot and the overlays that are active on it.
///
/// Named things count as sets: the order of listeners, route tables, virtual hosts, clusters, endpoint sets, localities,
/// endpoints, trust bundles and overlays does not matter; that of routes does, since the first match wins. Versions,
/// leases and an overlay's reason are left out: they do not change what the proxy does.
pub fn digest(snapshot: &Snapshot, overlays: &[Overlay]) -> String {
    Parts::of(snapshot).with(overlays)
}

/// The digests of a snapshot's parts: what spares reading all of a large snapshot again when little of it changes.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Parts(BTreeMap<(ResourceKind, String), [u8; 32]>);

impl Parts {
    /// Of a snapshot whose names are unique by kind.
    pub fn of(snapshot: &Snapshot) -> Self {
        Self::default().followed_by(&News::of(&Snapshot::default(), snapshot), snapshot)
    }

    /// Those of the snapshot that comes after the one that these are of: equal to [`Parts::of`] it.
    #[must_use]
    pub fn followed_by(&self, news: &News<'_>, after: &Snapshot) -> Self {
        let mut parts = Self::default();
        let old = (self, news);
        parts.follow(old, ResourceKind::Trust, &after.trust, |bundle| &bundle.name, |_| {});
        parts.follow(old, ResourceKind::Cluster, &after.clusters, |cluster| &cluster.name, |_| {});
        parts.follow(old, ResourceKind::Endpoints, &after.endpoints, |set| &set.cluster, sort_endpoints);
        parts.follow(old, ResourceKind::Listener, &after.listeners, |listener| &listener.name, |_| {});
        parts.follow(old, ResourceKind::Routes, &after.routes, |table| &table.name, sort_hosts);
        parts
    }

    fn follow<T: Clone + Serialize>(
        &mut self,
        (old, news): (&Self, &News<'_>),
        kind: ResourceKind,
        after: &[T],
        name: impl Fn(&T) -> &str,
        sort: impl Fn(&mut T),
    ) {
        for part in after {
            let same = !news.has(kind, name(part));
            let key = (kind, name(part).to_owned());
            let digest = old.0.get(&key).filter(|_| same).copied().unwrap_or_else(|| {
                let mut canonical = part.clone();
                sort(&mut canonical);
                let mut hash = Sha256::new();
                feed(&mut hash, &canonical);
                hash.finalize().into()
            });
            self.0.insert(key, digest);
        }
    }

    /// A part's digest; zeros for no part.
    pub(crate) fn digest(&self, kind: ResourceKind, name: &str) -> [u8; 32] {
        self.0.get(&(kind, name.to_owned())).copied().unwrap_or_default()
    }

    /// Sixteen hexadecimal digits of a part's digest: enough to tell contents of one name apart. Empty for no part.
    pub(crate) fn short(&self, kind: ResourceKind, name: &str) -> String {
        let mut text = String::new();
        for byte in self.0.get(&(kind, name.to_owned())).into_iter().flat_map(|digest| &digest[..8]) {
            // Writing to a String cannot fail.
            let _ = write!(text, "{byte:02x}");
        }
        text
    }

    /// The digest of the snapshot with overlays on it: [`digest`].
    pub fn with(&self, overlays: &[Overlay]) -> String {
        let mut hash = Sha256::new();
        for ((kind, name), digest) in &self.0 {
            hash.update(kind.message());
            hash.update((name.len() as u64).to_be_bytes());
            hash.update(name);
            hash.update(digest);
        }
        let mut active: Vec<_> = overlays.iter().map(|overlay| (&overlay.id, &overlay.effect)).collect();
        active.sort_by(|a, b| a.0.cmp(b.0));
        feed(&mut hash, &active);
        hash.finalize().iter().fold(String::with_capacity(64), |mut text, byte| {
            // Writing to a String cannot fail.
            let _ = write!(text, "{byte:02x}");
            text
        })
    }
}

fn sort_hosts(table: &mut Arc<RouteTable>) {
    Arc::make_mut(table).hosts.sort_by(|a, b| a.name.cmp(&b.name));
}

fn sort_endpoints(set: &mut EndpointSet) {
    for locality in &mut set.localities {
        locality.endpoints.sort_by(|a, b| (&a.name, a.address).cmp(&(&b.name, b.address)));
    }
    set.localities.sort_by(|a, b| (a.priority, &a.region, &a.zone).cmp(&(b.priority, &b.region, &b.zone)));
}

/// JSON of our types is canonical: fields come in declaration order and there are no maps. A value that JSON cannot
/// hold cannot occur (there are no maps with non-text keys); were there one, its message is what is hashed.
fn feed(hash: &mut Sha256, value: &impl Serialize) {
    let text = serde_json::to_vec(value).unwrap_or_else(|error| error.to_string().into_bytes());
    hash.update((text.len() as u64).to_be_bytes());
    hash.update(text);
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        overlay::{Effect, Way},
        snapshot::{Endpoint, Locality, TrustBundle},
    };

    fn sample() -> Snapshot {
        let endpoint = |name: &str, port| Endpoint {
            name: name.to_owned(),
            address: std::net::SocketAddr::from(([127, 0, 0, 1], port)),
            version: String::new(),
            weight: 1,
        };
        let locality = |region: &str, priority| Locality {
            region: region.to_owned(),
            zone: String::new(),
            priority,
            weight: 1,
            endpoints: vec![endpoint("a", 1), endpoint("b", 2)],
        };
        let set = |name: &str| EndpointSet {
            cluster: name.to_owned(),
            localities: vec![locality("east", 0), locality("west", 1)],
        };
        let bundle =
            |name: &str| TrustBundle { name: name.to_owned(), roots: "pem".to_owned(), ..TrustBundle::default() };
        Snapshot {
            endpoints: vec![set("fx"), set("ledger")],
            trust: vec![bundle("a"), bundle("b")],
            ..Snapshot::default()
        }
    }

    fn overlay(id: &str, reason: &str, effect: Effect) -> Overlay {
        Overlay { id: id.to_owned(), reason: reason.to_owned(), effect }
    }

    #[test]
    fn order_does_not_matter() {
        let mut turned = sample();
        turned.endpoints.reverse();
        turned.trust.reverse();
        turned.endpoints[0].localities.reverse();
        turned.endpoints[1].localities[0].endpoints.reverse();
        let two = [overlay("x", "", Effect::Harmless), overlay("y", "", Effect::Harmless)];
        let other = [two[1].clone(), overlay("x", "another reason", Effect::Harmless)];
        assert_eq!(digest(&sample(), &two), digest(&turned, &other));
        assert_eq!(digest(&sample(), &two).len(), 64);
    }

    #[test]
    fn everything_else_does() {
        let base = digest(&sample(), &[]);
        let mut changed = sample();
        changed.endpoints[0].localities[0].endpoints[0].weight = 2;
        assert_ne!(digest(&changed, &[]), base);
        let harmless = digest(&sample(), &[overlay("x", "", Effect::Harmless)]);
        let cut =
            digest(&sample(), &[overlay("x", "", Effect::CutOff { regions: vec!["east".to_owned()], way: Way::Both })]);
        assert!(harmless != base && cut != base && harmless != cut);
    }

    #[test]
    fn what_follows_has_the_digest_that_it_has_alone() {
        let (before, mut after) = (sample(), sample());
        after.endpoints[0].localities[0].endpoints[0].weight = 2;
        after.endpoints.remove(1);
        after.trust.push(TrustBundle { name: "c".to_owned(), roots: "pem".to_owned(), ..TrustBundle::default() });
        let followed = Parts::of(&before).followed_by(&News::of(&before, &after), &after);
        assert_eq!(followed, Parts::of(&after));
        assert_ne!(followed.with(&[]), Parts::of(&before).with(&[]));
        assert_eq!(followed.followed_by(&News::of(&after, &before), &before).with(&[]), digest(&before, &[]));
    }

    #[test]
    fn a_name_does_not_stand_for_another_kind() {
        let named =
            |name: &str| TrustBundle { name: name.to_owned(), roots: "pem".to_owned(), ..TrustBundle::default() };
        let one = Snapshot { trust: vec![named("a")], ..Snapshot::default() };
        let other = Snapshot { trust: vec![named("b")], ..Snapshot::default() };
        assert_ne!(digest(&one, &[]), digest(&other, &[]));
        assert_ne!(digest(&one, &[]), digest(&Snapshot::default(), &[]));
    }
}
