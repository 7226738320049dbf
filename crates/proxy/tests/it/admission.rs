//! A workload gets as many requests as it can answer; the rest is told at once, and goes elsewhere.

use std::{
    net::SocketAddr,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering::SeqCst},
    },
    time::{Duration, Instant},
};

use bytes::Bytes;
use http::{Request, Response};
use http_body_util::Full;
use hyper::{body::Incoming, service::service_fn};
use hyper_util::rt::TokioIo;
use tokio::{net::TcpListener, sync::Semaphore, task::JoinSet};
use xds::snapshot::{Admission, Direction, Endpoint, ListenerProtocol, Snapshot, UpstreamProtocol};

use crate::{
    authority::Authority,
    identity::{inbound, outbound},
    support::*,
};

/// A workload that works on a few requests at once, lets the others wait, and answers checks at any time.
struct Workload {
    address: SocketAddr,
    places: Semaphore,
    inside: AtomicUsize,
    most: AtomicUsize,
    checks: AtomicUsize,
}

impl Workload {
    async fn start(places: usize) -> Arc<Self> {
        let listener = TcpListener::bind(SocketAddr::new(ip(), 8080)).await.unwrap();
        let workload = Arc::new(Self {
            address: listener.local_addr().unwrap(),
            places: Semaphore::new(places),
            inside: AtomicUsize::new(0),
            most: AtomicUsize::new(0),
            checks: AtomicUsize::new(0),
        });
        let served = workload.clone();
        tokio::spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                let served = served.clone();
                let service = service_fn(move |request| Self::answer(served.clone(), request));
                let builder = hyper::server::conn::http1::Builder::new();
                tokio::spawn(async move { builder.serve_connection(TokioIo::new(stream), service).await });
            }
        });
        workload
    }

    async fn answer(
        self: Arc<Self>,
        request: Request<Incoming>,
    ) -> Result<Response<Full<Bytes>>, std::convert::Infallible> {
        if request.uri().path() == "/health" {
            self.checks.fetch_add(1, SeqCst);
            return Ok(Response::default());
        }
        self.most.fetch_max(self.inside.fetch_add(1, SeqCst) + 1, SeqCst);
        let place = self.places.acquire().await.unwrap();
        tokio::time::sleep(Duration::from_millis(20)).await;
        drop(place);
        self.inside.fetch_sub(1, SeqCst);
        Ok(Response::default())
    }

    #[allow(clippy::disallowed_methods, reason = "other threads serve meanwhile")]
    /// Waits until so many requests are inside; the bound is only there so that a broken build does not hang.
    fn until(&self, inside: usize) {
        let deadline = Instant::now() + Duration::from_secs(20);
        tokio::task::block_in_place(|| {
            while self.inside.load(SeqCst) < inside {
                assert!(Instant::now() < deadline, "never {inside} inside");
                std::thread::sleep(Duration::from_millis(2));
            }
        });
    }

    fn endpoint(&self) -> Endpoint {
        Endpoint { name: "fx-1".into(), address: self.address, version: "v1".into(), weight: 1 }
    }
}

fn limit(snapshot: &mut Snapshot, at_least: u32) {
    let ListenerProtocol::Http(http) = &mut snapshot.listeners[0].protocol else { unreachable!() };
    http.admission = Some(Admission { at_least, buffer: 25, samples: 10, ..Admission::default() });
}

fn copy() -> Request<Full<Bytes>> {
    Request::get("/").header("host", "fx-shadow").body(Full::default()).unwrap()
}

fn post() -> Request<Full<Bytes>> {
    Request::post("/").header("host", "fx").body(Full::from("x")).unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_too_much_is_refused_at_once_and_low_requests_first() {
    let workload = Workload::start(0).await;
    let mut snapshot = plain(workload.endpoint(), Direction::Inbound);
    limit(&mut snapshot, 5);
    hosts(&mut snapshot)[0].domains = vec!["*".into()];
    let proxy = Proxy::start(&snapshot);
    let to = snapshot.listeners[0].address;
    let mut held: Vec<_> = (0..4).map(|_| tokio::spawn(http1(to, get("/")))).collect();
    workload.until(4);
    let refused = http1(to, copy()).await.unwrap();
    assert_eq!(refused.status, 503, "{:?}", refused.body);
    assert_eq!((refused.header("retry-after"), refused.header("x-envoy-overloaded")), ("1", "true"));
    held.push(tokio::spawn(http1(to, get("/"))));
    workload.until(5);
    let refused = http1(to, get("/")).await.unwrap();
    assert_eq!((refused.status, refused.header("x-envoy-overloaded")), (503, "true"));
    workload.places.add_permits(5);
    for asked in held {
        assert_eq!(asked.await.unwrap().unwrap().status, 200);
    }
    assert_eq!(http1(to, copy()).await.unwrap().status, 200, "room again");
    let metrics = proxy.admin("/metrics").unwrap().1;
    for line in [
        "firedrill_shed_total{kind=\"low\"} 1",
        "firedrill_shed_total{kind=\"ordinary\"} 1",
        "firedrill_admission_limit{listener=\"main\"} 5",
    ] {
        assert!(metrics.contains(line), "{line}\n{metrics}");
    }
    assert!(metrics.contains("response_flags=\"UO\""), "{metrics}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_flood_is_cut_to_what_the_workload_can_answer() {
    const CALLERS: usize = 64;
    let workload = Workload::start(4).await;
    let mut snapshot = plain(workload.endpoint(), Direction::Inbound);
    limit(&mut snapshot, 2);
    let proxy = Proxy::start(&snapshot);
    let to = snapshot.listeners[0].address;
    let [answered, refused] = [(); 2].map(|()| Arc::new(AtomicUsize::new(0)));
    let mut callers = JoinSet::new();
    for _ in 0..CALLERS {
        let (answered, refused) = (answered.clone(), refused.clone());
        callers.spawn(async move {
            while answered.load(SeqCst) < 300 || refused.load(SeqCst) < 300 {
                let reply = http1(to, get("/")).await.unwrap();
                match (reply.status, reply.header("x-envoy-overloaded")) {
                    (200, "") => answered.fetch_add(1, SeqCst),
                    (503, "true") => refused.fetch_add(1, SeqCst),
                    other => panic!("{other:?} {:?}", reply.body),
                };
                // The pace of the flood.
                tokio::time::sleep(Duration::from_millis(5)).await;
            }
        });
    }
    while let Some(joined) = callers.join_next().await {
        joined.unwrap();
    }
    let most = workload.most.load(SeqCst);
    assert!((3..CALLERS / 2).contains(&most), "the limit left its floor, and stayed far below the flood: {most}");
    assert!(proxy.admin("/metrics").unwrap().1.contains("firedrill_shed_total{kind=\"ordinary\"}"));
}

#[tokio::test(flavor = "multi_thread")]
async fn what_one_tier_refuses_the_next_one_answers_whatever_its_method() {
    const POSTS: u64 = 60;
    for protocol in [UpstreamProtocol::Http1, UpstreamProtocol::Http2] {
        let authority = Authority::new();
        let (east, west) = (Origin::start("fx-e"), Origin::start("fx-w"));
        let (mut inside_east, mut inside_west) = (inbound(&authority, &east), inbound(&authority, &west));
        limit(&mut inside_east, 4);
        limit(&mut inside_west, 1000);
        let sidecars =
            [&inside_east, &inside_west].map(|inside| Proxy::with_identity(inside, Some(authority.issue("fx"))));
        let mut outside = outbound(&authority, &east, inside_east.listeners[0].address, protocol);
        outside.endpoints = vec![endpoints("fx", &[&[&east], &[&west]])];
        for (locality, inside) in outside.endpoints[0].localities.iter_mut().zip([&inside_east, &inside_west]) {
            locality.endpoints[0].address = inside.listeners[0].address;
        }
        let mut retry = retry();
        retry.per_try = None;
        outside.routes = vec![routes("fx", Some(retry), None)];
        outside.clusters[0].breakers.retry_percent = 0;
        outside.clusters[0].breakers.retries_per_second = 0;
        let caller = Proxy::with_identity(&outside, Some(authority.issue("accounts")));
        east.does.slow.store(1000, SeqCst);
        let mut running = JoinSet::new();
        for _ in 0..POSTS {
            running.spawn(http1(outside.listeners[0].address, post()));
        }
        let mut elsewhere = 0;
        while let Some(joined) = running.join_next().await {
            let reply = joined.unwrap().unwrap();
            assert_eq!((reply.status, reply.header("x-envoy-overloaded")), (200, ""), "{:?}", reply.body);
            if reply.header("x-origin") == "fx-w" {
                assert_eq!(reply.header("seen-x-envoy-attempt-count"), "2");
                elsewhere += 1;
            }
        }
        assert!(elsewhere > 0 && elsewhere < POSTS, "{elsewhere}");
        assert_eq!(east.does.users() + west.does.users(), POSTS, "each was answered by one workload");
        let status = caller.status();
        let endpoint = &status["clusters"][0]["endpoints"][0];
        assert_eq!((&endpoint["ejected"], &endpoint["failures"]), (&false.into(), &0.into()), "{endpoint}");
        let shed = format!("firedrill_shed_total{{kind=\"ordinary\"}} {elsewhere}");
        assert!(sidecars[0].admin("/metrics").unwrap().1.contains(&shed), "{shed}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn nobody_else_is_believed_that_the_workload_did_not_see_a_request() {
    let says = workload_that_says_overloaded().await;
    let authority = Authority::new();
    let (east, west) = (Origin::start("fx-e"), Origin::start("fx-w"));

    // Outside the mesh.
    let mut snapshot = simple(Direction::Gateway, &[&[&east], &[&west]]);
    snapshot.endpoints[0].localities[0].endpoints[0].address = says;
    let _gateway = Proxy::start(&snapshot);
    let reply = http1(snapshot.listeners[0].address, post()).await.unwrap();
    assert_eq!((reply.status, reply.header("x-envoy-overloaded")), (503, ""));

    // A workload behind its sidecar.
    let mut inside = inbound(&authority, &east);
    inside.endpoints[0].localities[0].endpoints[0].address = says;
    let _sidecar = Proxy::with_identity(&inside, Some(authority.issue("fx")));
    let mut outside = outbound(&authority, &east, inside.listeners[0].address, UpstreamProtocol::Http1);
    let mut other = endpoints("fx", &[&[&east], &[&west]]).localities.remove(1);
    other.endpoints[0].address = SocketAddr::new(ip(), 9);
    outside.endpoints[0].localities.push(other);
    let caller = Proxy::with_identity(&outside, Some(authority.issue("accounts")));
    let reply = http1(outside.listeners[0].address, post()).await.unwrap();
    assert_eq!((reply.status, reply.header("x-envoy-overloaded")), (503, ""));
    let status = caller.status();
    let tries = |index: usize| status["clusters"][0]["endpoints"][index]["tries"].as_u64().unwrap();
    assert_eq!((tries(0), tries(1)), (1, 0), "{status}");
    assert_eq!(west.does.users(), 0);
}

async fn workload_that_says_overloaded() -> SocketAddr {
    let listener = TcpListener::bind(SocketAddr::new(ip(), 8080)).await.unwrap();
    let address = listener.local_addr().unwrap();
    let answer = |_: Request<Incoming>| async {
        let answer = Response::builder().status(503).header("x-envoy-overloaded", "true");
        Ok::<_, std::convert::Infallible>(answer.body(Full::<Bytes>::default()).unwrap())
    };
    tokio::spawn(async move {
        while let Ok((stream, _)) = listener.accept().await {
            let builder = hyper::server::conn::http1::Builder::new();
            tokio::spawn(async move { builder.serve_connection(TokioIo::new(stream), service_fn(answer)).await });
        }
    });
    address
}

#[tokio::test(flavor = "multi_thread")]
async fn a_full_workload_still_answers_checks() {
    let (authority, workload) = (Authority::new(), Workload::start(0).await);
    let origin = Origin::start("fx-1");
    let mut inside = inbound(&authority, &origin);
    inside.endpoints[0].localities[0].endpoints = vec![workload.endpoint()];
    limit(&mut inside, 2);
    let sidecar = Proxy::with_identity(&inside, Some(authority.issue("fx")));
    let mut outside = outbound(&authority, &origin, inside.listeners[0].address, UpstreamProtocol::Http2);
    outside.routes = vec![routes("fx", None, None)];
    outside.clusters[0].health_check = Some(check(30));
    let caller = Proxy::with_identity(&outside, Some(authority.issue("accounts")));
    let to = outside.listeners[0].address;
    let held: Vec<_> = (0..2).map(|_| tokio::spawn(http1(to, get("/")))).collect();
    workload.until(2);
    let refused = http1(to, get("/")).await.unwrap();
    assert_eq!((refused.status, refused.header("retry-after"), refused.header("x-envoy-overloaded")), (503, "1", ""));
    let before = workload.checks.load(SeqCst);
    tokio::task::block_in_place(|| {
        sidecar.until("checks pass", |_| workload.checks.load(SeqCst) > before + 3);
        assert_eq!(caller.status()["clusters"][0]["endpoints"][0]["healthy"], true);
    });
    workload.places.add_permits(2);
    for asked in held {
        assert_eq!(asked.await.unwrap().unwrap().status, 200);
    }
}

/// Begins an answer of the kind that its path names, and never ends it.
async fn workload_that_streams() -> SocketAddr {
    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    let listener = TcpListener::bind(SocketAddr::new(ip(), 8080)).await.unwrap();
    let address = listener.local_addr().unwrap();
    tokio::spawn(async move {
        while let Ok((mut stream, _)) = listener.accept().await {
            tokio::spawn(async move {
                let mut asked = Vec::new();
                while !asked.ends_with(b"\r\n\r\n") {
                    asked.push(stream.read_u8().await.unwrap());
                }
                let kind =
                    if asked.starts_with(b"GET /events") { "Text/Event-Stream; charset=utf-8" } else { "text/csv" };
                let head = format!("HTTP/1.1 200 OK\r\ncontent-type: {kind}\r\ntransfer-encoding: chunked\r\n\r\n");
                stream.write_all(format!("{head}2\r\nhi\r\n").as_bytes()).await.unwrap();
                std::future::pending::<()>().await;
            });
        }
    });
    address
}

#[tokio::test(flavor = "multi_thread")]
async fn a_stream_of_events_counts_until_it_begins_and_a_long_answer_until_it_ends() {
    let endpoint = Endpoint { address: workload_that_streams().await, ..Workload::start(0).await.endpoint() };
    let mut snapshot = plain(endpoint, Direction::Inbound);
    limit(&mut snapshot, 2);
    let _proxy = Proxy::start(&snapshot);
    let to = snapshot.listeners[0].address;
    let ask = async |path: &str| {
        let stream = tokio::net::TcpStream::connect(to).await.unwrap();
        let (mut sender, connection) = hyper::client::conn::http1::handshake(TokioIo::new(stream)).await.unwrap();
        tokio::spawn(connection);
        // Its body stays open while it is held.
        let answer = sender.send_request(get(path)).await.unwrap();
        (answer.status().as_u16(), answer, sender)
    };
    let mut held = Vec::new();
    for _ in 0..5 {
        held.push(ask("/events").await);
    }
    for _ in 0..3 {
        held.push(ask("/table").await);
    }
    let statuses: Vec<u16> = held.iter().map(|(status, ..)| *status).collect();
    assert_eq!(statuses, [200, 200, 200, 200, 200, 200, 200, 503]);
}
