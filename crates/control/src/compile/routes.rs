//! What a service's routes by request are on the wire, for one caller.

use std::collections::BTreeSet;

use model::{
    config::{
        self, Caller, Forward, MirrorTo, PathChange, PathMatch, RequestAction, RequestMatch, RequestRoute, Service,
    },
    name::ServiceName,
};
use xds::snapshot::{
    self as wire, HeaderEdits, Mirror, Named, Route, RouteAction, RouteFault, RouteMatch, RoutingPriority, Sticky,
    Tunnel, WeightedCluster,
};

use super::{fault_action, policy};

/// Name of the cluster of one version. No region has an `@`, so it is not mistaken for `service.region`.
pub(super) fn cluster(service: &Service, version: &str) -> String {
    format!("{}@{version}", service.name)
}

/// Versions that routes of a service name, and which need clusters of their own.
pub(super) fn versions(service: &Service) -> BTreeSet<&str> {
    let split = forwards(service).flat_map(|forward| &forward.split).map(|share| share.version.as_str());
    let mirrors = forwards(service).flat_map(|forward| &forward.mirrors).filter_map(|mirror| match &mirror.to {
        MirrorTo::Version(version) => Some(version.as_str()),
        MirrorTo::Service(_) => None,
    });
    split.chain(mirrors).collect()
}

/// Other services that get copies of a service's requests.
pub(super) fn mirrors(service: &Service) -> BTreeSet<&ServiceName> {
    let mirrors = forwards(service).flat_map(|forward| &forward.mirrors);
    mirrors
        .filter_map(|mirror| match &mirror.to {
            MirrorTo::Service(name) => Some(name),
            MirrorTo::Version(_) => None,
        })
        .collect()
}

fn forwards(service: &Service) -> impl Iterator<Item = &Forward> {
    service.requests.iter().filter_map(|route| match &route.action {
        RequestAction::Forward(forward) => Some(forward),
        RequestAction::Redirect(_) => None,
    })
}

/// Routes of one caller to a service, under a gateway's prefix; the last one takes what no other does. A caller's own proxy
/// makes them, so that conditions on callers are decided here.
pub(super) fn of(service: &Service, caller: &Caller, prefix: &str) -> Vec<Route> {
    let concerned =
        service.requests.iter().filter(|r| r.matches.callers.is_empty() || r.matches.callers.contains(caller));
    let mut routes: Vec<Route> = concerned.filter_map(|route| request(service, route, prefix)).collect();
    let rest = all(service.name.as_str(), service, prefix);
    if !routes.iter().any(|route| route.matches == rest.matches) {
        routes.push(rest);
    }
    routes
}

/// The route of all that is said to a service through a cluster: requests under a prefix, or CONNECT.
pub(super) fn all(cluster: &str, service: &Service, prefix: &str) -> Route {
    match service.connect {
        None => Route { matches: super::prefix(prefix), action: policy::forward(cluster, service) },
        Some(connect) => Route {
            matches: RouteMatch { path: wire::PathMatch::Connect, ..RouteMatch::default() },
            action: RouteAction::Tunnel(Tunnel { cluster: cluster.to_owned(), idle_timeout: connect.idle_timeout }),
        },
    }
}

/// `None`: the route's path and the gateway's prefix cannot both hold.
fn request(service: &Service, route: &RequestRoute, prefix: &str) -> Option<Route> {
    let RequestMatch { path, methods, headers, query, cookies, callers: _ } = &route.matches;
    let (path, rest) = under(path, prefix)?;
    let all = |conditions: &[config::Named]| conditions.iter().map(named).collect();
    let matches = RouteMatch {
        path,
        methods: methods.clone(),
        headers: all(headers),
        query: all(query),
        cookies: all(cookies),
        callers: Vec::new(),
    };
    let action = match &route.action {
        RequestAction::Redirect(redirect) => RouteAction::Redirect(wire::Redirect {
            status: redirect.status,
            scheme: redirect.scheme.clone(),
            host: redirect.host.clone(),
            port: redirect.port,
            path: redirect.path.as_ref().map(|path| change(path, rest)),
            strip_query: redirect.strip_query,
        }),
        RequestAction::Forward(to) => RouteAction::Forward(forward(service, to, rest)),
    };
    Some(Route { matches, action })
}

/// Where both a route's path and a gateway's prefix hold, and what the prefix has more than the route's.
fn under<'p>(path: &PathMatch, prefix: &'p str) -> Option<(wire::PathMatch, &'p str)> {
    match path {
        PathMatch::Exact(exact) => exact.starts_with(prefix).then(|| (wire::PathMatch::Exact(exact.clone()), "")),
        PathMatch::Prefix(own) if own.starts_with(prefix) => Some((wire::PathMatch::Prefix(own.clone()), "")),
        PathMatch::Prefix(own) => {
            prefix.strip_prefix(own.as_str()).map(|rest| (wire::PathMatch::Prefix(prefix.to_owned()), rest))
        }
        // Validation refuses one under another prefix.
        PathMatch::Regex(regex) => (prefix == "/").then(|| (wire::PathMatch::Regex(regex.clone()), "")),
    }
}

/// `rest` is what a gateway's prefix has more than the route's: it stays.
fn change(path: &PathChange, rest: &str) -> wire::PathChange {
    match path {
        PathChange::Prefix(prefix) => wire::PathChange::Prefix(format!("{prefix}{rest}")),
        PathChange::Regex { pattern, with } => wire::PathChange::Regex { pattern: pattern.clone(), with: with.clone() },
    }
}

pub(super) fn named(condition: &config::Named) -> Named {
    let is = match &condition.is {
        config::Is::Present => wire::Is::Present,
        config::Is::Absent => wire::Is::Absent,
        config::Is::Exact(text) => wire::Is::Exact(text.clone()),
        config::Is::Prefix(text) => wire::Is::Prefix(text.clone()),
        config::Is::Regex(text) => wire::Is::Regex(text.clone()),
    };
    Named { name: condition.name.clone(), is }
}

fn forward(service: &Service, to: &Forward, rest: &str) -> wire::Forward {
    let mut clusters: Vec<WeightedCluster> = to
        .split
        .iter()
        .filter(|share| share.weight > 0)
        .map(|share| WeightedCluster { cluster: cluster(service, &share.version), weight: share.weight })
        .collect();
    if clusters.is_empty() {
        clusters.push(WeightedCluster { cluster: service.name.to_string(), weight: 1 });
    }
    let mirrors = to.mirrors.iter().map(|mirror| Mirror {
        cluster: match &mirror.to {
            MirrorTo::Version(version) => cluster(service, version),
            MirrorTo::Service(name) => name.to_string(),
        },
        percent: mirror.percent.0,
    });
    let faults = to.faults.iter();
    wire::Forward {
        clusters,
        sticky: to.sticky.as_ref().map(|sticky| match sticky {
            config::Sticky::Header(name) => Sticky::Header(name.clone()),
            config::Sticky::Cookie { name, ttl } => Sticky::Cookie { name: name.clone(), ttl: *ttl },
        }),
        timeout: to.timeout,
        idle_timeout: policy::stream_idle(to.idle_timeout),
        retry: policy::retry(&to.retries),
        upgrades: policy::upgrades(service.protocol),
        hedge: to.hedge.as_ref().map(policy::hedge),
        path: to.rewrite.as_ref().map(|path| change(path, rest)),
        host: to.host.clone(),
        request_headers: edits(&to.request_headers),
        response_headers: edits(&to.response_headers),
        mirrors: mirrors.collect(),
        priority: match to.priority {
            config::Priority::Default => RoutingPriority::Default,
            config::Priority::High => RoutingPriority::High,
        },
        faults: faults.map(|f| RouteFault { percent: f.percent.0, action: fault_action(&f.action) }).collect(),
    }
}

fn edits(edits: &config::HeaderEdits) -> HeaderEdits {
    HeaderEdits { set: edits.set.clone(), add: edits.add.clone(), remove: edits.remove.clone() }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The route's path, the gateway's prefix, and where both hold with what stays of the prefix.
    #[test]
    fn a_route_holds_under_a_gateways_prefix() {
        let prefix = |text: &str| PathMatch::Prefix(text.to_owned());
        let exact = |text: &str| PathMatch::Exact(text.to_owned());
        let wired = |text: &str| wire::PathMatch::Prefix(text.to_owned());
        for (path, gateway, expected) in [
            (prefix("/"), "/", Some((wired("/"), ""))),
            (prefix("/"), "/api", Some((wired("/api"), "api"))),
            (prefix("/api/cart"), "/api", Some((wired("/api/cart"), ""))),
            (prefix("/cart"), "/api", None),
            (exact("/api/x"), "/api", Some((wire::PathMatch::Exact("/api/x".to_owned()), ""))),
            (exact("/x"), "/api", None),
            (PathMatch::Regex("/v.".to_owned()), "/", Some((wire::PathMatch::Regex("/v.".to_owned()), ""))),
        ] {
            assert_eq!(under(&path, gateway), expected, "{path:?} {gateway}");
        }
        // As without a gateway: `/api/x` becomes `/v2/api/x`.
        let to = PathChange::Prefix("/v2/".to_owned());
        assert_eq!(change(&to, "api"), wire::PathChange::Prefix("/v2/api".to_owned()));
    }
}
