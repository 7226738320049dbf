//! Kinds `Service` and `Backup`.

use std::{collections::BTreeMap, time::Duration};

use super::{
    World, argv,
    caller::principal,
    federation::known_id,
    method, no_repeats, not_empty, path,
    policy::{Said, policy},
    positive, route, upstream,
};
use crate::{
    config::{
        Allow, Authorization, AuthorizationMode, Backup, Connect, DnsName, DnsSource, Endpoint, FileSource, Place,
        Prefer, Protocol, RegionPreference, Service,
    },
    name::{RegionName, ServiceName, WorkloadName},
    raw::{self, Manifest},
    read::{At, Cx},
};

/// How long an answer of a source of endpoints is used by default.
const STALE_FOR: Duration = Duration::from_secs(24 * 3600);
/// Silence after which what CONNECT opened is closed by default: Envoy's bound on bytes.
const CONNECT_IDLE: Duration = Duration::from_secs(3600);
/// Cluster of a sidecar's own workload: a service of this name could not be told from it.
const RESERVED: [&str; 1] = ["local"];

pub(crate) fn service(
    manifest: &Manifest,
    spec: &At<raw::Service>,
    defaults: Option<&At<raw::Policy>>,
    world: &World,
    cx: &mut Cx<'_>,
) -> Option<Service> {
    let name = &manifest.name;
    if RESERVED.contains(&name.as_str()) {
        cx.error("reserved-name", name.at, format!("a service cannot be named `{}`", name.value))
            .mend("choose another name");
    }
    let protocol = protocol(spec, cx);
    let connect = connect(spec, protocol, cx);
    let endpoints = endpoints(name, &spec.endpoints, world, cx);
    let identity = spec.identity.as_ref().and_then(|id| known_id(id, world, cx));
    let inside = endpoints.iter().any(|e| !e.place.is_outside());
    if let Some(written) = spec.identity.as_ref().filter(|_| inside) {
        cx.error(
            "check-does-not-fit",
            written.head,
            "who is started here (`run`) has the identity that the mesh gives",
        )
        .mend("delete `identity`, or name the instances by `address`, `dns` or `file`");
    }
    let calls = spec.calls.as_ref().map_or(&[][..], |c| &c.value[..]);
    no_repeats(calls, "service", cx);
    let calls = calls.iter().filter_map(|c| world.service(c, cx)).collect();
    let authorization = spec.authorization.as_ref().map(|a| authorization(a, protocol, world, cx)).unwrap_or_default();
    let policy = policy(Said::by_service(&spec.value), Said::by_mesh(defaults), cx);
    let grpc_check = policy.detection.active_check.as_ref().is_some_and(|c| c.grpc.is_some());
    if protocol != Protocol::Http2 && grpc_check {
        let at = spec.detection.as_ref().map_or(spec.head, |d| d.head);
        cx.error("check-does-not-fit", at, "a `grpc` check fits a service with protocol http2 only")
            .mend("write `protocol: http2`, or another check in this service");
    }
    let exchange = policy.detection.active_check.as_ref().is_some_and(|c| c.exchange.is_some());
    if protocol != Protocol::Tcp && exchange {
        let at = spec.detection.as_ref().map_or(spec.head, |d| d.head);
        cx.error("check-does-not-fit", at, "a `tcp` check with `receive` fits a service with protocol tcp only")
            .mend("write `http: /path`, or `tcp: true`, in this service");
    }
    let hash = spec.balancing.as_ref().and_then(|b| b.hash.as_ref()).filter(|hash| !hash.is_empty());
    if let (Protocol::Tcp, Some(hash)) = (protocol, hash) {
        cx.error("check-does-not-fit", hash.head, "a service with protocol tcp has no requests to hash")
            .mend("delete `hash`, and choose another balancer");
    }
    let http_check = policy.detection.active_check.as_ref().is_some_and(|c| c.http.is_some());
    if protocol == Protocol::Tcp && http_check {
        let at = spec.detection.as_ref().map_or(spec.head, |d| d.head);
        cx.error("check-does-not-fit", at, "an `http` check does not fit a service with protocol tcp")
            .mend("write `detection: {activeCheck: {tcp: true}}` in this service");
    }
    let written = spec.routes.as_ref().map_or(&[][..], |r| &r.value[..]);
    let flawed = spec.endpoints.flawed;
    let of = route::Of { service: name, endpoints: &endpoints, flawed, policy: &policy, world };
    let requests = route::requests(written, &of, cx);
    if let (Protocol::Tcp, Some(first)) = (protocol, written.iter().find(|r| r.prefer.is_none())) {
        cx.error("check-does-not-fit", first.head, "a service with protocol tcp has no requests to route")
            .mend("delete the route: only an order of regions (`prefer`) fits");
    }
    Some(Service {
        name: name.value.clone(),
        protocol,
        connect,
        endpoints,
        identity,
        calls,
        policy,
        balancing: upstream::balancing(spec.balancing.as_ref(), cx),
        limits: upstream::limits(spec.limits.as_ref(), cx),
        routes: routes(written, world, cx),
        requests,
        authorization,
    })
}

fn protocol(spec: &raw::Service, cx: &mut Cx<'_>) -> Protocol {
    let Some(protocol) = &spec.protocol else { return Protocol::Http };
    match protocol.value {
        raw::Protocol::Http => Protocol::Http,
        raw::Protocol::Http2 => Protocol::Http2,
        raw::Protocol::Tcp => Protocol::Tcp,
        raw::Protocol::Grpc => {
            cx.error("not-supported", protocol.at, "the protocol grpc is not supported yet")
                .mend("write `http2` to carry it as plain HTTP/2");
            Protocol::Http2
        }
    }
}

fn connect(spec: &At<raw::Service>, protocol: Protocol, cx: &mut Cx<'_>) -> Option<Connect> {
    let written = spec.connect.as_ref()?;
    if protocol != Protocol::Tcp {
        cx.error("check-does-not-fit", written.head, "only a service with protocol tcp is reached by CONNECT")
            .mend("delete `connect`, or write `protocol: tcp`");
    }
    Some(Connect { idle_timeout: written.idle_timeout.as_ref().map_or(CONNECT_IDLE, |idle| idle.value.0) })
}

fn endpoints(
    name: &ServiceName,
    written: &At<Vec<At<raw::Endpoint>>>,
    world: &World,
    cx: &mut Cx<'_>,
) -> Vec<Endpoint> {
    not_empty(written, "a service needs at least one endpoint", cx);
    let mut numbers: BTreeMap<RegionName, usize> = BTreeMap::new();
    let mut endpoints: Vec<Endpoint> = Vec::new();
    for endpoint in written.iter() {
        let places = places(endpoint, &endpoints, cx);
        let Some(region) = world.region(&endpoint.region, cx) else { continue };
        if let Some(weight) = endpoint.weight.as_ref().filter(|w| !(1..=10_000).contains(&w.value)) {
            cx.error("out-of-range", weight.at, "the weight must be from 1 to 10000")
                .mend("write 1, or delete the endpoint to take it out");
        }
        let wanted = places.iter().filter(|p| matches!(p, Place::Run(_))).count();
        if let Some(left) = world.addresses.get() {
            world.addresses.set(left.checked_sub(wanted));
            if world.addresses.get().is_none() {
                let message = format!("more than {} gateways and workloads in one mesh", super::MOST);
                cx.error("too-many-workloads", endpoint.head, message).mend("lower `count`");
            }
        }
        // Said once; after it nothing is expanded.
        if wanted > 0 && world.addresses.get().is_none() {
            continue;
        }
        for place in places {
            let number = numbers.entry(region.clone()).or_default();
            let Ok(workload) = WorkloadName::new(format!("{name}-{region}-{number}")) else {
                cx.error(
                    "bad-name",
                    endpoint.region.at,
                    format!("the workload name `{name}-{region}-{number}` has more than 63 characters"),
                )
                .mend("shorten the name of the service or of the region");
                break;
            };
            *number += 1;
            endpoints.push(Endpoint {
                workload,
                region: region.clone(),
                version: endpoint.version.as_ref().map_or_else(|| "v1".to_owned(), |v| v.value.clone()),
                capacity: endpoint.capacity.as_ref().map(|c| c.value),
                weight: endpoint.weight.as_ref().map_or(1, |w| w.value),
                place,
            });
        }
    }
    endpoints
}

fn places(endpoint: &At<raw::Endpoint>, before: &[Endpoint], cx: &mut Cx<'_>) -> Vec<Place> {
    let written = [
        endpoint.run.is_some(),
        endpoint.address.is_some(),
        endpoint.addresses.is_some(),
        endpoint.dns.is_some(),
        endpoint.file.is_some(),
    ];
    if written.iter().filter(|w| **w).count() != 1 {
        if endpoint.flawed {
            return Vec::new();
        }
        cx.error(
            "choose-one",
            endpoint.head,
            "an endpoint is either started here (`run`) or runs already (`address`, `addresses`, `dns` or `file`)",
        )
        .mend(
            "write exactly one of `run: [command, argument]`, `address: 127.0.0.1:8081`, `addresses: […]`, `dns: {…}`, \
             `file: {…}`",
        );
        return Vec::new();
    }
    if let Some(run) = &endpoint.run {
        let count = endpoint.count.as_ref().map_or(1, |c| c.value);
        if !(1..=100).contains(&count) {
            let at = endpoint.count.as_ref().map_or(endpoint.at, |c| c.at);
            cx.error("out-of-range", at, "the count must be from 1 to 100")
                .mend("write 1, or delete the endpoint to have none");
            return Vec::new();
        }
        let command = argv(run, cx);
        return (0..count).map(|_| Place::Run(command.clone())).collect();
    }
    if let Some(count) = endpoint.count.as_ref().filter(|c| c.value != 1) {
        cx.error("count-of-address", count.head, "`count` needs `run`: an address is one instance")
            .mend("name each instance in `addresses`");
    }
    if let Some(dns) = &endpoint.dns {
        return dns_source(dns, cx).map(Place::Dns).into_iter().collect();
    }
    if let Some(file) = &endpoint.file {
        if !file.path.value.starts_with('/') {
            cx.error("relative-path", file.path.at, format!("`{}` is not an absolute path", file.path.value))
                .mend("write it from `/` on: the control plane reads it, wherever it was started");
        }
        let stale_for = positive(file.stale_for.as_ref(), STALE_FOR, cx);
        return vec![Place::File(FileSource { path: file.path.value.clone(), stale_for })];
    }
    let addresses = endpoint.address.iter().chain(endpoint.addresses.iter().flat_map(|a| a.iter()));
    let mut places: Vec<Place> = Vec::new();
    for address in addresses {
        let place = Place::Address(address.value.0);
        if places.contains(&place) || before.iter().any(|e| e.place == place) {
            cx.error(
                "duplicate-address",
                address.at,
                format!("{} is an endpoint of this service already", address.value.0),
            )
            .mend("delete one of them");
        }
        places.push(place);
    }
    places
}

fn dns_source(dns: &At<raw::Dns>, cx: &mut Cx<'_>) -> Option<DnsSource> {
    for name in dns.name.iter().chain(&dns.srv).filter(|name| !is_dns_name(&name.value)) {
        cx.error("bad-dns-name", name.at, format!("`{}` is not a name in DNS", name.value))
            .mend("write it as `fx.east.example`, or `_http._tcp.fx.example` for service records");
    }
    let name = match (&dns.name, &dns.port, &dns.srv) {
        (Some(name), Some(port), None) if port.value != 0 => {
            DnsName::Addresses { name: name.value.clone(), port: port.value }
        }
        (None, None, Some(srv)) => DnsName::Service(srv.value.clone()),
        _ if dns.flawed => return None,
        _ => {
            cx.error("choose-one", dns.head, "DNS is asked either for addresses or for service records")
                .mend("write `name: fx.east.example` with `port: 8080`, or `srv: _http._tcp.fx.example`");
            return None;
        }
    };
    let server = dns.server.as_ref().map(|server| server.value.0);
    Some(DnsSource { name, server, stale_for: positive(dns.stale_for.as_ref(), STALE_FOR, cx) })
}

/// RFC 1035, 2.3.4, with the underscores of RFC 2782.
fn is_dns_name(name: &str) -> bool {
    let name = name.strip_suffix('.').unwrap_or(name);
    let fits = |label: &str| {
        (1..=63).contains(&label.len()) && label.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'-' || b == b'_')
    };
    name.len() <= 253 && name.split('.').all(fits)
}

fn routes(written: &[At<raw::Route>], world: &World, cx: &mut Cx<'_>) -> Vec<RegionPreference> {
    let mut routes: Vec<RegionPreference> = Vec::new();
    for route in written {
        let Some(prefer) = &route.prefer else { continue };
        if let Some((name, at)) = route::beside_prefer(route) {
            cx.error(
                "impossible-route",
                at,
                format!("`{name}` does not go with `prefer`, which is about all requests"),
            )
            .mend("write two routes");
        }
        let caller = match &route.when {
            None => None,
            Some(when) => match world.service(&when.caller, cx) {
                None => continue,
                found => found,
            },
        };
        if routes.iter().any(|r| r.caller.is_none() || r.caller == caller) {
            cx.error(
                "unreachable-route",
                route.head,
                "this route is never used: one before it matches the same callers",
            )
            .mend("put rules for one caller before the rule for all, and write each caller once");
        }
        let prefer = match &prefer.value {
            raw::Prefer::SameRegion(_) => Prefer::SameRegion,
            raw::Prefer::Order(regions) => {
                if regions.is_empty() {
                    cx.error("empty-list", prefer.head, "`prefer` names no region")
                        .mend("write `sameRegion`, or regions in order");
                }
                no_repeats(regions, "region", cx);
                Prefer::Order(regions.iter().filter_map(|r| world.region(r, cx)).collect())
            }
        };
        routes.push(RegionPreference { caller, prefer });
    }
    routes
}

fn authorization(
    written: &At<raw::Authorization>,
    protocol: Protocol,
    world: &World,
    cx: &mut Cx<'_>,
) -> Authorization {
    let mode = written.mode.as_ref().map_or(AuthorizationMode::Enforce, |mode| match mode.value {
        raw::AuthorizationMode::Enforce => AuthorizationMode::Enforce,
        raw::AuthorizationMode::DryRun => AuthorizationMode::DryRun,
    });
    let Some(permissions) = &written.allow else { return Authorization { allow: None, mode } };
    let mut allowed = Vec::new();
    for allow in permissions.iter() {
        let methods = allow.methods.as_ref().map_or(&[][..], |m| &m.value[..]);
        let paths = allow.paths.as_ref().map_or(&[][..], |p| &p.value[..]);
        let headers = allow.headers.as_ref().map_or(&[][..], |h| &h.value[..]);
        let first = methods.first().or(paths.first()).map(|first| first.at).or(headers.first().map(|first| first.head));
        if let (Protocol::Tcp, Some(first)) = (protocol, first) {
            cx.error("check-does-not-fit", first, "a service with protocol tcp has no methods, paths and headers")
                .mend("delete `methods`, `paths` and `headers`");
        }
        let methods = methods.iter().filter_map(|m| method(m, m.at, cx)).collect();
        let paths = paths.iter().map(|p| path(p, cx)).collect();
        let headers = headers.iter().filter_map(|h| route::header(h, cx)).collect();
        let Some(from) = principal(&allow.from, world, cx) else { continue };
        allowed.push(Allow { from, methods, paths, headers });
    }
    Authorization { allow: Some(allowed), mode }
}

pub(crate) fn backup(manifest: &Manifest, spec: &At<raw::Backup>, world: &World, cx: &mut Cx<'_>) -> Option<Backup> {
    let every = positive(Some(&spec.every), std::time::Duration::ZERO, cx);
    let (command, restore, check) = (argv(&spec.command, cx), argv(&spec.restore, cx), argv(&spec.check, cx));
    let service = world.service(&spec.service, cx)?;
    Some(Backup { name: manifest.name.as_str().to_owned(), service, every, command, restore, check })
}
