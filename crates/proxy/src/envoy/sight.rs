//! How an Envoy sees its clusters: their status in our form, and the events in what changed. Pure.

use std::{
    collections::{BTreeMap, BTreeSet},
    time::{Duration, Instant},
};

use xds::{
    event::EventKind,
    lower::Lowered,
    overlay::{Overlay, SwitchState},
    snapshot::{Cluster, EndpointSet, Snapshot},
    status::{ClusterStatus, EndpointStatus},
};

use super::hosts::{Host, Hosts};
use crate::{
    apply::switches,
    upstream::priority::{TierHealth, by_health, with_shares},
};

/// After this long an endpoint that never passed a check is one that is down, and not one that is still to come.
const COMING: Duration = Duration::from_secs(10);

/// What was seen so far.
#[derive(Debug, Default)]
pub struct Sight {
    /// By cluster, those whose state is known: before that nothing is said of them.
    clusters: BTreeMap<String, Seen>,
    /// When a cluster was looked at first.
    since: BTreeMap<String, Instant>,
    /// Endpoints (cluster, name) that passed a check once.
    well: BTreeSet<(String, String)>,
}

#[derive(Debug, Default)]
struct Seen {
    status: Option<ClusterStatus>,
    /// Regions that answered since the shares changed last.
    answered: BTreeSet<String>,
    /// Answers by region.
    answers: BTreeMap<String, u64>,
}

impl Sight {
    /// Whether every cluster of a snapshot is known.
    pub fn knows(&self, snapshot: &Snapshot) -> bool {
        snapshot.clusters.iter().all(|cluster| self.clusters.contains_key(&cluster.name))
    }

    /// Every known cluster, by name.
    pub fn statuses(&self) -> Vec<ClusterStatus> {
        self.clusters.values().filter_map(|seen| seen.status.clone()).collect()
    }

    /// Takes in what Envoy's page says, and tells what changed.
    pub fn look<'a>(
        &mut self,
        snapshot: &Snapshot,
        lowered: &Lowered,
        overlays: impl IntoIterator<Item = &'a Overlay>,
        hosts: &Hosts,
        now: Instant,
    ) -> Vec<EventKind> {
        let controls = switches(overlays);
        let mut events = Vec::new();
        let nothing = BTreeMap::new();
        for cluster in &snapshot.clusters {
            let Some(set) = snapshot.endpoints.iter().find(|set| set.cluster == cluster.name) else { continue };
            let has = hosts.get(&cluster.name).unwrap_or(&nothing);
            let since = *self.since.entry(cluster.name.clone()).or_insert(now);
            if !self.clusters.contains_key(&cluster.name) && !self.is_known(set, has, now.duration_since(since)) {
                continue;
            }
            let share = |region: &str| {
                let pinned = cluster.name != cluster.service;
                let state = controls.get(&(cluster.service.clone(), region.to_owned())).filter(|_| !pinned);
                state.map_or(100, |state| match state {
                    SwitchState::Off => 0,
                    SwitchState::Share(percent) => *percent,
                    SwitchState::On => 100,
                })
            };
            let status = status(cluster, set, has, lowered, share);
            let seen = self.clusters.entry(cluster.name.clone()).or_default();
            events.extend(seen.follow(status, set, has));
        }
        let still = |name: &String| snapshot.clusters.iter().any(|cluster| cluster.name == *name);
        self.clusters.retain(|name, _| still(name));
        self.since.retain(|name, _| still(name));
        self.well.retain(|(cluster, _)| still(cluster));
        events
    }

    /// Fresh hosts are neither well nor down: nothing is said before each was checked, nor, for a while, of those that are
    /// only about to come, as when a whole mesh starts.
    fn is_known(&mut self, set: &EndpointSet, hosts: &BTreeMap<std::net::SocketAddr, Host>, age: Duration) -> bool {
        let mut known = true;
        for endpoint in set.localities.iter().flat_map(|locality| &locality.endpoints) {
            let key = (set.cluster.clone(), endpoint.name.clone());
            let host = hosts.get(&endpoint.address);
            if host.is_some_and(|host| !host.failed && !host.pending) {
                self.well.insert(key);
            } else if !self.well.contains(&key) {
                known &= age >= COMING && host.is_none_or(|host| !host.pending);
            }
        }
        known
    }
}

fn status(
    cluster: &Cluster,
    set: &EndpointSet,
    hosts: &BTreeMap<std::net::SocketAddr, Host>,
    lowered: &Lowered,
    share: impl Fn(&str) -> u8,
) -> ClusterStatus {
    let tiers = set.localities.iter().map(|locality| locality.priority + 1).max().unwrap_or(0);
    let mut health = vec![TierHealth::default(); usize::try_from(tiers).unwrap_or(0)];
    let mut factors = vec![100; health.len()];
    let mut endpoints = Vec::new();
    for locality in &set.localities {
        let tier = usize::try_from(locality.priority).unwrap_or(0);
        let percent = share(&locality.region);
        if (1..100).contains(&percent) {
            factors[tier] = percent.min(factors[tier]);
        }
        for endpoint in &locality.endpoints {
            let host = hosts.get(&endpoint.address).cloned().unwrap_or(Host { failed: true, ..Host::default() });
            if !lowered.draining.contains(&(set.cluster.clone(), endpoint.name.clone())) {
                health[tier].hosts += 1;
                health[tier].healthy += u32::from(!host.failed && !host.ejected);
            }
            endpoints.push(EndpointStatus {
                name: endpoint.name.clone(),
                address: endpoint.address.to_string(),
                region: locality.region.clone(),
                version: endpoint.version.clone(),
                priority: locality.priority,
                healthy: !host.failed,
                ejected: host.ejected,
                active: host.active,
                tries: host.tries,
                failures: host.failures,
            });
        }
    }
    let usable: Vec<bool> = health.iter().map(|tier| tier.healthy > 0).collect();
    let load = by_health(&health, cluster.panic_threshold);
    let tier_load = with_shares(&load.percent, &factors, &usable);
    ClusterStatus {
        name: cluster.name.clone(),
        service: cluster.service.clone(),
        tier_load,
        endpoints,
        breakers: Vec::new(),
    }
}

impl Seen {
    fn follow(
        &mut self,
        status: ClusterStatus,
        set: &EndpointSet,
        hosts: &BTreeMap<std::net::SocketAddr, Host>,
    ) -> Vec<EventKind> {
        let mut events = Vec::new();
        let cluster = || set.cluster.clone();
        let addresses = set.localities.iter().flat_map(|locality| &locality.endpoints);
        let by_name: BTreeMap<&str, Option<&Host>> =
            addresses.map(|endpoint| (endpoint.name.as_str(), hosts.get(&endpoint.address))).collect();
        let mut answers: BTreeMap<String, u64> = BTreeMap::new();
        for endpoint in &status.endpoints {
            let host = by_name.get(endpoint.name.as_str()).copied().flatten();
            *answers.entry(endpoint.region.clone()).or_default() += host.map_or(0, |host| host.answers);
            let before = self.status.iter().flat_map(|before| &before.endpoints).find(|b| b.name == endpoint.name);
            let Some(before) = before else { continue };
            let (name, region) = (endpoint.name.clone(), endpoint.region.clone());
            if before.healthy != endpoint.healthy {
                let cause = match (endpoint.healthy, host) {
                    (true, _) => "passed",
                    (false, Some(host)) if host.silent => "no answer in time",
                    (false, _) => "check failed",
                };
                events.push(EventKind::Health {
                    cluster: cluster(),
                    endpoint: name.clone(),
                    region: region.clone(),
                    healthy: endpoint.healthy,
                    cause: cause.to_owned(),
                });
            }
            match (before.ejected, endpoint.ejected) {
                (false, true) => events.push(EventKind::Ejected {
                    cluster: cluster(),
                    endpoint: name,
                    region,
                    cause: "outlier detection".to_owned(),
                }),
                (true, false) => events.push(EventKind::Readmitted { cluster: cluster(), endpoint: name, region }),
                _ => {}
            }
        }
        let first = self.status.is_none();
        if self.status.as_ref().is_none_or(|before| before.tier_load != status.tier_load) {
            self.answered.clear();
            events.push(EventKind::TierLoad { cluster: cluster(), percent: status.tier_load.clone() });
        }
        for (region, count) in &answers {
            let before = self.answers.get(region).copied().unwrap_or(0);
            if !first && *count > before && self.answered.insert(region.clone()) {
                events.push(EventKind::FirstAnswer { cluster: cluster(), region: region.clone() });
            }
        }
        self.answers = answers;
        self.status = Some(status);
        events
    }
}

#[cfg(test)]
mod tests {
    use xds::{
        overlay::{Effect, Switch},
        snapshot::{Endpoint, Locality, UpstreamProtocol},
    };

    use super::*;

    fn snapshot() -> Snapshot {
        let locality = |region: &str, priority: u32, port: u16| Locality {
            region: region.to_owned(),
            zone: String::new(),
            priority,
            weight: 1,
            endpoints: vec![Endpoint {
                name: format!("fx-{region}"),
                address: ([127, 0, 0, 1], port).into(),
                version: String::new(),
                weight: 1,
            }],
        };
        Snapshot {
            clusters: vec![Cluster::new("fx", UpstreamProtocol::Http1)],
            endpoints: vec![EndpointSet {
                cluster: "fx".to_owned(),
                localities: vec![locality("east", 0, 1), locality("west", 1, 2)],
            }],
            ..Snapshot::default()
        }
    }

    fn hosts(east: Host, west: Host) -> Hosts {
        let of = |port: u16, host| (([127, 0, 0, 1], port).into(), host);
        Hosts::from([("fx".to_owned(), BTreeMap::from([of(1, east), of(2, west)]))])
    }

    fn down() -> Host {
        Host { failed: true, ..Host::default() }
    }

    fn fresh() -> Host {
        Host { failed: true, pending: true, ..Host::default() }
    }

    fn answered(answers: u64) -> Host {
        Host { answers, ..Host::default() }
    }

    #[test]
    fn nothing_is_said_of_what_is_still_to_come() {
        let (snapshot, start) = (snapshot(), Instant::now());
        let lowered = xds::lower::lower(&snapshot, []);
        let mut sight = Sight::default();
        let mut look = |seconds: u64, hosts: Hosts| {
            let events = sight.look(&snapshot, &lowered, [], &hosts, start + Duration::from_secs(seconds));
            (sight.knows(&snapshot), events.len())
        };
        assert_eq!(look(0, Hosts::new()), (false, 0));
        assert_eq!(look(1, hosts(fresh(), fresh())), (false, 0));
        assert_eq!(look(2, hosts(Host::default(), down())), (false, 0));
        // East was well once: it is known, whatever becomes of it.
        assert_eq!(look(3, hosts(down(), down())), (false, 0));
        assert_eq!(look(10, hosts(down(), fresh())), (false, 0));
        assert_eq!(look(11, hosts(down(), down())), (true, 1));
        assert_eq!(sight.statuses()[0].tier_load, [0, 0]);
    }

    #[test]
    fn changes_are_told_once_each() {
        let (snapshot, now) = (snapshot(), Instant::now());
        let lowered = xds::lower::lower(&snapshot, []);
        let mut sight = Sight::default();
        let mut look = |hosts: Hosts| sight.look(&snapshot, &lowered, [], &hosts, now);
        let load = |percent: [u8; 2]| EventKind::TierLoad { cluster: "fx".into(), percent: percent.into() };
        let first = |region: &str| EventKind::FirstAnswer { cluster: "fx".into(), region: region.into() };
        assert_eq!(look(hosts(Host::default(), Host::default())), [load([100, 0])]);
        assert_eq!(look(hosts(answered(3), Host::default())), [first("east")]);
        assert_eq!(look(hosts(answered(4), Host::default())), []);
        let silent = Host { silent: true, answers: 4, ..down() };
        let health = EventKind::Health {
            cluster: "fx".into(),
            endpoint: "fx-east".into(),
            region: "east".into(),
            healthy: false,
            cause: "no answer in time".into(),
        };
        assert_eq!(look(hosts(silent.clone(), Host::default())), [health, load([0, 100])]);
        assert_eq!(look(hosts(silent.clone(), answered(1))), [first("west")]);
        let out = look(hosts(silent, Host { ejected: true, ..answered(1) }));
        assert!(matches!(&out[..], [EventKind::Ejected { .. }, EventKind::TierLoad { .. }]), "{out:?}");
    }

    #[test]
    fn routing_controls_are_in_the_shares() {
        let (snapshot, now) = (snapshot(), Instant::now());
        let load = |state| {
            let switch = Switch { service: "fx".into(), region: "east".into(), state };
            let overlays = [Overlay { id: "o".into(), reason: String::new(), effect: Effect::Switch(switch) }];
            let lowered = xds::lower::lower(&snapshot, &overlays);
            let mut sight = Sight::default();
            sight.look(&snapshot, &lowered, &overlays, &hosts(Host::default(), Host::default()), now);
            sight.statuses()[0].tier_load.clone()
        };
        assert_eq!(load(SwitchState::On), [100, 0]);
        assert_eq!(load(SwitchState::Share(10)), [10, 90]);
        assert_eq!(load(SwitchState::Off), [0, 100]);
    }
}
