//! Kinds of resources that travel over ADS.

use std::fmt;

use serde::{Deserialize, Serialize};

/// Stands behind the version of an incremental response when more of that version follows: a proxy of ours puts nothing
/// into force before it has all of it. To any other proxy a response's version is a note for people.
pub(crate) const MORE: &str = "~more";

/// How our control plane names itself in responses of whole kinds: it tells all kinds of a snapshot under one version. Of
/// any other one, the version of a kind says nothing of the other kinds.
pub(crate) const CONTROL_PLANE: &str = "firedrill";

/// The name that stands for everything of a kind.
pub(crate) const EVERYTHING: &str = "*";

/// A kind of resource. The order of the variants is the order in which a changed snapshot is sent (make before break):
/// trust first, then where traffic may go, then what sends it there; overlays last.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub enum ResourceKind {
    /// `Secret`: trust bundles (SDS).
    Trust,
    /// `Cluster` (CDS).
    Cluster,
    /// `ClusterLoadAssignment` (EDS).
    Endpoints,
    /// `Listener` (LDS).
    Listener,
    /// `RouteConfiguration` (RDS).
    Routes,
    /// `Runtime`: overlays (RTDS).
    Overlay,
}

impl ResourceKind {
    /// Every kind, in sending order.
    pub const ALL: [Self; 6] =
        [Self::Trust, Self::Cluster, Self::Endpoints, Self::Listener, Self::Routes, Self::Overlay];

    /// The protobuf type's URL.
    pub fn type_url(self) -> &'static str {
        match self {
            Self::Trust => "type.googleapis.com/envoy.extensions.transport_sockets.tls.v3.Secret",
            Self::Cluster => "type.googleapis.com/envoy.config.cluster.v3.Cluster",
            Self::Endpoints => "type.googleapis.com/envoy.config.endpoint.v3.ClusterLoadAssignment",
            Self::Listener => "type.googleapis.com/envoy.config.listener.v3.Listener",
            Self::Routes => "type.googleapis.com/envoy.config.route.v3.RouteConfiguration",
            Self::Overlay => "type.googleapis.com/envoy.service.runtime.v3.Runtime",
        }
    }

    /// The kind of a type URL, if it is one of ours.
    pub fn of_type_url(url: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|kind| kind.type_url() == url)
    }

    /// The protobuf message's short name, as errors print it.
    pub fn message(self) -> &'static str {
        let url = self.type_url();
        url.rsplit_once('.').map_or(url, |(_, name)| name)
    }

    /// Whether an empty list of names subscribes to everything of this kind.
    pub fn has_wildcard(self) -> bool {
        matches!(self, Self::Cluster | Self::Listener | Self::Overlay)
    }
}

impl fmt::Display for ResourceKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.message())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_type_url_names_its_kind() {
        for kind in ResourceKind::ALL {
            assert_eq!(ResourceKind::of_type_url(kind.type_url()), Some(kind));
        }
        assert_eq!(ResourceKind::of_type_url("type.googleapis.com/google.protobuf.Empty"), None);
        assert_eq!(ResourceKind::Endpoints.to_string(), "ClusterLoadAssignment");
    }
}
