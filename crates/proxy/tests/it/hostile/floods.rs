//! Peers that send or hold back without end: what they cost is bounded.

use std::{
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{TcpListener, TcpStream},
};
use xds::snapshot::{Direction, Endpoint, Limits, ListenerProtocol, RouteAction, Snapshot};

use super::{
    frames::{self, *},
    recorder::{Recorder, Reply},
};
use crate::support::{Proxy, hosts, http1, ip, plain};

fn limits(snapshot: &mut Snapshot) -> &mut Limits {
    match &mut snapshot.listeners[0].protocol {
        ListenerProtocol::Http(http) => &mut http.limits,
        other => panic!("{other:?}"),
    }
}

/// A proxy in front of an endpoint that answers at once.
async fn quick() -> (std::net::SocketAddr, Recorder, Proxy) {
    let recorder = Recorder::start(Reply::ok).await;
    let snapshot = plain(recorder.endpoint(), Direction::Gateway);
    let to = snapshot.listeners[0].address;
    let proxy = Proxy::start(&snapshot);
    (to, recorder, proxy)
}

/// Writes the piece again and again, at most this many times, until the other side closes or takes no more; how often
/// it went. What comes back is not read.
async fn pour(stream: &mut TcpStream, piece: &[u8], most: usize) -> usize {
    for count in 0..most {
        let written = tokio::time::timeout(Duration::from_millis(500), stream.write_all(piece)).await;
        if !matches!(written, Ok(Ok(()))) {
            return count;
        }
    }
    most
}

/// Code of the GOAWAY at the end of the connection.
async fn end(peer: &mut Peer) -> Option<u32> {
    let mut code = None;
    while let Some(frame) = peer.next().await {
        if frame.kind == GOAWAY {
            code = Some(frame.code());
        }
    }
    code
}

#[tokio::test(flavor = "multi_thread")]
async fn rapid_resets_end_the_connection() {
    let (to, recorder, _proxy) = quick().await;
    let mut peer = Peer::greeted(to).await;
    let begun: Vec<u8> = (0..20_000u32)
        .flat_map(|n| [frames::get(1 + 2 * n, &[]), frame(RST_STREAM, 0, 1 + 2 * n, &CANCEL.to_be_bytes())].concat())
        .collect();
    for piece in begun.chunks(16_000) {
        if !peer.write(piece).await {
            break;
        }
    }
    assert_eq!(end(&mut peer).await, Some(CALM));
    let reached = recorder.arrived().len();
    assert!(reached <= 2_000, "{reached} of 20000 reached the endpoint");
    assert_eq!(http1(to, crate::support::get("/")).await.unwrap().status, 200);
}

#[tokio::test(flavor = "multi_thread")]
async fn header_blocks_without_end_end_the_connection() {
    let (to, recorder, _proxy) = quick().await;
    for (name, fragment) in [("empty", vec![]), ("small", field("x", "y")), ("large", field("x", &"y".repeat(16_000)))]
    {
        let mut peer = Peer::greeted(to).await;
        assert!(peer.write(&frame(HEADERS, END, 1, &block(&GET))).await);
        let piece = frame(CONTINUATION, 0, 1, &fragment);
        let most = 64 * 1024 * 1024 / piece.len();
        let count = pour(&mut peer.stream, &piece, most).await;
        assert!(count < most, "{name}: {count} frames");
        // The code is lost where the kernel had more of the flood for a socket that is closed.
        assert!(matches!(end(&mut peer).await, None | Some(CALM | PROTOCOL | COMPRESSION)), "{name}");
    }
    assert!(recorder.arrived().is_empty());
}

#[tokio::test(flavor = "multi_thread")]
async fn header_bombs_are_not_unpacked() {
    let (to, recorder, _proxy) = quick().await;
    let mut peer = Peer::greeted(to).await;
    // Four kilobytes enter the table, and each byte after them says them again.
    let planted = [vec![0x40, 1, b'x'], integer(0, 7, 4000), vec![b'y'; 4000]].concat();
    let bomb = frame(HEADERS, END | END_HEADERS, 1, &[block(&GET), planted, vec![0xbe; 12_000]].concat());
    assert!(peer.write(&bomb).await);
    let mut refused = false;
    while let Some(frame) = peer.next().await {
        refused |= matches!(frame.kind, GOAWAY | RST_STREAM);
        refused |= frame.kind == HEADERS && frame.status() == Some(431);
        if refused {
            break;
        }
    }
    assert!(refused);
    assert!(recorder.arrived().is_empty());
}

#[tokio::test(flavor = "multi_thread")]
async fn what_must_be_acknowledged_is_not_piled_up() {
    let (to, _recorder, _proxy) = quick().await;
    for (name, piece) in [
        ("PING", frame(PING, 0, 0, &[0; 8])),
        ("SETTINGS", frame(SETTINGS, 0, 0, &[])),
        ("requests that are refused", frames::get(1, &[("connection", "close")])),
    ] {
        let mut peer = Peer::greeted(to).await;
        let most = 32 * 1024 * 1024 / 16_000;
        let pieces = piece.repeat(16_000 / piece.len());
        let count = pour(&mut peer.stream, &pieces, most).await;
        assert!(count < most, "{name}: 32 MiB taken, and no acknowledgement read");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn empty_frames_are_nothing() {
    let (to, recorder, _proxy) = quick().await;
    for piece in [frame(DATA, 0, 1, &[]), frame(DATA, PADDED, 1, &[0])] {
        let mut peer = Peer::greeted(to).await;
        assert!(peer.write(&post(1, &[])).await);
        let pieces = piece.repeat(1000);
        let taken = pour(&mut peer.stream, &pieces, 200).await;
        // Taken as nothing, or the connection is ended.
        if taken == 200 && peer.write(&frame(DATA, END, 1, &[])).await {
            let mut status = None;
            while let Some(frame) = peer.next().await {
                match frame.kind {
                    HEADERS => status = frame.status(),
                    GOAWAY => status = Some(0),
                    _ => continue,
                }
                break;
            }
            assert!(status.is_some(), "neither answered nor ended");
        }
    }
    assert!(recorder.arrived().iter().all(|arrived| arrived.message.body.is_empty()));
}

/// An endpoint whose answers are 256 MiB; what of them was taken.
struct Spring {
    endpoint: Endpoint,
    taken: Arc<AtomicU64>,
    task: tokio::task::JoinHandle<()>,
}

const SPRING: u64 = 256 * 1024 * 1024;

impl Spring {
    async fn start() -> Self {
        let listener = TcpListener::bind((ip(), 8080)).await.unwrap();
        let address = listener.local_addr().unwrap();
        let taken = Arc::new(AtomicU64::new(0));
        let counted = taken.clone();
        let task = tokio::spawn(async move {
            loop {
                let (mut stream, _) = listener.accept().await.unwrap();
                let counted = counted.clone();
                tokio::spawn(async move {
                    let mut head = [0; 4096];
                    if stream.read(&mut head).await.unwrap_or(0) == 0 {
                        return;
                    }
                    let head = format!("HTTP/1.1 200 OK\r\ncontent-length: {SPRING}\r\n\r\n");
                    let _ = stream.write_all(head.as_bytes()).await;
                    let piece = vec![b'x'; 64 * 1024];
                    while let Ok(count @ 1..) = stream.write(&piece).await {
                        counted.fetch_add(count as u64, Ordering::Relaxed);
                    }
                });
            }
        });
        let endpoint = Endpoint { name: "spring".into(), address, version: "v1".into(), weight: 1 };
        Self { endpoint, taken, task }
    }

    /// Waits until nothing more is taken; how much was.
    async fn at_rest(&self) -> u64 {
        let mut before = 0;
        loop {
            tokio::time::sleep(Duration::from_millis(300)).await;
            let now = self.taken.load(Ordering::Relaxed);
            if now == before && now > 0 {
                return now;
            }
            before = now;
        }
    }
}

impl Drop for Spring {
    fn drop(&mut self) {
        self.task.abort();
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn answers_wait_for_those_who_read_them() {
    let spring = Spring::start().await;
    let mut snapshot = plain(spring.endpoint.clone(), Direction::Gateway);
    for route in &mut hosts(&mut snapshot)[0].routes {
        if let RouteAction::Forward(forward) = &mut route.action {
            forward.timeout = Duration::ZERO;
        }
    }
    let to = snapshot.listeners[0].address;
    let _proxy = Proxy::start(&snapshot);
    // HTTP/1.1: the kernel's buffers fill, and the proxy's.
    let mut plain = TcpStream::connect(to).await.unwrap();
    plain.write_all(b"GET / HTTP/1.1\r\nhost: fx\r\n\r\n").await.unwrap();
    let taken = spring.at_rest().await;
    assert!(taken <= 24 * 1024 * 1024, "{taken} bytes for a caller that reads nothing");
    // HTTP/2: streams without a window.
    let mut peer = Peer::greeted(to).await;
    assert!(peer.write(&frame(SETTINGS, 0, 0, &setting(4, 0))).await);
    for stream in 0..20u32 {
        assert!(peer.write(&frames::get(1 + 2 * stream, &[])).await);
    }
    let taken = spring.at_rest().await - taken;
    assert!(taken <= 20 * 8 * 1024 * 1024, "{taken} bytes for streams without a window");
    assert!(taken < 20 * SPRING);
}

#[tokio::test(flavor = "multi_thread")]
async fn bodies_that_never_end_are_cut() {
    let recorder = Recorder::start(Reply::ok).await;
    let mut snapshot = plain(recorder.endpoint(), Direction::Gateway);
    // The drip is never silent for that long, and less than the least rate.
    *limits(&mut snapshot) = Limits { body_timeout: Duration::from_millis(300), ..Limits::default() };
    let to = snapshot.listeners[0].address;
    let _proxy = Proxy::start(&snapshot);
    for head in ["content-length: 100000", "transfer-encoding: chunked"] {
        let mut stream = TcpStream::connect(to).await.unwrap();
        let head = format!("POST / HTTP/1.1\r\nhost: fx\r\n{head}\r\n\r\n");
        stream.write_all(head.as_bytes()).await.unwrap();
        let (mut reading, mut writing) = stream.split();
        let drip = async {
            loop {
                let _ = writing.write_all(b"1\r\nx\r\n").await;
                tokio::time::sleep(Duration::from_millis(20)).await;
            }
        };
        let mut answer = Vec::new();
        let read = tokio::time::timeout(Duration::from_secs(10), reading.read_to_end(&mut answer));
        tokio::select! {
            ended = read => assert!(ended.is_ok(), "never closed: {:?}", String::from_utf8_lossy(&answer)),
            () = drip => {}
        }
        assert!(answer.starts_with(b"HTTP/1.1 408"), "{:?}", String::from_utf8_lossy(&answer));
    }
    assert!(recorder.arrived().is_empty());
}

#[tokio::test(flavor = "multi_thread")]
async fn silence_over_http2_is_cut() {
    let recorder = Recorder::start(Reply::ok).await;
    let mut snapshot = plain(recorder.endpoint(), Direction::Gateway);
    *limits(&mut snapshot) = Limits {
        header_timeout: Duration::from_millis(200),
        idle_timeout: Duration::from_millis(300),
        ..Limits::default()
    };
    let to = snapshot.listeners[0].address;
    let _proxy = Proxy::start(&snapshot);
    let settings = frame(SETTINGS, 0, 0, &[]);
    let mut open = Vec::new();
    for (name, bytes) in [
        ("half a preface", PREFACE[..10].to_vec()),
        ("a preface", PREFACE.to_vec()),
        ("settings", [PREFACE, &settings].concat()),
        ("half a frame", [PREFACE, &settings, &frames::get(1, &[])[..12]].concat()),
        ("half a header block", [PREFACE, &settings, &frame(HEADERS, END, 1, &block(&GET))].concat()),
        ("a request, then nothing", [PREFACE, &settings, &frames::get(1, &[])].concat()),
    ] {
        let mut peer = Peer::connect(to).await;
        assert!(peer.write(&bytes).await);
        let mut rest = Vec::new();
        if tokio::time::timeout(Duration::from_secs(5), peer.stream.read_to_end(&mut rest)).await.is_err() {
            open.push(name);
        }
    }
    assert!(open.is_empty(), "{open:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn idle_connections_have_a_bound() {
    let recorder = Recorder::start(Reply::ok).await;
    let mut snapshot = plain(recorder.endpoint(), Direction::Gateway);
    limits(&mut snapshot).connections = 100;
    let to = snapshot.listeners[0].address;
    let proxy = Proxy::start(&snapshot);
    let mut held = Vec::new();
    for _ in 0..300 {
        held.push(TcpStream::connect(to).await.unwrap());
    }
    let refused = |proxy: &Proxy| {
        let metrics = proxy.admin("/metrics").unwrap().1;
        metrics.lines().any(|line| line.contains("connections") && line.ends_with(" 200"))
    };
    tokio::task::block_in_place(|| proxy.until("200 of 300 refused", refused));
    drop(held);
    let answered = |_: &Proxy| {
        let request = http1(to, crate::support::get("/"));
        tokio::runtime::Handle::current().block_on(request).is_ok_and(|reply| reply.status == 200)
    };
    tokio::task::block_in_place(|| proxy.until("room again", answered));
}
