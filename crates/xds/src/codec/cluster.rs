//! Clusters ↔ `Cluster`.

use std::collections::HashMap;

use envoy_types::pb::{
    envoy::{
        config::{
            cluster::v3::{
                self as pb, circuit_breakers,
                cluster::{
                    ClusterDiscoveryType, CommonLbConfig, DiscoveryType, EdsClusterConfig,
                    common_lb_config::{LocalityConfigSpecifier, LocalityWeightedLbConfig},
                },
            },
            core::v3::{Http1ProtocolOptions, Http2ProtocolOptions},
        },
        extensions::upstreams::http::v3::{
            HttpProtocolOptions,
            http_protocol_options::{
                ExplicitHttpConfig, UpstreamProtocolOptions, explicit_http_config::ProtocolConfig,
            },
        },
    },
    google::protobuf,
};
use prost::Name;
use serde::{Deserialize, Serialize};

use super::{
    balancing,
    forward::{read_priority, write_priority},
    health, tls,
    wire::{
        At, Checked, OURS, ads, duration, ensure, ensure_name, ensure_positive, metadata, need, number, pack, percent,
        read_duration, read_metadata, read_number, read_percent, read_transport_socket, same, transport_socket, unpack,
        wrong,
    },
};
use crate::snapshot::{
    Balancer, Balancing, CircuitBreakers, Cluster, ClusterTls, HashKey, PanicPolicy, Ramp, RoutingPriority,
    UpstreamProtocol,
};

/// Envoy's default for `min_retry_concurrency`.
const LEAST_RETRIES: u32 = 3;

/// Our retry budget is a rate with savings of this many seconds. Envoy's counts repeats under way, as a share of the
/// requests under way, and would shrink just when a region dies and every request needs a repeat: it is given our savings
/// as the number that is always allowed at once.
const SAVED_SECONDS: u32 = 10;

/// Standby connections to one endpoint at most.
const MOST_STANDBY: u8 = 16;

/// The rate itself has no field there.
#[derive(Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
struct Extra {
    service: String,
    retries_per_second: u32,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    high_retries_per_second: Option<u32>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    ramp: Option<Ramp>,
    #[serde(default, skip_serializing_if = "is_false")]
    peak_ewma: bool,
    /// Envoy has it only where it balances by zones, which excludes weighted localities.
    #[serde(default, skip_serializing_if = "is_false")]
    fail_fast: bool,
    #[serde(default, skip_serializing_if = "is_zero")]
    standby_connections: u8,
}

fn is_zero(count: &u8) -> bool {
    *count == 0
}

fn is_false(flag: &bool) -> bool {
    !flag
}

pub(super) fn validate(cluster: &Cluster) -> Checked<()> {
    ensure_name(&cluster.name, "name")?;
    ensure_name(&cluster.service, "metadata.firedrill.service")?;
    ensure_positive(cluster.connect_timeout, "connect_timeout")?;
    if let Some(tls) = &cluster.tls {
        ensure_name(&tls.trust, "transport_socket.trust")?;
        // Envoy takes an empty list as "anyone of the trust domain".
        ensure(!tls.server_ids.is_empty(), "transport_socket.server_ids", || "is empty".to_owned())?;
        ensure(tls.server_ids.iter().all(|id| !id.is_empty()), "transport_socket.server_ids", || {
            "an id is empty".to_owned()
        })?;
    }
    ensure(cluster.panic_threshold <= 100, "common_lb_config.healthy_panic_threshold", || "is above 100".to_owned())?;
    balancing::validate(cluster)?;
    for breakers in RoutingPriority::ALL.map(|priority| cluster.breakers_of(priority)) {
        ensure(breakers.retry_percent <= 100, "circuit_breakers.retry_budget", || "is above 100".to_owned())?;
    }
    if let Some(ramp) = &cluster.ramp {
        let rising = ramp.steps.windows(2).all(|pair| pair[0] < pair[1]);
        ensure(rising && ramp.steps.last() == Some(&100), "metadata.firedrill.ramp.steps", || {
            "must rise and end in 100".to_owned()
        })?;
        ensure_positive(ramp.dwell, "metadata.firedrill.ramp.dwell")?;
    }
    let most = if cluster.protocol == UpstreamProtocol::Tcp { 0 } else { MOST_STANDBY };
    ensure(cluster.standby_connections <= most, "metadata.firedrill.standbyConnections", || {
        format!("{} is above {most}; 16 are allowed, and none over TCP", cluster.standby_connections)
    })?;
    cluster
        .health_check
        .iter()
        .try_for_each(|check| health::validate_check(check, cluster.protocol).at("health_checks[0]"))?;
    cluster.outlier.iter().try_for_each(|outlier| health::validate_outlier(outlier).at("outlier_detection"))
}

pub(super) fn write(cluster: &Cluster) -> pb::Cluster {
    let (policy, lb_config) = balancing::write(cluster);
    pb::Cluster {
        name: cluster.name.clone(),
        cluster_discovery_type: Some(ClusterDiscoveryType::Type(DiscoveryType::Eds.into())),
        eds_cluster_config: Some(EdsClusterConfig { eds_config: ads(), ..EdsClusterConfig::default() }),
        connect_timeout: duration(cluster.connect_timeout),
        lb_policy: policy.into(),
        lb_config,
        health_checks: cluster.health_check.iter().map(|check| health::write_check(check, cluster.protocol)).collect(),
        circuit_breakers: Some(write_breakers(cluster)),
        typed_extension_protocol_options: write_protocol(cluster.protocol, &cluster.balancing.hash),
        outlier_detection: cluster.outlier.as_ref().map(health::write_outlier),
        common_lb_config: Some(CommonLbConfig {
            healthy_panic_threshold: percent(cluster.panic_threshold),
            // Health changes take effect at once (Envoy's default gathers them for a second).
            update_merge_window: Some(protobuf::Duration::default()),
            locality_config_specifier: Some(LocalityConfigSpecifier::LocalityWeightedLbConfig(
                LocalityWeightedLbConfig {},
            )),
            ..CommonLbConfig::default()
        }),
        transport_socket: cluster.tls.as_ref().and_then(|tls| write_tls(tls, cluster.protocol)),
        metadata: metadata(&Extra {
            service: cluster.service.clone(),
            retries_per_second: cluster.breakers.retries_per_second,
            high_retries_per_second: cluster.high_breakers.as_ref().map(|high| high.retries_per_second),
            ramp: cluster.ramp.clone(),
            peak_ewma: cluster.balancer == Balancer::PeakEwma,
            fail_fast: cluster.panic_policy == PanicPolicy::FailFast,
            standby_connections: cluster.standby_connections,
        }),
        // Discovery decides who belongs to a service, health does not keep an endpoint that was taken out.
        ignore_health_on_host_removal: true,
        ..pb::Cluster::default()
    }
}

fn write_tls(
    tls: &ClusterTls,
    protocol: UpstreamProtocol,
) -> Option<envoy_types::pb::envoy::config::core::v3::TransportSocket> {
    let alpn: &[&str] = match protocol {
        UpstreamProtocol::Http1 => &["http/1.1"],
        UpstreamProtocol::Http2 => &["h2"],
        UpstreamProtocol::Tcp => &[],
    };
    transport_socket(&tls::write_cluster(tls, alpn))
}

fn write_breakers(cluster: &Cluster) -> pb::CircuitBreakers {
    let high = cluster.high_breakers.iter().map(|high| write_thresholds(RoutingPriority::High, high));
    let default = write_thresholds(RoutingPriority::Default, &cluster.breakers);
    let thresholds = std::iter::once(default).chain(high).collect();
    pb::CircuitBreakers { thresholds, ..pb::CircuitBreakers::default() }
}

fn write_thresholds(priority: RoutingPriority, breakers: &CircuitBreakers) -> circuit_breakers::Thresholds {
    circuit_breakers::Thresholds {
        priority: write_priority(priority).into(),
        max_connections: number(breakers.connections),
        max_pending_requests: number(breakers.pending),
        max_requests: number(breakers.requests),
        retry_budget: Some(circuit_breakers::thresholds::RetryBudget {
            budget_percent: percent(breakers.retry_percent),
            min_retry_concurrency: number(breakers.retries_per_second.saturating_mul(SAVED_SECONDS).max(LEAST_RETRIES)),
            ..circuit_breakers::thresholds::RetryBudget::default()
        }),
        ..circuit_breakers::Thresholds::default()
    }
}

fn write_protocol(protocol: UpstreamProtocol, hash: &[HashKey]) -> HashMap<String, protobuf::Any> {
    let config = match protocol {
        UpstreamProtocol::Tcp => return HashMap::new(),
        UpstreamProtocol::Http1 => ProtocolConfig::HttpProtocolOptions(Http1ProtocolOptions::default()),
        UpstreamProtocol::Http2 => ProtocolConfig::Http2ProtocolOptions(Http2ProtocolOptions {
            // For upgrades, which the route allows or not (RFC 8441).
            allow_connect: true,
            ..Http2ProtocolOptions::default()
        }),
    };
    let options = HttpProtocolOptions {
        upstream_protocol_options: Some(UpstreamProtocolOptions::ExplicitHttpConfig(ExplicitHttpConfig {
            protocol_config: Some(config),
        })),
        hash_policy: balancing::write_keys(hash),
        ..HttpProtocolOptions::default()
    };
    HashMap::from([(HttpProtocolOptions::full_name(), pack(&options))])
}

pub(super) fn read(cluster: &pb::Cluster) -> Checked<Cluster> {
    let extra: Extra = read_metadata(&cluster.metadata)?;
    let (protocol, hash) = read_protocol(cluster).at("typed_extension_protocol_options")?;
    let common = need(&cluster.common_lb_config, "common_lb_config")?;
    let (balancer, balancing) = balancing::read(cluster.lb_policy, cluster.lb_config.as_ref(), extra.peak_ewma)?;
    ensure(cluster.health_checks.len() <= 1, "health_checks", || "only one is supported".to_owned())?;
    let health_check = cluster.health_checks.first().map(|check| health::read_check(check).at("health_checks[0]"));
    let outlier = cluster.outlier_detection.as_ref();
    let outlier = outlier.map(|outlier| health::read_outlier(outlier).at("outlier_detection"));
    let (breakers, high_breakers) = read_breakers(cluster, &extra).at("circuit_breakers")?;
    Ok(Cluster {
        name: cluster.name.clone(),
        service: extra.service,
        protocol,
        connect_timeout: read_duration(&cluster.connect_timeout, "connect_timeout")?,
        balancer,
        balancing: Balancing { hash, ..balancing },
        tls: read_tls(cluster, protocol).at("transport_socket")?,
        health_check: health_check.transpose()?,
        outlier: outlier.transpose()?,
        breakers,
        high_breakers,
        panic_threshold: read_percent(&common.healthy_panic_threshold, "common_lb_config.healthy_panic_threshold")?,
        panic_policy: if extra.fail_fast { PanicPolicy::FailFast } else { PanicPolicy::Spray },
        ramp: extra.ramp,
        standby_connections: extra.standby_connections,
    })
}

fn read_tls(cluster: &pb::Cluster, protocol: UpstreamProtocol) -> Checked<Option<ClusterTls>> {
    let Some(socket) = &cluster.transport_socket else { return Ok(None) };
    let context = read_transport_socket(socket)?;
    let tls = tls::read_cluster(&context).at("typed_config")?;
    let alpn: &[&str] = match protocol {
        UpstreamProtocol::Http1 => &["http/1.1"],
        UpstreamProtocol::Http2 => &["h2"],
        UpstreamProtocol::Tcp => &[],
    };
    same(&context, &tls::write_cluster(&tls, alpn)).at("typed_config")?;
    Ok(Some(tls))
}

fn read_protocol(cluster: &pb::Cluster) -> Checked<(UpstreamProtocol, Vec<HashKey>)> {
    let options = &cluster.typed_extension_protocol_options;
    if options.is_empty() {
        return Ok((UpstreamProtocol::Tcp, Vec::new()));
    }
    let key = HttpProtocolOptions::full_name();
    let Some(any) = options.get(&key) else { return wrong("", "only HttpProtocolOptions are supported") };
    let path = format!("[{key}]");
    let options: HttpProtocolOptions = unpack(any).at(&path)?;
    let protocol = match &options.upstream_protocol_options {
        Some(UpstreamProtocolOptions::ExplicitHttpConfig(config)) => match &config.protocol_config {
            Some(ProtocolConfig::HttpProtocolOptions(_)) => UpstreamProtocol::Http1,
            Some(ProtocolConfig::Http2ProtocolOptions(_)) => UpstreamProtocol::Http2,
            _ => return wrong(path, "only HTTP/1.1 and HTTP/2 are supported"),
        },
        _ => return wrong(path, "only explicit_http_config is supported"),
    };
    let hash = balancing::read_keys(&options.hash_policy).at(&path)?;
    let expected = write_protocol(protocol, &hash);
    if let Some(any) = expected.get(&key) {
        same(&options, &unpack(any)?).at(&path)?;
    }
    Ok((protocol, hash))
}

/// The thresholds of default priority, then those of high priority, if there are any.
fn read_breakers(cluster: &pb::Cluster, extra: &Extra) -> Checked<(CircuitBreakers, Option<CircuitBreakers>)> {
    let thresholds = &need(&cluster.circuit_breakers, "")?.thresholds;
    let Some(default) = thresholds.first() else { return wrong("thresholds", "is missing") };
    let default = read_thresholds(default, RoutingPriority::Default, extra.retries_per_second).at("thresholds[0]")?;
    let Some(high) = thresholds.get(1) else { return Ok((default, None)) };
    let Some(retries_per_second) = extra.high_retries_per_second else {
        return wrong("thresholds[1]", format!("goes with metadata.{OURS}.highRetriesPerSecond only"));
    };
    let high = read_thresholds(high, RoutingPriority::High, retries_per_second).at("thresholds[1]")?;
    Ok((default, Some(high)))
}

fn read_thresholds(
    thresholds: &circuit_breakers::Thresholds,
    priority: RoutingPriority,
    retries_per_second: u32,
) -> Checked<CircuitBreakers> {
    let found = read_priority(thresholds.priority).at("priority")?;
    ensure(found == priority, "priority", || format!("is {}, expected {}", found.name(), priority.name()))?;
    let budget = need(&thresholds.retry_budget, "retry_budget")?;
    Ok(CircuitBreakers {
        connections: read_number(&thresholds.max_connections, "max_connections")?,
        pending: read_number(&thresholds.max_pending_requests, "max_pending_requests")?,
        requests: read_number(&thresholds.max_requests, "max_requests")?,
        retry_percent: read_percent(&budget.budget_percent, "retry_budget.budget_percent")?,
        retries_per_second,
    })
}
