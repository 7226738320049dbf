use std::time::Duration;

use model::config::Connect;
use xds::{
    overlay::SwitchState,
    snapshot::{PathMatch, Tunnel},
};

use super::*;
use crate::{
    api::ManifestFile,
    testing::{bank, config, place},
};

fn snapshots(config: &Config, switches: &Switches) -> BTreeMap<String, Snapshot> {
    let compiled = compile(config, &place(config), switches, &roots(), &Addresses::new());
    compiled.into_iter().map(|(name, snapshot)| (name, snapshot.unwrap())).collect()
}

fn roots() -> Roots {
    Roots { own: "ROOTS".to_owned(), federated: BTreeMap::new() }
}

fn show(snapshot: &Snapshot) -> String {
    serde_json::to_string_pretty(snapshot).unwrap()
}

fn switches(states: &[(&str, &str, SwitchState)]) -> Switches {
    let entry = |(service, region, state): &(&str, &str, SwitchState)| {
        ((ServiceName::new(*service).unwrap(), RegionName::new(*region).unwrap()), *state)
    };
    states.iter().map(entry).collect()
}

/// `a[east] > b[west]`: tiers of a cluster with their regions and shares.
fn tiers_of(snapshot: &Snapshot, cluster: &str) -> String {
    let set = snapshot.endpoints.iter().find(|set| set.cluster == cluster).unwrap();
    let mut tiers: BTreeMap<u32, Vec<String>> = BTreeMap::new();
    for locality in &set.localities {
        let text = format!("{}×{} at {}", locality.endpoints.len(), locality.region, locality.weight);
        tiers.entry(locality.priority).or_default().push(text);
    }
    tiers.into_values().map(|tier| tier.join(" + ")).collect::<Vec<_>>().join(" > ")
}

#[test]
fn the_bank_compiles_to_these_snapshots() {
    let snapshots = snapshots(&bank(), &Switches::new());
    let names: Vec<_> = snapshots.keys().map(String::as_str).collect();
    assert_eq!(
        names.join(" "),
        "accounts-east-0 accounts-east-1 accounts-west-0 accounts-west-1 edge fx-east-0 fx-west-0 ledger-east-0 ledger-west-0"
    );
    for name in ["edge", "accounts-west-0", "ledger-east-0", "fx-west-0"] {
        insta::assert_snapshot!(format!("bank_{name}"), show(&snapshots[name]));
    }
}

#[test]
fn the_wire_takes_every_snapshot() {
    let server = xds::server::Server::new(|_| Err(String::new()));
    let some = switches(&[("accounts", "east", SwitchState::Off), ("ledger", "east", SwitchState::Share(10))]);
    for (config, switches) in [
        (bank(), Switches::new()),
        (bank(), some),
        (outside(), Switches::new()),
        (shop(), Switches::new()),
        (every_field(), Switches::new()),
    ] {
        for (name, snapshot) in snapshots(&config, &switches) {
            server.publish(&name, "1", snapshot.into()).unwrap_or_else(|e| panic!("{name}: {e}"));
        }
    }
}

#[test]
fn plans_and_preferences_order_regions() {
    let snapshots = snapshots(&bank(), &Switches::new());
    // In a plan: the primary first, for every caller.
    assert_eq!(tiers_of(&snapshots["edge"], "accounts"), "2×east at 1 > 2×west at 1");
    assert_eq!(tiers_of(&snapshots["accounts-west-0"], "ledger"), "1×east at 1 > 1×west at 1");
    // A rule: the planted fault.
    assert_eq!(tiers_of(&snapshots["accounts-west-0"], "fx"), "1×east at 1 > 1×west at 1");
    // One region only.
    assert_eq!(tiers_of(&snapshots["accounts-west-0"], "fx.west"), "1×west at 1");
    // Without a rule: the caller's own region first.
    let mut config = bank();
    for service in config.services.values_mut() {
        service.routes.clear();
    }
    let snapshots = self::snapshots(&config, &Switches::new());
    assert_eq!(tiers_of(&snapshots["accounts-west-0"], "fx"), "1×west at 1 > 1×east at 1");
    assert_eq!(tiers_of(&snapshots["accounts-east-0"], "fx"), "1×east at 1 > 1×west at 1");
}

#[test]
fn durable_switches_are_compiled_in() {
    let off = switches(&[("accounts", "east", SwitchState::Off), ("ledger", "east", SwitchState::Off)]);
    let snapshots = snapshots(&bank(), &off);
    assert_eq!(tiers_of(&snapshots["edge"], "accounts"), "2×west at 1");
    // What is off stays under health checks.
    assert_eq!(tiers_of(&snapshots["edge"], "accounts.east"), "2×east at 1");
    assert_eq!(tiers_of(&snapshots["accounts-west-0"], "ledger"), "1×west at 1");
    assert_eq!(tiers_of(&snapshots["accounts-west-0"], "ledger.east"), "1×east at 1");
    let back = switches(&[("accounts", "east", SwitchState::Share(10))]);
    assert_eq!(tiers_of(&self::snapshots(&bank(), &back)["edge"], "accounts"), "2×east at 10 + 2×west at 90");
}

#[test]
fn only_listed_callers_are_allowed() {
    let snapshots = snapshots(&bank(), &Switches::new());
    let rules = |name: &str| match &snapshots[name].listeners[0].protocol {
        ListenerProtocol::Http(http) => http.authorization.clone().unwrap().allow,
        ListenerProtocol::Tcp { .. } => panic!("not HTTP"),
    };
    let all = |id: &str| AllowRule {
        principals: vec![id.to_owned()],
        methods: Vec::new(),
        paths: Vec::new(),
        headers: Vec::new(),
    };
    assert_eq!(rules("accounts-east-0"), [all("spiffe://bank.example/gateway/edge")]);
    assert_eq!(rules("fx-east-0"), [all("spiffe://bank.example/service/accounts")]);
    let ledger = rules("ledger-east-0");
    assert_eq!(ledger[0].methods, ["GET", "POST"]);
    // Callers' health checks pass, whatever else is allowed.
    let last = ledger.last().unwrap();
    assert_eq!(
        (last.methods.as_slice(), last.paths.as_slice()),
        (["GET".to_owned()].as_slice(), ["/healthz".to_owned()].as_slice())
    );
}

fn outside() -> Config {
    let text = "
apiVersion: firedrill.dev/v1
kind: Mesh
metadata: {name: shop}
spec:
  trustDomain: shop.example
  regions: [east, west]
  gateways: [{name: edge, listen: \"127.0.0.1:8080\", routes: [{service: web}]}]
---
apiVersion: firedrill.dev/v1
kind: Service
metadata: {name: web}
spec:
  protocol: http
  endpoints:
    - {region: east, address: \"127.0.0.1:9001\"}
    - {region: west, address: \"127.0.0.1:9002\"}
";
    config(&[crate::api::ManifestFile { path: "shop.yaml".to_owned(), text: text.to_owned() }])
}

/// What the tests of the manifests parse: with every form of route.
fn every_field() -> Config {
    let path = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("../model/tests/every-field.yaml");
    let text = std::fs::read_to_string(path).unwrap();
    config(&[crate::api::ManifestFile { path: "every-field.yaml".to_owned(), text }])
}

#[test]
fn endpoints_outside_the_mesh_are_plaintext() {
    let snapshots = snapshots(&outside(), &Switches::new());
    assert_eq!(snapshots.len(), 1);
    let edge = &snapshots["edge"];
    assert_eq!(edge.clusters[0].tls, None);
    assert_eq!(edge.trust, []);
    assert_eq!(tiers_of(edge, "web"), "1×east at 1 > 1×west at 1");
}

#[test]
fn what_the_manifests_do_not_know_gets_no_snapshot() {
    let config = bank();
    let mut placements = place(&config);
    for placement in &mut placements.proxies {
        match &mut placement.role {
            Role::Sidecar { service, .. } if service == "fx" => *service = "gx".to_owned(),
            Role::Sidecar { workload, .. } if workload == "ledger-west-0" => *workload = "ledger-west-9".to_owned(),
            Role::Gateway { gateway, .. } => *gateway = "edgy".to_owned(),
            Role::Sidecar { .. } => {}
        }
    }
    let compiled = compile(&config, &placements, &Switches::new(), &roots(), &Addresses::new());
    let errors: Vec<String> = compiled.into_values().filter_map(|c| c.err().map(|e| e.to_string())).collect();
    insta::assert_snapshot!(errors.join("\n"), @r"
    no snapshot for proxy edge: there is no gateway `edgy` in the manifests; apply them or correct the placement
    no snapshot for proxy fx-east-0: there is no service `gx` in the manifests; apply them or correct the placement
    no snapshot for proxy fx-west-0: there is no service `gx` in the manifests; apply them or correct the placement
    no snapshot for proxy ledger-west-0: service `ledger` has no workload `ledger-west-9` in west
    ");
}

#[test]
fn what_cannot_be_carried_is_refused() {
    let mut config = bank();
    assert_eq!(unsupported(&config), Vec::<String>::new());
    let fx = config.services.get_mut(&ServiceName::new("fx").unwrap()).unwrap();
    fx.endpoints[0].place = Place::Address("127.0.0.1:9".parse().unwrap());
    config.services.get_mut(&ServiceName::new("ledger").unwrap()).unwrap().protocol = Protocol::Tcp;
    insta::assert_snapshot!(unsupported(&config).join("\n"), @r"
    service `fx` mixes `run:` and `address:` endpoints; make two services of it
    service `ledger` speaks tcp, which names nobody; write `connect: {}`, and callers say CONNECT first
    ");
    assert!(
        compile(&config, &place(&config), &Switches::new(), &roots(), &Addresses::new())["accounts-east-0"].is_err()
    );
    let ledger = config.services.get_mut(&ServiceName::new("ledger").unwrap()).unwrap();
    ledger.connect = Some(Connect { idle_timeout: Duration::ZERO });
    let said = unsupported(&config);
    assert!(said.iter().any(|why| why.contains("`ledger` speaks tcp and is started here (`run`)")), "{said:?}");
}

#[test]
fn a_service_of_bytes_is_reached_by_connect_and_by_its_name_only() {
    let text = "
apiVersion: firedrill.dev/v1
kind: Mesh
metadata: {name: shop}
spec:
  trustDomain: shop.example
  regions: [east, west]
  gateways:
    - {name: edge, listen: '127.0.0.1:8080', routes: [{prefix: /db, service: db}, {service: web}]}
---
apiVersion: firedrill.dev/v1
kind: Service
metadata: {name: web}
spec: {calls: [db], endpoints: [{region: east, run: [web]}]}
---
apiVersion: firedrill.dev/v1
kind: Service
metadata: {name: db}
spec:
  protocol: tcp
  connect: {idleTimeout: 5m}
  endpoints: [{region: east, address: '127.0.0.1:5432'}, {region: west, address: '127.0.0.2:5432'}]
";
    let config = config(&[ManifestFile { path: "shop.yaml".into(), text: text.into() }]);
    assert_eq!(unsupported(&config), Vec::<String>::new());
    let snapshots = snapshots(&config, &Switches::new());
    let tunnel = |cluster: &str| {
        let matches = RouteMatch { path: PathMatch::Connect, ..RouteMatch::default() };
        let idle_timeout = Duration::from_secs(300);
        Route { matches, action: RouteAction::Tunnel(Tunnel { cluster: cluster.into(), idle_timeout }) }
    };
    let hosts = |proxy: &str| {
        let hosts = snapshots[proxy].routes.last().unwrap().hosts.clone();
        hosts.into_iter().map(|host| (host.domains.join(" "), host.routes)).collect::<BTreeMap<_, _>>()
    };
    let web = hosts("web-east-0");
    assert_eq!(web["db db.shop.example"], [tunnel("db")]);
    assert_eq!(web["db.west"], [tunnel("db.west")]);
    let edge = hosts("edge");
    assert_eq!(edge["db db.shop.example"], [tunnel("db")]);
    assert!(edge["*"].iter().all(|route| matches!(route.action, RouteAction::Forward(_))), "{edge:?}");
    assert_eq!(tiers_of(&snapshots["edge"], "db"), "1×east at 1 > 1×west at 1");
    for snapshot in snapshots.values() {
        xds::codec::check(snapshot).unwrap();
    }
}

fn shop() -> Config {
    let text = "
apiVersion: firedrill.dev/v1
kind: Mesh
metadata: {name: shop}
spec:
  trustDomain: shop.example
  regions: [east, west]
  gateways: [{name: edge, listen: \"127.0.0.1:8080\", routes: [{prefix: /api, service: web}, {service: front}]}]
---
apiVersion: firedrill.dev/v1
kind: Service
metadata: {name: front}
spec:
  endpoints: [{region: east, run: [front]}]
  calls: [web]
---
apiVersion: firedrill.dev/v1
kind: Service
metadata: {name: web}
spec:
  endpoints:
    - {region: east, run: [web]}
    - {region: west, run: [web]}
    - {region: west, version: v2, run: [web]}
  routes:
    - match: {path: {prefix: /old}}
      redirect: {status: 301, prefix: /api/new}
    - match: {callers: [front], headers: [{name: x-user, exact: canary}], cookies: [{name: session, present: true}]}
      split: [{version: v2}]
      retries: {attempts: 0}
      hedge: off
    - match: {methods: [GET], query: [{name: page, regex: '[0-9]+'}]}
      split: [{version: v1, weight: 90}, {version: v2, weight: 10}]
      sticky: {cookie: variant, ttl: 1h}
      mirrors: [{version: v2, percent: 5%}, {service: audit}]
      rewrite: {prefix: /v1/, host: web.internal}
      requestHeaders: {set: {x-a: b}}
      timeout: 2s
      faults: [{percent: 1%, abort: 503}]
---
apiVersion: firedrill.dev/v1
kind: Service
metadata: {name: audit}
spec:
  endpoints: [{region: east, run: [audit]}]
";
    config(&[crate::api::ManifestFile { path: "shop.yaml".to_owned(), text: text.to_owned() }])
}

#[test]
fn the_shop_compiles_to_these_routes() {
    let snapshots = snapshots(&shop(), &Switches::new());
    for name in ["edge", "front-east-0"] {
        let snapshot = &snapshots[name];
        insta::assert_snapshot!(format!("shop_{name}"), serde_json::to_string_pretty(&snapshot.routes).unwrap());
    }
    assert_eq!(tiers_of(&snapshots["front-east-0"], "web"), "1×east at 1 > 2×west at 1");
    assert_eq!(tiers_of(&snapshots["front-east-0"], "web@v1"), "1×east at 1 > 1×west at 1");
    assert_eq!(tiers_of(&snapshots["front-east-0"], "web@v2"), "1×west at 1");
    assert_eq!(tiers_of(&snapshots["front-east-0"], "audit"), "1×east at 1");
    // A version's cluster stands for the service, which switches and faults address.
    let edge = &snapshots["edge"];
    assert!(edge.clusters.iter().filter(|c| c.name.starts_with("web")).all(|c| c.service == "web"));
}

#[test]
fn endpoints_are_shared_and_protected_as_written() {
    let config = every_field();
    let snapshots = snapshots(&config, &Switches::new());
    let edge = &snapshots["edge"];
    for name in ["api", "web"] {
        let cluster = edge.clusters.iter().find(|c| c.name == name).unwrap();
        insta::assert_snapshot!(format!("every_field_{name}"), serde_json::to_string_pretty(cluster).unwrap());
    }
    let cache = snapshots.values().flat_map(|s| &s.clusters).find(|c| c.name == "cache").unwrap();
    let exchange = cache.health_check.as_ref().unwrap().exchange.as_ref().unwrap();
    assert_eq!((exchange.send.as_slice(), exchange.receive.as_slice()), (&b"PING\r\n"[..], &b"+PONG\xff"[..]));
    for listener in snapshots.values().flat_map(|s| &s.listeners) {
        let ListenerProtocol::Http(http) = &listener.protocol else { panic!("not HTTP") };
        assert_eq!((http.limits.headers, http.limits.header_bytes), (50, 8192), "{}", listener.name);
    }
}

#[test]
fn copies_are_allowed_where_they_go() {
    let snapshots = snapshots(&shop(), &Switches::new());
    let ListenerProtocol::Http(http) = &snapshots["audit-east-0"].listeners[0].protocol else { panic!("not HTTP") };
    assert_eq!(
        http.authorization.as_ref().unwrap().allow[0].principals,
        ["spiffe://shop.example/service/front", "spiffe://shop.example/gateway/edge"]
    );
}
