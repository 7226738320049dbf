//! What is written is read back, and nothing else is read.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "tests")]

mod fixture;

use std::{net::SocketAddr, time::Duration};

use proptest::{collection::vec, option, prelude::*};
use xds::{
    codec::{Resource, decode_resource, encode_resource},
    overlay::{Delay, Effect, Fault, FaultAction, FaultMatch, Overlay, Switch, SwitchState, TlsFault, Way},
    resource::ResourceKind,
    snapshot::*,
};

fn name() -> impl Strategy<Value = String> {
    "[a-z][a-z0-9.-]{0,11}"
}

fn time() -> impl Strategy<Value = Duration> {
    prop_oneof![
        (1_u64..100_000).prop_map(Duration::from_millis),
        (1_u64..10_000_000_000).prop_map(Duration::from_nanos)
    ]
}

fn address() -> impl Strategy<Value = SocketAddr> {
    prop_oneof![
        (any::<[u8; 4]>(), 1_u16..).prop_map(SocketAddr::from),
        (any::<[u16; 8]>(), 1_u16..).prop_map(SocketAddr::from),
    ]
}

fn methods() -> impl Strategy<Value = Vec<String>> {
    vec(prop_oneof![Just("GET".to_owned()), Just("POST".to_owned()), Just("M-SEARCH".to_owned())], 0..3)
}

fn path() -> impl Strategy<Value = String> {
    "/[a-z/%.]{0,8}"
}

fn tcp((cluster, idle_timeout): (String, Duration)) -> ListenerProtocol {
    ListenerProtocol::Tcp { cluster, idle_timeout }
}

fn listener() -> impl Strategy<Value = Listener> {
    let direction = prop_oneof![Just(Direction::Inbound), Just(Direction::Outbound), Just(Direction::Gateway)];
    let rule = (vec("[a-zé:/.]{1,12}", 1..3), methods(), vec(path(), 0..3), vec(named(), 0..3));
    let rule = rule.prop_map(|(principals, methods, paths, headers)| AllowRule { principals, methods, paths, headers });
    let authorization = (vec(rule, 0..3), any::<bool>());
    let authorization = option::of(authorization.prop_map(|(allow, dry_run)| Authorization { allow, dry_run }));
    let slow = (prop_oneof![Just(Duration::ZERO), time()], prop_oneof![Just(0), Just(1024), 0_u32..]);
    let limits = (1_u32..=8 << 20, 1_u32.., time(), time(), 1_u32.., 1_u32..1 << 31, slow);
    let limits =
        limits.prop_map(|(header_bytes, headers, header_timeout, idle_timeout, connections, streams, slow)| {
            let ((body_timeout, minimum_rate), concurrent_streams) = (slow, streams);
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
        });
    let http = (name(), authorization, limits, option::of(admission())).prop_map(
        |(routes, authorization, limits, admission)| HttpListener { routes, authorization, limits, admission },
    );
    let http = http.prop_map(ListenerProtocol::Http);
    let protocol = prop_oneof![3 => http, 1 => (name(), time()).prop_map(tcp)];
    let tls = option::of(name().prop_map(|trust| ListenerTls { trust }));
    (name(), address(), direction, tls, protocol).prop_map(|(name, address, direction, tls, mut protocol)| {
        if let ListenerProtocol::Http(http) = &mut protocol {
            http.admission.take_if(|_| direction != Direction::Inbound);
        }
        Listener { name, address, direction, tls, protocol }
    })
}

fn admission() -> impl Strategy<Value = Admission> {
    let bounds = (1_u32..1000, 1000_u32..);
    (bounds, time(), (1_u64..100_000).prop_map(Duration::from_millis), 1_u32.., 0_u8..=100, 1_u8..=100).prop_map(
        |((at_least, at_most), window, measure_every, samples, buffer, low_percent)| Admission {
            at_least,
            at_most,
            window,
            measure_every,
            samples,
            buffer,
            low_percent,
        },
    )
}

fn balancing() -> impl Strategy<Value = (Balancer, Balancing)> {
    let slow_start = || {
        let parts = (time(), 0.1_f64..10.0, 1_u8..=100);
        option::of(parts.prop_map(|(window, aggression, at_least)| SlowStart { window, aggression, at_least }))
    };
    let keys = || {
        let header = "[a-z][a-z0-9-]{0,6}".prop_map(HashKey::Header);
        vec(prop_oneof![header, name().prop_map(HashKey::Cookie), Just(HashKey::SourceAddress)], 0..3)
    };
    prop_oneof![
        slow_start()
            .prop_map(|slow_start| { (Balancer::RoundRobin, Balancing { slow_start, ..Balancing::default() }) }),
        (2_u32..=100, 0.0_f64..4.0, slow_start()).prop_map(|(choices, bias, slow_start)| {
            (Balancer::LeastRequest, Balancing { choices, bias, slow_start, ..Balancing::default() })
        }),
        Just((Balancer::PeakEwma, Balancing::default())),
        (1_u32..2048, 2048_u32..=8 << 20, keys()).prop_map(|(ring_at_least, ring_at_most, hash)| {
            (Balancer::RingHash, Balancing { ring_at_least, ring_at_most, hash, ..Balancing::default() })
        }),
        (prop_oneof![Just(2_u32), Just(65_537), Just(5_000_011)], keys())
            .prop_map(|(table, hash)| (Balancer::Maglev, Balancing { table, hash, ..Balancing::default() })),
    ]
}

fn check(protocol: UpstreamProtocol) -> impl Strategy<Value = HealthCheck> {
    let grpc_service =
        if protocol == UpstreamProtocol::Http2 { option::of("[a-z.]{0,6}").boxed() } else { Just(None).boxed() };
    let bytes = |least| proptest::collection::vec(any::<u8>(), least..20);
    let exchange = option::of((bytes(0), bytes(1)).prop_map(|(send, receive)| Exchange { send, receive }));
    let kind = (option::of(path()), grpc_service, exchange);
    (kind, time(), option::of(time()), time(), 1_u32.., 1_u32..).prop_map(
        |((http_path, grpc_service, exchange), every, idle, timeout, unhealthy_after, healthy_after)| HealthCheck {
            exchange: exchange.filter(|_| http_path.is_none() && grpc_service.is_none()),
            http_path: http_path.filter(|_| grpc_service.is_none()),
            grpc_service,
            every,
            every_without_traffic: idle.filter(|idle| *idle != every),
            timeout,
            unhealthy_after,
            healthy_after,
        },
    )
}

fn outlier() -> impl Strategy<Value = OutlierDetection> {
    let success_rate = option::of((1_u32.., 1_u32.., any::<u32>()));
    let failures = option::of((1_u8..=100, 1_u32.., 1_u32..));
    let counts = (any::<u32>(), option::of(1_u32..), option::of(1_u32..));
    (counts, success_rate, failures, time(), time(), time(), 0_u8..=100).prop_map(
        |(counts, success_rate, failures, interval, base_ejection, max_ejection, max_percent)| OutlierDetection {
            consecutive_errors: counts.0,
            consecutive_5xx: counts.1,
            consecutive_local: counts.2,
            success_rate: success_rate.map(|(hosts, requests, factor)| SuccessRate { hosts, requests, factor }),
            failure_percentage: failures.map(|(threshold, hosts, requests)| FailurePercentage {
                threshold,
                hosts,
                requests,
            }),
            interval,
            base_ejection,
            max_ejection,
            max_percent,
        },
    )
}

fn cluster() -> impl Strategy<Value = Cluster> {
    let protocol =
        prop_oneof![Just(UpstreamProtocol::Http1), Just(UpstreamProtocol::Http2), Just(UpstreamProtocol::Tcp)];
    let protocol = protocol.prop_flat_map(|protocol| (Just(protocol), option::of(check(protocol))));
    let tls = option::of((name(), vec("spiffe://[a-z/]{1,8}", 1..3)))
        .prop_map(|tls| tls.map(|(trust, server_ids)| ClusterTls { trust, server_ids }));
    let breakers = (any::<u32>(), any::<u32>(), any::<u32>(), 0_u8..=100, any::<u32>()).prop_map(
        |(connections, pending, requests, retry_percent, retries_per_second)| CircuitBreakers {
            connections,
            pending,
            requests,
            retry_percent,
            retries_per_second,
        },
    );
    let breakers = (breakers.clone(), option::of(breakers));
    let ramp = option::of((1_u8..50, time()).prop_map(|(first, dwell)| Ramp { steps: vec![first, 60, 100], dwell }));
    let panic = (0_u8..=100, prop_oneof![Just(PanicPolicy::Spray), Just(PanicPolicy::FailFast)]);
    let first = (name(), name(), protocol, time(), balancing(), tls);
    let rest = (option::of(outlier()), breakers, panic, ramp, 0_u8..=16);
    (first, rest).prop_map(
        |(
            (name, service, (protocol, health_check), connect_timeout, (balancer, mut balancing), tls),
            (outlier, (breakers, high_breakers), (panic_threshold, panic_policy), ramp, standby),
        )| {
            if protocol == UpstreamProtocol::Tcp {
                balancing.hash.clear();
            }
            Cluster {
                name,
                service,
                protocol,
                connect_timeout,
                balancer,
                balancing,
                tls,
                health_check,
                outlier,
                breakers,
                high_breakers,
                panic_threshold,
                panic_policy,
                ramp,
                standby_connections: if protocol == UpstreamProtocol::Tcp { 0 } else { standby },
            }
        },
    )
}

fn endpoints() -> impl Strategy<Value = EndpointSet> {
    let shape = vec((vec((1_u32..1000, "[a-z0-9]{0,4}"), 0..4), 1_u32..1000), 0..5);
    (name(), shape, any::<bool>()).prop_map(|(cluster, shape, tiers)| {
        let mut count = 0_u16;
        let mut localities = Vec::new();
        for (index, (endpoints, weight)) in shape.into_iter().enumerate() {
            let endpoints = endpoints.into_iter().map(|(weight, version)| {
                count += 1;
                let address = SocketAddr::from(([127, 0, 0, 1], count));
                Endpoint { name: format!("w{count}"), address, version, weight }
            });
            let endpoints = endpoints.collect();
            let priority = if tiers { u32::try_from(index).unwrap() } else { 0 };
            localities.push(Locality { region: format!("r{index}"), zone: String::new(), priority, weight, endpoints });
        }
        EndpointSet { cluster, localities }
    })
}

fn retry() -> impl Strategy<Value = RetryPolicy> {
    let on = prop_oneof![
        Just(RetryOn::ConnectFailure),
        Just(RetryOn::RefusedStream),
        Just(RetryOn::Reset),
        Just(RetryOn::GatewayError),
        Just(RetryOn::GrpcCancelled),
        Just(RetryOn::GrpcDeadlineExceeded),
        Just(RetryOn::GrpcResourceExhausted),
        Just(RetryOn::GrpcInternal),
        Just(RetryOn::GrpcUnavailable),
    ];
    (any::<u32>(), option::of(time()), vec(on, 0..4), any::<bool>()).prop_map(
        |(attempts, per_try, on, non_idempotent)| RetryPolicy {
            attempts,
            per_try,
            on: on.into_iter().collect(),
            non_idempotent,
        },
    )
}

fn path_change() -> impl Strategy<Value = PathChange> {
    prop_oneof![
        path().prop_map(PathChange::Prefix),
        ("[a-z]{1,3}[.]?", r"[a-z$]{0,3}(\\0)?").prop_map(|(pattern, with)| PathChange::Regex { pattern, with }),
    ]
}

/// Percentages to a ten-thousandth.
fn percent() -> impl Strategy<Value = f64> {
    (0_u32..=1_000_000).prop_map(|millionths| f64::from(millionths) / 10_000.0)
}

fn header_edits() -> impl Strategy<Value = HeaderEdits> {
    let name = || "x-[a-z0-9]{0,6}";
    let pairs = || vec((name(), "([!-~]{0,6}| [ -~]{0,3}[!-~])".prop_map(|value| value.trim().to_owned())), 0..3);
    (pairs(), pairs(), vec(name(), 0..3)).prop_map(|(set, add, remove)| HeaderEdits { set, add, remove })
}

fn sticky() -> impl Strategy<Value = Sticky> {
    let ttl = option::of(prop_oneof![Just(Duration::ZERO), time()]);
    prop_oneof![
        "x-[a-z]{1,5}".prop_map(Sticky::Header),
        ("[A-Za-z_]{1,5}", ttl).prop_map(|(name, ttl)| Sticky::Cookie { name, ttl }),
    ]
}

fn forward() -> impl Strategy<Value = Forward> {
    let hedge = (time(), time()).prop_map(|(a, b)| HedgePolicy { at_least: a.min(b), at_most: a.max(b) });
    let weighted = (name(), 1_u32..1000).prop_map(|(cluster, weight)| WeightedCluster { cluster, weight });
    let timeout = prop_oneof![Just(Duration::ZERO), time()];
    let mirror = (name(), percent()).prop_map(|(cluster, percent)| Mirror { cluster, percent });
    let upgrades = prop_oneof![Just(vec![]), Just(vec!["websocket".to_owned(), "x".to_owned()])];
    let fault = (percent(), fault_action()).prop_map(|(percent, action)| RouteFault { percent, action });
    let times = (timeout, option::of(prop_oneof![Just(Duration::ZERO), time()]));
    let first = (vec(weighted, 1..3), option::of(sticky()), times, option::of(retry()));
    let then = (option::of(hedge), option::of(path_change()), option::of(r"([a-z.]{1,6}|\[::1\])(:[1-9][0-9]{0,2})?"));
    let priority = prop_oneof![Just(RoutingPriority::Default), Just(RoutingPriority::High)];
    let last = (header_edits(), header_edits(), vec(mirror, 0..3), upgrades, priority, vec(fault, 0..3));
    (first, then, last).prop_map(
        |(
            (clusters, sticky, (timeout, idle_timeout), retry),
            (hedge, path, host),
            (request_headers, response_headers, mirrors, upgrades, priority, faults),
        )| Forward {
            clusters,
            sticky,
            timeout,
            idle_timeout,
            retry,
            hedge,
            path,
            host,
            request_headers,
            response_headers,
            mirrors,
            upgrades,
            priority,
            faults,
        },
    )
}

fn is() -> impl Strategy<Value = Is> {
    prop_oneof![
        Just(Is::Present),
        ".{0,6}".prop_map(Is::Exact),
        ".{1,6}".prop_map(Is::Prefix),
        "[a-z]{1,3}[.]?".prop_map(Is::Regex),
    ]
}

/// A condition on a header.
fn named() -> impl Strategy<Value = Named> {
    let is = prop_oneof![4 => is(), 1 => Just(Is::Absent)];
    ("[a-z][a-z0-9-]{0,6}", is).prop_map(|(name, is)| Named { name, is })
}

fn route() -> impl Strategy<Value = Route> {
    let answer = (200_u16..600, ".{0,20}").prop_map(|(status, body)| RouteAction::Answer { status, body });
    let scheme = prop_oneof![Just("http".to_owned()), Just("https".to_owned())];
    let status = prop_oneof![Just(301), Just(302), Just(303), Just(307), Just(308)];
    let redirect =
        (status, option::of(scheme), option::of("[a-z.]{1,9}"), option::of(1_u16..), option::of(path_change()))
            .prop_flat_map(|(status, scheme, host, port, path)| {
                any::<bool>().prop_map(move |strip_query| Redirect {
                    status,
                    scheme: scheme.clone(),
                    host: host.clone(),
                    port,
                    path: path.clone(),
                    strip_query,
                })
            });
    let action = prop_oneof![
        4 => forward().prop_map(RouteAction::Forward).boxed(),
        1 => redirect.prop_map(RouteAction::Redirect).boxed(),
        1 => answer.boxed(),
    ];
    let cookie_is = prop_oneof![4 => is(), 1 => Just(Is::Absent)];
    let parameter = (".{1,5}", is()).prop_map(|(name, is)| Named { name, is });
    let cookie = ("[A-Za-z_]{1,5}", cookie_is).prop_map(|(name, is)| Named { name, is });
    let path = prop_oneof![
        path().prop_map(PathMatch::Exact),
        path().prop_map(PathMatch::Prefix),
        "(/[a-z]{1,3}){1,2}".prop_map(PathMatch::Segments),
        "/[a-z]{0,3}[.]?".prop_map(PathMatch::Regex),
    ];
    let rest = (vec(parameter, 0..3), vec(cookie, 0..3), vec("spiffe://[a-z./]{1,8}", 0..3));
    let tunnel = (name(), time()).prop_map(|(cluster, idle_timeout)| Tunnel { cluster, idle_timeout });
    (path, methods(), vec(named(), 0..3), rest, action, option::weighted(0.1, tunnel)).prop_map(
        |(path, methods, headers, (query, cookies, callers), action, tunnel)| {
            // They go together only.
            let (path, action) = match tunnel {
                Some(tunnel) => (PathMatch::Connect, RouteAction::Tunnel(tunnel)),
                None => (path, action),
            };
            Route { matches: RouteMatch { path, methods, headers, query, cookies, callers }, action }
        },
    )
}

fn table() -> impl Strategy<Value = RouteTable> {
    (name(), vec(vec(route(), 0..3), 0..3)).prop_map(|(name, hosts)| {
        let hosts = hosts.into_iter().enumerate().map(|(index, routes)| VirtualHost {
            name: format!("host-{index}"),
            domains: vec![if index == 0 { "*".to_owned() } else { format!("service-{index}.example") }],
            routes,
        });
        RouteTable { name, hosts: hosts.collect() }
    })
}

fn fault_action() -> impl Strategy<Value = FaultAction> {
    let delay = prop_oneof![
        time().prop_map(Delay::Fixed),
        (time(), time()).prop_map(|(mean, deviation)| Delay::Normal { mean, deviation }),
        (time(), time(), 0.0..=100.0).prop_map(|(base, spike, percent)| Delay::Spike { base, spike, percent }),
    ];
    let bytes = 0_u64..=1 << 53;
    prop_oneof![
        delay.prop_map(FaultAction::Delay),
        (200_u16..600).prop_map(|status| FaultAction::Abort { status }),
        (1_u8..=16).prop_map(|status| FaultAction::AbortGrpc { status }),
        Just(FaultAction::Refuse),
        Just(FaultAction::Reset),
        bytes.clone().prop_map(|bytes| FaultAction::ResetAfter { bytes }),
        Just(FaultAction::Blackhole),
        Just(FaultAction::DropConnect),
        (1_u64..=1 << 53).prop_map(|bytes_per_second| FaultAction::Bandwidth { bytes_per_second }),
        bytes.prop_map(|bytes| FaultAction::Truncate { bytes }),
        Just(FaultAction::Dns),
        prop_oneof![Just(TlsFault::Expired), Just(TlsFault::Untrusted), Just(TlsFault::WrongIdentity)]
            .prop_map(FaultAction::Tls),
    ]
}

fn overlay() -> impl Strategy<Value = Overlay> {
    let caller = option::of("spiffe://[a-z/]{1,8}");
    let header = option::of((name(), ".{0,4}"));
    let matches = (option::of(name()), option::of(name()), option::of(path()), header, caller).prop_map(
        |(service, region, path, header, caller)| FaultMatch { service, region, path, method: None, header, caller },
    );
    let action = fault_action();
    let percent = prop_oneof![0.0..=100.0, (0_u8..=100).prop_map(f64::from)];
    let fault = (matches, percent, action).prop_map(|(matches, percent, action)| Fault { matches, percent, action });
    let state = prop_oneof![Just(SwitchState::On), (0_u8..=100).prop_map(SwitchState::Share), Just(SwitchState::Off)];
    let switch = (name(), name(), state).prop_map(|(service, region, state)| Switch { service, region, state });
    let way = prop_oneof![Just(Way::Both), Just(Way::To), Just(Way::From)];
    let effect = prop_oneof![
        fault.prop_map(Effect::Fault),
        (vec(name(), 0..3), way).prop_map(|(regions, way)| Effect::CutOff { regions, way }),
        Just(Effect::NoControl),
        switch.prop_map(Effect::Switch),
        Just(Effect::Harmless),
    ];
    (name(), ".{0,10}", effect).prop_map(|(id, reason, effect)| Overlay { id, reason, effect })
}

fn resource() -> impl Strategy<Value = Resource> {
    let domains = proptest::collection::btree_map(name(), ".{1,40}", 1..4);
    let either = prop_oneof![
        ".{1,40}".prop_map(|roots| (roots, Vec::new())),
        domains.prop_map(|all| {
            let domains = all.into_iter().map(|(name, roots)| TrustDomain { name, roots });
            (String::new(), domains.collect())
        }),
    ];
    let trust =
        (name(), either).prop_map(|(name, (roots, domains))| Resource::Trust(TrustBundle { name, roots, domains }));
    // On the heap: one value of all of them is more than a test's stack holds.
    prop_oneof![
        trust.boxed(),
        cluster().prop_map(Resource::Cluster).boxed(),
        endpoints().prop_map(Resource::Endpoints).boxed(),
        listener().prop_map(Resource::Listener).boxed(),
        table().prop_map(Resource::Routes).boxed(),
        overlay().prop_map(Resource::Overlay).boxed(),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 512, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn what_is_written_is_read_back(resource in resource()) {
        let bytes = encode_resource(&resource).unwrap();
        prop_assert_eq!(decode_resource(resource.kind().type_url(), &bytes), Ok(resource));
    }

    #[test]
    fn an_unknown_field_is_refused(resource in resource(), field in 1000_u32..2000, value in any::<u8>()) {
        let mut bytes = encode_resource(&resource).unwrap();
        let mut tag = field << 3;
        while tag >= 0x80 {
            bytes.push((tag & 0x7f) as u8 | 0x80);
            tag >>= 7;
        }
        bytes.extend([tag as u8, value & 0x7f]);
        let error = decode_resource(resource.kind().type_url(), &bytes).unwrap_err();
        prop_assert!(error.to_string().contains("unknown fields"), "{error}");
        prop_assert!(error.resource.ends_with(resource.name()), "{error}");
    }

    #[test]
    fn garbage_is_an_error_or_reads_as_it_would_be_written(kind in 0_usize..6, bytes in vec(any::<u8>(), 0..200)) {
        // Never a panic; and bytes that happen to be fine are exactly what we would have written.
        let kind = ResourceKind::ALL[kind];
        if let Ok(resource) = decode_resource(kind.type_url(), &bytes) {
            prop_assert_eq!(encode_resource(&resource).unwrap().len(), bytes.len());
        }
    }

    #[test]
    fn a_changed_byte_is_an_error_or_another_value(resource in resource(), at in any::<usize>(), value in any::<u8>()) {
        let mut bytes = encode_resource(&resource).unwrap();
        let at = at % bytes.len();
        prop_assume!(bytes[at] != value);
        bytes[at] = value;
        prop_assert_ne!(decode_resource(resource.kind().type_url(), &bytes), Ok(resource));
    }
}
