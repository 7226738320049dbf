//! What changed since snapshots were made, and whose snapshots that concerns. Pure.

use std::collections::{BTreeSet, HashMap};

use model::{
    config::{Config, Service},
    name::ServiceName,
};

use super::routes;
use crate::api::{Placement, Placements, Role};

/// What changed since snapshots were made.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Change {
    /// Manifests, switches or trust: everybody is concerned.
    Everything,
    /// Where these endpoints are, or as what proxies of these names are placed: by workload, endpoint or gateway.
    Places(BTreeSet<String>),
}

impl Change {
    /// One place.
    pub(crate) fn of(name: &str) -> Self {
        Self::Places(BTreeSet::from([name.to_owned()]))
    }

    /// What is placed otherwise.
    pub(crate) fn between(before: &Placements, after: &Placements) -> Self {
        let mut known: HashMap<&str, &Placement> = before.proxies.iter().map(|p| (p.proxy.as_str(), p)).collect();
        let mut same = |placement: &&Placement| known.remove(placement.proxy.as_str()) == Some(*placement);
        let mut places: BTreeSet<String> = after.proxies.iter().filter(|p| !same(p)).map(|p| p.proxy.clone()).collect();
        places.extend(known.into_keys().map(str::to_owned));
        Self::Places(places)
    }

    /// The placed proxies whose snapshots may be others now: those of the places themselves, and whoever may call a service
    /// that has endpoints there.
    pub(crate) fn concerns<'a>(&self, config: &Config, placements: &'a Placements) -> Vec<&'a Placement> {
        let Self::Places(places) = self else { return placements.proxies.iter().collect() };
        if places.is_empty() {
            return Vec::new();
        }
        let callers = Callers::of(config, places);
        placements.proxies.iter().filter(|p| places.contains(&p.proxy) || callers.contain(p)).collect()
    }
}

/// Who is told where some services are.
struct Callers<'a> {
    services: BTreeSet<&'a str>,
    gateways: BTreeSet<&'a str>,
}

impl<'a> Callers<'a> {
    fn of(config: &'a Config, places: &BTreeSet<String>) -> Self {
        let there = |service: &&Service| service.endpoints.iter().any(|e| places.contains(e.workload.as_str()));
        let moved: BTreeSet<&ServiceName> = config.services.values().filter(there).map(|s| &s.name).collect();
        // A caller's proxy sends the copies, too.
        let told = |callee: &ServiceName| {
            let mirrors = || config.services.get(callee).into_iter().flat_map(routes::mirrors);
            moved.contains(callee) || mirrors().any(|mirror| moved.contains(mirror))
        };
        let services = config.services.values().filter(|service| service.calls.iter().any(told));
        let gateways = config.mesh.gateways.iter().filter(|gateway| gateway.routes.iter().any(|r| told(&r.service)));
        Self {
            services: services.map(|service| service.name.as_str()).collect(),
            gateways: gateways.map(|gateway| gateway.name.as_str()).collect(),
        }
    }

    fn contain(&self, placement: &Placement) -> bool {
        match &placement.role {
            Role::Sidecar { service, .. } => self.services.contains(service.as_str()),
            Role::Gateway { gateway, .. } => self.gateways.contains(gateway.as_str()),
        }
    }
}

#[cfg(test)]
mod tests {
    use std::{collections::BTreeMap, net::SocketAddr};

    use proptest::prelude::*;

    use super::*;
    use crate::{
        api::ManifestFile,
        compile::{CompileError, Snapshot, Switches, compile},
        sources::{Addresses, Found},
        testing::{bank, config, place},
    };

    /// One thing that happens to a mesh; the number picks to which of its proxies.
    #[derive(Clone, Copy, Debug)]
    enum Step {
        /// Its sidecar accepts mutual TLS elsewhere, or its gateway listens elsewhere.
        Moves(usize, u16),
        /// Its workload listens elsewhere.
        Restarts(usize, u16),
        Leaves(usize),
        Comes(usize),
        /// A source names this many addresses.
        Found(u8),
    }

    fn step() -> impl Strategy<Value = Step> {
        prop_oneof![
            (0..7_usize, 20_000..20_100_u16).prop_map(|(which, port)| Step::Moves(which, port)),
            (0..7_usize, 20_000..20_100_u16).prop_map(|(which, port)| Step::Restarts(which, port)),
            (0..7_usize).prop_map(Step::Leaves),
            (0..7_usize).prop_map(Step::Comes),
            (0..4_u8).prop_map(Step::Found),
        ]
    }

    /// Two calls deep, with copies, a gateway, and a service that a file names.
    fn mesh() -> Config {
        let text = "
apiVersion: firedrill.dev/v1
kind: Mesh
metadata: {name: shop}
spec:
  trustDomain: shop.example
  regions: [east, west]
  gateways: [{name: edge, listen: \"127.0.0.1:8080\", routes: [{service: front}]}]
---
apiVersion: firedrill.dev/v1
kind: Service
metadata: {name: front}
spec:
  endpoints: [{region: east, run: [front]}, {region: west, run: [front]}]
  calls: [web]
---
apiVersion: firedrill.dev/v1
kind: Service
metadata: {name: web}
spec:
  endpoints: [{region: east, run: [web]}, {region: west, count: 2, run: [web]}]
  calls: [rates]
  routes: [{mirrors: [{service: audit}]}]
---
apiVersion: firedrill.dev/v1
kind: Service
metadata: {name: audit}
spec:
  endpoints: [{region: east, run: [audit]}]
---
apiVersion: firedrill.dev/v1
kind: Service
metadata: {name: rates}
spec:
  endpoints: [{region: east, file: {path: /etc/firedrill/rates.yaml}}]
";
        config(&[ManifestFile { path: "shop.yaml".to_owned(), text: text.to_owned() }])
    }

    fn take(step: Step, all: &Placements, placements: &mut Placements, found: &mut Addresses) -> Change {
        let of = |which: usize| &all.proxies[which % all.proxies.len()];
        let before = placements.clone();
        match step {
            Step::Moves(which, to) | Step::Restarts(which, to) => {
                let moved = placements.proxies.iter_mut().find(|p| p.proxy == of(which).proxy);
                match moved.map(|placement| &mut placement.role) {
                    Some(Role::Sidecar { inbound, .. }) if matches!(step, Step::Moves(..)) => inbound.set_port(to),
                    Some(Role::Sidecar { app, .. }) => app.set_port(to),
                    Some(Role::Gateway { listen, .. }) => *listen = Some(SocketAddr::from(([127, 0, 0, 1], to))),
                    None => {}
                }
            }
            Step::Leaves(which) => placements.proxies.retain(|p| p.proxy != of(which).proxy),
            Step::Comes(which) => {
                if !placements.proxies.iter().any(|p| p.proxy == of(which).proxy) {
                    placements.proxies.push(of(which).clone());
                }
            }
            Step::Found(count) => {
                let address = |n| SocketAddr::from(([10, 0, 0, n], 80));
                let known = (0..count).map(|n| Found { address: address(n), weight: 1 }).collect();
                found.insert("rates-east-0".to_owned(), known);
                return Change::of("rates-east-0");
            }
        }
        Change::between(&before, placements)
    }

    type Compiled = BTreeMap<String, Result<Snapshot, CompileError>>;

    proptest! {
        #[test]
        fn whoever_is_not_concerned_has_the_snapshot_it_had(steps in prop::collection::vec(step(), 1..24)) {
            let config = mesh();
            let all = place(&config);
            let (mut placements, mut found) = (all.clone(), Addresses::new());
            let whole = |placements: &Placements, found: &Addresses| -> Compiled {
                compile(&config, placements, &Switches::new(), &crate::compile::Roots::default(), found)
            };
            let mut kept = whole(&placements, &found);
            for step in steps {
                let change = take(step, &all, &mut placements, &mut found);
                let concerned = change.concerns(&config, &placements);
                let now = whole(&placements, &found);
                kept.retain(|proxy, _| now.contains_key(proxy));
                for placement in concerned {
                    kept.insert(placement.proxy.clone(), now[&placement.proxy].clone());
                }
                prop_assert_eq!(&kept, &now, "after {:?}", step);
            }
        }
    }

    #[test]
    fn only_callers_are_concerned() {
        let config = bank();
        let placements = place(&config);
        let names = |change: Change| {
            let concerned = change.concerns(&config, &placements).into_iter().map(|p| p.proxy.as_str());
            concerned.collect::<Vec<_>>().join(" ")
        };
        assert_eq!(
            names(Change::of("ledger-east-0")),
            "accounts-east-0 accounts-east-1 accounts-west-0 accounts-west-1 ledger-east-0 ledger-west-0"
        );
        assert_eq!(names(Change::of("edge")), "edge");
        assert_eq!(names(Change::between(&placements, &placements)), "");
        assert_eq!(names(Change::Everything).split(' ').count(), placements.proxies.len());
    }
}
