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
use tokio::sync::Notify;
use xds::{
    event::EventKind,
    overlay::SwitchState,
    snapshot::{self, Balancer, Bound, EndpointSet, RoutingPriority, UpstreamProtocol},
    status::ClusterStatus,
};

use crate::{
    events::EventLog,
    gate::Gate,
    hedge::Latency,
    tls::UpstreamTls,
    upstream::{
        breaker::{Breakers, Counters},
        detect::{self, Ended},
        epoch::Epoch,
        health::{Finding, Health},
        host::{Host, HostId},
        members::{Member, Members},
        outlier::{Fault, Proof, Record},
        silence::Patience,
        slow::SlowCallers,
        view::View,
    },
};

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
    /// Over TCP, times from a caller's first bytes to an endpoint's.
    pub first_bytes: Latency,
    /// Requests that wait for their callers.
    pub slow: Arc<SlowCallers>,
    /// Ends when its trust relation changes: connections look again at their peers.
    pub trust: Epoch,
    view: ArcSwap<View>,
    tls: ArcSwapOption<UpstreamTls>,
    core: Mutex<Members>,
    breakers: Breakers,
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
        let mut core = Members::new(config.clone(), switches);
        core.set_members(endpoints, &gate, now);
        core.swept = Some(now);
        let (view, events) = core.recompute(now);
        let cluster = Self {
            name: config.name.as_str().into(),
            first_bytes: Latency::new(now),
            slow: Arc::default(),
            view: ArcSwap::from_pointee(view),
            tls: ArcSwapOption::empty(),
            trust: Epoch::default(),
            breakers: Breakers::new(&config, now),
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
        self.trust.end();
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
        core.set_members(endpoints, &gate, now);
        let mut events = Vec::new();
        for member in &mut core.members {
            let name = self.name.to_string();
            if outlier_off && member.record.ejected() {
                member.record = Record::default();
                events.push(member.readmitted(name.clone()));
            }
            if unchecked && (!member.health.healthy() || member.health.degraded()) {
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

    /// An active check's result, with what it proved beside it of an ejected endpoint. Whether the endpoint is out now.
    pub fn checked(&self, host: HostId, finding: &Finding, proof: Proof, began: Instant, now: Instant) -> bool {
        let mut core = self.core();
        let Some(policy) = core.config.health_check.clone() else { return false };
        let name = self.name.to_string();
        let Some(member) = core.members.iter_mut().find(|member| member.host.id == host) else { return false };
        let was_out = !member.available();
        let mut events = Vec::new();
        if member.health.result(&policy, finding) {
            events.push(member.changed(name.clone(), finding.cause()));
        }
        if member.record.checked(began, if finding.passed() { proof } else { Proof::None }, now) {
            events.push(member.readmitted(name));
        }
        let out = !member.available();
        if was_out && !out {
            member.began = Some(now);
        }
        if !events.is_empty() {
            self.publish(&mut core, now, events);
        }
        out
    }

    /// Whether any request was ever sent to its endpoints.
    pub fn is_used(&self) -> bool {
        self.core().members.iter().any(|member| member.host.tries.load(Ordering::Relaxed) > 0)
    }

    /// A TCP connection was made to this host.
    pub fn connected(&self, view: &View, host: &Host) {
        self.first_answer(view, host);
        self.count(view, host, Ended::Answered(200), "", Instant::now());
    }

    /// A try was answered with this status, `took` after the whole request was sent; `None` before that. Ejects at the
    /// threshold, at once.
    pub fn answered(&self, view: &View, host: &Host, status: u16, took: Option<Duration>, now: Instant) {
        host.answered();
        if let (Balancer::PeakEwma, Some(took)) = (view.config.balancer, took) {
            host.observe(took, now);
        }
        if detect::is_gateway(status) {
            host.failures.fetch_add(1, Ordering::Relaxed);
        } else {
            self.first_answer(view, host);
        }
        let Some(policy) = &view.config.outlier else { return };
        host.tally.count(policy, Ended::Answered(status));
        if host.rows.count(policy, Ended::Answered(status)) && !host.ejected.load(Ordering::Relaxed) {
            self.eject(host.id, &format!("status {status}"), Fault::Answers, now);
        }
    }

    /// A try failed without an answer. Ejects at the threshold, at once.
    pub fn failed(&self, host: &Host, cause: &str, now: Instant) {
        host.failures.fetch_add(1, Ordering::Relaxed);
        self.count(&self.view.load(), host, Ended::Local, cause, now);
    }

    fn count(&self, view: &View, host: &Host, ended: Ended, cause: &str, now: Instant) {
        let Some(policy) = &view.config.outlier else { return };
        host.tally.count(policy, ended);
        if host.rows.count(policy, ended) && !host.ejected.load(Ordering::Relaxed) {
            self.eject(host.id, cause, Fault::Silence, now);
        }
    }

    /// A response whose head had come broke off. Ejects at the threshold, at once: its head was no success.
    pub fn broke_off(&self, host: &Host, now: Instant) {
        const CAUSE: &str = "response broke off";
        self.failed(host, CAUSE, now);
        let view = self.view.load();
        let Some(policy) = &view.config.outlier else { return };
        if host.rows.ended(policy, true) && !host.ejected.load(Ordering::Relaxed) {
            self.eject(host.id, CAUSE, Fault::Answers, now);
        }
    }

    /// The rest of a response did not come, though its head had. Ejects at the threshold, at once: heads that are answered in
    /// time do not make up for it, only a response that comes whole does.
    pub fn stalled(&self, host: &Host, now: Instant) {
        host.failures.fetch_add(1, Ordering::Relaxed);
        let view = self.view.load();
        let Some(policy) = &view.config.outlier else { return };
        if host.rows.ended(policy, true)
            && !host.ejected.load(Ordering::Relaxed)
            && self.eject(host.id, "response stalled", Fault::Answers, now)
        {
            host.doubt_connections();
        }
    }

    /// A response came whole.
    pub fn came_whole(&self, host: &Host) {
        if let Some(policy) = &self.view.load().config.outlier {
            host.rows.ended(policy, false);
        }
    }

    /// A try had no answer after `waited`, about what nearly all answers take: it was abandoned for a faster hedge, or is
    /// waited for further since it may not be sent twice.
    pub fn unanswered(&self, host: &Host, sent: Instant, waited: Duration, now: Instant) {
        let view = self.view.load();
        let Some(policy) = &view.config.outlier else { return };
        let consecutive = policy.consecutive_errors.max(1);
        let Some(hangs_at) = host.unanswered(sent, now, consecutive, Patience::after(waited)) else { return };
        if hangs_at > now {
            // Nobody is sent there any more who could find that out.
            self.around.wake.notify_one();
        } else if !host.ejected.load(Ordering::Relaxed) {
            host.failures.fetch_add(1, Ordering::Relaxed);
            self.eject(host.id, "no answer", no_answer(&view.config), now);
        }
    }

    /// Ends ejections, finds hanging endpoints, compares rates, moves ramps and closes circuit breakers, as they are due;
    /// returns when to come again.
    pub fn tick(&self, now: Instant) -> Option<Instant> {
        self.eject_outliers(now);
        let mut core = self.core();
        let mut events = Vec::new();
        let name = self.name.to_string();
        let by_time = core.config.health_check.is_none();
        for member in core.members.iter_mut().filter(|_| by_time) {
            if member.record.expire(now) {
                member.began = Some(now);
                events.push(member.readmitted(name.clone()));
            }
        }
        if !events.is_empty() || core.ramp_is_due(now) || core.weighing_is_due(now) {
            self.publish(&mut core, now, events);
        }
        let closed = self.breakers.close(now).into_iter().map(|(priority, bound, refused)| EventKind::BreakerClosed {
            cluster: self.name.to_string(),
            priority,
            bound,
            refused,
        });
        self.around.events.extend(closed.collect());
        core.next_change(now).into_iter().chain(self.breakers.next_look()).min()
    }

    /// Ejects those that hang by now, and those whose rates are out of line.
    fn eject_outliers(&self, now: Instant) {
        let mut core = self.core();
        let hanging = core.members.iter().filter(|m| !m.record.ejected());
        let hanging = hanging.filter(|m| m.host.hangs_at().is_some_and(|at| at <= now));
        let mut found: Vec<(Arc<Host>, String, Fault)> =
            hanging.map(|member| (member.host.clone(), "no answer".to_owned(), no_answer(&core.config))).collect();
        let policy = core.config.outlier.clone();
        if let Some(policy) = policy.filter(|_| core.next_sweep().is_some_and(|at| at <= now)) {
            core.swept = Some(now);
            let rates: Vec<_> = core.members.iter().map(|member| member.host.tally.take()).collect();
            let out = detect::out_of_line(&policy, &rates).into_iter();
            found.extend(out.map(|(index, cause)| (core.members[index].host.clone(), cause, Fault::Answers)));
        }
        drop(core);
        for (host, cause, fault) in found {
            if !self.eject(host.id, &cause, fault, now) {
                // It may not be ejected: it serves on, and is judged anew.
                host.answered();
            }
        }
    }

    /// What requests of a priority use.
    pub fn counters(&self, priority: RoutingPriority) -> &Counters {
        self.breakers.of(priority)
    }

    /// As [`Cluster::enter`] for a request; where there are as many as may be, one that waits for a slow caller gives way.
    pub fn enter_request(&self, priority: RoutingPriority, most: u32) -> bool {
        let counters = self.counters(priority);
        if counters.enter(Bound::Requests, most) {
            return true;
        }
        // The one that gives way leaves in a moment.
        self.slow.give_way(priority) && counters.enter(Bound::Requests, u32::MAX)
            || self.enter(priority, Bound::Requests, most)
    }

    /// Uses one more of what a circuit breaker bounds; false when there are as many as may be, which is told. Whoever enters
    /// leaves by [`Counters::leave`].
    pub fn enter(&self, priority: RoutingPriority, bound: Bound, most: u32) -> bool {
        let enters = self.counters(priority).enter(bound, most);
        if !enters {
            self.refuse(priority, bound, Instant::now());
        }
        enters
    }

    /// Feeds the retry budget with a first try.
    pub fn deposit(&self, view: &View, priority: RoutingPriority) {
        self.counters(priority).budget().deposit(view.config.breakers_of(priority));
    }

    /// Pays for a repeat; false when the budget is spent.
    pub fn pay(&self, view: &View, priority: RoutingPriority, now: Instant) -> bool {
        let paid = self.counters(priority).budget().take(view.config.breakers_of(priority), now);
        if !paid {
            self.refuse(priority, Bound::Retries, now);
        }
        paid
    }

    #[cold]
    fn refuse(&self, priority: RoutingPriority, bound: Bound, now: Instant) {
        if self.breakers.refuse(priority, bound, now) {
            self.around.events.push(EventKind::BreakerOpened { cluster: self.name.to_string(), priority, bound });
            // Whoever minds the time closes it again.
            self.around.wake.notify_one();
        }
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
        let breakers = self.breakers.status();
        ClusterStatus { name: self.name.to_string(), service, tier_load: core.percent.clone(), endpoints, breakers }
    }

    fn core(&self) -> MutexGuard<'_, Members> {
        self.core.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Takes an endpoint out, if that is allowed.
    fn eject(&self, host: HostId, cause: &str, fault: Fault, now: Instant) -> bool {
        let mut core = self.core();
        let Some(policy) = core.config.outlier.clone() else { return false };
        let Some(index) = core.members.iter().position(|member| member.host.id == host) else { return false };
        if core.members[index].record.ejected() || !core.may_eject(index, &policy) {
            return false;
        }
        let member = &mut core.members[index];
        member.record.eject(&policy, fault, now);
        member.host.ejected.store(true, Ordering::Relaxed);
        if fault != Fault::Answers {
            member.host.doubt_connections();
        }
        let event = EventKind::Ejected {
            cluster: self.name.to_string(),
            endpoint: member.host.name.clone(),
            region: member.host.region.to_string(),
            cause: cause.to_owned(),
        };
        self.publish(&mut core, now, vec![event]);
        true
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

/// What silence is: over TCP there is no question to ask that ends it.
fn no_answer(config: &snapshot::Cluster) -> Fault {
    if config.protocol == UpstreamProtocol::Tcp { Fault::Hang } else { Fault::Silence }
}
