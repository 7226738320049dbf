//! A cluster's endpoints and all that decides about them: switches first, then health, ejection and ramps. The lock
//! around it is the cluster's.

use std::{
    collections::HashMap,
    sync::{Arc, atomic::Ordering},
    time::Instant,
};

use xds::{
    event::EventKind,
    overlay::SwitchState,
    snapshot::{self, EndpointSet, OutlierDetection},
    status::EndpointStatus,
};

use crate::{
    gate::Gate,
    upstream::{
        balance::Candidates,
        health::Health,
        host::Host,
        outlier::{self, Record},
        priority::{self, TierHealth},
        ramp::TierRamp,
        view::{Tier, View},
    },
};

#[derive(Debug)]
pub struct Members {
    pub(super) config: Arc<snapshot::Cluster>,
    pub(super) members: Vec<Member>,
    pub(super) ramps: Vec<TierRamp>,
    /// The ramps' percentages that are in force.
    pub(super) ramped: Vec<u8>,
    pub(super) switches: HashMap<String, SwitchState>,
    pub(super) percent: Vec<u8>,
    pub(super) panic: Vec<bool>,
}

#[derive(Debug)]
pub struct Member {
    pub(super) host: Arc<Host>,
    pub(super) tier: usize,
    pub(super) locality: usize,
    pub(super) locality_weight: u32,
    pub(super) weight: u32,
    pub(super) health: Health,
    pub(super) record: Record,
}

impl Member {
    pub(super) fn readmitted(&self, cluster: String) -> EventKind {
        self.host.forgive();
        self.host.ejected.store(false, Ordering::Relaxed);
        EventKind::Readmitted { cluster, endpoint: self.host.name.clone(), region: self.host.region.to_string() }
    }

    /// Its health changed.
    pub(super) fn changed(&self, cluster: String, cause: String) -> EventKind {
        let (endpoint, region) = (self.host.name.clone(), self.host.region.to_string());
        EventKind::Health { cluster, endpoint, region, healthy: self.health.healthy(), cause }
    }

    fn available(&self) -> bool {
        self.health.healthy() && !self.record.ejected()
    }

    pub(super) fn status(&self) -> EndpointStatus {
        let host = &self.host;
        EndpointStatus {
            name: host.name.clone(),
            address: host.address.to_string(),
            region: host.region.to_string(),
            version: host.version.clone(),
            priority: u32::try_from(self.tier).unwrap_or(u32::MAX),
            healthy: self.health.healthy(),
            ejected: self.record.ejected(),
            active: host.active.load(Ordering::Relaxed),
            tries: host.tries.load(Ordering::Relaxed),
            failures: host.failures.load(Ordering::Relaxed),
        }
    }
}

impl Members {
    pub(super) fn set_members(&mut self, endpoints: &EndpointSet, gate: &impl Fn(&str) -> Arc<Gate>) {
        let mut old = std::mem::take(&mut self.members);
        for (locality_index, locality) in endpoints.localities.iter().enumerate() {
            let region: Arc<str> = locality.region.as_str().into();
            for endpoint in &locality.endpoints {
                let kept = old.iter().position(|member| member.host.is(endpoint, &locality.region));
                let (host, health, record) = match kept.map(|index| old.swap_remove(index)) {
                    Some(member) => (member.host, member.health, member.record),
                    None => {
                        let host = Host::new(endpoint, region.clone(), gate(&locality.region));
                        (Arc::new(host), Health::default(), Record::default())
                    }
                };
                self.members.push(Member {
                    host,
                    tier: usize::try_from(locality.priority).unwrap_or(usize::MAX),
                    locality: locality_index,
                    locality_weight: locality.weight,
                    weight: endpoint.weight,
                    health,
                    record,
                });
            }
        }
        old.iter().for_each(|member| member.host.retire_connections());
        let declared = endpoints.localities.iter().map(|locality| locality.priority as usize + 1).max().unwrap_or(0);
        self.ramps.resize(declared, TierRamp::default());
        self.ramped.resize(declared, 100);
    }

    fn share(&self, region: &str) -> u8 {
        match self.switches.get(region) {
            None | Some(SwitchState::On) => 100,
            Some(SwitchState::Share(percent)) => (*percent).min(100),
            Some(SwitchState::Off) => 0,
        }
    }

    pub(super) fn is_off(&self, member: &Member) -> bool {
        self.switches.get(&*member.host.region) == Some(&SwitchState::Off)
    }

    fn of_tier(&self, tier: usize) -> impl Iterator<Item = &Member> {
        self.members.iter().filter(move |member| member.tier == tier)
    }

    /// Switches decide first, then health: a host that is off is not counted at all.
    pub(super) fn recompute(&mut self, now: Instant) -> (View, Vec<EventKind>) {
        let count = self.ramps.len();
        let health: Vec<TierHealth> = (0..count)
            .map(|tier| {
                let on: Vec<_> = self.of_tier(tier).filter(|member| !self.is_off(member)).collect();
                let healthy = on.iter().filter(|member| member.available()).count();
                TierHealth { hosts: to_u32(on.len()), healthy: to_u32(healthy) }
            })
            .collect();
        let load = priority::by_health(&health, self.config.panic_threshold);
        let factors: Vec<u8> = (0..count).map(|tier| self.factor(tier, now)).collect();
        let usable: Vec<bool> = health.iter().map(|tier| tier.healthy > 0).collect();
        let percent = priority::with_shares(&load.percent, &factors, &usable);

        let cluster = &self.config.name;
        let mut events = Vec::new();
        for (tier, entered) in load.panic.iter().enumerate() {
            if self.panic.get(tier).copied().unwrap_or(false) != *entered {
                events.push(EventKind::Panic { cluster: cluster.clone(), priority: to_u32(tier), entered: *entered });
            }
        }
        if self.percent != percent {
            events.push(EventKind::TierLoad { cluster: cluster.clone(), percent: percent.clone() });
        }
        let tiers = (0..count).map(|tier| self.tier(tier, percent[tier], load.panic[tier])).collect();
        self.percent = percent;
        self.panic = load.panic;
        let mut regions: Vec<Arc<str>> = self.members.iter().map(|member| member.host.region.clone()).collect();
        regions.sort();
        regions.dedup();
        (View { config: self.config.clone(), tiers, regions }, events)
    }

    /// Percent of its load that a tier may take: the smaller of its ramp's step and its switches' shares.
    fn factor(&mut self, tier: usize, now: Instant) -> u8 {
        let available = self.of_tier(tier).any(Member::available);
        let shares: Vec<u32> = self
            .of_tier(tier)
            .filter(|member| member.available() && !self.is_off(member))
            .map(|member| u32::from(self.share(&member.host.region)))
            .collect();
        let mean = shares.iter().sum::<u32>().checked_div(to_u32(shares.len())).unwrap_or(100);
        let by_switch = u8::try_from(mean).unwrap_or(100);
        let declared = self.of_tier(tier).next().is_some();
        let Some(ramp) = self.config.ramp.as_ref().filter(|_| declared) else { return by_switch };
        self.ramps[tier].observe(ramp, available, now);
        self.ramped[tier] = self.ramps[tier].percent(ramp, now);
        self.ramped[tier].min(by_switch)
    }

    fn tier(&self, tier: usize, percent: u8, panic: bool) -> Tier {
        let chosen = |member: &&Member| !self.is_off(member) && (panic || member.available());
        let mut localities: HashMap<usize, (u32, u32, u32)> = HashMap::new();
        for member in self.of_tier(tier).filter(|member| !self.is_off(member)) {
            let (hosts, usable, weight) = localities.entry(member.locality).or_default();
            *hosts += 1;
            if chosen(&member) {
                *usable += 1;
                *weight += member.weight;
            }
        }
        let hosts = self.of_tier(tier).filter(chosen).map(|member| {
            let (hosts, usable, weight) = localities.get(&member.locality).copied().unwrap_or_default();
            // Envoy's locality weight: weight × min(100, 140 % × availability), then the endpoint's part of it.
            let locality = f64::from(member.locality_weight)
                * f64::from(priority::availability(TierHealth { hosts, healthy: usable }))
                * f64::from(self.share(&member.host.region));
            let part = f64::from(member.weight) / f64::from(weight.max(1));
            (member.host.clone(), (locality * part).round().clamp(0.0, f64::from(u32::MAX)) as u32)
        });
        Tier { percent, candidates: Candidates::new(hosts.collect(), fastrand::usize(..1024)) }
    }

    pub(super) fn may_eject(&self, index: usize, policy: &OutlierDetection) -> bool {
        let tier = self.members[index].tier;
        let hosts = self.of_tier(tier).count();
        let ejected = self.of_tier(tier).filter(|member| member.record.ejected()).count();
        let later = self.members.iter().any(|member| member.tier > tier && !self.is_off(member));
        outlier::may_eject(policy, hosts, ejected, later)
    }

    pub(super) fn next_change(&self, now: Instant) -> Option<Instant> {
        let ejections = self.members.iter().filter_map(|member| member.record.until());
        let ramps = self.config.ramp.iter().flat_map(|ramp| self.ramps.iter().filter_map(|r| r.next_change(ramp, now)));
        ejections.chain(ramps).min()
    }

    /// Whether some ramp stands on another step than the one in force.
    pub(super) fn ramp_is_due(&self, now: Instant) -> bool {
        let Some(ramp) = &self.config.ramp else { return false };
        let mut tiers = self.ramps.iter().zip(&self.ramped).enumerate();
        tiers.any(|(tier, (state, in_force))| {
            self.of_tier(tier).next().is_some() && state.percent(ramp, now) != *in_force
        })
    }
}

fn to_u32(value: usize) -> u32 {
    u32::try_from(value).unwrap_or(u32::MAX)
}
