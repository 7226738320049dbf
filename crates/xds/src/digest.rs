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
