//! The parts of a snapshot by name: a large one is gone through a few times, never once for each of its parts.

use std::collections::HashMap;

use xds::snapshot::{Cluster, EndpointSet, Listener, ListenerProtocol, Snapshot, TrustBundle, UpstreamProtocol};

/// A snapshot's parts by name.
#[derive(Debug)]
pub struct Index<'a> {
    clusters: HashMap<&'a str, &'a Cluster>,
    endpoints: HashMap<&'a str, &'a EndpointSet>,
    listeners: HashMap<&'a str, &'a Listener>,
    trust: HashMap<&'a str, &'a TrustBundle>,
}

/// All that a cluster's TLS configuration is made of.
#[derive(Debug, PartialEq)]
pub struct ClusterTrust<'a> {
    protocol: UpstreamProtocol,
    server_ids: Option<&'a [String]>,
    bundle: Option<&'a TrustBundle>,
}

/// All that a listener's TLS configuration is made of.
#[derive(Debug, PartialEq)]
pub struct ListenerTrust<'a> {
    http: bool,
    /// Outside: whether there is TLS; inside: whether its bundle is there.
    bundle: Option<Option<&'a TrustBundle>>,
}

impl<'a> Index<'a> {
    /// Of a snapshot.
    pub fn new(snapshot: &'a Snapshot) -> Self {
        Self {
            clusters: snapshot.clusters.iter().map(|cluster| (cluster.name.as_str(), cluster)).collect(),
            endpoints: snapshot.endpoints.iter().map(|set| (set.cluster.as_str(), set)).collect(),
            listeners: snapshot.listeners.iter().map(|listener| (listener.name.as_str(), listener)).collect(),
            trust: snapshot.trust.iter().map(|bundle| (bundle.name.as_str(), bundle)).collect(),
        }
    }

    /// A cluster.
    pub fn cluster(&self, name: &str) -> Option<&'a Cluster> {
        self.clusters.get(name).copied()
    }

    /// A cluster's endpoints.
    pub fn endpoints(&self, cluster: &str) -> Option<&'a EndpointSet> {
        self.endpoints.get(cluster).copied()
    }

    /// A listener.
    pub fn listener(&self, name: &str) -> Option<&'a Listener> {
        self.listeners.get(name).copied()
    }

    /// Number of a cluster's endpoints.
    pub fn count(&self, cluster: &str) -> usize {
        self.endpoints(cluster).map_or(0, |set| set.localities.iter().map(|locality| locality.endpoints.len()).sum())
    }

    /// What a cluster's TLS is made of; `None` for one that is not there.
    pub fn cluster_trust(&self, name: &str) -> Option<ClusterTrust<'a>> {
        let cluster = self.cluster(name)?;
        Some(ClusterTrust {
            protocol: cluster.protocol,
            server_ids: cluster.tls.as_ref().map(|tls| tls.server_ids.as_slice()),
            bundle: cluster.tls.as_ref().and_then(|tls| self.bundle(&tls.trust)),
        })
    }

    /// What a listener's TLS is made of; `None` for one that is not there.
    pub fn listener_trust(&self, name: &str) -> Option<ListenerTrust<'a>> {
        let listener = self.listener(name)?;
        let http = matches!(listener.protocol, ListenerProtocol::Http(_));
        Some(ListenerTrust { http, bundle: listener.tls.as_ref().map(|tls| self.bundle(&tls.trust)) })
    }

    fn bundle(&self, name: &str) -> Option<&'a TrustBundle> {
        self.trust.get(name).copied()
    }
}
