use std::{net::SocketAddr, sync::atomic::Ordering};

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use xds::snapshot::{
    AllowRule, Authorization, ClusterTls, Direction, Is, ListenerProtocol, ListenerTls, Named, Snapshot, TrustBundle,
    TrustDomain, UpstreamProtocol,
};

use crate::{authority::Authority, support::*};

fn bundle(roots: String) -> Vec<TrustBundle> {
    vec![TrustBundle { name: "mesh".into(), roots, ..TrustBundle::default() }]
}

/// Before the workload: mTLS, and only service `accounts` may call.
pub fn inbound(authority: &Authority, origin: &Origin) -> Snapshot {
    let mut snapshot = simple(Direction::Inbound, &[&[origin]]);
    snapshot.routes = vec![routes("fx", None, None)];
    snapshot.clusters[0].outlier = None;
    snapshot.listeners[0].address.set_port(15006);
    snapshot.listeners[0].tls = Some(ListenerTls { trust: "mesh".into() });
    let ListenerProtocol::Http(http) = &mut snapshot.listeners[0].protocol else { unreachable!() };
    let principals = vec![Authority::service("accounts")];
    http.authorization = Some(Authorization {
        allow: vec![AllowRule { principals, methods: vec![], paths: vec![], headers: vec![] }],
        dry_run: false,
    });
    snapshot.trust = bundle(authority.pem());
    snapshot
}

/// Beside a caller.
pub fn outbound(authority: &Authority, origin: &Origin, to: SocketAddr, protocol: UpstreamProtocol) -> Snapshot {
    let mut snapshot = simple(Direction::Outbound, &[&[origin]]);
    snapshot.endpoints[0].localities[0].endpoints[0].address = to;
    snapshot.clusters[0].protocol = protocol;
    snapshot.clusters[0].tls = Some(ClusterTls { trust: "mesh".into(), server_ids: vec![Authority::service("fx")] });
    snapshot.clusters[0].health_check = None;
    snapshot.trust = bundle(authority.pem());
    snapshot
}

#[tokio::test(flavor = "multi_thread")]
async fn sidecars_prove_who_they_are() {
    let (authority, origin) = (Authority::new(), Origin::start("fx-1"));
    let inside = inbound(&authority, &origin);
    let at = inside.listeners[0].address;
    let server = Proxy::with_identity(&inside, Some(authority.issue("fx")));
    for protocol in [UpstreamProtocol::Http1, UpstreamProtocol::Http2] {
        let allowed = outbound(&authority, &origin, at, protocol);
        let _caller = Proxy::with_identity(&allowed, Some(authority.issue("accounts")));
        let reply = http1(allowed.listeners[0].address, get("/")).await.unwrap();
        assert_eq!(reply.status, 200, "{:?}", reply.body);
        assert_eq!(reply.header("seen-x-forwarded-client-cert"), format!("URI={}", Authority::service("accounts")));

        let unlisted = outbound(&authority, &origin, at, protocol);
        let _other = Proxy::with_identity(&unlisted, Some(authority.issue("loans")));
        let reply = http1(unlisted.listeners[0].address, get("/")).await.unwrap();
        assert_eq!(reply.status, 403);
        assert!(!reply.header("x-request-id").is_empty());
    }
    let reached = origin.does.requests.load(Ordering::SeqCst);

    // Strangers: plaintext, another authority's certificate, and a server that is not who it should be.
    let mut plain = tokio::net::TcpStream::connect(at).await.unwrap();
    plain.write_all(b"GET / HTTP/1.1\r\nhost: fx\r\n\r\n").await.unwrap();
    let mut answer = Vec::new();
    let _ = plain.read_to_end(&mut answer).await;
    assert!(!answer.starts_with(b"HTTP"), "plaintext was answered");

    let stranger = outbound(&authority, &origin, at, UpstreamProtocol::Http2);
    let _stranger = Proxy::with_identity(&stranger, Some(Authority::new().issue("accounts")));
    assert_eq!(http1(stranger.listeners[0].address, get("/")).await.unwrap().status, 503);

    let mut wrong = outbound(&authority, &origin, at, UpstreamProtocol::Http2);
    wrong.clusters[0].tls.as_mut().unwrap().server_ids = vec![Authority::service("ledger")];
    let _wrong = Proxy::with_identity(&wrong, Some(authority.issue("accounts")));
    assert_eq!(http1(wrong.listeners[0].address, get("/")).await.unwrap().status, 503);
    assert_eq!(origin.does.requests.load(Ordering::SeqCst), reached, "nobody got through");
    assert!(server.admin("/metrics").unwrap().1.contains("firedrill_refused_total{kind=\"tls\"}"));
}

fn federated(domains: &[(&str, &Authority)]) -> Vec<TrustBundle> {
    let domains = domains.iter().map(|(name, of)| TrustDomain { name: (*name).into(), roots: of.pem() });
    vec![TrustBundle { name: "mesh".into(), domains: domains.collect(), ..TrustBundle::default() }]
}

#[tokio::test(flavor = "multi_thread")]
async fn a_federated_root_vouches_for_its_own_trust_domain_only() {
    let (ours, theirs, origin) = (Authority::new(), Authority::new(), Origin::start("fx-1"));
    let foreign = "spiffe://partner.example/service/web";
    let mut inside = inbound(&ours, &origin);
    inside.trust = federated(&[("bank.example", &ours), ("partner.example", &theirs)]);
    let ListenerProtocol::Http(http) = &mut inside.listeners[0].protocol else { unreachable!() };
    http.authorization.as_mut().unwrap().allow[0].principals.push(foreign.into());
    let server = Proxy::with_identity(&inside, Some(ours.issue("fx")));
    let ask = async |identity: (String, String)| {
        let mut outside = outbound(&ours, &origin, inside.listeners[0].address, UpstreamProtocol::Http2);
        outside.trust = federated(&[("bank.example", &ours), ("partner.example", &theirs)]);
        let _caller = Proxy::with_identity(&outside, Some(identity));
        let reply = http1(outside.listeners[0].address, get("/")).await.unwrap();
        (reply.status, reply.header("seen-x-forwarded-client-cert").to_owned())
    };
    assert_eq!(ask(theirs.issue_id(foreign)).await, (200, format!("URI={foreign}")));
    assert_eq!(ask(ours.issue("accounts")).await.0, 200);
    assert_eq!(ask(theirs.issue_id("spiffe://partner.example/service/other")).await.0, 403);
    // Each for the other, and a trust domain that nobody vouches for.
    assert_eq!(ask(theirs.issue("accounts")).await.0, 503);
    assert_eq!(ask(ours.issue_id(foreign)).await.0, 503);
    assert_eq!(ask(theirs.issue_id("spiffe://third.example/service/web")).await.0, 503);
    // Without their bundle they are strangers.
    let mut without = inside.clone();
    without.trust = federated(&[("bank.example", &ours)]);
    tokio::task::block_in_place(|| server.swap(&without));
    assert_eq!(ask(theirs.issue_id(foreign)).await.0, 503);
    assert_eq!(ask(ours.issue("accounts")).await.0, 200);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_dry_run_lets_pass_and_tells_what_it_would_have_refused() {
    let (authority, origin) = (Authority::new(), Origin::start("fx-1"));
    let mut inside = inbound(&authority, &origin);
    let ListenerProtocol::Http(http) = &mut inside.listeners[0].protocol else { unreachable!() };
    let authorization = http.authorization.as_mut().unwrap();
    authorization.allow[0].headers = vec![Named { name: "x-tenant".into(), is: Is::Exact("gold".into()) }];
    let mut dry = inside.clone();
    let ListenerProtocol::Http(http) = &mut dry.listeners[0].protocol else { unreachable!() };
    http.authorization.as_mut().unwrap().dry_run = true;

    let server = Proxy::with_identity(&inside, Some(authority.issue("fx")));
    let outside = outbound(&authority, &origin, inside.listeners[0].address, UpstreamProtocol::Http2);
    let _caller = Proxy::with_identity(&outside, Some(authority.issue("accounts")));
    let ask = async |tenant: &str, path: &str| {
        let mut request = get(path);
        request.headers_mut().insert("x-tenant", tenant.parse().unwrap());
        http1(outside.listeners[0].address, request).await.unwrap().status
    };
    assert_eq!((ask("gold", "/a").await, ask("tin", "/b").await), (200, 403));
    tokio::task::block_in_place(|| server.swap(&dry));
    assert_eq!((ask("gold", "/c").await, ask("tin", "/d").await), (200, 200));

    let log = server.folder.path().join("access.log");
    let lines = || std::fs::read_to_string(&log).unwrap_or_default();
    server.until("four lines in the access log", |_| lines().lines().count() == 4);
    let lines: Vec<serde_json::Value> = lines().lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    let decided = |path: &str, decision: &str, rule: &str| {
        let line = lines.iter().find(|line| line["path"] == path).unwrap();
        assert_eq!((&line["authorization"], &line["authorization_rule"]), (&decision.into(), &rule.into()), "{line}");
        line
    };
    decided("/a", "allow", "allow[0]");
    let refused = decided("/b", "deny", "none");
    assert_eq!(refused["response_code_details"], "rbac_access_denied_matched_policy[none]");
    decided("/c", "allow", "allow[0]");
    let told = decided("/d", "shadow_deny", "none");
    assert_eq!((told["response_code"].as_u64(), &told["response_flags"]), (Some(200), &"-".into()));
    let metrics = server.admin("/metrics").unwrap().1;
    for (decision, policy, count) in [("allow", "allow[0]", 2), ("deny", "none", 1), ("shadow_deny", "none", 1)] {
        let labels = format!("{{decision=\"{decision}\",policy=\"{policy}\"}} {count}\n");
        assert!(metrics.contains(&format!("firedrill_authorization_decisions_total{labels}")), "{labels} {metrics}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_root_that_is_taken_away_cuts_traffic() {
    let (authority, origin) = (Authority::new(), Origin::start("fx-1"));
    let inside = inbound(&authority, &origin);
    let server = Proxy::with_identity(&inside, Some(authority.issue("fx")));
    let outside = outbound(&authority, &origin, inside.listeners[0].address, UpstreamProtocol::Http2);
    let caller = Proxy::with_identity(&outside, Some(authority.issue("accounts")));
    let to = outside.listeners[0].address;
    assert_eq!(http1(to, get("/")).await.unwrap().status, 200);

    // Another root beside the first one cuts nobody, not even a request in flight.
    origin.does.slow.store(400, Ordering::SeqCst);
    let mut both = inside.clone();
    both.trust = bundle(authority.pem() + &Authority::new().pem());
    let in_flight = tokio::spawn(async move { http1(to, get("/")).await });
    tokio::task::block_in_place(|| server.swap(&both));
    assert_eq!(in_flight.await.unwrap().unwrap().status, 200);
    origin.does.slow.store(0, Ordering::SeqCst);

    // Without the callers' root nothing gets through, also not over connections that are up.
    let mut without = inside.clone();
    without.trust = bundle(Authority::new().pem());
    tokio::task::block_in_place(|| server.swap(&without));
    let reached = origin.does.requests.load(Ordering::SeqCst);
    assert_eq!(http1(to, get("/")).await.unwrap().status, 503);
    assert_eq!(origin.does.requests.load(Ordering::SeqCst), reached);
    tokio::task::block_in_place(|| server.swap(&inside));
    assert_eq!(http1(to, get("/")).await.unwrap().status, 200);

    // And the same from the caller's side, with an empty bundle.
    let mut nobody = outside.clone();
    nobody.trust = bundle(String::new());
    tokio::task::block_in_place(|| caller.swap(&nobody));
    let reached = origin.does.requests.load(Ordering::SeqCst);
    assert_eq!(http1(to, get("/")).await.unwrap().status, 503);
    assert_eq!(origin.does.requests.load(Ordering::SeqCst), reached);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_hung_region_behind_sidecars_costs_no_idempotent_request() {
    let authority = Authority::new();
    let (east, west) = (Origin::start("fx-e"), Origin::start("fx-w"));
    let (inside_east, inside_west) = (inbound(&authority, &east), inbound(&authority, &west));
    let _sidecars =
        [&inside_east, &inside_west].map(|inside| Proxy::with_identity(inside, Some(authority.issue("fx"))));
    let mut outside = outbound(&authority, &east, inside_east.listeners[0].address, UpstreamProtocol::Http2);
    outside.endpoints = vec![endpoints("fx", &[&[&east], &[&west]])];
    for (locality, inside) in outside.endpoints[0].localities.iter_mut().zip([&inside_east, &inside_west]) {
        locality.endpoints[0].address = inside.listeners[0].address;
    }
    let caller = Proxy::with_identity(&outside, Some(authority.issue("accounts")));
    let seen = load(outside.listeners[0].address, 200, std::time::Duration::from_secs(2), |number| {
        if number == 100 {
            east.does.frozen.store(true, Ordering::SeqCst);
        }
    })
    .await;
    assert!(seen.all_within(std::time::Duration::from_millis(1200)), "{seen:?}");
    caller.until("east is left", |caller| caller.status()["clusters"][0]["tierLoad"] == serde_json::json!([0, 100]));
}

#[tokio::test(flavor = "multi_thread")]
async fn mutual_tls_that_comes_later_ends_plaintext() {
    let (authority, origin) = (Authority::new(), Origin::start("fx-1"));
    let mut plain = inbound(&authority, &origin);
    plain.listeners[0].tls = None;
    let ListenerProtocol::Http(http) = &mut plain.listeners[0].protocol else { unreachable!() };
    http.authorization = None;
    let server = Proxy::with_identity(&plain, Some(authority.issue("fx")));
    let mut caller = tokio::net::TcpStream::connect(plain.listeners[0].address).await.unwrap();
    let request = b"GET / HTTP/1.1\r\nhost: fx\r\n\r\n";
    caller.write_all(request).await.unwrap();
    let mut answer = [0; 4096];
    assert!(caller.read(&mut answer).await.unwrap() > 0 && answer.starts_with(b"HTTP/1.1 200"));
    let mut strict = plain.clone();
    strict.listeners[0].tls = Some(ListenerTls { trust: "mesh".into() });
    tokio::task::block_in_place(|| server.swap(&strict));
    let _ = caller.write_all(request).await;
    let mut rest = Vec::new();
    let ended = tokio::time::timeout(std::time::Duration::from_secs(5), caller.read_to_end(&mut rest)).await;
    assert!(ended.is_ok(), "the plaintext connection lives on: {}", String::from_utf8_lossy(&rest));
    assert_eq!(origin.does.requests.load(Ordering::SeqCst), 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_tcp_caller_that_is_cut_off_is_not_active_any_more() {
    let (authority, origin) = (Authority::new(), Origin::start("fx-1"));
    let mut inside = inbound(&authority, &origin);
    inside.clusters[0].protocol = UpstreamProtocol::Tcp;
    inside.listeners[0].protocol = ListenerProtocol::tcp("fx");
    let server = Proxy::with_identity(&inside, Some(authority.issue("fx")));
    let mut outside = outbound(&authority, &origin, inside.listeners[0].address, UpstreamProtocol::Tcp);
    outside.listeners[0].protocol = ListenerProtocol::tcp("fx");
    let _caller = Proxy::with_identity(&outside, Some(authority.issue("accounts")));
    let mut stream = tokio::net::TcpStream::connect(outside.listeners[0].address).await.unwrap();
    stream.write_all(b"GET / HTTP/1.1\r\nhost: fx\r\n\r\n").await.unwrap();
    let mut answer = [0; 8];
    stream.read_exact(&mut answer).await.unwrap();
    let active = |proxy: &Proxy| proxy.status()["clusters"][0]["endpoints"][0]["active"].clone();
    assert_eq!(active(&server), 1);
    let mut nobody = inside.clone();
    nobody.trust = bundle(Authority::new().pem());
    tokio::task::block_in_place(|| server.swap(&nobody));
    let mut rest = Vec::new();
    let _ = stream.read_to_end(&mut rest).await;
    server.until("nothing active", |server| active(server) == 0);
}
