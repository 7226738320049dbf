//! Which route a request takes, and what the route makes of it. Pure; everything is prepared when a snapshot comes.

pub mod authorization;
mod headers;
mod matching;
mod redirect;
mod rewrite;
mod split;

use std::{collections::HashMap, sync::Arc, time::Instant};

use http::request::Parts;
use xds::snapshot::{Mirror, Route, RouteAction, RouteTable};

use self::matching::Matcher;
pub use self::{redirect::location, rewrite::Rewrite, split::choose};
use crate::hedge::Latency;

/// A route table, indexed by authority.
#[derive(Debug)]
pub struct Table {
    hosts: Vec<Vec<Arc<Entry>>>,
    domains: HashMap<String, usize>,
}

/// A route with what was observed on it.
#[derive(Debug)]
pub struct Entry {
    table: Arc<RouteTable>,
    /// The index of its virtual host in the table, and its own in that.
    place: (usize, usize),
    /// Of its tries.
    pub latency: Latency,
    /// What becomes of path, authority and headers; `None` where nothing does.
    pub rewrite: Option<Rewrite>,
    matcher: Matcher,
}

/// No route for a request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct NoRoute;

impl Table {
    /// Indexes a table. A domain that two hosts claim belongs to the first.
    pub fn new(config: &Arc<RouteTable>, now: Instant) -> Self {
        let mut domains = HashMap::new();
        let mut hosts = Vec::with_capacity(config.hosts.len());
        for (index, host) in config.hosts.iter().enumerate() {
            for domain in &host.domains {
                domains.entry(domain.to_ascii_lowercase()).or_insert(index);
            }
            let entry = |place| Arc::new(Entry::new(config.clone(), (index, place), now));
            hosts.push((0..host.routes.len()).map(entry).collect());
        }
        Self { hosts, domains }
    }

    /// The first route that matches, of the virtual host of this authority (without port, lower case). `caller` is its
    /// SPIFFE id, if it proved one.
    pub fn find(&self, authority: &str, caller: Option<&str>, request: &Parts) -> Result<&Arc<Entry>, NoRoute> {
        let host = self.domains.get(authority).or_else(|| self.domains.get("*")).ok_or(NoRoute)?;
        self.hosts[*host].iter().find(|entry| entry.matcher.matches(caller, request)).ok_or(NoRoute)
    }
}

impl Entry {
    fn new(table: Arc<RouteTable>, place: (usize, usize), now: Instant) -> Self {
        let route = &table.hosts[place.0].routes[place.1];
        let rewrite = match &route.action {
            RouteAction::Forward(forward) => Rewrite::new(forward, &route.matches.path),
            RouteAction::Redirect(redirect) => Rewrite::of_redirect(redirect, &route.matches.path),
            RouteAction::Answer { .. } | RouteAction::Tunnel(_) => None,
        };
        let matcher = Matcher::new(&route.matches);
        Self { latency: Latency::new(now), rewrite, matcher, table, place }
    }

    /// As configured.
    pub fn route(&self) -> &Route {
        &self.table.hosts[self.place.0].routes[self.place.1]
    }
}

/// The clusters that get a copy of this request.
pub fn mirrored<'a>(mirrors: &'a [Mirror], random: &mut fastrand::Rng) -> impl Iterator<Item = &'a str> {
    mirrors.iter().filter(|mirror| random.f64() * 100.0 < mirror.percent).map(|mirror| mirror.cluster.as_str())
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use xds::snapshot::{Is, Named, PathMatch, RouteMatch, Tunnel, VirtualHost};

    use super::*;

    fn parts(method: &str, uri: &str, headers: &[(&str, &str)]) -> Parts {
        let request =
            headers.iter().fold(http::Request::builder().method(method).uri(uri), |r, (k, v)| r.header(*k, *v));
        request.body(()).unwrap().into_parts().0
    }

    fn route(path: PathMatch, methods: &[&str], headers: Vec<Named>, status: u16) -> Route {
        let methods = methods.iter().map(|m| (*m).to_owned()).collect();
        let action = RouteAction::Answer { status, body: String::new() };
        Route { matches: RouteMatch { path, methods, headers, ..RouteMatch::default() }, action }
    }

    #[test]
    fn first_match_of_the_authority_wins() {
        let exact = |name: &str, value: &str| Named { name: name.into(), is: Is::Exact(value.into()) };
        let present = |name: &str| Named { name: name.into(), is: Is::Present };
        let bytes = Tunnel { cluster: "db".into(), idle_timeout: Duration::ZERO };
        let connect = RouteMatch { path: PathMatch::Connect, ..RouteMatch::default() };
        let tunnels = vec![
            route(PathMatch::Regex(".*".into()), &[], vec![], 206),
            Route { matches: connect, action: RouteAction::Tunnel(bytes) },
        ];
        let table = Arc::new(RouteTable {
            name: "t".into(),
            hosts: vec![
                VirtualHost {
                    name: "fx".into(),
                    domains: vec!["fx".into(), "fx.bank.example".into()],
                    routes: vec![
                        route(PathMatch::Exact("/a".into()), &[], vec![], 201),
                        route(PathMatch::Prefix("/a".into()), &["POST"], vec![], 202),
                        route(PathMatch::Prefix("/".into()), &[], vec![exact("x-v", "2")], 203),
                        route(PathMatch::Prefix("/".into()), &[], vec![present("x-any")], 204),
                    ],
                },
                VirtualHost {
                    name: "rest".into(),
                    domains: vec!["*".into()],
                    routes: vec![route(PathMatch::Prefix("/".into()), &[], vec![], 205)],
                },
                VirtualHost { name: "db".into(), domains: vec!["db".into()], routes: tunnels },
            ],
        });
        let table = Table::new(&table, Instant::now());
        let cases = [
            ("fx", "GET", "/a?q=1", vec![], Some(201)),
            ("fx", "POST", "/a/b", vec![], Some(202)),
            ("fx.bank.example", "GET", "/a/b", vec![("x-v", "2")], Some(203)),
            ("fx", "GET", "/z", vec![("x-v", "3"), ("x-any", "")], Some(204)),
            ("fx", "GET", "/z", vec![], None),
            ("other", "GET", "/z", vec![], Some(205)),
            // No path, and so no condition on one that it fits.
            ("other", "CONNECT", "other:80", vec![], None),
            ("db", "CONNECT", "db:5432", vec![], Some(200)),
            ("db", "GET", "/z", vec![], Some(206)),
        ];
        for (authority, method, uri, headers, expected) in cases {
            let found =
                table.find(authority, None, &parts(method, uri, &headers)).ok().map(|entry| &entry.route().action);
            let status = found.map(|action| match action {
                RouteAction::Answer { status, .. } => *status,
                RouteAction::Tunnel(_) => 200,
                RouteAction::Forward(_) | RouteAction::Redirect(_) => 0,
            });
            assert_eq!(status, expected, "{authority} {method} {uri}");
        }
    }

    #[test]
    fn a_mirror_gets_its_share() {
        let mirror = |cluster: &str, percent| Mirror { cluster: cluster.into(), percent };
        let mirrors = [mirror("all", 100.0), mirror("some", 10.0), mirror("none", 0.0)];
        let mut random = fastrand::Rng::with_seed(5);
        let mut counts = HashMap::<&str, u32>::new();
        for _ in 0..10_000 {
            mirrored(&mirrors, &mut random).for_each(|cluster| *counts.entry(cluster).or_default() += 1);
        }
        assert_eq!((counts["all"], counts.get("none")), (10_000, None));
        assert!((900..1100).contains(&counts["some"]), "{counts:?}");
    }
}
