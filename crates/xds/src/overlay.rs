//! Runtime changes laid over a snapshot under a lease. On the wire: RTDS resources with a TTL.

use std::time::Duration;

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
    },
    /// A routing control: decides before health does.
    Switch(Switch),
    /// Nothing; a preflight lays it and lets it lapse to prove the undo path.
    Harmless,
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
}

/// What a fault does to a try.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub enum FaultAction {
    /// Wait before forwarding (flag `DI`).
    Delay {
        /// How long.
        #[serde(with = "human")]
        fixed: Duration,
    },
    /// Answer with this status instead of forwarding (flag `FI`).
    Abort {
        /// HTTP status.
        status: u16,
    },
    /// As if the endpoint refused the connection.
    Refuse,
    /// As if the endpoint reset the connection after the request was sent.
    Reset,
    /// As if the endpoint never answered.
    Blackhole,
}
