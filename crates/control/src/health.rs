//! The whole view that no proxy has: which endpoints proxies outside a region see as gone, and whether enough of them do.
//! Pure.

use std::collections::BTreeMap;

use model::{
    config::{Config, RecoveryPlan, Service},
    name::RegionName,
};
use xds::{
    event::{Event, EventKind},
    status::ProxyStatus,
};

use crate::{
    api::{Placement, Placements, Role, ServiceSight},
    compile,
};

/// How the primary of a plan looks from outside.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Health {
    /// No proxy outside sees it, or those that do contradict each other.
    Unknown,
    /// More observers see an endpoint of each service than see none.
    Healthy,
    /// A quorum of observers sees no endpoint of some service.
    Lost(Loss),
}

/// What was seen.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Loss {
    /// The service without endpoints.
    pub(crate) service: String,
    /// The proxies that report it.
    pub(crate) observers: Vec<String>,
    /// The words of the first.
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
    region: String,
    unhealthy: bool,
    ejected: bool,
    cause: String,
}

/// What one observer says of a region.
enum Word {
    /// It sees no endpoint, and why.
    Lost(String),
    Healthy,
    /// It does not answer, or has no endpoint there.
    Nothing,
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
                    region: endpoint.region.clone(),
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
        let mut seen = |cluster: &str, endpoint: &str, region: &str, change: &dyn Fn(&mut Seen)| {
            let seen = view.entry((cluster.to_owned(), endpoint.to_owned())).or_default();
            region.clone_into(&mut seen.region);
            change(seen);
            true
        };
        match &event.kind {
            EventKind::Health { cluster, endpoint, region, healthy, cause } => {
                seen(cluster, endpoint, region, &|seen| {
                    seen.unhealthy = !healthy;
                    seen.cause.clone_from(cause);
                })
            }
            EventKind::Ejected { cluster, endpoint, region, cause } => seen(cluster, endpoint, region, &|seen| {
                seen.ejected = true;
                seen.cause.clone_from(cause);
            }),
            EventKind::Readmitted { cluster, endpoint, region } => {
                seen(cluster, endpoint, region, &|seen| seen.ejected = false)
            }
            _ => false,
        }
    }

    /// Whether proxies know an endpoint, and all that do see it as unhealthy or have ejected it.
    pub(crate) fn is_down(&self, endpoint: &str) -> bool {
        let of_it = |view: &'_ View| -> Vec<bool> {
            view.iter()
                .filter(|((_, name), _)| name == endpoint)
                .map(|(_, seen)| seen.unhealthy || seen.ejected)
                .collect()
        };
        let seen: Vec<bool> = self.proxies.values().flat_map(of_it).collect();
        !seen.is_empty() && seen.into_iter().all(|down| down)
    }

    /// What the observers of each service of a plan say of its primary. Observers of a service are the placed proxies
    /// outside the primary's region that send it requests. Each has one voice, however much it reports; one that does not
    /// answer counts among them and says nothing, so that a control plane that hears only a few decides nothing.
    pub(crate) fn sights(&self, config: &Config, placements: &Placements, plan: &RecoveryPlan) -> Vec<ServiceSight> {
        let primary = plan.primary();
        let mut sights = Vec::new();
        for service in plan.services.iter().filter_map(|name| config.services.get(name)) {
            let mut sight = ServiceSight { service: service.name.to_string(), ..ServiceSight::default() };
            for placement in placements.proxies.iter().filter(|p| observes(config, p, service, primary)) {
                let proxy = placement.proxy.clone();
                match self.word(&proxy, service, primary) {
                    Word::Lost(cause) => {
                        sight.cause.get_or_insert(cause);
                        sight.lost.push(proxy);
                    }
                    Word::Healthy => sight.healthy.push(proxy),
                    Word::Nothing => sight.silent.push(proxy),
                }
            }
            let observers = sight.lost.len() + sight.healthy.len() + sight.silent.len();
            sight.quorum = quorum(plan.failover.quorum, observers);
            if observers > 0 {
                sights.push(sight);
            }
        }
        sights
    }

    /// A service may have several clusters at a proxy (of all regions, and of one): without an endpoint in one of them it
    /// is lost. What is found by DNS or in a file is known by its region, as every endpoint is.
    fn word(&self, proxy: &str, service: &Service, region: &RegionName) -> Word {
        let Some(view) = self.proxies.get(proxy) else { return Word::Nothing };
        let mut word = Word::Nothing;
        for cluster in [service.name.to_string(), format!("{}.{region}", service.name)] {
            let in_region =
                |((name, _), seen): &(&(String, String), &Seen)| *name == cluster && seen.region == region.as_str();
            let known: Vec<&Seen> = view.iter().filter(in_region).map(|(_, seen)| seen).collect();
            match known.last() {
                None => {}
                Some(last) if known.iter().all(|seen| seen.unhealthy || seen.ejected) => {
                    return Word::Lost(last.cause.clone());
                }
                Some(_) => word = Word::Healthy,
            }
        }
        word
    }
}

/// How the primary looks, of what its services' observers say.
pub(crate) fn judge(sights: &[ServiceSight]) -> Health {
    if let Some(lost) = sights.iter().find(|sight| sight.lost.len() >= sight.quorum) {
        return Health::Lost(Loss {
            service: lost.service.clone(),
            observers: lost.lost.clone(),
            cause: lost.cause.clone().unwrap_or_default(),
        });
    }
    // Who says nothing at all of a service neither confirms nor denies the others.
    let mut heard = sights.iter().filter(|sight| !sight.lost.is_empty() || !sight.healthy.is_empty()).peekable();
    let seen = heard.peek().is_some();
    if seen && heard.all(|sight| sight.healthy.len() > sight.lost.len()) { Health::Healthy } else { Health::Unknown }
}

/// How many observers must agree: as written, else a majority, and never fewer than two where there are two.
fn quorum(written: Option<u32>, observers: usize) -> usize {
    let written = written.map(|quorum| usize::try_from(quorum).unwrap_or(usize::MAX).max(1));
    written.unwrap_or_else(|| (observers / 2 + 1).max(observers.min(2)))
}

/// Whether a proxy sends a service requests from outside a region. A gateway is outside every region.
fn observes(config: &Config, placement: &Placement, service: &Service, region: &RegionName) -> bool {
    let outside = match &placement.role {
        Role::Sidecar { region: own, .. } => own != region.as_str(),
        Role::Gateway { .. } => true,
    };
    outside && compile::called_by(config, placement).iter().any(|called| called.name == service.name)
}

#[cfg(test)]
mod tests {
    use xds::{
        clock::Stamp,
        status::{ClusterStatus, EndpointStatus},
    };

    use proptest::prelude::*;

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

    /// The shop with two gateways, and a service that is found: by what its two addresses are called on the wire.
    fn found() -> (Config, Placements) {
        let text = "
apiVersion: firedrill.dev/v1
kind: Mesh
metadata: {name: shop}
spec:
  trustDomain: shop.example
  regions: [east, west]
  gateways:
    - {name: one, listen: \"127.0.0.1:8080\", routes: [{service: web}]}
    - {name: two, listen: \"127.0.0.1:8081\", routes: [{service: web}]}
---
apiVersion: firedrill.dev/v1
kind: Service
metadata: {name: web}
spec:
  endpoints:
    - {region: east, dns: {name: web.east.test, port: 80}}
    - {region: west, file: {path: /etc/firedrill/web.yaml}}
---
apiVersion: firedrill.dev/v1
kind: RecoveryPlan
metadata: {name: web}
spec:
  services: [web]
  activePassive: {primary: east, standby: [west]}
  failover: {steps: [shift: {to: west}]}
";
        let config =
            crate::testing::config(&[crate::api::ManifestFile { path: "shop.yaml".to_owned(), text: text.to_owned() }]);
        let placements = place(&config);
        (config, placements)
    }

    #[test]
    fn endpoints_that_are_found_count_as_others_do() {
        let (config, placements) = found();
        let plan = config.plans.values().next().unwrap();
        let mut views = Views::default();
        let (a, b) = ("web-east-0@10.0.0.1:80", "web-east-0@10.0.0.2:80");
        for proxy in ["one", "two"] {
            views.replace(proxy, &status("web", &[a, b]));
            views.follow(proxy, &health("web", a, false));
        }
        assert_eq!(judge(&views.sights(&config, &placements, plan)), Health::Healthy, "one of two addresses is left");
        for proxy in ["one", "two"] {
            views.follow(proxy, &health("web", b, false));
        }
        let sights = views.sights(&config, &placements, plan);
        assert!(matches!(judge(&sights), Health::Lost(_)), "{sights:?}");
        // An address that DNS does not name any more does not keep the region alive.
        views.replace("one", &status("web", &["web-east-0@10.0.0.3:80"]));
        views.follow("one", &health("web", "web-east-0@10.0.0.3:80", false));
        assert!(matches!(judge(&views.sights(&config, &placements, plan)), Health::Lost(_)));
    }

    #[test]
    fn one_observer_of_two_decides_nothing() {
        let (config, placements) = found();
        let plan = config.plans.values().next().unwrap();
        let mut views = Views::default();
        let a = "web-east-0@10.0.0.1:80";
        views.replace("one", &status("web", &[a]));
        views.follow("one", &health("web", a, false));
        // The other does not answer, then contradicts, then agrees.
        assert_eq!(judge(&views.sights(&config, &placements, plan)), Health::Unknown);
        views.replace("two", &status("web", &[a]));
        let sights = views.sights(&config, &placements, plan);
        assert_eq!(
            (sights[0].quorum, &sights[0].lost[..], &sights[0].healthy[..]),
            (2, &["one".to_owned()][..], &["two".to_owned()][..])
        );
        assert_eq!(judge(&sights), Health::Unknown);
        views.follow("two", &health("web", a, false));
        let loss = Loss {
            service: "web".to_owned(),
            observers: vec!["one".to_owned(), "two".to_owned()],
            cause: "refused".to_owned(),
        };
        assert_eq!(judge(&views.sights(&config, &placements, plan)), Health::Lost(loss));
    }

    proptest! {
        /// Whatever fewer observers than the quorum say, the primary is not lost; and when so many say so, it is.
        #[test]
        fn a_quorum_decides_and_nobody_else(
            written in prop::option::of(1_u32..6), words in prop::collection::vec(0_u8..3, 1..9)
        ) {
            let said = |word: u8| {
                let own = words.iter().enumerate().filter(|(_, said)| **said == word);
                own.map(|(number, _)| format!("proxy-{number}")).collect::<Vec<_>>()
            };
            let needed = quorum(written, words.len());
            let sight = ServiceSight {
                service: "web".to_owned(), quorum: needed, lost: said(0), healthy: said(1), silent: said(2), cause: None,
            };
            let (lost, healthy) = (sight.lost.len(), sight.healthy.len());
            let health = judge(&[sight]);
            prop_assert_eq!(matches!(health, Health::Lost(_)), lost >= needed);
            if written.is_none() {
                prop_assert!(needed >= words.len().min(2));
                prop_assert!(words.len() < 2 || lost >= 2 || !matches!(health, Health::Lost(_)));
                prop_assert!(needed * 2 > words.len() && needed <= words.len());
            }
            if health == Health::Healthy {
                prop_assert!(healthy > lost);
            }
        }
    }

    #[test]
    fn a_region_is_lost_when_an_outsider_sees_none_of_a_service() {
        let config = bank();
        let placements = place(&config);
        let plan = config.plans.values().next().unwrap();
        let mut views = Views::default();
        let judge = |views: &Views| judge(&views.sights(&config, &placements, plan));
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
        let loss = Loss { service: "accounts".to_owned(), observers: vec!["edge".to_owned()], cause: "503".to_owned() };
        assert_eq!(judge(&views), Health::Lost(loss));
        views.follow("edge", &health("accounts", "accounts-east-0", true));
        assert_eq!(judge(&views), Health::Healthy);
        // A proxy that does not answer sees nothing.
        views.forget("edge");
        assert_eq!(judge(&views), Health::Unknown);
    }
}
