//! Decoded parts of a snapshot: what they refer to, and the snapshot that they make up.

use std::{collections::BTreeSet, time::Duration};

use envoy_types::pb::{
    envoy::{config::core::v3::ControlPlane, service::discovery::v3::Resource as Wrapper},
    google::protobuf::Any,
};

use crate::{
    codec::{self, Resource},
    resource::{CONTROL_PLANE, ResourceKind},
    snapshot::{ListenerProtocol, Snapshot},
};

/// Whether a response is of our own control plane.
pub(super) fn is_ours(plane: Option<&ControlPlane>) -> bool {
    plane.is_some_and(|plane| plane.identifier == CONTROL_PLANE)
}

pub(super) fn decode(kind: ResourceKind, any: &Any) -> Result<Resource, String> {
    if any.type_url != kind.type_url() {
        return Err(format!("{} in a response of {kind}", any.type_url));
    }
    codec::decode_resource(&any.type_url, &any.value).map_err(|error| error.to_string())
}

/// The time to live that an overlay must have.
pub(super) fn read_ttl(wrapper: &Wrapper) -> Result<Duration, String> {
    let ttl = wrapper.ttl.as_ref().and_then(|ttl| {
        Some(Duration::new(
            u64::try_from(ttl.seconds).ok()?,
            u32::try_from(ttl.nanos).ok().filter(|n| *n < 1_000_000_000)?,
        ))
    });
    ttl.filter(|ttl| !ttl.is_zero()).ok_or_else(|| format!("Runtime {}: no time to live", wrapper.name))
}

/// Names of the trust bundles that clusters and listeners refer to.
pub(super) fn bundles<'a>(resources: impl Iterator<Item = &'a Resource>) -> BTreeSet<String> {
    let trust = resources.filter_map(|resource| match resource {
        Resource::Cluster(cluster) => cluster.tls.as_ref().map(|tls| tls.trust.clone()),
        Resource::Listener(listener) => listener.tls.as_ref().map(|tls| tls.trust.clone()),
        _ => None,
    });
    trust.collect()
}

/// Names of the route tables that listeners refer to.
pub(super) fn tables<'a>(resources: impl Iterator<Item = &'a Resource>) -> BTreeSet<String> {
    let tables = resources.filter_map(|resource| match resource {
        Resource::Listener(listener) => match &listener.protocol {
            ListenerProtocol::Http(http) => Some(http.routes.clone()),
            ListenerProtocol::Tcp { .. } => None,
        },
        _ => None,
    });
    tables.collect()
}

pub(super) fn assemble<'a>(resources: impl Iterator<Item = &'a Resource>) -> Snapshot {
    let mut snapshot = Snapshot::default();
    for resource in resources {
        match resource.clone() {
            Resource::Trust(bundle) => snapshot.trust.push(bundle),
            Resource::Cluster(cluster) => snapshot.clusters.push(cluster),
            Resource::Endpoints(set) => snapshot.endpoints.push(set),
            Resource::Listener(listener) => snapshot.listeners.push(listener),
            Resource::Routes(table) => snapshot.routes.push(table.into()),
            Resource::Overlay(_) => {}
        }
    }
    snapshot
}
