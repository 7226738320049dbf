//! What this proxy did with its clusters since it last said so. Pure.

use std::{
    collections::{BTreeMap, HashMap},
    time::Instant,
};

use xds::{
    load::{ClusterLoad, LocalityLoad},
    status::{ClusterStatus, EndpointStatus},
};

/// Remembers what was reported.
#[derive(Debug)]
pub struct Meter {
    since: Instant,
    /// By cluster, endpoint and address.
    last: HashMap<(String, String, String), Counts>,
}

/// Of an endpoint, ever.
#[derive(Clone, Copy, Debug, Default)]
struct Counts {
    issued: u64,
    successful: u64,
    errors: u64,
}

impl Counts {
    fn of(endpoint: &EndpointStatus) -> Self {
        let over = endpoint.tries.saturating_sub(endpoint.active);
        Self { issued: endpoint.tries, successful: over.saturating_sub(endpoint.failures), errors: endpoint.failures }
    }
}

impl Meter {
    /// From now on.
    pub fn new(now: Instant) -> Self {
        Self { since: now, last: HashMap::new() }
    }

    /// Since the report before; clusters and localities without any are left out.
    pub fn report(&mut self, clusters: &[ClusterStatus], now: Instant) -> Vec<ClusterLoad> {
        let interval = now.saturating_duration_since(std::mem::replace(&mut self.since, now));
        let mut last = HashMap::new();
        let mut loads = Vec::new();
        for cluster in clusters {
            let mut localities: BTreeMap<(u32, &str), LocalityLoad> = BTreeMap::new();
            for endpoint in &cluster.endpoints {
                let key = (cluster.name.clone(), endpoint.name.clone(), endpoint.address.clone());
                let counts = Counts::of(endpoint);
                let before = self.last.get(&key).copied().unwrap_or_default();
                // An endpoint that left and came back counts from zero again.
                let before = if before.issued > counts.issued { Counts::default() } else { before };
                let load = localities.entry((endpoint.priority, &endpoint.region)).or_default();
                load.issued += counts.issued - before.issued;
                load.successful += counts.successful.saturating_sub(before.successful);
                load.errors += counts.errors.saturating_sub(before.errors);
                load.in_progress += endpoint.active;
                // What counts as over is never taken back, though a try may begin between two readings.
                let successful = counts.successful.max(before.successful);
                last.insert(key, Counts { successful, ..counts });
            }
            let busy = localities.into_iter().filter(|(_, load)| *load != LocalityLoad::default());
            let localities: Vec<_> = busy
                .map(|((priority, region), load)| LocalityLoad { region: region.to_owned(), priority, ..load })
                .collect();
            if !localities.is_empty() {
                loads.push(ClusterLoad { cluster: cluster.name.clone(), interval, localities });
            }
        }
        self.last = last;
        loads
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    fn endpoint(region: &str, priority: u32, tries: u64, failures: u64, active: u64) -> EndpointStatus {
        EndpointStatus {
            name: format!("fx-{region}-0"),
            address: "127.0.0.1:1".into(),
            region: region.into(),
            version: "v1".into(),
            priority,
            healthy: true,
            ejected: false,
            active,
            tries,
            failures,
        }
    }

    fn status(endpoints: Vec<EndpointStatus>) -> Vec<ClusterStatus> {
        vec![ClusterStatus {
            name: "fx".into(),
            service: "fx".into(),
            tier_load: vec![100],
            endpoints,
            breakers: vec![],
        }]
    }

    #[test]
    fn a_report_is_what_was_done_since_the_one_before() {
        let start = Instant::now();
        let mut meter = Meter::new(start);
        let mut report = |seconds, endpoints| {
            let loads = meter.report(&status(endpoints), start + Duration::from_secs(seconds));
            let seen =
                loads.iter().flat_map(|load| load.localities.iter().map(|l| (load.interval.as_secs(), l.clone())));
            let line = |(over, l): (u64, LocalityLoad)| {
                format!(
                    "{} {}: {} = {} + {}, {} now, {over}s",
                    l.region, l.priority, l.issued, l.successful, l.errors, l.in_progress
                )
            };
            seen.map(line).collect::<Vec<_>>().join("; ")
        };
        assert_eq!(report(10, vec![endpoint("east", 0, 0, 0, 0)]), "");
        let both = vec![endpoint("east", 0, 100, 3, 2), endpoint("west", 1, 5, 0, 0)];
        assert_eq!(report(20, both), "east 0: 100 = 95 + 3, 2 now, 10s; west 1: 5 = 5 + 0, 0 now, 10s");
        // Those in flight end, and count then.
        assert_eq!(report(25, vec![endpoint("east", 0, 100, 3, 0)]), "east 0: 0 = 2 + 0, 0 now, 5s");
        // It left and came back.
        assert_eq!(report(30, vec![endpoint("east", 0, 7, 0, 0)]), "east 0: 7 = 7 + 0, 0 now, 5s");
    }
}
