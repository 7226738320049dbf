//! What proxies are told to break.

use std::time::Duration;

use super::{World, caller::caller, method, no_repeats, not_empty, path, positive};
use crate::{
    config::{Delay, Fault, FaultAction, FaultStep, PartitionStep, TlsFault, Way},
    name::ServiceName,
    raw,
    read::{At, Cx},
    unit::Percent,
};

pub(crate) fn requests(written: &At<raw::Fault>, world: &World, cx: &mut Cx<'_>) -> Option<Fault> {
    if let Some(zero) = written.percent.as_ref().filter(|p| p.value.0 <= 0.0) {
        cx.error("zero", zero.at, "a fault on 0% of requests does nothing")
            .mend("write a percentage above 0, or delete it for all");
    }
    let action = action(written, cx);
    let region = match &written.region {
        None => None,
        Some(region) => Some(world.region(region, cx)?),
    };
    let from = match &written.from {
        None => None,
        Some(from) => Some(caller(from, world, cx)?),
    };
    Some(Fault::Requests(FaultStep {
        service: world.service(&written.to, cx)?,
        from,
        region,
        path: written.path.as_ref().map(|p| path(p, cx)),
        method: written.method.as_ref().and_then(|m| method(m, m.at, cx)),
        header: written.header.as_ref().and_then(|h| super::header::pair(h, cx)),
        percent: written.percent.as_ref().map_or(Percent(100.0), |p| p.value),
        action: action?,
    }))
}

/// What a fault of a service's route does.
pub(crate) fn standing(
    written: &At<raw::RouteFault>,
    service: &At<ServiceName>,
    cx: &mut Cx<'_>,
) -> Option<FaultAction> {
    let raw::RouteFault { percent, delay, abort, abort_grpc, refuse, reset, reset_after, .. } = written.value.clone();
    let raw::RouteFault { blackhole, drop_connect, bandwidth, truncate, dns, tls, .. } = written.value.clone();
    let value = raw::Fault {
        to: service.clone(),
        from: None,
        region: None,
        path: None,
        method: None,
        header: None,
        percent,
        delay,
        abort,
        abort_grpc,
        refuse,
        reset,
        reset_after,
        blackhole,
        drop_connect,
        bandwidth,
        truncate,
        dns,
        tls,
    };
    action(&At { value, at: written.at, head: written.head, flawed: written.flawed }, cx)
}

fn action(written: &At<raw::Fault>, cx: &mut Cx<'_>) -> Option<FaultAction> {
    let flags = [
        ("refuse", &written.refuse, FaultAction::Refuse),
        ("reset", &written.reset, FaultAction::Reset),
        ("blackhole", &written.blackhole, FaultAction::Blackhole),
        ("dropConnect", &written.drop_connect, FaultAction::DropConnect),
        ("dns", &written.dns, FaultAction::Dns),
    ];
    let mut actions: Vec<FaultAction> = Vec::new();
    for (name, flag, action) in flags {
        let Some(flag) = flag else { continue };
        if !flag.value {
            cx.error("choose-one", flag.at, format!("`{name}: false` does nothing")).mend("delete it");
        }
        actions.push(action);
    }
    let delays = written.delay.as_ref().map(|d| delay(d, cx));
    actions.extend(delays.map(FaultAction::Delay));
    actions.extend(written.abort.as_ref().map(|s| FaultAction::Abort(status(s, cx))));
    actions.extend(written.abort_grpc.as_ref().map(|s| FaultAction::AbortGrpc(grpc_status(s, cx))));
    actions.extend(written.reset_after.as_ref().map(|b| FaultAction::ResetAfter(b.value.into())));
    actions.extend(written.truncate.as_ref().map(|b| FaultAction::Truncate(b.value.into())));
    if let Some(bandwidth) = &written.bandwidth {
        if bandwidth.value == 0 {
            cx.error("zero", bandwidth.at, "with 0 bytes in a second nothing passes").mend("write `blackhole: true`");
        }
        actions.push(FaultAction::Bandwidth(bandwidth.value.into()));
    }
    actions.extend(written.tls.as_ref().map(|why| {
        FaultAction::Tls(match why.value {
            raw::TlsFault::Expired => TlsFault::Expired,
            raw::TlsFault::Untrusted => TlsFault::Untrusted,
            raw::TlsFault::WrongIdentity => TlsFault::WrongIdentity,
        })
    }));
    let mut actions = actions.into_iter();
    if let (Some(action), None) = (actions.next(), actions.next()) {
        return Some(action);
    }
    if !written.flawed {
        let all = "a fault is one of `delay`, `abort`, `abortGrpc`, `refuse`, `reset`, `resetAfter`, `blackhole`, \
                   `dropConnect`, `bandwidth`, `truncate`, `dns`, `tls`";
        cx.error("choose-one", written.head, all).mend("write exactly one, as `abort: 503`, and a list item for each");
    }
    None
}

fn status(status: &At<u16>, cx: &mut Cx<'_>) -> u16 {
    if !(400..=599).contains(&status.value) {
        cx.error("out-of-range", status.at, format!("{} is not the status of a failure", status.value))
            .mend("write 400 to 599, as `abort: 503`");
    }
    status.value
}

fn grpc_status(status: &At<u16>, cx: &mut Cx<'_>) -> u8 {
    match u8::try_from(status.value) {
        Ok(code @ 1..=16) => code,
        _ => {
            cx.error("out-of-range", status.at, format!("{} is not the gRPC status of a failure", status.value))
                .mend("write 1 to 16, as `abortGrpc: 14` for UNAVAILABLE");
            1
        }
    }
}

fn delay(written: &At<raw::Delay>, cx: &mut Cx<'_>) -> Delay {
    let varying = match &written.value {
        raw::Delay::Fixed(time) => return Delay::Fixed(positive(Some(time), Duration::ZERO, cx)),
        raw::Delay::Varying(varying) => varying,
    };
    let raw::Varying { mean, deviation, base, spike, percent } = varying;
    match (mean, deviation, base, spike, percent) {
        (Some(mean), Some(deviation), None, None, None) => {
            Delay::Normal { mean: mean.value.0, deviation: deviation.value.0 }
        }
        (None, None, Some(base), Some(spike), Some(percent)) => {
            Delay::Spike { base: base.value.0, spike: spike.value.0, percent: percent.value }
        }
        _ => {
            if !written.flawed {
                cx.error(
                    "choose-one",
                    written.head,
                    "a varying delay has either `mean` and `deviation`, or `base`, `spike` and `percent`",
                )
                .mend("write `delay: {mean: 100ms, deviation: 20ms}`, or `delay: {base: 5ms, spike: 1s, percent: 1%}`");
            }
            Delay::Fixed(Duration::ZERO)
        }
    }
}

pub(crate) fn partition(written: &At<raw::Partition>, world: &World, cx: &mut Cx<'_>) -> Option<Fault> {
    not_empty(&written.regions, "a partition needs a region on one side", cx);
    let from = written.from.as_ref().map_or(&[][..], |from| &from.value[..]);
    no_repeats(&written.regions, "region", cx);
    no_repeats(from, "region", cx);
    if let Some(both) = from.iter().find(|name| written.regions.iter().any(|other| other.value == name.value)) {
        cx.error("impossible-partition", both.at, format!("region `{}` is on both sides", both.value))
            .mend("delete it on one side");
    }
    let mut known = |names: &[At<crate::name::RegionName>]| -> Option<Vec<_>> {
        names.iter().map(|name| world.region(name, cx)).collect()
    };
    let way = match written.way.as_ref().map(|way| way.value) {
        None | Some(raw::Way::Both) => Way::Both,
        Some(raw::Way::To) => Way::To,
        Some(raw::Way::From) => Way::From,
    };
    Some(Fault::Partition(PartitionStep { regions: known(&written.regions)?, from: known(from)?, way }))
}

pub(crate) fn no_control(written: &At<raw::NoControl>, world: &World, cx: &mut Cx<'_>) -> Option<Fault> {
    let region = match &written.region {
        None => None,
        Some(region) => Some(world.region(region, cx)?),
    };
    Some(Fault::NoControl { region })
}
