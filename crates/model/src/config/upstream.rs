//! How a service's endpoints are shared and protected.

use std::time::Duration;

use crate::unit::Percent;

/// Which endpoint of a tier gets a request.
#[derive(Clone, Debug, PartialEq)]
pub struct Balancing {
    /// Default: least request.
    pub balancer: Balancer,
    /// Least request: endpoints drawn, of which the least busy is taken. Default 2.
    pub choices: u32,
    /// Ring hash and Maglev: what of a request is hashed; at least one there, none elsewhere.
    pub hash: Vec<HashKey>,
    /// Round robin and least request: `None` is the whole share at once.
    pub slow_start: Option<SlowStart>,
    /// `None` never ignores health.
    pub panic: Option<Panic>,
    /// How a tier's share grows that was lost and is back, where no plan says it; `None` is at once. Default 10, 25, 50 and
    /// 100 %, each for 2 s.
    pub ramp: Option<Ramp>,
}

impl Default for Balancing {
    fn default() -> Self {
        Self {
            balancer: Balancer::LeastRequest,
            choices: 2,
            hash: Vec::new(),
            slow_start: None,
            panic: None,
            ramp: Some(Ramp::default()),
        }
    }
}

/// How the share of a tier grows that is back.
#[derive(Clone, Debug, PartialEq)]
pub struct Ramp {
    /// Parts of its share, rising, ending in 100.
    pub steps: Vec<Percent>,
    /// Time on each, and before the first.
    pub dwell: Duration,
}

impl Default for Ramp {
    /// Little in the first seconds, when caches are cold and what was waiting comes at once; all of it soon after.
    fn default() -> Self {
        Self { steps: [10.0, 25.0, 50.0, 100.0].map(Percent).into(), dwell: Duration::from_secs(2) }
    }
}

/// How an endpoint is chosen.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Balancer {
    /// In turn.
    RoundRobin,
    /// The least busy of a few that are drawn.
    LeastRequest,
    /// The faster and less busy of two that are drawn.
    PeakEwma,
    /// By hash, on a ring.
    RingHash,
    /// By hash, in a Maglev table.
    Maglev,
}

/// A part of a request by which its endpoint is chosen.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum HashKey {
    /// A header's value; its name in lower case.
    Header(String),
    /// A cookie's value.
    Cookie(String),
    /// The caller's IP address.
    SourceAddress,
}

/// How the share of an endpoint grows that is new or healthy again.
#[derive(Clone, Debug, PartialEq)]
pub struct SlowStart {
    /// Time until the whole share.
    pub window: Duration,
    /// Percent of the share from the start. Default 10.
    pub at_least: u8,
}

/// When health is no longer believed.
#[derive(Clone, Debug, PartialEq)]
pub struct Panic {
    /// Percent of a tier's endpoints that are available.
    pub below: u8,
    /// Default: spray.
    pub policy: PanicPolicy,
}

/// What a tier in panic does.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum PanicPolicy {
    /// Sends to every endpoint.
    Spray,
    /// Gets nothing.
    FailFast,
}

/// Bounds on concurrent use of a service by one proxy.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Limits {
    /// For requests of default priority.
    pub default: Thresholds,
    /// For requests of high priority, which are counted apart.
    pub high: Thresholds,
    /// Connections that each worker keeps open to each endpoint that takes over next, at most 16. Default 1.
    pub standby_connections: u8,
}

impl Default for Limits {
    fn default() -> Self {
        Self { default: Thresholds::default(), high: Thresholds::default(), standby_connections: 1 }
    }
}

/// Bounds on concurrent use by requests of one priority.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Thresholds {
    /// Connections. Default 1024.
    pub connections: u32,
    /// Requests that wait for one. Default 1024.
    pub pending: u32,
    /// Requests in flight. Default 1024.
    pub requests: u32,
    /// Retries and hedges as percent of first tries. Default 20.
    pub retry_percent: u8,
    /// Retries and hedges a second that are always allowed. Default 10.
    pub retries_per_second: u32,
}

impl Default for Thresholds {
    fn default() -> Self {
        Self { connections: 1024, pending: 1024, requests: 1024, retry_percent: 20, retries_per_second: 10 }
    }
}

/// Bounds on what callers may send to any proxy.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ListenerLimits {
    /// Size of all request headers together. Default 60 KiB.
    pub header_bytes: u32,
    /// Number of request headers. Default 100.
    pub headers: u32,
    /// Time to send them. Default 10 s.
    pub header_timeout: Duration,
    /// Time without a request. Default 1 h.
    pub idle_timeout: Duration,
    /// Connections at once. Default 16384.
    pub connections: u32,
    /// HTTP/2 streams at once on a connection. Default 100.
    pub concurrent_streams: u32,
    /// Time for which a caller may move no byte of a body; zero is for ever. Default 1 min.
    pub body_timeout: Duration,
    /// Bytes a second that a gateway's caller must move of a body; 0 is no bound. Default 1024.
    pub minimum_rate: u32,
}

impl Default for ListenerLimits {
    fn default() -> Self {
        Self {
            header_bytes: 60 * 1024,
            headers: 100,
            header_timeout: Duration::from_secs(10),
            idle_timeout: Duration::from_secs(3600),
            connections: 16_384,
            concurrent_streams: 100,
            body_timeout: Duration::from_secs(60),
            minimum_rate: 1024,
        }
    }
}

/// Ejects what succeeds more rarely than `mean − factor × standard deviation` of all endpoints.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SuccessRate {
    /// The factor, in thousandths. Default 1900.
    pub factor: u32,
    /// Endpoints with enough requests that are needed. Default 5.
    pub hosts: u32,
    /// Requests of an endpoint in an interval that are enough. Default 100.
    pub requests: u32,
}

/// Ejects what fails at least this often.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct FailurePercentage {
    /// Percent of an endpoint's requests. Default 85.
    pub threshold: u8,
    /// Endpoints with enough requests that are needed. Default 5.
    pub hosts: u32,
    /// Requests of an endpoint in an interval that are enough. Default 50.
    pub requests: u32,
}
