//! Origins that can be hurt, proxies that run in this process, and a client.

use std::{
    net::{IpAddr, SocketAddr},
    sync::{
        Arc, Mutex,
        atomic::{AtomicBool, AtomicU32, AtomicU64, Ordering},
    },
    thread::JoinHandle,
    time::{Duration, Instant},
};

use bytes::Bytes;
use http::{Request, Response, StatusCode};
use http_body_util::{BodyExt, Full, combinators::BoxBody};
use hyper::{body::Incoming, service::service_fn};
use hyper_util::rt::{TokioExecutor, TokioIo};
use proxy::{AccessLogOptions, Drain, FileSource, Issued, Options, Source};
use serde_json::Value;
use tokio::{net::TcpStream, sync::oneshot};
use xds::{
    clock::Clock,
    snapshot::{
        Balancer, Cluster, Direction, Endpoint, EndpointSet, Forward, HealthCheck, HedgePolicy, HttpListener, Listener,
        ListenerProtocol, Locality, OutlierDetection, PathMatch, RetryOn, RetryPolicy, Route, RouteAction, RouteMatch,
        RouteTable, Snapshot, UpstreamProtocol, VirtualHost, WeightedCluster,
    },
    svid,
};

/// A loopback address that no other test of any process uses.
pub fn ip() -> IpAddr {
    static NEXT: AtomicU32 = AtomicU32::new(1);
    let (process, next) = (std::process::id(), NEXT.fetch_add(1, Ordering::Relaxed));
    // Processes that run at once have numbers near each other.
    IpAddr::from([
        127,
        64 + u8::try_from(process % 128).unwrap(),
        u8::try_from((process / 128 + next / 250 * 61) % 256).unwrap(),
        u8::try_from(next % 250 + 1).unwrap(),
    ])
}

/// What an origin does with a request.
#[derive(Default)]
pub struct Behaviour {
    /// Never answers, though the kernel accepts connections.
    pub frozen: AtomicBool,
    /// Milliseconds before an answer.
    pub slow: AtomicU64,
    /// Answers with this status; 0 is 200.
    pub status: AtomicU32,
    /// Reads the request, then breaks the connection.
    pub break_off: AtomicBool,
    /// Says of itself that it is to be spared.
    pub degraded: AtomicBool,
    pub requests: AtomicU64,
    /// Of these, from checks.
    pub checks: AtomicU64,
    /// Answers `/grpc` with this gRPC status, and nothing but headers.
    pub grpc: AtomicU32,
    /// Whom requests were for.
    pub hosts: Mutex<Vec<String>>,
}

impl Behaviour {
    /// Requests of callers.
    pub fn users(&self) -> u64 {
        // In this order, since a check counts as a request first.
        let checks = self.checks.load(Ordering::SeqCst);
        self.requests.load(Ordering::SeqCst) - checks
    }
}

pub struct Origin {
    pub name: String,
    pub address: SocketAddr,
    pub does: Arc<Behaviour>,
    stop: Option<oneshot::Sender<()>>,
    thread: Option<JoinHandle<()>>,
}

impl Origin {
    pub fn start(name: &str) -> Self {
        Self::at(name, SocketAddr::new(ip(), 8080))
    }

    pub fn at(name: &str, address: SocketAddr) -> Self {
        let does = Arc::new(Behaviour::default());
        let (stop, stopped) = oneshot::channel();
        let (ready, is_ready) = std::sync::mpsc::channel();
        let (n, d) = (name.to_owned(), does.clone());
        let thread = std::thread::spawn(move || {
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
            runtime.block_on(async move {
                let listener = tokio::net::TcpListener::bind(address).await.unwrap();
                ready.send(()).unwrap();
                let serve = async {
                    loop {
                        let (stream, _) = listener.accept().await.unwrap();
                        let (name, does) = (n.clone(), d.clone());
                        let service = service_fn(move |request| answer(name.clone(), does.clone(), request));
                        let builder = builder();
                        tokio::spawn(async move { builder.serve_connection(TokioIo::new(stream), service).await });
                    }
                };
                tokio::select! { () = serve => {}, _ = stopped => {} }
            });
        });
        is_ready.recv().unwrap();
        Self { name: name.to_owned(), address, does, stop: Some(stop), thread: Some(thread) }
    }

    /// As SIGKILL: connections break, new ones are refused.
    pub fn kill(&mut self) {
        drop(self.stop.take());
        if let Some(thread) = self.thread.take() {
            thread.join().unwrap();
        }
    }

    pub fn endpoint(&self) -> Endpoint {
        Endpoint { name: self.name.clone(), address: self.address, version: "v1".into(), weight: 1 }
    }
}

impl Drop for Origin {
    fn drop(&mut self) {
        self.kill();
    }
}

fn builder() -> hyper::server::conn::http1::Builder {
    hyper::server::conn::http1::Builder::new()
}

type Body = BoxBody<Bytes, hyper::Error>;

async fn answer(
    name: String,
    does: Arc<Behaviour>,
    request: Request<Incoming>,
) -> Result<Response<Body>, std::io::Error> {
    let host = request.headers().get("host").map_or("", |host| host.to_str().unwrap()).to_owned();
    does.hosts.lock().unwrap().push(host);
    does.requests.fetch_add(1, Ordering::SeqCst);
    if request.headers().get("user-agent").is_some_and(|agent| agent == "firedrill-check") {
        does.checks.fetch_add(1, Ordering::SeqCst);
    }
    if does.frozen.load(Ordering::SeqCst) {
        std::future::pending::<()>().await;
    }
    tokio::time::sleep(Duration::from_millis(does.slow.load(Ordering::SeqCst))).await;
    if does.break_off.load(Ordering::SeqCst) {
        let _ = request.into_body().collect().await;
        return Err(std::io::Error::other("broken off"));
    }
    let status = match does.status.load(Ordering::SeqCst) {
        0 => StatusCode::OK,
        status => StatusCode::from_u16(u16::try_from(status).unwrap()).unwrap(),
    };
    let mut response = Response::builder().status(status).header("x-origin", name);
    if does.degraded.load(Ordering::SeqCst) {
        response = response.header("x-envoy-degraded", "");
    }
    for (key, value) in request.headers() {
        response = response.header(format!("seen-{key}"), value);
    }
    response = response.header("seen-uri", request.uri().to_string());
    if request.uri().path() == "/grpc" {
        let status = does.grpc.load(Ordering::SeqCst).to_string();
        response = response.header("content-type", "application/grpc").header("grpc-status", status);
        return Ok(response.body(Full::default().map_err(|never| match never {}).boxed()).unwrap());
    }
    let body = match request.uri().path() {
        "/echo" => request.into_body().boxed(),
        "/big" => Full::from(vec![b'x'; 8 * 1024 * 1024]).map_err(|never| match never {}).boxed(),
        _ => Full::from("hello").map_err(|never| match never {}).boxed(),
    };
    Ok(response.body(body).unwrap())
}

pub struct Proxy {
    pub admin: SocketAddr,
    pub socket: std::path::PathBuf,
    pub folder: tempfile::TempDir,
    stop: Option<oneshot::Sender<()>>,
    thread: Option<JoinHandle<Result<(), proxy::Error>>>,
}

impl Proxy {
    pub fn start(snapshot: &Snapshot) -> Self {
        Self::with_identity(snapshot, None)
    }

    pub fn with_identity(snapshot: &Snapshot, identity: Option<(String, String)>) -> Self {
        Self::with(snapshot, identity, |_| {})
    }

    /// With other options than the tests' own.
    pub fn with(snapshot: &Snapshot, identity: Option<(String, String)>, change: impl FnOnce(&mut Options)) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let admin = SocketAddr::new(ip(), 15000);
        let path = folder.path().join("snapshot.json");
        std::fs::write(&path, serde_json::to_vec(snapshot).unwrap()).unwrap();
        let identity = identity.map(|(certificate, key)| {
            let at = |name: &str| folder.path().join(name);
            let files = svid::Files { certificate: at("c.pem"), key: at("k.pem"), bundle: None };
            std::fs::write(&files.certificate, certificate).unwrap();
            std::fs::write(&files.key, key).unwrap();
            Issued { source: svid::Source::Files(files), id: None }
        });
        let mut options = Options {
            name: "test".into(),
            service: "client".into(),
            admin,
            workers: 2,
            state: folder.path().join("state"),
            source: Source::File(FileSource { snapshot: path, identity }),
            access_log: Some(AccessLogOptions { path: folder.path().join("access.log"), bytes: 1 << 20 }),
            trace: None,
            drain: Drain::default(),
            log: None,
            clock: Clock::anchored(),
            started: || (),
            give_back: || (),
        };
        change(&mut options);
        Self::launched(options, folder)
    }

    pub fn launched(options: Options, folder: tempfile::TempDir) -> Self {
        let (admin, socket) = (options.admin, proxy::admin_socket(&options.state));
        let (stop, thread) = launch(options);
        let proxy = Self { admin, socket, folder, stop: Some(stop), thread: Some(thread) };
        proxy.until("ready", |proxy| proxy.admin("/ready").is_some_and(|(status, _)| status == 200));
        proxy
    }

    /// Replaces the snapshot and waits until it is in force.
    pub fn swap(&self, snapshot: &Snapshot) {
        let before = self.status()["snapshot"].clone();
        let next = self.folder.path().join("next.json");
        std::fs::write(&next, serde_json::to_vec(snapshot).unwrap()).unwrap();
        std::fs::rename(next, self.folder.path().join("snapshot.json")).unwrap();
        self.until("snapshot in force", |proxy| proxy.status()["snapshot"] != before);
    }

    pub fn admin(&self, path: &str) -> Option<(u16, String)> {
        self.ask("GET", path, "").map(|(status, _, body)| (status, body))
    }

    /// Status, head and body of an answer of the admin interface.
    pub fn ask(&self, method: &str, path: &str, body: &str) -> Option<(u16, String, String)> {
        use std::io::{Read, Write};
        let mut stream = std::os::unix::net::UnixStream::connect(&self.socket).ok()?;
        let length = body.len();
        let head = format!("{method} {path} HTTP/1.1\r\nhost: a\r\nconnection: close\r\ncontent-length: {length}");
        write!(stream, "{head}\r\n\r\n{body}").ok()?;
        let mut text = String::new();
        stream.read_to_string(&mut text).ok()?;
        let (head, body) = text.split_once("\r\n\r\n")?;
        Some((head.split(' ').nth(1)?.parse().ok()?, head.to_owned(), body.to_owned()))
    }

    pub fn status(&self) -> Value {
        serde_json::from_str(&self.admin("/status").unwrap().1).unwrap()
    }

    pub fn events(&self) -> Vec<Value> {
        let page: Value = serde_json::from_str(&self.admin("/events").unwrap().1).unwrap();
        page["events"].as_array().unwrap().clone()
    }

    /// The lines of its access log, when there are that many.
    pub fn log(&self, lines: usize) -> Vec<Value> {
        let path = self.folder.path().join("access.log");
        let read = || std::fs::read_to_string(&path).unwrap_or_default();
        tokio::task::block_in_place(|| self.until("logged", |_| read().lines().count() >= lines));
        read().lines().map(|line| serde_json::from_str(line).unwrap()).collect()
    }

    #[allow(clippy::disallowed_methods, reason = "the proxy has threads of its own; nothing else waits on this one")]
    /// Waits for a state; the bound is only there so that a broken build does not hang.
    pub fn until(&self, what: &str, holds: impl Fn(&Self) -> bool) {
        let deadline = Instant::now() + Duration::from_secs(20);
        while !holds(self) {
            assert!(Instant::now() < deadline, "never: {what}");
            std::thread::sleep(Duration::from_millis(5));
        }
    }

    /// As SIGTERM; returns when it has ended.
    pub fn stop(&mut self) {
        drop(self.stop.take());
        if let Some(thread) = self.thread.take() {
            thread.join().unwrap().unwrap();
        }
    }

    /// The same inside a runtime.
    pub fn stop_blocking(&mut self) {
        tokio::task::block_in_place(|| self.stop());
    }

    pub fn begin_stop(&mut self) {
        drop(self.stop.take());
    }
}

impl Drop for Proxy {
    fn drop(&mut self) {
        self.stop();
    }
}

pub fn launch(options: Options) -> (oneshot::Sender<()>, JoinHandle<Result<(), proxy::Error>>) {
    let (stop, stopped) = oneshot::channel::<()>();
    let thread = std::thread::spawn(move || {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        runtime.block_on(proxy::run(options, async {
            let _ = stopped.await;
        }))
    });
    (stop, thread)
}

pub fn listener(name: &str, port: u16, direction: Direction) -> Listener {
    let http = HttpListener { routes: "main".into(), authorization: None, limits: Default::default(), admission: None };
    Listener {
        name: name.into(),
        address: SocketAddr::new(ip(), port),
        direction,
        tls: None,
        protocol: ListenerProtocol::Http(http),
    }
}

pub fn cluster(name: &str) -> Cluster {
    Cluster {
        connect_timeout: Duration::from_millis(500),
        balancer: Balancer::RoundRobin,
        outlier: Some(OutlierDetection {
            consecutive_errors: 5,
            base_ejection: Duration::from_secs(10),
            max_ejection: Duration::from_secs(60),
            max_percent: 10,
            ..OutlierDetection::default()
        }),
        ..Cluster::new(name, UpstreamProtocol::Http1)
    }
}

pub fn check(every: u64) -> HealthCheck {
    HealthCheck {
        http_path: Some("/health".into()),
        grpc_service: None,
        exchange: None,
        every: Duration::from_millis(every),
        every_without_traffic: None,
        timeout: Duration::from_millis(500),
        unhealthy_after: 2,
        healthy_after: 1,
    }
}

pub fn retry() -> RetryPolicy {
    RetryPolicy {
        attempts: 2,
        per_try: Some(Duration::from_millis(500)),
        on: [RetryOn::ConnectFailure, RetryOn::RefusedStream, RetryOn::Reset, RetryOn::GatewayError].into(),
        non_idempotent: false,
    }
}

pub fn hedge() -> HedgePolicy {
    HedgePolicy { at_least: Duration::from_millis(20), at_most: Duration::from_millis(200) }
}

pub fn routes(cluster: &str, retry: Option<RetryPolicy>, hedge: Option<HedgePolicy>) -> Arc<RouteTable> {
    let clusters = vec![WeightedCluster { cluster: cluster.into(), weight: 1 }];
    let forward = Forward { clusters, timeout: Duration::from_secs(2), retry, hedge, ..Forward::default() };
    let answer = RouteAction::Answer { status: 418, body: "teapot".into() };
    let tea = RouteMatch { path: PathMatch::Exact("/tea".into()), ..RouteMatch::default() };
    let routes = vec![
        Route { matches: tea, action: answer },
        Route { matches: RouteMatch::default(), action: RouteAction::Forward(forward) },
    ];
    let hosts = vec![VirtualHost { name: "all".into(), domains: vec!["fx".into()], routes }];
    Arc::new(RouteTable { name: "main".into(), hosts })
}

/// The virtual hosts of the first route table, to be changed.
pub fn hosts(snapshot: &mut Snapshot) -> &mut Vec<VirtualHost> {
    &mut Arc::make_mut(&mut snapshot.routes[0]).hosts
}

/// Tiers of origins, each in a region of its own: `east`, `west`, ….
pub fn endpoints(cluster: &str, tiers: &[&[&Origin]]) -> EndpointSet {
    let locality = |(priority, origins): (u32, &&[&Origin])| Locality {
        region: ["east", "west", "north"][priority as usize].into(),
        zone: String::new(),
        priority,
        weight: 1,
        endpoints: origins.iter().map(|origin| origin.endpoint()).collect(),
    };
    EndpointSet { cluster: cluster.into(), localities: (0..).zip(tiers).map(locality).collect() }
}

/// One listener, one route, one cluster.
pub fn simple(direction: Direction, tiers: &[&[&Origin]]) -> Snapshot {
    Snapshot {
        listeners: vec![listener("main", 15001, direction)],
        routes: vec![routes("fx", Some(retry()), Some(hedge()))],
        clusters: vec![cluster("fx")],
        endpoints: vec![endpoints("fx", tiers)],
        trust: vec![],
    }
}

/// A proxy in front of one endpoint; nothing is repeated, and nobody is ejected.
pub fn plain(endpoint: Endpoint, direction: Direction) -> Snapshot {
    let mut cluster = cluster("fx");
    cluster.outlier = None;
    let east =
        Locality { region: "east".into(), zone: String::new(), priority: 0, weight: 1, endpoints: vec![endpoint] };
    Snapshot {
        listeners: vec![listener("main", 15001, direction)],
        routes: vec![routes("fx", None, None)],
        clusters: vec![cluster],
        endpoints: vec![EndpointSet { cluster: "fx".into(), localities: vec![east] }],
        trust: vec![],
    }
}

pub struct Reply {
    pub status: u16,
    pub headers: http::HeaderMap,
    pub body: Bytes,
}

impl Reply {
    pub fn header(&self, name: &str) -> &str {
        self.headers.get(name).map_or("", |value| value.to_str().unwrap())
    }
}

pub fn get(path: &str) -> Request<Full<Bytes>> {
    Request::get(path).header("host", "fx").body(Full::default()).unwrap()
}

/// Over a connection of its own.
pub async fn http1(
    to: SocketAddr,
    request: Request<Full<Bytes>>,
) -> Result<Reply, Box<dyn std::error::Error + Send + Sync>> {
    let stream = TcpStream::connect(to).await?;
    let (mut sender, connection) = hyper::client::conn::http1::handshake(TokioIo::new(stream)).await?;
    tokio::spawn(connection);
    let (head, body) = sender.send_request(request).await?.into_parts();
    Ok(Reply { status: head.status.as_u16(), headers: head.headers, body: body.collect().await?.to_bytes() })
}

pub async fn http2(to: SocketAddr) -> hyper::client::conn::http2::SendRequest<Full<Bytes>> {
    let stream = TcpStream::connect(to).await.unwrap();
    let (sender, connection) =
        hyper::client::conn::http2::handshake(TokioExecutor::new(), TokioIo::new(stream)).await.unwrap();
    tokio::spawn(connection);
    sender
}

/// Sends these bytes and reads until the other side closes.
/// Sends all of it over an HTTP/2 stream, and says what comes back meanwhile.
pub async fn both_ways(mut up: h2::SendStream<Bytes>, mut body: h2::RecvStream, mut sent: Bytes) -> Vec<u8> {
    let sending = tokio::spawn(async move {
        while !sent.is_empty() {
            up.reserve_capacity(sent.len());
            let room = std::future::poll_fn(|cx| up.poll_capacity(cx)).await.unwrap().unwrap();
            up.send_data(sent.split_to(room.min(sent.len())), sent.is_empty()).unwrap();
        }
    });
    let mut received = Vec::new();
    while let Some(data) = body.data().await {
        let data = data.unwrap();
        body.flow_control().release_capacity(data.len()).unwrap();
        received.extend_from_slice(&data);
    }
    sending.await.unwrap();
    received
}

pub async fn raw(to: SocketAddr, bytes: &[u8]) -> String {
    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    let mut stream = TcpStream::connect(to).await.unwrap();
    let _ = stream.write_all(bytes).await;
    let mut answer = Vec::new();
    let closed = tokio::time::timeout(Duration::from_secs(5), stream.read_to_end(&mut answer)).await;
    assert!(
        closed.is_ok(),
        "never closed after {:?}: {:?}",
        String::from_utf8_lossy(bytes),
        String::from_utf8_lossy(&answer)
    );
    String::from_utf8_lossy(&answer).into_owned()
}

/// What an open-loop client saw.
#[derive(Default, Debug)]
pub struct Seen {
    pub ok: u64,
    pub failed: Vec<String>,
    pub slowest: Duration,
    /// How late the client itself was at most: what the machine withheld from it, and from the proxy beside it.
    pub late: Duration,
}

impl Seen {
    /// Nothing failed, and no answer took longer, but for what the machine withheld.
    pub fn all_within(&self, bound: Duration) -> bool {
        self.failed.is_empty() && self.slowest < bound + self.late
    }
}

/// `rate` idempotent reads a second for `length`, whatever becomes of them. Calls `at` with the number of each.
pub async fn load(to: SocketAddr, rate: u32, length: Duration, at: impl FnMut(u64)) -> Seen {
    load_of("GET", to, rate, length, at).await
}

/// The same with another method.
pub async fn load_of(
    method: &'static str,
    to: SocketAddr,
    rate: u32,
    length: Duration,
    mut at: impl FnMut(u64),
) -> Seen {
    let mut tick = tokio::time::interval(Duration::from_secs(1) / rate);
    let mut running = tokio::task::JoinSet::new();
    let total = (length.as_secs_f64() * f64::from(rate)) as u64;
    let mut seen = Seen::default();
    for number in 0..total {
        let due = tick.tick().await;
        seen.late = seen.late.max(due.elapsed());
        at(number);
        running.spawn(async move {
            let began = Instant::now();
            let request =
                Request::builder().method(method).uri("/").header("host", "fx").body(Full::default()).unwrap();
            (http1(to, request).await, began.elapsed())
        });
    }
    while let Some(joined) = running.join_next().await {
        let (result, took) = joined.unwrap();
        seen.slowest = seen.slowest.max(took);
        match result {
            Ok(reply) if reply.status == 200 => seen.ok += 1,
            Ok(reply) => seen.failed.push(format!("{} {:?}", reply.status, reply.body)),
            Err(error) => seen.failed.push(error.to_string()),
        }
    }
    seen
}
