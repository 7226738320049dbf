//! How requests to a service are treated: time, repeats, hedges, and what takes an endpoint out.

use std::time::Duration;

use super::{FailurePercentage, SuccessRate};

/// How requests to a service are treated.
#[derive(Clone, Debug, PartialEq)]
pub struct TrafficPolicy {
    /// From the request's end to the response's head, all tries; zero is none. Default 15 s.
    pub timeout: Duration,
    /// Time without a byte in either direction; zero is never. Default 5 min.
    pub idle_timeout: Duration,
    /// Repeats.
    pub retries: Retries,
    /// A second try beside a slow first one (idempotent requests). Default: between 20 ms and half of `perTry`; `None` is `hedge: off`.
    pub hedge: Option<Hedge>,
    /// What takes an endpoint out.
    pub detection: Detection,
}

/// When a failed try is repeated.
#[derive(Clone, Debug, PartialEq)]
pub struct Retries {
    /// Repeats after the first try; 0 is off. Default 2.
    pub attempts: u32,
    /// Bound on one try; zero is none. Default: a third of the timeout.
    pub per_try: Duration,
    /// Default all three.
    pub on: Vec<RetryOn>,
}

/// A class of failures.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum RetryOn {
    /// No connection could be made.
    ConnectFailure,
    /// The connection ended before an answer.
    Reset,
    /// 502, 503 or 504.
    GatewayError,
}

/// Bounds on when a hedge starts; between them it is the observed p99.
#[derive(Clone, Debug, PartialEq)]
pub struct Hedge {
    /// Never earlier.
    pub at_least: Duration,
    /// Never later.
    pub at_most: Duration,
}

/// What takes an endpoint out.
#[derive(Clone, Debug, PartialEq)]
pub struct Detection {
    /// Failed requests in a row. Default 5; `None` is `consecutiveErrors: off`.
    pub consecutive_errors: Option<u32>,
    /// Answers 5xx in a row, every one of them. Default: `None`, off.
    pub consecutive_5xx: Option<u32>,
    /// Failures to connect, resets and timeouts in a row, counted apart. Default: `None`, counted as 503.
    pub consecutive_local: Option<u32>,
    /// Against the other endpoints. Default: `None`, off.
    pub success_rate: Option<SuccessRate>,
    /// Against a fixed percentage. Default: `None`, off.
    pub failure_percentage: Option<FailurePercentage>,
    /// Over which rates are taken. Default 1 s.
    pub interval: Duration,
    /// First ejection. Default 30 s.
    pub ejection: Duration,
    /// Longest ejection. Default 5 min, and not below the first.
    pub longest_ejection: Duration,
    /// Percent of a tier that may be ejected at once while no later tier has endpoints. Default 50.
    pub ejected_at_most: u8,
    /// Probing by the proxies. Default: connect each 1 s.
    pub active_check: Option<ActiveCheck>,
}

/// What is said over a connection, and what the answer must contain.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Exchange {
    /// At most 1024 bytes, or none.
    pub send: Vec<u8>,
    /// 1 to 1024 bytes.
    pub receive: Vec<u8>,
}

/// Probing of every endpoint by every proxy that uses it.
#[derive(Clone, Debug, PartialEq)]
pub struct ActiveCheck {
    /// GET this path and expect 200; without it, `grpc` and `exchange` (`tcp: true`) only connect.
    pub http: Option<String>,
    /// Ask `grpc.health.v1` for this service and expect `SERVING`; empty asks for the whole server.
    pub grpc: Option<String>,
    /// Say and hear this over a new connection.
    pub exchange: Option<Exchange>,
    /// Default 1 s.
    pub every: Duration,
    /// The same while no request was ever sent. Default: `None`, no difference.
    pub every_without_traffic: Option<Duration>,
    /// Default: `every`, at most 1 s.
    pub timeout: Duration,
    /// Failures in a row. Default 2.
    pub unhealthy_after: u32,
    /// Successes in a row. Default 2.
    pub healthy_after: u32,
}
