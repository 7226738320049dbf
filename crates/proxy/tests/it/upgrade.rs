//! Upgrades: a WebSocket through proxies and its end in every way; what is refused, and what is never repeated.

use std::{
    net::SocketAddr,
    sync::{
        Arc,
        atomic::{AtomicU32, Ordering},
    },
    time::Duration,
};

use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{TcpListener, TcpStream},
};
use xds::snapshot::{Direction, Endpoint, Forward, ListenerProtocol, RouteAction, Snapshot, UpstreamProtocol};

use crate::{
    authority::Authority,
    identity::{inbound, outbound},
    support::*,
    websocket::*,
};

/// What a peer does with a request.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Does {
    /// Takes up a WebSocket, echoes its messages, and answers its closing.
    Echo,
    /// Takes up any upgrade, echoes bytes until the caller's end, and says one thing more.
    Bytes,
    /// Answers as if nothing had been asked for.
    Ignore,
    /// Reads the request and goes.
    Break,
}

/// An endpoint with hand-written framing.
struct Peer {
    address: SocketAddr,
    requests: Arc<AtomicU32>,
}

impl Peer {
    async fn start(does: Does) -> Self {
        let listener = TcpListener::bind(SocketAddr::new(ip(), 8080)).await.unwrap();
        let (address, requests) = (listener.local_addr().unwrap(), Arc::new(AtomicU32::new(0)));
        let count = requests.clone();
        tokio::spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                tokio::spawn(serve(stream, does, count.clone()));
            }
        });
        Self { address, requests }
    }

    fn endpoint(&self) -> Endpoint {
        Endpoint { name: "peer".into(), address: self.address, version: "v1".into(), weight: 1 }
    }

    fn requests(&self) -> u32 {
        self.requests.load(Ordering::SeqCst)
    }
}

async fn serve(mut stream: TcpStream, does: Does, count: Arc<AtomicU32>) -> std::io::Result<()> {
    loop {
        let head = head(&mut stream).await?;
        if head.is_empty() {
            return Ok(());
        }
        count.fetch_add(1, Ordering::SeqCst);
        match does {
            Does::Break => return Ok(()),
            Does::Ignore => stream.write_all(b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nno").await?,
            Does::Echo | Does::Bytes => {
                let key = head.lines().find_map(|line| line.strip_prefix("sec-websocket-key: "));
                assert!(head.contains("connection: upgrade\r\n") && key.unwrap().len() == KEY.len(), "{head}");
                accept(&mut stream).await?;
                return if does == Does::Echo { echo(stream).await } else { bytes(stream).await };
            }
        }
    }
}

async fn bytes(mut stream: TcpStream) -> std::io::Result<()> {
    let (mut from, mut to) = stream.split();
    tokio::io::copy(&mut from, &mut to).await?;
    to.write_all(b" and that is all").await
}

fn allow(snapshot: &mut Snapshot, upgrades: &[&str]) {
    forward(snapshot).upgrades = upgrades.iter().map(|name| (*name).to_owned()).collect();
}

fn forward(snapshot: &mut Snapshot) -> &mut Forward {
    let RouteAction::Forward(forward) = &mut hosts(snapshot)[0].routes[1].action else { unreachable!() };
    forward
}

/// A proxy in front of a peer that allows WebSocket.
async fn before(does: Does, change: impl FnOnce(&mut Snapshot)) -> (Proxy, Peer, SocketAddr) {
    let peer = Peer::start(does).await;
    let mut snapshot = plain(peer.endpoint(), Direction::Outbound);
    allow(&mut snapshot, &["websocket"]);
    change(&mut snapshot);
    (Proxy::start(&snapshot), peer, snapshot.listeners[0].address)
}

async fn opened(to: SocketAddr) -> TcpStream {
    let mut stream = TcpStream::connect(to).await.unwrap();
    stream.write_all(asks("WebSocket").as_bytes()).await.unwrap();
    let head = head(&mut stream).await.unwrap();
    assert!(head.starts_with("HTTP/1.1 101 Switching Protocols\r\n"), "{head}");
    stream
}

async fn ended(stream: &mut TcpStream) -> Vec<u8> {
    let mut rest = Vec::new();
    let read = tokio::time::timeout(Duration::from_secs(15), stream.read_to_end(&mut rest)).await;
    assert!(read.is_ok(), "never closed");
    rest
}

#[tokio::test(flavor = "multi_thread")]
async fn a_websocket_passes_through_both_sidecars() {
    let (authority, peer, stand_in) = (Authority::new(), Peer::start(Does::Echo).await, Origin::start("stand-in"));
    let mut inside = inbound(&authority, &stand_in);
    inside.endpoints[0].localities[0].endpoints[0] = peer.endpoint();
    allow(&mut inside, &["websocket"]);
    let mut outside = outbound(&authority, &stand_in, inside.listeners[0].address, UpstreamProtocol::Http1);
    allow(&mut outside, &["websocket"]);
    let server = Proxy::with_identity(&inside, Some(authority.issue("fx")));
    let caller = Proxy::with_identity(&outside, Some(authority.issue("accounts")));

    let mut stream = TcpStream::connect(outside.listeners[0].address).await.unwrap();
    // The first message goes with the request: it may not get lost behind the head.
    let mask = Some([7, 1, 250, 3]);
    let mut first = asks("websocket").into_bytes();
    first.extend(framed(TEXT, b"hello", mask));
    stream.write_all(&first).await.unwrap();
    let head = head(&mut stream).await.unwrap();
    assert!(head.starts_with("HTTP/1.1 101 Switching Protocols\r\n"), "{head}");
    for line in ["connection: upgrade", "upgrade: websocket", &format!("sec-websocket-accept: {ACCEPT}")] {
        assert_eq!(head.matches(&format!("{line}\r\n")).count(), 1, "{head}");
    }
    assert_eq!(frame(&mut stream).await.unwrap(), (TEXT, b"hello".to_vec()));
    let large: Vec<u8> = (0..3_000_000_u32).map(|number| (number % 251) as u8).collect();
    let sent = framed(TEXT, &large, mask);
    let (mut from, mut to) = stream.into_split();
    let sending = tokio::spawn(async move {
        to.write_all(&sent).await.unwrap();
        to
    });
    let mut received = vec![0; framed(TEXT, &large, None).len()];
    from.read_exact(&mut received).await.unwrap();
    assert!(received == framed(TEXT, &large, None));
    let mut stream = from.reunite(sending.await.unwrap()).unwrap();
    stream.write_all(&framed(CLOSE, &[3, 232], mask)).await.unwrap();
    assert_eq!(frame(&mut stream).await.unwrap(), (CLOSE, vec![3, 232]));
    stream.shutdown().await.unwrap();
    assert!(ended(&mut stream).await.is_empty());

    let bytes = |masked: Option<[u8; 4]>| {
        [(TEXT, &b"hello"[..]), (TEXT, &large), (CLOSE, &[3, 232])]
            .map(|(kind, payload)| framed(kind, payload, masked).len())
            .iter()
            .sum::<usize>()
    };
    for proxy in [&caller, &server] {
        let line = &proxy.log(1)[0];
        assert_eq!((&line["response_code"], &line["response_flags"]), (&101.into(), &"-".into()), "{line}");
        assert_eq!(
            (&line["bytes_received"], &line["bytes_sent"]),
            (&bytes(mask).into(), &bytes(None).into()),
            "{line}"
        );
        let metrics = tokio::task::block_in_place(|| proxy.admin("/metrics")).unwrap().1;
        assert!(metrics.lines().any(|l| l.starts_with("istio_requests_total{") && l.contains("\"101\"")), "{metrics}");
        assert_eq!(proxy.status()["clusters"][0]["endpoints"][0]["active"], 0);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn each_way_of_an_upgrade_ends_on_its_own() {
    let (proxy, _peer, to) = before(Does::Bytes, |_| {}).await;
    let mut stream = opened(to).await;
    stream.write_all(b"something").await.unwrap();
    stream.shutdown().await.unwrap();
    assert_eq!(ended(&mut stream).await, b"something and that is all");
    assert_eq!(proxy.log(1)[0]["response_flags"], "-");
}

#[tokio::test(flavor = "multi_thread")]
async fn an_upgrade_that_the_route_does_not_name_is_refused() {
    let (proxy, peer, to) = before(Does::Bytes, |_| {}).await;
    let behind = "GET /secret HTTP/1.1\r\nhost: fx\r\n\r\n";
    // Nothing that follows may be taken for a request: it is the other protocol's.
    let answer = raw(to, format!("{}{behind}", asks("spdy/3.1")).as_bytes()).await;
    assert!(answer.starts_with("HTTP/1.1 403 ") && answer.contains("connection: close"), "{answer}");
    assert_eq!((answer.matches("HTTP/1.1").count(), peer.requests()), (1, 0), "{answer}");
    let with_body = asks("websocket").replace("Host: fx", "Host: fx\r\nContent-Length: 3") + "abc";
    let answer = raw(to, with_body.as_bytes()).await;
    assert!(answer.starts_with("HTTP/1.1 400 "), "{answer}");
    assert_eq!(peer.requests(), 0);
    let flags: Vec<_> = proxy.log(2).iter().map(|line| line["response_flags"].clone()).collect();
    assert_eq!(flags, ["UAEX", "DPE"]);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_wish_that_may_be_ignored_is() {
    let (_proxy, peer, to) = before(Does::Ignore, |_| {}).await;
    let asked = [asks("h2c"), asks("websocket").replace("HTTP/1.1", "HTTP/1.0"), asks("spdy").replace(", Upgrade", "")];
    for asked in asked {
        let mut stream = TcpStream::connect(to).await.unwrap();
        stream.write_all(asked.as_bytes()).await.unwrap();
        let head = head(&mut stream).await.unwrap();
        assert!(head.starts_with("HTTP/1.1 200 "), "{asked}{head}");
    }
    assert_eq!(peer.requests(), 3);
}

#[tokio::test(flavor = "multi_thread")]
async fn an_endpoint_that_refuses_gets_no_byte_of_what_follows() {
    let (_proxy, peer, to) = before(Does::Ignore, |_| {}).await;
    let behind = "GET /secret HTTP/1.1\r\nhost: fx\r\n\r\n";
    let answer = raw(to, format!("{}{behind}", asks("websocket")).as_bytes()).await;
    assert!(answer.starts_with("HTTP/1.1 200 ") && answer.ends_with("\r\n\r\nno"), "{answer}");
    assert_eq!(peer.requests(), 1, "{answer}");
}

#[tokio::test(flavor = "multi_thread")]
async fn an_upgrade_is_repeated_only_where_nothing_was_sent() {
    let (peer, other, mut dead) =
        (Peer::start(Does::Break).await, Peer::start(Does::Bytes).await, Origin::start("dead"));
    dead.kill();
    let spare = Origin::start("spare");
    for (first, opens) in [(peer.endpoint(), false), (dead.endpoint(), true)] {
        let mut snapshot = simple(Direction::Outbound, &[&[&dead], &[&spare]]);
        snapshot.endpoints[0].localities[0].endpoints[0] = first;
        snapshot.endpoints[0].localities[1].endpoints[0].address = other.address;
        allow(&mut snapshot, &["websocket"]);
        forward(&mut snapshot).retry.as_mut().unwrap().non_idempotent = true;
        let _proxy = Proxy::start(&snapshot);
        if opens {
            opened(snapshot.listeners[0].address).await;
        } else {
            let answer = raw(snapshot.listeners[0].address, asks("websocket").as_bytes()).await;
            assert!(answer.starts_with("HTTP/1.1 503 "), "{answer}");
        }
        assert_eq!((peer.requests(), other.requests()), (1, u32::from(opens)));
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_slow_endpoint_gets_no_second_upgrade() {
    let other = Peer::start(Does::Bytes).await;
    let (one, two) = (Origin::start("one"), Origin::start("two"));
    one.does.frozen.store(true, Ordering::SeqCst);
    let mut snapshot = simple(Direction::Outbound, &[&[&one], &[&two]]);
    snapshot.endpoints[0].localities[1].endpoints[0].address = other.address;
    allow(&mut snapshot, &["websocket"]);
    forward(&mut snapshot).timeout = Duration::from_millis(700);
    let _proxy = Proxy::start(&snapshot);
    // A read is hedged after 200 ms at most.
    let answer = raw(snapshot.listeners[0].address, asks("websocket").as_bytes()).await;
    assert!(answer.starts_with("HTTP/1.1 504 "), "{answer}");
    assert_eq!((one.does.users(), other.requests()), (1, 0));
}

#[tokio::test(flavor = "multi_thread")]
async fn silence_ends_an_upgrade_and_the_routes_timeout_does_not() {
    let (proxy, _peer, to) = before(Does::Bytes, |snapshot| {
        forward(snapshot).timeout = Duration::from_millis(300);
        let ListenerProtocol::Http(http) = &mut snapshot.listeners[0].protocol else { unreachable!() };
        http.limits.idle_timeout = Duration::from_millis(600);
    })
    .await;
    let (began, mut stream) = (std::time::Instant::now(), opened(to).await);
    while began.elapsed() < Duration::from_millis(900) {
        stream.write_all(b"x").await.unwrap();
        assert_eq!(stream.read_u8().await.unwrap(), b'x');
    }
    assert!(ended(&mut stream).await.is_empty());
    let line = &proxy.log(1)[0];
    assert_eq!((&line["response_code"], &line["response_flags"]), (&101.into(), &"SI".into()), "{line}");
}

#[tokio::test(flavor = "multi_thread")]
async fn an_upgrade_is_drained_when_the_proxy_ends() {
    let peer = Peer::start(Does::Bytes).await;
    let mut snapshot = plain(peer.endpoint(), Direction::Outbound);
    allow(&mut snapshot, &["websocket"]);
    let mut proxy = Proxy::with(&snapshot, None, |options| options.drain.at_most = Duration::from_secs(30));
    let mut stream = opened(snapshot.listeners[0].address).await;
    let began = std::time::Instant::now();
    proxy.begin_stop();
    // It still passes bytes, and is over before the process would have been cut off.
    stream.write_all(b"x").await.unwrap();
    assert_eq!(stream.read_u8().await.unwrap(), b'x');
    assert!(ended(&mut stream).await.is_empty());
    proxy.stop_blocking();
    assert!(began.elapsed() < Duration::from_secs(25));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_tunnel_to_wherever_the_caller_says_is_refused() {
    let (proxy, peer, to) = before(Does::Bytes, |_| {}).await;
    let at = peer.address;
    let answer = raw(to, format!("CONNECT {at} HTTP/1.1\r\nhost: {at}\r\n\r\nhello").as_bytes()).await;
    assert!(answer.starts_with("HTTP/1.1 501 ") && answer.contains("connection: close"), "{answer}");
    let request = http::Request::connect(at.to_string()).body(http_body_util::Full::default()).unwrap();
    let response = http2(to).await.send_request(request).await.unwrap();
    assert_eq!(response.status(), 501);
    for line in proxy.log(2) {
        assert_eq!((&line["response_code"], &line["response_flags"]), (&501.into(), &"DPE".into()), "{line}");
    }
    assert_eq!(peer.requests(), 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn an_extended_connect_is_an_upgrade_for_the_endpoint() {
    let (proxy, peer, to) = before(Does::Bytes, |_| {}).await;
    let stream = TcpStream::connect(to).await.unwrap();
    let (sender, mut connection) = h2::client::handshake(stream).await.unwrap();
    let mut pinging = connection.ping_pong().unwrap();
    tokio::spawn(connection);
    // Its settings have come when it has answered.
    pinging.ping(h2::Ping::opaque()).await.unwrap();
    let mut sender = sender.ready().await.unwrap();
    assert!(sender.is_extended_connect_protocol_enabled());
    let ask = |protocol: &'static str| {
        let request = http::Request::connect("http://fx/chat").header("sec-websocket-version", "13");
        request.extension(h2::ext::Protocol::from_static(protocol)).version(http::Version::HTTP_2).body(()).unwrap()
    };
    let (response, up) = sender.send_request(ask("websocket"), false).unwrap();
    let response = response.await.unwrap();
    assert_eq!((response.status().as_u16(), response.headers().get("upgrade")), (200, None));
    let large = vec![b'x'; 2_000_000];
    let received = both_ways(up, response.into_body(), large.clone().into()).await;
    assert!(received == [large.as_slice(), b" and that is all"].concat(), "{} bytes", received.len());
    let line = &proxy.log(1)[0];
    assert_eq!((&line["response_code"], &line["bytes_received"]), (&101.into(), &2_000_000.into()), "{line}");
    let (refused, _up) = sender.send_request(ask("spdy"), false).unwrap();
    assert_eq!((refused.await.unwrap().status().as_u16(), peer.requests()), (403, 1));
}

/// An endpoint that speaks HTTP/2 and, where it `takes` them, echoes what comes behind an extended CONNECT and says one
/// thing more.
async fn over_http2(takes: bool) -> Endpoint {
    let listener = TcpListener::bind(SocketAddr::new(ip(), 8080)).await.unwrap();
    let address = listener.local_addr().unwrap();
    tokio::spawn(async move {
        while let Ok((stream, _)) = listener.accept().await {
            let mut builder = h2::server::Builder::new();
            if takes {
                builder.enable_connect_protocol();
            }
            tokio::spawn(async move {
                let mut connection = builder.handshake::<_, bytes::Bytes>(stream).await.unwrap();
                while let Some(Ok((request, respond))) = connection.accept().await {
                    tokio::spawn(streamed(request, respond));
                }
            });
        }
    });
    Endpoint { name: "peer".into(), address, version: "v1".into(), weight: 1 }
}

async fn streamed(request: http::Request<h2::RecvStream>, mut respond: h2::server::SendResponse<bytes::Bytes>) {
    let protocol = request.extensions().get::<h2::ext::Protocol>().map(|protocol| protocol.as_str().to_owned());
    if protocol.as_deref() != Some("websocket") || request.uri().path() != "/chat" {
        let answer = http::Response::builder().status(if protocol.is_some() { 404 } else { 200 });
        respond.send_response(answer.body(()).unwrap(), true).unwrap();
        return;
    }
    assert_eq!((request.method(), request.headers().get("upgrade")), (&http::Method::CONNECT, None));
    let mut to = respond.send_response(http::Response::new(()), false).unwrap();
    let mut from = request.into_body();
    while let Some(Ok(data)) = from.data().await {
        from.flow_control().release_capacity(data.len()).unwrap();
        to.send_data(data, false).unwrap();
    }
    to.send_data(" and that is all".into(), true).unwrap();
}

/// A proxy in front of an endpoint that speaks HTTP/2.
async fn before_http2(takes: bool) -> (Proxy, SocketAddr) {
    let mut snapshot = plain(over_http2(takes).await, Direction::Outbound);
    snapshot.clusters[0].protocol = UpstreamProtocol::Http2;
    allow(&mut snapshot, &["websocket"]);
    (Proxy::start(&snapshot), snapshot.listeners[0].address)
}

#[tokio::test(flavor = "multi_thread")]
async fn an_upgrade_is_an_extended_connect_for_an_endpoint_that_speaks_http2() {
    let (proxy, to) = before_http2(true).await;
    // Of a new connection, whose settings are not here yet, and of one that is kept.
    for _ in 0..2 {
        let mut stream = TcpStream::connect(to).await.unwrap();
        stream.write_all(asks("WebSocket").as_bytes()).await.unwrap();
        let head = head(&mut stream).await.unwrap();
        assert!(head.starts_with("HTTP/1.1 101 Switching Protocols\r\n"), "{head}");
        for line in ["connection: upgrade", "upgrade: WebSocket", &format!("sec-websocket-accept: {ACCEPT}")] {
            assert_eq!(head.matches(&format!("{line}\r\n")).count(), 1, "{head}");
        }
        stream.write_all(b"something").await.unwrap();
        stream.shutdown().await.unwrap();
        assert_eq!(ended(&mut stream).await, b"something and that is all");
    }
    // What the endpoint refuses is an answer like others, and the connection goes on.
    let answer = raw(to, asks("websocket").replace("/chat", "/other").as_bytes()).await;
    assert!(answer.starts_with("HTTP/1.1 404 "), "{answer}");
    assert_eq!(http1(to, get("/")).await.unwrap().status, 200);
    let seen: Vec<_> = proxy.log(4).iter().map(|line| line["response_code"].clone()).collect();
    assert_eq!(seen, [101, 101, 404, 200]);
    assert_eq!(proxy.status()["clusters"][0]["endpoints"][0]["active"], 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn an_endpoint_without_extended_connect_gets_none() {
    let (proxy, to) = before_http2(false).await;
    let answer = raw(to, asks("websocket").as_bytes()).await;
    assert!(answer.starts_with("HTTP/1.1 501 ") && answer.contains("takes no upgrades over HTTP/2"), "{answer}");
    assert_eq!(http1(to, get("/")).await.unwrap().status, 200);
    let lines = proxy.log(2);
    let seen: Vec<_> = lines.iter().map(|line| (&line["response_code"], &line["response_flags"])).collect();
    assert_eq!(seen, [(&501.into(), &"UPE".into()), (&200.into(), &"-".into())]);
}
