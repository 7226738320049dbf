//! The choice among a tier's hosts: first a locality by its weight, then one of its hosts as the balancer has it.

use std::{
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicUsize, Ordering},
    },
    time::Instant,
};

use xds::snapshot::{Balancer, Cluster};

use crate::upstream::{
    hashing::{Node, Ring, Table},
    host::Host,
    schedule::Schedule,
};

/// Longest weighted order; weights are scaled down to fit.
const LONGEST: u64 = 1024;

/// Hosts of one locality that may be sent to.
#[derive(Debug, Default)]
pub struct Group {
    /// Among localities; one of weight 0 is never chosen.
    pub weight: u64,
    /// With their weights relative to each other; those of weight 0 are never chosen.
    pub hosts: Vec<(Arc<Host>, u32)>,
}

/// Hosts of one tier that may be sent to.
#[derive(Debug, Default)]
pub struct Candidates {
    localities: Vec<Locality>,
    turns: Turns,
}

#[derive(Debug)]
struct Locality {
    hosts: Vec<(Arc<Host>, u32)>,
    way: Way,
}

/// How one of a locality's hosts is chosen.
#[derive(Debug)]
enum Way {
    InTurn(Turns),
    /// Least request among unequal weights.
    Scheduled {
        schedule: Mutex<Schedule>,
        bias: f64,
    },
    /// Least request among equals.
    Drawn {
        choices: u32,
    },
    Peak,
    Ring(Ring),
    Table(Table),
}

/// A weighted order in which indices take turns.
#[derive(Debug, Default)]
struct Turns {
    order: Vec<u16>,
    next: AtomicUsize,
}

impl Turns {
    fn new(weights: &[u64]) -> Self {
        // Proxies that start together do not begin with the same host.
        Self { order: smooth_order(weights), next: AtomicUsize::new(fastrand::usize(..LONGEST as usize)) }
    }

    /// All of the order from one turn on: turns that other threads take in between cannot hide who is left.
    fn take(&self) -> impl Iterator<Item = usize> {
        let turn = self.next.fetch_add(1, Ordering::Relaxed).checked_rem(self.order.len()).unwrap_or(0);
        let (before, after) = self.order.split_at(turn);
        after.iter().chain(before).map(|index| usize::from(*index))
    }
}

impl Candidates {
    /// Those of these localities.
    pub fn new(config: &Cluster, groups: Vec<Group>) -> Self {
        let mut groups: Vec<Group> = groups.into_iter().filter(|group| group.weight > 0).collect();
        groups.iter_mut().for_each(|group| group.hosts.retain(|(_, weight)| *weight > 0));
        groups.retain(|group| !group.hosts.is_empty());
        if config.balancer.is_hashing() {
            return Self { localities: hashed(config, &groups).into_iter().collect(), turns: Turns::default() };
        }
        let turns = Turns::new(&groups.iter().map(|group| group.weight).collect::<Vec<_>>());
        let locality = |group: Group| Locality { way: Way::new(config, &group.hosts), hosts: group.hosts };
        Self { localities: groups.into_iter().map(locality).collect(), turns }
    }

    /// All of them.
    pub fn hosts(&self) -> impl Iterator<Item = &Arc<Host>> {
        self.localities.iter().flat_map(|locality| locality.hosts.iter().map(|(host, _)| host))
    }

    /// Chooses one that is allowed. A hashing balancer goes by `key`, or by chance without one.
    pub fn choose(
        &self,
        allowed: &impl Fn(&Host) -> bool,
        key: Option<u64>,
        random: &mut fastrand::Rng,
    ) -> Option<&Arc<Host>> {
        if let [only] = self.localities.as_slice() {
            return only.choose(allowed, key, random);
        }
        self.turns.take().find_map(|index| self.localities[index].choose(allowed, key, random))
    }
}

/// All localities on one ring or in one table, each host with its part of its locality's weight.
fn hashed(config: &Cluster, groups: &[Group]) -> Option<Locality> {
    let mut hosts = Vec::new();
    let mut nodes = Vec::new();
    for group in groups {
        let total: f64 = group.hosts.iter().map(|(_, weight)| f64::from(*weight)).sum();
        for (host, weight) in &group.hosts {
            let weight = group.weight as f64 * f64::from(*weight) / total;
            nodes.push(Node { key: host.address.to_string(), weight });
            hosts.push((host.clone(), 1));
        }
    }
    let tuning = &config.balancing;
    let way = if config.balancer == Balancer::RingHash {
        Way::Ring(Ring::new(&nodes, tuning.ring_at_least, tuning.ring_at_most))
    } else {
        Way::Table(Table::new(&nodes, tuning.table))
    };
    (!hosts.is_empty()).then_some(Locality { hosts, way })
}

impl Way {
    fn new(config: &Cluster, hosts: &[(Arc<Host>, u32)]) -> Self {
        let weights = || hosts.iter().map(|(_, weight)| *weight);
        let equal = weights().min() == weights().max();
        match config.balancer {
            Balancer::LeastRequest if equal => Self::Drawn { choices: config.balancing.choices },
            Balancer::LeastRequest => Self::Scheduled {
                schedule: Mutex::new(Schedule::new(weights().map(f64::from), &mut fastrand::Rng::new())),
                bias: config.balancing.bias,
            },
            Balancer::PeakEwma => Self::Peak,
            Balancer::RoundRobin | Balancer::RingHash | Balancer::Maglev => {
                Self::InTurn(Turns::new(&weights().map(u64::from).collect::<Vec<_>>()))
            }
        }
    }
}

impl Locality {
    fn choose(
        &self,
        allowed: &impl Fn(&Host) -> bool,
        key: Option<u64>,
        random: &mut fastrand::Rng,
    ) -> Option<&Arc<Host>> {
        let fits = |index: &usize| allowed(&self.hosts[*index].0);
        let active = |index: usize| self.hosts[index].0.active.load(Ordering::Relaxed) as f64 + 1.0;
        let weight = |index: usize| f64::from(self.hosts[index].1);
        let index = match &self.way {
            Way::InTurn(turns) => turns.take().find(fits),
            Way::Scheduled { schedule, bias } => {
                let mut schedule = schedule.lock().unwrap_or_else(PoisonError::into_inner);
                schedule.next(|index| fits(&index), |index| weight(index) / active(index).powf(*bias))
            }
            Way::Drawn { choices } => self.best_of(*choices, &fits, random, active),
            Way::Peak => {
                let now = Instant::now();
                let cost = |index: usize| self.hosts[index].0.latency(now) * active(index) / weight(index);
                self.best_of(2, &fits, random, cost)
            }
            Way::Ring(ring) => {
                let hash = key.unwrap_or_else(|| random.u64(..));
                self.anyone(&fits).and_then(|_| ring.walk(hash).find(fits))
            }
            Way::Table(table) => {
                let hash = key.unwrap_or_else(|| random.u64(..));
                self.anyone(&fits).and_then(|_| table.walk(hash).find(fits))
            }
        };
        index.map(|index| &self.hosts[index].0)
    }

    fn anyone(&self, fits: &impl Fn(&usize) -> bool) -> Option<usize> {
        (0..self.hosts.len()).find(fits)
    }

    /// Of some that are drawn, with repetition, the one of least cost.
    fn best_of(
        &self,
        choices: u32,
        fits: &impl Fn(&usize) -> bool,
        random: &mut fastrand::Rng,
        cost: impl Fn(usize) -> f64,
    ) -> Option<usize> {
        let mut best = self.draw(fits, random)?;
        for _ in 1..choices {
            let other = self.draw(fits, random)?;
            if other != best && cost(other) < cost(best) {
                best = other;
            }
        }
        Some(best)
    }

    fn draw(&self, fits: &impl Fn(&usize) -> bool, random: &mut fastrand::Rng) -> Option<usize> {
        let drawn = random.usize(..self.hosts.len());
        if fits(&drawn) {
            return Some(drawn);
        }
        let left = || (0..self.hosts.len()).filter(fits);
        match left().count() {
            0 => None,
            count => left().nth(random.usize(..count)),
        }
    }
}

/// nginx's smooth weighted round robin, written out once: each index appears as often as its weight says, spread evenly.
fn smooth_order(weights: &[u64]) -> Vec<u16> {
    let total: u64 = weights.iter().sum();
    if total == 0 {
        return Vec::new();
    }
    let common = weights.iter().fold(0, |a, b| gcd(a, *b)).max(1);
    let scaled = |weight: &u64| {
        let exact = if total / common <= LONGEST {
            weight / common
        } else {
            (weight.saturating_mul(LONGEST) / total).max(u64::from(*weight > 0))
        };
        i64::try_from(exact).unwrap_or(i64::MAX)
    };
    let weights: Vec<i64> = weights.iter().map(scaled).collect();
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

fn gcd(a: u64, b: u64) -> u64 {
    if b == 0 { a } else { gcd(b, a % b) }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use xds::snapshot::{Endpoint, UpstreamProtocol};

    use super::*;

    const ALL: [Balancer; 5] =
        [Balancer::RoundRobin, Balancer::LeastRequest, Balancer::PeakEwma, Balancer::RingHash, Balancer::Maglev];

    fn hosts(weights: &[u32]) -> Vec<(Arc<Host>, u32)> {
        let host = |n: usize| {
            let address = ([127, 0, 0, 1], u16::try_from(n + 1).unwrap()).into();
            let endpoint = Endpoint { name: format!("h{n}"), address, version: String::new(), weight: 1 };
            Arc::new(Host::new(&endpoint, "east".into(), Arc::default()))
        };
        weights.iter().enumerate().map(|(n, weight)| (host(n), *weight)).collect()
    }

    fn config(balancer: Balancer) -> Cluster {
        let mut config = Cluster { balancer, ..Cluster::new("fx", UpstreamProtocol::Http1) };
        config.balancing.table = 251;
        config
    }

    fn one(balancer: Balancer, weights: &[u32]) -> Candidates {
        Candidates::new(&config(balancer), vec![Group { weight: 1, hosts: hosts(weights) }])
    }

    /// How often each host of the locality is chosen out of this many.
    fn counts(candidates: &Candidates, times: usize, keys: bool) -> Vec<f64> {
        let mut random = fastrand::Rng::with_seed(7);
        let all: Vec<&Arc<Host>> = candidates.localities.iter().flat_map(|l| l.hosts.iter().map(|(h, _)| h)).collect();
        let mut counts = vec![0.0; all.len()];
        for _ in 0..times {
            let key = keys.then(|| random.u64(..));
            let chosen = candidates.choose(&|_| true, key, &mut random).unwrap();
            counts[all.iter().position(|host| host.id == chosen.id).unwrap()] += 1.0;
        }
        counts
    }

    #[test]
    fn weighted_order_is_smooth() {
        assert_eq!(smooth_order(&[5, 1, 1]), [0, 0, 1, 0, 2, 0, 0]);
        assert_eq!(smooth_order(&[100, 100]), [0, 1]);
        assert_eq!(smooth_order(&[]), [0u16; 0]);
    }

    #[test]
    fn a_busy_host_gets_less() {
        let candidates = one(Balancer::LeastRequest, &[1, 1]);
        candidates.localities[0].hosts[0].0.active.store(50, Ordering::Relaxed);
        let busy = counts(&candidates, 1000, false)[0];
        assert!((150.0..350.0).contains(&busy), "only when both choices fall on it: {busy}");
        // 10 / 5 against 1 / 1: two thirds.
        let candidates = one(Balancer::LeastRequest, &[10, 1]);
        candidates.localities[0].hosts[0].0.active.store(4, Ordering::Relaxed);
        let heavy = counts(&candidates, 3000, false)[0];
        assert!((1990.0..2010.0).contains(&heavy), "{heavy}");
    }

    #[test]
    fn a_slow_host_gets_less() {
        let candidates = one(Balancer::PeakEwma, &[1, 1]);
        let now = Instant::now();
        for ((host, _), millis) in candidates.localities[0].hosts.iter().zip([50, 5]) {
            host.observe(std::time::Duration::from_millis(millis), now);
        }
        let slow = counts(&candidates, 1000, false)[0];
        assert!((150.0..350.0).contains(&slow), "only when both choices fall on it: {slow}");
    }

    #[test]
    fn localities_have_their_shares_whatever_their_size() {
        for balancer in ALL {
            let all = hosts(&[1, 1, 1, 1]);
            let groups = vec![
                Group { weight: 3, hosts: all[..1].to_vec() },
                Group { weight: 1, hosts: all[1..].to_vec() },
                Group { weight: 0, hosts: hosts(&[1]) },
            ];
            let mut config = config(balancer);
            (config.balancing.table, config.balancing.ring_at_least) = (65_537, 65_536);
            let got = counts(&Candidates::new(&config, groups), 20_000, true);
            assert!((got[0] - 15_000.0).abs() < 400.0, "{balancer:?}: {got:?}");
            assert!(got[1..].iter().all(|n| (n - 5000.0 / 3.0).abs() < 250.0), "{balancer:?}: {got:?}");
        }
    }

    #[test]
    fn the_same_key_leads_to_the_same_host() {
        for balancer in [Balancer::RingHash, Balancer::Maglev] {
            let candidates = one(balancer, &[1; 5]);
            let mut random = fastrand::Rng::with_seed(3);
            for key in (0..50).map(|n: u64| n.wrapping_mul(0x9E37_79B9_7F4A_7C15)) {
                let first = candidates.choose(&|_| true, Some(key), &mut random).unwrap().id;
                assert!((0..5).all(|_| candidates.choose(&|_| true, Some(key), &mut random).unwrap().id == first));
                assert_ne!(candidates.choose(&|host| host.id != first, Some(key), &mut random).unwrap().id, first);
            }
            let spread = counts(&candidates, 1000, false);
            assert!(spread.iter().all(|n| *n > 100.0), "without a key it goes anywhere: {spread:?}");
        }
    }

    #[test]
    fn who_is_left_is_found_whoever_else_takes_turns() {
        let candidates = one(Balancer::RoundRobin, &[1, 1]);
        let avoid = candidates.localities[0].hosts[0].0.id;
        std::thread::scope(|scope| {
            for _ in 0..4 {
                scope.spawn(|| {
                    let mut random = fastrand::Rng::with_seed(1);
                    for _ in 0..100_000 {
                        assert!(candidates.choose(&|host| host.id != avoid, None, &mut random).is_some());
                    }
                });
            }
        });
    }

    proptest! {
        #[test]
        fn only_the_allowed_are_chosen(
            weights in prop::collection::vec(0u32..2000, 0..8), avoid in 0usize..8, balancer in 0usize..5, split in 0usize..8,
        ) {
            let mut all = hosts(&weights);
            let avoided = all.get(avoid).map(|(host, _)| host.id);
            let left = all.iter().any(|(host, weight)| *weight > 0 && Some(host.id) != avoided);
            let rest = all.split_off(split.min(all.len()));
            let groups = vec![Group { weight: 2, hosts: all }, Group { weight: 1, hosts: rest }];
            let candidates = Candidates::new(&config(ALL[balancer]), groups);
            let mut random = fastrand::Rng::with_seed(1);
            for _ in 0..50 {
                let chosen = candidates.choose(&|host| Some(host.id) != avoided, None, &mut random);
                prop_assert_eq!(chosen.is_some(), left);
                prop_assert!(chosen.is_none_or(|host| Some(host.id) != avoided));
            }
        }

        #[test]
        fn shares_follow_weights(weights in prop::collection::vec(1u64..100, 1..8)) {
            let order = smooth_order(&weights);
            let total: u64 = weights.iter().sum();
            for (index, weight) in weights.iter().enumerate() {
                let got = order.iter().filter(|o| usize::from(**o) == index).count() as f64 / order.len() as f64;
                prop_assert!((got - *weight as f64 / total as f64).abs() < 0.01);
            }
        }
    }
}
