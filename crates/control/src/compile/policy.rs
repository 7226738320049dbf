//! What a traffic policy of the manifests is on the wire.

use std::{collections::BTreeSet, time::Duration};

use model::config::{Failback, Hedge, Protocol, Retries, RetryOn, Service, TrafficPolicy};
use xds::snapshot::{
    Forward, HealthCheck, HedgePolicy, OutlierDetection, Ramp, RetryOn as WireRetryOn, RetryPolicy, RouteAction,
    UpstreamProtocol, WeightedCluster,
};

/// Longest time for a connection with its handshake: a second is long inside a region and between near ones.
const LONGEST_CONNECT: Duration = Duration::from_secs(1);
/// Envoy's default for `max_ejection_time`.
const LONGEST_EJECTION: Duration = Duration::from_secs(300);
/// Of a tier's endpoints while there is no later tier: half keeps serving even if all look bad.
const EJECTED_AT_MOST: u8 = 50;

pub(super) fn upstream_protocol(protocol: Protocol) -> UpstreamProtocol {
    match protocol {
        Protocol::Http => UpstreamProtocol::Http1,
        Protocol::Http2 => UpstreamProtocol::Http2,
        Protocol::Tcp => UpstreamProtocol::Tcp,
    }
}

/// What a service's callers may change to. WebSocket begins in HTTP/1.1, as does every hop to a service that speaks it.
pub(super) fn upgrades(protocol: Protocol) -> Vec<String> {
    match protocol {
        Protocol::Http => vec!["websocket".to_owned()],
        Protocol::Http2 | Protocol::Tcp => Vec::new(),
    }
}

pub(super) fn forward(cluster: &str, service: &Service) -> RouteAction {
    let policy = &service.policy;
    RouteAction::Forward(Forward {
        clusters: vec![WeightedCluster { cluster: cluster.to_owned(), weight: 1 }],
        timeout: policy.timeout,
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
        grpc_service: None,
        every: check.every,
        every_without_traffic: None,
        timeout: check.timeout,
        unhealthy_after: check.unhealthy_after,
        healthy_after: check.healthy_after,
    })
}

pub(super) fn outlier(policy: &TrafficPolicy) -> Option<OutlierDetection> {
    policy.detection.consecutive_errors.map(|consecutive_errors| OutlierDetection {
        consecutive_errors,
        base_ejection: policy.detection.ejection,
        max_ejection: LONGEST_EJECTION.max(policy.detection.ejection),
        max_percent: EJECTED_AT_MOST,
        ..OutlierDetection::default()
    })
}

/// Whole percents, rising, ending in 100; `None` if it is at once.
pub(super) fn ramp(failback: &Failback) -> Option<Ramp> {
    let steps = ramp_steps(failback);
    (steps.len() > 1 && !failback.dwell.is_zero()).then_some(Ramp { steps, dwell: failback.dwell })
}

/// The steps of a failback in whole percents, rising, ending in 100.
pub(crate) fn ramp_steps(failback: &Failback) -> Vec<u8> {
    let mut steps: Vec<u8> = failback.ramp.iter().map(|percent| percent.0.round().clamp(1.0, 100.0) as u8).collect();
    steps.push(100);
    steps.sort_unstable();
    steps.dedup();
    steps
}
