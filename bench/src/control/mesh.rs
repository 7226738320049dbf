//! The mesh that the control plane gets: manifests and placements of any size.

use std::{
    fmt::Write as _,
    net::{Ipv4Addr, SocketAddr},
};

use serde_json::{Value, json};

/// Regions of every service.
pub const REGIONS: [&str; 2] = ["east", "west"];
/// Where simulated proxies answer for their admin interfaces, on every address of theirs.
pub const ADMIN_PORT: u16 = 28_477;
/// The same of the proxies that nobody simulates: nobody listens there.
const DEAF_PORT: u16 = 28_478;
/// Services that one in [`HUBS`] of all call; every other service is called by four to five.
pub const HUBS: usize = 20;
/// Distances to the other services that each calls.
const CALLS: [usize; 4] = [1, 7, 31, 101];

/// How large it is.
#[derive(Clone, Copy, Debug)]
pub struct Size {
    /// Services, each in every region.
    pub services: usize,
    /// Endpoints of a service in a region, each with a sidecar.
    pub endpoints: usize,
    /// Of these, those whose sidecars connect.
    pub connected: usize,
}

/// A workload with its sidecar.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Workload {
    pub service: usize,
    pub region: usize,
    pub number: usize,
}

impl Size {
    /// Endpoints of the mesh.
    pub fn all(self) -> impl Iterator<Item = Workload> {
        let regions = move |service| (0..REGIONS.len()).map(move |region| (service, region));
        let numbers = move |(service, region)| (0..self.endpoints).map(move |number| (service, region, number));
        let each = (0..self.services).flat_map(regions).flat_map(numbers);
        each.map(|(service, region, number)| Workload { service, region, number })
    }

    /// Those whose sidecars connect.
    pub fn connected(self) -> Vec<Workload> {
        self.all().filter(|workload| workload.number < self.connected).collect()
    }

    /// Services that a service calls: some others, and a hub.
    pub fn calls(self, service: usize) -> Vec<usize> {
        let others = CALLS.iter().map(|distance| (service + distance) % self.services);
        let mut calls: Vec<usize> = others.chain([service % HUBS]).filter(|callee| *callee != service).collect();
        calls.sort_unstable();
        calls.dedup();
        calls
    }

    /// Who calls a service.
    pub fn callers(self, service: usize) -> Vec<usize> {
        (0..self.services).filter(|caller| self.calls(*caller).contains(&service)).collect()
    }

    /// The manifests.
    pub fn manifests(self) -> String {
        let mut text = "apiVersion: firedrill.dev/v1\nkind: Mesh\nmetadata: {name: bench}\nspec:\n  trustDomain: \
                        bench.example\n  regions: [east, west]\n  gateways: []\n"
            .to_owned();
        for service in 0..self.services {
            let calls: Vec<String> = self.calls(service).into_iter().map(name).collect();
            // Writing to a String cannot fail.
            let _ = write!(
                text,
                "---\napiVersion: firedrill.dev/v1\nkind: Service\nmetadata: {{name: {}}}\nspec:\n  protocol: http\n  \
                 endpoints:\n",
                name(service)
            );
            for region in REGIONS {
                let _ = writeln!(text, "    - {{region: {region}, count: {}, run: [server]}}", self.endpoints);
            }
            let _ = writeln!(text, "  calls: [{}]", calls.join(", "));
        }
        text
    }

    /// Where everything is.
    pub fn placements(self) -> Value {
        let proxies: Vec<Value> = self.all().map(|workload| self.placement(workload, 15_006)).collect();
        json!({ "proxies": proxies })
    }

    /// Where one is; its sidecar accepts mutual TLS on this port.
    pub fn placement(self, workload: Workload, inbound: u16) -> Value {
        let at = |port| SocketAddr::from((self.address(workload), port)).to_string();
        let admin = if workload.number < self.connected { ADMIN_PORT } else { DEAF_PORT };
        json!({
            "proxy": workload.name(),
            "admin": at(admin),
            "role": {
                "kind": "sidecar",
                "service": name(workload.service),
                "workload": workload.name(),
                "region": REGIONS[workload.region],
                "app": at(8_080),
                "inbound": at(inbound),
                "outbound": at(15_001),
            },
        })
    }

    /// An address of its own.
    pub fn address(self, workload: Workload) -> Ipv4Addr {
        let index = (workload.service * REGIONS.len() + workload.region) * self.endpoints + workload.number;
        let [.., high, middle, low] = (index as u32).to_be_bytes();
        Ipv4Addr::new(127, 80 + high, middle, low)
    }
}

impl Workload {
    /// As the manifests name it.
    pub fn name(self) -> String {
        format!("{}-{}-{}", name(self.service), REGIONS[self.region], self.number)
    }
}

/// Name of a service.
pub fn name(service: usize) -> String {
    format!("s{service}")
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    #[test]
    fn sizes_are_what_is_asked_for() {
        let size = Size { services: 500, endpoints: 5, connected: 1 };
        assert_eq!(size.all().count(), 5_000);
        assert_eq!(size.connected().len(), 1_000);
        assert_eq!(size.all().map(|workload| size.address(workload)).collect::<BTreeSet<_>>().len(), 5_000);
        assert_eq!(size.placements()["proxies"].as_array().unwrap().len(), 5_000);
        assert_eq!(size.manifests().matches("kind: Service").count(), 500);
    }

    #[test]
    fn a_hub_is_called_by_many_and_everybody_by_some() {
        let size = Size { services: 500, endpoints: 5, connected: 1 };
        let callers = |service| size.callers(service).len();
        assert!((0..HUBS).all(|hub| (25..=29).contains(&callers(hub))));
        assert!((HUBS..500).all(|service| callers(service) == 4));
    }
}
