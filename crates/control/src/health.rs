//! The whole view that no proxy has: which endpoints proxies outside a region see as gone. Pure.

use std::collections::BTreeMap;

use model::{
    config::{Config, Pattern, RecoveryPlan},
    name::RegionName,
};
use xds::{
    event::{Event, EventKind},
    status::ProxyStatus,
};

use crate::api::{Placement, Placements, Role};

/// How the primary of a plan looks from outside.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Health {
    /// No proxy outside sees it.
    Unknown,
    /// Every proxy outside sees at least one endpoint of every service of the plan that it calls.
    Healthy,
    /// Some proxy sees no endpoint of some service.
    Lost(Loss),
}

/// What was seen.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Loss {
    /// The service without endpoints.
    pub(crate) service: String,
    /// The proxy that sees it.
    pub(crate) observer: String,
    /// Its words.
    pub(crate) cause: String,
}

/// What each proxy sees.
#[derive(Debug, Default)]
pub(crate) struct Views {
    proxies: BTreeMap<String, View>,
}

/// Endpoints by (cluster, endpoint).
type View = BTreeMap<(String, String), Seen>;

#[derive(Clone, Debug, Default, PartialEq)]
struct Seen {
    unhealthy: bool,
    ejected: bool,
    cause: String,
}

impl Views {
    /// Whether a proxy's status is known.
    pub(crate) fn knows(&self, proxy: &str) -> bool {
        self.proxies.contains_key(proxy)
    }

    /// Forgets what a proxy saw: it does not answer any more.
    pub(crate) fn forget(&mut self, proxy: &str) {
        self.proxies.remove(proxy);
    }

    /// Replaces what a proxy sees. Answers whether that is anything else.
    pub(crate) fn replace(&mut self, proxy: &str, status: &ProxyStatus) -> bool {
        let known = self.proxies.remove(proxy);
        let old = known.clone().unwrap_or_default();
        let mut view = View::new();
        for cluster in &status.clusters {
            for endpoint in &cluster.endpoints {
                let key = (cluster.name.clone(), endpoint.name.clone());
                let cause = old.get(&key).map(|seen| seen.cause.clone()).filter(|cause| !cause.is_empty());
                let seen = Seen {
                    unhealthy: !endpoint.healthy,
                    ejected: endpoint.ejected,
                    cause: cause.unwrap_or_else(|| "unhealthy".to_owned()),
                };
                view.insert(key, seen);
            }
        }
        let changed = known.as_ref() != Some(&view);
        self.proxies.insert(proxy.to_owned(), view);
        changed
    }

    /// Takes in what a proxy told. Only proxies whose status is known are followed. Answers whether anything changed
    /// that could matter.
    pub(crate) fn follow(&mut self, proxy: &str, event: &Event) -> bool {
        let Some(view) = self.proxies.get_mut(proxy) else { return false };
        let mut seen = |cluster: &str, endpoint: &str, change: &dyn Fn(&mut Seen)| {
            change(view.entry((cluster.to_owned(), endpoint.to_owned())).or_default());
            true
        };
        match &event.kind {
            EventKind::Health { cluster, endpoint, healthy, cause, .. } => seen(cluster, endpoint, &|seen| {
                seen.unhealthy = !healthy;
                seen.cause.clone_from(cause);
            }),
            EventKind::Ejected { cluster, endpoint, cause, .. } => seen(cluster, endpoint, &|seen| {
                seen.ejected = true;
                seen.cause.clone_from(cause);
            }),
            EventKind::Readmitted { cluster, endpoint, .. } => seen(cluster, endpoint, &|seen| seen.ejected = false),
            _ => false,
        }
    }

    /// How the primary of a plan looks from outside.
    pub(crate) fn judge(&self, config: &Config, placements: &Placements, plan: &RecoveryPlan) -> Health {
        let Pattern::ActivePassive { primary, .. } = &plan.pattern;
        let mut seen = false;
        for placement in placements.proxies.iter().filter(|p| outside(p, primary)) {
            let Some(view) = self.proxies.get(&placement.proxy) else { continue };
            for service in plan.services.iter().filter_map(|name| config.services.get(name)) {
                let endpoints: Vec<&str> =
                    service.endpoints.iter().filter(|e| e.region == *primary).map(|e| e.workload.as_str()).collect();
                for cluster in [service.name.to_string(), format!("{}.{primary}", service.name)] {
                    let known: Vec<&Seen> = endpoints
                        .iter()
                        .filter_map(|endpoint| view.get(&(cluster.clone(), (*endpoint).to_owned())))
                        .collect();
                    if known.is_empty() {
                        continue;
                    }
                    seen = true;
                    let out = known.iter().filter(|seen| seen.unhealthy || seen.ejected).count();
                    if out == endpoints.len() {
                        return Health::Lost(Loss {
                            service: service.name.to_string(),
                            observer: placement.proxy.clone(),
                            cause: known.last().map(|seen| seen.cause.clone()).unwrap_or_default(),
                        });
                    }
                }
            }
        }
        if seen { Health::Healthy } else { Health::Unknown }
    }
}

/// A gateway is outside every region.
fn outside(placement: &Placement, region: &RegionName) -> bool {
    match &placement.role {
        Role::Sidecar { region: own, .. } => own != region.as_str(),
        Role::Gateway { .. } => true,
    }
}

#[cfg(test)]
mod tests {
    use xds::{
        clock::Stamp,
        status::{ClusterStatus, EndpointStatus},
    };

    use super::*;
    use crate::testing::{bank, place};

    fn status(cluster: &str, endpoints: &[&str]) -> ProxyStatus {
        let endpoint = |name: &&str| EndpointStatus {
            name: (*name).to_owned(),
            address: String::new(),
            region: "east".to_owned(),
            version: String::new(),
            priority: 0,
            healthy: true,
            ejected: false,
            active: 0,
            tries: 0,
            failures: 0,
        };
        ProxyStatus {
            name: String::new(),
            boot: String::new(),
            program: String::new(),
            digest: String::new(),
            snapshot: String::new(),
            overlays: Vec::new(),
            ready: true,
            connected: true,
            identity_failing: None,
            clusters: vec![ClusterStatus {
                name: cluster.to_owned(),
                service: String::new(),
                tier_load: Vec::new(),
                endpoints: endpoints.iter().map(endpoint).collect(),
                breakers: Vec::new(),
            }],
        }
    }

    fn event(kind: EventKind) -> Event {
        Event { sequence: 1, time: Stamp(0), kind }
    }

    fn health(cluster: &str, endpoint: &str, healthy: bool) -> Event {
        let (cluster, endpoint, region) = (cluster.to_owned(), endpoint.to_owned(), "east".to_owned());
        event(EventKind::Health { cluster, endpoint, region, healthy, cause: "refused".to_owned() })
    }

    #[test]
    fn a_region_is_lost_when_an_outsider_sees_none_of_a_service() {
        let config = bank();
        let placements = place(&config);
        let plan = config.plans.values().next().unwrap();
        let mut views = Views::default();
        let judge = |views: &Views| views.judge(&config, &placements, plan);
        assert_eq!(judge(&views), Health::Unknown);
        // Who is inside the region does not count, nor who is not known.
        views.replace("accounts-east-0", &status("ledger", &["ledger-east-0"]));
        views.follow("accounts-east-0", &health("ledger", "ledger-east-0", false));
        assert!(!views.follow("edge", &health("accounts", "accounts-east-0", false)));
        assert_eq!(judge(&views), Health::Unknown);
        views.replace("edge", &status("accounts", &["accounts-east-0", "accounts-east-1"]));
        assert_eq!(judge(&views), Health::Healthy);
        // One endpoint of two is no loss.
        assert!(views.follow("edge", &health("accounts", "accounts-east-0", false)));
        assert_eq!(judge(&views), Health::Healthy);
        let (cluster, endpoint) = ("accounts".to_owned(), "accounts-east-1".to_owned());
        let ejected = EventKind::Ejected { cluster, endpoint, region: "east".to_owned(), cause: "503".to_owned() };
        views.follow("edge", &event(ejected));
        let loss = Loss { service: "accounts".to_owned(), observer: "edge".to_owned(), cause: "503".to_owned() };
        assert_eq!(judge(&views), Health::Lost(loss));
        views.follow("edge", &health("accounts", "accounts-east-0", true));
        assert_eq!(judge(&views), Health::Healthy);
        // A proxy that does not answer sees nothing.
        views.forget("edge");
        assert_eq!(judge(&views), Health::Unknown);
    }
}
