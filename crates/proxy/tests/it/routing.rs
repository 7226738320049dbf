//! Routes by all that they may ask, and what becomes of a request on its way.

use std::{
    net::SocketAddr,
    sync::{
        Arc,
        atomic::{AtomicU32, Ordering},
    },
    time::Duration,
};

use bytes::Bytes;
use http::{HeaderValue, Request};
use http_body_util::Full;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use xds::{
    overlay::{Delay, FaultAction},
    snapshot::{
        Direction, Forward, HeaderEdits, Is, Mirror, Named, PathChange, PathMatch, Redirect, RetryOn, RetryPolicy,
        Route, RouteAction, RouteFault, RouteMatch, Snapshot, Sticky, WeightedCluster,
    },
};

use crate::support::*;

fn named(name: &str, is: Is) -> Vec<Named> {
    vec![Named { name: name.into(), is }]
}

fn answer(matches: RouteMatch, body: &str) -> Route {
    Route { matches, action: RouteAction::Answer { status: 200, body: body.into() } }
}

#[tokio::test(flavor = "multi_thread")]
async fn routes_ask_for_path_query_cookie_and_headers() {
    let origin = Origin::start("fx-1");
    let mut snapshot = simple(Direction::Gateway, &[&[&origin]]);
    let any = RouteMatch::default;
    let asked = vec![
        answer(RouteMatch { path: PathMatch::Regex("/v[0-9]+/.*".into()), ..any() }, "regex"),
        answer(RouteMatch { query: named("user", Is::Prefix("te".into())), ..any() }, "query"),
        answer(RouteMatch { cookies: named("variant", Is::Exact("b".into())), ..any() }, "cookie"),
        answer(RouteMatch { headers: named("x-old", Is::Regex("[0-9]".into())), ..any() }, "header"),
        answer(RouteMatch { callers: vec!["spiffe://bank/service/a".into()], ..any() }, "caller"),
    ];
    hosts(&mut snapshot)[0].routes.splice(0..0, asked);
    let to = snapshot.listeners[0].address;
    let _proxy = Proxy::start(&snapshot);
    for (path, header, expected) in [
        ("/v12/rates?x", None, "regex"),
        ("/v/rates", None, "hello"),
        ("/?user=test", None, "query"),
        ("/?user=rest", None, "hello"),
        ("/", Some(("cookie", "a=1; variant=b")), "cookie"),
        ("/", Some(("cookie", "a=1; variant=bb")), "hello"),
        ("/", Some(("x-old", "7")), "header"),
        ("/", None, "hello"),
    ] {
        let mut request = get(path);
        if let Some((name, value)) = header {
            request.headers_mut().insert(name, HeaderValue::from_static(value));
        }
        assert_eq!(http1(to, request).await.unwrap().body, expected, "{path} {header:?}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_redirect_sends_the_caller_elsewhere() {
    let origin = Origin::start("fx-1");
    let mut snapshot = simple(Direction::Gateway, &[&[&origin]]);
    let redirect = Redirect {
        status: 308,
        scheme: Some("https".into()),
        path: Some(PathChange::Prefix("/new".into())),
        ..Redirect::default()
    };
    let matches = RouteMatch { path: PathMatch::Prefix("/old".into()), ..RouteMatch::default() };
    hosts(&mut snapshot)[0].routes.insert(0, Route { matches, action: RouteAction::Redirect(redirect) });
    let to = snapshot.listeners[0].address;
    let proxy = Proxy::start(&snapshot);
    let reply = http1(to, get("/old/a?b=c")).await.unwrap();
    assert_eq!((reply.status, reply.header("location")), (308, "https://fx/new/a?b=c"));
    assert!(reply.body.is_empty());
    let head = Request::head("/old").header("host", "fx:80").body(Full::default()).unwrap();
    assert_eq!(http1(to, head).await.unwrap().header("location"), "https://fx/new");
    proxy.until("counted", |proxy| proxy.admin("/metrics").unwrap().1.contains("response_code=\"308\""));
}

/// The route that forwards.
fn forward(snapshot: &mut Snapshot) -> &mut Forward {
    match &mut hosts(snapshot)[0].routes.last_mut().unwrap().action {
        RouteAction::Forward(forward) => forward,
        other => panic!("{other:?}"),
    }
}

/// A second cluster with one endpoint.
fn add_cluster(snapshot: &mut Snapshot, name: &str, origin: &Origin) {
    snapshot.clusters.push(cluster(name));
    snapshot.endpoints.push(endpoints(name, &[&[origin]]));
}

#[tokio::test(flavor = "multi_thread")]
async fn the_endpoint_sees_the_rewritten_request() {
    let origin = Origin::start("fx-1");
    let mut snapshot = simple(Direction::Gateway, &[&[&origin]]);
    let pair = |name: &str, value: &str| (name.to_owned(), value.to_owned());
    hosts(&mut snapshot)[0].routes.last_mut().unwrap().matches.path = PathMatch::Prefix("/api".into());
    let route = forward(&mut snapshot);
    route.path = Some(PathChange::Prefix("/".into()));
    route.host = Some("inner.bank".into());
    route.request_headers =
        HeaderEdits { set: vec![pair("x-tier", "gold")], remove: vec!["x-secret".into()], ..HeaderEdits::default() };
    route.response_headers =
        HeaderEdits { add: vec![pair("x-served", "edge")], remove: vec!["x-origin".into()], ..HeaderEdits::default() };
    let to = snapshot.listeners[0].address;
    let _proxy = Proxy::start(&snapshot);
    let mut request = get("/api/rates?x=1");
    request.headers_mut().insert("x-secret", HeaderValue::from_static("1"));
    let reply = http1(to, request).await.unwrap();
    // Both slashes stay, as they do at Envoy.
    assert_eq!((reply.header("seen-uri"), reply.header("seen-host")), ("//rates?x=1", "inner.bank"));
    assert_eq!((reply.header("seen-x-tier"), reply.header("seen-x-secret")), ("gold", ""));
    assert_eq!((reply.header("x-served"), reply.header("x-origin")), ("edge", ""));
    // What was no step upwards must not become one.
    let before = origin.does.requests.load(Ordering::SeqCst);
    assert_eq!(http1(to, get("/api../secret")).await.unwrap().status, 400);
    assert_eq!(origin.does.requests.load(Ordering::SeqCst), before);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_user_stays_with_one_variant() {
    let (a, b) = (Origin::start("a"), Origin::start("b"));
    let mut snapshot = simple(Direction::Gateway, &[&[&a]]);
    add_cluster(&mut snapshot, "fx-b", &b);
    let route = forward(&mut snapshot);
    route.clusters.push(WeightedCluster { cluster: "fx-b".into(), weight: 1 });
    route.sticky = Some(Sticky::Cookie { name: "variant".into(), ttl: Some(Duration::from_secs(60)) });
    let to = snapshot.listeners[0].address;
    let _proxy = Proxy::start(&snapshot);
    let mut seen = std::collections::BTreeSet::new();
    for _ in 0..40 {
        let first = http1(to, get("/")).await.unwrap();
        let set = first.header("set-cookie").split(';').next().unwrap().to_owned();
        assert!(set.starts_with("variant="), "{set}");
        for _ in 0..3 {
            let mut again = get("/");
            again.headers_mut().insert("cookie", HeaderValue::try_from(&set).unwrap());
            let again = http1(to, again).await.unwrap();
            assert_eq!((again.header("x-origin"), again.header("set-cookie")), (first.header("x-origin"), ""));
        }
        seen.insert(first.header("x-origin").to_owned());
    }
    assert_eq!(seen.len(), 2, "{seen:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_mirror_gets_a_copy_and_delays_nothing() {
    let (origin, mut copy) = (Origin::start("fx-1"), Origin::start("copy"));
    let mut snapshot = simple(Direction::Gateway, &[&[&origin]]);
    add_cluster(&mut snapshot, "copies", &copy);
    forward(&mut snapshot).mirrors = vec![Mirror { cluster: "copies".into(), percent: 100.0 }];
    let to = snapshot.listeners[0].address;
    let proxy = Proxy::start(&snapshot);
    copy.does.frozen.store(true, Ordering::SeqCst);
    let body = Request::put("/echo").header("host", "fx:80").body(Full::from("hello")).unwrap();
    for request in [get("/"), body] {
        assert_eq!(http1(to, request).await.unwrap().body, "hello");
    }
    proxy.until("both copied", |_| copy.does.requests.load(Ordering::SeqCst) == 2);
    assert_eq!(copy.does.hosts.lock().unwrap().as_slice(), ["fx-shadow", "fx-shadow:80"]);
    copy.kill();
    assert_eq!(http1(to, get("/")).await.unwrap().body, "hello");
    // What cannot be kept is not copied.
    let long = Request::put("/echo").header("host", "fx").body(Full::from(vec![7; 200_000])).unwrap();
    assert_eq!(http1(to, long).await.unwrap().body.len(), 200_000);
    proxy.until("counted", |proxy| {
        proxy.admin("/metrics").unwrap().1.contains("firedrill_mirrors_total{kind=\"tooLarge\"} 1")
    });
}

#[tokio::test(flavor = "multi_thread")]
async fn a_route_may_have_faults_of_its_own() {
    let origin = Origin::start("fx-1");
    let mut snapshot = simple(Direction::Inbound, &[&[&origin]]);
    let fault = |action| vec![RouteFault { percent: 100.0, action }];
    let to = snapshot.listeners[0].address;
    forward(&mut snapshot).faults = fault(FaultAction::Abort { status: 418 });
    let proxy = Proxy::start(&snapshot);
    let reply = http1(to, get("/")).await.unwrap();
    assert_eq!((reply.status, origin.does.requests.load(Ordering::SeqCst)), (418, 0));
    forward(&mut snapshot).faults = fault(FaultAction::Truncate { bytes: 2 });
    proxy.swap(&snapshot);
    let reply = http1(to, get("/")).await.unwrap();
    assert_eq!((reply.status, &reply.body[..], reply.header("content-length")), (200, &b"he"[..], "2"));
    let mut client = http2(to).await;
    let request = Request::get("http://fx/").body(Full::default()).unwrap();
    let (head, body) = client.send_request(request).await.unwrap().into_parts();
    let body = http_body_util::BodyExt::collect(body).await.unwrap().to_bytes();
    assert_eq!(
        (head.status.as_u16(), &body[..], &head.headers["content-length"]),
        (200, &b"he"[..], &HeaderValue::from_static("2"))
    );
    forward(&mut snapshot).faults = fault(FaultAction::ResetAfter { bytes: 2 });
    proxy.swap(&snapshot);
    assert!(http1(to, get("/")).await.is_err(), "broken off");
    forward(&mut snapshot).faults = fault(FaultAction::Delay(Delay::Spike {
        base: Duration::from_millis(50),
        spike: Duration::ZERO,
        percent: 0.0,
    }));
    proxy.swap(&snapshot);
    let began = std::time::Instant::now();
    assert_eq!(http1(to, get("/")).await.unwrap().status, 200);
    assert!(began.elapsed() >= Duration::from_millis(50));
    forward(&mut snapshot).faults = fault(FaultAction::Bandwidth { bytes_per_second: 100 });
    proxy.swap(&snapshot);
    let began = std::time::Instant::now();
    let slow = Request::put("/echo").header("host", "fx").body(Full::from(vec![7; 20])).unwrap();
    assert_eq!(http1(to, slow).await.unwrap().body.len(), 20);
    assert!(began.elapsed() >= Duration::from_millis(200), "as long as the bytes take");
    let metrics = proxy.admin("/metrics").unwrap().1;
    for kind in ["abort", "truncate", "reset", "delay", "bandwidth"] {
        assert!(metrics.contains(&format!("firedrill_faults_total{{kind=\"{kind}\"}}")), "{kind}: {metrics}");
    }
}

fn call(path: &str) -> Request<Full<Bytes>> {
    Request::post(format!("http://fx{path}")).header("content-type", "application/grpc").body(Full::default()).unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_grpc_client_is_answered_in_its_own_words() {
    let (mut east, west) = (Origin::start("east"), Origin::start("west"));
    let mut snapshot = simple(Direction::Gateway, &[&[&east], &[&west]]);
    snapshot.clusters[0].outlier = None;
    let on = [RetryOn::GrpcUnavailable].into();
    let route = forward(&mut snapshot);
    route.retry = Some(RetryPolicy { attempts: 1, per_try: None, on, non_idempotent: false });
    route.hedge = None;
    let to = snapshot.listeners[0].address;
    let proxy = Proxy::start(&snapshot);
    let mut client = http2(to).await;
    let mut ask = async |request| {
        let (head, body) = client.send_request(request).await.unwrap().into_parts();
        let body = http_body_util::BodyExt::collect(body).await.unwrap().to_bytes();
        let text = |name: &str| head.headers.get(name).map_or("", |v| v.to_str().unwrap()).to_owned();
        (head.status.as_u16(), text("grpc-status"), text("x-origin"), body.len())
    };
    let seen = |status, grpc: &str, origin: &str| (status, grpc.to_owned(), origin.to_owned(), 0);
    // UNAVAILABLE is repeated, though it is a POST; NOT_FOUND is an answer.
    east.does.grpc.store(14, Ordering::SeqCst);
    assert_eq!(ask(call("/grpc")).await, seen(200, "0", "west"));
    east.does.grpc.store(5, Ordering::SeqCst);
    assert_eq!(ask(call("/grpc")).await, seen(200, "5", "east"));
    // The client's deadline is shorter than the route's.
    for origin in [&east, &west] {
        origin.does.frozen.store(true, Ordering::SeqCst);
    }
    let mut hurried = call("/grpc");
    hurried.headers_mut().insert("grpc-timeout", HeaderValue::from_static("100m"));
    assert_eq!(ask(hurried).await, seen(200, "4", ""));
    // No route, and nobody there.
    let lost = Request::post("http://other/").header("content-type", "application/grpc").body(Full::default()).unwrap();
    assert_eq!(ask(lost).await, seen(200, "12", ""));
    east.kill();
    drop(west);
    assert_eq!(ask(call("/grpc")).await, seen(200, "14", ""));
    let metrics = proxy.admin("/metrics").unwrap().1;
    for status in [0, 5, 4, 12, 14] {
        assert!(metrics.contains(&format!("grpc_response_status=\"{status}\"")), "{status}: {metrics}");
    }
}

/// An endpoint that says only in trailers how a call ended, behind this much of a body; how many calls it had.
async fn late(status: u8, body: &'static str) -> (SocketAddr, Arc<AtomicU32>) {
    let listener = tokio::net::TcpListener::bind((ip(), 8080)).await.unwrap();
    let (address, calls) = (listener.local_addr().unwrap(), Arc::new(AtomicU32::new(0)));
    let counted = calls.clone();
    tokio::spawn(async move {
        while let Ok((mut stream, _)) = listener.accept().await {
            let calls = counted.clone();
            tokio::spawn(async move {
                let mut seen = Vec::new();
                while stream.read_buf(&mut seen).await.unwrap() > 0 {
                    if seen.ends_with(b"\r\n\r\n") {
                        calls.fetch_add(1, Ordering::SeqCst);
                        seen.clear();
                        let head =
                            "HTTP/1.1 200 OK\r\ncontent-type: application/grpc\r\ntransfer-encoding: chunked\r\n\r\n";
                        let answer = format!("{head}{body}0\r\ngrpc-status: {status}\r\n\r\n");
                        stream.write_all(answer.as_bytes()).await.unwrap();
                    }
                }
            });
        }
    });
    (address, calls)
}

#[tokio::test(flavor = "multi_thread")]
async fn a_grpc_status_in_trailers_is_repeated_while_the_body_is_empty() {
    let stand_ins = [Origin::start("one"), Origin::start("two")];
    // first status, its body, calls of the second endpoint, what the caller gets
    for (status, body, second, answered) in [(14, "", 1, "0"), (14, "5\r\nhello\r\n", 0, "14"), (5, "", 0, "5")] {
        let ((first, calls), (next, calls_next)) = (late(status, body).await, late(0, "").await);
        let mut snapshot = simple(Direction::Outbound, &[&[&stand_ins[0]], &[&stand_ins[1]]]);
        for (locality, address) in snapshot.endpoints[0].localities.iter_mut().zip([first, next]) {
            locality.endpoints[0].address = address;
        }
        let on = [RetryOn::GrpcUnavailable].into();
        forward(&mut snapshot).retry = Some(RetryPolicy { attempts: 1, per_try: None, on, non_idempotent: false });
        let _proxy = Proxy::start(&snapshot);
        let response = http2(snapshot.listeners[0].address).await.send_request(call("/late")).await.unwrap();
        let body = http_body_util::BodyExt::collect(response.into_body()).await.unwrap();
        assert_eq!(body.trailers().unwrap()["grpc-status"], answered);
        let calls = [calls, calls_next].map(|calls| calls.load(Ordering::SeqCst));
        assert_eq!(calls, [1, second], "{status} {answered}");
    }
}
