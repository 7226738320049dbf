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
    snapshot::{self, EndpointSet},
    status::ClusterStatus,
};

use crate::{
    budget::TokenBucket,
    events::EventLog,
    gate::Gate,
    tls::UpstreamTls,
    upstream::{
        health::{Finding, Health},
        host::{Host, HostId},
        members::{Member, Members},
        outlier::Record,
        view::View,
    },
};

/// A run of unanswered tries shorter than this is a pause (a collector, a busy machine), not a hang.
const LEAST_PATIENCE: Duration = Duration::from_millis(200);

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
    core: Mutex<Members>,
    budget: Mutex<TokenBucket>,
    answered: AtomicU64,
    around: Surroundings,
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
        let mut core = Members {
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
        let mut events = Vec::new();
        for member in &mut core.members {
            let name = self.name.to_string();
            if outlier_off && member.record.ejected() {
                member.record = Record::default();
                events.push(member.readmitted(name.clone()));
            }
            if unchecked && !member.health.healthy() {
                member.health = Health::default();
                events.push(member.changed(name, "not checked any more".to_owned()));
            }
        }
        self.publish(&mut core, now, events);
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
        if member.health.result(&policy, finding).is_some() {
            events.push(member.changed(name.clone(), finding.cause()));
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

    fn core(&self) -> MutexGuard<'_, Members> {
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
    fn publish(&self, core: &mut Members, now: Instant, mut events: Vec<EventKind>) {
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
