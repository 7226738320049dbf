//! In which order a caller uses the regions of a service, and what durable switches make of it.

use std::collections::BTreeMap;

use model::{
    config::{Config, Pattern, Prefer, Service},
    name::{RegionName, ServiceName},
};
use xds::overlay::SwitchState;

/// Durable routing controls by service and region: what a real failover left behind. They are compiled into snapshots,
/// so that they outlive control plane and proxies alike.
pub type Switches = BTreeMap<(ServiceName, RegionName), SwitchState>;

/// Regions of one tier, each with its share.
pub(super) type Tier = Vec<(RegionName, u32)>;

/// Regions in the order in which a caller uses them. A plan decides for every caller (primary, standbys); else the first
/// rule that matches the caller; else its own region comes first. The mesh's order completes each.
pub(super) fn order(
    config: &Config,
    service: &Service,
    caller: Option<&ServiceName>,
    region: Option<&RegionName>,
) -> Vec<RegionName> {
    let mut order: Vec<RegionName> = Vec::new();
    if let Some(Pattern::ActivePassive { primary, standby, .. }) = plan_pattern(config, &service.name) {
        order.push(primary.clone());
        order.extend(standby.iter().cloned());
    } else {
        let matches = |wanted: &Option<ServiceName>| wanted.is_none() || wanted.as_ref() == caller;
        match service.routes.iter().find(|rule| matches(&rule.caller)).map(|rule| &rule.prefer) {
            Some(Prefer::Order(regions)) => order.extend(regions.iter().cloned()),
            Some(Prefer::SameRegion) | None => order.extend(region.cloned()),
        }
    }
    order.extend(config.mesh.regions.iter().cloned());
    let mut seen = std::collections::BTreeSet::new();
    order.retain(|region| seen.insert(region.clone()));
    order
}

/// The pattern of the plan that a service belongs to.
pub(super) fn plan_pattern<'a>(config: &'a Config, service: &ServiceName) -> Option<&'a Pattern> {
    config.plans.values().find(|plan| plan.services.contains(service)).map(|plan| &plan.pattern)
}

/// Tiers after durable switches: `Off` leaves a region out; `Share(p)` puts it beside the region that would follow it,
/// p to 100 − p. Only one region of a service can be on its way back at a time; further shares count as off.
pub(super) fn tiers(service: &ServiceName, order: &[RegionName], switches: &Switches) -> Vec<Tier> {
    let state =
        |region: &RegionName| switches.get(&(service.clone(), region.clone())).copied().unwrap_or(SwitchState::On);
    let mut returning = None;
    let mut tiers: Vec<Tier> = Vec::new();
    for region in order {
        match state(region) {
            SwitchState::On | SwitchState::Share(100..) => tiers.push(vec![(region.clone(), 1)]),
            SwitchState::Share(percent @ 1..) if returning.is_none() => {
                returning = Some((tiers.len(), region.clone(), u32::from(percent)));
            }
            SwitchState::Off | SwitchState::Share(_) => {}
        }
    }
    if let Some((place, region, percent)) = returning {
        match tiers.get_mut(place) {
            Some(next) => {
                for other in next.iter_mut() {
                    other.1 = 100 - percent;
                }
                next.insert(0, (region, percent));
            }
            None => tiers.push(vec![(region, 1)]),
        }
    }
    tiers
}

#[cfg(test)]
mod tests {
    use super::*;

    fn region(name: &str) -> RegionName {
        RegionName::new(name).unwrap()
    }

    fn check(states: &[(&str, SwitchState)], expected: &[&[(&str, u32)]]) {
        let service = ServiceName::new("ledger").unwrap();
        let order: Vec<_> = ["a", "b", "c"].map(region).into();
        let switches = states.iter().map(|(name, state)| ((service.clone(), region(name)), *state)).collect();
        let expected: Vec<Tier> =
            expected.iter().map(|tier| tier.iter().map(|(name, share)| (region(name), *share)).collect()).collect();
        assert_eq!(tiers(&service, &order, &switches), expected, "{states:?}");
    }

    #[test]
    fn switches_shape_tiers() {
        use SwitchState::{Off, On, Share};
        check(&[], &[&[("a", 1)], &[("b", 1)], &[("c", 1)]]);
        check(&[("a", Off)], &[&[("b", 1)], &[("c", 1)]]);
        check(&[("a", Off), ("b", Off)], &[&[("c", 1)]]);
        check(&[("a", Share(10))], &[&[("a", 10), ("b", 90)], &[("c", 1)]]);
        check(&[("a", Share(0))], &[&[("b", 1)], &[("c", 1)]]);
        check(&[("a", Share(100))], &[&[("a", 1)], &[("b", 1)], &[("c", 1)]]);
        check(&[("b", Share(50))], &[&[("a", 1)], &[("b", 50), ("c", 50)]]);
        check(&[("c", Share(50))], &[&[("a", 1)], &[("b", 1)], &[("c", 1)]]);
        check(&[("a", On), ("b", Off)], &[&[("a", 1)], &[("c", 1)]]);
        check(&[("a", Share(20)), ("b", Share(30))], &[&[("a", 20), ("c", 80)]]);
    }
}
