//! What one proxy is told to do: plain data, complete, free of wire types.
//!
//! The same form is a snapshot file and the last-good file on a proxy's disk. Names follow Envoy where Envoy has the thing.

use std::{net::SocketAddr, sync::Arc, time::Duration};

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

pub use self::admission::Admission;
pub use self::cluster::{
    Balancer, Balancing, Bound, CircuitBreakers, Cluster, ClusterTls, Exchange, FailurePercentage, HashKey,
    HealthCheck, OutlierDetection, PanicPolicy, Ramp, SlowStart, SuccessRate, UpstreamProtocol,
};
pub use self::route::*;
use crate::human;

mod admission;
mod cluster;
mod route;

/// The whole configuration of one proxy. Overlays are not part of it: they are leased, never stored.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields, default)]
pub struct Snapshot {
    /// Sockets to listen on (LDS).
    pub listeners: Vec<Listener>,
    /// Route tables that listeners refer to by name (RDS). Shared with whoever serves by them, since they are large.
    pub routes: Vec<Arc<RouteTable>>,
    /// Upstream services (CDS).
    pub clusters: Vec<Cluster>,
    /// Where each cluster's endpoints are (EDS).
    pub endpoints: Vec<EndpointSet>,
    /// Trust bundles (SDS). Private keys are never in a snapshot.
    pub trust: Vec<TrustBundle>,
}

impl Snapshot {
    /// Gives back what lists hold for more: a parser that does not know their length leaves room for four of whatever it is.
    pub fn shrink(&mut self) {
        self.listeners.shrink_to_fit();
        self.routes.shrink_to_fit();
        for host in self.routes.iter_mut().flat_map(|table| &mut Arc::make_mut(table).hosts) {
            host.domains.shrink_to_fit();
            host.routes.shrink_to_fit();
            for route in &mut host.routes {
                if let RouteAction::Forward(forward) = &mut route.action {
                    forward.clusters.shrink_to_fit();
                }
            }
        }
        self.clusters.shrink_to_fit();
        self.endpoints.shrink_to_fit();
        for set in &mut self.endpoints {
            set.localities.shrink_to_fit();
            set.localities.iter_mut().for_each(|locality| locality.endpoints.shrink_to_fit());
        }
    }
}

/// Which way a listener's traffic goes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub enum Direction {
    /// From the mesh to the workload beside this proxy.
    Inbound,
    /// From the workload beside this proxy to the mesh.
    Outbound,
    /// From outside the mesh into it.
    Gateway,
}

/// A socket to listen on.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Listener {
    /// Unique in the snapshot.
    pub name: String,
    /// The socket address to bind.
    pub address: SocketAddr,
    /// Which way traffic goes.
    pub direction: Direction,
    /// Mutual TLS towards the callers; `None` accepts plaintext (outbound listeners on loopback, plain gateways).
    pub tls: Option<ListenerTls>,
    /// What is spoken on it.
    pub protocol: ListenerProtocol,
}

/// Mutual TLS of a listener. A caller without a certificate of the trust bundle is refused at the handshake.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct ListenerTls {
    /// Name of the [`TrustBundle`] that callers' certificates must chain to.
    pub trust: String,
}

/// What a listener speaks.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub enum ListenerProtocol {
    /// HTTP/1.1 and HTTP/2 (by ALPN, or prior knowledge on plaintext).
    Http(HttpListener),
    /// Bytes, forwarded to one cluster.
    #[serde(rename_all = "camelCase")]
    Tcp {
        /// The cluster that receives the bytes.
        cluster: String,
        /// Time without a byte either way after which a connection is closed; zero is never. Envoy's default: 1 h.
        #[serde(with = "human", default = "hour", skip_serializing_if = "is_hour")]
        #[schemars(with = "human::Text", default)]
        idle_timeout: Duration,
    },
}

/// How long bytes may be silent where nothing else is said: Envoy's default.
pub(crate) const HOUR: Duration = Duration::from_secs(3600);

/// How long a request may pass no byte in either direction where nothing else is said: Envoy's default.
pub const STREAM_IDLE: Duration = Duration::from_secs(300);

/// See [`Limits::body_timeout`]. As nginx's `client_body_timeout`.
pub(crate) const BODY_TIMEOUT: Duration = Duration::from_secs(60);

/// See [`Limits::minimum_rate`].
pub(crate) const MINIMUM_RATE: u32 = 1024;

fn is_body_timeout(time: &Duration) -> bool {
    *time == BODY_TIMEOUT
}

fn is_minimum_rate(rate: &u32) -> bool {
    *rate == MINIMUM_RATE
}

fn hour() -> Duration {
    HOUR
}

fn is_hour(time: &Duration) -> bool {
    *time == HOUR
}

impl ListenerProtocol {
    /// Bytes for a cluster, with the usual bound on silence.
    pub fn tcp(cluster: impl Into<String>) -> Self {
        Self::Tcp { cluster: cluster.into(), idle_timeout: HOUR }
    }
}

/// The HTTP side of a listener.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct HttpListener {
    /// Name of the [`RouteTable`].
    pub routes: String,
    /// Who may call; `None` lets everyone pass that TLS let pass.
    pub authorization: Option<Authorization>,
    /// Bounds on what a caller may send.
    #[serde(default)]
    pub limits: Limits,
    /// How many requests the workload gets at once; `None` lets all in. Only where traffic is inbound.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub admission: Option<Admission>,
}

/// Callers allowed; everyone else gets 403. An empty list denies all.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Authorization {
    /// One match suffices. In logs and counters a permission goes by its place: see [`Authorization::rule`].
    pub allow: Vec<AllowRule>,
    /// Lets everyone pass, and tells who would have been refused.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub dry_run: bool,
}

impl Authorization {
    /// What a permission is called: `allow[0]`, its place in the list.
    pub fn rule(index: usize) -> String {
        format!("allow[{index}]")
    }
}

/// One permission.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct AllowRule {
    /// SPIFFE ids of callers, whole (`spiffe://bank.example/service/accounts`); `*` alone is everyone, also a caller
    /// without a certificate.
    pub principals: Vec<String>,
    /// HTTP methods; empty allows all.
    #[serde(default)]
    pub methods: Vec<String>,
    /// Path prefixes; empty allows all.
    #[serde(default)]
    pub paths: Vec<String>,
    /// All of these headers, as in [`RouteMatch`].
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub headers: Vec<Named>,
}

/// Bounds on what a caller may send. Every one has a safe default.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields, default)]
pub struct Limits {
    /// Size of all request headers together, in bytes; above it 431.
    pub header_bytes: u32,
    /// Number of request headers; above it 431.
    pub headers: u32,
    /// Time to send the request headers; after it the connection is closed.
    #[serde(with = "human")]
    #[schemars(with = "human::Text")]
    pub header_timeout: Duration,
    /// Time without a request after which a connection is closed.
    #[serde(with = "human")]
    #[schemars(with = "human::Text")]
    pub idle_timeout: Duration,
    /// Connections accepted at once; above it new ones are closed at once.
    pub connections: u32,
    /// HTTP/2 streams at once on a connection.
    pub concurrent_streams: u32,
    /// Time for which a caller may send nothing of a request's body, after which it gets 408, or take nothing of a response;
    /// zero is for ever. Inbound listeners leave it to the proxy on the caller's side.
    #[serde(with = "human", skip_serializing_if = "is_body_timeout")]
    #[schemars(with = "human::Text")]
    pub body_timeout: Duration,
    /// Bytes a second that a caller must send of a request's body, and take of a response, on average over the time that is
    /// waited for it beyond the body timeout; zero is no bound. Only gateways hold their callers to it.
    #[serde(skip_serializing_if = "is_minimum_rate")]
    pub minimum_rate: u32,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            header_bytes: 60 * 1024,
            headers: 100,
            header_timeout: Duration::from_secs(10),
            idle_timeout: Duration::from_secs(3600),
            connections: 16_384,
            concurrent_streams: 100,
            body_timeout: BODY_TIMEOUT,
            minimum_rate: MINIMUM_RATE,
        }
    }
}

/// The endpoints of a cluster.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct EndpointSet {
    /// The cluster's name.
    pub cluster: String,
    /// Groups of endpoints that are lost together.
    pub localities: Vec<Locality>,
}

/// Endpoints of one region (and zone) at one priority.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Locality {
    /// The failure domain.
    pub region: String,
    /// Inside the region; empty if there is only one.
    #[serde(default)]
    pub zone: String,
    /// 0 is used first. Priorities of a set are gapless. A priority is a tier.
    pub priority: u32,
    /// Share among the localities of one priority.
    pub weight: u32,
    /// One instance each.
    pub endpoints: Vec<Endpoint>,
}

/// One instance.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Endpoint {
    /// The workload's name, for people and for events.
    pub name: String,
    /// Where it listens: its sidecar's inbound listener, or the workload itself outside the mesh.
    pub address: SocketAddr,
    /// As declared in the manifest; empty if none was.
    #[serde(default)]
    pub version: String,
    /// Share among the endpoints of its locality.
    pub weight: u32,
}

/// The principal that stands for everyone.
pub const ANYONE: &str = "*";

/// Whose certificates are believed: either `roots` vouch for every SPIFFE id, or those of each of the `domains` for its own.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct TrustBundle {
    /// Referred to by listeners and clusters.
    pub name: String,
    /// PEM, one or more certificates; empty beside `domains`.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub roots: String,
    /// Trust domains that are told apart: our own and those that it is federated with.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub domains: Vec<TrustDomain>,
}

/// A SPIFFE trust domain.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct TrustDomain {
    /// As in its ids: `bank.example`.
    pub name: String,
    /// PEM, one or more certificates.
    pub roots: String,
}
