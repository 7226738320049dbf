//! How load is spread over priority tiers: Envoy's formulas, with switches and ramps deciding what health may not.
//!
//! Source: Envoy's `LoadBalancerBase` (`recalculatePerPriorityState`, `recalculatePerPriorityPanic`,
//! `recalculateLoadInTotalPanic`), overprovisioning factor 140, integer arithmetic as there.

/// Envoy's default overprovisioning: a tier takes all of the load while at least 72 % of it are healthy.
const OVERPROVISIONING: u32 = 140;

/// The hosts of one tier, those switched off left out.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct TierHealth {
    /// Declared.
    pub hosts: u32,
    /// Of these, fit for traffic.
    pub healthy: u32,
    /// Of these, fit for traffic when the healthy ones of all tiers do not suffice.
    pub degraded: u32,
}

/// The outcome for all tiers.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Load {
    /// Percent per tier; sums to 100, or all are 0 when nothing can be served.
    pub percent: Vec<u8>,
    /// The part of it that degraded hosts take.
    pub degraded: Vec<u8>,
    /// Tiers whose health is ignored.
    pub panic: Vec<bool>,
}

/// Percent of availability that counts, after overprovisioning: `min(100, 140 % × fit / hosts)`.
fn availability(fit: u32, hosts: u32) -> u32 {
    (OVERPROVISIONING * fit).checked_div(hosts).map_or(0, |percent| percent.min(100))
}

/// The weight of a locality of which not all hosts are fit, in hundredths: `weight × min(1, 1.4 × fit / hosts)`.
pub fn locality_weight(weight: u32, fit: u32, hosts: u32) -> u64 {
    let part = f64::from(OVERPROVISIONING * fit) / f64::from(100 * hosts.max(1));
    (f64::from(weight) * part.min(1.0) * 100.0).ceil() as u64
}

/// Load by health alone. `panic_threshold` in percent, 0 is never.
pub fn by_health(tiers: &[TierHealth], panic_threshold: u8) -> Load {
    let healthy: Vec<u32> = tiers.iter().map(|tier| availability(tier.healthy, tier.hosts)).collect();
    let degraded: Vec<u32> = tiers.iter().map(|tier| availability(tier.degraded, tier.hosts)).collect();
    let norm = healthy.iter().chain(&degraded).sum::<u32>().min(100);
    let threshold = u32::from(panic_threshold.min(100));
    let panic: Vec<bool> = tiers.iter().map(|tier| norm < 100 && in_panic(*tier, threshold)).collect();
    let nothing = vec![0; tiers.len()];
    if threshold > 0 && !tiers.is_empty() && panic.iter().all(|p| *p) {
        return Load { percent: by_host_count(tiers), degraded: nothing, panic };
    }
    if norm == 0 {
        return Load { percent: nothing.clone(), degraded: nothing, panic: vec![false; tiers.len()] };
    }
    let mut remaining = 100;
    let mut part = |fit: &u32| {
        let load = remaining.min(fit * 100 / norm);
        remaining -= load;
        load
    };
    let mut percent: Vec<u32> = healthy.iter().map(&mut part).collect();
    let mut of_degraded: Vec<u32> = degraded.iter().map(&mut part).collect();
    let first = |fit: &[u32]| fit.iter().position(|fit| *fit > 0);
    match (first(&healthy), first(&degraded)) {
        (Some(tier), _) => percent[tier] += remaining,
        (None, Some(tier)) => of_degraded[tier] += remaining,
        (None, None) => {}
    }
    percent.iter_mut().zip(&of_degraded).for_each(|(all, degraded)| *all += degraded);
    let percents = |loads: Vec<u32>| loads.into_iter().map(to_percent).collect();
    Load { percent: percents(percent), degraded: percents(of_degraded), panic }
}

fn in_panic(tier: TierHealth, threshold: u32) -> bool {
    // An empty tier counts as 0 % healthy, as in Envoy.
    tier.hosts == 0 && threshold > 0 || (tier.healthy + tier.degraded) * 100 < threshold * tier.hosts
}

fn by_host_count(tiers: &[TierHealth]) -> Vec<u8> {
    let total: u32 = tiers.iter().map(|tier| tier.hosts).sum();
    let Some(first) = tiers.iter().position(|tier| tier.hosts > 0) else { return vec![0; tiers.len()] };
    let mut percent: Vec<u32> = tiers.iter().map(|tier| 100 * tier.hosts / total).collect();
    percent[first] += 100 - percent.iter().sum::<u32>();
    percent.into_iter().map(to_percent).collect()
}

/// Moves what a tier may not take (switch share, ramp) to the next tier that has hosts, else to one before it; with no
/// other tier it stays, since someone must serve. `factor` is percent of its load that a tier may keep; `usable` says
/// whether a tier has hosts to serve with.
pub fn with_shares(load: &[u8], factor: &[u8], usable: &[bool]) -> Vec<u8> {
    let mut result: Vec<u32> = vec![0; load.len()];
    for (tier, percent) in load.iter().enumerate() {
        let percent = u32::from(*percent);
        let keep = (percent * u32::from(factor[tier].min(100)) + 50) / 100;
        let rest = percent - keep;
        result[tier] += keep;
        if rest > 0 {
            // A tier that may take its whole load is preferred to one that is itself held back.
            let others = || (tier + 1..load.len()).chain((0..tier).rev()).filter(|other| usable[*other]);
            let target = others().find(|other| factor[*other] >= 100).or_else(|| others().next()).unwrap_or(tier);
            result[target] += rest;
        }
    }
    result.into_iter().map(to_percent).collect()
}

fn to_percent(value: u32) -> u8 {
    u8::try_from(value.min(100)).unwrap_or(100)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn tiers(spec: &[(u32, u32)]) -> Vec<TierHealth> {
        spec.iter().map(|(healthy, hosts)| TierHealth { hosts: *hosts, healthy: *healthy, degraded: 0 }).collect()
    }

    /// (healthy/hosts per tier, threshold, percent, panic); the cases of Envoy's documentation of priority levels.
    #[test]
    fn envoys_tables() {
        type Case = (&'static [(u32, u32)], u8, &'static [u8], &'static [bool]);
        let cases: &[Case] = &[
            (&[(100, 100), (100, 100)], 50, &[100, 0], &[false, false]),
            (&[(72, 100), (72, 100)], 50, &[100, 0], &[false, false]),
            (&[(71, 100), (71, 100)], 50, &[99, 1], &[false, false]),
            (&[(50, 100), (50, 100)], 50, &[70, 30], &[false, false]),
            (&[(1, 2), (2, 2)], 50, &[70, 30], &[false, false]),
            (&[(25, 100), (100, 100)], 50, &[35, 65], &[false, false]),
            (&[(25, 100), (25, 100)], 50, &[50, 50], &[true, true]),
            (&[(0, 100), (100, 100)], 50, &[0, 100], &[false, false]),
            (&[(25, 100), (20, 100)], 0, &[56, 44], &[false, false]),
            (&[(5, 100), (0, 100), (0, 100)], 50, &[34, 33, 33], &[true, true, true]),
            (&[(100, 100), (0, 0)], 50, &[100, 0], &[false, false]),
            (&[(0, 1), (1, 1)], 50, &[0, 100], &[false, false]),
            (&[(0, 3), (0, 1)], 50, &[75, 25], &[true, true]),
            (&[(0, 3), (0, 1)], 0, &[0, 0], &[false, false]),
            (&[(0, 0), (0, 0)], 50, &[0, 0], &[true, true]),
            (&[], 50, &[], &[]),
        ];
        for (spec, threshold, percent, panic) in cases {
            let load = by_health(&tiers(spec), *threshold);
            assert_eq!((load.percent.as_slice(), load.panic.as_slice()), (*percent, *panic), "{spec:?} at {threshold}");
        }
    }

    /// (healthy, degraded, hosts per tier), percent, of it degraded; by the rules of Envoy's documentation of degraded hosts.
    #[test]
    fn degraded_hosts_take_what_healthy_ones_cannot() {
        type Case = (&'static [(u32, u32, u32)], &'static [u8], &'static [u8]);
        let cases: &[Case] = &[
            (&[(100, 0, 100)], &[100], &[0]),
            (&[(80, 20, 100)], &[100], &[0]),
            (&[(25, 75, 100)], &[100], &[65]),
            (&[(50, 50, 100), (0, 0, 0)], &[100, 0], &[30, 0]),
            (&[(5, 0, 100), (0, 100, 100)], &[7, 93], &[0, 93]),
            (&[(0, 100, 100), (100, 0, 100)], &[0, 100], &[0, 0]),
            (&[(50, 0, 100), (20, 30, 100)], &[70, 30], &[0, 2]),
            (&[(0, 2, 2)], &[100], &[100]),
        ];
        for (spec, percent, degraded) in cases {
            let tier = |(healthy, degraded, hosts): &(u32, u32, u32)| TierHealth {
                hosts: *hosts,
                healthy: *healthy,
                degraded: *degraded,
            };
            let load = by_health(&spec.iter().map(tier).collect::<Vec<_>>(), 0);
            assert_eq!((load.percent.as_slice(), load.degraded.as_slice()), (*percent, *degraded), "{spec:?}");
        }
    }

    #[test]
    fn localities_lose_weight_with_their_hosts() {
        assert_eq!(locality_weight(1, 2, 2), 100);
        assert_eq!(locality_weight(1, 1, 2), 70);
        assert_eq!(locality_weight(80, 3, 4), 8000);
        assert_eq!(locality_weight(1, 1, 1000), 1, "never nothing while somebody is fit");
        assert_eq!(locality_weight(1, 0, 5), 0);
    }

    #[test]
    fn shares_move_the_rest_to_the_next_tier() {
        assert_eq!(with_shares(&[100, 0], &[25, 100], &[true, true]), [25, 75]);
        assert_eq!(with_shares(&[100, 0], &[0, 100], &[true, true]), [0, 100]);
        assert_eq!(with_shares(&[100, 0], &[10, 100], &[true, false]), [100, 0]);
        assert_eq!(with_shares(&[70, 30, 0], &[100, 50, 100], &[true, true, true]), [70, 15, 15]);
        assert_eq!(with_shares(&[0, 100], &[100, 20], &[true, true]), [80, 20]);
        assert_eq!(with_shares(&[100, 0, 0], &[50, 0, 100], &[true, true, true]), [50, 0, 50]);
    }

    proptest! {
        #[test]
        fn load_is_whole_or_nothing(
            spec in prop::collection::vec((0u32..20, 0u32..20, 0u32..20), 1..5),
            threshold in 0u8..=100,
            factors in prop::collection::vec(0u8..=100, 5),
        ) {
            let tiers: Vec<TierHealth> =
                spec.iter().map(|(a, b, c)| TierHealth { hosts: a + b + c, healthy: *a, degraded: *b }).collect();
            let load = by_health(&tiers, threshold);
            let sum: u32 = load.percent.iter().map(|p| u32::from(*p)).sum();
            let any_healthy = tiers.iter().any(|tier| tier.healthy + tier.degraded > 0);
            prop_assert!(load.degraded.iter().zip(&load.percent).all(|(degraded, all)| degraded <= all));
            let sprayed = load.panic.iter().all(|p| *p) && tiers.iter().any(|tier| tier.hosts > 0);
            prop_assert_eq!(sum, if any_healthy || sprayed { 100 } else { 0 });
            let usable: Vec<bool> = tiers.iter().map(|tier| tier.healthy + tier.degraded > 0).collect();
            let shared = with_shares(&load.percent, &factors[..tiers.len()], &usable);
            prop_assert_eq!(shared.iter().map(|p| u32::from(*p)).sum::<u32>(), sum);
        }
    }
}
