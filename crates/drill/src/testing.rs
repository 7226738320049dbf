//! A small mesh for unit tests: service `app` in east (primary) and west, proxies `edge` and one per endpoint.

use std::{collections::BTreeMap, time::Duration};

use model::{
    config::{Failback, Failover, Objectives, Pattern, RecoveryPlan, Tier, Trigger},
    name::{PlanName, RegionName, ServiceName},
    unit::Percent,
};

use crate::{
    preflight::Look,
    target::{ClusterLoad, EndpointReport, GroupLoad, ProxyReport, Recovery},
};

fn region(name: &str) -> RegionName {
    RegionName::new(name).unwrap()
}

pub fn plan() -> RecoveryPlan {
    RecoveryPlan {
        name: PlanName::new("plan").unwrap(),
        services: vec![ServiceName::new("app").unwrap()],
        pattern: Pattern::ActivePassive { primary: region("east"), standby: vec![region("west")], tier: Tier::Hot },
        objectives: Objectives {
            recovery_time: Some(Duration::from_secs(5)),
            data_loss: Some(Duration::from_secs(1)),
            success_rate: Percent(99.0),
            latency_p99: None,
            sustain: Duration::from_secs(2),
            lost_after_fault: 0,
            integrity: model::config::Integrity::default(),
            settle: Duration::ZERO,
            minimum_hits: 0,
            failback: model::config::FailbackObjectives::default(),
        },
        failover: Failover {
            trigger: Trigger::Automatic { unhealthy_for: Duration::from_secs(1) },
            quorum: None,
            steps: vec![],
        },
        failback: Failback {
            trigger: Trigger::Manual,
            steps: vec![],
            ramp: vec![Percent(100.0)],
            dwell: Duration::from_secs(1),
        },
    }
}

pub fn proxy(name: &str, region: Option<&str>, service: Option<&str>) -> ProxyReport {
    ProxyReport {
        name: name.to_owned(),
        region: region.map(str::to_owned),
        service: service.map(str::to_owned),
        digest: Ok("d".to_owned()),
        in_sync: true,
        overlays: vec![],
        tries: BTreeMap::new(),
        loads: vec![],
        boot: "boot".to_owned(),
    }
}

pub fn look() -> Look {
    let endpoint = |region: &str| EndpointReport {
        workload: format!("app-{region}-0"),
        service: "app".to_owned(),
        region: region.to_owned(),
        checks: BTreeMap::from([("reachable".to_owned(), Ok(()))]),
    };
    Look {
        endpoints: vec![endpoint("east"), endpoint("west")],
        proxies: vec![
            ProxyReport { loads: vec![load()], ..proxy("edge", None, None) },
            proxy("app-east-0", Some("east"), Some("app")),
            proxy("app-west-0", Some("west"), Some("app")),
        ],
        recovery: Recovery::AtRest,
    }
}

/// All of it goes to the primary.
fn load() -> ClusterLoad {
    let group = |priority, region: &str| GroupLoad { priority, region: region.to_owned(), tries: 0, active: 0 };
    let (cluster, service) = ("app".to_owned(), "app".to_owned());
    ClusterLoad { cluster, service, tiers: vec![100, 0], groups: vec![group(0, "east"), group(1, "west")] }
}
