//! How a service's endpoints are shared and protected.

use std::time::Duration;

use super::{
    header::{cookie_name, header_name},
    plan::ramp,
    positive,
};
use crate::{
    config::{
        Balancer, Balancing, FailurePercentage, HashKey, Limits, ListenerLimits, Panic, PanicPolicy, Ramp, SlowStart,
        SuccessRate, Thresholds,
    },
    raw,
    read::{At, Cx},
    scalar::OrOff,
    unit::Percent,
};

/// A count of at least 1; the default if it is not written.
fn count(written: Option<&At<u32>>, default: u32, cx: &mut Cx<'_>) -> u32 {
    if let Some(zero) = written.filter(|c| c.value == 0) {
        cx.error("zero", zero.at, "the count must be at least 1").mend("write 1 or more");
    }
    written.map_or(default, |c| c.value)
}

/// A whole number of percents from `least` on; the default if it is not written.
fn percent(written: Option<&At<Percent>>, least: u8, default: u8, cx: &mut Cx<'_>) -> u8 {
    let Some(written) = written else { return default };
    let number = written.value.0;
    if number.fract() != 0.0 || number < f64::from(least) {
        cx.error("out-of-range", written.at, format!("{} is not a whole percentage from {least}%", written.value))
            .mend(format!("write {least}% to 100%, as `{default}%`"));
    }
    whole(written)
}

pub(crate) fn balancing(written: Option<&At<raw::Balancing>>, cx: &mut Cx<'_>) -> Balancing {
    let Some(written) = written else { return Balancing::default() };
    let balancer = match written.balancer.as_ref().map(|b| b.value) {
        Some(raw::Balancer::RoundRobin) => Balancer::RoundRobin,
        None | Some(raw::Balancer::LeastRequest) => Balancer::LeastRequest,
        Some(raw::Balancer::PeakEwma) => Balancer::PeakEwma,
        Some(raw::Balancer::RingHash) => Balancer::RingHash,
        Some(raw::Balancer::Maglev) => Balancer::Maglev,
    };
    let hashing = matches!(balancer, Balancer::RingHash | Balancer::Maglev);
    let slow_start = written.slow_start.as_ref().filter(|s| matches!(s.value, OrOff::On(_)));
    let misplaced = [
        ("choices", written.choices.as_ref().map(|c| c.head), balancer == Balancer::LeastRequest, "leastRequest"),
        ("hash", written.hash.as_ref().filter(|h| !h.is_empty()).map(|h| h.head), hashing, "ringHash` or `maglev"),
        (
            "slowStart",
            slow_start.map(|s| s.head),
            matches!(balancer, Balancer::RoundRobin | Balancer::LeastRequest),
            "roundRobin` or `leastRequest",
        ),
    ];
    for (name, at, fits, balancers) in misplaced {
        if let (Some(at), false) = (at, fits) {
            cx.error("impossible-balancing", at, format!("`{name}` has no effect with this balancer"))
                .mend(format!("delete it, or write `balancer: {balancers}`"));
        }
    }
    let hash: Vec<HashKey> = written.hash.iter().flat_map(|h| h.iter()).filter_map(|key| hash_key(key, cx)).collect();
    if hashing && hash.is_empty() && !written.flawed {
        cx.error("impossible-balancing", written.head, "nothing of a request is hashed: each would go anywhere")
            .mend("add `hash: [{header: x-user}]`");
    }
    if let Some(choices) = written.choices.as_ref().filter(|c| !(2..=100).contains(&c.value)) {
        cx.error("out-of-range", choices.at, "the number of choices must be from 2 to 100").mend("write 2");
    }
    Balancing {
        balancer,
        choices: written.choices.as_ref().map_or(2, |c| c.value),
        hash,
        slow_start: slow_start.and_then(|slow| match &slow.value {
            OrOff::Off => None,
            OrOff::On(slow) => Some(SlowStart {
                window: positive(Some(&slow.window), Duration::ZERO, cx),
                at_least: percent(slow.at_least.as_ref(), 1, 10, cx),
            }),
        }),
        panic: written.panic.as_ref().and_then(|panic| match &panic.value {
            OrOff::Off => None,
            OrOff::On(panic) => Some(Panic {
                below: percent(Some(&panic.below), 1, 50, cx),
                policy: match panic.policy.as_ref().map(|p| p.value) {
                    None | Some(raw::PanicPolicy::Spray) => PanicPolicy::Spray,
                    Some(raw::PanicPolicy::FailFast) => PanicPolicy::FailFast,
                },
            }),
        }),
        ramp: match written.ramp.as_ref().map(|ramp| &ramp.value) {
            None => Some(Ramp::default()),
            Some(OrOff::Off) => None,
            Some(OrOff::On(written)) => {
                let usual = Ramp::default();
                Some(Ramp {
                    steps: written.steps.as_ref().map_or(usual.steps, |steps| ramp(steps, cx)),
                    dwell: positive(written.dwell.as_ref(), usual.dwell, cx),
                })
            }
        },
    }
}

fn hash_key(written: &At<raw::HashKey>, cx: &mut Cx<'_>) -> Option<HashKey> {
    match (&written.header, &written.cookie, &written.source_address) {
        (Some(header), None, None) => Some(HashKey::Header(header_name(header, cx))),
        (None, Some(cookie), None) => Some(HashKey::Cookie(cookie_name(cookie, cx))),
        (None, None, Some(At { value: true, .. })) => Some(HashKey::SourceAddress),
        _ => {
            if !written.flawed {
                cx.error("choose-one", written.head, "a hash key is one of `header`, `cookie`, `sourceAddress: true`")
                    .mend("write exactly one, and a list item for each");
            }
            None
        }
    }
}

pub(crate) fn limits(written: Option<&At<raw::Limits>>, cx: &mut Cx<'_>) -> Limits {
    let Some(written) = written else { return Limits::default() };
    /// What a standby is spared when a herd of proxies keeps connections to it.
    const MOST_STANDBY: u32 = 16;
    let usual = Limits::default();
    let raw::Limits { connections, pending, requests, retry_percent, retries_per_second, .. } = &written.value;
    let bounds = Bounds { connections, pending, requests, retry_percent, retries_per_second };
    if let Some(many) = written.standby_connections.as_ref().filter(|many| many.value > MOST_STANDBY) {
        cx.error("out-of-range", many.at, format!("{} standby connections to each endpoint are too many", many.value))
            .mend(format!("write at most {MOST_STANDBY}"));
    }
    let standby = written.standby_connections.as_ref().and_then(|many| u8::try_from(many.value).ok());
    Limits {
        default: thresholds(&bounds, cx),
        high: written.high.as_ref().map_or(usual.high, |high| {
            let raw::HighLimits { connections, pending, requests, retry_percent, retries_per_second } = &high.value;
            thresholds(&Bounds { connections, pending, requests, retry_percent, retries_per_second }, cx)
        }),
        standby_connections: standby.unwrap_or(usual.standby_connections),
    }
}

/// What is written for one priority, wherever it stands.
struct Bounds<'r> {
    connections: &'r Option<At<u32>>,
    pending: &'r Option<At<u32>>,
    requests: &'r Option<At<u32>>,
    retry_percent: &'r Option<At<Percent>>,
    retries_per_second: &'r Option<At<u32>>,
}

fn thresholds(written: &Bounds<'_>, cx: &mut Cx<'_>) -> Thresholds {
    let usual = Thresholds::default();
    Thresholds {
        connections: count(written.connections.as_ref(), usual.connections, cx),
        pending: count(written.pending.as_ref(), usual.pending, cx),
        requests: count(written.requests.as_ref(), usual.requests, cx),
        retry_percent: percent(written.retry_percent.as_ref(), 0, usual.retry_percent, cx),
        retries_per_second: written.retries_per_second.as_ref().map_or(usual.retries_per_second, |r| r.value),
    }
}

pub(crate) fn listeners(written: Option<&At<raw::Listeners>>, cx: &mut Cx<'_>) -> ListenerLimits {
    /// Of Envoy.
    const MOST_HEADER_BYTES: u32 = 8 * 1024 * 1024;
    let Some(written) = written else { return ListenerLimits::default() };
    let usual = ListenerLimits::default();
    if let Some(large) = written.header_bytes.as_ref().filter(|b| b.value > MOST_HEADER_BYTES) {
        cx.error("out-of-range", large.at, format!("{} bytes of headers are too many", large.value))
            .mend(format!("write at most {MOST_HEADER_BYTES}"));
    }
    if let Some(large) = written.concurrent_streams.as_ref().filter(|s| i32::try_from(s.value).is_err()) {
        cx.error("out-of-range", large.at, format!("HTTP/2 cannot count {} streams", large.value)).mend("write 100");
    }
    ListenerLimits {
        header_bytes: count(written.header_bytes.as_ref(), usual.header_bytes, cx),
        headers: count(written.headers.as_ref(), usual.headers, cx),
        header_timeout: positive(written.header_timeout.as_ref(), usual.header_timeout, cx),
        idle_timeout: positive(written.idle_timeout.as_ref(), usual.idle_timeout, cx),
        connections: count(written.connections.as_ref(), usual.connections, cx),
        concurrent_streams: count(written.concurrent_streams.as_ref(), usual.concurrent_streams, cx),
        body_timeout: written.body_timeout.as_ref().map_or(usual.body_timeout, |time| time.value.0),
        minimum_rate: written.minimum_rate.as_ref().map_or(usual.minimum_rate, |rate| rate.value),
    }
}

/// What a manifest itself wrote of rates. What it has from the mesh was judged there.
pub(crate) fn judge_rates(own: &raw::Detection, cx: &mut Cx<'_>) {
    if let Some(OrOff::On(rate)) = own.success_rate.as_ref().map(|r| &r.value) {
        count(rate.hosts.as_ref(), 1, cx);
        count(rate.requests.as_ref(), 1, cx);
    }
    if let Some(OrOff::On(failures)) = own.failure_percentage.as_ref().map(|f| &f.value) {
        percent(failures.threshold.as_ref(), 1, 85, cx);
        count(failures.hosts.as_ref(), 1, cx);
        count(failures.requests.as_ref(), 1, cx);
    }
    percent(own.ejected_at_most.as_ref(), 1, 50, cx);
}

pub(crate) fn success_rate(written: &raw::SuccessRate) -> SuccessRate {
    SuccessRate {
        factor: written.factor.as_ref().map_or(1900, |f| f.value),
        hosts: written.hosts.as_ref().map_or(5, |h| h.value),
        requests: written.requests.as_ref().map_or(100, |r| r.value),
    }
}

pub(crate) fn failure_percentage(written: &raw::FailurePercentage) -> FailurePercentage {
    FailurePercentage {
        threshold: written.threshold.as_ref().map_or(85, whole),
        hosts: written.hosts.as_ref().map_or(5, |h| h.value),
        requests: written.requests.as_ref().map_or(50, |r| r.value),
    }
}

/// A percentage, 0 to 100, that was judged already.
pub(crate) fn whole(written: &At<Percent>) -> u8 {
    written.value.0 as u8
}
