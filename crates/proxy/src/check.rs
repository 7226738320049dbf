//! What a snapshot must hold before it is taken. Pure.

use std::collections::{BTreeSet, HashSet};

use xds::snapshot::{ListenerProtocol, RouteAction, Snapshot};

/// Percent of the endpoints of clusters that stay, above which a loss at one stroke is taken for a mistake (istio#25100).
const SHRINK_PERCENT: usize = 50;
/// Fewer endpoints than this come and go in the ordinary course of things.
const SHRINK_LEAST: usize = 10;

/// The first thing that is wrong, with the path of the field.
pub fn refuse(snapshot: &Snapshot) -> Option<String> {
    let mut tables = HashSet::new();
    let mut clusters = HashSet::new();
    let mut trust = HashSet::new();
    let mut listeners = HashSet::new();
    for bundle in &snapshot.trust {
        if !trust.insert(bundle.name.as_str()) {
            return Some(format!("trust[{}]: named twice", bundle.name));
        }
    }
    for cluster in &snapshot.clusters {
        if !clusters.insert(cluster.name.as_str()) {
            return Some(format!("clusters[{}]: named twice", cluster.name));
        }
        if let Some(tls) = &cluster.tls
            && !trust.contains(tls.trust.as_str())
        {
            return Some(format!("clusters[{}].tls.trust: no bundle `{}`", cluster.name, tls.trust));
        }
    }
    for set in &snapshot.endpoints {
        let used: BTreeSet<u32> = set.localities.iter().map(|locality| locality.priority).collect();
        if used.iter().zip(0..).any(|(priority, expected)| *priority != expected) {
            return Some(format!("endpoints[{}]: priorities have a gap: {used:?}", set.cluster));
        }
    }
    for table in &snapshot.routes {
        if !tables.insert(table.name.as_str()) {
            return Some(format!("routes[{}]: named twice", table.name));
        }
        for route in table.hosts.iter().flat_map(|host| &host.routes) {
            let RouteAction::Forward(forward) = &route.action else { continue };
            if forward.clusters.iter().all(|choice| choice.weight == 0) {
                return Some(format!("routes[{}]: a route whose weights sum to 0", table.name));
            }
            if let Some(choice) = forward.clusters.iter().find(|choice| !clusters.contains(choice.cluster.as_str())) {
                return Some(format!("routes[{}]: no cluster `{}`", table.name, choice.cluster));
            }
        }
    }
    for listener in &snapshot.listeners {
        let path = format!("listeners[{}]", listener.name);
        if !listeners.insert(listener.name.as_str()) {
            return Some(format!("{path}: named twice"));
        }
        let dangling = match &listener.protocol {
            ListenerProtocol::Http(http) => !tables.contains(http.routes.as_str()),
            ListenerProtocol::Tcp { cluster } => !clusters.contains(cluster.as_str()),
        };
        if dangling {
            return Some(format!("{path}.protocol: refers to what is not there"));
        }
        if let Some(tls) = &listener.tls
            && !trust.contains(tls.trust.as_str())
        {
            return Some(format!("{path}.tls.trust: no bundle `{}`", tls.trust));
        }
    }
    None
}

/// Whether a push would take away most of the endpoints at once, counted over the clusters that stay: a service that is
/// taken down goes with its clusters.
pub fn mass_shrink(before: &Snapshot, after: &Snapshot) -> Option<String> {
    let count = |snapshot: &Snapshot, cluster: &str| -> usize {
        let sets = snapshot.endpoints.iter().filter(|set| set.cluster == cluster);
        sets.flat_map(|set| &set.localities).map(|locality| locality.endpoints.len()).sum()
    };
    let staying = after.clusters.iter().filter(|c| before.clusters.iter().any(|old| old.name == c.name));
    let (mut old, mut lost) = (0, 0);
    for cluster in staying {
        let had = count(before, &cluster.name);
        old += had;
        lost += had.saturating_sub(count(after, &cluster.name));
    }
    (old >= SHRINK_LEAST && lost * 100 > old * SHRINK_PERCENT)
        .then(|| format!("endpoints: {lost} of {old} would be removed at once from clusters that stay"))
}
