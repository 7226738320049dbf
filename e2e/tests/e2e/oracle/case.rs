//! A case as data: endpoints, a snapshot, what is sent, and what must come of it on each side.

use std::time::Duration;

use xds::snapshot::{
    Balancer, Cluster, Direction, Forward, HealthCheck, HttpListener, Limits, Listener, ListenerProtocol, PathMatch,
    RetryOn, RetryPolicy, Route, RouteAction, RouteMatch, RouteTable, Snapshot, UpstreamProtocol, VirtualHost,
    WeightedCluster,
};

use super::{
    ask::Ask,
    origin::CHECKED,
    place::{Place, Side},
    topology::{Topology, region},
};

/// What must come of a step.
#[derive(Clone, Debug)]
pub struct Expect<T> {
    /// Of Envoy.
    pub envoy: T,
    /// Of ours.
    pub ours: T,
    /// Title in `docs/decisions/envoy-differences.md`, where they differ.
    pub why: Option<&'static str>,
}

impl<T> Expect<T> {
    /// Of this side.
    pub fn of(&self, side: Side) -> &T {
        match side {
            Side::Envoy => &self.envoy,
            Side::Ours => &self.ours,
        }
    }
}

/// The same on both sides.
pub fn same<T: Clone>(both: T) -> Expect<T> {
    Expect { envoy: both.clone(), ours: both, why: None }
}

/// An intended difference.
pub fn differ<T>(envoy: T, ours: T, why: &'static str) -> Expect<T> {
    Expect { envoy, ours, why: Some(why) }
}

/// Shares by name: one-letter names are regions, others endpoints; a number is a status that no endpoint gave.
pub type Shares = &'static [(&'static str, f64)];

/// An endpoint as a proxy sees it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Seen {
    /// Gets traffic.
    Fine,
    /// Fails its active checks.
    Unhealthy,
    /// Out by outlier detection.
    Ejected,
}

/// What a case does, one after the other.
#[derive(Clone, Debug)]
pub enum Step {
    /// Sends a request and compares its line.
    Ask(Ask, Expect<&'static str>),
    /// Sends many and compares who answered.
    Spread(Ask, u32, Expect<Shares>),
    /// Sends so many at once, each on its own connection; so many must be answered with this line, the others are held.
    Crowd(Ask, usize, usize, Expect<&'static str>),
    /// Waits until so many are being held.
    Held(usize),
    /// Lets go what is held; every one of these requests must end with this line.
    Release(Expect<&'static str>),
    /// An endpoint's script from here on.
    Behave(&'static str, &'static str),
    /// Whether an endpoint's active checks pass from here on.
    Pass(&'static str, bool),
    /// Waits until the proxy sees an endpoint so.
    Await(&'static str, Expect<Seen>),
    /// Sends requests until the proxy sees an endpoint so.
    Until(Ask, &'static str, Seen),
    /// How many endpoints the proxy sees so.
    Count(Seen, Expect<usize>),
    /// Sends a request so many times; one endpoint must get them all.
    Stays(Ask, u32),
    /// Waits until of so many requests an endpoint has got this percentage, as far as chance allows.
    Got(&'static str, u32, Expect<f64>),
    /// Waits until the last request that an endpoint got is this: `GET /path at host`.
    Heard(&'static str, Expect<&'static str>),
}

impl Step {
    /// Title of the difference that it proves.
    pub fn why(&self) -> Option<&'static str> {
        match self {
            Self::Ask(_, expect) | Self::Release(expect) | Self::Heard(_, expect) => expect.why,
            Self::Spread(_, _, expect) => expect.why,
            Self::Crowd(_, _, _, expect) => expect.why,
            Self::Await(_, expect) => expect.why,
            Self::Count(_, expect) => expect.why,
            Self::Got(_, _, expect) => expect.why,
            Self::Held(_) | Self::Behave(..) | Self::Pass(..) | Self::Until(..) | Self::Stays(..) => None,
        }
    }
}

type Change<T> = fn(&mut T);

/// A case.
#[derive(Debug)]
pub struct Case {
    /// A sentence.
    pub name: &'static str,
    /// Endpoints of its clusters.
    pub topology: Topology,
    /// What happens.
    pub steps: Vec<Step>,
    cluster: Vec<Change<Cluster>>,
    forward: Vec<Change<Forward>>,
    listener: Vec<Change<HttpListener>>,
    hosts: fn(Forward) -> Vec<Domain>,
    bytes: bool,
}

/// A virtual host: name, domains, routes.
pub type Domain = (&'static str, Vec<&'static str>, Vec<Route>);

fn everything(forward: Forward) -> Vec<Domain> {
    anywhere(vec![route(prefix("/"), RouteAction::Forward(forward))])
}

impl Case {
    /// Of these endpoints, with neither checks nor outlier detection nor repeats.
    pub fn new(name: &'static str, topology: &str) -> Self {
        Self {
            name,
            topology: Topology::new(topology),
            steps: Vec::new(),
            cluster: Vec::new(),
            forward: Vec::new(),
            listener: Vec::new(),
            hosts: everything,
            bytes: false,
        }
    }

    /// Changes its clusters.
    pub fn cluster(mut self, change: Change<Cluster>) -> Self {
        self.cluster.push(change);
        self
    }

    /// Changes how its routes forward.
    pub fn forward(mut self, change: Change<Forward>) -> Self {
        self.forward.push(change);
        self
    }

    /// Changes its listener.
    pub fn listener(mut self, change: Change<HttpListener>) -> Self {
        self.listener.push(change);
        self
    }

    /// Gives it other virtual hosts than one for everything.
    pub fn hosts(self, hosts: fn(Forward) -> Vec<Domain>) -> Self {
        Self { hosts, ..self }
    }

    /// Forwards bytes: what is in them is nothing to the proxy, so there is no line in the access log.
    pub fn bytes(self) -> Self {
        Self { bytes: true, ..self }.cluster(|cluster| cluster.protocol = UpstreamProtocol::Tcp)
    }

    /// With active health checks.
    pub fn checked(self) -> Self {
        self.cluster(|cluster| cluster.health_check = Some(check()))
    }

    /// A step.
    pub fn step(mut self, step: Step) -> Self {
        self.steps.push(step);
        self
    }

    /// A request and its line on both sides.
    pub fn ask(self, ask: Ask, line: &'static str) -> Self {
        self.step(Step::Ask(ask, same(line)))
    }

    /// A request whose line differs by intention: Envoy's, ours, why.
    pub fn ask_differs(self, ask: Ask, envoy: &'static str, ours: &'static str, why: &'static str) -> Self {
        self.step(Step::Ask(ask, differ(envoy, ours, why)))
    }

    /// The same request several times, with the same line each time.
    pub fn asks(mut self, count: usize, ask: &Ask, line: &'static str) -> Self {
        self.steps.extend(std::iter::repeat_with(|| Step::Ask(ask.clone(), same(line))).take(count));
        self
    }

    /// Many requests and who answers them.
    pub fn spread(self, ask: Ask, count: u32, shares: Shares) -> Self {
        self.step(Step::Spread(ask, count, same(shares)))
    }

    /// Whether its clusters are checked actively.
    pub fn is_checked(&self) -> bool {
        self.cluster_of("").health_check.is_some()
    }

    /// Its snapshot.
    pub fn snapshot(&self, place: Place) -> Snapshot {
        let name = place.name();
        let endpoints = self.topology.endpoints(place);
        let (protocol, routes) = if self.bytes {
            (ListenerProtocol::tcp(place.cluster(0)), Vec::new())
        } else {
            (ListenerProtocol::Http(self.http(&name)), vec![self.table(&name, &place.cluster(0))])
        };
        Snapshot {
            listeners: vec![Listener {
                name,
                address: place.listener(),
                direction: Direction::Outbound,
                tls: None,
                protocol,
            }],
            routes: routes.into_iter().map(Into::into).collect(),
            clusters: endpoints.iter().map(|set| self.cluster_of(&set.cluster)).collect(),
            endpoints,
            trust: Vec::new(),
        }
    }

    fn http(&self, name: &str) -> HttpListener {
        let mut http =
            HttpListener { routes: name.to_owned(), authorization: None, limits: Limits::default(), admission: None };
        self.listener.iter().for_each(|change| change(&mut http));
        http
    }

    fn table(&self, name: &str, cluster: &str) -> RouteTable {
        let mut forward = forward(cluster);
        self.forward.iter().for_each(|change| change(&mut forward));
        let hosts = (self.hosts)(forward).into_iter().map(|(name, domains, routes)| VirtualHost {
            name: name.to_owned(),
            domains: domains.into_iter().map(str::to_owned).collect(),
            routes,
        });
        RouteTable { name: name.to_owned(), hosts: hosts.collect() }
    }

    fn cluster_of(&self, name: &str) -> Cluster {
        let mut cluster = cluster(name);
        self.cluster.iter().for_each(|change| change(&mut cluster));
        cluster
    }
}

/// Who a share's name stands for.
pub fn named(shares: Shares, host: &str) -> String {
    let by_region = shares.iter().any(|(name, _)| name.len() == 1);
    if by_region { region(host).to_owned() } else { host.to_owned() }
}

fn cluster(name: &str) -> Cluster {
    Cluster {
        connect_timeout: Duration::from_secs(5),
        balancer: Balancer::RoundRobin,
        panic_threshold: 50,
        ..Cluster::new(name, UpstreamProtocol::Http1)
    }
}

/// A failed answer takes effect at once on both sides, so the interval only bounds how long a case waits for a change.
fn check() -> HealthCheck {
    HealthCheck {
        http_path: Some(CHECKED.to_owned()),
        grpc_service: None,
        exchange: None,
        every: Duration::from_millis(500),
        every_without_traffic: None,
        timeout: Duration::from_secs(5),
        unhealthy_after: 1,
        healthy_after: 1,
    }
}

fn forward(cluster: &str) -> Forward {
    Forward {
        clusters: vec![WeightedCluster { cluster: cluster.to_owned(), weight: 1 }],
        timeout: Duration::from_secs(15),
        ..Forward::default()
    }
}

/// Repeats without a bound on one try.
pub fn retry(attempts: u32, on: &[RetryOn]) -> RetryPolicy {
    RetryPolicy { attempts, per_try: None, on: on.iter().copied().collect(), non_idempotent: false }
}

/// Splits a route over the case's clusters, by these weights.
pub fn split(mut forward: Forward, weights: &[u32]) -> Forward {
    let first = forward.clusters.remove(0).cluster;
    let stem = first.trim_end_matches('0');
    let weighted = weights.iter().enumerate().filter(|(_, weight)| **weight > 0);
    let weighted =
        weighted.map(|(number, weight)| WeightedCluster { cluster: format!("{stem}{number}"), weight: *weight });
    forward.clusters = weighted.collect();
    forward
}

/// One virtual host for all authorities.
pub fn anywhere(routes: Vec<Route>) -> Vec<Domain> {
    vec![("all", vec!["*"], routes)]
}

/// A route.
pub fn route(matches: RouteMatch, action: RouteAction) -> Route {
    Route { matches, action }
}

/// By the path's beginning.
pub fn prefix(path: &str) -> RouteMatch {
    RouteMatch { path: PathMatch::Prefix(path.to_owned()), ..RouteMatch::default() }
}

/// By the whole path.
pub fn exact(path: &str) -> RouteMatch {
    RouteMatch { path: PathMatch::Exact(path.to_owned()), ..prefix("/") }
}

/// An answer by the proxy itself.
pub fn answer(status: u16, body: &str) -> RouteAction {
    RouteAction::Answer { status, body: body.to_owned() }
}
