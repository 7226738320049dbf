//! What proxies break.

use std::time::Duration;

use super::Caller;
use crate::{
    name::{RegionName, ServiceName},
    unit::Percent,
};

/// What proxies break.
#[derive(Clone, Debug, PartialEq)]
pub enum Fault {
    /// Matching requests.
    Requests(FaultStep),
    /// The network between regions.
    Partition(PartitionStep),
    /// Their own hearing of the control plane.
    NoControl {
        /// Only proxies in this region.
        region: Option<RegionName>,
    },
}

/// A fault on requests.
#[derive(Clone, Debug, PartialEq)]
pub struct FaultStep {
    /// Requests to this service.
    pub service: ServiceName,
    /// Only requests of this caller.
    pub from: Option<Caller>,
    /// Only tries that go to this region.
    pub region: Option<RegionName>,
    /// Path prefix.
    pub path: Option<String>,
    /// Method.
    pub method: Option<String>,
    /// Header (name in lower case) and its value.
    pub header: Option<(String, String)>,
    /// Share of matching requests. Default 100 %.
    pub percent: Percent,
    /// What.
    pub action: FaultAction,
}

/// What a fault does.
#[derive(Clone, Debug, PartialEq)]
pub enum FaultAction {
    /// Wait first.
    Delay(Delay),
    /// Answer with a status.
    Abort(u16),
    /// Answer with a gRPC status.
    AbortGrpc(u8),
    /// Refuse the connection.
    Refuse,
    /// Reset it after the request.
    Reset,
    /// Reset it after this many bytes of the response's body.
    ResetAfter(u64),
    /// Never answer.
    Blackhole,
    /// Make no connection.
    DropConnect,
    /// Let this many bytes pass in a second, each way.
    Bandwidth(u64),
    /// End the response's body after this many bytes, as if it were whole.
    Truncate(u64),
    /// Do not resolve the name.
    Dns,
    /// Fail the TLS handshake.
    Tls(TlsFault),
}

/// How long a fault waits.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Delay {
    /// Always as long.
    Fixed(Duration),
    /// Normally distributed.
    Normal {
        /// Its middle.
        mean: Duration,
        /// Its standard deviation.
        deviation: Duration,
    },
    /// Mostly one, now and then the other.
    Spike {
        /// Mostly.
        base: Duration,
        /// Now and then.
        spike: Duration,
        /// How often.
        percent: Percent,
    },
}

/// Why a TLS handshake fails.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum TlsFault {
    /// The certificate is no longer valid.
    Expired,
    /// It is signed by nobody who is trusted.
    Untrusted,
    /// It names another service.
    WrongIdentity,
}

/// A network between two sets of regions that loses bytes.
#[derive(Clone, Debug, PartialEq)]
pub struct PartitionStep {
    /// One side; at least one.
    pub regions: Vec<RegionName>,
    /// The other side; empty is all other regions, and gateways.
    pub from: Vec<RegionName>,
    /// Which way.
    pub way: Way,
}

/// Which way bytes are lost.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Way {
    /// Both ways.
    Both,
    /// On the way to the regions.
    To,
    /// On the way from them.
    From,
}
