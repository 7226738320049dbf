//! The plan's normal state: every service of the plan is served by its primary. Decided from what proxies report of
//! their load, never from what was commanded. Pure.

use std::collections::BTreeMap;

use evidence::record::{Nanos, ProxyShare, RampStep, Served};
use model::config::{Pattern, RecoveryPlan};

use crate::target::{ClusterLoad, ProxyReport};

/// At least this much of the requests of a slice goes to the primary. The rest is left to retries and hedges, which may
/// use the standby in the normal state too.
const PRIMARY_SHARE: f64 = 95.0;
/// Requests of a proxy within a slice that tell its share.
const ENOUGH: u64 = 10;
/// A share counts as the commanded one within so many percentage points, beside the chance of a small sample.
const NEAR: f64 = 15.0;
/// A look at the moment of a step's end comes at most this long after it.
const LATE: Nanos = 250_000_000;
/// Slices that are kept; of a longer attempt, the latest.
const MOST_SLICES: usize = 4096;

/// What proxies sent to one service in one region within one slice.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Sent {
    /// Tries begun in the slice.
    pub tries: u64,
    /// Requests (over TCP: connections) in flight at its end.
    pub active: u64,
}

/// Load at the proxies between two looks.
#[derive(Clone, Debug, PartialEq)]
pub struct Slice {
    /// First look.
    pub from: Nanos,
    /// Second look.
    pub to: Nanos,
    /// By proxy, service and region.
    pub sent: BTreeMap<(String, String, String), Sent>,
}

/// Counters of a group of endpoints at one proxy: boot, cluster, priority, region.
type Counter = (String, String, String, u32, String);

/// The load at the proxies over time.
#[derive(Clone, Debug, Default)]
pub struct Loads {
    last: Option<(Nanos, BTreeMap<Counter, u64>)>,
    slices: Vec<Slice>,
}

impl Loads {
    /// Takes in one look at the proxies.
    pub fn look(&mut self, now: Nanos, proxies: &[ProxyReport], plan: &RecoveryPlan) {
        let mut counters = BTreeMap::new();
        let mut sent: BTreeMap<(String, String, String), Sent> = BTreeMap::new();
        let before = self.last.take();
        for proxy in proxies.iter().filter(|proxy| proxy.digest.is_ok()) {
            for load in in_scope(proxy, plan) {
                for group in &load.groups {
                    let counter = (
                        proxy.name.clone(),
                        proxy.boot.clone(),
                        load.cluster.clone(),
                        group.priority,
                        group.region.clone(),
                    );
                    // A proxy that was started anew counts from 0; one that is seen for the first time cannot say when
                    // it sent what it has sent.
                    let known = before.as_ref().map(|(_, known)| known);
                    let started =
                        known.is_some_and(|known| known.keys().any(|k| k.0 == proxy.name && k.1 != proxy.boot));
                    let earlier = known.and_then(|known| known.get(&counter)).copied();
                    let earlier = earlier.unwrap_or(if started { 0 } else { group.tries });
                    let key = (proxy.name.clone(), load.service.clone(), group.region.clone());
                    let entry = sent.entry(key).or_default();
                    entry.tries += group.tries.saturating_sub(earlier);
                    entry.active += group.active;
                    counters.insert(counter, group.tries);
                }
            }
        }
        if let Some((from, _)) = before {
            sent.retain(|_, sent| *sent != Sent::default());
            self.slices.push(Slice { from, to: now, sent });
            if self.slices.len() > MOST_SLICES {
                self.slices.remove(0);
            }
        }
        self.last = Some((now, counters));
    }

    /// All slices that are known.
    #[cfg(test)]
    pub fn slices(&self) -> &[Slice] {
        &self.slices
    }

    /// Slices that lie wholly between two times.
    pub fn between(&self, from: Nanos, to: Nanos) -> &[Slice] {
        let first = self.slices.partition_point(|slice| slice.from < from);
        let last = self.slices.partition_point(|slice| slice.to <= to).max(first);
        self.slices.get(first..last).unwrap_or_default()
    }
}

/// Clusters that carry requests of the plan's services to wherever the plan says. One that holds the endpoints of a single
/// region (of `ledger.east`, for replication) goes there whatever the plan does, and says nothing of it.
fn in_scope<'a>(proxy: &'a ProxyReport, plan: &'a RecoveryPlan) -> impl Iterator<Item = &'a ClusterLoad> {
    let primary = primary(plan);
    proxy.loads.iter().filter(move |load| {
        plan.services.iter().any(|service| service.as_str() == load.service)
            && load.groups.iter().any(|group| group.region == primary)
            && load.groups.iter().any(|group| group.region != primary)
    })
}

fn primary(plan: &RecoveryPlan) -> &str {
    let Pattern::ActivePassive { primary, .. } = &plan.pattern;
    primary.as_str()
}

/// Why the load at the proxies is not where the plan's normal state has it, at this moment; empty if it is.
pub fn displaced(proxies: &[ProxyReport], plan: &RecoveryPlan) -> Vec<String> {
    let primary = primary(plan);
    let mut reasons = Vec::new();
    for proxy in proxies {
        for load in in_scope(proxy, plan) {
            let first = load.groups.iter().filter(|group| group.priority == 0);
            let alone = first.clone().all(|group| group.region == primary) && first.count() > 0;
            let percent = load.tiers.first().copied().unwrap_or(0);
            let (name, cluster) = (&proxy.name, &load.cluster);
            if !alone {
                reasons.push(format!("{cluster} at {name}: {primary} is not the only region in use"));
            } else if percent < 100 {
                reasons.push(format!("{cluster} at {name}: {percent} % of the load goes to {primary}"));
            }
        }
    }
    reasons
}

/// What the primary had of a service within one slice.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Part {
    /// Tries to any region.
    pub tries: u64,
    /// Of these, to the primary.
    pub primary: u64,
    /// In flight at the primary at the slice's end.
    active: u64,
}

impl Part {
    /// Percent of the tries that went to the primary; `None` without any.
    pub fn percent(self) -> Option<f64> {
        (self.tries > 0).then(|| self.primary as f64 * 100.0 / self.tries as f64)
    }
}

/// What the primary had of a service within one slice.
pub fn part(slice: &Slice, service: &str, plan: &RecoveryPlan) -> Part {
    let primary = primary(plan);
    let mut part = Part::default();
    for ((_, _, region), sent) in slice.sent.iter().filter(|((_, of, _), _)| of == service) {
        part.tries += sent.tries;
        if region == primary {
            part.primary += sent.tries;
            part.active += sent.active;
        }
    }
    part
}

/// Services of the plan of which other regions than the primary had more than retries explain, in any of these slices.
pub fn strayed(slices: &[Slice], plan: &RecoveryPlan) -> Vec<String> {
    let mut reasons = Vec::new();
    for service in plan.services.iter().map(|service| service.as_str()) {
        let parts = slices.iter().map(|slice| part(slice, service, plan));
        let shares = parts.filter_map(|part| Some((part.percent()?, part.tries)));
        let worst = shares.min_by(|(one, _), (other, _)| one.total_cmp(other));
        if let Some((share, tries)) = worst.filter(|(share, _)| *share < PRIMARY_SHARE) {
            let primary = primary(plan);
            reasons.push(format!(
                "{service} was not served by {primary}: in one slice {share:.0} % of {tries} requests went there"
            ));
        }
    }
    reasons
}

/// Why these slices do not show that every service of the plan was served by its primary; empty if they do.
pub fn misserved(slices: &[Slice], plan: &RecoveryPlan) -> Vec<String> {
    let mut reasons = strayed(slices, plan);
    for service in plan.services.iter().map(|service| service.as_str()) {
        let mut parts = slices.iter().map(|slice| part(slice, service, plan));
        if parts.all(|part| part.tries + part.active == 0) {
            let primary = primary(plan);
            reasons.push(format!(
                "{service} was not served by {primary}: no proxy sent it a request, so its loss would prove nothing \
                 (a probe must reach every service of the plan)"
            ));
        }
    }
    reasons
}

/// What each service and region was sent within these slices; a connection that is held counts as a request.
pub fn served(slices: &[Slice]) -> Vec<Served> {
    let mut sums: BTreeMap<(&str, &str), (u64, u64)> = BTreeMap::new();
    for slice in slices {
        let mut active: BTreeMap<(&str, &str), u64> = BTreeMap::new();
        for ((_, service, region), sent) in &slice.sent {
            let key = (service.as_str(), region.as_str());
            sums.entry(key).or_default().0 += sent.tries;
            *active.entry(key).or_default() += sent.active;
        }
        for (key, active) in active {
            let most = &mut sums.entry(key).or_default().1;
            *most = active.max(*most);
        }
    }
    let served = |((service, region), (tries, active)): ((&str, &str), (u64, u64))| Served {
        service: service.to_owned(),
        region: region.to_owned(),
        requests: tries.max(active),
    };
    sums.into_iter().map(served).collect()
}

/// The failback as commanded, with what proxies were seen to send to the primary within each step.
pub fn ramp(steps: &[(Nanos, f64)], end: Nanos, loads: &Loads, plan: &RecoveryPlan) -> Vec<RampStep> {
    let ends = steps.iter().skip(1).map(|(time, _)| *time).chain([end]);
    let mut ramp = Vec::new();
    for ((time, commanded), until) in steps.iter().zip(ends) {
        for service in &plan.services {
            // The look at the next step's beginning comes a moment after it.
            let slices = loads.between(*time, until.saturating_add(LATE));
            let region = primary(plan).to_owned();
            let mut proxies: BTreeMap<String, ProxyShare> = BTreeMap::new();
            let mut observed = None;
            // Slices of a short step may each be too small to tell: then all of it does.
            for slice in slices.iter().chain(&whole(slices)) {
                let shares = shares(slice, service.as_str(), &region);
                let all = !shares.is_empty() && shares.values().all(|(share, of)| near(*share, *of, *commanded));
                if all && observed.is_none() {
                    observed = Some(slice.to);
                }
                for (proxy, (share, _)) in shares {
                    let seen = ProxyShare { proxy: proxy.to_owned(), share, time: slice.to };
                    let known = proxies.entry(proxy.to_owned()).or_insert_with(|| seen.clone());
                    if slice.from >= known.time {
                        *known = seen;
                    }
                }
            }
            let (service, proxies) = (service.to_string(), proxies.into_values().collect());
            ramp.push(RampStep { service, region, commanded: *commanded, time: *time, observed, proxies });
        }
    }
    ramp
}

/// Slices as one.
fn whole(slices: &[Slice]) -> Option<Slice> {
    let (first, last) = (slices.first()?, slices.last()?);
    let mut sent: BTreeMap<(String, String, String), Sent> = BTreeMap::new();
    for (key, part) in slices.iter().flat_map(|slice| &slice.sent) {
        let sum = sent.entry(key.clone()).or_default();
        sum.tries += part.tries;
        sum.active = sum.active.max(part.active);
    }
    Some(Slice { from: first.from, to: last.to, sent })
}

/// Percent of each proxy's requests to a service that went to a region, and of how many requests; proxies that sent too few
/// to tell are left out.
fn shares<'a>(slice: &'a Slice, service: &str, region: &str) -> BTreeMap<&'a str, (f64, u64)> {
    let mut sums: BTreeMap<&str, (u64, u64)> = BTreeMap::new();
    for ((proxy, _, to), sent) in slice.sent.iter().filter(|((_, of, _), _)| of == service) {
        let (all, there) = sums.entry(proxy.as_str()).or_default();
        *all += sent.tries;
        *there += if to == region { sent.tries } else { 0 };
    }
    let enough = sums.into_iter().filter(|(_, (all, _))| *all >= ENOUGH);
    enough.map(|(proxy, (all, there))| (proxy, (there as f64 * 100.0 / all as f64, all))).collect()
}

/// Whether a share that was seen of so many requests is the one that was commanded, as far as they can tell: each request is
/// drawn, so that two standard deviations of a binomial share are allowed beside [`NEAR`].
fn near(seen: f64, of: u64, commanded: f64) -> bool {
    let deviation = (commanded * (100.0 - commanded) / of.max(1) as f64).max(0.0).sqrt();
    (seen - commanded).abs() <= NEAR + 2.0 * deviation
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        target::GroupLoad,
        testing::{plan, proxy},
    };

    fn load(cluster: &str, tiers: &[u8], groups: &[(u32, &str, u64, u64)]) -> ClusterLoad {
        let group = |(priority, region, tries, active): &(u32, &str, u64, u64)| GroupLoad {
            priority: *priority,
            region: (*region).to_owned(),
            tries: *tries,
            active: *active,
        };
        ClusterLoad {
            cluster: cluster.to_owned(),
            service: "app".to_owned(),
            tiers: tiers.to_vec(),
            groups: groups.iter().map(group).collect(),
        }
    }

    fn edge(boot: &str, loads: Vec<ClusterLoad>) -> Vec<ProxyReport> {
        vec![ProxyReport { loads, boot: boot.to_owned(), ..proxy("edge", None, None) }]
    }

    #[test]
    fn load_that_is_elsewhere_is_named() {
        let check = |load: ClusterLoad, expected: &[&str]| {
            let reasons = displaced(&edge("b", vec![load]), &plan());
            assert_eq!(reasons.len(), expected.len(), "{reasons:?}");
            assert!(reasons.iter().zip(expected).all(|(reason, part)| reason.contains(part)), "{reasons:?}");
        };
        check(load("app", &[100, 0], &[(0, "east", 0, 0), (1, "west", 0, 0)]), &[]);
        check(load("app", &[50, 50], &[(0, "east", 0, 0), (1, "west", 0, 0)]), &["50 % of the load goes to east"]);
        check(load("app", &[0, 100], &[(0, "east", 0, 0), (1, "west", 0, 0)]), &["0 % of the load"]);
        // Shares that are compiled in: both regions are in one priority.
        check(load("app", &[100], &[(0, "east", 0, 0), (0, "west", 0, 0)]), &["not the only region"]);
        check(load("app", &[100, 0], &[(0, "west", 0, 0), (1, "east", 0, 0)]), &["not the only region"]);
        check(load("app.west", &[100], &[(0, "west", 0, 0)]), &[]);
        check(load("app@v1", &[10, 90], &[(0, "east", 0, 0), (1, "west", 0, 0)]), &["app@v1 at edge: 10 %"]);
        let other = ClusterLoad { service: "other".to_owned(), ..load("other", &[0, 100], &[(0, "east", 0, 0)]) };
        check(other, &[]);
    }

    /// Requests to east and west in each look, by a proxy of this boot.
    fn slices(looks: &[(&str, u64, u64, u64)]) -> Vec<Slice> {
        let mut loads = Loads::default();
        for (time, (boot, east, west, active)) in (0i64..).zip(looks) {
            let groups = [(0, "east", *east, *active), (1, "west", *west, 0)];
            loads.look(time, &edge(boot, vec![load("app", &[100, 0], &groups)]), &plan());
        }
        loads.slices().to_vec()
    }

    #[test]
    fn every_slice_must_be_served_by_the_primary() {
        let check = |looks: &[(&str, u64, u64, u64)], expected: Option<&str>| {
            let reasons = misserved(&slices(looks), &plan());
            assert_eq!(reasons.len(), usize::from(expected.is_some()), "{looks:?}: {reasons:?}");
            assert!(reasons.iter().all(|reason| reason.contains(expected.unwrap())), "{reasons:?}");
        };
        check(&[("a", 10, 900, 0), ("a", 110, 900, 0), ("a", 210, 900, 0)], None);
        check(&[("a", 0, 0, 0), ("a", 100, 5, 0), ("a", 200, 5, 0)], None);
        check(&[("a", 0, 0, 0), ("a", 100, 0, 0), ("a", 150, 50, 0)], Some("50 % of 100 requests"));
        check(&[("a", 0, 0, 0), ("a", 0, 100, 0)], Some("0 % of 100 requests"));
        check(&[("a", 7, 0, 0), ("a", 7, 0, 0)], Some("no proxy sent it a request"));
        // A connection that is held counts; a slice without requests says nothing.
        check(&[("a", 7, 0, 1), ("a", 7, 0, 1)], None);
        check(&[("a", 0, 0, 0), ("a", 9, 0, 0), ("a", 9, 0, 0)], None);
        // Started anew: its counters begin at 0.
        check(&[("a", 500, 0, 0), ("b", 10, 90, 0)], Some("10 % of 100 requests"));
        check(&[], Some("no proxy sent it a request"));
    }

    #[test]
    fn slices_between() {
        let mut loads = Loads::default();
        for time in [0, 10, 20, 30] {
            loads.look(
                time,
                &edge("a", vec![load("app", &[100, 0], &[(0, "east", 7 + time.unsigned_abs(), 0), (1, "west", 0, 0)])]),
                &plan(),
            );
        }
        let spans = |from, to| loads.between(from, to).iter().map(|s| (s.from, s.to)).collect::<Vec<_>>();
        assert_eq!(spans(0, 30), [(0, 10), (10, 20), (20, 30)]);
        assert_eq!(spans(1, 29), [(10, 20)]);
        assert_eq!(spans(25, 28), []);
        assert_eq!(spans(40, 50), []);
        let east = Served { service: "app".into(), region: "east".into(), requests: 30 };
        assert_eq!(served(loads.slices()), [east]);
        assert_eq!(served(loads.between(0, 10))[0].requests, 10);
    }

    #[test]
    fn a_share_of_few_requests_is_allowed_their_chance_and_no_more() {
        // 5 of 13 for one half is chance, 0 of 12 is not; of many requests only what is near counts.
        for (there, of, commanded, expected) in [
            (5, 13, 50.0, true),
            (0, 12, 50.0, false),
            (12, 12, 50.0, false),
            (310, 1000, 50.0, false),
            (380, 1000, 50.0, true),
            (95, 100, 100.0, true),
            (80, 100, 100.0, false),
        ] {
            assert_eq!(near(f64::from(there) * 100.0 / of as f64, of, commanded), expected, "{there} of {of}");
        }
    }

    #[test]
    fn a_ramp_is_what_proxies_were_seen_to_do() {
        const SECOND: Nanos = 1_000_000_000;
        let mut loads = Loads::default();
        // 0, 10 and 48 % of a hundred requests each; the third step is never seen.
        for (time, east, west) in
            [(0, 0, 0), (10, 0, 100), (20, 10, 190), (30, 58, 242), (40, 106, 294), (50, 154, 346)]
        {
            let groups = [(0, "east", east, 0), (1, "west", west, 0)];
            loads.look(time * SECOND, &edge("a", vec![load("app", &[100, 0], &groups)]), &plan());
        }
        let steps = [(5, 10.0), (20, 50.0), (40, 100.0)].map(|(time, share)| (time * SECOND, share));
        let seen = ramp(&steps, 60 * SECOND, &loads, &plan());
        let brief: Vec<_> = seen
            .iter()
            .map(|s| (s.commanded, s.observed.map(|t| t / SECOND), s.proxies[0].share, s.proxies[0].time / SECOND))
            .collect();
        assert_eq!(brief, [(10.0, Some(20), 10.0, 20), (50.0, Some(30), 48.0, 40), (100.0, None, 48.0, 50)]);
        assert_eq!((seen[0].service.as_str(), seen[0].region.as_str()), ("app", "east"));
        assert!(ramp(&[], 60, &loads, &plan()).is_empty());
    }
}
