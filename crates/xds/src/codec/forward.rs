//! How a request is forwarded ↔ `RouteAction`.

use envoy_types::pb::{
    envoy::config::{
        core::v3::{self as core, RuntimeFractionalPercent},
        route::v3::{
            RouteAction, WeightedCluster as Weighted,
            route_action::{
                ClusterSpecifier, HashPolicy, HostRewriteSpecifier, RequestMirrorPolicy, UpgradeConfig,
                hash_policy::{Cookie, Header, PolicySpecifier},
            },
            weighted_cluster::{ClusterWeight, RandomValueSpecifier},
        },
    },
    google::protobuf::BoolValue,
};

use super::{
    endpoints::ensure_weights,
    fault, headers,
    matching::{is_token, validate_header_name},
    redirect::{self, validate_authority, validate_change},
    retry,
    routes::Extra,
    wire::{
        At, Checked, duration, ensure, ensure_duration, ensure_fraction, ensure_name, ensure_positive, ensure_unique,
        fraction, need, number, read_duration, read_fraction, read_number, wrong, yes,
    },
};
use crate::snapshot::{Forward, HeaderEdits, Mirror, PathChange, RoutingPriority, Sticky, WeightedCluster};

pub(super) fn validate(forward: &Forward) -> Checked<()> {
    ensure(!forward.clusters.is_empty(), "weighted_clusters", || "is empty".to_owned())?;
    ensure_weights(forward.clusters.iter().map(|cluster| cluster.weight), "weighted_clusters")?;
    forward.clusters.iter().try_for_each(|cluster| ensure_name(&cluster.cluster, "weighted_clusters"))?;
    forward.sticky.as_ref().map_or(Ok(()), |sticky| validate_sticky(sticky).at("hash_policy"))?;
    ensure_duration(forward.timeout, "timeout")?;
    forward.idle_timeout.map_or(Ok(()), |idle| ensure_duration(idle, "idle_timeout"))?;
    if let Some(per_try) = forward.retry.as_ref().and_then(|retry| retry.per_try) {
        ensure_positive(per_try, "retry_policy.per_try_timeout")?;
    }
    if let Some(hedge) = &forward.hedge {
        ensure_duration(hedge.at_most, "hedge.atMost")?;
        ensure(hedge.at_least <= hedge.at_most, "hedge", || "atLeast is above atMost".to_owned())?;
    }
    forward.path.as_ref().map_or(Ok(()), validate_change)?;
    forward.host.as_deref().map_or(Ok(()), |host| validate_authority(host).at("host_rewrite_literal"))?;
    headers::validate(&forward.request_headers).at("request_headers")?;
    headers::validate(&forward.response_headers).at("response_headers")?;
    for mirror in &forward.mirrors {
        ensure_name(&mirror.cluster, "request_mirror_policies")?;
        ensure_fraction(mirror.percent, "request_mirror_policies")?;
    }
    for upgrade in &forward.upgrades {
        // RFC 9110, 7.8: a name, and perhaps a version.
        let fine = upgrade.split('/').all(is_token) && upgrade.matches('/').count() <= 1;
        let lower = !upgrade.bytes().any(|byte| byte.is_ascii_uppercase());
        // A tunnel to wherever the caller says is no upgrade, and HTTP/2 is spoken without one.
        let other = !["connect", "h2c"].contains(&upgrade.as_str());
        ensure(fine && lower && other, "upgrade_configs", || format!("{upgrade:?} is not supported"))?;
    }
    ensure_unique(&forward.upgrades, "upgrade_configs")?;
    for fault in &forward.faults {
        ensure_fraction(fault.percent, "faults")?;
        fault::validate(&fault.action).at("faults")?;
    }
    Ok(())
}

fn validate_sticky(sticky: &Sticky) -> Checked<()> {
    match sticky {
        Sticky::Header(name) => validate_header_name(name),
        Sticky::Cookie { name, ttl } => {
            ensure(is_token(name), "", || format!("{name:?} is not a cookie's name"))?;
            ttl.map_or(Ok(()), |ttl| ensure_duration(ttl, "ttl"))
        }
    }
}

pub(super) fn write(forward: &Forward) -> RouteAction {
    let clusters = forward.clusters.iter().map(|cluster| ClusterWeight {
        name: cluster.cluster.clone(),
        weight: number(cluster.weight),
        ..ClusterWeight::default()
    });
    let by_hash = RandomValueSpecifier::UseHashPolicy(BoolValue { value: true });
    let mut action = RouteAction {
        cluster_specifier: Some(ClusterSpecifier::WeightedClusters(Weighted {
            clusters: clusters.collect(),
            random_value_specifier: forward.sticky.as_ref().map(|_| by_hash),
            ..Weighted::default()
        })),
        timeout: duration(forward.timeout),
        idle_timeout: forward.idle_timeout.and_then(duration),
        retry_policy: forward.retry.as_ref().map(retry::write),
        hash_policy: forward.sticky.iter().map(write_sticky).collect(),
        host_rewrite_specifier: forward.host.clone().map(HostRewriteSpecifier::HostRewriteLiteral),
        request_mirror_policies: forward.mirrors.iter().map(write_mirror).collect(),
        upgrade_configs: forward.upgrades.iter().map(|name| write_upgrade(name)).collect(),
        priority: write_priority(forward.priority).into(),
        ..RouteAction::default()
    };
    match &forward.path {
        None => {}
        Some(PathChange::Prefix(prefix)) => action.prefix_rewrite.clone_from(prefix),
        Some(PathChange::Regex { pattern, with }) => action.regex_rewrite = Some(redirect::write_regex(pattern, with)),
    }
    action
}

/// On a stock Envoy it also decides for a hashing balancer of the cluster, in place of the cluster's own keys.
fn write_sticky(sticky: &Sticky) -> HashPolicy {
    let policy = match sticky {
        Sticky::Header(name) => PolicySpecifier::Header(Header { header_name: name.clone(), regex_rewrite: None }),
        Sticky::Cookie { name, ttl } => PolicySpecifier::Cookie(Cookie {
            name: name.clone(),
            ttl: ttl.and_then(duration),
            path: if ttl.is_some() { "/".to_owned() } else { String::new() },
            ..Cookie::default()
        }),
    };
    HashPolicy { policy_specifier: Some(policy), ..HashPolicy::default() }
}

fn write_mirror(mirror: &Mirror) -> RequestMirrorPolicy {
    RequestMirrorPolicy {
        cluster: mirror.cluster.clone(),
        runtime_fraction: Some(RuntimeFractionalPercent {
            default_value: Some(fraction(mirror.percent)),
            ..RuntimeFractionalPercent::default()
        }),
        ..RequestMirrorPolicy::default()
    }
}

fn write_upgrade(name: &str) -> UpgradeConfig {
    UpgradeConfig { upgrade_type: name.to_owned(), enabled: yes(), ..UpgradeConfig::default() }
}

/// What Envoy's message says; the rest is in the metadata, and changes to headers are the route's.
pub(super) fn read(action: &RouteAction, extra: Extra, edits: [HeaderEdits; 2]) -> Checked<Forward> {
    let Some(ClusterSpecifier::WeightedClusters(weighted)) = &action.cluster_specifier else {
        return wrong("cluster_specifier", "only weighted_clusters are supported");
    };
    let clusters = weighted.clusters.iter().map(|cluster| {
        let weight = read_number(&cluster.weight, "weighted_clusters.weight")?;
        Ok(WeightedCluster { cluster: cluster.name.clone(), weight })
    });
    let retry = action.retry_policy.as_ref();
    let retry = retry.map(|retry| retry::read(retry, extra.non_idempotent).at("retry_policy"));
    let path = match &action.regex_rewrite {
        Some(regex) => Some(redirect::read_regex(regex)?),
        None => (!action.prefix_rewrite.is_empty()).then(|| PathChange::Prefix(action.prefix_rewrite.clone())),
    };
    let host = match &action.host_rewrite_specifier {
        None => None,
        Some(HostRewriteSpecifier::HostRewriteLiteral(host)) => Some(host.clone()),
        Some(_) => return wrong("host_rewrite_specifier", "only host_rewrite_literal is supported"),
    };
    let [request_headers, response_headers] = edits;
    Ok(Forward {
        clusters: clusters.collect::<Checked<_>>()?,
        sticky: action.hash_policy.first().map(|policy| read_sticky(policy).at("hash_policy")).transpose()?,
        timeout: read_duration(&action.timeout, "timeout")?,
        idle_timeout: match &action.idle_timeout {
            Some(_) => Some(read_duration(&action.idle_timeout, "idle_timeout")?),
            None => None,
        },
        retry: retry.transpose()?,
        hedge: extra.hedge,
        path,
        host,
        request_headers,
        response_headers,
        mirrors: action.request_mirror_policies.iter().map(read_mirror).collect::<Checked<_>>()?,
        upgrades: action.upgrade_configs.iter().map(|upgrade| upgrade.upgrade_type.clone()).collect(),
        priority: read_priority(action.priority).at("priority")?,
        faults: extra.faults,
    })
}

pub(super) fn write_priority(priority: RoutingPriority) -> core::RoutingPriority {
    match priority {
        RoutingPriority::Default => core::RoutingPriority::Default,
        RoutingPriority::High => core::RoutingPriority::High,
    }
}

pub(super) fn read_priority(number: i32) -> Checked<RoutingPriority> {
    match core::RoutingPriority::try_from(number) {
        Ok(core::RoutingPriority::Default) => Ok(RoutingPriority::Default),
        Ok(core::RoutingPriority::High) => Ok(RoutingPriority::High),
        Err(_) => wrong("", format!("{number} is not supported")),
    }
}

fn read_sticky(policy: &HashPolicy) -> Checked<Sticky> {
    match &policy.policy_specifier {
        Some(PolicySpecifier::Header(header)) => Ok(Sticky::Header(header.header_name.clone())),
        Some(PolicySpecifier::Cookie(cookie)) => {
            let ttl = match &cookie.ttl {
                Some(_) => Some(read_duration(&cookie.ttl, "ttl")?),
                None => None,
            };
            Ok(Sticky::Cookie { name: cookie.name.clone(), ttl })
        }
        _ => wrong("", "only header and cookie are supported"),
    }
}

fn read_mirror(mirror: &RequestMirrorPolicy) -> Checked<Mirror> {
    let path = "request_mirror_policies.runtime_fraction";
    let percent = read_fraction(&need(&mirror.runtime_fraction, path)?.default_value, path)?;
    Ok(Mirror { cluster: mirror.cluster.clone(), percent })
}
