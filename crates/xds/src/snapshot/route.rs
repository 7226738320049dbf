//! Route tables: which requests, and what is done with them.

use std::{collections::BTreeSet, time::Duration};

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::{human, overlay::FaultAction};

/// Virtual hosts under one name.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct RouteTable {
    /// Unique in the snapshot.
    pub name: String,
    /// Searched by the request's authority: exact domain first, then `*`.
    pub hosts: Vec<VirtualHost>,
}

/// Routes for some authorities.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct VirtualHost {
    /// Unique in the table.
    pub name: String,
    /// Authorities without port, lower case; `*` takes what no other host takes. A port in the request is ignored.
    pub domains: Vec<String>,
    /// First match wins; no match is 404.
    pub routes: Vec<Route>,
}

/// A match and what follows from it.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Route {
    /// Which requests.
    #[serde(rename = "match")]
    pub matches: RouteMatch,
    /// What is done with them.
    pub action: RouteAction,
}

/// Conditions that must all hold.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct RouteMatch {
    /// On the path without query.
    pub path: PathMatch,
    /// One of these methods; empty matches all.
    #[serde(default)]
    pub methods: Vec<String>,
    /// All of these headers. Of a header that comes several times, one value suffices.
    #[serde(default)]
    pub headers: Vec<Named>,
    /// All of these parameters of the query, undecoded; the first of a name counts. [`Is::Absent`] is not supported.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub query: Vec<Named>,
    /// All of these cookies; the first of a name counts.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub cookies: Vec<Named>,
    /// One of these callers by SPIFFE id, proven by its certificate; empty matches all, also those without one.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub callers: Vec<String>,
}

/// A condition on the path.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub enum PathMatch {
    /// The whole path.
    Exact(String),
    /// Its beginning, byte by byte.
    Prefix(String),
    /// Its beginning, segment by segment: `/foo` takes `/foo` and `/foo/bar`, not `/foobar`. Without a slash at its end, so
    /// that `/` is a [`PathMatch::Prefix`].
    Segments(String),
    /// A regular expression that takes the whole path; see [`crate::pattern`].
    Regex(String),
    /// None: the request is CONNECT, which names an authority only. No other condition takes it, and with it goes a
    /// [`Tunnel`].
    Connect,
}

impl Default for PathMatch {
    /// Every path.
    fn default() -> Self {
        Self::Prefix("/".to_owned())
    }
}

/// A condition on one header, parameter or cookie.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Named {
    /// Its name; of a header in lower case.
    pub name: String,
    /// What holds of it.
    pub is: Is,
}

/// A condition on a value.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub enum Is {
    /// It is there, whatever it is.
    Present,
    /// It is not there.
    Absent,
    /// It is this.
    Exact(String),
    /// It begins with this.
    Prefix(String),
    /// A regular expression takes all of it; see [`crate::pattern`].
    Regex(String),
}

/// What is done with a matched request.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
#[allow(clippy::large_enum_variant, reason = "most routes forward")]
pub enum RouteAction {
    /// Forward it.
    Forward(Forward),
    /// Send the caller elsewhere.
    Redirect(Redirect),
    /// Take up CONNECT: the caller speaks with an endpoint in bytes from here on.
    Tunnel(Tunnel),
    /// Answer it here.
    Answer {
        /// HTTP status.
        status: u16,
        /// Plain text.
        body: String,
    },
}

/// How a request is forwarded.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Forward {
    /// Clusters with their shares; at least one, weights sum above 0.
    pub clusters: Vec<WeightedCluster>,
    /// What keeps a caller with one of the clusters; `None` draws anew for each request.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub sticky: Option<Sticky>,
    /// Bound on the time from the end of the request to the head of the response, all tries included; zero is none. After it:
    /// 504. A stock Envoy bounds the whole response by it.
    #[serde(with = "human")]
    #[schemars(with = "human::Text")]
    pub timeout: Duration,
    /// Time without a byte in either direction after which a request is ended; zero is never. `None` is Envoy's default, 5 min.
    #[serde(default, with = "human::option", skip_serializing_if = "Option::is_none")]
    #[schemars(with = "Option<human::Text>")]
    pub idle_timeout: Option<Duration>,
    /// Repeats of a failed try.
    pub retry: Option<RetryPolicy>,
    /// A second try beside a slow first one; only for idempotent requests.
    pub hedge: Option<HedgePolicy>,
    /// Another path for the endpoint.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub path: Option<PathChange>,
    /// Another authority for the endpoint.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub host: Option<String>,
    /// Changes to the request's headers, before it is sent.
    #[serde(default, skip_serializing_if = "HeaderEdits::is_empty")]
    pub request_headers: HeaderEdits,
    /// Changes to the response's headers, before the caller sees them.
    #[serde(default, skip_serializing_if = "HeaderEdits::is_empty")]
    pub response_headers: HeaderEdits,
    /// Who gets a copy; what it answers is thrown away.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub mirrors: Vec<Mirror>,
    /// Which of the clusters' circuit breakers its requests count at; copies count at the default ones.
    #[serde(default, skip_serializing_if = "RoutingPriority::is_default")]
    pub priority: RoutingPriority,
    /// Protocols that callers may change to with `Upgrade`, in lower case, such as `websocket`; others get 403.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub upgrades: Vec<String>,
    /// Faults that are part of the configuration. A drill lays overlays instead, which are leased.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub faults: Vec<RouteFault>,
}

/// Which of a cluster's circuit breakers a request counts at: each priority has its own counters and thresholds, and
/// nothing else comes of it. It is not the priority of an endpoint, which is its tier.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub enum RoutingPriority {
    /// Those of everything that is not said to be high.
    #[default]
    Default,
    /// Those of what is.
    High,
}

impl RoutingPriority {
    /// All, in order.
    pub const ALL: [Self; 2] = [Self::Default, Self::High];

    /// For people and metrics.
    pub fn name(self) -> &'static str {
        match self {
            Self::Default => "default",
            Self::High => "high",
        }
    }

    fn is_default(&self) -> bool {
        *self == Self::Default
    }
}

/// Where the bytes behind CONNECT go.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Tunnel {
    /// The cluster that receives them: what the caller named is a name, never an address.
    pub cluster: String,
    /// Time without a byte either way after which a tunnel is closed; zero is never.
    #[serde(with = "human", default = "hour")]
    #[schemars(with = "human::Text")]
    pub idle_timeout: Duration,
}

fn hour() -> Duration {
    super::HOUR
}

/// A cluster and its share of a route.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct WeightedCluster {
    /// Cluster name.
    pub cluster: String,
    /// Relative to the sum over the route.
    pub weight: u32,
}

/// What decides, by its hash, which of a route's clusters a request goes to. A request without it is drawn.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", rename_all_fields = "camelCase", deny_unknown_fields)]
pub enum Sticky {
    /// A header's value.
    Header(String),
    /// A cookie's value.
    Cookie {
        /// Its name.
        name: String,
        /// Where it is missing it is set, for this long; zero is until the browser ends. `None` never sets it.
        #[serde(with = "human::option", default)]
        #[schemars(with = "Option<human::Text>")]
        ttl: Option<Duration>,
    },
}

/// A copy of some requests. The host is that of the request with `-shadow` behind it.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Mirror {
    /// Cluster that gets it.
    pub cluster: String,
    /// Share of the requests, 0–100, to a ten-thousandth.
    pub percent: f64,
}

/// A fault that stands in the configuration.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct RouteFault {
    /// Share of the requests, 0–100, to a ten-thousandth.
    pub percent: f64,
    /// What happens to them.
    pub action: FaultAction,
}

/// How a path becomes another; the query stays.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub enum PathChange {
    /// In place of what the route's prefix matched; of the whole path where the route matches otherwise.
    Prefix(String),
    /// Every match of a regular expression (see [`crate::pattern`]) is replaced.
    Regex {
        /// What is replaced.
        pattern: String,
        /// With what; `\1` is the first group, `\0` the whole match, `\\` a backslash.
        with: String,
    },
}

/// Where a caller is sent. What is `None` stays as it was asked.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields, default)]
pub struct Redirect {
    /// 301, 302, 303, 307 or 308.
    pub status: u16,
    /// `http` or `https`. With another scheme its default port goes too, unless `port` says otherwise.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub scheme: Option<String>,
    /// Host without port.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub host: Option<String>,
    /// Port.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub port: Option<u16>,
    /// Path.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub path: Option<PathChange>,
    /// Whether the query is left out.
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    pub strip_query: bool,
}

/// Changes to headers: first `remove`, then `set`, then `add`.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields, default)]
pub struct HeaderEdits {
    /// Put in place of what is there.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub set: Vec<(String, String)>,
    /// Put behind what is there.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub add: Vec<(String, String)>,
    /// Taken away.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub remove: Vec<String>,
}

impl HeaderEdits {
    /// Whether nothing is changed.
    pub fn is_empty(&self) -> bool {
        self.set.is_empty() && self.add.is_empty() && self.remove.is_empty()
    }
}

/// When a try is repeated. A connect failure or refused stream may repeat any method (nothing was sent); other failures
/// only idempotent methods, unless `non_idempotent`. A repeat avoids hosts already tried; the last one goes to the next tier.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct RetryPolicy {
    /// Repeats after the first try.
    pub attempts: u32,
    /// Bound on one try; `None` leaves only the route's timeout.
    #[serde(with = "human::option", default)]
    #[schemars(with = "Option<human::Text>")]
    pub per_try: Option<Duration>,
    /// Failures that are repeated.
    pub on: BTreeSet<RetryOn>,
    /// Also repeat methods that are not idempotent after bytes were sent.
    #[serde(default)]
    pub non_idempotent: bool,
}

/// A class of failures.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub enum RetryOn {
    /// No connection could be made.
    ConnectFailure,
    /// HTTP/2 REFUSED_STREAM.
    RefusedStream,
    /// The connection ended, or the try's time ran out, before response headers.
    Reset,
    /// 502, 503 or 504.
    GatewayError,
    /// gRPC status 1, with the response's head or with nothing before its trailers.
    GrpcCancelled,
    /// gRPC status 4, with the response's head or with nothing before its trailers.
    GrpcDeadlineExceeded,
    /// gRPC status 8, with the response's head or with nothing before its trailers.
    GrpcResourceExhausted,
    /// gRPC status 13, with the response's head or with nothing before its trailers.
    GrpcInternal,
    /// gRPC status 14, with the response's head or with nothing before its trailers.
    GrpcUnavailable,
}

/// When a second try is started beside the first: after the route's observed p99, held within these bounds.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct HedgePolicy {
    /// Never earlier.
    #[serde(with = "human")]
    #[schemars(with = "human::Text")]
    pub at_least: Duration,
    /// Never later.
    #[serde(with = "human")]
    #[schemars(with = "human::Text")]
    pub at_most: Duration,
}
