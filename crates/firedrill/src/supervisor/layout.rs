//! Who runs where: every process of a mesh with its addresses. Pure.

use std::net::{IpAddr, Ipv4Addr, SocketAddr};

use control::{
    api::{Placement, Placements, Role},
    compile::{gateway_id, service_id},
};
use model::config::{Config, Identity, Place, Protocol};
use serde::{Deserialize, Serialize};

use super::api::OutsideReport;

/// First host number for proxies and workloads; 1 is the control plane.
const FIRST: u8 = 2;
/// Last host number.
const LAST: u8 = 250;

/// A loopback subnet `127.a.b.0/24`, and what is added to every port in it (another program may listen on one of the
/// usual ports on all addresses).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Subnet {
    /// Second octet.
    pub a: u8,
    /// Third octet.
    pub b: u8,
    /// Added to every port.
    #[serde(default)]
    pub port_offset: u16,
}

/// An example, for addresses before a mesh has taken a subnet.
impl Default for Subnet {
    fn default() -> Self {
        Self { a: 100, b: 0, port_offset: 0 }
    }
}

impl Subnet {
    fn at(self, host: u8, port: u16) -> SocketAddr {
        let ip = IpAddr::V4(Ipv4Addr::new(127, self.a, self.b, host));
        SocketAddr::new(ip, port.saturating_add(self.port_offset))
    }

    /// API of the control plane.
    pub fn control_api(self) -> SocketAddr {
        self.at(1, 7000)
    }

    /// ADS of the control plane.
    pub fn control_ads(self) -> SocketAddr {
        self.at(1, 7001)
    }

    /// API of the supervisor.
    pub fn supervisor_api(self) -> SocketAddr {
        self.at(1, 7002)
    }

    /// Bundle endpoint of the control plane.
    pub fn control_bundle(self) -> SocketAddr {
        self.at(1, 7003)
    }

    /// Where workload or proxy number `host` has its ports.
    fn ports(self, host: u8) -> Ports {
        Ports {
            app: self.at(host, 8080),
            inbound: self.at(host, 15006),
            outbound: self.at(host, 15001),
            admin: self.at(host, 15000),
        }
    }

    /// Addresses whose being free tells that the subnet can be used.
    pub fn samples(self) -> [SocketAddr; 6] {
        let Ports { app, inbound, outbound, admin } = self.ports(FIRST);
        [self.control_api(), self.control_ads(), app, inbound, outbound, admin]
    }
}

struct Ports {
    app: SocketAddr,
    inbound: SocketAddr,
    outbound: SocketAddr,
    admin: SocketAddr,
}

/// A workload and its sidecar.
#[derive(Clone, Debug, PartialEq)]
pub struct WorkloadPlace {
    /// Name of the workload, and of its sidecar.
    pub name: String,
    /// Its service.
    pub service: String,
    /// Its region.
    pub region: String,
    /// Its version.
    pub version: String,
    /// Its SPIFFE id.
    pub id: String,
    /// What to run.
    pub argv: Vec<String>,
    /// Path that answers 200 when it is ready; without, it is ready when it listens.
    pub health: Option<String>,
    /// Where it listens.
    pub app: SocketAddr,
    /// mTLS of its sidecar.
    pub inbound: SocketAddr,
    /// Plaintext of its sidecar.
    pub outbound: SocketAddr,
    /// Admin interface of its sidecar.
    pub admin: SocketAddr,
}

/// A gateway.
#[derive(Clone, Debug, PartialEq)]
pub struct GatewayPlace {
    /// Name.
    pub name: String,
    /// Where it takes requests.
    pub listen: SocketAddr,
    /// Admin interface.
    pub admin: SocketAddr,
    /// Its SPIFFE id.
    pub id: String,
}

/// Every process of a mesh but the control plane.
#[derive(Clone, Debug, PartialEq)]
pub struct Layout {
    /// Name of the mesh.
    pub mesh: String,
    /// Regions in the mesh's order.
    pub regions: Vec<String>,
    /// Where it lives.
    pub subnet: Subnet,
    /// Who issues certificates.
    pub identity: Identity,
    /// Gateways.
    pub gateways: Vec<GatewayPlace>,
    /// Workloads.
    pub workloads: Vec<WorkloadPlace>,
    /// Endpoints that run outside.
    pub outside: Vec<OutsideReport>,
}

/// More processes than a subnet has addresses.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{asked} workloads and gateways: one machine takes at most {}", LAST - FIRST + 1)]
pub struct TooMany {
    /// How many the manifests ask for.
    pub asked: usize,
}

impl Layout {
    /// Gives every gateway and workload its addresses, in the order of the manifests.
    ///
    /// # Errors
    /// When there are more than addresses.
    pub fn new(config: &Config, subnet: Subnet) -> Result<Self, TooMany> {
        let run = |place: &Place| matches!(place, Place::Run(_));
        let running = config.services.values().flat_map(|s| &s.endpoints).filter(|e| run(&e.place)).count();
        let mut hosts = FIRST..=LAST;
        let asked = running + config.mesh.gateways.len();
        let mut ports = || hosts.next().map(|host| subnet.ports(host)).ok_or(TooMany { asked });
        let gateways = config.mesh.gateways.iter().map(|gateway| {
            let name = gateway.name.to_string();
            let id = gateway_id(config, &name);
            Ok(GatewayPlace { name, listen: gateway.listen, admin: ports()?.admin, id })
        });
        let gateways = gateways.collect::<Result<_, TooMany>>()?;
        let (mut workloads, mut outside) = (Vec::new(), Vec::new());
        for service in config.services.values() {
            let check = service.policy.detection.active_check.as_ref().and_then(|check| check.http.clone());
            // Others than plain HTTP/1.1 are only connected to.
            let health = check.filter(|_| service.protocol == Protocol::Http);
            for endpoint in &service.endpoints {
                let (name, region) = (endpoint.workload.to_string(), endpoint.region.to_string());
                let service = service.name.to_string();
                match &endpoint.place {
                    Place::Address(address) => outside.push(OutsideReport { name, service, region, address: *address }),
                    // Where they are is the control plane's to find.
                    Place::Dns(_) | Place::File(_) => {}
                    Place::Run(argv) => {
                        let Ports { app, inbound, outbound, admin } = ports()?;
                        let (argv, version, health) = (argv.clone(), endpoint.version.clone(), health.clone());
                        workloads.push(WorkloadPlace {
                            id: service_id(config, &service),
                            name,
                            service,
                            region,
                            version,
                            argv,
                            health,
                            app,
                            inbound,
                            outbound,
                            admin,
                        });
                    }
                }
            }
        }
        let regions = config.mesh.regions.iter().map(ToString::to_string).collect();
        let (mesh, identity) = (config.mesh.name.clone(), config.mesh.identity.clone());
        Ok(Self { mesh, regions, subnet, identity, gateways, workloads, outside })
    }

    /// What the control plane is told.
    pub fn placements(&self) -> Placements {
        let gateways = self.gateways.iter().map(|place| Placement {
            proxy: place.name.clone(),
            admin: place.admin,
            // Where the manifests in force say: it moves with them, without a restart.
            role: Role::Gateway { gateway: place.name.clone(), listen: None },
        });
        let sidecars = self.workloads.iter().map(|place| Placement {
            proxy: place.name.clone(),
            admin: place.admin,
            role: Role::Sidecar {
                service: place.service.clone(),
                workload: place.name.clone(),
                region: place.region.clone(),
                app: place.app,
                inbound: place.inbound,
                outbound: place.outbound,
            },
        });
        Placements { proxies: gateways.chain(sidecars).collect() }
    }
}
