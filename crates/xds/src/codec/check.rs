//! What no single resource can tell of a snapshot.

use std::collections::BTreeSet;

use super::{
    CodecError,
    wire::{Checked, Problem, ensure_unique, wrong},
};
use crate::snapshot::{ListenerProtocol, RouteAction, Snapshot};

/// Checks that names and listening addresses are unique, that every reference has its target, and that every cluster
/// has an endpoint set and every endpoint set, route table and trust bundle is used: a proxy asks only for what is
/// referred to.
///
/// # Errors
/// The first problem found.
pub fn check(snapshot: &Snapshot) -> Result<(), CodecError> {
    check_names(snapshot).and_then(|()| check_references(snapshot)).map_err(|Problem { path, problem }| CodecError {
        resource: "snapshot".to_owned(),
        path,
        problem,
    })
}

fn check_names(snapshot: &Snapshot) -> Checked<()> {
    ensure_unique(snapshot.listeners.iter().map(|listener| &listener.name), "listeners")?;
    ensure_unique(snapshot.listeners.iter().map(|listener| listener.address), "listeners")?;
    ensure_unique(snapshot.routes.iter().map(|table| &table.name), "routes")?;
    ensure_unique(snapshot.clusters.iter().map(|cluster| &cluster.name), "clusters")?;
    ensure_unique(snapshot.endpoints.iter().map(|set| &set.cluster), "endpoints")?;
    ensure_unique(snapshot.trust.iter().map(|bundle| &bundle.name), "trust")
}

fn check_references(snapshot: &Snapshot) -> Checked<()> {
    let clusters: BTreeSet<&str> = snapshot.clusters.iter().map(|cluster| cluster.name.as_str()).collect();
    let endpoints: BTreeSet<&str> = snapshot.endpoints.iter().map(|set| set.cluster.as_str()).collect();
    equal("endpoints", "endpoint set", &clusters, &endpoints)?;
    let tables: BTreeSet<&str> = snapshot.routes.iter().map(|table| table.name.as_str()).collect();
    equal("routes", "route table", &tables_named(snapshot), &tables)?;
    let trust: BTreeSet<&str> = snapshot.trust.iter().map(|bundle| bundle.name.as_str()).collect();
    equal("trust", "trust bundle", &trust_named(snapshot), &trust)?;
    match missing_cluster(snapshot) {
        Some(missing) => wrong("clusters", format!("{missing:?} is referred to and missing")),
        None => Ok(()),
    }
}

/// A cluster that listeners or routes refer to and that is not there.
pub(crate) fn missing_cluster(snapshot: &Snapshot) -> Option<&str> {
    let clusters: BTreeSet<&str> = snapshot.clusters.iter().map(|cluster| cluster.name.as_str()).collect();
    clusters_named(snapshot).into_iter().find(|named| !clusters.contains(named))
}

fn equal(path: &str, what: &str, named: &BTreeSet<&str>, present: &BTreeSet<&str>) -> Checked<()> {
    if let Some(missing) = named.difference(present).next() {
        return wrong(path, format!("the {what} {missing:?} is referred to and missing"));
    }
    match present.difference(named).next() {
        Some(idle) => wrong(path, format!("the {what} {idle:?} is referred to by nothing")),
        None => Ok(()),
    }
}

/// Route tables that listeners refer to.
pub(crate) fn tables_named(snapshot: &Snapshot) -> BTreeSet<&str> {
    let tables = snapshot.listeners.iter().filter_map(|listener| match &listener.protocol {
        ListenerProtocol::Http(http) => Some(http.routes.as_str()),
        ListenerProtocol::Tcp { .. } => None,
    });
    tables.collect()
}

/// Trust bundles that listeners and clusters refer to.
pub(crate) fn trust_named(snapshot: &Snapshot) -> BTreeSet<&str> {
    let listeners =
        snapshot.listeners.iter().filter_map(|listener| listener.tls.as_ref()).map(|tls| tls.trust.as_str());
    let clusters = snapshot.clusters.iter().filter_map(|cluster| cluster.tls.as_ref()).map(|tls| tls.trust.as_str());
    listeners.chain(clusters).collect()
}

/// Clusters that listeners and routes refer to.
fn clusters_named(snapshot: &Snapshot) -> BTreeSet<&str> {
    let bytes = snapshot.listeners.iter().filter_map(|listener| match &listener.protocol {
        ListenerProtocol::Tcp { cluster, .. } => Some(cluster.as_str()),
        ListenerProtocol::Http(_) => None,
    });
    let routes = snapshot.routes.iter().flat_map(|table| &table.hosts).flat_map(|host| &host.routes);
    let tunnels = routes.clone().filter_map(|route| match &route.action {
        RouteAction::Tunnel(tunnel) => Some(tunnel.cluster.as_str()),
        _ => None,
    });
    let forwards = routes.filter_map(|route| match &route.action {
        RouteAction::Forward(forward) => {
            let mirrors = forward.mirrors.iter().map(|mirror| mirror.cluster.as_str());
            Some(forward.clusters.iter().map(|cluster| cluster.cluster.as_str()).chain(mirrors))
        }
        RouteAction::Redirect(_) | RouteAction::Answer { .. } | RouteAction::Tunnel(_) => None,
    });
    bytes.chain(tunnels).chain(forwards.flatten()).collect()
}
