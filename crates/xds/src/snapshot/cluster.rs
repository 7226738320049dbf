//! Clusters: how an upstream service is balanced, checked and protected.

use std::time::Duration;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::route::RoutingPriority;
use crate::{hex, human};

/// An upstream service as one proxy sees it.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Cluster {
    /// Unique in the snapshot: `ledger` (all regions) or `ledger.east` (one region).
    pub name: String,
    /// The service it stands for; overlays address services.
    pub service: String,
    /// What is spoken to its endpoints.
    pub protocol: UpstreamProtocol,
    /// Bound on making a connection, TLS handshake included.
    #[serde(with = "human")]
    #[schemars(with = "human::Text")]
    pub connect_timeout: Duration,
    /// Which endpoint of the chosen tier.
    pub balancer: Balancer,
    /// How the balancer is tuned.
    #[serde(default, skip_serializing_if = "is_default")]
    pub balancing: Balancing,
    /// Mutual TLS; `None` sends plaintext (the workload beside the proxy, endpoints outside the mesh).
    pub tls: Option<ClusterTls>,
    /// Active health check.
    pub health_check: Option<HealthCheck>,
    /// Passive detection on live traffic.
    pub outlier: Option<OutlierDetection>,
    /// Bounds on concurrent use by all that is not of high priority.
    #[serde(default)]
    pub breakers: CircuitBreakers,
    /// Bounds on concurrent use by requests of high priority, which are counted apart. `None`: the default ones.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub high_breakers: Option<CircuitBreakers>,
    /// Percent of available hosts in a tier below which it is in panic; 0: never.
    pub panic_threshold: u8,
    /// What a tier in panic does.
    #[serde(default, skip_serializing_if = "is_default")]
    pub panic_policy: PanicPolicy,
    /// How a tier's share grows when it comes back; `None` is at once.
    pub ramp: Option<Ramp>,
    /// Connections that each worker keeps open to each endpoint of the tier that takes over next, once the cluster is used;
    /// 16 at most, none over TCP.
    #[serde(default, skip_serializing_if = "is_default")]
    pub standby_connections: u8,
}

impl Cluster {
    /// A plaintext cluster that stands for the service of its name, with everything off that can be off.
    pub fn new(name: impl Into<String>, protocol: UpstreamProtocol) -> Self {
        let name = name.into();
        Self {
            service: name.clone(),
            name,
            protocol,
            connect_timeout: Duration::from_secs(1),
            balancer: Balancer::LeastRequest,
            balancing: Balancing::default(),
            tls: None,
            health_check: None,
            outlier: None,
            breakers: CircuitBreakers::default(),
            high_breakers: None,
            panic_threshold: 0,
            panic_policy: PanicPolicy::default(),
            ramp: None,
            standby_connections: 0,
        }
    }

    /// Bounds on concurrent use by requests of this priority.
    pub fn breakers_of(&self, priority: RoutingPriority) -> &CircuitBreakers {
        match priority {
            RoutingPriority::Default => &self.breakers,
            RoutingPriority::High => self.high_breakers.as_ref().unwrap_or(&CircuitBreakers::USUAL),
        }
    }
}

/// What is spoken upstream.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub enum UpstreamProtocol {
    /// HTTP/1.1 with keep-alive.
    Http1,
    /// HTTP/2 (ALPN on TLS, prior knowledge on plaintext).
    Http2,
    /// Bytes.
    Tcp,
}

/// Choice among a tier's hosts.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub enum Balancer {
    /// Weighted, smooth.
    RoundRobin,
    /// Power of two choices on active requests; among unequal weights, in turn by `weight / (active + 1)^bias`.
    LeastRequest,
    /// Power of two choices on `latency × (active + 1)`, where the latency is a moving average that follows peaks at once.
    PeakEwma,
    /// A point of a hash ring for each request (ketama).
    RingHash,
    /// An entry of a Maglev table for each request.
    Maglev,
}

impl Balancer {
    /// Whether the same key leads to the same endpoint.
    pub fn is_hashing(self) -> bool {
        matches!(self, Self::RingHash | Self::Maglev)
    }
}

/// Tuning of the balancer. What does not concern the chosen balancer is left at its default.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields, default)]
pub struct Balancing {
    /// Least request: endpoints drawn for each request, of which the least busy is taken.
    pub choices: u32,
    /// Least request among unequal weights: how much active requests count; 0 is not at all.
    pub bias: f64,
    /// Ring hash: points on the ring at least; more where a light endpoint would get none.
    pub ring_at_least: u32,
    /// Ring hash: points on the ring at most.
    pub ring_at_most: u32,
    /// Maglev: entries of the table; a prime.
    pub table: u32,
    /// Ring hash and Maglev: what of a request is hashed, all of it together. Without any of it, a request goes anywhere.
    pub hash: Vec<HashKey>,
    /// Round robin and least request: an endpoint that is new or healthy again gets its share gradually.
    pub slow_start: Option<SlowStart>,
}

impl Default for Balancing {
    fn default() -> Self {
        Self {
            choices: 2,
            bias: 1.0,
            ring_at_least: 1024,
            ring_at_most: 8 * 1024 * 1024,
            table: 65_537,
            hash: Vec::new(),
            slow_start: None,
        }
    }
}

/// A part of a request by which its endpoint is chosen.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub enum HashKey {
    /// The value of this header (lower case).
    Header(String),
    /// The value of this cookie.
    Cookie(String),
    /// The caller's IP address.
    SourceAddress,
}

/// How an endpoint's share grows: `weight × max(least, (time / window)^(1 / aggression))`, as Envoy's slow start.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct SlowStart {
    /// Time until the whole share.
    #[serde(with = "human")]
    #[schemars(with = "human::Text")]
    pub window: Duration,
    /// Above 1 grows fast at first; 1 is linear.
    pub aggression: f64,
    /// Percent of the share from the start.
    pub at_least: u8,
}

/// What a tier in panic does.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub enum PanicPolicy {
    /// Ignores health and sends to every endpoint: better slow for all than nothing for most.
    #[default]
    Spray,
    /// Gets nothing: its requests go to another tier, or are refused with 503 `UH`.
    FailFast,
}

/// Mutual TLS towards a cluster. The server must present one of the SPIFFE ids.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct ClusterTls {
    /// Name of the [`TrustBundle`].
    pub trust: String,
    /// SPIFFE ids, whole; one must match.
    pub server_ids: Vec<String>,
}

/// Active health check of every endpoint.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct HealthCheck {
    /// GET this path and expect 200; `None` only connects (with TLS where the cluster has it).
    pub http_path: Option<String>,
    /// Instead, ask `grpc.health.v1` for this service and expect `SERVING`; empty asks for the whole server.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub grpc_service: Option<String>,
    /// Instead of only connecting, say and hear something.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub exchange: Option<Exchange>,
    /// Time between checks of one endpoint.
    #[serde(with = "human")]
    #[schemars(with = "human::Text")]
    pub every: Duration,
    /// The same while no request was ever sent to the cluster; `None` is no difference.
    #[serde(with = "human::option", default, skip_serializing_if = "Option::is_none")]
    #[schemars(with = "Option<human::Text>")]
    pub every_without_traffic: Option<Duration>,
    /// Bound on one check.
    #[serde(with = "human")]
    #[schemars(with = "human::Text")]
    pub timeout: Duration,
    /// Failures in a row that make an endpoint unhealthy. An unexpected status does so at once.
    pub unhealthy_after: u32,
    /// Successes in a row that make it healthy again; at start one suffices.
    pub healthy_after: u32,
}

/// What a check says over a new connection, and what it is to hear. Bytes, written in hexadecimal.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Exchange {
    /// At most [`Exchange::LONGEST`]; may be empty, where the server speaks first.
    #[serde(with = "hex", default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(with = "String")]
    pub send: Vec<u8>,
    /// What the answer must contain within the check's timeout, in one piece and wherever it is: 1 to [`Exchange::LONGEST`].
    #[serde(with = "hex")]
    #[schemars(with = "String")]
    pub receive: Vec<u8>,
}

impl Exchange {
    /// Bytes of each.
    pub const LONGEST: usize = 1024;
}

impl HealthCheck {
    /// An endpoint that is out is looked at more often than one that serves: its return is waited for.
    pub const LONGEST_WHEN_OUT: Duration = Duration::from_millis(250);

    /// Time between checks of an endpoint that is out.
    pub fn every_when_out(&self) -> Duration {
        self.every.min(Self::LONGEST_WHEN_OUT)
    }
}

/// Ejection of endpoints that fail live requests. Caps count per tier.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct OutlierDetection {
    /// Failures in a row that eject: 502, 503, 504, and (unless `consecutive_local` counts them apart) connect failures,
    /// resets and timeouts; 0 is off.
    pub consecutive_errors: u32,
    /// Failures in a row that eject, every 5xx among them; `None` is off.
    #[serde(rename = "consecutive5xx", default, skip_serializing_if = "Option::is_none")]
    pub consecutive_5xx: Option<u32>,
    /// Connect failures, resets and timeouts in a row that eject, counted apart from what endpoints answer; `None` counts
    /// them as 503.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub consecutive_local: Option<u32>,
    /// Ejection of endpoints that succeed much more rarely than the others.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub success_rate: Option<SuccessRate>,
    /// Ejection of endpoints that fail more often than a fixed percentage.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub failure_percentage: Option<FailurePercentage>,
    /// Length of the interval over which rates are taken.
    #[serde(with = "human", default = "default_interval", skip_serializing_if = "is_default_interval")]
    #[schemars(with = "human::Text")]
    pub interval: Duration,
    /// First ejection's length; the n-th is n times as long. Where there is an active check, it ends only with proof.
    #[serde(with = "human")]
    #[schemars(with = "human::Text")]
    pub base_ejection: Duration,
    /// Longest ejection.
    #[serde(with = "human")]
    #[schemars(with = "human::Text")]
    pub max_ejection: Duration,
    /// Percent of a tier that may be ejected at once while no later tier has endpoints; with one, all may.
    pub max_percent: u8,
}

/// A stock Envoy ends ejections at this interval, too, and should do so soon.
fn default_interval() -> Duration {
    Duration::from_secs(1)
}

fn is_default_interval(interval: &Duration) -> bool {
    *interval == default_interval()
}

impl Default for OutlierDetection {
    fn default() -> Self {
        Self {
            consecutive_errors: 5,
            consecutive_5xx: None,
            consecutive_local: None,
            success_rate: None,
            failure_percentage: None,
            interval: default_interval(),
            base_ejection: Duration::from_secs(30),
            max_ejection: Duration::from_secs(300),
            max_percent: 10,
        }
    }
}

/// Ejects what succeeds more rarely than `mean − factor × standard deviation` of all endpoints.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields, default)]
pub struct SuccessRate {
    /// Endpoints with enough requests that are needed for a comparison.
    pub hosts: u32,
    /// Requests of an endpoint in an interval that are enough.
    pub requests: u32,
    /// The factor, in thousandths.
    pub factor: u32,
}

impl Default for SuccessRate {
    fn default() -> Self {
        Self { hosts: 5, requests: 100, factor: 1900 }
    }
}

/// Ejects what fails at least this often.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields, default)]
pub struct FailurePercentage {
    /// Percent of an endpoint's requests.
    pub threshold: u8,
    /// Endpoints with enough requests that are needed.
    pub hosts: u32,
    /// Requests of an endpoint in an interval that are enough.
    pub requests: u32,
}

impl Default for FailurePercentage {
    fn default() -> Self {
        Self { threshold: 85, hosts: 5, requests: 50 }
    }
}

/// Bounds on concurrent use of a cluster. A request that finds every connection taken waits, as one of `pending`; above the
/// other bounds it is 503 `UO`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields, default)]
pub struct CircuitBreakers {
    /// Connections.
    pub connections: u32,
    /// Requests waiting for a connection.
    pub pending: u32,
    /// Requests in flight.
    pub requests: u32,
    /// Retries and hedges as percent of first tries (token bucket).
    pub retry_percent: u8,
    /// Retries and hedges a second that are always allowed.
    pub retries_per_second: u32,
}

impl CircuitBreakers {
    /// Where nothing else is said: connections and requests as in Envoy.
    pub const USUAL: Self =
        Self { connections: 1024, pending: 1024, requests: 1024, retry_percent: 20, retries_per_second: 10 };
}

impl Default for CircuitBreakers {
    fn default() -> Self {
        Self::USUAL
    }
}

/// What a circuit breaker bounds.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub enum Bound {
    /// Connections.
    Connections,
    /// Requests waiting for a connection.
    Pending,
    /// Requests in flight.
    Requests,
    /// Retries and hedges.
    Retries,
}

impl Bound {
    /// All, in order.
    pub const ALL: [Self; 4] = [Self::Connections, Self::Pending, Self::Requests, Self::Retries];

    /// For people and metrics.
    pub fn name(self) -> &'static str {
        match self {
            Self::Connections => "connections",
            Self::Pending => "pending",
            Self::Requests => "requests",
            Self::Retries => "retries",
        }
    }
}

/// Failback of a tier: its share grows through the steps, each held for the dwell.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Ramp {
    /// Percent of what the tier would get, rising, ending in 100.
    pub steps: Vec<u8>,
    /// Time on each step.
    #[serde(with = "human")]
    #[schemars(with = "human::Text")]
    pub dwell: Duration,
}

fn is_default<T: Default + PartialEq>(value: &T) -> bool {
    *value == T::default()
}
