//! Refusals name the field.

use std::time::Duration;

use envoy_types::pb::{
    envoy::config::{
        cluster::v3::{self as pb, circuit_breakers, cluster::LbPolicy},
        core::v3::{
            RoutingPriority,
            health_check::{HealthChecker, Payload, TcpHealthCheck, payload},
        },
    },
    google::protobuf::UInt32Value,
};
use prost::Message;

use super::*;
use crate::snapshot::{
    Admission, Balancer, CircuitBreakers, Direction, Exchange, HealthCheck, HttpListener, Limits, ListenerProtocol,
    TrustDomain, UpstreamProtocol,
};

fn ledger() -> Cluster {
    Cluster { balancer: Balancer::RoundRobin, ..Cluster::new("ledger", UpstreamProtocol::Http2) }
}

fn refuse(message: &pb::Cluster) -> String {
    let error = decode_resource(ResourceKind::Cluster.type_url(), &message.encode_to_vec());
    error.expect_err("refused").to_string()
}

#[test]
fn what_we_would_not_write_is_refused_by_path() {
    type Change = fn(&mut pb::Cluster);
    let cases: [(Change, &str); 8] = [
        (|c| c.lb_policy = LbPolicy::Random.into(), "Cluster ledger: lb_policy: RANDOM is not supported"),
        (|c| c.lb_policy = 99, "Cluster ledger: lb_policy: 99 is not supported"),
        (|c| c.alt_stat_name = "x".to_owned(), "Cluster ledger: alt_stat_name: \"x\" is not supported"),
        (
            |c| c.connection_pool_per_downstream_connection = true,
            "Cluster ledger: connection_pool_per_downstream_connection: true is not supported",
        ),
        (
            |c| c.upstream_connection_options = Some(pb::UpstreamConnectionOptions::default()),
            "Cluster ledger: upstream_connection_options: is not supported",
        ),
        (|c| c.metadata = None, "Cluster ledger: metadata.firedrill: is missing"),
        (|c| c.connect_timeout = None, "Cluster ledger: connect_timeout: is missing"),
        (
            |c| c.circuit_breakers.as_mut().unwrap().thresholds[0].track_remaining = true,
            "Cluster ledger: circuit_breakers.thresholds[0].track_remaining: true is not supported",
        ),
    ];
    for (change, expected) in cases {
        let mut message = cluster::write(&ledger());
        change(&mut message);
        assert_eq!(refuse(&message), expected);
    }
}

#[test]
fn thresholds_of_high_priority_are_read() {
    type Change = fn(&mut Vec<circuit_breakers::Thresholds>);
    let high = CircuitBreakers { requests: 7, retries_per_second: 3, ..CircuitBreakers::USUAL };
    let cluster = Cluster { high_breakers: Some(high), ..ledger() };
    let message = cluster::write(&cluster);
    let written = &message.circuit_breakers.as_ref().unwrap().thresholds;
    let kinds: Vec<_> = written.iter().map(|t| (t.priority(), t.max_requests.unwrap().value)).collect();
    assert_eq!(kinds, [(RoutingPriority::Default, 1024), (RoutingPriority::High, 7)]);
    let read = decode_resource(ResourceKind::Cluster.type_url(), &message.encode_to_vec()).unwrap();
    assert_eq!(read, Resource::Cluster(cluster));
    let cases: [(Change, &str); 6] = [
        (|t| t.swap(0, 1), "[0].priority: is high, expected default"),
        (|t| t[1].priority = 0, "[1].priority: is default, expected high"),
        (|t| t[1].priority = 9, "[1].priority: 9 is not supported"),
        (|t| t[1].retry_budget = None, "[1].retry_budget: is missing"),
        (|t| t[1].max_retries = Some(UInt32Value { value: 3 }), "[1].max_retries: is not supported"),
        (|t| t.push(t[1]), "[2]: is not supported"),
    ];
    for (change, expected) in cases {
        let mut message = message.clone();
        change(&mut message.circuit_breakers.as_mut().unwrap().thresholds);
        assert_eq!(refuse(&message), format!("Cluster ledger: circuit_breakers.thresholds{expected}"));
    }
    let mut message = cluster::write(&ledger());
    message.circuit_breakers.as_mut().unwrap().thresholds.push(written[1]);
    assert_eq!(
        refuse(&message),
        "Cluster ledger: circuit_breakers.thresholds[1]: goes with metadata.firedrill.highRetriesPerSecond only"
    );
}

#[test]
fn a_validator_that_we_would_not_write_is_refused_by_path() {
    use envoy_types::pb::envoy::extensions::transport_sockets::tls::v3::{
        CertificateValidationContext, Secret, SpiffeCertValidatorConfig, secret::Type,
    };
    type Change = fn(&mut CertificateValidationContext, &mut SpiffeCertValidatorConfig);
    let at = "Secret mesh: validation_context.custom_validator_config";
    let cases: [(Change, String); 5] = [
        (|_, c| c.trust_domains.clear(), format!("{at}: names no trust domain; only its list of them is supported")),
        (
            |_, c| c.trust_domains[0].workload_trust_domain = "x".to_owned(),
            format!("{at}.trust_domains[0].workload_trust_domain: \"x\" is not supported"),
        ),
        (|_, c| c.trust_domains[1].trust_bundle = None, format!("{at}.trust_domains[1].trust_bundle: is missing")),
        (
            |_, c| c.trust_domains[1].name = c.trust_domains[0].name.clone(),
            "Secret mesh: domains: \"a.example\" is there twice".to_owned(),
        ),
        (
            |context, _| context.custom_validator_config.as_mut().unwrap().name = "mine".to_owned(),
            "Secret mesh: type.custom_validator_config.name: \"mine\" is not supported".to_owned(),
        ),
    ];
    for (change, expected) in cases {
        let domain = |name: &str| TrustDomain { name: name.to_owned(), roots: "pem".to_owned() };
        let domains = vec![domain("a.example"), domain("b.example")];
        let bundle = TrustBundle { name: "mesh".to_owned(), domains, ..TrustBundle::default() };
        let mut secret: Secret = trust::write(&bundle);
        let Some(Type::ValidationContext(context)) = &mut secret.r#type else { panic!("{secret:?}") };
        let custom = |context: &CertificateValidationContext| context.custom_validator_config.clone().unwrap();
        let mut config = wire::unpack(&custom(context).typed_config.unwrap()).unwrap();
        change(context, &mut config);
        context.custom_validator_config.as_mut().unwrap().typed_config = Some(wire::pack(&config));
        let error = decode_resource(ResourceKind::Trust.type_url(), &secret.encode_to_vec()).unwrap_err();
        assert_eq!(error.to_string(), expected);
    }
}

#[test]
fn a_type_that_is_not_ours_is_refused() {
    let error = decode_resource("type.googleapis.com/google.protobuf.Empty", b"").unwrap_err();
    assert_eq!(
        error.to_string(),
        "type.googleapis.com/google.protobuf.Empty: resources of this type are not supported"
    );
}

#[test]
fn an_empty_message_is_refused() {
    for kind in [ResourceKind::Listener, ResourceKind::Endpoints, ResourceKind::Trust, ResourceKind::Overlay] {
        decode_resource(kind.type_url(), b"").expect_err("refused");
    }
}

#[test]
fn values_outside_their_domain_are_not_written() {
    type Change = fn(&mut Cluster);
    let cases: [(Change, &str); 6] = [
        (|c| c.name = String::new(), "Cluster: name: is empty"),
        (|c| c.connect_timeout = Duration::ZERO, "Cluster ledger: connect_timeout: must be above zero"),
        (|c| c.balancing.choices = 3, "Cluster ledger: lb_config: has tuning that does not concern RoundRobin"),
        (
            |c| (c.balancer, c.balancing.table) = (Balancer::Maglev, 65_536),
            "Cluster ledger: lb_config.table_size: must be a prime up to 5000011",
        ),
        (
            |c| (c.balancer, c.balancing.ring_at_least) = (Balancer::RingHash, 0),
            "Cluster ledger: lb_config.minimum_ring_size: must be 1 to the maximum, which is at most 8388608",
        ),
        (|c| c.panic_threshold = 101, "Cluster ledger: common_lb_config.healthy_panic_threshold: is above 100"),
    ];
    for (change, expected) in cases {
        let mut cluster = ledger();
        change(&mut cluster);
        assert_eq!(encode_resource(&Resource::Cluster(cluster)).unwrap_err().to_string(), expected);
    }
}

#[test]
fn a_limit_that_nobody_could_carry_out_is_not_written() {
    type Change = fn(&mut Listener, &mut Admission);
    let filter = "Listener in: envoy.filters.http.adaptive_concurrency";
    let cases: [(Change, &str); 5] = [
        (|l, _| l.direction = Direction::Gateway, ": is only for inbound traffic"),
        (|_, a| a.at_least = 0, ".min_rtt_calc_params.min_concurrency: is zero"),
        (|_, a| a.at_most = 99, ".concurrency_limit_params.max_concurrency_limit: is below the minimum"),
        (|_, a| a.low_percent = 0, ".low_percent: must be 1 to 100"),
        (|_, a| a.window = Duration::ZERO, ".concurrency_limit_params.concurrency_update_interval: must be above zero"),
    ];
    for (change, expected) in cases {
        let mut listener = Listener {
            name: "in".to_owned(),
            address: ([127, 0, 0, 1], 15006).into(),
            direction: Direction::Inbound,
            tls: None,
            protocol: ListenerProtocol::tcp("x"),
        };
        let mut limit = Admission::default();
        change(&mut listener, &mut limit);
        listener.protocol = ListenerProtocol::Http(HttpListener {
            routes: "in".to_owned(),
            authorization: None,
            limits: Limits::default(),
            admission: Some(limit),
        });
        let refused = encode_resource(&Resource::Listener(listener)).unwrap_err().to_string();
        assert_eq!(refused, format!("{filter}{expected}"));
    }
}

#[test]
fn a_dying_region_does_not_use_up_an_envoys_retries() {
    let budget = |retries_per_second| {
        let mut cluster = ledger();
        cluster.breakers.retries_per_second = retries_per_second;
        let breakers = cluster::write(&cluster).circuit_breakers.unwrap();
        breakers.thresholds[0].retry_budget.unwrap().min_retry_concurrency.unwrap().value
    };
    // As many at once as our token bucket saves up; never fewer than Envoy's default.
    assert_eq!([budget(10), budget(0), budget(u32::MAX)], [100, 3, u32::MAX]);
}

fn asked(exchange: Exchange) -> Cluster {
    let check = HealthCheck {
        http_path: None,
        grpc_service: None,
        exchange: Some(exchange),
        every: Duration::from_secs(1),
        every_without_traffic: None,
        timeout: Duration::from_secs(1),
        unhealthy_after: 2,
        healthy_after: 2,
    };
    Cluster { health_check: Some(check), ..Cluster::new("ledger", UpstreamProtocol::Tcp) }
}

#[test]
fn an_exchange_is_hexadecimal_bounded_and_of_one_block() {
    type Change = fn(&mut TcpHealthCheck);
    let text = |text: &str| Payload { payload: Some(payload::Payload::Text(text.to_owned())) };
    let good = asked(Exchange { send: b"PING\r\n".to_vec(), receive: vec![0x2b, 0xff] });
    let written = cluster::write(&good);
    let Some(HealthChecker::TcpHealthCheck(tcp)) = &written.health_checks[0].health_checker else { panic!() };
    assert_eq!((&tcp.send, &tcp.receive), (&Some(text("50494e470d0a")), &vec![text("2bff")]));
    let cases: [(Change, &str); 6] = [
        (|tcp| tcp.receive.push(tcp.receive[0].clone()), "receive[1]: is not supported"),
        (|tcp| tcp.receive.clear(), "send: is not supported"),
        (
            |tcp| tcp.receive[0].payload = Some(payload::Payload::Binary(vec![1])),
            "receive[0]: only text in hexadecimal is supported",
        ),
        (
            |tcp| tcp.send.as_mut().unwrap().payload = Some(payload::Payload::Text("0g".to_owned())),
            "send: only text in hexadecimal is supported",
        ),
        (|tcp| tcp.receive[0].payload = Some(payload::Payload::Text(String::new())), "receive: is empty"),
        (
            |tcp| tcp.receive[0].payload = Some(payload::Payload::Text("00".repeat(1025))),
            "receive: has 1025 bytes, at most 1024 are supported",
        ),
    ];
    for (change, expected) in cases {
        let mut message = written.clone();
        let Some(HealthChecker::TcpHealthCheck(tcp)) = &mut message.health_checks[0].health_checker else { panic!() };
        change(tcp);
        let refused = refuse(&message);
        assert!(refused.starts_with("Cluster ledger: health_checks[0]") && refused.ends_with(expected), "{refused}");
    }
}
