//! Which route a request takes, and what the route makes of it. Pure; everything is prepared when a snapshot comes.

mod headers;
mod matching;
mod redirect;
mod rewrite;
mod split;

use std::{collections::HashMap, sync::Arc, time::Instant};

use http::{Method, request::Parts};
use xds::snapshot::{ANYONE, Authorization, Mirror, Route, RouteAction, RouteTable};

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
    /// As configured.
    pub route: Route,
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
    pub fn new(config: &RouteTable, now: Instant) -> Self {
        let mut domains = HashMap::new();
        let mut hosts = Vec::with_capacity(config.hosts.len());
        for (index, host) in config.hosts.iter().enumerate() {
            for domain in &host.domains {
                domains.entry(domain.to_ascii_lowercase()).or_insert(index);
            }
            hosts.push(host.routes.iter().map(|route| Arc::new(Entry::new(route.clone(), now))).collect());
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
    fn new(route: Route, now: Instant) -> Self {
        let rewrite = match &route.action {
            RouteAction::Forward(forward) => Rewrite::new(forward, &route.matches.path),
            RouteAction::Redirect(redirect) => Rewrite::of_redirect(redirect, &route.matches.path),
            RouteAction::Answer { .. } | RouteAction::Tunnel(_) => None,
        };
        let matcher = Matcher::new(&route.matches);
        Self { route, latency: Latency::new(now), rewrite, matcher }
    }
}

/// The clusters that get a copy of this request.
pub fn mirrored<'a>(mirrors: &'a [Mirror], random: &mut fastrand::Rng) -> impl Iterator<Item = &'a str> {
    mirrors.iter().filter(|mirror| random.f64() * 100.0 < mirror.percent).map(|mirror| mirror.cluster.as_str())
}

fn has_method(methods: &[String], method: &Method) -> bool {
    methods.is_empty() || methods.iter().any(|allowed| allowed == method.as_str())
}

/// Whether a caller may make this request. A caller without identity passes only rules for everyone.
pub fn allowed(authorization: &Authorization, caller: Option<&str>, request: &Parts) -> bool {
    authorization.allow.iter().any(|rule| {
        rule.principals.iter().any(|principal| principal == ANYONE || caller == Some(principal))
            && has_method(&rule.methods, &request.method)
            && (rule.paths.is_empty() || rule.paths.iter().any(|path| request.uri.path().starts_with(path.as_str())))
    })
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use xds::snapshot::{AllowRule, Is, Named, PathMatch, RouteMatch, Tunnel, VirtualHost};

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
        let table = RouteTable {
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
        };
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
                table.find(authority, None, &parts(method, uri, &headers)).ok().map(|entry| &entry.route.action);
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

    #[test]
    fn authorization_denies_by_default() {
        let rule = AllowRule {
            principals: vec!["spiffe://bank/service/a".into()],
            methods: vec!["GET".into()],
            paths: vec!["/v1/".into()],
        };
        let policy = Authorization { allow: vec![rule] };
        let cases = [
            (Some("spiffe://bank/service/a"), "GET", "/v1/x", true),
            (Some("spiffe://bank/service/a"), "POST", "/v1/x", false),
            (Some("spiffe://bank/service/a"), "GET", "/v2/x", false),
            (Some("spiffe://bank/service/ab"), "GET", "/v1/x", false),
            (None, "GET", "/v1/x", false),
        ];
        for (caller, method, path, expected) in cases {
            assert_eq!(allowed(&policy, caller, &parts(method, path, &[])), expected, "{caller:?} {method} {path}");
        }
        let everyone = AllowRule { principals: vec![ANYONE.into()], methods: vec!["GET".into()], paths: Vec::new() };
        let open = Authorization { allow: vec![everyone] };
        for (caller, method, expected) in
            [(None, "GET", true), (Some("spiffe://x/y"), "GET", true), (None, "PUT", false)]
        {
            assert_eq!(allowed(&open, caller, &parts(method, "/", &[])), expected, "{caller:?} {method}");
        }
        let nobody = Authorization { allow: vec![] };
        assert!(!allowed(&nobody, Some("spiffe://bank/service/a"), &parts("GET", "/", &[])));
    }
}
