//! Leases with their overlays, and each proxy's part of an overlay. Pure: time is passed in.

use std::{
    collections::{BTreeMap, BTreeSet},
    time::{Duration, Instant},
};

use model::config::Config;
use serde::{Deserialize, Serialize};
use xds::{
    lease::Leases,
    overlay::{Effect, Overlay, Way},
};

use crate::{
    api::{
        LeaseReport, LeaseRequest, MAX_LEASE_TTL_MS, MIN_LEASE_TTL_MS, OverlayEffect, OverlayReport, OverlayRequest,
        Placement, Placements, Role, Targets,
    },
    compile,
    store::{LeaseRow, SharedLease},
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
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
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
    /// The table of leases that are shared, each with what is left of it at `now`.
    pub(crate) fn of(rows: &[LeaseRow], now: Instant) -> Self {
        let mut table = Self::default();
        for LeaseRow { id, lease: SharedLease { request, overlays }, left } in rows {
            table.leases.take(id.clone(), *left, now);
            let held = Held { request: request.clone(), overlays: overlays.clone() };
            table.held.insert(id.clone(), held);
        }
        table
    }

    /// The same the other way round.
    pub(crate) fn rows(&self, now: Instant) -> Vec<LeaseRow> {
        let row = |(id, held): (&String, &Held)| {
            let left = self.leases.remaining(id, now)?;
            let lease = SharedLease { request: held.request.clone(), overlays: held.overlays.clone() };
            Some(LeaseRow { id: id.clone(), lease, left })
        };
        self.held.iter().filter_map(row).collect()
    }

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
        if self.held.get(id).is_some_and(|held| held.request.holder != request.holder) {
            return Err(Refusal::Conflict(format!("lease {id} is held by another; wait until it lapses")));
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
        let ttl = self.held.get(id).map_or(0, |held| held.request.ttl_ms);
        self.leases.renew_for(&id.to_owned(), Duration::from_millis(ttl), now)
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
    pub(crate) fn report(
        &self,
        id: &str,
        config: &Config,
        placements: &Placements,
        now: Instant,
    ) -> Option<LeaseReport> {
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
        OverlayEffect::Partition { regions, from, way: _ } => {
            if regions.is_empty() {
                return Err(Refusal::Invalid("a partition names no region".to_owned()));
            }
            if let Some(both) = regions.iter().find(|name| from.contains(name)) {
                return Err(Refusal::Invalid(format!("region `{both}` is on both sides of the partition")));
            }
            regions.iter().chain(from).try_for_each(|name| region(name))?;
        }
        OverlayEffect::NoControl { region: name } => name.as_deref().map_or(Ok(()), region)?,
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

/// Whether the stock Envoys among the proxies can do their parts of an overlay.
///
/// # Errors
/// The first that cannot, and why.
pub fn judge_envoys(
    config: &Config,
    placements: &Placements,
    request: &OverlayRequest,
    envoys: &BTreeSet<String>,
) -> Result<(), String> {
    for placement in placements.proxies.iter().filter(|placement| envoys.contains(&placement.proxy)) {
        let Some(effect) = part(config, placement, request) else { continue };
        xds::lower::expressible(&effect).map_err(|reason| format!("proxy {}: {reason}", placement.proxy))?;
    }
    Ok(())
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
        OverlayEffect::Partition { regions, from, way } => cut_off(config, own, regions, from, *way),
        OverlayEffect::NoControl { region } => {
            region.as_deref().is_none_or(|region| own == Some(region)).then_some(Effect::NoControl)
        }
        OverlayEffect::Harmless {} => Some(Effect::Harmless),
    }
}

/// A proxy's part of a partition: it can only lose what it sends and receives itself.
fn cut_off(config: &Config, own: Option<&str>, regions: &[String], from: &[String], way: Way) -> Option<Effect> {
    let inside = own.is_some_and(|own| regions.iter().any(|region| region == own));
    let other = |name: &String| if from.is_empty() { !regions.contains(name) } else { from.contains(name) };
    let (regions, way) = if inside {
        let others = config.mesh.regions.iter().map(ToString::to_string).filter(other);
        let seen_from_inside = match way {
            Way::Both => Way::Both,
            Way::To => Way::From,
            Way::From => Way::To,
        };
        (others.collect(), seen_from_inside)
    } else {
        let concerned = from.is_empty() || own.is_some_and(|own| from.iter().any(|region| region == own));
        (if concerned { regions.to_vec() } else { Vec::new() }, way)
    };
    (!regions.is_empty()).then_some(Effect::CutOff { regions, way })
}

#[cfg(test)]
mod tests {
    use xds::overlay::{Fault, FaultAction, FaultMatch, Switch, SwitchState};

    use super::*;
    use crate::testing::{bank, place};

    fn concerned(config: &Config, request: &OverlayRequest) -> String {
        told(config, &place(config), request).join(" ")
    }

    #[test]
    fn an_overlay_reaches_whom_it_concerns() {
        let config = bank();
        let fault = |service: Option<&str>| {
            OverlayEffect::Fault(Fault {
                matches: FaultMatch { service: service.map(str::to_owned), ..FaultMatch::default() },
                percent: 100.0,
                action: FaultAction::Refuse,
            })
        };
        let caller = |name: &str| Targets::Caller { name: name.to_owned() };
        let east = Targets::Region { region: "east".to_owned() };
        let off = Switch { service: "accounts".to_owned(), region: "east".to_owned(), state: SwitchState::Off };
        let cases = [
            (Targets::Concerned, fault(Some("accounts")), "edge"),
            (Targets::Concerned, fault(Some("fx")), "accounts-east-0 accounts-east-1 accounts-west-0 accounts-west-1"),
            (east, fault(Some("fx")), "accounts-east-0 accounts-east-1"),
            (caller("edge"), fault(Some("fx")), ""),
            (caller("edge"), OverlayEffect::Harmless {}, "edge"),
            (Targets::Concerned, OverlayEffect::Switch(off), "edge"),
        ];
        for (targets, effect, expected) in cases {
            let request = OverlayRequest { targets, effect };
            assert_eq!(check(&config, &request), Ok(()));
            assert_eq!(concerned(&config, &request), expected, "{request:?}");
        }
        let unknown = OverlayRequest { targets: Targets::Concerned, effect: fault(Some("gx")) };
        assert!(check(&config, &unknown).is_err());
        let unknown = partition(&["north"], &[], Way::Both);
        assert!(check(&config, &OverlayRequest { targets: Targets::Concerned, effect: unknown }).is_err());
    }

    fn partition(regions: &[&str], from: &[&str], way: Way) -> OverlayEffect {
        let names = |names: &[&str]| names.iter().map(|name| (*name).to_owned()).collect();
        OverlayEffect::Partition { regions: names(regions), from: names(from), way }
    }

    #[test]
    fn a_partition_has_two_sides() {
        let config = bank();
        for (from, way, inside, gateway) in [
            (&[][..], Way::Both, Some(Way::Both), Some(Way::Both)),
            (&[], Way::To, Some(Way::From), Some(Way::To)),
            (&["west"], Way::From, Some(Way::To), None),
        ] {
            let request = OverlayRequest { targets: Targets::Concerned, effect: partition(&["east"], from, way) };
            assert_eq!(check(&config, &request), Ok(()));
            for placement in &place(&config).proxies {
                let cut = |region: &str, way| Some(Effect::CutOff { regions: vec![region.to_owned()], way });
                let expected = match region_of(placement) {
                    Some("east") => inside.and_then(|way| cut("west", way)),
                    Some(_) => cut("east", way),
                    None => gateway.and_then(|way| cut("east", way)),
                };
                assert_eq!(part(&config, placement, &request), expected, "{}", placement.proxy);
            }
        }
        for (regions, from) in [(&[][..], &[][..]), (&["east"], &["east"])] {
            let request = OverlayRequest { targets: Targets::Concerned, effect: partition(regions, from, Way::Both) };
            assert!(check(&config, &request).is_err());
        }
    }

    #[test]
    fn what_an_envoy_cannot_do_is_refused_with_its_name() {
        let config = bank();
        let placements = place(&config);
        let edge = BTreeSet::from(["edge".to_owned()]);
        let fault = |service: &str, action| {
            let matches = FaultMatch { service: Some(service.to_owned()), ..FaultMatch::default() };
            let effect = OverlayEffect::Fault(Fault { matches, percent: 100.0, action });
            OverlayRequest { targets: Targets::Concerned, effect }
        };
        let check = |request: &OverlayRequest| judge_envoys(&config, &placements, request, &edge);
        assert_eq!(check(&fault("accounts", FaultAction::Abort { status: 503 })), Ok(()));
        assert_eq!(check(&fault("fx", FaultAction::Refuse)), Ok(()), "the edge does not call fx");
        let Err(reason) = check(&fault("accounts", FaultAction::Refuse)) else { panic!("taken") };
        assert!(reason.contains("proxy edge") && reason.contains("refused connections"), "{reason}");
    }

    #[test]
    fn losing_the_control_plane_concerns_a_region_or_all() {
        let config = bank();
        for (region, expected) in [(None, 9), (Some("east"), 4)] {
            let effect = OverlayEffect::NoControl { region: region.map(str::to_owned) };
            let request = OverlayRequest { targets: Targets::Concerned, effect };
            assert_eq!(told(&config, &place(&config), &request).len(), expected, "{region:?}");
        }
    }

    #[test]
    fn overlays_live_as_long_as_their_lease() {
        let config = bank();
        let placements = place(&config);
        let edge = placements.proxies.iter().find(|p| p.proxy == "edge").unwrap();
        let start = Instant::now();
        let at = |ms: u64| start + Duration::from_millis(ms);
        let mut table = Table::default();
        let request = |ttl_ms| LeaseRequest {
            ttl_ms,
            reason: "r".to_owned(),
            holder: "h".to_owned(),
            plan: Some("bank-west".to_owned()),
        };
        for bad in [0, MIN_LEASE_TTL_MS - 1, MAX_LEASE_TTL_MS + 1, u64::MAX] {
            assert!(matches!(table.take("d", request(bad), start), Err(Refusal::Invalid(_))));
        }
        assert!(matches!(table.take("../d", request(1000), start), Err(Refusal::Invalid(_))));
        table.take("d", request(1000), start).unwrap();
        table.take("d", request(1000), start).unwrap();
        let another = LeaseRequest { holder: "i".to_owned(), ..request(1000) };
        assert!(matches!(table.take("d", another, start), Err(Refusal::Conflict(_))), "it is not its own");
        assert!(matches!(table.take("e", request(1000), start), Err(Refusal::Conflict(_))));
        let harmless = || OverlayRequest { targets: Targets::Concerned, effect: OverlayEffect::Harmless {} };
        assert!(matches!(table.lay("e", "o", harmless(), start), Err(Refusal::Missing(_))));
        table.lay("d", "o", harmless(), start).unwrap();
        let left =
            |table: &Table, ms| table.of_proxy(&config, edge, at(ms)).first().map(|(o, left)| (o.id.clone(), *left));
        // The time on the wire is what is left of the lease, never more.
        assert_eq!(left(&table, 0), Some(("d/o".to_owned(), Duration::from_millis(1000))));
        assert_eq!(left(&table, 400), Some(("d/o".to_owned(), Duration::from_millis(600))));
        assert!(table.renew("d", at(900)));
        assert_eq!(left(&table, 1800), Some(("d/o".to_owned(), Duration::from_millis(100))));
        // Lapsed, though not collected yet: nothing is sent, nothing is laid, and no heartbeat revives it.
        assert_eq!(left(&table, 1900), None);
        assert!(!table.renew("d", at(1900)));
        assert!(matches!(table.lay("d", "p", harmless(), at(1900)), Err(Refusal::Missing(_))));
        assert_eq!(table.expire(at(1900)), ["d"]);
        assert_eq!(table.of_plan("bank-west"), None);
        assert!(!table.release("d"));
    }
}
