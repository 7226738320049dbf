//! What is not written has the documented default, and a service's own fields go over the mesh's, field by field.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

use std::time::Duration;

use model::{
    Source,
    config::{
        ActiveCheck, Balancing, Config, Detection, FailbackObjectives, FailurePercentage, Hedge, Integrity, Limits,
        ListenerLimits, Place, Retries, RetryOn, SuccessRate, TrafficPolicy, Trigger,
    },
    parse,
    unit::Percent,
};

const SHOP: &str = "
apiVersion: firedrill.dev/v1
kind: Mesh
metadata: {name: shop}
spec:
  trustDomain: shop.example
  regions: [east, west]
  gateways: [{name: edge, listen: 'localhost:8080', routes: [{service: web}]}]
  defaults: {MESH}
---
apiVersion: firedrill.dev/v1
kind: Service
metadata: {name: web, labels: {team: a}}
spec:
  endpoints:
    - {region: east, count: 2, run: [web]}
    - {region: west, addresses: ['127.0.0.1:9001', '127.0.0.1:9002']}
  SERVICE
---
apiVersion: firedrill.dev/v1
kind: RecoveryPlan
metadata: {name: web-west}
spec:
  services: [web]
  activePassive: {primary: east, standby: [west]}
  failover: {steps: [{shift: {to: west}}]}
---
apiVersion: firedrill.dev/v1
kind: Drill
metadata: {name: lose-east}
spec:
  plan: web-west
  probes: [{name: pages, http: GET http://edge, rate: 10/s}]
  scenario:
    - {at: 5s, wait: 1s}
    - lose: {region: east, how: HOW}
";

fn shop(mesh: &str, service: &str) -> Config {
    let text = SHOP.replace("{MESH}", mesh).replace("SERVICE", service).replace("HOW", "partition");
    let sources = [Source { path: "shop.yaml".to_owned(), text }];
    let problems = |p: Vec<model::Problem>| p.iter().map(|p| p.render(&sources)).collect::<String>();
    parse(&sources).map_err(problems).unwrap_or_else(|text| panic!("{text}")).config
}

fn policy(mesh: &str, service: &str) -> TrafficPolicy {
    shop(mesh, service).services.into_values().next().unwrap().policy
}

fn builtin() -> TrafficPolicy {
    TrafficPolicy {
        timeout: Duration::from_secs(15),
        idle_timeout: Duration::from_secs(300),
        retries: Retries {
            attempts: 2,
            per_try: Duration::from_secs(5),
            on: vec![RetryOn::ConnectFailure, RetryOn::Reset, RetryOn::GatewayError],
        },
        hedge: Some(Hedge { at_least: Duration::from_millis(20), at_most: Duration::from_millis(2500) }),
        detection: Detection {
            consecutive_errors: Some(5),
            consecutive_5xx: None,
            consecutive_local: None,
            success_rate: None,
            failure_percentage: None,
            interval: Duration::from_secs(1),
            ejection: Duration::from_secs(30),
            longest_ejection: Duration::from_secs(300),
            ejected_at_most: 50,
            active_check: Some(ActiveCheck {
                http: None,
                grpc: None,
                exchange: None,
                every: Duration::from_secs(1),
                every_without_traffic: None,
                timeout: Duration::from_secs(1),
                unhealthy_after: 2,
                healthy_after: 2,
            }),
        },
    }
}

#[test]
fn nothing_written() {
    let config = shop("{}", "");
    assert_eq!(config.mesh.defaults, builtin());
    let web = config.services.values().next().unwrap();
    assert_eq!(web.policy, builtin());
    assert_eq!((&web.balancing, &web.limits), (&Balancing::default(), &Limits::default()));
    assert_eq!(config.mesh.listeners, ListenerLimits::default());
    assert_eq!(web.authorization, model::config::Authorization::default());
    let names: Vec<&str> = web.endpoints.iter().map(|e| e.workload.as_str()).collect();
    assert_eq!(names, ["web-east-0", "web-east-1", "web-west-0", "web-west-1"]);
    assert_eq!(web.endpoints[3].place, Place::Address("127.0.0.1:9002".parse().unwrap()));
    assert_eq!(
        (web.endpoints[0].version.as_str(), web.endpoints[0].weight, web.endpoints[0].capacity),
        ("v1", 1, None)
    );
    let plan = config.plans.values().next().unwrap();
    assert_eq!(plan.failover.trigger, Trigger::Manual);
    assert_eq!((plan.objectives.success_rate, plan.objectives.sustain), (Percent(99.0), Duration::from_secs(5)));
    assert_eq!((plan.objectives.lost_after_fault, plan.objectives.minimum_hits), (0, 10));
    assert_eq!((plan.objectives.settle, plan.objectives.integrity), (Duration::ZERO, Integrity::default()));
    assert_eq!(plan.objectives.failback, FailbackObjectives::default());
    assert_eq!((&plan.failback.ramp[..], plan.failback.dwell), (&[Percent(100.0)][..], Duration::from_secs(3)));
}

#[test]
fn scenario_is_in_order_of_time() {
    // `kill` needs workloads that are started here, hence the service without addresses.
    let text = SHOP
        .replace("{MESH}", "{}")
        .replace("SERVICE", "")
        .replace(", how: HOW", "")
        .replace("addresses: ['127.0.0.1:9001', '127.0.0.1:9002']", "run: [web]");
    let config = parse(&[Source { path: "shop.yaml".to_owned(), text }]).unwrap().config;
    let drill = config.drills.values().next().unwrap();
    let at: Vec<u64> = drill.scenario.iter().map(|s| s.at.as_secs()).collect();
    assert_eq!(at, [0, 5]);
    assert_eq!((drill.baseline, drill.hold), (Duration::from_secs(10), Duration::from_secs(20)));
    assert_eq!(drill.probes[0].timeout, Duration::from_secs(1));
}

/// The mesh's `defaults`, the service's fields, and what differs from the built-in defaults.
type Case = (&'static str, &'static str, fn(&mut TrafficPolicy));

#[test]
fn service_over_mesh_over_builtin() {
    let cases: [Case; 10] = [
        ("{timeout: 6s}", "", |p| {
            p.timeout = Duration::from_secs(6);
            // Derived from the timeout that counts.
            p.retries.per_try = Duration::from_secs(2);
            p.hedge.as_mut().unwrap().at_most = Duration::from_secs(1);
        }),
        ("{timeout: 6s}", "timeout: 15s", |_| {}),
        ("{}", "timeout: 2s", |p| {
            p.timeout = Duration::from_secs(2);
            // Whole microseconds, so that it can be written down.
            p.retries.per_try = Duration::from_micros(666_666);
            p.hedge.as_mut().unwrap().at_most = Duration::from_micros(333_333);
        }),
        ("{retries: {attempts: 7, on: [reset]}}", "retries: {attempts: 0}", |p| {
            p.retries.attempts = 0;
            p.retries.on = vec![RetryOn::Reset];
        }),
        ("{hedge: off}", "", |p| p.hedge = None),
        (
            "{detection: {successRate: {hosts: 3}, consecutive5xx: 4, ejectedAtMost: 20%}}",
            "detection: {consecutive5xx: off, failurePercentage: {}}",
            |p| {
                p.detection.success_rate = Some(SuccessRate { factor: 1900, hosts: 3, requests: 100 });
                p.detection.failure_percentage = Some(FailurePercentage { threshold: 85, hosts: 5, requests: 50 });
                p.detection.ejected_at_most = 20;
            },
        ),
        ("{}", "detection: {ejection: 10m}", |p| {
            p.detection.ejection = Duration::from_secs(600);
            p.detection.longest_ejection = Duration::from_secs(600);
        }),
        ("{hedge: off}", "hedge: {atLeast: 1ms, atMost: 9ms}", |p| {
            p.hedge = Some(Hedge { at_least: Duration::from_millis(1), at_most: Duration::from_millis(9) });
        }),
        (
            "{detection: {consecutiveErrors: 3, activeCheck: {http: /up, every: 200ms}}}",
            "detection: {ejection: 5s}",
            |p| {
                p.detection.consecutive_errors = Some(3);
                p.detection.ejection = Duration::from_secs(5);
                let check = p.detection.active_check.as_mut().unwrap();
                check.http = Some("/up".to_owned());
                check.every = Duration::from_millis(200);
                check.timeout = Duration::from_millis(200);
            },
        ),
        ("{detection: {activeCheck: {http: /up, every: 200ms}}}", "detection: {activeCheck: off}", |p| {
            p.detection.active_check = None;
        }),
    ];
    for (mesh, service, change) in cases {
        let mut expected = builtin();
        change(&mut expected);
        assert_eq!(policy(mesh, service), expected, "{mesh} / {service}");
    }
}
