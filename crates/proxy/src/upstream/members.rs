//! A cluster's endpoints and all that decides about them: switches first, then health, ejection and ramps. The lock
//! around it is the cluster's.

use std::{
    collections::{BTreeMap, HashMap},
    sync::{Arc, atomic::Ordering},
    time::Instant,
};

use xds::{
    event::EventKind,
    overlay::SwitchState,
    snapshot::{self, EndpointSet, OutlierDetection, PanicPolicy},
    status::EndpointStatus,
};

use crate::{
    gate::Gate,
    upstream::{
        balance::{Candidates, Group},
        health::Health,
        host::Host,
        outlier::{self, Record},
        priority::{self, TierHealth},
        ramp::TierRamp,
        slow_start,
        view::{Tier, View},
    },
};

/// Weights are finer by this where some of them grow.
const FINE: f64 = 100.0;

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
    /// Since when the present interval of rates counts.
    pub(super) swept: Option<Instant>,
    /// When slowly starting endpoints are to be weighed again.
    weigh_at: Option<Instant>,
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
    /// When it became fit for traffic; `None` if it always was.
    pub(super) began: Option<Instant>,
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

    pub(super) fn available(&self) -> bool {
        self.health.healthy() && !self.record.ejected()
    }

    /// Available, and not only where others do not suffice.
    fn whole(&self) -> bool {
        self.available() && !self.health.degraded()
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
    pub(super) fn new(config: Arc<snapshot::Cluster>, switches: HashMap<String, SwitchState>) -> Self {
        Self {
            config,
            members: Vec::new(),
            ramps: Vec::new(),
            ramped: Vec::new(),
            switches,
            percent: Vec::new(),
            panic: Vec::new(),
            swept: None,
            weigh_at: None,
        }
    }

    pub(super) fn set_members(&mut self, endpoints: &EndpointSet, gate: &impl Fn(&str) -> Arc<Gate>, now: Instant) {
        // Who is there from the beginning starts at once: there is no other to start beside.
        let first = self.members.is_empty();
        let count = endpoints.localities.iter().map(|locality| locality.endpoints.len()).sum();
        let mut old = std::mem::replace(&mut self.members, Vec::with_capacity(count));
        for (locality_index, locality) in endpoints.localities.iter().enumerate() {
            let region: Arc<str> = locality.region.as_str().into();
            for endpoint in &locality.endpoints {
                let kept = old.iter().position(|member| member.host.is(endpoint, &locality.region));
                let (host, health, record, began) = match kept.map(|index| old.swap_remove(index)) {
                    Some(member) => (member.host, member.health, member.record, member.began),
                    None => {
                        let host = Host::new(endpoint, region.clone(), gate(&locality.region));
                        (Arc::new(host), Health::default(), Record::default(), Some(now).filter(|_| !first))
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
                    began,
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
                let healthy = on.iter().filter(|member| member.whole()).count();
                let available = on.iter().filter(|member| member.available()).count();
                let (hosts, healthy, degraded) = (to_u32(on.len()), to_u32(healthy), to_u32(available - healthy));
                TierHealth { hosts, healthy, degraded }
            })
            .collect();
        let load = priority::by_health(&health, self.config.panic_threshold);
        let factors: Vec<u8> = (0..count).map(|tier| self.factor(tier, now)).collect();
        let usable: Vec<bool> = health.iter().map(|tier| tier.healthy + tier.degraded > 0).collect();
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
        let spray = |tier: usize| load.panic[tier] && self.config.panic_policy == PanicPolicy::Spray;
        let fail_fast = |tier: usize| load.panic[tier] && self.config.panic_policy == PanicPolicy::FailFast;
        let tier = |tier: usize| {
            let degraded_part = f32::from(load.degraded[tier]) / f32::from(load.percent[tier].max(1));
            let wanted = |degraded: bool| {
                move |member: &Member| spray(tier) || member.available() && member.health.degraded() == degraded
            };
            let of = |degraded: bool| match fail_fast(tier) || degraded && spray(tier) {
                true => Candidates::default(),
                false => Candidates::new(&self.config, self.groups(tier, spray(tier), wanted(degraded), now)),
            };
            Tier { percent: percent[tier], degraded_part, candidates: of(false), degraded: of(true) }
        };
        let tiers = (0..count).map(tier).collect();
        self.weigh_at = self.next_weighing(now);
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
        // A commanded share is the ramp of whoever commands it. The tier's own would run against that one's clock, the
        // slower the more often the tier was lost, and would still be under way when the command is taken back.
        let commanded =
            |member: &Member| matches!(self.switches.get(&*member.host.region), Some(SwitchState::Share(_)));
        if available && self.of_tier(tier).any(commanded) {
            self.ramps[tier] = TierRamp::default();
            self.ramped[tier] = 100;
            return by_switch;
        }
        self.ramps[tier].observe(ramp, available, now);
        self.ramped[tier] = self.ramps[tier].percent(ramp, now);
        self.ramped[tier].min(by_switch)
    }

    /// The wanted hosts of a tier by locality. In panic, localities do not count.
    fn groups(&self, tier: usize, panic: bool, wanted: impl Fn(&Member) -> bool, now: Instant) -> Vec<Group> {
        struct Found {
            group: Group,
            declared: u32,
            weight: u32,
        }
        let starting = self.next_weighing(now).is_some();
        let mut localities: BTreeMap<usize, Found> = BTreeMap::new();
        for member in self.of_tier(tier).filter(|member| !self.is_off(member)) {
            let locality = if panic { 0 } else { member.locality };
            let share = u32::from(self.share(&member.host.region));
            let found = localities.entry(locality).or_insert_with(|| Found {
                group: Group::default(),
                declared: 0,
                weight: if panic { 1 } else { member.locality_weight.saturating_mul(share) },
            });
            found.declared += 1;
            if wanted(member) {
                let weight = if starting { self.grown(member, now) } else { member.weight };
                found.group.hosts.push((member.host.clone(), weight));
            }
        }
        let weighed = |Found { group, declared, weight }: Found| {
            let weight = priority::locality_weight(weight, to_u32(group.hosts.len()), declared);
            Group { weight, ..group }
        };
        localities.into_values().map(weighed).collect()
    }

    /// A member's weight in finer units, as far as it has grown.
    fn grown(&self, member: &Member, now: Instant) -> u32 {
        let part = match (&self.config.balancing.slow_start, member.began) {
            (Some(config), Some(began)) => slow_start::part(config, began, now),
            _ => 1.0,
        };
        (f64::from(member.weight) * part * FINE).round().clamp(1.0, f64::from(u32::MAX)) as u32
    }

    /// Members whose weight still grows.
    fn growing(&self) -> impl Iterator<Item = (&snapshot::SlowStart, Instant)> {
        let config = self.config.balancing.slow_start.iter();
        config.flat_map(|config| self.members.iter().filter_map(move |member| Some((config, member.began?))))
    }

    fn next_weighing(&self, now: Instant) -> Option<Instant> {
        self.growing().filter_map(|(config, began)| slow_start::next_change(config, began, now)).min()
    }

    pub(super) fn may_eject(&self, index: usize, policy: &OutlierDetection) -> bool {
        let tier = self.members[index].tier;
        let hosts = self.of_tier(tier).count();
        let ejected = self.of_tier(tier).filter(|member| member.record.ejected()).count();
        let later = self.members.iter().any(|member| member.tier > tier && !self.is_off(member));
        outlier::may_eject(policy, hosts, ejected, later)
    }

    pub(super) fn next_change(&self, now: Instant) -> Option<Instant> {
        // With an active check, an ejection ends by it and not by time.
        let by_time = self.config.health_check.is_none();
        let ejections = self.members.iter().filter(|_| by_time).filter_map(|member| member.record.until());
        let silences = self.members.iter().filter(|member| !member.record.ejected());
        let silences = silences.filter_map(|member| member.host.hangs_at());
        let ramps = self.config.ramp.iter().flat_map(|ramp| self.ramps.iter().filter_map(|r| r.next_change(ramp, now)));
        ejections.chain(silences).chain(ramps).chain(self.weigh_at).chain(self.next_sweep()).min()
    }

    /// When rates are to be compared.
    pub(super) fn next_sweep(&self) -> Option<Instant> {
        let policy = self.config.outlier.as_ref()?;
        let rated = policy.success_rate.is_some() || policy.failure_percentage.is_some();
        self.swept.filter(|_| rated)?.checked_add(policy.interval)
    }

    /// Whether slowly starting endpoints are to be weighed.
    pub(super) fn weighing_is_due(&self, now: Instant) -> bool {
        self.weigh_at.is_some_and(|at| at <= now)
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
