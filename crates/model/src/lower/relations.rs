//! Checks between manifests. A manifest with problems of its own is not blamed for what it lacks: that may be there, but
//! unreadable.

use std::{collections::BTreeMap, time::Duration};

use super::{Piece, Written};
use crate::{
    config::{
        AuthorizationMode, Caller, Config, Drill, Endpoint, Gateway, GuardCondition, Pattern, Place, Principal,
        ProbeKind, Protocol, RecoveryPlan, Service, Trigger,
    },
    name::{RegionName, ServiceName},
    raw,
    read::{At, Cx},
    unit::print_duration,
};

/// Checks everything that needs more than one manifest.
pub(crate) fn check(config: &Config, written: &Written<'_>, cx: &mut Cx<'_>) {
    workloads(config, written, cx);
    for service in config.services.values() {
        if let Some(Piece { spec, flawed, .. }) = written.services.get(&service.name) {
            if !flawed {
                callers(service, spec, config, written, cx);
                limits(service, spec, cx);
            }
            gateways(service, spec, *flawed, config, cx);
        }
    }
    let mut planned: BTreeMap<&ServiceName, &At<ServiceName>> = BTreeMap::new();
    for plan in config.plans.values() {
        if let Some(Piece { spec, .. }) = written.plans.get(&plan.name) {
            for service in spec.services.iter() {
                if let Some(other) = planned
                    .insert(&service.value, service)
                    .filter(|o| o.at != service.at && !spec.services.iter().any(|s| s.at == o.at))
                {
                    let other = cx.place(other.at);
                    cx.error(
                        "service-in-two-plans",
                        service.at,
                        format!(
                            "the service `{}` is in two plans, which would move it against each other",
                            service.value
                        ),
                    )
                    .mend("leave it in one of them")
                    .see(other, "the other plan");
                }
            }
            endpoints(plan, spec, config, written, cx);
            detection(plan, spec, config, written, cx);
        }
    }
    for drill in config.drills.values() {
        if let (Some(Piece { spec, flawed, .. }), Some(plan)) =
            (written.drills.get(&drill.name), config.plans.get(&drill.plan))
        {
            scenario(spec, plan, config, written, cx);
            if !flawed {
                objectives(drill, spec, plan, cx);
            }
        }
    }
}

fn workloads(config: &Config, written: &Written<'_>, cx: &mut Cx<'_>) {
    let mut names: BTreeMap<&str, &ServiceName> = BTreeMap::new();
    for service in config.services.values() {
        let Some(Piece { manifest, .. }) = written.services.get(&service.name) else { continue };
        for endpoint in &service.endpoints {
            let other = names.insert(endpoint.workload.as_str(), &service.name).filter(|other| **other != service.name);
            if let Some(other) = other {
                cx.error(
                    "duplicate-name",
                    manifest.name.at,
                    format!(
                        "the workload `{}` of `{}` would have the same name as one of `{other}`",
                        endpoint.workload, service.name
                    ),
                )
                .mend("rename the service or the region: workloads are named `<service>-<region>-<n>`");
                break;
            }
        }
    }
}

fn is_outside(service: &Service) -> bool {
    !service.endpoints.is_empty() && service.endpoints.iter().all(|e| e.place.is_outside())
}

/// `calls`, `authorization` and `routes` against each other.
fn callers(service: &Service, spec: &raw::Service, config: &Config, written: &Written<'_>, cx: &mut Cx<'_>) {
    let name = &service.name;
    if let (Some(calls), true) = (spec.calls.as_ref().filter(|c| !c.is_empty()), is_outside(service)) {
        cx.warning(
            "calls-without-sidecar",
            calls.head,
            format!("`{name}` has no sidecar, so its calls do not go through the mesh"),
        )
        .mend("delete `calls`, or let the supervisor start the service with `run`");
    }
    if let (Some(authorization), Some(address)) = (&spec.authorization, spec.endpoints.iter().find(|e| e.run.is_none()))
    {
        let address = cx.place(address.at);
        cx.error(
            "authorization-without-sidecar",
            authorization.head,
            format!("nothing can enforce who calls `{name}`: an endpoint with `address` has no sidecar"),
        )
        .mend("delete `authorization`, or let the supervisor start the endpoint with `run`")
        .see(address, "reached without a sidecar");
    }
    for route in spec.routes.iter().flat_map(|r| r.iter()) {
        for caller in route.r#match.iter().flat_map(|m| m.callers.iter()).flat_map(|c| c.iter()) {
            let calls = config.services.iter().find(|(other, _)| other.as_str() == caller.as_str());
            if calls.is_some_and(|(_, other)| !other.calls.contains(name)) {
                let message = format!("`{}` does not call `{name}`", caller.value);
                cx.warning("route-never-used", caller.at, message)
                    .mend(format!("add `{name}` to the `calls` of `{}`, or delete it here", caller.value));
            }
        }
        let Some(when) = &route.when else { continue };
        let calls = config.services.get(&when.caller.value).is_none_or(|c| c.calls.contains(name));
        if !calls {
            cx.warning("route-never-used", when.caller.at, format!("`{}` does not call `{name}`", when.caller.value))
                .mend(format!("add `{name}` to the `calls` of `{}`, or delete the route", when.caller.value));
        }
    }
    let Some(allowed) = &service.authorization.allow else { return };
    let answer = refusal(service);
    for callee in config.services.values().filter(|c| c.calls.contains(name)) {
        if allowed.iter().any(|a| a.from == Principal::Caller(Caller::Service(callee.name.clone()))) {
            continue;
        }
        let Some(Piece { spec: caller, flawed, .. }) = written.services.get(&callee.name) else { continue };
        let Some(call) = caller.calls.iter().flat_map(|c| c.iter()).find(|c| c.value == *name) else { continue };
        if !flawed {
            cx.warning(
                "call-not-allowed",
                call.at,
                format!("`{}` calls `{name}`, but is not allowed to: {answer}", callee.name),
            )
            .mend(format!("add `- {{from: {}}}` to `authorization.allow` of `{name}`", callee.name));
        }
    }
}

/// Limits of requests that there are none of.
fn limits(service: &Service, spec: &raw::Service, cx: &mut Cx<'_>) {
    let high = spec.limits.as_ref().and_then(|limits| limits.high.as_ref());
    if let (Some(high), false) = (high, service.has_high_priority()) {
        cx.warning("limits-never-used", high.head, format!("no route of `{}` has `priority: high`", service.name))
            .mend("add `priority: high` to a route, or delete `high`");
    }
}

/// What comes of a call without a permission.
fn refusal(service: &Service) -> &'static str {
    match service.authorization.mode {
        AuthorizationMode::Enforce => "it will be answered with 403",
        AuthorizationMode::DryRun => "it will be told as one that would be refused",
    }
}

fn gateways(service: &Service, spec: &raw::Service, flawed: bool, config: &Config, cx: &mut Cx<'_>) {
    for gateway in &config.mesh.gateways {
        let routed = gateway.routes.iter().any(|r| r.service == service.name);
        if routed && service.protocol == Protocol::Tcp && service.connect.is_none() {
            let at = spec.protocol.as_ref().map_or(spec.endpoints.head, |p| p.at);
            cx.error("gateway-does-not-fit", at, format!("the gateway `{}` carries HTTP only", gateway.name))
                .mend("write `protocol: http`, or `connect: {}`, or delete the gateway's route");
        }
        behind_prefix(service, spec, gateway, cx);
        let denied = !flawed
            && service.authorization.allow.as_ref().is_some_and(|allow| {
                !allow.iter().any(|a| a.from == Principal::Caller(Caller::Gateway(gateway.name.clone())))
            });
        if let (true, true, Some(authorization)) = (routed, denied, &spec.authorization) {
            cx.warning(
                "call-not-allowed",
                authorization.head,
                format!(
                    "the gateway `{}` routes to `{}`, but is not allowed to call it: {}",
                    gateway.name,
                    service.name,
                    refusal(service)
                ),
            )
            .mend(format!("add `- {{from: {}}}` to `allow`", gateway.name));
        }
        for endpoint in
            spec.endpoints.iter().flat_map(|e| e.address.iter().chain(e.addresses.iter().flat_map(|a| a.iter())))
        {
            if endpoint.value.0 == gateway.listen {
                cx.error(
                    "overlapping-listen",
                    endpoint.at,
                    format!("the gateway `{}` listens on {}: it would call itself", gateway.name, gateway.listen),
                )
                .mend("write the address of the service, or let the gateway listen elsewhere");
            }
        }
    }
}

/// A gateway's prefix and a route's expression would both have to hold of one path, which no proxy can be told.
fn behind_prefix(service: &Service, spec: &raw::Service, gateway: &Gateway, cx: &mut Cx<'_>) {
    let Some(behind) = gateway.routes.iter().find(|r| r.service == service.name && r.prefix != "/") else { return };
    for route in spec.routes.iter().flat_map(|r| r.iter()) {
        let path = route.r#match.as_ref().and_then(|m| m.path.as_ref());
        let Some(regex) = path.and_then(|path| path.regex.as_ref()) else { continue };
        cx.error(
            "pattern-behind-prefix",
            regex.head,
            format!(
                "the gateway `{}` routes `{}` here, which a regular expression cannot go with",
                gateway.name, behind.prefix
            ),
        )
        .mend("match by `prefix` or `exact`, or route all of a gateway (`prefix: /`) to the service");
    }
}

/// Every service of a plan must be where the plan moves it.
fn endpoints(plan: &RecoveryPlan, spec: &raw::RecoveryPlan, config: &Config, written: &Written<'_>, cx: &mut Cx<'_>) {
    let Pattern::ActivePassive { primary, standby, .. } = &plan.pattern;
    for name in spec.services.iter() {
        let (Some(service), Some(Piece { spec: service_spec, flawed, .. })) =
            (config.services.get(&name.value), written.services.get(&name.value))
        else {
            continue;
        };
        if *flawed {
            continue;
        }
        let is_in = |region: &RegionName| service.endpoints.iter().any(|e| e.region == *region);
        for (region, role) in std::iter::once((primary, "primary")).chain(standby.iter().map(|s| (s, "standby"))) {
            if !is_in(region) {
                let there = cx.place(service_spec.endpoints.head);
                cx.error(
                    "no-endpoint",
                    name.at,
                    format!("`{}` has no endpoint in `{region}`, the {role} of this plan", name.value),
                )
                .mend(format!(
                    "add an endpoint with `region: {region}` to the service, or take the service out of the plan"
                ))
                .see(there, "its endpoints");
            }
        }
        let orders = service_spec.routes.iter().flat_map(|r| r.iter()).find_map(|r| r.prefer.as_ref());
        if let Some(prefer) = orders {
            let plan_place = cx.place(name.at);
            cx.error(
                "routes-without-effect",
                prefer.head,
                format!("`prefer` has no effect: the plan `{}` says where callers of `{}` go", plan.name, name.value),
            )
            .mend("delete it, or take the service out of the plan")
            .see(plan_place, "in the plan");
        }
    }
}

/// Number of proxies outside a region that send a service requests: its callers' sidecars, and gateways.
fn observers(config: &Config, service: &ServiceName, region: &RegionName) -> usize {
    let started = |e: &&Endpoint| matches!(e.place, Place::Run(_)) && e.region != *region;
    let callers = config.services.values().filter(|caller| caller.calls.contains(service));
    let sidecars: usize = callers.map(|caller| caller.endpoints.iter().filter(started).count()).sum();
    let gateways = config.mesh.gateways.iter().filter(|g| g.routes.iter().any(|route| route.service == *service));
    sidecars + gateways.count()
}

/// Failover that nothing can trigger is refused, not left to be found in a disaster.
fn detection(plan: &RecoveryPlan, spec: &raw::RecoveryPlan, config: &Config, written: &Written<'_>, cx: &mut Cx<'_>) {
    for name in spec.services.iter() {
        let Some(service) = config.services.get(&name.value) else { continue };
        let detection = &service.policy.detection;
        let passive = [detection.consecutive_errors, detection.consecutive_5xx, detection.consecutive_local];
        let rates = detection.success_rate.is_some() || detection.failure_percentage.is_some();
        if passive.iter().any(Option::is_some) || rates || detection.active_check.is_some() {
            continue;
        }
        let off = written.services.get(&name.value).and_then(|p| p.spec.detection.as_ref());
        let place = off.map(|d| cx.place(d.head));
        let problem = cx
            .error(
                "no-detection",
                name.at,
                format!(
                    "nothing detects that `{}` is lost: `consecutiveErrors` and `activeCheck` are both off",
                    name.value
                ),
            )
            .mend("turn one of them on in the service's `detection`, or in the mesh's `defaults`");
        if let Some(place) = place {
            problem.see(place, "turned off here");
        }
    }
    if let Some(quorum) = spec.failover.quorum.as_ref().filter(|quorum| quorum.value > 0) {
        for name in spec.services.iter() {
            let observers = observers(config, &name.value, plan.primary());
            if observers > 0 && usize::try_from(quorum.value).is_ok_and(|quorum| quorum > observers) {
                let service = cx.place(name.at);
                cx.error(
                    "quorum-out-of-reach",
                    quorum.at,
                    format!(
                        "{observers} {} outside `{}` sends `{}` requests, so {} can never agree that it is lost",
                        if observers == 1 { "proxy" } else { "proxies" },
                        plan.primary(),
                        name.value,
                        quorum.value
                    ),
                )
                .mend(format!("write at most {observers}, or delete it: the default is a majority"))
                .see(service, "the service");
                break;
            }
        }
    }
    if let (Trigger::Automatic { unhealthy_for }, Some(asked)) = (plan.failover.trigger, plan.objectives.recovery_time)
        && unhealthy_for >= asked
        && let Some(at) = &spec.failover.trigger
    {
        let (waits, asked) = (print_duration(unhealthy_for), print_duration(asked));
        cx.warning(
            "objective-out-of-reach",
            at.at,
            format!("failover waits for {waits}, and recovery shall take at most {asked}"),
        )
        .mend("shorten `unhealthyFor`");
    }
}

fn scenario(spec: &raw::Drill, plan: &RecoveryPlan, config: &Config, written: &Written<'_>, cx: &mut Cx<'_>) {
    let Pattern::ActivePassive { primary, .. } = &plan.pattern;
    for step in spec.scenario.iter() {
        if let Some(lose) = &step.lose {
            let region = &lose.region.value;
            let how = lose.how.as_ref().map_or(raw::LoseHow::Kill, |h| h.value);
            let all = || config.services.values().flat_map(|s| &s.endpoints).filter(|e| e.region == *region);
            let outside = all().find(|e| e.place.is_outside());
            if let (raw::LoseHow::Kill | raw::LoseHow::Pause, Some(outside)) = (how, outside) {
                let (at, word) = (
                    lose.how.as_ref().map_or(lose.region.at, |h| h.at),
                    if how == raw::LoseHow::Kill { "killed" } else { "paused" },
                );
                cx.error(
                    "cannot-lose",
                    at,
                    format!("`{region}` cannot be {word}: `{}` runs outside the mesh (`address`)", outside.workload),
                )
                .mend("write `how: partition`, or break it yourself by a `run` step with `undo`");
            }
            if config.mesh.regions.contains(region) && region != primary {
                cx.warning(
                    "not-the-primary",
                    lose.region.at,
                    format!("`{region}` is not the primary of the plan `{}`, so nothing has to fail over", plan.name),
                )
                .mend(format!("write `region: {primary}` to put the plan to the test"));
            }
        }
        let Some(fault) = &step.fault else { continue };
        let Some((region, service)) = fault.region.as_ref().zip(config.services.get(&fault.to.value)) else { continue };
        if !written.services.get(&service.name).is_none_or(|p| p.flawed)
            && !service.endpoints.iter().any(|e| e.region == region.value)
            && config.mesh.regions.contains(&region.value)
        {
            cx.error(
                "no-endpoint",
                region.at,
                format!("`{}` has no endpoint in `{}`: the fault would hit nothing", service.name, region.value),
            )
            .mend("name a region in which it has one, or delete `region`");
        }
    }
}

/// Requests of one attempt that can be sealed: a bundle of more would not be read again.
const MOST_REQUESTS: f64 = 20_000_000.0;
/// Beyond what manifests say, probes run at most for this long: until what was lost is back and objectives hold again.
const AROUND: Duration = Duration::from_secs(240);

/// Whether what the probes send can be sealed.
fn volume(drill: &Drill, spec: &raw::Drill, plan: &RecoveryPlan, cx: &mut Cx<'_>) {
    let failback = &plan.failback;
    let ramp = failback.dwell.saturating_mul(u32::try_from(failback.ramp.len()).unwrap_or(u32::MAX));
    let steps = failback.steps.iter().fold(Duration::ZERO, |sum, step| sum.saturating_add(step.timeout));
    let sustain = plan.objectives.sustain.saturating_mul(3);
    let parts = [drill.baseline, drill.hold, ramp, steps, sustain, AROUND];
    let longest = parts.into_iter().fold(Duration::ZERO, Duration::saturating_add);
    let rate: f64 = drill.probes.iter().map(|probe| probe.rate.0).sum();
    if rate * longest.as_secs_f64() > MOST_REQUESTS {
        let most = MOST_REQUESTS / longest.as_secs_f64();
        cx.error(
            "too-many-requests",
            spec.probes.head,
            format!(
                "the probes send {rate} requests a second for up to {:.0} s, and an attempt with more than 20 million cannot \
                 be sealed",
                longest.as_secs_f64()
            ),
        )
        .mend(format!("let all probes together send at most {most:.0}/s, or shorten `hold`"));
    }
}

/// What the drill can show against what the plan asks.
fn objectives(drill: &Drill, spec: &raw::Drill, plan: &RecoveryPlan, cx: &mut Cx<'_>) {
    let asked = &plan.objectives;
    let written: Vec<_> = spec.guards.iter().flat_map(|g| g.iter()).collect();
    // One that was refused is left out of the drill, and then they cannot be paired.
    let paired = if written.len() == drill.guards.len() { &drill.guards[..] } else { &[] };
    for (guard, judged) in written.into_iter().zip(paired) {
        match &judged.condition {
            GuardCondition::SuccessRateBelow { percent, .. } if *percent >= asked.success_rate => {
                let at = guard.success_rate.as_ref().map_or(guard.head, |s| s.at);
                cx.error(
                    "guard-above-objective",
                    at,
                    format!("the guard trips below {percent}, but the plan is content with {}", asked.success_rate),
                )
                .mend("write a lower percentage: a guard stops harm, objectives judge");
            }
            GuardCondition::LatencyP99Above { latency, .. } if asked.latency_p99.is_some_and(|l| *latency <= l) => {
                let at = guard.latency_p99.as_ref().map_or(guard.head, |s| s.at);
                let content = asked.latency_p99.map(print_duration).unwrap_or_default();
                cx.error(
                    "guard-above-objective",
                    at,
                    format!(
                        "the guard trips above {}, but the plan is content with {content}",
                        print_duration(*latency)
                    ),
                )
                .mend("write a longer latency: a guard stops harm, objectives judge");
            }
            _ => {}
        }
    }
    volume(drill, spec, plan, cx);
    if let Some(bound) = asked.recovery_time {
        for probe in drill.probes.iter().filter(|probe| probe.timeout > bound) {
            let written = spec.probes.iter().find(|written| written.name.value == probe.name);
            let at =
                written.map_or(spec.probes.head, |written| written.timeout.as_ref().map_or(written.head, |t| t.at));
            let (timeout, bound) = (print_duration(probe.timeout), print_duration(bound));
            cx.warning(
                "probe-too-patient",
                at,
                format!("the probe waits {timeout} for an answer, and `recoveryTime` is {bound}: an answer that comes later than that is no success"),
            )
            .mend(format!("write `timeout: {bound}` or shorter"));
        }
    }
    let needed = asked.recovery_time.unwrap_or_default().saturating_add(asked.sustain);
    if drill.hold < needed {
        let at = spec.hold.as_ref().map_or(spec.plan.at, |h| h.at);
        let (hold, needed) = (print_duration(drill.hold), print_duration(needed));
        cx.warning("hold-too-short", at, format!("a recovery in time may not be seen: the fault is held for {hold}, `recoveryTime` and `sustain` take {needed}"))
            .mend(format!("write `hold: {needed}` or longer"));
    }
    let writes = drill.probes.iter().any(|p| matches!(p.kind, ProbeKind::Writes { .. }));
    if asked.data_loss.is_some() && !writes {
        cx.warning(
            "loss-not-measured",
            spec.probes.head,
            format!("the plan `{}` has an objective for `dataLoss`, and no probe writes", plan.name),
        )
        .mend("add a probe with `writes`, or the objective is not judged");
    }
}
