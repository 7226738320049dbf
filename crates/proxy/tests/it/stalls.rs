//! Callers that take little, and endpoints that stop in the middle: others do not suffer, and it is seen.

use std::{
    net::SocketAddr,
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    time::Duration,
};

use futures_util::future::join_all;
use http::Request;
use http_body_util::Full;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{TcpListener, TcpStream},
};
use xds::snapshot::{Direction, Forward, HedgePolicy, ListenerProtocol, RouteAction, Snapshot, UpstreamProtocol};

use crate::support::{Origin, Proxy, get, hosts, http1, http2, ip, plain, routes, simple};

/// Longer than any declared bound in these tests, so that a broken build does not hang.
const PATIENCE: Duration = Duration::from_secs(30);

fn forward(snapshot: &mut Snapshot) -> &mut Forward {
    let RouteAction::Forward(forward) = &mut hosts(snapshot)[0].routes[1].action else { unreachable!() };
    forward
}

/// East and west, where nothing but silence ends a response, and one that is not answered in a moment is noticed.
fn two(east: SocketAddr, west: &Origin) -> Snapshot {
    let mut snapshot = simple(Direction::Gateway, &[&[west], &[west]]);
    let endpoint = &mut snapshot.endpoints[0].localities[0].endpoints[0];
    (endpoint.address, endpoint.name) = (east, "fx-e".into());
    let fast = Duration::from_millis(20);
    let hedge = HedgePolicy { at_least: fast, at_most: fast };
    snapshot.routes = vec![routes("fx", None, Some(hedge))];
    let route = forward(&mut snapshot);
    (route.timeout, route.idle_timeout) = (Duration::ZERO, Some(Duration::ZERO));
    snapshot
}

/// A caller that asks for 8 MiB and takes this much of it.
async fn reads_a_little(to: SocketAddr) -> TcpStream {
    let socket = tokio::net::TcpSocket::new_v4().unwrap();
    socket.set_recv_buffer_size(4096).unwrap();
    let mut stream = socket.connect(to).await.unwrap();
    stream.write_all(b"GET /big HTTP/1.1\r\nhost: fx\r\n\r\n").await.unwrap();
    let mut beginning = [0; 512];
    stream.read_exact(&mut beginning).await.unwrap();
    assert!(beginning.starts_with(b"HTTP/1.1 200"), "{:?}", String::from_utf8_lossy(&beginning));
    stream
}

fn in_flight(proxy: &Proxy) -> u64 {
    proxy.status()["clusters"][0]["endpoints"][0]["active"].as_u64().unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn slow_readers_give_way_to_others() {
    for (requests, connections) in [(20, 1024), (1024, 20)] {
        let east = Origin::start("fx-e");
        let mut snapshot = plain(east.endpoint(), Direction::Gateway);
        forward(&mut snapshot).timeout = Duration::from_secs(10);
        (snapshot.clusters[0].breakers.requests, snapshot.clusters[0].breakers.connections) = (requests, connections);
        let to = snapshot.listeners[0].address;
        // One worker: each may have a connection more.
        let proxy = Proxy::with(&snapshot, None, |options| options.workers = 1);
        let slow = join_all((0..20).map(|_| reads_a_little(to))).await;
        assert!(in_flight(&proxy) >= 10, "the kernel's buffers hold less than a response");
        // A caller counts as slow once it has kept a response waiting for 250 ms.
        tokio::time::sleep(Duration::from_millis(400)).await;
        for number in 0..60 {
            let reply = http1(to, get("/")).await.unwrap();
            assert_eq!(reply.status, 200, "number {number} of {requests} {connections}: {:?}", reply.body);
            // Others come beside them all the time.
            if number == 20 {
                join_all((0..10).map(|_| reads_a_little(to))).await;
            }
        }
        drop(slow);
        let failures = proxy.status()["clusters"][0]["endpoints"][0]["failures"].clone();
        assert_eq!(failures, 0, "the endpoint has done nothing");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn one_client_has_half_of_the_requests_that_wait_for_it() {
    let east = Origin::start("fx-e");
    let mut snapshot = plain(east.endpoint(), Direction::Gateway);
    snapshot.clusters[0].breakers.requests = 16;
    let to = snapshot.listeners[0].address;
    let proxy = Proxy::start(&snapshot);
    let _slow = join_all((0..14).map(|_| reads_a_little(to))).await;
    tokio::task::block_in_place(|| proxy.until("its share", |proxy| in_flight(proxy) <= 8));
    for line in proxy.log(6) {
        assert_eq!(line["response_flags"], "SI", "{line}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_reader_below_the_least_rate_is_cut_off_over_both_protocols() {
    let east = Origin::start("fx-e");
    let mut snapshot = plain(east.endpoint(), Direction::Gateway);
    forward(&mut snapshot).timeout = Duration::from_secs(10);
    let ListenerProtocol::Http(http) = &mut snapshot.listeners[0].protocol else { unreachable!() };
    (http.limits.body_timeout, http.limits.minimum_rate) = (Duration::from_millis(300), 1 << 20);
    let to = snapshot.listeners[0].address;
    let proxy = Proxy::start(&snapshot);
    let mut stream = reads_a_little(to).await;
    // What the kernel has taken of it already is read on after the end.
    let reading = tokio::spawn(async move {
        let mut piece = [0; 512];
        while let Ok(1..) = stream.read(&mut piece).await {
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    });
    assert_eq!(proxy.log(1)[0]["response_flags"], "SI");
    reading.abort();
    // Over HTTP/2 the stream has no more window than this, and gets none.
    let (mut client, connection) = h2::client::Builder::new()
        .initial_window_size(1000)
        .handshake::<_, bytes::Bytes>(TcpStream::connect(to).await.unwrap())
        .await
        .unwrap();
    tokio::spawn(connection);
    let (response, _) = client.send_request(Request::get("http://fx/big").body(()).unwrap(), true).unwrap();
    let mut body = response.await.unwrap().into_body();
    let reading = async {
        while let Some(data) = body.data().await {
            if data.is_err() {
                return true;
            }
        }
        false
    };
    assert!(tokio::time::timeout(PATIENCE, reading).await.expect("it is cut off"), "the stream is reset");
    for line in proxy.log(2) {
        assert_eq!((&line["response_code"], &line["response_flags"]), (&200.into(), &"SI".into()), "{line}");
    }
    assert_eq!(proxy.status()["clusters"][0]["endpoints"][0]["failures"], 0);
}

/// Answers a request with this while `well`, and with nothing at all otherwise; what it answers does not end.
async fn begins(answer: impl Fn(&str) -> Vec<u8> + Send + Sync + 'static) -> (SocketAddr, Arc<AtomicBool>) {
    let listener = TcpListener::bind((ip(), 8080)).await.unwrap();
    let (address, well) = (listener.local_addr().unwrap(), Arc::new(AtomicBool::new(true)));
    let (is_well, answer) = (well.clone(), Arc::new(answer));
    tokio::spawn(async move {
        while let Ok((mut stream, _)) = listener.accept().await {
            let (is_well, answer) = (is_well.clone(), answer.clone());
            tokio::spawn(async move {
                let mut seen = Vec::new();
                while stream.read_buf(&mut seen).await.unwrap_or(0) > 0 {
                    if seen.windows(4).any(|end| end == b"\r\n\r\n") && is_well.load(Ordering::SeqCst) {
                        let head = String::from_utf8_lossy(&std::mem::take(&mut seen)).into_owned();
                        stream.write_all(&answer(&head)).await.unwrap();
                    }
                }
            });
        }
    });
    (address, well)
}

fn ejected(proxy: &Proxy) -> Vec<String> {
    let events = proxy.events().into_iter().filter(|event| event["kind"]["type"] == "ejected");
    events.map(|event| event["kind"]["cause"].as_str().unwrap().to_owned()).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_large_response_that_stalls_is_seen_and_ends() {
    let (east, _) = begins(|_| {
        let mut answer = b"HTTP/1.1 200 OK\r\ncontent-length: 1000000\r\n\r\n".to_vec();
        answer.resize(answer.len() + 20_000, b'x');
        answer
    })
    .await;
    let west = Origin::start("fx-w");
    let snapshot = two(east, &west);
    let to = snapshot.listeners[0].address;
    let proxy = Proxy::start(&snapshot);
    let stalled: Vec<_> = (0..5).map(|_| tokio::spawn(http1(to, get("/")))).collect();
    tokio::task::block_in_place(|| proxy.until("ejected", |proxy| ejected(proxy) == ["response stalled"]));
    assert_eq!(http1(to, get("/")).await.unwrap().header("x-origin"), "fx-w");
    for stalled in stalled {
        let ended = tokio::time::timeout(PATIENCE, stalled).await.expect("nobody waits for it for ever").unwrap();
        assert!(ended.is_err(), "it ends as one that broke off");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn callers_that_leave_a_stalled_response_are_counted_and_those_of_streams_are_not() {
    for (kind, seen) in [("application/json", true), ("text/event-stream", false)] {
        let head = format!("HTTP/1.1 200 OK\r\ncontent-type: {kind}\r\ntransfer-encoding: chunked\r\n\r\n");
        let (east, _) = begins(move |_| format!("{head}4e20\r\n{}\r\n", "x".repeat(20_000)).into_bytes()).await;
        let west = Origin::start("fx-w");
        let snapshot = two(east, &west);
        let to = snapshot.listeners[0].address;
        let proxy = Proxy::start(&snapshot);
        let leaves = async || tokio::time::timeout(Duration::from_millis(700), http1(to, get("/"))).await.is_err();
        for left in join_all((0..5).map(|_| leaves())).await {
            assert!(left);
        }
        tokio::task::block_in_place(|| proxy.until("all gone", |proxy| in_flight(proxy) == 0));
        assert_eq!(ejected(&proxy).len(), usize::from(seen), "{kind}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn responses_in_flight_end_when_their_endpoint_was_ejected_for_its_silence() {
    let (east, well) = begins(|head| {
        let kind = if head.contains("application/grpc") { "application/grpc" } else { "text/event-stream" };
        format!("HTTP/1.1 200 OK\r\ncontent-type: {kind}\r\ntransfer-encoding: chunked\r\n\r\n5\r\nhello\r\n")
            .into_bytes()
    })
    .await;
    let west = Origin::start("fx-w");
    let snapshot = two(east, &west);
    let to = snapshot.listeners[0].address;
    let proxy = Proxy::start(&snapshot);
    let mut events = TcpStream::connect(to).await.unwrap();
    events.write_all(b"GET /events HTTP/1.1\r\nhost: fx\r\n\r\n").await.unwrap();
    let mut seen = Vec::new();
    while !seen.ends_with(b"hello\r\n") {
        assert!(events.read_buf(&mut seen).await.unwrap() > 0);
    }
    let call = Request::post("http://fx/watch").header("content-type", "application/grpc");
    let call = http2(to).await.send_request(call.body(Full::default()).unwrap()).await.unwrap().into_body();
    let call = tokio::spawn(http_body_util::BodyExt::collect(call));
    // As one that is cut off: what follows is hedged, and shows that it hangs.
    well.store(false, Ordering::SeqCst);
    for _ in 0..20 {
        assert_eq!(http1(to, get("/")).await.unwrap().header("x-origin"), "fx-w");
    }
    tokio::task::block_in_place(|| proxy.until("ejected", |proxy| ejected(proxy) == ["no answer"]));
    let mut rest = Vec::new();
    let ended = tokio::time::timeout(PATIENCE, events.read_to_end(&mut rest)).await.expect("it ends");
    assert!(ended.is_err() || rest.is_empty(), "without a whole body: {:?}", String::from_utf8_lossy(&rest));
    let call = tokio::time::timeout(PATIENCE, call).await.expect("it ends").unwrap().unwrap();
    assert_eq!(call.trailers().unwrap()["grpc-status"], "14");
}

/// An address whose packets are not answered until what waits there is accepted.
async fn unanswered() -> (std::net::TcpListener, Vec<std::net::TcpStream>) {
    let full = socket2::Socket::new(socket2::Domain::IPV4, socket2::Type::STREAM, None).unwrap();
    let address = SocketAddr::new(ip(), 8080);
    full.bind(&address.into()).unwrap();
    full.listen(0).unwrap();
    let mut waiting = Vec::new();
    while let Ok(Ok(stream)) = tokio::time::timeout(Duration::from_millis(300), TcpStream::connect(address)).await {
        waiting.push(stream.into_std().unwrap());
        assert!(waiting.len() < 10, "its queue is full after a few");
    }
    (full.into(), waiting)
}

#[tokio::test(flavor = "multi_thread")]
async fn a_request_whose_connection_is_not_made_goes_elsewhere_whatever_its_method() {
    let (full, _waiting) = unanswered().await;
    let west = Origin::start("fx-w");
    let mut snapshot = two(full.local_addr().unwrap(), &west);
    snapshot.clusters[0].connect_timeout = Duration::from_secs(60);
    forward(&mut snapshot).timeout = Duration::from_secs(20);
    let to = snapshot.listeners[0].address;
    let _proxy = Proxy::start(&snapshot);
    for (number, method) in (1..).zip(["POST", "PUT", "GET", "PATCH", "DELETE"]) {
        let request = Request::builder().method(method).uri("/").header("host", "fx").body(Full::from("x")).unwrap();
        let reply = http1(to, request).await.unwrap();
        assert_eq!((reply.status, reply.header("x-origin")), (200, "fx-w"), "{method}");
        assert_eq!(west.does.users(), number, "once each");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_request_that_was_raced_while_it_connected_is_sent_by_one_try_only() {
    for method in ["POST", "PUT"] {
        let (full, _waiting) = unanswered().await;
        let west = Origin::start("fx-w");
        west.does.slow.store(5000, Ordering::SeqCst);
        let mut snapshot = two(full.local_addr().unwrap(), &west);
        snapshot.clusters[0].connect_timeout = Duration::from_secs(60);
        snapshot.clusters[0].outlier = None;
        forward(&mut snapshot).timeout = Duration::from_secs(20);
        let to = snapshot.listeners[0].address;
        let proxy = Proxy::start(&snapshot);
        let request = Request::builder().method(method).uri("/").header("host", "fx").body(Full::from("x")).unwrap();
        let reply = tokio::spawn(http1(to, request));
        tokio::task::block_in_place(|| proxy.until("it is at work", |_| west.does.users() == 1));
        // Now the first connection is made, too: the kernel asks again a second after its first packet was lost.
        let accepted = tokio::task::spawn_blocking(move || {
            let mut heard = Vec::new();
            full.set_nonblocking(true).unwrap();
            for _ in 0..80 {
                heard.extend(full.accept().map(|(stream, _)| stream));
                #[allow(clippy::disallowed_methods, reason = "a thread of its own, which nothing else waits on")]
                std::thread::sleep(Duration::from_millis(50));
            }
            heard
        });
        let reply = reply.await.unwrap().unwrap();
        assert_eq!((reply.status, reply.header("x-origin"), west.does.users()), (200, "fx-w", 1), "{method}");
        for mut stream in accepted.await.unwrap() {
            stream.set_nonblocking(true).unwrap();
            let read = std::io::Read::read(&mut stream, &mut [0; 100]);
            assert!(!matches!(read, Ok(1..)), "nothing of it was sent there: {read:?}");
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_hung_server_of_bytes_with_few_connections_is_noticed() {
    let east = TcpListener::bind((ip(), 9000)).await.unwrap();
    let address = east.local_addr().unwrap();
    let (hangs, asked) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicU64::new(0)));
    let (hung, counted) = (hangs.clone(), asked.clone());
    tokio::spawn(async move {
        while let Ok((mut stream, _)) = east.accept().await {
            let (hung, counted) = (hung.clone(), counted.clone());
            tokio::spawn(async move {
                let byte = stream.read_u8().await.unwrap_or_default();
                counted.fetch_add(1, Ordering::SeqCst);
                if hung.load(Ordering::SeqCst) {
                    std::future::pending::<()>().await;
                }
                let _ = stream.write_u8(byte).await;
            });
        }
    });
    let west = TcpListener::bind((ip(), 9000)).await.unwrap();
    let stand_in = Origin::start("fx-w");
    let mut snapshot = simple(Direction::Outbound, &[&[&stand_in], &[&stand_in]]);
    let endpoint = &mut snapshot.endpoints[0].localities[0].endpoints[0];
    (endpoint.address, endpoint.name) = (address, "fx-e".into());
    snapshot.endpoints[0].localities[1].endpoints[0].address = west.local_addr().unwrap();
    snapshot.clusters[0].protocol = UpstreamProtocol::Tcp;
    snapshot.listeners[0].protocol = ListenerProtocol::tcp("fx");
    let to = snapshot.listeners[0].address;
    let proxy = Proxy::start(&snapshot);
    let ask = async || {
        let mut stream = TcpStream::connect(to).await.unwrap();
        stream.write_u8(7).await.unwrap();
        stream
    };
    for _ in 0..4 {
        assert_eq!(ask().await.read_u8().await.unwrap(), 7);
    }
    hangs.store(true, Ordering::SeqCst);
    let mut waiting = Vec::new();
    for number in 1..=5 {
        waiting.push(ask().await);
        tokio::task::block_in_place(|| proxy.until("it arrived", |_| asked.load(Ordering::SeqCst) >= 4 + number));
        tokio::time::sleep(Duration::from_millis(200)).await;
    }
    tokio::task::block_in_place(|| proxy.until("ejected", |proxy| ejected(proxy) == ["no answer"]));
}
