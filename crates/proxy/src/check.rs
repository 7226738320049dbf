//! What a snapshot must hold before it is taken. Pure.

use std::collections::{BTreeSet, HashMap, HashSet};

use xds::{
    news::News,
    resource::ResourceKind,
    snapshot::{Forward, ListenerProtocol, RouteAction, Snapshot, UpstreamProtocol},
};

use crate::index::Index;

/// Percent of the endpoints of clusters that stay, above which a loss at one stroke is taken for a mistake (istio#25100).
const SHRINK_PERCENT: usize = 50;
/// Fewer endpoints than this come and go in the ordinary course of things.
const SHRINK_LEAST: usize = 10;

/// The first thing that is wrong, with the path of the field. Parts that are in force already are not judged again.
pub fn refuse(news: &News<'_>, snapshot: &Snapshot) -> Option<String> {
    let mut tables = HashSet::new();
    let mut clusters = HashMap::new();
    let mut trust = HashSet::new();
    let mut listeners = HashSet::new();
    for bundle in &snapshot.trust {
        if !trust.insert(bundle.name.as_str()) {
            return Some(format!("trust[{}]: named twice", bundle.name));
        }
    }
    for cluster in &snapshot.clusters {
        if clusters.insert(cluster.name.as_str(), cluster.protocol).is_some() {
            return Some(format!("clusters[{}]: named twice", cluster.name));
        }
        if let Some(tls) = &cluster.tls
            && !trust.contains(tls.trust.as_str())
        {
            return Some(format!("clusters[{}].tls.trust: no bundle `{}`", cluster.name, tls.trust));
        }
    }
    let mut sets = HashSet::new();
    for set in &snapshot.endpoints {
        if !sets.insert(set.cluster.as_str()) {
            return Some(format!("endpoints[{}]: named twice", set.cluster));
        }
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
            if let RouteAction::Tunnel(tunnel) = &route.action
                && !clusters.contains_key(tunnel.cluster.as_str())
            {
                return Some(format!("routes[{}]: no cluster `{}`", table.name, tunnel.cluster));
            }
            let RouteAction::Forward(forward) = &route.action else { continue };
            if forward.clusters.iter().all(|choice| choice.weight == 0) {
                return Some(format!("routes[{}]: a route whose weights sum to 0", table.name));
            }
            let mirrors = forward.mirrors.iter().map(|mirror| &mirror.cluster);
            let mut named = forward.clusters.iter().map(|choice| &choice.cluster).chain(mirrors);
            if let Some(missing) = named.find(|name| !clusters.contains_key(name.as_str())) {
                return Some(format!("routes[{}]: no cluster `{missing}`", table.name));
            }
            if let Some(cluster) = without_upgrades(&clusters, forward) {
                let why = "speaks no HTTP, which has upgrades";
                return Some(format!("routes[{}].upgrades: cluster `{cluster}` {why}", table.name));
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
            ListenerProtocol::Tcp { cluster, .. } => !clusters.contains_key(cluster.as_str()),
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
    out_of_domain(&news.snapshot())
}

/// A cluster of a route with upgrades that has none: HTTP/1.1 has them (RFC 9110, 7.8), and so has HTTP/2 (RFC 8441).
fn without_upgrades<'a>(protocols: &HashMap<&str, UpstreamProtocol>, forward: &'a Forward) -> Option<&'a str> {
    let mut clusters = forward.clusters.iter().filter(|_| !forward.upgrades.is_empty());
    let other = clusters.find(|choice| protocols.get(choice.cluster.as_str()) == Some(&UpstreamProtocol::Tcp));
    other.map(|choice| choice.cluster.as_str())
}

/// What could not have come from a control plane (a duration of centuries, a weight of zero), so that a file cannot bring
/// it either. Trust bundles are left to those who read them: an empty one trusts nobody, which is a thing to try.
fn out_of_domain(snapshot: &Snapshot) -> Option<String> {
    xds::codec::resources(snapshot)
        .filter(|resource| resource.kind() != ResourceKind::Trust)
        .find_map(|resource| xds::codec::encode_resource(&resource).err())
        .map(|error| error.to_string())
}

/// Whether a push would take away most of the endpoints at once, counted over the clusters that stay: a service that is
/// taken down goes with its clusters.
pub fn mass_shrink(before: &Index<'_>, after: &Index<'_>, new: &Snapshot) -> Option<String> {
    let (mut old, mut lost) = (0, 0);
    for cluster in new.clusters.iter().filter(|cluster| before.cluster(&cluster.name).is_some()) {
        let had = before.count(&cluster.name);
        old += had;
        lost += had.saturating_sub(after.count(&cluster.name));
    }
    (old >= SHRINK_LEAST && lost * 100 > old * SHRINK_PERCENT)
        .then(|| format!("endpoints: {lost} of {old} would be removed at once from clusters that stay"))
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn snapshot(endpoints: &[(&str, usize)]) -> Snapshot {
        let cluster = |(name, _): &(&str, usize)| {
            json!({
                "name": name, "service": name, "protocol": "http1", "connectTimeout": "1s", "balancer": "roundRobin",
                "tls": null, "healthCheck": null, "outlier": null, "panicThreshold": 0, "ramp": null,
            })
        };
        let set = |(name, count): &(&str, usize)| {
            let endpoint = |n: usize| json!({"name": format!("{name}-{n}"), "address": format!("127.0.0.1:{}", n + 1), "weight": 1});
            let endpoints: Vec<_> = (0..*count).map(endpoint).collect();
            let locality = json!({"region": "east", "priority": 0, "weight": 1, "endpoints": endpoints});
            json!({"cluster": name, "localities": [locality]})
        };
        let clusters: Vec<_> = endpoints.iter().map(cluster).collect();
        let sets: Vec<_> = endpoints.iter().map(set).collect();
        serde_json::from_value(json!({"clusters": clusters, "endpoints": sets})).unwrap()
    }

    #[test]
    fn only_a_loss_of_most_endpoints_of_staying_clusters_is_a_mistake() {
        for (before, after, refused) in [
            (vec![("a", 20)], vec![("a", 10)], false),
            (vec![("a", 20)], vec![("a", 9)], true),
            (vec![("a", 20)], vec![("a", 0)], true),
            (vec![("a", 20), ("b", 30)], vec![("b", 30)], false),
            (vec![("a", 2)], vec![("a", 0)], false),
            (vec![], vec![("a", 9)], false),
        ] {
            let (old, new) = (snapshot(&before), snapshot(&after));
            let found = mass_shrink(&Index::new(&old), &Index::new(&new), &new);
            assert_eq!(found.is_some(), refused, "{before:?} {after:?}");
        }
    }

    #[test]
    fn inconsistencies_are_named_with_their_path() {
        let empty = Snapshot::default();
        let refuse = |snapshot: &Snapshot| refuse(&News::of(&empty, snapshot), snapshot);
        let mut gap = snapshot(&[("a", 1)]);
        gap.endpoints[0].localities[0].priority = 1;
        assert_eq!(refuse(&gap).unwrap(), "endpoints[a]: priorities have a gap: {1}");
        let mut twice = snapshot(&[("a", 1)]);
        twice.clusters.push(twice.clusters[0].clone());
        assert_eq!(refuse(&twice).unwrap(), "clusters[a]: named twice");
        assert_eq!(refuse(&snapshot(&[("a", 1), ("b", 0)])), None);
        let mut upgrades = snapshot(&[("a", 1)]);
        let forward = json!({"clusters": [{"cluster": "a", "weight": 1}], "timeout": "0s", "retry": null, "hedge": null,
            "upgrades": ["websocket"]});
        let route = json!({"match": {"path": {"prefix": "/"}}, "action": {"forward": forward}});
        let table = json!({"name": "t", "hosts": [{"name": "h", "domains": ["*"], "routes": [route]}]});
        upgrades.routes = vec![serde_json::from_value(table).unwrap()];
        assert_eq!(refuse(&upgrades), None);
        upgrades.clusters[0].protocol = UpstreamProtocol::Http2;
        assert_eq!(refuse(&upgrades), None);
        upgrades.clusters[0].protocol = UpstreamProtocol::Tcp;
        let why = "speaks no HTTP, which has upgrades";
        assert_eq!(refuse(&upgrades).unwrap(), format!("routes[t].upgrades: cluster `a` {why}"));
        let mut endless = snapshot(&[("a", 1)]);
        endless.clusters[0].connect_timeout = std::time::Duration::MAX;
        assert_eq!(refuse(&endless).unwrap(), "Cluster a: connect_timeout: is longer than a year");
    }
}
