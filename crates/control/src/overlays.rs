//! Leases with their overlays, and each proxy's part of an overlay. Pure: time is passed in.

use std::{
    collections::BTreeMap,
    time::{Duration, Instant},
};

use model::config::Config;
use xds::{
    lease::Leases,
    overlay::{Effect, Overlay},
};

use crate::{
    api::{
        LeaseReport, LeaseRequest, MAX_LEASE_TTL_MS, MIN_LEASE_TTL_MS, OverlayEffect, OverlayReport, OverlayRequest,
        Placement, Placements, Role, Targets,
    },
    compile,
};

/// Leases that may be held at once.
const MAX_LEASES: usize = 64;
/// Overlays that may be under one lease.
const MAX_OVERLAYS: usize = 256;
/// Names of overlays that the recovery controller lays begin so; nobody else's may.
pub(crate) const RECOVERY: &str = "recovery.";
/// An overlay never outlives its control plane by more than this.
const MAX_WIRE_TTL: Duration = Duration::from_millis(MAX_LEASE_TTL_MS);

/// Why a lease or an overlay was refused.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Refusal {
    /// The request makes no sense.
    Invalid(String),
    /// The lease (or overlay) is not there.
    Missing(String),
    /// Not while things are as they are.
    Conflict(String),
}

/// What is held.
#[derive(Default)]
pub(crate) struct Table {
    leases: Leases<String>,
    held: BTreeMap<String, Held>,
}

struct Held {
    request: LeaseRequest,
    overlays: BTreeMap<String, OverlayRequest>,
}

/// Overlays of one proxy, each with its time to live.
pub(crate) type Leased = Vec<(Overlay, Duration)>;

impl Table {
    /// Takes a lease, or takes it anew with its overlays.
    pub(crate) fn take(&mut self, id: &str, request: LeaseRequest, now: Instant) -> Result<(), Refusal> {
        check_name(id)?;
        if !(MIN_LEASE_TTL_MS..=MAX_LEASE_TTL_MS).contains(&request.ttl_ms) {
            return Err(Refusal::Invalid(format!(
                "a lease lives {MIN_LEASE_TTL_MS} to {MAX_LEASE_TTL_MS} ms between heartbeats, not {} ms",
                request.ttl_ms
            )));
        }
        if request.reason.len() > 200 || request.holder.len() > 200 {
            return Err(Refusal::Invalid("reason and holder have at most 200 bytes".to_owned()));
        }
        if self.held.len() >= MAX_LEASES && !self.held.contains_key(id) {
            return Err(Refusal::Conflict(format!("{MAX_LEASES} leases are held; release one first")));
        }
        if let Some(plan) = &request.plan
            && let Some((other, _)) = self.held.iter().find(|(k, h)| *k != id && h.request.plan.as_ref() == Some(plan))
        {
            return Err(Refusal::Conflict(format!("lease {other} has the plan {plan}; one drill at a time")));
        }
        self.leases.take(id.to_owned(), Duration::from_millis(request.ttl_ms), now);
        let overlays = self.held.remove(id).map(|held| held.overlays).unwrap_or_default();
        self.held.insert(id.to_owned(), Held { request, overlays });
        Ok(())
    }

    /// A heartbeat. False if the lease is not held or has lapsed.
    pub(crate) fn renew(&mut self, id: &str, now: Instant) -> bool {
        self.leases.renew(&id.to_owned(), now)
    }

    /// Gives a lease back. False if it was not held.
    pub(crate) fn release(&mut self, id: &str) -> bool {
        self.leases.release(&id.to_owned());
        self.held.remove(id).is_some()
    }

    /// Removes and returns leases that lapsed.
    pub(crate) fn expire(&mut self, now: Instant) -> Vec<String> {
        let lapsed = self.leases.expire(now);
        for id in &lapsed {
            self.held.remove(id);
        }
        lapsed
    }

    /// When the next lease lapses.
    pub(crate) fn next_deadline(&self) -> Option<Instant> {
        self.leases.next_deadline()
    }

    /// Ids of leases held.
    pub(crate) fn ids(&self) -> Vec<String> {
        self.held.keys().cloned().collect()
    }

    /// The lease that holds a plan.
    pub(crate) fn of_plan(&self, plan: &str) -> Option<&str> {
        let holds = |held: &Held| held.request.plan.as_deref() == Some(plan);
        self.held.iter().find(|(_, held)| holds(held)).map(|(id, _)| id.as_str())
    }

    /// Lays an overlay. Lapsed leases take none.
    pub(crate) fn lay(&mut self, id: &str, name: &str, request: OverlayRequest, now: Instant) -> Result<(), Refusal> {
        check_name(name)?;
        let alive = self.leases.remaining(&id.to_owned(), now).is_some_and(|left| !left.is_zero());
        let held = self.held.get_mut(id).filter(|_| alive);
        let held = held.ok_or_else(|| Refusal::Missing(format!("lease {id} is not held; take it first")))?;
        if held.overlays.len() >= MAX_OVERLAYS && !held.overlays.contains_key(name) {
            return Err(Refusal::Conflict(format!("{MAX_OVERLAYS} overlays are under lease {id}; remove one first")));
        }
        held.overlays.insert(name.to_owned(), request);
        Ok(())
    }

    /// Takes overlays back whose name the predicate picks; answers their ids.
    pub(crate) fn take_back(&mut self, id: &str, pick: impl Fn(&str) -> bool) -> Vec<String> {
        let Some(held) = self.held.get_mut(id) else { return Vec::new() };
        let names: Vec<String> = held.overlays.keys().filter(|name| pick(name)).cloned().collect();
        for name in &names {
            held.overlays.remove(name);
        }
        names.into_iter().map(|name| overlay_id(id, &name)).collect()
    }

    /// What a proxy is to have now, each with what is left of its lease (at most [`MAX_WIRE_TTL`]).
    pub(crate) fn of_proxy(&self, config: &Config, placement: &Placement, now: Instant) -> Leased {
        let mut all = Vec::new();
        for (id, held) in &self.held {
            let left = self.leases.remaining(id, now).unwrap_or_default().min(MAX_WIRE_TTL);
            if left.is_zero() {
                continue;
            }
            for (name, request) in &held.overlays {
                if let Some(effect) = part(config, placement, request) {
                    let overlay = Overlay { id: overlay_id(id, name), reason: held.request.reason.clone(), effect };
                    all.push((overlay, left));
                }
            }
        }
        all
    }

    /// A lease for its holder.
    pub(crate) fn report(&self, id: &str, config: &Config, placements: &Placements, now: Instant) -> Option<LeaseReport> {
        let held = self.held.get(id)?;
        let left = self.leases.remaining(&id.to_owned(), now)?;
        let overlays = held.overlays.iter().map(|(name, request)| OverlayReport {
            id: overlay_id(id, name),
            proxies: told(config, placements, request),
            effect: request.effect.clone(),
        });
        Some(LeaseReport {
            id: id.to_owned(),
            ttl_ms: held.request.ttl_ms,
            remaining_ms: u64::try_from(left.as_millis()).unwrap_or(u64::MAX),
            reason: held.request.reason.clone(),
            holder: held.request.holder.clone(),
            plan: held.request.plan.clone(),
            overlays: overlays.collect(),
        })
    }
}

/// Id of an overlay, on the wire and in events.
pub(crate) fn overlay_id(lease: &str, name: &str) -> String {
    format!("{lease}/{name}")
}

/// Proxies that an overlay concerns, by name.
pub(crate) fn told(config: &Config, placements: &Placements, request: &OverlayRequest) -> Vec<String> {
    let concerned = placements.proxies.iter().filter(|p| part(config, p, request).is_some());
    concerned.map(|p| p.proxy.clone()).collect()
}

/// Checks that an overlay names what exists.
pub(crate) fn check(config: &Config, request: &OverlayRequest) -> Result<(), Refusal> {
    let service = |name: &str| {
        let known = config.services.keys().any(|s| s.as_str() == name);
        known.then_some(()).ok_or_else(|| Refusal::Invalid(format!("there is no service `{name}`")))
    };
    let region = |name: &str| {
        let known = config.mesh.regions.iter().any(|r| r.as_str() == name);
        known.then_some(()).ok_or_else(|| Refusal::Invalid(format!("there is no region `{name}`")))
    };
    match &request.effect {
        OverlayEffect::Fault(fault) => {
            fault.matches.service.as_deref().map_or(Ok(()), service)?;
            fault.matches.region.as_deref().map_or(Ok(()), region)?;
            if !(0.0..=100.0).contains(&fault.percent) {
                return Err(Refusal::Invalid(format!("{} is not a percentage", fault.percent)));
            }
        }
        OverlayEffect::Partition { region: name } => region(name)?,
        OverlayEffect::Switch(switch) => {
            service(&switch.service)?;
            region(&switch.region)?;
        }
        OverlayEffect::Harmless {} => {}
    }
    match &request.targets {
        Targets::Concerned => Ok(()),
        Targets::Region { region: name } => region(name),
        Targets::Caller { name } => {
            let gateway = config.mesh.gateways.iter().any(|g| g.name.as_str() == name);
            if gateway { Ok(()) } else { service(name) }
        }
    }
}

fn check_name(name: &str) -> Result<(), Refusal> {
    let fine = |b: u8| b.is_ascii_alphanumeric() || matches!(b, b'-' | b'_' | b'.' | b':');
    if (1..=128).contains(&name.len()) && name.bytes().all(fine) {
        return Ok(());
    }
    Err(Refusal::Invalid("a lease or overlay is named by 1 to 128 of a–z, A–Z, 0–9, `-`, `_`, `.` and `:`".to_owned()))
}

fn region_of(placement: &Placement) -> Option<&str> {
    match &placement.role {
        Role::Sidecar { region, .. } => Some(region),
        Role::Gateway { .. } => None,
    }
}

/// One proxy's part of an overlay; `None` if it does not concern it. A gateway is outside every region.
fn part(config: &Config, placement: &Placement, request: &OverlayRequest) -> Option<Effect> {
    let own = region_of(placement);
    let targeted = match &request.targets {
        Targets::Concerned => true,
        Targets::Region { region } => own == Some(region.as_str()),
        Targets::Caller { name } => match &placement.role {
            Role::Sidecar { service, .. } => service == name,
            Role::Gateway { gateway, .. } => gateway == name,
        },
    };
    if !targeted {
        return None;
    }
    let calls = |service: &str| compile::called_by(config, placement).iter().any(|s| s.name.as_str() == service);
    match &request.effect {
        OverlayEffect::Fault(fault) => {
            let concerned = fault.matches.service.as_deref().is_none_or(calls);
            concerned.then(|| Effect::Fault(fault.clone()))
        }
        OverlayEffect::Switch(switch) => calls(&switch.service).then(|| Effect::Switch(switch.clone())),
        OverlayEffect::Partition { region } if own == Some(region.as_str()) => {
            let others = config.mesh.regions.iter().map(|r| r.to_string()).filter(|other| other != region);
            Some(others.collect::<Vec<_>>()).filter(|regions| !regions.is_empty()).map(|regions| Effect::CutOff { regions })
        }
        OverlayEffect::Partition { region } => Some(Effect::CutOff { regions: vec![region.clone()] }),
        OverlayEffect::Harmless {} => Some(Effect::Harmless),
    }
}
