//! A service, and the order of regions in which it is used.

use std::time::Duration;

use super::{Authorization, Balancing, Endpoint, Limits, Priority, RequestAction, RequestRoute, TrafficPolicy};
use crate::{
    name::{RegionName, ServiceName},
    spiffe::SpiffeId,
};

/// Kind `Service`.
#[derive(Clone, Debug, PartialEq)]
pub struct Service {
    /// From `metadata.name`.
    pub name: ServiceName,
    /// What it speaks.
    pub protocol: Protocol,
    /// How callers of a service that speaks bytes reach it; `None` elsewhere, and where they do not.
    pub connect: Option<Connect>,
    /// Instances, expanded: `count: 2` gives two.
    pub endpoints: Vec<Endpoint>,
    /// The id that instances outside prove over mutual TLS; `None`: they are reached in plaintext.
    pub identity: Option<SpiffeId>,
    /// Services that its workloads may call.
    pub calls: Vec<ServiceName>,
    /// Effective policy: the mesh's defaults with the service's own fields over them.
    pub policy: TrafficPolicy,
    /// Which endpoint of a tier gets a request.
    pub balancing: Balancing,
    /// Bounds on concurrent use.
    pub limits: Limits,
    /// Order of regions by caller; the first rule whose caller matches, else the caller's own region first.
    pub routes: Vec<RegionPreference>,
    /// What is done with some requests; the first that matches counts, else they go to all endpoints.
    pub requests: Vec<RequestRoute>,
    /// Who may call.
    pub authorization: Authorization,
}

impl Service {
    /// Whether some of its requests are of high priority.
    pub fn has_high_priority(&self) -> bool {
        self.requests.iter().any(|route| match &route.action {
            RequestAction::Forward(forward) => forward.priority == Priority::High,
            RequestAction::Redirect(_) => false,
        })
    }
}

/// Callers say CONNECT with the service's name, and speak in bytes from there on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Connect {
    /// Silence after which a connection is closed; zero is never. Default 1 h.
    pub idle_timeout: Duration,
}

/// What a service speaks.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Protocol {
    /// HTTP/1.1.
    Http,
    /// HTTP/2.
    Http2,
    /// Bytes.
    Tcp,
}

/// Regions in the order in which callers use them.
#[derive(Clone, Debug, PartialEq)]
pub struct RegionPreference {
    /// Only for this caller; `None` is for all.
    pub caller: Option<ServiceName>,
    /// The order.
    pub prefer: Prefer,
}

/// An order of regions.
#[derive(Clone, Debug, PartialEq)]
pub enum Prefer {
    /// The caller's own, then the others in the mesh's order.
    SameRegion,
    /// This order; regions not named come after, in the mesh's order.
    Order(Vec<RegionName>),
}
