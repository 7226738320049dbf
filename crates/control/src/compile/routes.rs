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
    let own = path;
    let (path, rest) = under(own, prefix)?;
    let changed = |change_of: &PathChange| change(change_of, own, &path, rest);
    let all = |conditions: &[config::Named]| conditions.iter().map(named).collect();
    let action = match &route.action {
        RequestAction::Redirect(redirect) => RouteAction::Redirect(wire::Redirect {
            status: redirect.status,
            scheme: redirect.scheme.clone(),
            host: redirect.host.clone(),
            port: redirect.port,
            path: redirect.path.as_ref().map(changed),
            strip_query: redirect.strip_query,
        }),
        RequestAction::Forward(to) => {
            RouteAction::Forward(wire::Forward { path: to.rewrite.as_ref().map(changed), ..forward(service, to) })
        }
    };
    let matches = RouteMatch {
        path,
        methods: methods.clone(),
        headers: all(headers),
        query: all(query),
        cookies: all(cookies),
        callers: Vec::new(),
    };
    Some(Route { matches, action })
}

/// A beginning of whole segments on the wire.
pub(super) fn segments(prefix: &str) -> wire::PathMatch {
    match prefix {
        "/" => wire::PathMatch::Prefix(prefix.to_owned()),
        prefix => wire::PathMatch::Segments(prefix.to_owned()),
    }
}

/// What a path has behind a beginning of whole segments, from its slash on.
fn below<'p>(path: &'p str, prefix: &str) -> Option<&'p str> {
    if prefix == "/" {
        return Some(if path == "/" { "" } else { path });
    }
    path.strip_prefix(prefix).filter(|rest| rest.is_empty() || rest.starts_with('/'))
}

/// Where both a route's path and a gateway's prefix hold, and what the prefix has more than the route's.
fn under<'p>(path: &PathMatch, prefix: &'p str) -> Option<(wire::PathMatch, &'p str)> {
    match path {
        PathMatch::Exact(exact) => below(exact, prefix).map(|_| (wire::PathMatch::Exact(exact.clone()), "")),
        PathMatch::Prefix(own) if below(own, prefix).is_some() => Some((segments(own), "")),
        PathMatch::Prefix(own) => below(prefix, own).map(|rest| (segments(prefix), rest)),
        PathMatch::PrefixString(own) => match own.strip_prefix(prefix) {
            // Where it ends within the segment behind the prefix, every path that it takes is under the prefix.
            Some(rest) if prefix == "/" || rest.starts_with('/') => Some((wire::PathMatch::Prefix(own.clone()), "")),
            _ => prefix.strip_prefix(own.as_str()).map(|rest| (segments(prefix), rest)),
        },
        // Validation refuses one under another prefix.
        PathMatch::Regex(regex) => (prefix == "/").then(|| (wire::PathMatch::Regex(regex.clone()), "")),
    }
}

/// `matched` is what the route matches on the wire, `rest` what a gateway's prefix has more than the route's: it stays.
fn change(path: &PathChange, own: &PathMatch, matched: &wire::PathMatch, rest: &str) -> wire::PathChange {
    let with = match path {
        PathChange::Regex { pattern, with } => {
            return wire::PathChange::Regex { pattern: pattern.clone(), with: with.clone() };
        }
        PathChange::Prefix(with) => with,
    };
    let verbatim = || wire::PathChange::Prefix(format!("{with}{rest}"));
    if !matches!(own, PathMatch::Prefix(_)) {
        return verbatim();
    }
    // As the Gateway API has it: whole segments take the place of whole segments.
    let with = format!("{}{rest}", with.trim_end_matches('/'));
    match matched {
        // What is left of the path has lost its slash.
        wire::PathMatch::Prefix(_) => wire::PathChange::Prefix(format!("{with}/")),
        // What is left of it begins with a slash, or is nothing, and no path is empty.
        wire::PathMatch::Segments(prefix) if with.is_empty() => {
            wire::PathChange::Regex { pattern: format!("^{}/?", escaped(prefix)), with: "/".to_owned() }
        }
        _ => wire::PathChange::Prefix(with),
    }
}

/// As a regular expression that takes just this text.
fn escaped(text: &str) -> String {
    let mut pattern = String::with_capacity(text.len());
    for c in text.chars() {
        if c.is_ascii_punctuation() && !"/-_".contains(c) {
            pattern.push('\\');
        }
        pattern.push(c);
    }
    pattern
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

/// Without its change of the path.
fn forward(service: &Service, to: &Forward) -> wire::Forward {
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
        path: None,
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

    fn prefix(text: &str) -> PathMatch {
        PathMatch::Prefix(text.to_owned())
    }

    /// The route's path, the gateway's prefix, and where both hold with what stays of the prefix.
    #[test]
    fn a_route_holds_under_a_gateways_prefix() {
        let exact = |text: &str| PathMatch::Exact(text.to_owned());
        let bytes = |text: &str| PathMatch::PrefixString(text.to_owned());
        let wired = |text: &str| wire::PathMatch::Segments(text.to_owned());
        let begins = |text: &str| wire::PathMatch::Prefix(text.to_owned());
        for (path, gateway, expected) in [
            (prefix("/"), "/", Some((begins("/"), ""))),
            (prefix("/"), "/api", Some((wired("/api"), "/api"))),
            (prefix("/api"), "/", Some((wired("/api"), ""))),
            (prefix("/api"), "/api", Some((wired("/api"), ""))),
            (prefix("/api"), "/api/v1", Some((wired("/api/v1"), "/v1"))),
            (prefix("/api/cart"), "/api", Some((wired("/api/cart"), ""))),
            (prefix("/apis"), "/api", None),
            (prefix("/ap"), "/api", None),
            (prefix("/cart"), "/api", None),
            (exact("/api/x"), "/api", Some((wire::PathMatch::Exact("/api/x".to_owned()), ""))),
            (exact("/apis"), "/api", None),
            (exact("/x"), "/api", None),
            (bytes("/ap"), "/", Some((begins("/ap"), ""))),
            (bytes("/ap"), "/api", Some((wired("/api"), "i"))),
            (bytes("/api"), "/api", Some((wired("/api"), ""))),
            (bytes("/api/c"), "/api", Some((begins("/api/c"), ""))),
            (bytes("/apis"), "/api", None),
            (PathMatch::Regex("/v.".to_owned()), "/", Some((wire::PathMatch::Regex("/v.".to_owned()), ""))),
        ] {
            assert_eq!(under(&path, gateway), expected, "{path:?} {gateway}");
        }
    }

    /// What the proxies make of a path: as they read the wire.
    fn changed(own: &PathMatch, gateway: &str, with: &str, path: &str) -> String {
        let (matched, rest) = under(own, gateway).unwrap();
        match (change(&PathChange::Prefix(with.to_owned()), own, &matched, rest), matched) {
            (wire::PathChange::Prefix(with), wire::PathMatch::Prefix(prefix) | wire::PathMatch::Segments(prefix)) => {
                format!("{with}{}", path.strip_prefix(&prefix).unwrap())
            }
            (wire::PathChange::Prefix(with), _) => with,
            (wire::PathChange::Regex { pattern, with }, _) => {
                let regex = xds::pattern::part(&pattern).unwrap();
                let with = xds::pattern::replacement(&with, &regex).unwrap();
                String::from_utf8(regex.replace_all(path.as_bytes(), with.as_bytes()).into_owned()).unwrap()
            }
        }
    }

    #[test]
    fn a_prefix_is_replaced_by_whole_segments() {
        // The table of the Gateway API's `ReplacePrefixMatch`, then gateways' prefixes, then bytes.
        for (own, gateway, with, path, expected) in [
            (prefix("/foo"), "/", "/xyz", "/foo/bar", "/xyz/bar"),
            (prefix("/foo"), "/", "/xyz/", "/foo/bar", "/xyz/bar"),
            (prefix("/foo"), "/", "/xyz", "/foo", "/xyz"),
            (prefix("/foo"), "/", "/xyz", "/foo/", "/xyz/"),
            (prefix("/foo"), "/", "/", "/foo/bar", "/bar"),
            (prefix("/foo"), "/", "/", "/foo/", "/"),
            (prefix("/foo"), "/", "/", "/foo", "/"),
            (prefix("/a.b"), "/", "/", "/a.b/c", "/c"),
            (prefix("/"), "/", "/v2", "/x", "/v2/x"),
            (prefix("/"), "/", "/v2/", "/x", "/v2/x"),
            (prefix("/"), "/", "/", "/x", "/x"),
            (prefix("/"), "/api", "/v2/", "/api/x", "/v2/api/x"),
            (prefix("/api"), "/api/v1", "/", "/api/v1/x", "/v1/x"),
            (PathMatch::PrefixString("/foo".to_owned()), "/", "/bar", "/foobar", "/barbar"),
            (PathMatch::Exact("/foo".to_owned()), "/", "/bar/", "/foo", "/bar/"),
        ] {
            assert_eq!(changed(&own, gateway, with, path), expected, "{own:?} {gateway} {with} {path}");
        }
    }
}
