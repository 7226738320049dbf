//! How a service's endpoints are shared and protected, as it is written.

use serde_json::{Value, json};

use crate::{
    config::{
        Balancer, Balancing, FailurePercentage, HashKey, Limits, ListenerLimits, PanicPolicy, Ramp, SlowStart,
        SuccessRate, Thresholds,
    },
    unit::print_duration,
};

pub(super) fn balancing(balancing: &Balancing) -> Value {
    let balancer = match balancing.balancer {
        Balancer::RoundRobin => "roundRobin",
        Balancer::LeastRequest => "leastRequest",
        Balancer::PeakEwma => "peakEwma",
        Balancer::RingHash => "ringHash",
        Balancer::Maglev => "maglev",
    };
    let key = |key: &HashKey| match key {
        HashKey::Header(name) => json!({"header": name}),
        HashKey::Cookie(name) => json!({"cookie": name}),
        HashKey::SourceAddress => json!({"sourceAddress": true}),
    };
    let slow =
        |slow: &SlowStart| json!({"window": print_duration(slow.window), "atLeast": format!("{}%", slow.at_least)});
    let ramp = |ramp: &Ramp| {
        let steps: Vec<String> = ramp.steps.iter().map(ToString::to_string).collect();
        json!({"steps": steps, "dwell": print_duration(ramp.dwell)})
    };
    let panic = balancing.panic.as_ref().map_or(json!("off"), |panic| {
        let policy = match panic.policy {
            PanicPolicy::Spray => "spray",
            PanicPolicy::FailFast => "failFast",
        };
        json!({"below": format!("{}%", panic.below), "policy": policy})
    });
    let mut out = json!({
        "balancer": balancer,
        "hash": balancing.hash.iter().map(key).collect::<Vec<_>>(),
        "slowStart": balancing.slow_start.as_ref().map_or(json!("off"), slow),
        "panic": panic,
        "ramp": balancing.ramp.as_ref().map_or(json!("off"), ramp),
    });
    if balancing.balancer == Balancer::LeastRequest {
        out["choices"] = json!(balancing.choices);
    }
    out
}

pub(super) fn limits(limits: &Limits) -> Value {
    let mut out = thresholds(&limits.default);
    out["standbyConnections"] = json!(limits.standby_connections);
    if limits.high != Thresholds::default() {
        out["high"] = thresholds(&limits.high);
    }
    out
}

fn thresholds(thresholds: &Thresholds) -> Value {
    json!({
        "connections": thresholds.connections,
        "pending": thresholds.pending,
        "requests": thresholds.requests,
        "retryPercent": format!("{}%", thresholds.retry_percent),
        "retriesPerSecond": thresholds.retries_per_second,
    })
}

pub(super) fn listeners(limits: &ListenerLimits) -> Value {
    json!({
        "headerBytes": limits.header_bytes,
        "headers": limits.headers,
        "headerTimeout": print_duration(limits.header_timeout),
        "idleTimeout": print_duration(limits.idle_timeout),
        "connections": limits.connections,
        "concurrentStreams": limits.concurrent_streams,
        "bodyTimeout": print_duration(limits.body_timeout),
        "minimumRate": limits.minimum_rate,
    })
}

pub(super) fn success_rate(rate: &SuccessRate) -> Value {
    json!({"factor": rate.factor, "hosts": rate.hosts, "requests": rate.requests})
}

pub(super) fn failure_percentage(failures: &FailurePercentage) -> Value {
    json!({
        "threshold": format!("{}%", failures.threshold),
        "hosts": failures.hosts,
        "requests": failures.requests,
    })
}
