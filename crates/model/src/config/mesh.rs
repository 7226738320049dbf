//! The mesh as a whole, and the ways into it.

use std::{net::SocketAddr, time::Duration};

use super::{Federated, Identity, ListenerLimits, TrafficPolicy};
use crate::name::{GatewayName, RegionName, ServiceName};

/// Kind `Mesh`.
#[derive(Clone, Debug, PartialEq)]
pub struct Mesh {
    /// From `metadata.name`.
    pub name: String,
    /// SPIFFE trust domain.
    pub trust_domain: String,
    /// In order of preference; at least one.
    pub regions: Vec<RegionName>,
    /// Who issues certificates.
    pub identity: Identity,
    /// Lifetime of a certificate that the control plane signs. Default 24 h.
    pub certificate_lifetime: Duration,
    /// Other meshes whose ids are believed.
    pub federation: Vec<Federated>,
    /// Ways into the mesh.
    pub gateways: Vec<Gateway>,
    /// Traffic policy of services that say nothing else.
    pub defaults: TrafficPolicy,
    /// Bounds on what callers may send to any proxy.
    pub listeners: ListenerLimits,
}

/// A way into the mesh.
#[derive(Clone, Debug, PartialEq)]
pub struct Gateway {
    /// Also its host name in probe URLs (`http://edge/…`).
    pub name: GatewayName,
    /// Plaintext HTTP.
    pub listen: SocketAddr,
    /// First match wins; at least one.
    pub routes: Vec<GatewayRoute>,
}

/// A path prefix and the service behind it.
#[derive(Clone, Debug, PartialEq)]
pub struct GatewayRoute {
    /// Default `/`.
    pub prefix: String,
    /// The service.
    pub service: ServiceName,
}
