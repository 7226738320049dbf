//! A cluster: its hosts in tiers, what decides about them (under a lock), and the view that the data path reads.

use std::{
    collections::HashMap,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicU64, Ordering},
    },
    time::{Duration, Instant},
};

use arc_swap::{ArcSwap, ArcSwapOption};
use tokio::sync::{Notify, watch};
use xds::{
    event::EventKind,
    overlay::SwitchState,
    snapshot::{self, EndpointSet, OutlierDetection},
    status::{ClusterStatus, EndpointStatus},
};

use crate::{
    budget::TokenBucket,
    events::EventLog,
    gate::Gate,
    tls::UpstreamTls,
    upstream::{
        balance::Candidates,
        health::{Finding, Health},
        host::{Host, HostId},
        outlier::{self, Record},
        priority::{self, TierHealth},
        ramp::TierRamp,
    },
};

/// A run of unanswered tries shorter than this is a pause (a collector, a busy machine), not a hang.
const LEAST_PATIENCE: Duration = Duration::from_millis(200);

/// What the data path reads: immutable, replaced whole at the moment that something changes.
#[derive(Debug)]
pub struct View {
    /// As configured.
    pub config: Arc<snapshot::Cluster>,
    /// From priority 0.
    pub tiers: Vec<Tier>,
    regions: Vec<Arc<str>>,
}

/// One tier of a view.
#[derive(Debug)]
pub struct Tier {
    /// Its share of the load.
    pub percent: u8,
    /// Who may be sent to, load or no load.
    pub candidates: Candidates,
}

/// Where a try should go.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Aim {
    /// By the tiers' shares.
    Load,
    /// To another tier than this one, if there is any.
    Beyond(usize),
}

/// A chosen endpoint.
#[derive(Clone, Debug)]
pub struct Chosen {
    /// The endpoint.
    pub host: Arc<Host>,
    /// Its tier.
    pub tier: usize,
}

impl View {
    /// Chooses an endpoint; `None` when nobody is left who is not to be avoided.
    pub fn choose(&self, aim: Aim, avoid: &[HostId], random: &mut fastrand::Rng) -> Option<Chosen> {
        let first = match aim {
            Aim::Load => self.by_share(random)?,
            Aim::Beyond(tier) => tier + 1,
        };
        // A tier whose hosts are all to be avoided hands over to the next, then to those before it.
        let last = self.tiers.len();
        let order = (first..last).chain((0..first.min(last)).rev());
        let all_off = self.tiers.iter().all(|tier| tier.percent == 0);
        if all_off {
            return None;
        }
        order.into_iter().find_map(|tier| {
            let host = self.tiers[tier].candidates.choose(self.config.balancer, avoid, random)?;
            Some(Chosen { host: host.clone(), tier })
        })
    }

    fn by_share(&self, random: &mut fastrand::Rng) -> Option<usize> {
        let mut draw = random.u8(..100);
        for (tier, share) in self.tiers.iter().enumerate() {
            if draw < share.percent {
                return Some(tier);
            }
            draw -= share.percent;
        }
        None
    }
}

/// What everything inside the process that makes transitions needs.
#[derive(Clone, Debug)]
pub struct Surroundings {
    /// Where transitions are told.
    pub events: Arc<EventLog>,
    /// Wakes the keeper of deadlines after a change.
    pub wake: Arc<Notify>,
}

/// A cluster. It lives as long as snapshots name it.
#[derive(Debug)]
pub struct Cluster {
    /// Unique.
    pub name: Arc<str>,
    /// Requests in flight.
    pub active: AtomicU64,
    /// Requests that wait for a connection.
    pub pending: AtomicU64,
    /// Connections to its endpoints.
    pub connections: AtomicU64,
    view: ArcSwap<View>,
    tls: ArcSwapOption<UpstreamTls>,
    trust: watch::Sender<u64>,
    core: Mutex<Core>,
    budget: Mutex<TokenBucket>,
    answered: AtomicU64,
    around: Surroundings,
}

#[derive(Debug)]
struct Core {
    config: Arc<snapshot::Cluster>,
    members: Vec<Member>,
    ramps: Vec<TierRamp>,
    /// The ramps' percentages that are in force.
    ramped: Vec<u8>,
    switches: HashMap<String, SwitchState>,
    percent: Vec<u8>,
    panic: Vec<bool>,
}

#[derive(Debug)]
struct Member {
    host: Arc<Host>,
    tier: usize,
    locality: usize,
    locality_weight: u32,
    weight: u32,
    health: Health,
    record: Record,
}

impl Cluster {
    /// A new cluster; every endpoint counts as healthy until found otherwise.
    pub fn new(
        config: snapshot::Cluster,
        endpoints: &EndpointSet,
        switches: HashMap<String, SwitchState>,
        gate: impl Fn(&str) -> Arc<Gate>,
        around: Surroundings,
        now: Instant,
    ) -> Self {
        let config = Arc::new(config);
        let mut core = Core {
            config: config.clone(),
            members: Vec::new(),
            ramps: Vec::new(),
            ramped: Vec::new(),
            switches,
            percent: Vec::new(),
            panic: Vec::new(),
        };
        core.set_members(endpoints, &gate);
        let (view, events) = core.recompute(now);
        let cluster = Self {
            name: config.name.as_str().into(),
            active: AtomicU64::new(0),
            pending: AtomicU64::new(0),
            connections: AtomicU64::new(0),
            view: ArcSwap::from_pointee(view),
            tls: ArcSwapOption::empty(),
            trust: watch::Sender::new(0),
            budget: Mutex::new(TokenBucket::new(&config.breakers, now)),
            core: Mutex::new(core),
            answered: AtomicU64::new(0),
            around,
        };
        cluster.around.events.extend(events);
        cluster
    }

    /// What the data path reads.
    pub fn view(&self) -> Arc<View> {
        self.view.load_full()
    }

    /// For new connections; `None` is plaintext.
    pub fn tls(&self) -> Option<Arc<UpstreamTls>> {
        self.tls.load_full()
    }

    /// Replaces the trust relation; connections look again at their peers.
    pub fn set_tls(&self, tls: Option<Arc<UpstreamTls>>) {
        self.tls.store(tls);
        self.trust.send_modify(|epoch| *epoch += 1);
    }

    /// Sees the trust relation change.
    pub fn watch_trust(&self) -> watch::Receiver<u64> {
        self.trust.subscribe()
    }

    /// Takes new configuration. Endpoints that stay keep their health, their ejection and their connections.
    pub fn reconfigure(
        &self,
        config: snapshot::Cluster,
        endpoints: &EndpointSet,
        gate: impl Fn(&str) -> Arc<Gate>,
        now: Instant,
    ) {
        let mut core = self.core();
        let outlier_off = config.outlier.is_none();
        let unchecked = config.health_check.is_none();
        core.config = Arc::new(config);
        core.set_members(endpoints, &gate);
        for member in &mut core.members {
            if outlier_off && member.record.ejected() {
                member.record = Record::default();
                member.host.ejected.store(false, Ordering::Relaxed);
            }
            if unchecked && !member.health.healthy() {
                member.health = Health::default();
            }
        }
        self.publish(&mut core, now, Vec::new());
    }

    /// Sets the routing controls of its service. Endpoints of regions that are newly off lose their connections.
    pub fn switch(&self, switches: HashMap<String, SwitchState>, now: Instant) {
        let mut core = self.core();
        if core.switches == switches {
            return;
        }
        let before = std::mem::replace(&mut core.switches, switches);
        self.publish(&mut core, now, Vec::new());
        self.answered.store(0, Ordering::Relaxed);
        for member in &core.members {
            let region = &*member.host.region;
            let off = |switches: &HashMap<String, SwitchState>| switches.get(region) == Some(&SwitchState::Off);
            if off(&core.switches) && !off(&before) {
                member.host.retire_connections();
            }
        }
    }

    /// Closes all connections to all endpoints, when the cluster is gone.
    pub fn retire(&self) {
        self.core().members.iter().for_each(|member| member.host.retire_connections());
    }

    /// An active check's result.
    pub fn checked(&self, host: HostId, finding: &Finding, began: Instant, now: Instant) {
        let mut core = self.core();
        let Some(policy) = core.config.health_check.clone() else { return };
        let name = self.name.to_string();
        let Some(member) = core.members.iter_mut().find(|member| member.host.id == host) else { return };
        let mut events = Vec::new();
        if let Some(healthy) = member.health.result(&policy, finding) {
            let (endpoint, region) = (member.host.name.clone(), member.host.region.to_string());
            events.push(EventKind::Health { cluster: name.clone(), endpoint, region, healthy, cause: finding.cause() });
        }
        if *finding == Finding::Passed && member.record.check_passed(began, now) {
            events.push(member.readmitted(name));
        }
        if !events.is_empty() {
            self.publish(&mut core, now, events);
        }
    }

    /// A try was answered by this host.
    pub fn succeeded(&self, view: &View, host: &Host) {
        host.succeeded();
        self.first_answer(view, host);
    }

    /// A try failed. Ejects at the threshold, at once.
    pub fn failed(&self, host: &Host, cause: &str, now: Instant) {
        let row = host.failed();
        let view = self.view.load();
        let Some(policy) = &view.config.outlier else { return };
        if row >= policy.consecutive_errors && !host.ejected.load(Ordering::Relaxed) {
            self.eject(host.id, cause, now);
        }
    }

    /// A try was abandoned for a faster hedge before its host had answered. `waited_at_most` is the route's upper bound of
    /// the hedging delay: what its operator calls too slow.
    pub fn abandoned(&self, host: &Host, sent: Instant, waited_at_most: Duration, now: Instant) {
        let view = self.view.load();
        let Some(policy) = &view.config.outlier else { return };
        let patience = waited_at_most.max(LEAST_PATIENCE);
        if host.abandoned(sent, now, policy.consecutive_errors, patience) {
            host.failures.fetch_add(1, Ordering::Relaxed);
            if !host.ejected.load(Ordering::Relaxed) {
                self.eject(host.id, "no answer", now);
            }
        }
    }

    /// Ends ejections and moves ramps that are due; returns when to come again.
    pub fn tick(&self, now: Instant) -> Option<Instant> {
        let mut core = self.core();
        let mut events = Vec::new();
        let name = self.name.to_string();
        for member in &mut core.members {
            if member.record.expire(now) {
                events.push(member.readmitted(name.clone()));
            }
        }
        let next = core.next_change(now);
        if !events.is_empty() || core.ramp_is_due(now) {
            self.publish(&mut core, now, events);
            return core.next_change(now);
        }
        next
    }

    /// Feeds the retry budget with a first try.
    pub fn deposit(&self, view: &View) {
        self.budget.lock().unwrap_or_else(PoisonError::into_inner).deposit(&view.config.breakers);
    }

    /// Pays for a repeat; false when the budget is spent.
    pub fn pay(&self, view: &View, now: Instant) -> bool {
        self.budget.lock().unwrap_or_else(PoisonError::into_inner).take(&view.config.breakers, now)
    }

    /// Every host.
    pub fn hosts(&self) -> Vec<Arc<Host>> {
        self.core().members.iter().map(|member| member.host.clone()).collect()
    }

    /// At this moment.
    pub fn status(&self) -> ClusterStatus {
        let core = self.core();
        let endpoints = core.members.iter().map(Member::status).collect();
        let service = core.config.service.clone();
        ClusterStatus { name: self.name.to_string(), service, tier_load: core.percent.clone(), endpoints }
    }

    fn core(&self) -> MutexGuard<'_, Core> {
        self.core.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn eject(&self, host: HostId, cause: &str, now: Instant) {
        let mut core = self.core();
        let Some(policy) = core.config.outlier.clone() else { return };
        let Some(index) = core.members.iter().position(|member| member.host.id == host) else { return };
        if core.members[index].record.ejected() || !core.may_eject(index, &policy) {
            return;
        }
        let member = &mut core.members[index];
        member.record.eject(&policy, now);
        member.host.ejected.store(true, Ordering::Relaxed);
        let event = EventKind::Ejected {
            cluster: self.name.to_string(),
            endpoint: member.host.name.clone(),
            region: member.host.region.to_string(),
            cause: cause.to_owned(),
        };
        self.publish(&mut core, now, vec![event]);
    }

    /// Makes the present state the view, and tells what changed. The lock is held, so events are in the order of effect.
    fn publish(&self, core: &mut Core, now: Instant, mut events: Vec<EventKind>) {
        let before = core.percent.clone();
        let (view, changes) = core.recompute(now);
        self.view.store(Arc::new(view));
        if core.percent != before {
            self.answered.store(0, Ordering::Relaxed);
        }
        events.extend(changes);
        self.around.events.extend(events);
        self.around.wake.notify_one();
    }

    fn first_answer(&self, view: &View, host: &Host) {
        let Some(index) = view.regions.iter().position(|region| *region == host.region).filter(|i| *i < 64) else {
            return;
        };
        let bit = 1u64 << index;
        if self.answered.load(Ordering::Relaxed) & bit == 0 && self.answered.fetch_or(bit, Ordering::AcqRel) & bit == 0
        {
            let (cluster, region) = (self.name.to_string(), host.region.to_string());
            self.around.events.push(EventKind::FirstAnswer { cluster, region });
        }
    }
}

impl Member {
    fn readmitted(&self, cluster: String) -> EventKind {
        self.host.forgive();
        self.host.ejected.store(false, Ordering::Relaxed);
        EventKind::Readmitted { cluster, endpoint: self.host.name.clone(), region: self.host.region.to_string() }
    }

    fn available(&self) -> bool {
        self.health.healthy() && !self.record.ejected()
    }

    fn status(&self) -> EndpointStatus {
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

impl Core {
    fn set_members(&mut self, endpoints: &EndpointSet, gate: &impl Fn(&str) -> Arc<Gate>) {
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

    fn is_off(&self, member: &Member) -> bool {
        self.switches.get(&*member.host.region) == Some(&SwitchState::Off)
    }

    fn of_tier(&self, tier: usize) -> impl Iterator<Item = &Member> {
        self.members.iter().filter(move |member| member.tier == tier)
    }

    /// Switches decide first, then health: a host that is off is not counted at all.
    fn recompute(&mut self, now: Instant) -> (View, Vec<EventKind>) {
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

    fn may_eject(&self, index: usize, policy: &OutlierDetection) -> bool {
        let tier = self.members[index].tier;
        let hosts = self.of_tier(tier).count();
        let ejected = self.of_tier(tier).filter(|member| member.record.ejected()).count();
        let later = self.members.iter().any(|member| member.tier > tier && !self.is_off(member));
        outlier::may_eject(policy, hosts, ejected, later)
    }

    fn next_change(&self, now: Instant) -> Option<Instant> {
        let ejections = self.members.iter().filter_map(|member| member.record.until());
        let ramps = self.config.ramp.iter().flat_map(|ramp| self.ramps.iter().filter_map(|r| r.next_change(ramp, now)));
        ejections.chain(ramps).min()
    }

    /// Whether some ramp stands on another step than the one in force.
    fn ramp_is_due(&self, now: Instant) -> bool {
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
