//! Route tables ↔ `RouteConfiguration`.

use envoy_types::pb::envoy::{
    config::{
        core::v3::{DataSource, data_source::Specifier},
        route::v3::{
            self as pb, DirectResponseAction, HeaderMatcher, RouteConfiguration, header_matcher::HeaderMatchSpecifier,
            route::Action, route_action::ClusterSpecifier, route_match::PathSpecifier, weighted_cluster::ClusterWeight,
        },
    },
    r#type::matcher::v3::{RegexMatcher, StringMatcher, string_matcher::MatchPattern},
};
use serde::{Deserialize, Serialize};

use super::{
    endpoints::ensure_weights,
    retry,
    tls::{exactly, read_exactly},
    wire::{
        At, Checked, duration, ensure, ensure_duration, ensure_name, ensure_positive, ensure_unique, metadata, need,
        number, read_duration, read_metadata, read_number, wrong,
    },
};
use crate::snapshot::{
    Forward, HeaderMatch, HedgePolicy, PathMatch, Route, RouteAction, RouteMatch, RouteTable, VirtualHost,
    WeightedCluster,
};

/// Envoy's default bound on the body of a direct response, in bytes.
const LONGEST_BODY: usize = 4096;

/// What Envoy has no field for; the metadata is absent if there is nothing of it.
#[derive(Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields, default)]
struct Extra {
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    non_idempotent: bool,
    #[serde(skip_serializing_if = "Option::is_none")]
    hedge: Option<HedgePolicy>,
}

pub(super) fn validate(table: &RouteTable) -> Checked<()> {
    ensure_name(&table.name, "name")?;
    ensure_unique(table.hosts.iter().map(|host| &host.name), "virtual_hosts")?;
    ensure_unique(table.hosts.iter().flat_map(|host| &host.domains), "virtual_hosts")?;
    for (index, host) in table.hosts.iter().enumerate() {
        let path = format!("virtual_hosts[{index}]");
        ensure_name(&host.name, "name").at(&path)?;
        ensure(!host.domains.is_empty(), "domains", || "is empty".to_owned()).at(&path)?;
        for domain in &host.domains {
            validate_domain(domain).at(&path)?;
        }
        for (index, route) in host.routes.iter().enumerate() {
            validate_route(route).at(format!("{path}.routes[{index}]"))?;
        }
    }
    Ok(())
}

fn validate_domain(domain: &str) -> Checked<()> {
    let plain = |byte: u8| byte.is_ascii_graphic() && !byte.is_ascii_uppercase() && byte != b'*';
    let fine = domain == "*" || (!domain.is_empty() && domain.bytes().all(plain));
    ensure(fine, "domains", || format!("{domain:?} is neither a lower-case name nor `*`"))
}

fn validate_route(route: &Route) -> Checked<()> {
    let (PathMatch::Exact(path) | PathMatch::Prefix(path)) = &route.matches.path;
    let sendable = path.starts_with('/') && path.bytes().all(|byte| byte.is_ascii_graphic() && byte != b'?');
    ensure(sendable, "match.path", || format!("{path:?} is not a path"))?;
    validate_methods(&route.matches.methods).at("match")?;
    for header in &route.matches.headers {
        let token = |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit() || b"-_.".contains(&byte);
        let fine = !header.name.is_empty() && header.name.bytes().all(token);
        ensure(fine, "match.headers", || format!("{:?} is not a lower-case header name", header.name))?;
    }
    match &route.action {
        RouteAction::Answer { status, body } => {
            ensure((200..600).contains(status), "direct_response.status", || format!("{status} is not supported"))?;
            ensure(body.len() <= LONGEST_BODY, "direct_response.body", || "is above 4096 bytes".to_owned())
        }
        RouteAction::Forward(forward) => validate_forward(forward).at("route"),
    }
}

fn validate_forward(forward: &Forward) -> Checked<()> {
    ensure(!forward.clusters.is_empty(), "weighted_clusters", || "is empty".to_owned())?;
    ensure_weights(forward.clusters.iter().map(|cluster| cluster.weight), "weighted_clusters")?;
    forward.clusters.iter().try_for_each(|cluster| ensure_name(&cluster.cluster, "weighted_clusters"))?;
    ensure_duration(forward.timeout, "timeout")?;
    if let Some(per_try) = forward.retry.as_ref().and_then(|retry| retry.per_try) {
        ensure_positive(per_try, "retry_policy.per_try_timeout")?;
    }
    if let Some(hedge) = &forward.hedge {
        ensure_duration(hedge.at_most, "hedge.atMost")?;
        ensure(hedge.at_least <= hedge.at_most, "hedge", || "atLeast is above atMost".to_owned())?;
    }
    Ok(())
}

pub(super) fn validate_methods(methods: &[String]) -> Checked<()> {
    for method in methods {
        let fine = !method.is_empty() && method.bytes().all(|byte| byte.is_ascii_alphabetic() || byte == b'-');
        ensure(fine, "methods", || format!("{method:?} is not a method"))?;
    }
    Ok(())
}

pub(super) fn write(table: &RouteTable) -> RouteConfiguration {
    RouteConfiguration {
        name: table.name.clone(),
        virtual_hosts: table.hosts.iter().map(write_host).collect(),
        ignore_port_in_host_matching: true,
        ..RouteConfiguration::default()
    }
}

fn write_host(host: &VirtualHost) -> pb::VirtualHost {
    pb::VirtualHost {
        name: host.name.clone(),
        domains: host.domains.clone(),
        routes: host.routes.iter().map(write_route).collect(),
        ..pb::VirtualHost::default()
    }
}

fn write_route(route: &Route) -> pb::Route {
    let (action, extra) = match &route.action {
        RouteAction::Answer { status, body } => (write_answer(*status, body), Extra::default()),
        RouteAction::Forward(forward) => {
            let non_idempotent = forward.retry.as_ref().is_some_and(|retry| retry.non_idempotent);
            (Action::Route(write_forward(forward)), Extra { non_idempotent, hedge: forward.hedge.clone() })
        }
    };
    pb::Route {
        r#match: Some(write_match(&route.matches)),
        metadata: if extra == Extra::default() { None } else { metadata(&extra) },
        action: Some(action),
        ..pb::Route::default()
    }
}

fn write_match(matches: &RouteMatch) -> pb::RouteMatch {
    let headers = matches.headers.iter().map(|header| HeaderMatcher {
        name: header.name.clone(),
        header_match_specifier: Some(match &header.exact {
            Some(value) => HeaderMatchSpecifier::StringMatch(exactly(value)),
            None => HeaderMatchSpecifier::PresentMatch(true),
        }),
        ..HeaderMatcher::default()
    });
    pb::RouteMatch {
        path_specifier: Some(match &matches.path {
            PathMatch::Exact(path) => PathSpecifier::Path(path.clone()),
            PathMatch::Prefix(path) => PathSpecifier::Prefix(path.clone()),
        }),
        headers: write_methods(&matches.methods).into_iter().chain(headers).collect(),
        ..pb::RouteMatch::default()
    }
}

/// "One of these methods": Envoy can only say it as a regular expression. Methods are letters, so nothing is escaped.
pub(super) fn write_methods(methods: &[String]) -> Option<HeaderMatcher> {
    if methods.is_empty() {
        return None;
    }
    let regex = RegexMatcher { regex: methods.join("|"), ..RegexMatcher::default() };
    Some(HeaderMatcher {
        name: ":method".to_owned(),
        header_match_specifier: Some(HeaderMatchSpecifier::StringMatch(StringMatcher {
            match_pattern: Some(MatchPattern::SafeRegex(regex)),
            ..StringMatcher::default()
        })),
        ..HeaderMatcher::default()
    })
}

fn write_answer(status: u16, body: &str) -> Action {
    let body = DataSource { specifier: Some(Specifier::InlineString(body.to_owned())), ..DataSource::default() };
    Action::DirectResponse(DirectResponseAction {
        status: u32::from(status),
        body: Some(body),
        ..DirectResponseAction::default()
    })
}

fn write_forward(forward: &Forward) -> pb::RouteAction {
    let clusters = forward.clusters.iter().map(|cluster| ClusterWeight {
        name: cluster.cluster.clone(),
        weight: number(cluster.weight),
        ..ClusterWeight::default()
    });
    pb::RouteAction {
        cluster_specifier: Some(ClusterSpecifier::WeightedClusters(pb::WeightedCluster {
            clusters: clusters.collect(),
            ..pb::WeightedCluster::default()
        })),
        timeout: duration(forward.timeout),
        retry_policy: forward.retry.as_ref().map(retry::write),
        ..pb::RouteAction::default()
    }
}

pub(super) fn read(table: &RouteConfiguration) -> Checked<RouteTable> {
    let hosts = table.virtual_hosts.iter().enumerate();
    let hosts = hosts.map(|(index, host)| read_host(host).at(format!("virtual_hosts[{index}]")));
    Ok(RouteTable { name: table.name.clone(), hosts: hosts.collect::<Checked<_>>()? })
}

fn read_host(host: &pb::VirtualHost) -> Checked<VirtualHost> {
    let routes = host.routes.iter().enumerate();
    let routes = routes.map(|(index, route)| read_route(route).at(format!("routes[{index}]")));
    Ok(VirtualHost { name: host.name.clone(), domains: host.domains.clone(), routes: routes.collect::<Checked<_>>()? })
}

fn read_route(route: &pb::Route) -> Checked<Route> {
    let matches = read_match(need(&route.r#match, "match")?).at("match")?;
    let extra: Extra = if route.metadata.is_some() { read_metadata(&route.metadata)? } else { Extra::default() };
    let action = match need(&route.action, "action")? {
        Action::Route(action) => RouteAction::Forward(read_forward(action, extra).at("route")?),
        Action::DirectResponse(answer) => read_answer(answer).at("direct_response")?,
        _ => return wrong("action", "only route and direct_response are supported"),
    };
    Ok(Route { matches, action })
}

fn read_match(matches: &pb::RouteMatch) -> Checked<RouteMatch> {
    let path = match &matches.path_specifier {
        Some(PathSpecifier::Path(path)) => PathMatch::Exact(path.clone()),
        Some(PathSpecifier::Prefix(path)) => PathMatch::Prefix(path.clone()),
        _ => return wrong("path_specifier", "only path and prefix are supported"),
    };
    let mut headers = matches.headers.as_slice();
    let mut methods = Vec::new();
    if let Some((first, rest)) = headers.split_first()
        && first.name == ":method"
    {
        methods = read_methods(first).at("headers[0]")?;
        headers = rest;
    }
    Ok(RouteMatch { path, methods, headers: headers.iter().map(read_header).collect::<Checked<_>>()? })
}

pub(super) fn read_methods(matcher: &HeaderMatcher) -> Checked<Vec<String>> {
    let Some(HeaderMatchSpecifier::StringMatch(StringMatcher {
        match_pattern: Some(MatchPattern::SafeRegex(regex)),
        ..
    })) = &matcher.header_match_specifier
    else {
        return wrong("", "methods are only supported as alternatives in a regular expression");
    };
    Ok(regex.regex.split('|').map(str::to_owned).collect())
}

fn read_header(header: &HeaderMatcher) -> Checked<HeaderMatch> {
    let exact = match &header.header_match_specifier {
        Some(HeaderMatchSpecifier::PresentMatch(true)) => None,
        Some(HeaderMatchSpecifier::StringMatch(matcher)) => Some(read_exactly(&Some(matcher.clone()), "headers")?),
        _ => return wrong("headers", format!("{}: only presence and an exact value are supported", header.name)),
    };
    Ok(HeaderMatch { name: header.name.clone(), exact })
}

fn read_answer(answer: &DirectResponseAction) -> Checked<RouteAction> {
    let Ok(status) = u16::try_from(answer.status) else {
        return wrong("status", format!("{} is not supported", answer.status));
    };
    match &need(&answer.body, "body")?.specifier {
        Some(Specifier::InlineString(body)) => Ok(RouteAction::Answer { status, body: body.clone() }),
        _ => wrong("body", "only inline text is supported"),
    }
}

fn read_forward(action: &pb::RouteAction, extra: Extra) -> Checked<Forward> {
    let Some(ClusterSpecifier::WeightedClusters(weighted)) = &action.cluster_specifier else {
        return wrong("cluster_specifier", "only weighted_clusters are supported");
    };
    let clusters = weighted.clusters.iter().map(|cluster| {
        let weight = read_number(&cluster.weight, "weighted_clusters.weight")?;
        Ok(WeightedCluster { cluster: cluster.name.clone(), weight })
    });
    let retry = action.retry_policy.as_ref();
    let retry = retry.map(|retry| retry::read(retry, extra.non_idempotent).at("retry_policy"));
    Ok(Forward {
        clusters: clusters.collect::<Checked<_>>()?,
        timeout: read_duration(&action.timeout, "timeout")?,
        retry: retry.transpose()?,
        hedge: extra.hedge,
    })
}
