//! Traffic policy: the service's fields over the mesh's over the defaults.

use std::time::Duration;

use super::{path, positive, upstream};
use crate::{
    config::{ActiveCheck, Detection, Exchange, Hedge, Retries, RetryOn, TrafficPolicy},
    raw,
    read::{At, Cx},
    scalar::{OrOff, Time},
    unit::print_duration,
};

/// How long a try is waited for before it is hedged, where no bound on a try says so.
const LONGEST_PATIENCE: Duration = Duration::from_millis(2500);

/// Bytes that a check sends, and looks for.
const LONGEST_PAYLOAD: usize = 1024;

/// What one manifest says about policy; a `Policy` of the mesh, or the fields of a service.
#[derive(Clone, Copy, Default)]
pub(crate) struct Said<'r> {
    pub timeout: Option<&'r At<Time>>,
    pub idle_timeout: Option<&'r At<Time>>,
    pub retries: Option<&'r At<raw::Retries>>,
    pub hedge: Option<&'r At<OrOff<raw::Hedge>>>,
    pub detection: Option<&'r At<raw::Detection>>,
}

impl<'r> Said<'r> {
    pub(crate) fn by_mesh(policy: Option<&'r At<raw::Policy>>) -> Self {
        let Some(policy) = policy else { return Self::default() };
        Self {
            timeout: policy.timeout.as_ref(),
            idle_timeout: policy.idle_timeout.as_ref(),
            retries: policy.retries.as_ref(),
            hedge: policy.hedge.as_ref(),
            detection: policy.detection.as_ref(),
        }
    }

    pub(crate) fn by_service(service: &'r raw::Service) -> Self {
        Self {
            timeout: service.timeout.as_ref(),
            idle_timeout: service.idle_timeout.as_ref(),
            retries: service.retries.as_ref(),
            hedge: service.hedge.as_ref(),
            detection: service.detection.as_ref(),
        }
    }
}

/// Effective policy. Problems of the mesh's own fields are reported with the mesh, not again with each service:
/// `own` is what the manifest says whose problems are reported now, `base` what it builds on.
pub(crate) fn policy(own: Said<'_>, base: Said<'_>, cx: &mut Cx<'_>) -> TrafficPolicy {
    let timeout = own.timeout.or(base.timeout).map_or(Duration::from_secs(15), |t| t.value.0);
    let idle_timeout = own.idle_timeout.or(base.idle_timeout).map_or(Duration::from_secs(300), |t| t.value.0);
    let retries = retries(own, base, timeout, cx);
    let hedge = hedge(own, base, &retries, cx);
    TrafficPolicy { timeout, idle_timeout, hedge, detection: detection(own, base, cx), retries }
}

/// The shorter of two bounds, where zero is none.
fn shorter(one: Duration, other: Duration) -> Duration {
    match (one.is_zero(), other.is_zero()) {
        (true, _) => other,
        (_, true) => one,
        _ => one.min(other),
    }
}

/// A part of a time in whole microseconds, which is as fine as manifests are, and not 0; no bound has no part.
fn part(time: Duration, divisor: u32) -> Duration {
    if time.is_zero() {
        return time;
    }
    let micros = (time / divisor).as_micros().max(1);
    u64::try_from(micros).map_or(time, Duration::from_micros)
}

/// What a route says over its service's policy: fields that are not written are the service's, and fit into the route's
/// timeout.
pub(crate) fn route_policy(route: &raw::Route, service: &TrafficPolicy, cx: &mut Cx<'_>) -> TrafficPolicy {
    let timeout = route.timeout.as_ref().map_or(service.timeout, |t| t.value.0);
    let idle_timeout = route.idle_timeout.as_ref().map_or(service.idle_timeout, |t| t.value.0);
    let own = Said { timeout: route.timeout.as_ref(), retries: route.retries.as_ref(), ..Said::default() };
    let mut retries = retries(own, Said::default(), timeout, cx);
    let written = route.retries.as_ref();
    if written.is_none_or(|r| r.attempts.is_none()) {
        retries.attempts = service.retries.attempts;
    }
    if written.is_none_or(|r| r.per_try.is_none()) {
        retries.per_try = match timeout.is_zero() && !service.timeout.is_zero() {
            // What the service derived from its own timeout does not bound a route that has none.
            true if service.retries.per_try == part(service.timeout, 3) => Duration::ZERO,
            _ => shorter(service.retries.per_try, timeout),
        };
    }
    if written.is_none_or(|r| r.on.is_none()) {
        retries.on = service.retries.on.clone();
    }
    let own = Said { hedge: route.hedge.as_ref(), ..Said::default() };
    let hedge = match &route.hedge {
        Some(_) => hedge(own, Said::default(), &retries, cx),
        None => service.hedge.as_ref().map(|hedge| Hedge {
            at_least: shorter(hedge.at_least, timeout),
            at_most: shorter(hedge.at_most, timeout),
        }),
    };
    TrafficPolicy { timeout, idle_timeout, retries, hedge, detection: service.detection.clone() }
}

fn retries(own: Said<'_>, base: Said<'_>, timeout: Duration, cx: &mut Cx<'_>) -> Retries {
    let (own_retries, base_retries) = (own.retries.map(|r| &r.value), base.retries.map(|r| &r.value));
    let own_attempts = own_retries.and_then(|r| r.attempts.as_ref());
    if let Some(attempts) = own_attempts.filter(|a| a.value > 10) {
        cx.error("out-of-range", attempts.at, format!("{} repeats are too many", attempts.value))
            .mend("write at most 10");
    }
    let attempts = own_attempts.or(base_retries.and_then(|r| r.attempts.as_ref())).map_or(2, |a| a.value);
    let own_per_try = own_retries.and_then(|r| r.per_try.as_ref());
    let written = own_per_try.or(base_retries.and_then(|r| r.per_try.as_ref()));
    let per_try = match own_per_try {
        Some(time) => time.value.0,
        None => written.map_or_else(|| part(timeout, 3), |t| t.value.0),
    };
    // To be blamed on this manifest only if it wrote one of the two.
    if let (true, Some(at)) = (!timeout.is_zero() && per_try > timeout, own_per_try.or(own.timeout)) {
        let (per_try, timeout) = (print_duration(per_try), print_duration(timeout));
        cx.error(
            "per-try-above-timeout",
            at.at,
            format!("`perTry` ({per_try}) is longer than `timeout` ({timeout}), which bounds all tries"),
        )
        .mend("shorten `perTry` or lengthen `timeout`");
    }
    let on = own_retries.and_then(|r| r.on.as_ref()).or(base_retries.and_then(|r| r.on.as_ref()));
    let all = vec![RetryOn::ConnectFailure, RetryOn::Reset, RetryOn::GatewayError];
    let on = on.map_or(all, |on| {
        let mut classes = Vec::new();
        for class in on.iter() {
            let class = match class.value {
                raw::RetryOn::ConnectFailure => RetryOn::ConnectFailure,
                raw::RetryOn::Reset => RetryOn::Reset,
                raw::RetryOn::GatewayError => RetryOn::GatewayError,
            };
            if !classes.contains(&class) {
                classes.push(class);
            }
        }
        classes
    });
    Retries { attempts, per_try, on }
}

fn hedge(own: Said<'_>, base: Said<'_>, retries: &Retries, cx: &mut Cx<'_>) -> Option<Hedge> {
    if let Some(OrOff::On(hedge)) = own.hedge.map(|h| &h.value) {
        positive(Some(&hedge.at_least), Duration::ZERO, cx);
        if hedge.at_least.value > hedge.at_most.value {
            cx.error("impossible-range", hedge.at_least.at, "`atLeast` is longer than `atMost`").mend("exchange them");
        }
    }
    match own.hedge.or(base.hedge).map(|h| &h.value) {
        Some(OrOff::Off) => None,
        Some(OrOff::On(hedge)) => Some(Hedge { at_least: hedge.at_least.value.0, at_most: hedge.at_most.value.0 }),
        None => {
            // As of the default timeout, where nothing bounds a try.
            let at_most = Some(part(retries.per_try, 2)).filter(|half| !half.is_zero()).unwrap_or(LONGEST_PATIENCE);
            Some(Hedge { at_least: Duration::from_millis(20).min(at_most), at_most })
        }
    }
}

fn detection(own: Said<'_>, base: Said<'_>, cx: &mut Cx<'_>) -> Detection {
    let (own, base) = (own.detection.map(|d| &d.value), base.detection.map(|d| &d.value));
    let own_errors = own.and_then(|d| d.consecutive_errors.as_ref());
    if let Some(At { value: OrOff::On(0), at, .. }) = own_errors {
        cx.error("zero", *at, "0 failures in a row would take every endpoint out").mend("write at least 1, or `off`");
    }
    let consecutive_errors = match own_errors.or(base.and_then(|d| d.consecutive_errors.as_ref())).map(|e| &e.value) {
        Some(OrOff::Off) => None,
        Some(OrOff::On(count)) => Some(*count),
        None => Some(5),
    };
    let time = |of: fn(&raw::Detection) -> Option<&At<Time>>, default: Duration, cx: &mut Cx<'_>| match own.and_then(of)
    {
        Some(time) => positive(Some(time), Duration::ZERO, cx),
        None => base.and_then(of).map_or(default, |t| t.value.0),
    };
    let ejection = time(|d| d.ejection.as_ref(), Duration::from_secs(30), cx);
    let longest_ejection = time(|d| d.longest_ejection.as_ref(), Duration::from_secs(300).max(ejection), cx);
    let interval = time(|d| d.interval.as_ref(), Duration::from_secs(1), cx);
    if let (true, Some(at)) =
        (longest_ejection < ejection, own.and_then(|d| d.longest_ejection.as_ref().or(d.ejection.as_ref())))
    {
        cx.error("impossible-range", at.at, "`ejection` is longer than `longestEjection`").mend("exchange them");
    }
    let own_check = own.and_then(|d| d.active_check.as_ref());
    if let Some(At { value: OrOff::On(check), at, .. }) = own_check {
        judge_check(check, *at, cx);
    }
    let active_check = match own_check.or(base.and_then(|d| d.active_check.as_ref())).map(|c| &c.value) {
        Some(OrOff::Off) => None,
        Some(OrOff::On(check)) => Some(active_check(check)),
        None => Some(active_check(&raw::ActiveCheck {
            http: None,
            grpc: None,
            tcp: None,
            every: None,
            every_without_traffic: None,
            timeout: None,
            unhealthy_after: None,
            healthy_after: None,
        })),
    };
    if let Some(own) = own {
        upstream::judge_rates(own, cx);
    }
    let rate = own.and_then(|d| d.success_rate.as_ref()).or(base.and_then(|d| d.success_rate.as_ref()));
    let failures = own.and_then(|d| d.failure_percentage.as_ref()).or(base.and_then(|d| d.failure_percentage.as_ref()));
    let most = own.and_then(|d| d.ejected_at_most.as_ref()).or(base.and_then(|d| d.ejected_at_most.as_ref()));
    Detection {
        consecutive_errors,
        consecutive_5xx: in_a_row(own, base, |d| d.consecutive_5xx.as_ref(), cx),
        consecutive_local: in_a_row(own, base, |d| d.consecutive_local.as_ref(), cx),
        success_rate: on(rate).map(upstream::success_rate),
        failure_percentage: on(failures).map(upstream::failure_percentage),
        interval,
        ejection,
        longest_ejection,
        ejected_at_most: most.map_or(50, upstream::whole),
        active_check,
    }
}

fn on<T>(written: Option<&At<OrOff<T>>>) -> Option<&T> {
    match written.map(|written| &written.value) {
        Some(OrOff::On(value)) => Some(value),
        Some(OrOff::Off) | None => None,
    }
}

/// A detector of failures in a row that is off unless it is written.
fn in_a_row(
    own: Option<&raw::Detection>,
    base: Option<&raw::Detection>,
    of: fn(&raw::Detection) -> Option<&At<OrOff<u32>>>,
    cx: &mut Cx<'_>,
) -> Option<u32> {
    let written = own.and_then(of);
    if let Some(At { value: OrOff::On(0), at, .. }) = written {
        cx.error("zero", *at, "0 failures in a row would take every endpoint out").mend("write at least 1, or `off`");
    }
    on(written.or(base.and_then(of))).copied()
}

fn judge_check(check: &raw::ActiveCheck, at: crate::tree::Loc, cx: &mut Cx<'_>) {
    if let Some(http) = &check.http {
        path(http, cx);
    }
    let grpc = check.grpc.as_ref();
    if let (true, Some(second)) = (check.http.is_some() || check.tcp.is_some(), grpc) {
        cx.error("choose-one", second.head, "an active check is one of `http`, `grpc`, `tcp`")
            .mend("delete the others");
    }
    match (&check.http, &check.tcp) {
        (Some(_), Some(tcp)) => {
            cx.error("choose-one", tcp.head, "an active check is either `http` or `tcp`").mend("delete one of them");
        }
        (_, Some(At { value: raw::TcpCheck::Connects(false), at, .. })) => {
            cx.error("choose-one", *at, "`tcp: false` checks nothing")
                .mend("write `http: /path`, or `activeCheck: off`");
        }
        (_, Some(At { value: raw::TcpCheck::Exchange(exchange), .. })) => judge_exchange(exchange, cx),
        _ => {}
    }
    let every = positive(check.every.as_ref(), Duration::from_secs(1), cx);
    if !every.is_zero() && every < Duration::from_millis(10) {
        cx.error("out-of-range", at, "checks more often than each 10ms would be a load of their own")
            .mend("write `every: 100ms` or longer");
    }
    positive(check.timeout.as_ref(), every, cx);
    positive(check.every_without_traffic.as_ref(), every, cx);
    for count in [&check.unhealthy_after, &check.healthy_after].into_iter().flatten().filter(|c| c.value == 0) {
        cx.error("zero", count.at, "the count must be at least 1").mend("write 1 or more");
    }
}

fn judge_exchange(exchange: &raw::Exchange, cx: &mut Cx<'_>) {
    let written = [exchange.send.as_ref(), Some(&exchange.receive)].into_iter().flatten();
    for payload in written {
        let count = payload.bytes().len();
        if count == 0 {
            cx.error("no-value", payload.at, "there are no bytes")
                .mend("write what the answer contains; where nothing is to be sent, delete `send`");
        } else if count > LONGEST_PAYLOAD {
            let text = format!("{count} bytes are too many: a check sends, and looks for, at most {LONGEST_PAYLOAD}");
            cx.error("out-of-range", payload.at, text).mend("write fewer: the beginning of an answer says enough");
        }
    }
}

fn active_check(check: &raw::ActiveCheck) -> ActiveCheck {
    let every = check.every.as_ref().map_or(Duration::from_secs(1), |t| t.value.0);
    ActiveCheck {
        http: check.http.as_ref().map(|p| p.value.clone()),
        grpc: check.grpc.as_ref().map(|service| service.value.0.clone()),
        exchange: match check.tcp.as_ref().map(|tcp| &tcp.value) {
            Some(raw::TcpCheck::Exchange(exchange)) => Some(Exchange {
                send: exchange.send.as_ref().map_or(Vec::new(), |send| send.bytes().to_vec()),
                receive: exchange.receive.bytes().to_vec(),
            }),
            Some(raw::TcpCheck::Connects(_)) | None => None,
        },
        every,
        every_without_traffic: check.every_without_traffic.as_ref().map(|t| t.value.0).filter(|other| *other != every),
        timeout: check.timeout.as_ref().map_or(every.min(Duration::from_secs(1)), |t| t.value.0),
        unhealthy_after: check.unhealthy_after.as_ref().map_or(2, |c| c.value),
        healthy_after: check.healthy_after.as_ref().map_or(2, |c| c.value),
    }
}
