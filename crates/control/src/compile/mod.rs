//! (manifests, placements, durable switches) → one snapshot per proxy. Pure.

mod change;
mod fault;
mod policy;
mod routes;
mod tiers;

use std::{
    collections::{BTreeMap, BTreeSet, HashMap},
    net::SocketAddr,
    time::Duration,
};

pub(crate) use change::Change;
pub use fault::fault_action;
use model::{
    config::{AuthorizationMode, Caller, Config, Endpoint, Gateway, Place, Principal, Protocol, Service},
    name::{RegionName, ServiceName},
};
pub(crate) use policy::ramp_steps;
use thiserror::Error;
pub use tiers::Switches;
use xds::snapshot::{
    Admission, AllowRule, Authorization, Balancer, Cluster, ClusterTls, Direction, Endpoint as WireEndpoint,
    EndpointSet, Forward, HttpListener, Listener, ListenerProtocol, ListenerTls, Locality, Route, RouteAction,
    RouteMatch, RouteTable, Snapshot, TrustBundle, TrustDomain, VirtualHost, WeightedCluster,
};

use crate::{
    api::{Placement, Placements, Role},
    sources::Addresses,
};

/// Name of the trust bundle in every snapshot.
pub const TRUST: &str = "mesh";
/// Name of the cluster (and of the service it stands for) that leads from a sidecar to its workload.
const LOCAL: &str = "local";
/// Where gRPC health checks go (grpc.health.v1).
const GRPC_CHECK: &str = "/grpc.health.v1.Health/Check";
/// Bound on a connection over loopback to the workload beside a sidecar.
const LOCAL_CONNECT: std::time::Duration = std::time::Duration::from_secs(1);

/// Weight of an endpoint at most: the sum over a locality must stay below 2³² (Envoy), and a source names 1000 at most.
const HEAVIEST: u32 = 1_000_000;

/// Why there is no snapshot for a proxy.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
#[error("no snapshot for proxy {proxy}: {reason}")]
pub struct CompileError {
    /// The proxy.
    pub proxy: String,
    /// What is wrong, and what would mend it.
    pub reason: String,
}

/// SPIFFE id of a service.
pub fn service_id(config: &Config, service: &str) -> String {
    format!("spiffe://{}/service/{service}", config.mesh.trust_domain)
}

/// SPIFFE id of the control plane.
pub fn control_id(config: &Config) -> String {
    format!("spiffe://{}/control", config.mesh.trust_domain)
}

/// SPIFFE id of a gateway.
pub fn gateway_id(config: &Config, gateway: &str) -> String {
    format!("spiffe://{}/gateway/{gateway}", config.mesh.trust_domain)
}

/// SPIFFE id of a placed proxy; `None` if the manifests do not know what it stands before.
pub fn proxy_id(config: &Config, placement: &Placement) -> Option<String> {
    match &placement.role {
        Role::Sidecar { service, .. } => {
            config.services.keys().any(|s| s.as_str() == service).then(|| service_id(config, service))
        }
        Role::Gateway { gateway, .. } => {
            config.mesh.gateways.iter().any(|g| g.name.as_str() == gateway).then(|| gateway_id(config, gateway))
        }
    }
}

/// Services that a proxy sends requests to.
pub fn called_by<'a>(config: &'a Config, placement: &Placement) -> Vec<&'a Service> {
    let mut names: Vec<&ServiceName> = match &placement.role {
        Role::Sidecar { service, .. } => {
            let own = config.services.values().find(|s| s.name.as_str() == service);
            own.map(|s| s.calls.iter().collect()).unwrap_or_default()
        }
        Role::Gateway { gateway, .. } => {
            let own = config.mesh.gateways.iter().find(|g| g.name.as_str() == gateway);
            own.map(|g| g.routes.iter().map(|r| &r.service).collect()).unwrap_or_default()
        }
    };
    names.sort();
    names.dedup();
    names.into_iter().filter_map(|name| config.services.get(name)).collect()
}

/// Whose roots proxies are told.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Roots {
    /// Ours, PEM.
    pub own: String,
    /// Those of foreign trust domains that are known, PEM, by name.
    pub federated: BTreeMap<String, String>,
}

impl Roots {
    /// The bundle that every proxy gets. A mesh without federation is as one without foreign trust domains: any id is believed
    /// that its roots vouch for.
    fn bundle(&self, config: &Config) -> TrustBundle {
        let name = TRUST.to_owned();
        if config.mesh.federation.is_empty() {
            return TrustBundle { name, roots: self.own.clone(), ..TrustBundle::default() };
        }
        let own = TrustDomain { name: config.mesh.trust_domain.clone(), roots: self.own.clone() };
        let foreign = config.mesh.federation.iter().filter_map(|federated| {
            let name = &federated.trust_domain;
            Some(TrustDomain { name: name.clone(), roots: self.federated.get(name)?.clone() })
        });
        TrustBundle { name, domains: [own].into_iter().chain(foreign).collect(), ..TrustBundle::default() }
    }
}

/// Makes the snapshot of every placed proxy.
pub fn compile(
    config: &Config,
    placements: &Placements,
    switches: &Switches,
    roots: &Roots,
    found: &Addresses,
) -> BTreeMap<String, Result<Snapshot, CompileError>> {
    let compiler = Compiler::new(config, placements, switches, roots, found);
    placements.proxies.iter().map(|placement| (placement.proxy.clone(), compiler.snapshot(placement))).collect()
}

/// Makes snapshots, one at a time.
pub(crate) struct Compiler<'a> {
    config: &'a Config,
    /// Where sidecars accept mutual TLS, by workload.
    inbound: HashMap<&'a str, SocketAddr>,
    /// SPIFFE ids of those that may send a service requests.
    callers: HashMap<&'a ServiceName, Vec<String>>,
    switches: &'a Switches,
    roots: &'a Roots,
    found: &'a Addresses,
}

/// The caller of clusters that are being made.
struct From<'a> {
    service: Option<&'a ServiceName>,
    region: Option<&'a RegionName>,
}

impl<'a> Compiler<'a> {
    /// As [`compile`] takes it.
    pub(crate) fn new(
        config: &'a Config,
        placements: &'a Placements,
        switches: &'a Switches,
        roots: &'a Roots,
        found: &'a Addresses,
    ) -> Self {
        let inbound = placements.proxies.iter().filter_map(|p| match &p.role {
            Role::Sidecar { workload, inbound, .. } => Some((workload.as_str(), *inbound)),
            Role::Gateway { .. } => None,
        });
        Self { config, inbound: inbound.collect(), callers: callers(config), switches, roots, found }
    }

    /// Makes the snapshot of a placed proxy.
    pub(crate) fn snapshot(&self, placement: &Placement) -> Result<Snapshot, CompileError> {
        self.proxy(placement).map_err(|reason| CompileError { proxy: placement.proxy.clone(), reason })
    }

    fn proxy(&self, placement: &Placement) -> Result<Snapshot, String> {
        let mut snapshot = Snapshot::default();
        match &placement.role {
            Role::Sidecar { service, workload, region, app, inbound, outbound } => {
                let service = self.config.services.values().find(|s| s.name.as_str() == service).ok_or_else(|| {
                    format!("there is no service `{service}` in the manifests; apply them or correct the placement")
                })?;
                let endpoint = service
                    .endpoints
                    .iter()
                    .find(|e| e.workload.as_str() == workload && e.region.as_str() == region)
                    .ok_or_else(|| format!("service `{}` has no workload `{workload}` in {region}", service.name))?;
                self.inbound_side(&mut snapshot, service, endpoint, *app, *inbound)?;
                self.outbound_side(&mut snapshot, service, endpoint, *outbound, placement)?;
            }
            Role::Gateway { gateway, listen } => {
                let gateway =
                    self.config.mesh.gateways.iter().find(|g| g.name.as_str() == gateway).ok_or_else(|| {
                        format!("there is no gateway `{gateway}` in the manifests; apply them or correct the placement")
                    })?;
                self.gateway_side(&mut snapshot, gateway, listen.unwrap_or(gateway.listen), placement)?;
            }
        }
        // A gateway to endpoints outside the mesh trusts nobody.
        let trusting =
            snapshot.listeners.iter().any(|l| l.tls.is_some()) || snapshot.clusters.iter().any(|c| c.tls.is_some());
        if trusting {
            snapshot.trust.push(self.roots.bundle(self.config));
        }
        Ok(snapshot)
    }

    fn inbound_side(
        &self,
        snapshot: &mut Snapshot,
        service: &Service,
        endpoint: &Endpoint,
        app: SocketAddr,
        inbound: SocketAddr,
    ) -> Result<(), String> {
        let protocol = policy::upstream_protocol(service.protocol);
        carried(service)?;
        snapshot.listeners.push(Listener {
            name: "inbound".to_owned(),
            address: inbound,
            direction: Direction::Inbound,
            tls: Some(ListenerTls { trust: TRUST.to_owned() }),
            protocol: ListenerProtocol::Http(HttpListener {
                routes: "inbound".to_owned(),
                authorization: Some(self.authorization(service)),
                limits: policy::listener_limits(&self.config.mesh.listeners),
                admission: Some(Admission::default()),
            }),
        });
        let action = to_workload(service);
        let hosts = vec![host("inbound", vec!["*".to_owned()], vec![all_to(action)])];
        snapshot.routes.push(RouteTable { name: "inbound".to_owned(), hosts }.into());
        snapshot.clusters.push(Cluster {
            connect_timeout: LOCAL_CONNECT,
            balancer: Balancer::RoundRobin,
            ..Cluster::new(LOCAL, protocol)
        });
        let local = WireEndpoint {
            name: endpoint.workload.to_string(),
            address: app,
            version: endpoint.version.clone(),
            weight: 1,
        };
        snapshot.endpoints.push(EndpointSet {
            cluster: LOCAL.to_owned(),
            localities: vec![locality(&endpoint.region, 0, 1, vec![local])],
        });
        Ok(())
    }

    fn outbound_side(
        &self,
        snapshot: &mut Snapshot,
        service: &Service,
        endpoint: &Endpoint,
        outbound: SocketAddr,
        placement: &Placement,
    ) -> Result<(), String> {
        snapshot.listeners.push(self.http_listener("outbound", outbound, Direction::Outbound));
        let from = From { service: Some(&service.name), region: Some(&endpoint.region) };
        let mut hosts = Vec::new();
        let caller = Caller::Service(service.name.clone());
        let callees = called_by(self.config, placement);
        for callee in &callees {
            let name = callee.name.as_str();
            self.add_clusters(snapshot, callee, &self.tiers(callee, &from))?;
            hosts.push(host(name, self.domains(callee), routes::of(callee, &caller, "/")));
            for region in self.regions_of(callee) {
                let pinned = format!("{name}.{region}");
                self.add_cluster(snapshot, callee, pinned.clone(), None, &[vec![(region.clone(), 1)]])?;
                let routes = vec![routes::all(&pinned, callee, "/")];
                hosts.push(host(&pinned, vec![pinned.clone()], routes));
            }
        }
        self.add_mirrors(snapshot, &callees, &from)?;
        snapshot.routes.push(RouteTable { name: "outbound".to_owned(), hosts }.into());
        Ok(())
    }

    /// Names that a service is called by.
    fn domains(&self, service: &Service) -> Vec<String> {
        let name = service.name.as_str();
        let mut domains = vec![name.to_owned()];
        // A region of the same name as the trust domain keeps `service.region`, which is the more specific wish.
        if !self.config.mesh.regions.iter().any(|r| r.as_str() == self.config.mesh.trust_domain) {
            domains.push(format!("{name}.{}", self.config.mesh.trust_domain.to_lowercase()));
        }
        domains
    }

    fn gateway_side(
        &self,
        snapshot: &mut Snapshot,
        gateway: &Gateway,
        listen: SocketAddr,
        placement: &Placement,
    ) -> Result<(), String> {
        snapshot.listeners.push(self.http_listener("gateway", listen, Direction::Gateway));
        let from = From { service: None, region: None };
        let callees = called_by(self.config, placement);
        for callee in &callees {
            self.add_clusters(snapshot, callee, &self.tiers(callee, &from))?;
            // A region that is switched off durably is not in the service's cluster; a cluster of its own keeps it under
            // health checks, so that its return is seen.
            for region in self.regions_of(callee) {
                if self.switches.contains_key(&(callee.name.clone(), region.clone())) {
                    let pinned = format!("{}.{region}", callee.name);
                    self.add_cluster(snapshot, callee, pinned, None, &[vec![(region, 1)]])?;
                }
            }
        }
        self.add_mirrors(snapshot, &callees, &from)?;
        let caller = Caller::Gateway(gateway.name.clone());
        // CONNECT leads to the service that it names, requests to one by their path.
        let (mut hosts, mut by_path) = (Vec::new(), Vec::new());
        for route in &gateway.routes {
            let Some(service) = self.config.services.get(&route.service) else { continue };
            let routes = routes::of(service, &caller, &route.prefix);
            let own = format!("connect:{}", service.name);
            match service.connect {
                Some(_) if hosts.iter().any(|host: &VirtualHost| host.name == own) => {}
                Some(_) => hosts.push(host(&own, self.domains(service), routes)),
                None => by_path.extend(routes),
            }
        }
        hosts.push(host("gateway", vec!["*".to_owned()], by_path));
        snapshot.routes.push(RouteTable { name: "gateway".to_owned(), hosts }.into());
        Ok(())
    }

    fn http_listener(&self, name: &str, address: SocketAddr, direction: Direction) -> Listener {
        let limits = policy::listener_limits(&self.config.mesh.listeners);
        let http = HttpListener { routes: name.to_owned(), authorization: None, limits, admission: None };
        Listener { name: name.to_owned(), address, direction, tls: None, protocol: ListenerProtocol::Http(http) }
    }

    /// Who may call: as written, else those that name the service in `calls` and the gateways that route to it.
    fn authorization(&self, service: &Service) -> Authorization {
        let callers = self.callers.get(&service.name).cloned().unwrap_or_default();
        let dry_run = service.authorization.mode == AuthorizationMode::DryRun;
        let Some(allow) = &service.authorization.allow else {
            let all = AllowRule { principals: callers, methods: Vec::new(), paths: Vec::new(), headers: Vec::new() };
            return Authorization { allow: if all.principals.is_empty() { Vec::new() } else { vec![all] }, dry_run };
        };
        let mut rules: Vec<AllowRule> = allow
            .iter()
            .map(|rule| AllowRule {
                principals: vec![match &rule.from {
                    Principal::Caller(Caller::Service(name)) => service_id(self.config, name.as_str()),
                    Principal::Caller(Caller::Gateway(name)) => gateway_id(self.config, name.as_str()),
                    Principal::Id(id) => id.to_string(),
                }],
                methods: rule.methods.clone(),
                paths: rule.paths.clone(),
                headers: rule.headers.iter().map(routes::named).collect(),
            })
            .collect();
        // Callers' proxies check the health through this listener: a check that is refused would take the endpoint out.
        let check = service.policy.detection.active_check.as_ref().and_then(|check| match (&check.http, &check.grpc) {
            (Some(path), _) => Some(("GET", path.as_str())),
            (None, Some(_)) => Some(("POST", GRPC_CHECK)),
            (None, None) => None,
        });
        if let Some((method, path)) = check.filter(|_| !callers.is_empty()) {
            let (methods, paths) = (vec![method.to_owned()], vec![path.to_owned()]);
            rules.push(AllowRule { principals: callers, methods, paths, headers: Vec::new() });
        }
        Authorization { allow: rules, dry_run }
    }

    /// Regions that have endpoints of a service, in the mesh's order.
    fn regions_of(&self, service: &Service) -> Vec<RegionName> {
        let regions = self.config.mesh.regions.iter();
        regions.filter(|region| service.endpoints.iter().any(|e| e.region == **region)).cloned().collect()
    }

    fn tiers(&self, callee: &Service, from: &From<'_>) -> Vec<tiers::Tier> {
        let order = tiers::order(self.config, callee, from.service, from.region);
        tiers::tiers(&callee.name, &order, self.switches)
    }

    /// The cluster of all endpoints, and one for each version that routes name.
    fn add_clusters(&self, snapshot: &mut Snapshot, callee: &Service, tiers: &[tiers::Tier]) -> Result<(), String> {
        self.add_cluster(snapshot, callee, callee.name.to_string(), None, tiers)?;
        for version in routes::versions(callee) {
            self.add_cluster(snapshot, callee, routes::cluster(callee, version), Some(version), tiers)?;
        }
        Ok(())
    }

    /// Clusters of services that get copies only.
    fn add_mirrors(&self, snapshot: &mut Snapshot, callees: &[&Service], from: &From<'_>) -> Result<(), String> {
        let mirrors: BTreeSet<&ServiceName> = callees.iter().flat_map(|callee| routes::mirrors(callee)).collect();
        for name in mirrors.into_iter().filter(|name| !callees.iter().any(|callee| callee.name == **name)) {
            if let Some(mirror) = self.config.services.get(name) {
                self.add_cluster(snapshot, mirror, name.to_string(), None, &self.tiers(mirror, from))?;
            }
        }
        Ok(())
    }

    /// `version` leaves out the endpoints of others.
    fn add_cluster(
        &self,
        snapshot: &mut Snapshot,
        callee: &Service,
        name: String,
        version: Option<&str>,
        tiers: &[tiers::Tier],
    ) -> Result<(), String> {
        carried(callee)?;
        let inside = || (outside(callee) == 0).then(|| service_id(self.config, callee.name.as_str()));
        let id = callee.identity.as_ref().map(ToString::to_string).or_else(inside);
        let tls = id.map(|id| ClusterTls { trust: TRUST.to_owned(), server_ids: vec![id] });
        let plan = self.config.plans.values().find(|plan| plan.services.contains(&callee.name));
        let localities = self.localities(callee, version, tiers);
        let tiered = localities.iter().any(|locality| locality.priority > 0);
        let has_standby = tiered && callee.protocol != Protocol::Tcp;
        let cluster = Cluster {
            service: callee.name.to_string(),
            connect_timeout: policy::connect_timeout(&callee.policy),
            tls,
            health_check: policy::health_check(&callee.policy),
            outlier: policy::outlier(&callee.policy),
            ramp: if tiered { policy::ramp(plan.map(|plan| &plan.failback), callee) } else { None },
            standby_connections: if has_standby { callee.limits.standby_connections } else { 0 },
            ..Cluster::new(name.clone(), policy::upstream_protocol(callee.protocol))
        };
        snapshot.clusters.push(policy::shared(cluster, callee));
        snapshot.endpoints.push(EndpointSet { cluster: name, localities });
        Ok(())
    }

    /// Priorities are gapless: a tier without endpoints gets none.
    fn localities(&self, callee: &Service, version: Option<&str>, tiers: &[tiers::Tier]) -> Vec<Locality> {
        let mut localities = Vec::new();
        let mut priority = 0;
        for tier in tiers {
            let before = localities.len();
            for (region, share) in tier {
                let endpoints: Vec<_> = callee
                    .endpoints
                    .iter()
                    .filter(|e| e.region == *region && version.is_none_or(|version| e.version == version))
                    .flat_map(|e| self.wire_endpoints(e))
                    .collect();
                if !endpoints.is_empty() {
                    localities.push(locality(region, priority, *share, endpoints));
                }
            }
            if localities.len() > before {
                priority += 1;
            }
        }
        localities
    }

    fn wire_endpoints(&self, endpoint: &Endpoint) -> Vec<WireEndpoint> {
        let workload = endpoint.workload.as_str();
        let one = |name: String, address: SocketAddr, weight: u32| WireEndpoint {
            name,
            address,
            version: endpoint.version.clone(),
            weight,
        };
        match &endpoint.place {
            Place::Address(address) => vec![one(workload.to_owned(), *address, endpoint.weight)],
            Place::Run(_) => {
                let inbound = self.inbound.get(workload);
                inbound.map(|address| one(workload.to_owned(), *address, endpoint.weight)).into_iter().collect()
            }
            Place::Dns(_) | Place::File(_) => {
                let found = self.found.get(workload).into_iter().flatten();
                let weight = |weight: u32| endpoint.weight.saturating_mul(weight).min(HEAVIEST);
                found.map(|f| one(format!("{workload}@{}", f.address), f.address, weight(f.weight))).collect()
            }
        }
    }
}

/// Who may send each service requests, services before gateways.
fn callers(config: &Config) -> HashMap<&ServiceName, Vec<String>> {
    let services = config.services.values().map(|s| (service_id(config, s.name.as_str()), s.calls.iter().collect()));
    let gateways = config.mesh.gateways.iter();
    let gateways = gateways
        .map(|g| (gateway_id(config, g.name.as_str()), g.routes.iter().map(|r| &r.service).collect::<Vec<_>>()));
    let mut callers: HashMap<&ServiceName, Vec<String>> = HashMap::new();
    for (id, callees) in services.chain(gateways) {
        // Copies come from the callers of the service that is mirrored.
        let mirrors = callees.iter().filter_map(|name| config.services.get(*name)).flat_map(routes::mirrors);
        let reached: BTreeSet<&ServiceName> = callees.iter().copied().chain(mirrors).collect();
        for callee in reached {
            callers.entry(callee).or_default().push(id.clone());
        }
    }
    callers
}

/// What no proxy could be told: manifests that hold any of it are refused.
pub fn unsupported(config: &Config) -> Vec<String> {
    config.services.values().filter_map(|service| carried(service).err()).collect()
}

/// Number of endpoints outside the mesh.
fn outside(service: &Service) -> usize {
    service.endpoints.iter().filter(|e| e.place.is_outside()).count()
}

fn carried(service: &Service) -> Result<(), String> {
    let name = &service.name;
    // The outbound listener tells services apart by host, which bytes do not carry: CONNECT says it before them.
    if service.protocol == Protocol::Tcp {
        if service.connect.is_none() {
            return Err(format!(
                "service `{name}` speaks tcp, which names nobody; write `connect: {{}}`, and callers say CONNECT first"
            ));
        }
        // A sidecar's inbound side asks for permission by request, of which bytes have none.
        if outside(service) != service.endpoints.len() {
            return Err(format!(
                "service `{name}` speaks tcp and is started here (`run`), where nobody could be refused; name its \
                 instances by `address`, `dns` or `file`"
            ));
        }
    }
    if name.as_str() == LOCAL {
        return Err(format!("a service cannot be called `{LOCAL}`: sidecars use that name for their workload"));
    }
    // A cluster is either mutual TLS or plaintext as a whole.
    let outside = outside(service);
    if outside != 0 && outside != service.endpoints.len() {
        return Err(format!("service `{name}` mixes `run:` and `address:` endpoints; make two services of it"));
    }
    Ok(())
}

fn host(name: &str, domains: Vec<String>, routes: Vec<Route>) -> VirtualHost {
    VirtualHost { name: name.to_owned(), domains, routes }
}

fn prefix(path: &str) -> RouteMatch {
    RouteMatch { path: routes::segments(path), ..RouteMatch::default() }
}

fn all_to(action: RouteAction) -> Route {
    Route { matches: prefix("/"), action }
}

/// The caller's proxy bounds the whole request; a second bound here would only race with it.
fn to_workload(service: &Service) -> RouteAction {
    RouteAction::Forward(Forward {
        clusters: vec![WeightedCluster { cluster: LOCAL.to_owned(), weight: 1 }],
        // The proxy on the caller's side bounds time, by the route that it took.
        idle_timeout: Some(Duration::ZERO),
        upgrades: policy::upgrades(service.protocol),
        ..Forward::default()
    })
}

fn locality(region: &RegionName, priority: u32, weight: u32, endpoints: Vec<WireEndpoint>) -> Locality {
    Locality { region: region.to_string(), zone: String::new(), priority, weight, endpoints }
}

#[cfg(test)]
mod tests;
