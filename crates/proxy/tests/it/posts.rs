//! POSTs over kept connections to endpoints that end their connections at any byte: none runs twice, and none is lost in
//! silence. `FIREDRILL_POSTS` sets how many.

use std::{
    net::SocketAddr,
    sync::{
        Arc,
        atomic::{AtomicU8, AtomicUsize, Ordering},
    },
    time::Duration,
};

use bytes::Bytes;
use http::{Request, StatusCode};
use http_body_util::{BodyExt, StreamBody};
use hyper::body::Frame;
use hyper_util::rt::{TokioExecutor, TokioIo};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{TcpListener, TcpStream},
};
use xds::snapshot::{Direction, Endpoint, Snapshot, UpstreamProtocol};

use crate::support::*;

/// The largest body.
const MOST: usize = 256 * 1024;
/// Callers at once.
const CALLERS: usize = 8;

/// What the endpoints know of each request: how often its head came, and how often all of it did.
struct Seen {
    begun: Vec<AtomicU8>,
    whole: Vec<AtomicU8>,
}

impl Seen {
    fn new(count: usize) -> Arc<Self> {
        let zeros = || (0..count).map(|_| AtomicU8::new(0)).collect();
        Arc::new(Self { begun: zeros(), whole: zeros() })
    }
}

/// What an endpoint does with a request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Fate {
    Answer,
    /// Answers, and closes.
    AnswerAndClose,
    /// Ends the connection after so many bytes of the body, with a reset or without.
    End {
        after: usize,
        reset: bool,
    },
}

fn fate(random: &mut fastrand::Rng, length: usize) -> Fate {
    match random.u8(..100) {
        0..70 => Fate::Answer,
        70..76 => Fate::AnswerAndClose,
        number => Fate::End { after: random.usize(..=length), reset: number % 2 == 0 },
    }
}

fn number(path: &str) -> usize {
    path.trim_start_matches('/').parse().unwrap()
}

/// An endpoint that speaks HTTP/1.1, one connection.
async fn over_http1(mut stream: TcpStream, seen: Arc<Seen>, mut random: fastrand::Rng) -> std::io::Result<()> {
    let mut input = Vec::new();
    loop {
        let end = loop {
            match input.windows(4).position(|four| four == b"\r\n\r\n") {
                Some(end) => break end + 4,
                None if stream.read_buf(&mut input).await? == 0 => return Ok(()),
                None => {}
            }
        };
        let head = String::from_utf8(input.drain(..end).collect()).unwrap();
        let number = number(head.split(' ').nth(1).unwrap());
        seen.begun[number].fetch_add(1, Ordering::SeqCst);
        let length = head.lines().find_map(|line| line.strip_prefix("content-length: ")?.parse().ok());
        // In chunks, their end is what no body contains.
        let whole = |input: &[u8]| match length {
            Some(length) => (input.len() >= length).then_some(length),
            None => input.windows(7).position(|seven| seven == b"\r\n0\r\n\r\n").map(|end| end + 7),
        };
        let fate = fate(&mut random, length.unwrap_or(MOST / 2));
        let length = loop {
            let done = whole(&input);
            if let Fate::End { after, reset } = fate
                && (input.len() >= after || done.is_some())
            {
                // All that was sent may have come: then it has run.
                if done.is_some() {
                    seen.whole[number].fetch_add(1, Ordering::SeqCst);
                }
                if reset {
                    socket2::SockRef::from(&stream).set_linger(Some(Duration::ZERO))?;
                }
                return Ok(());
            }
            if let Some(length) = done {
                break length;
            }
            if stream.read_buf(&mut input).await? == 0 {
                return Ok(());
            }
        };
        input.drain(..length);
        seen.whole[number].fetch_add(1, Ordering::SeqCst);
        stream.write_all(b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nok").await?;
        if fate == Fate::AnswerAndClose {
            return Ok(());
        }
    }
}

/// An endpoint that speaks HTTP/2, one connection: it ends streams, and now and then all of them.
async fn over_http2(stream: TcpStream, seen: Arc<Seen>, random: fastrand::Rng) {
    let Ok(mut connection) = h2::server::handshake(stream).await else { return };
    let random = Arc::new(std::sync::Mutex::new(random));
    let (over, mut ended) = tokio::sync::mpsc::channel::<()>(1);
    loop {
        let accepted = tokio::select! {
            accepted = connection.accept() => accepted,
            _ = ended.recv() => return,
        };
        let Some(Ok((request, mut respond))) = accepted else { return };
        let (seen, over) = (seen.clone(), over.clone());
        let number = number(request.uri().path());
        seen.begun[number].fetch_add(1, Ordering::SeqCst);
        let fate = fate(&mut random.lock().unwrap(), MOST / 8);
        tokio::spawn(async move {
            let mut body = request.into_body();
            let mut read = 0;
            while let Some(data) = body.data().await {
                let Ok(data) = data else { return };
                read += data.len();
                let _ = body.flow_control().release_capacity(data.len());
                if let Fate::End { after, reset } = fate
                    && read >= after
                {
                    if reset {
                        respond.send_reset(h2::Reason::INTERNAL_ERROR);
                    } else {
                        let _ = over.try_send(());
                    }
                    return;
                }
            }
            seen.whole[number].fetch_add(1, Ordering::SeqCst);
            if let Fate::End { .. } = fate {
                let _ = over.try_send(());
                return;
            }
            if let Ok(mut to) = respond.send_response(http::Response::new(()), false) {
                let _ = to.send_data(Bytes::from_static(b"ok"), true);
            }
        });
    }
}

async fn endpoint(protocol: UpstreamProtocol, seen: &Arc<Seen>, name: &str, seed: u64) -> Endpoint {
    let listener = TcpListener::bind(SocketAddr::new(ip(), 8080)).await.unwrap();
    let address = listener.local_addr().unwrap();
    let seen = seen.clone();
    tokio::spawn(async move {
        let mut seeds = fastrand::Rng::with_seed(seed);
        while let Ok((stream, _)) = listener.accept().await {
            let (seen, random) = (seen.clone(), seeds.fork());
            if protocol == UpstreamProtocol::Http2 {
                tokio::spawn(over_http2(stream, seen, random));
            } else {
                tokio::spawn(over_http1(stream, seen, random));
            }
        }
    });
    Endpoint { name: name.into(), address, version: "v1".into(), weight: 1 }
}

type Sent = StreamBody<futures_util::stream::Iter<std::vec::IntoIter<Result<Frame<Bytes>, std::io::Error>>>>;

/// A body in pieces, so that it leaves in more than one write.
fn body(random: &mut fastrand::Rng) -> (usize, Sent) {
    // As many small ones as large ones.
    let length = (1usize << random.u32(..=18)).min(MOST);
    let length = random.usize(length / 2..=length).max(1);
    let mut left = length;
    let mut pieces = Vec::new();
    while left > 0 {
        let piece = random.usize(1..=left.min(40_000)).max(left.min(1000));
        left -= piece;
        pieces.push(Ok(Frame::data(Bytes::from(vec![b'x'; piece]))));
    }
    (length, StreamBody::new(futures_util::stream::iter(pieces)))
}

enum Sender {
    Http1(hyper::client::conn::http1::SendRequest<Sent>),
    Http2(hyper::client::conn::http2::SendRequest<Sent>),
}

impl Sender {
    async fn connect(to: SocketAddr, http2: bool) -> Self {
        let io = TokioIo::new(TcpStream::connect(to).await.unwrap());
        if http2 {
            let (sender, connection) = hyper::client::conn::http2::handshake(TokioExecutor::new(), io).await.unwrap();
            tokio::spawn(connection);
            return Self::Http2(sender);
        }
        let (sender, connection) = hyper::client::conn::http1::handshake(io).await.unwrap();
        tokio::spawn(connection);
        Self::Http1(sender)
    }

    async fn ready(&mut self) -> bool {
        match self {
            Self::Http1(sender) => sender.ready().await.is_ok(),
            Self::Http2(sender) => sender.ready().await.is_ok(),
        }
    }

    /// The status, once the answer is whole.
    async fn send(&mut self, request: Request<Sent>) -> Result<StatusCode, String> {
        let answer = match self {
            Self::Http1(sender) => sender.send_request(request).await,
            Self::Http2(sender) => sender.send_request(request).await,
        };
        let answer = answer.map_err(|error| format!("{error:?}"))?;
        let status = answer.status();
        answer.into_body().collect().await.map_err(|error| format!("{error:?}"))?;
        Ok(status)
    }
}

/// What came of it at the callers.
#[derive(Debug, Default)]
struct Outcome {
    answered: AtomicUsize,
    told: AtomicUsize,
    wrong: std::sync::Mutex<Vec<String>>,
}

async fn call(to: SocketAddr, http2: bool, numbers: Vec<usize>, seen: Arc<Seen>, outcome: Arc<Outcome>) {
    let mut sender = Sender::connect(to, http2).await;
    for number in numbers {
        if !sender.ready().await {
            sender = Sender::connect(to, http2).await;
            assert!(sender.ready().await);
        }
        let mut random = fastrand::Rng::with_seed(number as u64);
        let (length, body) = body(&mut random);
        let uri = if http2 { format!("http://fx/{number}") } else { format!("/{number}") };
        let mut request = Request::post(uri).header("host", "fx");
        if random.u8(..4) > 0 {
            request = request.header("content-length", length);
        }
        let answer = tokio::time::timeout(Duration::from_secs(30), sender.send(request.body(body).unwrap())).await;
        let ran = seen.whole[number].load(Ordering::SeqCst);
        let wrong = match answer {
            Ok(Ok(StatusCode::OK)) if ran == 1 => {
                outcome.answered.fetch_add(1, Ordering::Relaxed);
                continue;
            }
            Ok(Ok(status)) if status.is_server_error() => {
                outcome.told.fetch_add(1, Ordering::Relaxed);
                continue;
            }
            other => format!("{number} of {length} bytes ran {ran} times, and its caller heard {other:?}"),
        };
        outcome.wrong.lock().unwrap().push(wrong);
    }
}

async fn posts(count: usize, http2: bool, protocol: UpstreamProtocol) {
    let seen = Seen::new(count);
    let east = endpoint(protocol, &seen, "fx-1", 1).await;
    let west = endpoint(protocol, &seen, "fx-2", 2).await;
    let mut snapshot: Snapshot = plain(east, Direction::Outbound);
    snapshot.endpoints[0].localities[0].endpoints.push(west);
    snapshot.clusters[0].protocol = protocol;
    snapshot.routes = vec![routes("fx", Some(retry()), Some(hedge()))];
    for route in &mut hosts(&mut snapshot)[0].routes {
        if let xds::snapshot::RouteAction::Forward(forward) = &mut route.action {
            forward.timeout = Duration::from_secs(20);
            forward.retry.as_mut().unwrap().per_try = None;
        }
    }
    let proxy = Proxy::with(&snapshot, None, |options| options.access_log = None);
    let outcome = Arc::<Outcome>::default();
    let callers = (0..CALLERS).map(|caller| {
        let numbers = (caller..count).step_by(CALLERS).collect();
        tokio::spawn(call(snapshot.listeners[0].address, http2, numbers, seen.clone(), outcome.clone()))
    });
    for caller in callers.collect::<Vec<_>>() {
        caller.await.unwrap();
    }
    drop(proxy);
    let context = format!("HTTP/2 in front: {http2}, behind: {protocol:?}");
    let twice: Vec<usize> = (0..count).filter(|n| seen.begun[*n].load(Ordering::SeqCst) > 1).collect();
    let wrong = outcome.wrong.lock().unwrap();
    assert!(
        twice.is_empty(),
        "{context}: {} of {count} were sent twice: {:?}",
        twice.len(),
        &twice[..twice.len().min(9)]
    );
    assert!(wrong.is_empty(), "{context}: {} of {count}: {:?}", wrong.len(), &wrong[..wrong.len().min(9)]);
    let (answered, told) = (outcome.answered.load(Ordering::Relaxed), outcome.told.load(Ordering::Relaxed));
    println!("{context}: {count} POSTs, {answered} answered, {told} told that they failed, none twice");
    // Both kinds of ends were met, or this would say nothing.
    assert!(answered > count / 4 && told > count / 50, "{context}: {answered} answered, {told} told");
}

#[tokio::test(flavor = "multi_thread")]
async fn no_post_runs_twice_and_none_is_lost_in_silence() {
    let count = std::env::var("FIREDRILL_POSTS").ok().map_or(1200, |count| count.parse().unwrap());
    for http2 in [false, true] {
        for protocol in [UpstreamProtocol::Http1, UpstreamProtocol::Http2] {
            posts(count / 4, http2, protocol).await;
        }
    }
}
