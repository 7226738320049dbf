//! Runtime changes laid over a snapshot under a lease. On the wire: RTDS resources with a TTL.

use std::time::Duration;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::human;

/// One change. Its proxy drops it when the lease is not renewed within the TTL.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Overlay {
    /// Unique among all overlays; also the name of the RTDS resource.
    pub id: String,
    /// Why it is there, for logs and events: a drill's attempt (`lose-east-1`) or an operator's reason.
    pub reason: String,
    /// What it does.
    pub effect: Effect,
}

/// What an overlay does at the proxy that receives it. The control plane sends a proxy only what concerns it.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub enum Effect {
    /// Hurt matching requests.
    Fault(Fault),
    /// Drop what goes to endpoints of these regions, as a network that lost them would: connects and established
    /// connections hang, nothing is refused. Active health checks are dropped too.
    CutOff {
        /// Region names.
        regions: Vec<String>,
        /// Which way bytes are lost.
        #[serde(default)]
        way: Way,
    },
    /// Take no configuration and tell nothing to the control plane, as if it were out of reach; only the renewal of
    /// leases passes, so that this ends as every overlay does. What was published meanwhile is taken then.
    NoControl,
    /// A routing control: decides before health does.
    Switch(Switch),
    /// Nothing; a preflight lays it and lets it lapse to prove the undo path.
    Harmless,
}

/// Which way a network loses bytes. No connection can be made in either case.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub enum Way {
    /// Both ways.
    #[default]
    Both,
    /// What goes to the regions is lost; what comes from them arrives.
    To,
    /// What comes from the regions is lost; what goes to them arrives.
    From,
}

/// State of a service in a region, apart from health.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Switch {
    /// Service name.
    pub service: String,
    /// Region name.
    pub region: String,
    /// What it is switched to.
    pub state: SwitchState,
}

/// State of a routing control.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub enum SwitchState {
    /// Health decides.
    On,
    /// Gets this percent of what it would get, the rest goes to the next tier. For ramps.
    Share(u8),
    /// Gets nothing new; pooled connections are closed at once.
    Off,
}

/// A fault on requests (or connections) of one service.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Fault {
    /// Which requests.
    #[serde(rename = "match")]
    pub matches: FaultMatch,
    /// Share of the matching requests, 0–100.
    pub percent: f64,
    /// What happens to them.
    pub action: FaultAction,
}

/// Which requests a fault takes; absent conditions hold always.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields, default)]
pub struct FaultMatch {
    /// Requests *to* this service (at the caller's side: outbound and gateway listeners).
    pub service: Option<String>,
    /// Only tries that go to an endpoint of this region.
    pub region: Option<String>,
    /// Path prefix.
    pub path: Option<String>,
    /// HTTP method.
    pub method: Option<String>,
    /// Header that must be there with this value.
    pub header: Option<(String, String)>,
    /// SPIFFE id of the caller: of this proxy's workload, or of the client of a gateway with mutual TLS.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub caller: Option<String>,
}

/// What a fault does to a try.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", rename_all_fields = "camelCase", deny_unknown_fields)]
pub enum FaultAction {
    /// Wait before forwarding (flag `DI`).
    Delay(Delay),
    /// Answer with this status instead of forwarding (flag `FI`, as for everything below).
    Abort {
        /// HTTP status.
        status: u16,
    },
    /// Answer with this gRPC status instead of forwarding: HTTP status 200, and nothing but headers.
    AbortGrpc {
        /// gRPC status, 1–16.
        status: u8,
    },
    /// As if the endpoint refused the connection.
    Refuse,
    /// As if the endpoint reset the connection after the request was sent.
    Reset,
    /// Forward it, and break off the response's body, as a reset connection does.
    ResetAfter {
        /// Bytes of the body that still pass.
        bytes: u64,
    },
    /// As if the endpoint never answered.
    Blackhole,
    /// As if packets to the endpoint were dropped: no connection is made until the connect timeout.
    DropConnect,
    /// Forward it, and let the bodies of request and response pass no faster than this.
    Bandwidth {
        /// Bytes in a second, each way.
        bytes_per_second: u64,
    },
    /// Forward it, and end the response's body early, as if it were whole.
    Truncate {
        /// Bytes of the body that pass.
        bytes: u64,
    },
    /// As if the endpoint's name could not be resolved.
    Dns,
    /// As if the TLS handshake with the endpoint failed.
    Tls(TlsFault),
}

/// How long a fault waits.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub enum Delay {
    /// Always as long.
    Fixed(
        #[serde(with = "human")]
        #[schemars(with = "human::Text")]
        Duration,
    ),
    /// Normally distributed; never below zero, nor above the mean and four deviations.
    Normal {
        /// Its middle.
        #[serde(with = "human")]
        #[schemars(with = "human::Text")]
        mean: Duration,
        /// Its standard deviation.
        #[serde(with = "human")]
        #[schemars(with = "human::Text")]
        deviation: Duration,
    },
    /// Mostly one, now and then the other, as a service with pauses.
    Spike {
        /// Mostly.
        #[serde(with = "human")]
        #[schemars(with = "human::Text")]
        base: Duration,
        /// Now and then.
        #[serde(with = "human")]
        #[schemars(with = "human::Text")]
        spike: Duration,
        /// How often, in percent.
        percent: f64,
    },
}

/// Why a TLS handshake fails.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub enum TlsFault {
    /// The endpoint's certificate is no longer valid.
    Expired,
    /// It is signed by nobody who is trusted.
    Untrusted,
    /// It names another service.
    WrongIdentity,
}
