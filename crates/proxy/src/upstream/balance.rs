//! The choice among a tier's hosts.

use std::sync::{
    Arc,
    atomic::{AtomicUsize, Ordering},
};

use xds::snapshot::Balancer;

use crate::upstream::host::{Host, HostId};

/// Longest weighted order; weights are scaled down to fit.
const LONGEST: u64 = 1024;

/// Hosts of one tier that may be sent to, with the order in which round robin takes them.
#[derive(Debug, Default)]
pub struct Candidates {
    hosts: Vec<(Arc<Host>, u32)>,
    order: Vec<u16>,
    next: AtomicUsize,
}

impl Candidates {
    /// Hosts with weights relative to each other; those of weight 0 are never chosen.
    pub fn new(hosts: Vec<(Arc<Host>, u32)>, start: usize) -> Self {
        let hosts: Vec<_> = hosts.into_iter().filter(|(_, weight)| *weight > 0).collect();
        let order = smooth_order(&hosts.iter().map(|(_, weight)| *weight).collect::<Vec<_>>());
        Self { hosts, order, next: AtomicUsize::new(start) }
    }

    /// Chooses one that is not to be avoided.
    pub fn choose(&self, balancer: Balancer, avoid: &[HostId], random: &mut fastrand::Rng) -> Option<&Arc<Host>> {
        match balancer {
            Balancer::RoundRobin => self.in_turn(avoid),
            Balancer::LeastRequest => self.less_busy(avoid, random),
        }
    }

    fn in_turn(&self, avoid: &[HostId]) -> Option<&Arc<Host>> {
        let turn = self.next.fetch_add(1, Ordering::Relaxed).checked_rem(self.order.len())?;
        // All of the order from one turn on: turns that other threads take in between cannot hide who is left.
        let (before, after) = self.order.split_at(turn);
        let mut hosts = after.iter().chain(before).map(|index| &self.hosts[usize::from(*index)].0);
        hosts.find(|host| !avoid.contains(&host.id))
    }

    /// Power of two choices on `weight / (active + 1)` (Envoy's least request).
    fn less_busy(&self, avoid: &[HostId], random: &mut fastrand::Rng) -> Option<&Arc<Host>> {
        let allowed: Vec<_> = self.hosts.iter().filter(|(host, _)| !avoid.contains(&host.id)).collect();
        let first = allowed.get(random.usize(..allowed.len().max(1)))?;
        let second = allowed.get(random.usize(..allowed.len()))?;
        let worth =
            |(host, weight): &(Arc<Host>, u32)| f64::from(*weight) / (host.active.load(Ordering::Relaxed) as f64 + 1.0);
        Some(if worth(second) > worth(first) { &second.0 } else { &first.0 })
    }
}

/// nginx's smooth weighted round robin, written out once: each index appears as often as its weight says, spread evenly.
fn smooth_order(weights: &[u32]) -> Vec<u16> {
    let total: u64 = weights.iter().map(|w| u64::from(*w)).sum();
    if total == 0 {
        return Vec::new();
    }
    let common = weights.iter().fold(0, |a, b| gcd(a, *b)).max(1);
    let weights: Vec<i64> = if total / u64::from(common) <= LONGEST {
        weights.iter().map(|w| i64::from(w / common)).collect()
    } else {
        weights.iter().map(|w| (u64::from(*w) * LONGEST / total).max(1) as i64).collect()
    };
    let total: i64 = weights.iter().sum();
    let mut current = vec![0i64; weights.len()];
    let mut order = Vec::with_capacity(usize::try_from(total).unwrap_or(0));
    for _ in 0..total {
        let mut best = 0;
        for (index, weight) in weights.iter().enumerate() {
            current[index] += weight;
            if current[index] > current[best] {
                best = index;
            }
        }
        current[best] -= total;
        order.push(u16::try_from(best).unwrap_or(u16::MAX));
    }
    order
}

fn gcd(a: u32, b: u32) -> u32 {
    if b == 0 { a } else { gcd(b, a % b) }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use xds::snapshot::Endpoint;

    use super::*;

    fn hosts(weights: &[u32]) -> Vec<(Arc<Host>, u32)> {
        let host = |n: usize| {
            let address = ([127, 0, 0, 1], u16::try_from(n + 1).unwrap()).into();
            let endpoint = Endpoint { name: format!("h{n}"), address, version: String::new(), weight: 1 };
            Arc::new(Host::new(&endpoint, "east".into(), Arc::default()))
        };
        weights.iter().enumerate().map(|(n, weight)| (host(n), *weight)).collect()
    }

    #[test]
    fn weighted_order_is_smooth() {
        assert_eq!(smooth_order(&[5, 1, 1]), [0, 0, 1, 0, 2, 0, 0]);
        assert_eq!(smooth_order(&[100, 100]), [0, 1]);
        assert_eq!(smooth_order(&[]), [0u16; 0]);
    }

    #[test]
    fn a_busy_host_gets_less() {
        let candidates = Candidates::new(hosts(&[1, 1]), 0);
        candidates.hosts[0].0.active.store(50, Ordering::Relaxed);
        let mut random = fastrand::Rng::with_seed(7);
        let chosen = (0..1000)
            .filter(|_| candidates.choose(Balancer::LeastRequest, &[], &mut random).unwrap().name == "h0")
            .count();
        assert!((150..350).contains(&chosen), "only when both choices fall on it: {chosen}");
    }

    #[test]
    fn who_is_left_is_found_whoever_else_takes_turns() {
        let candidates = Candidates::new(hosts(&[1, 1]), 0);
        let avoid = [candidates.hosts[0].0.id];
        std::thread::scope(|scope| {
            for _ in 0..4 {
                scope.spawn(|| {
                    for _ in 0..200_000 {
                        assert!(candidates.in_turn(&avoid).is_some());
                    }
                });
            }
        });
    }

    proptest! {
        #[test]
        fn avoided_hosts_are_never_chosen(weights in prop::collection::vec(0u32..2000, 0..8), avoid in 0usize..8, least: bool) {
            let candidates = Candidates::new(hosts(&weights), 3);
            let balancer = if least { Balancer::LeastRequest } else { Balancer::RoundRobin };
            let avoided: Vec<_> = candidates.hosts.get(avoid).map(|(host, _)| host.id).into_iter().collect();
            let mut random = fastrand::Rng::with_seed(1);
            for _ in 0..50 {
                let chosen = candidates.choose(balancer, &avoided, &mut random);
                prop_assert_eq!(chosen.is_some(), candidates.hosts.iter().any(|(host, _)| !avoided.contains(&host.id)));
                prop_assert!(chosen.is_none_or(|host| !avoided.contains(&host.id)));
            }
        }

        #[test]
        fn shares_follow_weights(weights in prop::collection::vec(1u32..100, 1..8)) {
            let order = smooth_order(&weights);
            let total: u32 = weights.iter().sum();
            for (index, weight) in weights.iter().enumerate() {
                let got = order.iter().filter(|o| usize::from(**o) == index).count() as f64 / order.len() as f64;
                prop_assert!((got - f64::from(*weight) / f64::from(total)).abs() < 0.01);
            }
        }
    }
}
