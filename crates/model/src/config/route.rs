//! Routes of a service by request: what matches, and what is done with it.

use std::time::Duration;

use super::{Caller, FaultAction, Hedge, Retries};
use crate::{name::ServiceName, unit::Percent};

/// What is done with some of a service's requests.
#[derive(Clone, Debug, PartialEq)]
pub struct RequestRoute {
    /// Which requests.
    pub matches: RequestMatch,
    /// What is done with them.
    pub action: RequestAction,
}

/// Conditions that must all hold.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct RequestMatch {
    /// On the path without query. Default: every path.
    pub path: PathMatch,
    /// One of these methods; empty is all.
    pub methods: Vec<String>,
    /// All of these headers; names in lower case.
    pub headers: Vec<Named>,
    /// All of these parameters of the query; never [`Is::Absent`].
    pub query: Vec<Named>,
    /// All of these cookies.
    pub cookies: Vec<Named>,
    /// One of these callers; empty is all.
    pub callers: Vec<Caller>,
}

/// A condition on the path.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum PathMatch {
    /// The whole path.
    Exact(String),
    /// Its beginning, segment by segment: `/foo` takes `/foo` and `/foo/bar`, not `/foobar`. Without a slash at its end,
    /// unless it is `/`.
    Prefix(String),
    /// Its beginning, byte by byte.
    PrefixString(String),
    /// A regular expression that takes the whole path.
    Regex(String),
}

impl Default for PathMatch {
    /// Every path.
    fn default() -> Self {
        Self::Prefix("/".to_owned())
    }
}

/// A condition on one header, parameter or cookie.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Named {
    /// Its name.
    pub name: String,
    /// What holds of it.
    pub is: Is,
}

/// A condition on a value.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Is {
    /// It is there.
    Present,
    /// It is not there.
    Absent,
    /// It is this.
    Exact(String),
    /// It begins with this.
    Prefix(String),
    /// A regular expression takes all of it.
    Regex(String),
}

/// What is done with a matched request.
#[derive(Clone, Debug, PartialEq)]
#[allow(clippy::large_enum_variant, reason = "most routes forward")]
pub enum RequestAction {
    /// The caller is sent elsewhere.
    Redirect(Redirect),
    /// It goes to the service.
    Forward(Forward),
}

/// Where a caller is sent. What is `None` stays as it was asked.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Redirect {
    /// 301, 302, 303, 307 or 308. Default 302.
    pub status: u16,
    /// `http` or `https`.
    pub scheme: Option<String>,
    /// Host without port.
    pub host: Option<String>,
    /// Port.
    pub port: Option<u16>,
    /// Path.
    pub path: Option<PathChange>,
    /// Whether the query is left out.
    pub strip_query: bool,
}

/// How a path becomes another; the query stays.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum PathChange {
    /// In place of the matched prefix, so that neither a slash is lost nor one doubled; of the whole path where the route
    /// matches otherwise.
    Prefix(String),
    /// Every match of a regular expression is replaced.
    Regex {
        /// What is replaced.
        pattern: String,
        /// With what; `\1` is the first group.
        with: String,
    },
}

/// How a request goes to the service.
#[derive(Clone, Debug, PartialEq)]
pub struct Forward {
    /// Versions with their shares; empty is all endpoints. The weights' sum is above 0.
    pub split: Vec<Share>,
    /// What keeps a caller with one version; only with a split.
    pub sticky: Option<Sticky>,
    /// Who gets a copy.
    pub mirrors: Vec<Mirror>,
    /// Another path for the endpoint.
    pub rewrite: Option<PathChange>,
    /// Another authority for the endpoint.
    pub host: Option<String>,
    /// Changes to the request's headers.
    pub request_headers: HeaderEdits,
    /// Changes to the response's headers.
    pub response_headers: HeaderEdits,
    /// From the request's end to the response's head, all tries; zero is none. Default: the service's.
    pub timeout: Duration,
    /// Time without a byte in either direction; zero is never. Default: the service's.
    pub idle_timeout: Duration,
    /// Repeats. Default: the service's.
    pub retries: Retries,
    /// A second try beside a slow first one. Default: the service's.
    pub hedge: Option<Hedge>,
    /// Which of the service's limits count.
    pub priority: Priority,
    /// Faults that stand in the configuration.
    pub faults: Vec<RouteFault>,
}

/// Which of a service's limits a request counts against: each priority has its own.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Priority {
    /// Those of everything else.
    #[default]
    Default,
    /// Those of `limits.high`.
    High,
}

/// A version and its share of a route.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Share {
    /// A version that endpoints of the service have.
    pub version: String,
    /// Relative to the sum over the route. Default 1.
    pub weight: u32,
}

/// What decides, by its hash, which version a request goes to. A request without it is drawn.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Sticky {
    /// A header's value; its name in lower case.
    Header(String),
    /// A cookie's value.
    Cookie {
        /// Its name.
        name: String,
        /// Where it is missing it is set, for this long. `None` never sets it.
        ttl: Option<Duration>,
    },
}

/// A copy of some requests; what it answers is thrown away.
#[derive(Clone, Debug, PartialEq)]
pub struct Mirror {
    /// Who gets it.
    pub to: MirrorTo,
    /// Share of the requests. Default 100 %.
    pub percent: Percent,
}

/// Who gets a copy.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum MirrorTo {
    /// A version of the same service.
    Version(String),
    /// Another service.
    Service(ServiceName),
}

/// Changes to headers: first `remove`, then `set`, then `add`. Names in lower case.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct HeaderEdits {
    /// Put in place of what is there.
    pub set: Vec<(String, String)>,
    /// Put behind what is there.
    pub add: Vec<(String, String)>,
    /// Taken away.
    pub remove: Vec<String>,
}

/// A fault that stands in the configuration.
#[derive(Clone, Debug, PartialEq)]
pub struct RouteFault {
    /// Share of the route's requests. Default 100 %.
    pub percent: Percent,
    /// What happens to them.
    pub action: FaultAction,
}
