//! What a traffic policy of the manifests is on the wire.

use std::{collections::BTreeSet, time::Duration};

use model::{
    config::{self, Failback, Hedge, ListenerLimits, Protocol, Retries, RetryOn, Service, Thresholds, TrafficPolicy},
    unit::Percent,
};
use xds::snapshot::{
    Balancer, Balancing, CircuitBreakers, Cluster, Exchange, FailurePercentage, Forward, HashKey, HealthCheck,
    HedgePolicy, Limits, OutlierDetection, PanicPolicy, Ramp, RetryOn as WireRetryOn, RetryPolicy, RouteAction,
    STREAM_IDLE, SlowStart, SuccessRate, UpstreamProtocol, WeightedCluster,
};

/// Longest time for a connection with its handshake: a second is long inside a region and between near ones.
const LONGEST_CONNECT: Duration = Duration::from_secs(1);

pub(super) fn upstream_protocol(protocol: Protocol) -> UpstreamProtocol {
    match protocol {
        Protocol::Http => UpstreamProtocol::Http1,
        Protocol::Http2 => UpstreamProtocol::Http2,
        Protocol::Tcp => UpstreamProtocol::Tcp,
    }
}

/// What a service's callers may change to: in HTTP/1.1 with `Upgrade`, in HTTP/2 with an extended CONNECT. An endpoint that
/// takes none says so, and the caller is told.
pub(super) fn upgrades(protocol: Protocol) -> Vec<String> {
    match protocol {
        Protocol::Http | Protocol::Http2 => vec!["websocket".to_owned()],
        Protocol::Tcp => Vec::new(),
    }
}

/// What is as in Envoy is left out.
pub(super) fn stream_idle(idle: Duration) -> Option<Duration> {
    Some(idle).filter(|idle| *idle != STREAM_IDLE)
}

pub(super) fn forward(cluster: &str, service: &Service) -> RouteAction {
    let policy = &service.policy;
    RouteAction::Forward(Forward {
        clusters: vec![WeightedCluster { cluster: cluster.to_owned(), weight: 1 }],
        timeout: policy.timeout,
        idle_timeout: stream_idle(policy.idle_timeout),
        retry: retry(&policy.retries),
        hedge: policy.hedge.as_ref().map(hedge),
        upgrades: upgrades(service.protocol),
        ..Forward::default()
    })
}

pub(super) fn hedge(hedge: &Hedge) -> HedgePolicy {
    HedgePolicy { at_least: hedge.at_least, at_most: hedge.at_most }
}

pub(super) fn retry(retries: &Retries) -> Option<RetryPolicy> {
    let mut on = BTreeSet::new();
    for class in &retries.on {
        match class {
            // Both mean that nothing was sent.
            RetryOn::ConnectFailure => on.extend([WireRetryOn::ConnectFailure, WireRetryOn::RefusedStream]),
            RetryOn::Reset => on.extend([WireRetryOn::Reset]),
            RetryOn::GatewayError => on.extend([WireRetryOn::GatewayError]),
        }
    }
    (retries.attempts > 0 && !on.is_empty()).then(|| RetryPolicy {
        attempts: retries.attempts,
        per_try: Some(retries.per_try).filter(|bound| !bound.is_zero()),
        on,
        non_idempotent: false,
    })
}

/// A connection may take as long as a try may.
pub(super) fn connect_timeout(policy: &TrafficPolicy) -> Duration {
    let bounds = [policy.retries.per_try, policy.timeout];
    bounds.into_iter().filter(|bound| !bound.is_zero()).fold(LONGEST_CONNECT, Duration::min)
}

pub(super) fn health_check(policy: &TrafficPolicy) -> Option<HealthCheck> {
    policy.detection.active_check.as_ref().map(|check| HealthCheck {
        http_path: check.http.clone(),
        grpc_service: check.grpc.clone(),
        exchange: check
            .exchange
            .as_ref()
            .map(|said| Exchange { send: said.send.clone(), receive: said.receive.clone() }),
        every: check.every,
        every_without_traffic: check.every_without_traffic,
        timeout: check.timeout,
        unhealthy_after: check.unhealthy_after,
        healthy_after: check.healthy_after,
    })
}

/// `None` when no detector is on.
pub(super) fn outlier(policy: &TrafficPolicy) -> Option<OutlierDetection> {
    let detection = &policy.detection;
    let made = OutlierDetection {
        consecutive_errors: detection.consecutive_errors.unwrap_or(0),
        consecutive_5xx: detection.consecutive_5xx,
        consecutive_local: detection.consecutive_local,
        success_rate: detection.success_rate.as_ref().map(|rate| SuccessRate {
            hosts: rate.hosts,
            requests: rate.requests,
            factor: rate.factor,
        }),
        failure_percentage: detection.failure_percentage.as_ref().map(|failures| FailurePercentage {
            threshold: failures.threshold,
            hosts: failures.hosts,
            requests: failures.requests,
        }),
        interval: detection.interval,
        base_ejection: detection.ejection,
        max_ejection: detection.longest_ejection,
        max_percent: detection.ejected_at_most,
    };
    let counts = made.consecutive_errors > 0 || made.consecutive_5xx.is_some() || made.consecutive_local.is_some();
    (counts || made.success_rate.is_some() || made.failure_percentage.is_some()).then_some(made)
}

/// What of a service's cluster is about sharing its endpoints and protecting them.
pub(super) fn shared(cluster: Cluster, service: &Service) -> Cluster {
    let balancing = &service.balancing;
    let balancer = match balancing.balancer {
        config::Balancer::RoundRobin => Balancer::RoundRobin,
        config::Balancer::LeastRequest => Balancer::LeastRequest,
        config::Balancer::PeakEwma => Balancer::PeakEwma,
        config::Balancer::RingHash => Balancer::RingHash,
        config::Balancer::Maglev => Balancer::Maglev,
    };
    let key = |key: &config::HashKey| match key {
        config::HashKey::Header(name) => HashKey::Header(name.clone()),
        config::HashKey::Cookie(name) => HashKey::Cookie(name.clone()),
        config::HashKey::SourceAddress => HashKey::SourceAddress,
    };
    let slow = |slow: &config::SlowStart| SlowStart { window: slow.window, aggression: 1.0, at_least: slow.at_least };
    let config::Limits { default, high, standby_connections: _ } = &service.limits;
    Cluster {
        balancer,
        balancing: Balancing {
            choices: balancing.choices,
            hash: balancing.hash.iter().map(key).collect(),
            slow_start: balancing.slow_start.as_ref().map(slow),
            ..Balancing::default()
        },
        breakers: breakers(default),
        // An Envoy that is told nothing of them has 3 retries at once, which a dying region uses up.
        high_breakers: service.has_high_priority().then(|| breakers(high)),
        // By default endpoints that are known to be down get nothing: the caller sees a fast 503 instead of a slow one.
        panic_threshold: balancing.panic.as_ref().map_or(0, |panic| panic.below),
        panic_policy: match balancing.panic.as_ref().map(|panic| panic.policy) {
            None | Some(config::PanicPolicy::Spray) => PanicPolicy::Spray,
            Some(config::PanicPolicy::FailFast) => PanicPolicy::FailFast,
        },
        ..cluster
    }
}

fn breakers(thresholds: &Thresholds) -> CircuitBreakers {
    let Thresholds { connections, pending, requests, retry_percent, retries_per_second } = *thresholds;
    CircuitBreakers { connections, pending, requests, retry_percent, retries_per_second }
}

/// Bounds on what callers may send.
pub(super) fn listener_limits(limits: &ListenerLimits) -> Limits {
    let ListenerLimits {
        header_bytes,
        headers,
        header_timeout,
        idle_timeout,
        connections,
        concurrent_streams,
        body_timeout,
        minimum_rate,
    } = *limits;
    Limits {
        header_bytes,
        headers,
        header_timeout,
        idle_timeout,
        connections,
        concurrent_streams,
        body_timeout,
        minimum_rate,
    }
}

/// How a tier comes back: as its plan says, else as the service does; `None` if it is at once.
pub(super) fn ramp(plan: Option<&Failback>, service: &Service) -> Option<Ramp> {
    let (steps, dwell) = match plan {
        Some(failback) => (ramp_steps(failback), failback.dwell),
        None => service.balancing.ramp.as_ref().map(|ramp| (whole(&ramp.steps), ramp.dwell))?,
    };
    (steps.len() > 1 && !dwell.is_zero()).then_some(Ramp { steps, dwell })
}

/// The steps of a failback in whole percents, rising, ending in 100.
pub(crate) fn ramp_steps(failback: &Failback) -> Vec<u8> {
    whole(&failback.ramp)
}

fn whole(steps: &[Percent]) -> Vec<u8> {
    let mut steps: Vec<u8> = steps.iter().map(|percent| percent.0.round().clamp(1.0, 100.0) as u8).collect();
    steps.push(100);
    steps.sort_unstable();
    steps.dedup();
    steps
}
