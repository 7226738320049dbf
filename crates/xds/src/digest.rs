//! The digest of a proxy's effective configuration: how two moments are compared to prove that nothing was left behind.

use std::fmt::Write;

use serde::Serialize;
use sha2::{Digest, Sha256};

use crate::{
    overlay::Overlay,
    snapshot::{EndpointSet, Snapshot},
};

/// SHA-256 (lower-case hex) over the canonical form of a snapshot and the overlays that are active on it.
///
/// Named things count as sets: the order of listeners, route tables, virtual hosts, clusters, endpoint sets, localities,
/// endpoints, trust bundles and overlays does not matter; that of routes does, since the first match wins. Versions,
/// leases and an overlay's reason are left out: they do not change what the proxy does.
pub fn digest(snapshot: &Snapshot, overlays: &[Overlay]) -> String {
    let mut canonical = snapshot.clone();
    canonical.listeners.sort_by(|a, b| a.name.cmp(&b.name));
    canonical.routes.sort_by(|a, b| a.name.cmp(&b.name));
    for table in &mut canonical.routes {
        table.hosts.sort_by(|a, b| a.name.cmp(&b.name));
    }
    canonical.clusters.sort_by(|a, b| a.name.cmp(&b.name));
    canonical.endpoints.sort_by(|a, b| a.cluster.cmp(&b.cluster));
    canonical.endpoints.iter_mut().for_each(sort_endpoints);
    canonical.trust.sort_by(|a, b| a.name.cmp(&b.name));

    let mut active: Vec<_> = overlays.iter().map(|overlay| (&overlay.id, &overlay.effect)).collect();
    active.sort_by(|a, b| a.0.cmp(b.0));
    let mut hash = Sha256::new();
    feed(&mut hash, &canonical);
    feed(&mut hash, &active);
    hash.finalize().iter().fold(String::with_capacity(64), |mut text, byte| {
        // Writing to a String cannot fail.
        let _ = write!(text, "{byte:02x}");
        text
    })
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
        overlay::Effect,
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
        let bundle = |name: &str| TrustBundle { name: name.to_owned(), roots: "pem".to_owned() };
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
        let cut = digest(&sample(), &[overlay("x", "", Effect::CutOff { regions: vec!["east".to_owned()] })]);
        assert!(harmless != base && cut != base && harmless != cut);
    }
}
