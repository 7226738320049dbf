//! Kind `Drill` and its probes.

use std::{collections::BTreeMap, time::Duration};

use super::{World, action, dangling, guard, method, not_empty, positive};
use crate::{
    config::{Drill, DrillKind, Expect, HttpRequest, Probe, ProbeHost, ProbeKind, Stakeholders},
    name::{DrillName, GatewayName},
    raw,
    read::{At, Cx},
    scalar::host_port,
    tree::Loc,
    unit::print_duration,
};

/// Longest timeout of a probe: each unanswered request is held in memory.
const PROBE_TIMEOUT: Duration = Duration::from_secs(60);
/// Requests of access logs that are kept unless the drill says otherwise.
const ENTRIES: u32 = 10_000;
/// The same at most.
const MOST_ENTRIES: u32 = 100_000;

pub(crate) fn drill(name: DrillName, spec: &At<raw::Drill>, world: &World, cx: &mut Cx<'_>) -> Option<Drill> {
    let plan = &spec.plan;
    let known = world.plans.contains_key(plan.as_str());
    if !known && world.complete {
        dangling("recovery plan", plan.as_str(), plan.at, world.plans.keys().map(String::as_str), cx);
    }
    if let Some(kind) = spec.r#type.as_ref().filter(|t| t.value != raw::DrillType::Live) {
        cx.error("not-supported", kind.at, "drills of this type are not supported yet").mend("write `type: live`");
    }
    let baseline = positive(spec.baseline.as_ref(), Duration::from_secs(10), cx);
    let hold = positive(spec.hold.as_ref(), Duration::from_secs(20), cx);
    let probes = probes(spec, world, cx);
    let scenario = action::scenario(spec, hold, world, cx);
    let guards = guard::guards(spec, &probes, hold, cx);
    let access_log = access_log(spec, &probes, cx);
    known.then(|| Drill {
        name,
        plan: plan.value.clone(),
        kind: DrillKind::Live,
        purpose: spec.purpose.as_ref().map_or_else(String::new, |p| p.value.clone()),
        stakeholders: stakeholders(spec.stakeholders.as_ref()),
        probes,
        baseline,
        scenario,
        hold,
        guards,
        access_log,
    })
}

fn access_log(spec: &At<raw::Drill>, probes: &[Probe], cx: &mut Cx<'_>) -> Option<u32> {
    let written = spec.evidence.as_ref()?.access_log.as_ref()?;
    let entries = written.entries.as_ref();
    if let Some(odd) = entries.filter(|entries| !(1..=MOST_ENTRIES).contains(&entries.value)) {
        cx.error("out-of-range", odd.at, format!("from 1 to {MOST_ENTRIES} requests can be kept"))
            .mend(format!("write a number from 1 to {MOST_ENTRIES}"));
    }
    let through = |request: &HttpRequest| matches!(request.host, ProbeHost::Gateway(_));
    let any = probes.iter().any(|probe| match &probe.kind {
        ProbeKind::Http(request) => through(request),
        ProbeKind::Writes { put, get } => through(put) || through(get),
    });
    if !any && !spec.probes.flawed {
        cx.error("no-gateway", written.head, "the access log is that of gateways, and no probe goes through one")
            .mend("send a probe through a gateway, as `GET http://edge/…`, or delete `accessLog`");
    }
    Some(entries.map_or(ENTRIES, |entries| entries.value))
}

fn stakeholders(written: Option<&At<raw::Stakeholders>>) -> Stakeholders {
    let Some(written) = written else { return Stakeholders::default() };
    let people =
        |list: &Option<At<Vec<At<String>>>>| list.iter().flat_map(|l| l.iter()).map(|p| p.value.clone()).collect();
    Stakeholders {
        lead: written.lead.as_ref().map(|l| l.value.clone()),
        approvers: people(&written.approvers),
        observers: people(&written.observers),
    }
}

fn probes(spec: &At<raw::Drill>, world: &World, cx: &mut Cx<'_>) -> Vec<Probe> {
    not_empty(&spec.probes, "a drill needs at least one probe with `http`", cx);
    let mut names: BTreeMap<&str, Loc> = BTreeMap::new();
    let mut probes = Vec::new();
    for written in spec.probes.iter() {
        if let Some(first) = names.insert(written.name.as_str(), written.name.at) {
            let first = cx.place(first);
            cx.error("duplicate-name", written.name.at, format!("two probes are named `{}`", written.name.value))
                .mend("rename one of them")
                .see(first, "first named here");
        }
        probes.extend(probe(written, world, cx));
    }
    let any_http = spec.probes.iter().any(|p| p.http.is_some());
    if !any_http && !spec.probes.is_empty() && !spec.probes.flawed {
        cx.error("no-http-probe", spec.probes.head, "recovery is measured by an `http` probe, and there is none")
            .mend("add `- {name: reads, http: \"GET http://…\", rate: 100/s}`");
    }
    probes
}

fn probe(written: &At<raw::Probe>, world: &World, cx: &mut Cx<'_>) -> Option<Probe> {
    let timeout = positive(written.timeout.as_ref(), Duration::from_secs(1), cx);
    if let Some(long) = written.timeout.as_ref().filter(|t| t.value.0 > PROBE_TIMEOUT) {
        let most = print_duration(PROBE_TIMEOUT);
        cx.error("out-of-range", long.at, format!("a probe's timeout is at most {most}"))
            .mend("a user gives up sooner: write `1s`");
    }
    let kind = match (&written.http, &written.writes) {
        (Some(http), None) => request(http, world, cx).map(ProbeKind::Http),
        (None, Some(writes)) => {
            let (put, get) = (request(&writes.put, world, cx), request(&writes.get, world, cx));
            if let Some(get) = get.as_ref().filter(|g| g.method != "GET") {
                cx.error("bad-request", writes.get.at, format!("reading back with {} is not safe", get.method))
                    .mend("write `GET http://…`");
            }
            if put.as_ref().is_some_and(|p| matches!(p.method.as_str(), "GET" | "HEAD" | "OPTIONS" | "TRACE")) {
                cx.error("bad-request", writes.put.at, "this method writes nothing")
                    .mend("write `POST http://…` or `PUT http://…`");
            }
            Some(ProbeKind::Writes { put: put?, get: get? })
        }
        _ if written.flawed => None,
        _ => {
            cx.error("choose-one", written.head, "a probe is either `http` or `writes`")
                .mend("write exactly one of them");
            None
        }
    };
    let expect = written.expect.as_ref().map_or_else(Expect::default, |expect| self::expect(expect, cx));
    Some(Probe { name: written.name.value.clone(), kind: kind?, rate: written.rate.value, timeout, expect })
}

fn expect(written: &At<raw::Expect>, cx: &mut Cx<'_>) -> Expect {
    let status = written.status.as_ref().map_or_else(
        || Expect::default().status,
        |text| {
            let ranges: Option<Vec<(u16, u16)>> = text.split(',').map(|part| statuses(part.trim())).collect();
            ranges.unwrap_or_else(|| {
                cx.error("bad-status", text.at, format!("`{}` does not name statuses", text.value))
                    .mend("write `200`, `2xx` or several of them, as `200, 404`");
                Vec::new()
            })
        },
    );
    let header = written.header.as_ref().and_then(|written| super::header::pair(written, cx));
    Expect { status, body: written.body.as_ref().map(|body| body.value.clone()), header }
}

/// `204` or `2xx`, as a range.
fn statuses(text: &str) -> Option<(u16, u16)> {
    let (first, last) = match text.strip_suffix("xx") {
        Some(class) => {
            let class: u16 = class.parse().ok()?;
            (class.checked_mul(100)?, class.checked_mul(100)?.checked_add(99)?)
        }
        None => (text.parse().ok()?, text.parse().ok()?),
    };
    // Informational statuses are no final answers.
    (first >= 200 && last <= 599).then_some((first, last))
}

/// Reads `GET http://edge/accounts/42`.
fn request(text: &At<String>, world: &World, cx: &mut Cx<'_>) -> Option<HttpRequest> {
    const FORM: &str = "write method and URL, as `GET http://edge/accounts/42`";
    let mut words = text.split_whitespace();
    let (Some(verb), Some(url), None) = (words.next(), words.next(), words.next()) else {
        cx.error("bad-request", text.at, format!("`{}` is not a method and a URL", text.value)).mend(FORM);
        return None;
    };
    if verb == "CONNECT" {
        cx.error("bad-request", text.at, "CONNECT cannot be probed").mend(FORM);
        return None;
    }
    let verb = method(verb, text.at, cx);
    if url.starts_with("https://") {
        cx.error("not-supported", text.at, "probes over TLS are not supported yet")
            .mend("write `http://`, to a gateway");
        return None;
    }
    let Some(rest) = url.strip_prefix("http://") else {
        cx.error("bad-request", text.at, format!("`{url}` is not an `http://` URL")).mend(FORM);
        return None;
    };
    let (host, path) = rest.find('/').map_or((rest, "/"), |i| rest.split_at(i));
    if path.contains('#') || !path.bytes().all(|b| b.is_ascii_graphic()) {
        cx.error("bad-path", text.at, format!("`{path}` is not a path"))
            .mend("write no `#`, and other characters percent-encoded");
        return None;
    }
    let host = probe_host(host, text.at, world, cx)?;
    Some(HttpRequest { method: verb?, host, path: path.to_owned() })
}

fn probe_host(host: &str, at: Loc, world: &World, cx: &mut Cx<'_>) -> Option<ProbeHost> {
    if let Some(address) = host_port(host) {
        return Some(ProbeHost::Address(address));
    }
    let gateways = world.gateways.as_ref()?;
    if gateways.contains_key(host) {
        return GatewayName::new(host).ok().map(ProbeHost::Gateway);
    }
    if world.services.contains_key(host) {
        cx.error("unknown-name", at, format!("`{host}` is a service: probes are clients outside the mesh"))
            .mend("send through a gateway that routes to it, as `http://edge/…`");
    } else if host.contains(':') || host.contains('.') {
        cx.error("bad-address", at, format!("`{host}` is neither a gateway nor an IP address and port"))
            .mend("write a gateway's name without port, or as `127.0.0.1:8080`; host names are not supported yet");
    } else {
        dangling("gateway", host, at, gateways.keys().map(String::as_str), cx);
    }
    None
}
