//! What a stock Envoy is told so that it does what a snapshot with overlays says, and why it cannot be told. Pure.
//!
//! A routing control becomes endpoints that drain, or shares of one tier; a fault becomes a fault of routes, which Envoy's
//! fault filter does as long as a leased layer of its runtime says so. Nothing is left out in silence: what Envoy cannot do is refused with the reason.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
};

use crate::{
    codec::{Layer, Share, Spot},
    overlay::{Delay, Effect, Fault, FaultAction, Overlay, SwitchState},
    snapshot::{
        Balancer, Direction, EndpointSet, Forward, ListenerProtocol, Locality, PanicPolicy, RouteAction, RouteFault,
        Snapshot,
    },
};

/// A snapshot with overlays, as an Envoy can be told.
#[derive(Clone, Debug, PartialEq)]
pub struct Lowered {
    /// The snapshot with what overlays make of its routes and tiers.
    pub snapshot: Snapshot,
    /// Endpoints (cluster, endpoint name) that drain.
    pub draining: BTreeSet<(String, String)>,
    /// Keys of the layer of its runtime, by the faults that wait for them.
    pub gates: BTreeMap<Spot, String>,
    /// What is in that layer: each fault's share.
    pub layer: Layer,
    /// Overlays (by id) that it cannot be told, each with the reason.
    pub refused: BTreeMap<String, String>,
}

/// Weights of localities stay below this, so that their sum fits 32 bits.
const HEAVIEST: u64 = 1_000_000;

/// Why no Envoy can do what an overlay says, whatever its snapshot; `Ok` if one can.
///
/// # Errors
/// The reason, for the person who wants it.
pub fn expressible(effect: &Effect) -> Result<(), String> {
    match effect {
        Effect::Harmless | Effect::Switch(_) => Ok(()),
        Effect::CutOff { .. } => Err("a stock Envoy cannot drop what it sends and receives (partition)".to_owned()),
        Effect::NoControl => {
            Err("a stock Envoy cannot be deaf to the control plane and be told to hear again".to_owned())
        }
        Effect::Fault(fault) => fault_expressible(fault),
    }
}

fn fault_expressible(fault: &Fault) -> Result<(), String> {
    let cannot = |what: &str| Err(format!("a stock Envoy's fault filter has no {what}"));
    let conditions = &fault.matches;
    if conditions.region.is_some() {
        return cannot("faults of a region: it acts before an endpoint is chosen");
    }
    if conditions.path.is_some() || conditions.method.is_some() || conditions.header.is_some() {
        return cannot("conditions on path, method or header beside those of the route");
    }
    if conditions.caller.is_some() {
        return cannot("condition on the caller");
    }
    action_expressible(&fault.action)
}

fn action_expressible(action: &FaultAction) -> Result<(), String> {
    let kind = match action {
        FaultAction::Delay(Delay::Fixed(_)) | FaultAction::Abort { .. } | FaultAction::AbortGrpc { .. } => {
            return Ok(());
        }
        FaultAction::Delay(Delay::Normal { .. }) => "delays of a normal distribution",
        FaultAction::Delay(Delay::Spike { .. }) => "delays with spikes",
        FaultAction::Refuse => "refused connections",
        FaultAction::Reset => "reset connections",
        FaultAction::ResetAfter { .. } => "resets inside a body",
        FaultAction::Blackhole => "requests without an answer",
        FaultAction::DropConnect => "dropped connects",
        FaultAction::Bandwidth { .. } => "limits on bandwidth both ways",
        FaultAction::Truncate { .. } => "bodies that end early",
        FaultAction::Dns => "failures of name resolution",
        FaultAction::Tls(_) => "failures of a TLS handshake",
    };
    Err(format!(
        "a stock Envoy's fault filter has no {kind}; it has fixed delays and aborts with an HTTP or gRPC status"
    ))
}

/// What of a snapshot no Envoy does though it is told: each with its place and the reason. Envoy would ignore it. Hedges and
/// the ramp of a tier that comes back are not among it: they are on unless turned off, and without them requests are only
/// served less smoothly.
pub fn lacks(snapshot: &Snapshot) -> Vec<String> {
    let mut all = Vec::new();
    for cluster in &snapshot.clusters {
        if cluster.balancer == Balancer::PeakEwma {
            all.push(format!("cluster {}: a stock Envoy has no balancer by moving latencies (peakEwma)", cluster.name));
        }
        if cluster.panic_policy == PanicPolicy::FailFast {
            all.push(format!(
                "cluster {}: a stock Envoy cannot fail fast in panic with weighted regions",
                cluster.name
            ));
        }
    }
    let hosts = snapshot.routes.iter().flat_map(|table| table.hosts.iter().map(move |host| (table, host)));
    for (table, host) in hosts {
        for route in &host.routes {
            let RouteAction::Forward(forward) = &route.action else { continue };
            let place = format!("route of {} in {}", host.name, table.name);
            let faults = forward.faults.iter().filter_map(|fault| action_expressible(&fault.action).err());
            all.extend(faults.map(|reason| format!("{place}: {reason}")));
        }
    }
    all.sort();
    all.dedup();
    all
}

/// What an Envoy is told.
pub fn lower<'a>(snapshot: &Snapshot, overlays: impl IntoIterator<Item = &'a Overlay>) -> Lowered {
    let mut lowered = Lowered {
        snapshot: snapshot.clone(),
        draining: BTreeSet::new(),
        gates: BTreeMap::new(),
        layer: Layer::new(),
        refused: BTreeMap::new(),
    };
    let mut switches: BTreeMap<(&str, &str), SwitchState> = BTreeMap::new();
    for overlay in overlays {
        let told = match &overlay.effect {
            Effect::Switch(switch) => {
                let present = switches.entry((&switch.service, &switch.region)).or_insert(switch.state);
                if share(switch.state) < share(*present) {
                    *present = switch.state;
                }
                Ok(())
            }
            Effect::Fault(fault) => {
                fault_expressible(fault).and_then(|()| lay(&mut lowered.snapshot, fault)).map(|spots| {
                    let key = key(&overlay.id);
                    lowered.gates.extend(spots.into_iter().map(|spot| (spot, key.clone())));
                    lowered.layer.insert(key, Share::Fine(fault.percent));
                })
            }
            other => expressible(other),
        };
        if let Err(reason) = told {
            lowered.refused.insert(overlay.id.clone(), reason);
        }
    }
    // One that is pinned to a region has no controls: its caller has chosen.
    let services: BTreeMap<&str, &str> = snapshot
        .clusters
        .iter()
        .filter(|cluster| cluster.name == cluster.service)
        .map(|cluster| (cluster.name.as_str(), cluster.service.as_str()))
        .collect();
    for set in &mut lowered.snapshot.endpoints {
        let Some(service) = services.get(set.cluster.as_str()) else { continue };
        let state = |region: &str| switches.get(&(*service, region)).map_or(100, |state| share(*state));
        for locality in set.localities.iter().filter(|locality| state(&locality.region) == 0) {
            let names = locality.endpoints.iter().map(|endpoint| (set.cluster.clone(), endpoint.name.clone()));
            lowered.draining.extend(names);
        }
        spread(set, state);
    }
    lowered
}

/// Of an overlay in the layer.
pub fn key(overlay: &str) -> String {
    format!("firedrill.{overlay}")
}

/// The percent of what it would get that a region gets.
fn share(state: SwitchState) -> u8 {
    match state {
        SwitchState::Off => 0,
        SwitchState::Share(percent) => percent.min(100),
        SwitchState::On => 100,
    }
}

/// Puts a fault on every route that leads to the service, none of which may have one of its kind. Answers where it is.
fn lay(snapshot: &mut Snapshot, fault: &Fault) -> Result<Vec<Spot>, String> {
    let inbound: BTreeSet<String> = snapshot
        .listeners
        .iter()
        .filter(|listener| listener.direction == Direction::Inbound)
        .filter_map(|listener| match &listener.protocol {
            ListenerProtocol::Http(http) => Some(http.routes.clone()),
            ListenerProtocol::Tcp { .. } => None,
        })
        .collect();
    let services: BTreeMap<&str, &str> =
        snapshot.clusters.iter().map(|cluster| (cluster.name.as_str(), cluster.service.as_str())).collect();
    let meant = |cluster: &str| fault.matches.service.as_deref().is_none_or(|s| services.get(cluster) == Some(&s));
    let is_delay = matches!(fault.action, FaultAction::Delay(_));
    let mut routes: Vec<(Spot, &mut Forward)> = Vec::new();
    let tables = snapshot.routes.iter_mut().filter(|table| !inbound.contains(&table.name)).map(Arc::make_mut);
    let hosts = tables.flat_map(|table| table.hosts.iter_mut().enumerate().map(|host| (table.name.clone(), host)));
    let all = hosts.flat_map(|(table, (host, found))| {
        let place = move |route| (table.clone(), host, route);
        found.routes.iter_mut().enumerate().map(move |(number, route)| (place(number), route))
    });
    for ((table, host, number), route) in all {
        let RouteAction::Forward(forward) = &mut route.action else { continue };
        let of = forward.clusters.iter().filter(|weighted| meant(&weighted.cluster)).count();
        if of == 0 {
            continue;
        }
        if of < forward.clusters.len() {
            return Err("a stock Envoy cannot hurt a part of a route that leads to several services".to_owned());
        }
        if forward.faults.iter().any(|present| matches!(present.action, FaultAction::Delay(_)) == is_delay) {
            return Err("a stock Envoy's fault filter takes one delay and one abort on a route".to_owned());
        }
        routes.push((Spot { table, host, route: number, fault: forward.faults.len() }, forward));
    }
    if routes.is_empty() {
        let service = fault.matches.service.as_deref().unwrap_or("any service");
        return Err(format!("no HTTP route of this Envoy leads to {service}, and its fault filter is one for HTTP"));
    }
    let laid = routes.into_iter().map(|(spot, forward)| {
        forward.faults.push(RouteFault { percent: fault.percent, action: fault.action.clone() });
        spot
    });
    Ok(laid.collect())
}

/// A region that gets only a share of its tier makes room for the next tier in its own: localities there have weights,
/// tiers have none.
fn spread(set: &mut EndpointSet, state: impl Fn(&str) -> u8) {
    let held_back = |locality: &Locality| (1..100).contains(&state(&locality.region));
    let Some(tier) = set.localities.iter().filter(|l| held_back(l)).map(|l| l.priority).min() else { return };
    let whole = |locality: &&Locality| state(&locality.region) == 100;
    let mut last = set.localities.iter().map(|locality| locality.priority);
    let next = (tier + 1..=last.by_ref().max().unwrap_or(0))
        .find(|next| set.localities.iter().filter(|locality| locality.priority == *next).any(|l| whole(&l)));
    // With no other tier the rest stays, since someone must serve.
    let Some(next) = next else { return };
    let of_next: u64 = set.localities.iter().filter(|l| l.priority == next).map(|l| u64::from(l.weight)).sum();
    let mut moved = 0;
    let mut weights: Vec<u64> = vec![0; set.localities.len()];
    for (weight, locality) in weights.iter_mut().zip(&set.localities).filter(|(_, l)| l.priority == tier) {
        let percent = u64::from(state(&locality.region)).max(1);
        *weight = u64::from(locality.weight) * percent;
        moved += u64::from(locality.weight) * (100 - percent);
    }
    // In hundredths, so that small weights of the next tier keep their ratio.
    for (weight, locality) in weights.iter_mut().zip(&set.localities) {
        if locality.priority == tier {
            *weight = weight.saturating_mul(100);
        } else if locality.priority == next {
            *weight = (moved * 100).saturating_mul(u64::from(locality.weight)) / of_next.max(1);
        }
    }
    let heaviest = weights.iter().copied().max().unwrap_or(0);
    for (weight, locality) in weights.into_iter().zip(&mut set.localities) {
        if locality.priority == tier || locality.priority == next {
            let scaled = if heaviest > HEAVIEST { weight / heaviest.div_ceil(HEAVIEST) } else { weight };
            locality.weight = u32::try_from(scaled.max(1)).unwrap_or(u32::MAX);
        }
        locality.priority = match locality.priority {
            priority if priority == next => tier,
            priority if priority > next => priority - 1,
            priority => priority,
        };
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;
    use crate::{
        overlay::{FaultMatch, Switch},
        snapshot::{
            Cluster, Endpoint, HttpListener, Limits, Listener, Route, RouteMatch, RouteTable, UpstreamProtocol,
            VirtualHost, WeightedCluster,
        },
    };

    fn locality(region: &str, priority: u32, weight: u32) -> Locality {
        let name = format!("{region}-0");
        let address = ([127, 0, 0, 1], 1000 + u16::try_from(name.len()).unwrap()).into();
        let endpoints = vec![Endpoint { name, address, version: String::new(), weight: 1 }];
        Locality { region: region.to_owned(), zone: String::new(), priority, weight, endpoints }
    }

    fn snapshot() -> Snapshot {
        let forward = |cluster: &str| Route {
            matches: RouteMatch::default(),
            action: RouteAction::Forward(Forward {
                clusters: vec![WeightedCluster { cluster: cluster.to_owned(), weight: 1 }],
                ..Forward::default()
            }),
        };
        let host = |cluster: &str| VirtualHost {
            name: cluster.to_owned(),
            domains: vec![cluster.to_owned()],
            routes: vec![forward(cluster)],
        };
        let listener = |name: &str, direction: Direction| Listener {
            name: name.to_owned(),
            address: ([127, 0, 0, 1], 1 + direction as u16).into(),
            direction,
            tls: None,
            protocol: ListenerProtocol::Http(HttpListener {
                routes: name.to_owned(),
                authorization: None,
                limits: Limits::default(),
                admission: None,
            }),
        };
        let set = |cluster: &str| EndpointSet {
            cluster: cluster.to_owned(),
            localities: vec![locality("east", 0, 1), locality("west", 1, 1), locality("north", 2, 3)],
        };
        let pinned = Cluster { service: "fx".into(), ..Cluster::new("fx.east", UpstreamProtocol::Http1) };
        Snapshot {
            listeners: vec![listener("in", Direction::Inbound), listener("out", Direction::Outbound)],
            routes: vec![
                RouteTable { name: "in".into(), hosts: vec![host("local")] }.into(),
                RouteTable { name: "out".into(), hosts: vec![host("fx"), host("ledger"), host("fx.east")] }.into(),
            ],
            clusters: vec![
                Cluster::new("fx", UpstreamProtocol::Http1),
                Cluster::new("ledger", UpstreamProtocol::Http1),
                Cluster::new("local", UpstreamProtocol::Http1),
                pinned,
            ],
            endpoints: vec![set("fx"), set("ledger"), set("fx.east"), set("local")],
            trust: Vec::new(),
        }
    }

    fn overlay(id: &str, effect: Effect) -> Overlay {
        Overlay { id: id.to_owned(), reason: String::new(), effect }
    }

    fn switch(service: &str, region: &str, state: SwitchState) -> Effect {
        Effect::Switch(Switch { service: service.to_owned(), region: region.to_owned(), state })
    }

    fn fault(service: Option<&str>, action: FaultAction) -> Effect {
        let matches = FaultMatch { service: service.map(str::to_owned), ..FaultMatch::default() };
        Effect::Fault(Fault { matches, percent: 50.0, action })
    }

    fn tiers(lowered: &Lowered, cluster: usize) -> Vec<(String, u32, u32)> {
        let set = &lowered.snapshot.endpoints[cluster];
        set.localities.iter().map(|l| (l.region.clone(), l.priority, l.weight)).collect()
    }

    #[test]
    fn without_overlays_it_is_the_snapshot() {
        let lowered = lower(&snapshot(), &[overlay("h", Effect::Harmless)]);
        assert_eq!(lowered.snapshot, snapshot());
        assert!(lowered.draining.is_empty() && lowered.refused.is_empty());
    }

    #[test]
    fn a_region_that_is_off_drains_where_health_would_decide() {
        let overlays = [
            overlay("a", switch("fx", "east", SwitchState::Share(50))),
            overlay("b", switch("fx", "east", SwitchState::Off)),
        ];
        let lowered = lower(&snapshot(), &overlays);
        // The most restrictive wins, and whoever pinned a region keeps it.
        assert_eq!(lowered.draining, BTreeSet::from([("fx".to_owned(), "east-0".to_owned())]));
        assert_eq!(lowered.snapshot, snapshot());
    }

    #[test]
    fn a_share_moves_the_rest_to_the_next_tier_that_is_on() {
        let east = overlay("a", switch("fx", "east", SwitchState::Share(10)));
        let part = |region: &str, priority, weight| (region.to_owned(), priority, weight);
        let lowered = lower(&snapshot(), [&east]);
        assert_eq!(tiers(&lowered, 0), [part("east", 0, 1000), part("west", 0, 9000), part("north", 1, 3)]);
        assert_eq!(tiers(&lowered, 1), tiers(&lower(&snapshot(), []), 1));
        let west = overlay("b", switch("fx", "west", SwitchState::Off));
        let lowered = lower(&snapshot(), [&east, &west]);
        assert_eq!(tiers(&lowered, 0), [part("east", 0, 1000), part("west", 1, 1), part("north", 0, 9000)]);
        let north = overlay("c", switch("fx", "north", SwitchState::Off));
        let lowered = lower(&snapshot(), [&east, &west, &north]);
        assert_eq!(tiers(&lowered, 0), tiers(&lower(&snapshot(), []), 0));
        assert_eq!(lowered.draining.len(), 2);
    }

    #[test]
    fn faults_come_onto_the_routes_that_lead_there() {
        let abort = || FaultAction::Abort { status: 503 };
        let delay = FaultAction::Delay(Delay::Fixed(Duration::from_millis(20)));
        let overlays = [
            overlay("a", fault(Some("fx"), abort())),
            overlay("b", fault(None, delay)),
            overlay("c", fault(Some("fx"), FaultAction::AbortGrpc { status: 14 })),
            overlay("d", fault(Some("nobody"), abort())),
        ];
        let lowered = lower(&snapshot(), &overlays);
        assert_eq!(lowered.refused.keys().collect::<Vec<_>>(), ["c", "d"]);
        assert!(lowered.refused["c"].contains("one delay and one abort"), "{:?}", lowered.refused);
        let count = |table: &Arc<RouteTable>| -> Vec<usize> {
            let routes = table.hosts.iter().flat_map(|host| &host.routes);
            routes.map(|r| if let RouteAction::Forward(f) = &r.action { f.faults.len() } else { 0 }).collect()
        };
        assert_eq!(lowered.snapshot.routes.iter().map(count).collect::<Vec<_>>(), [vec![0], vec![2, 1, 2]]);
        crate::codec::check(&lowered.snapshot).unwrap();
        // Only those that were laid wait for the layer, each for its own key.
        let both = ["firedrill.a", "firedrill.b"].map(|key| (key.to_owned(), Share::Fine(50.0)));
        assert_eq!(lowered.layer, Layer::from(both));
        let is_delay = |spot: &Spot| {
            assert_eq!(spot.table, "out");
            let RouteAction::Forward(forward) = &lowered.snapshot.routes[1].hosts[spot.host].routes[spot.route].action
            else {
                panic!("{spot:?}")
            };
            matches!(forward.faults[spot.fault].action, FaultAction::Delay(_))
        };
        let gates: Vec<_> = lowered.gates.iter().map(|(spot, key)| (key.as_str(), is_delay(spot))).collect();
        let (a, b) = (("firedrill.a", false), ("firedrill.b", true));
        assert_eq!(gates, [a, b, b, a, b]);
    }

    #[test]
    fn what_envoy_cannot_do_is_refused_with_the_kind() {
        let conditioned = |change: fn(&mut FaultMatch)| {
            let mut matches = FaultMatch::default();
            change(&mut matches);
            Effect::Fault(Fault { matches, percent: 1.0, action: FaultAction::Abort { status: 503 } })
        };
        let cases = [
            (fault(None, FaultAction::Refuse), "refused connections"),
            (fault(None, FaultAction::Blackhole), "without an answer"),
            (fault(None, FaultAction::Truncate { bytes: 1 }), "end early"),
            (fault(None, FaultAction::Dns), "name resolution"),
            (Effect::CutOff { regions: vec!["east".into()], way: Default::default() }, "partition"),
            (Effect::NoControl, "control plane"),
            (conditioned(|matches| matches.region = Some("east".into())), "region"),
            (conditioned(|matches| matches.path = Some("/a".into())), "path"),
        ];
        for (effect, expected) in cases {
            let reason = expressible(&effect).unwrap_err();
            assert!(reason.contains(expected), "{reason}");
            let lowered = lower(&snapshot(), &[overlay("o", effect)]);
            assert_eq!((lowered.snapshot, lowered.refused["o"].as_str()), (snapshot(), reason.as_str()));
        }
    }

    #[test]
    fn what_envoy_would_ignore_is_named() {
        let mut snapshot = snapshot();
        assert!(lacks(&snapshot).is_empty());
        snapshot.clusters[0].balancer = Balancer::PeakEwma;
        snapshot.clusters[1].panic_policy = PanicPolicy::FailFast;
        let told = lacks(&snapshot);
        assert!(told[0].contains("cluster fx") && told[1].contains("cluster ledger"), "{told:?}");
    }
}
