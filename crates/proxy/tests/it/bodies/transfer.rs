//! Bodies of any size that are made, and compared byte by byte, on the way; an endpoint and a caller for them.

use std::{
    net::SocketAddr,
    pin::Pin,
    sync::{
        Arc, OnceLock,
        atomic::{AtomicU64, Ordering},
    },
    task::{Context, Poll, ready},
    time::Duration,
};

use bytes::Bytes;
use http_body_util::{BodyExt, Full, combinators::BoxBody};
use hyper::{
    Request, Response,
    body::{Body, Frame, Incoming, SizeHint},
    header::CONTENT_LENGTH,
    service::service_fn,
};
use hyper_util::rt::{TokioExecutor, TokioIo};
use tokio::{
    net::{TcpListener, TcpStream},
    task::JoinHandle,
    time::{Instant, Sleep, sleep},
};

/// What the bytes repeat after: prime, so that a piece that is lost, doubled or moved shows.
const PERIOD: usize = 1_048_573;
/// Bytes sent at once.
const PIECE: usize = 64 * 1024;
/// A slow side takes or gives so many pieces one by one, with a pause between, and is quick then.
const SLOW_PIECES: u32 = 24;
const PAUSE: Duration = Duration::from_millis(2);
/// Nothing moved for this long: whatever buffers there are between the two are full.
const REST: Duration = Duration::from_millis(200);

/// One period, and a piece of the next.
fn period() -> &'static Bytes {
    static PERIOD_BYTES: OnceLock<Bytes> = OnceLock::new();
    PERIOD_BYTES.get_or_init(|| {
        let mut random = fastrand::Rng::with_seed(11);
        let mut bytes: Vec<u8> = (0..PERIOD).map(|_| random.u8(..)).collect();
        bytes.extend_from_within(..PIECE);
        bytes.into()
    })
}

fn piece(at: u64, most: u64) -> Bytes {
    let from = usize::try_from(at % PERIOD as u64).unwrap();
    let length = usize::try_from(most).unwrap_or(PIECE).min(PIECE);
    period().slice(from..from + length)
}

/// How fast the two sides are.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Pace {
    Fast,
    SlowReader,
    SlowWriter,
}

/// What is spoken on both sides of the proxy.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Protocol {
    Http1,
    Http2,
}

/// One body through the proxy.
#[derive(Clone, Copy, Debug)]
pub struct Transfer {
    pub size: u64,
    /// Whether the sender tells the length first.
    pub told: bool,
    pub pace: Pace,
    pub protocol: Protocol,
    /// From the caller to the endpoint.
    pub up: bool,
}

/// A body of the pattern.
struct Pattern {
    at: u64,
    size: u64,
    told: bool,
    slow: u32,
    pause: Pin<Box<Sleep>>,
    sent: Arc<AtomicU64>,
}

impl Pattern {
    fn new(transfer: &Transfer, sent: Arc<AtomicU64>) -> Self {
        let slow = if transfer.pace == Pace::SlowWriter { SLOW_PIECES } else { 0 };
        sent.store(0, Ordering::SeqCst);
        Self { at: 0, size: transfer.size, told: transfer.told, slow, pause: Box::pin(sleep(Duration::ZERO)), sent }
    }
}

impl Body for Pattern {
    type Data = Bytes;
    type Error = std::io::Error;

    fn poll_frame(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, Self::Error>>> {
        if self.at == self.size {
            return Poll::Ready(None);
        }
        let mut most = self.size - self.at;
        if self.slow > 0 {
            ready!(self.pause.as_mut().poll(cx));
            self.slow -= 1;
            self.pause.as_mut().reset(Instant::now() + PAUSE);
            most = most.min(1000);
        }
        let piece = piece(self.at, most);
        self.at += piece.len() as u64;
        self.sent.store(self.at, Ordering::SeqCst);
        Poll::Ready(Some(Ok(Frame::data(piece))))
    }

    fn is_end_stream(&self) -> bool {
        self.told && self.at == self.size
    }

    fn size_hint(&self) -> SizeHint {
        if self.told { SizeHint::with_exact(self.size - self.at) } else { SizeHint::default() }
    }
}

/// Reads a body of the pattern to its end; how many bytes the sender was ahead of a reader that paused, at most.
async fn check(mut body: Incoming, transfer: &Transfer, sent: &AtomicU64) -> Result<u64, String> {
    let (mut at, mut ahead, mut frames) = (0u64, 0, 0);
    while let Some(frame) = body.frame().await {
        let frame = frame.map_err(|error| format!("after {at} bytes: {error:?}"))?;
        let mut data = frame.into_data().map_err(|frame| format!("not data: {frame:?}"))?;
        while !data.is_empty() {
            let expected = piece(at, data.len() as u64);
            if data.split_to(expected.len()) != expected {
                return Err(format!("other bytes from {at} on"));
            }
            at += expected.len() as u64;
        }
        if transfer.pace == Pace::SlowReader && frames < SLOW_PIECES {
            if frames == 0 {
                ahead = at_rest(sent, transfer.size).await.saturating_sub(at);
            }
            frames += 1;
            sleep(PAUSE).await;
        }
    }
    if at == transfer.size { Ok(ahead) } else { Err(format!("{at} bytes")) }
}

/// What is sent when nothing moves any more.
async fn at_rest(sent: &AtomicU64, size: u64) -> u64 {
    let mut before = 0;
    loop {
        let now = sent.load(Ordering::SeqCst);
        if now == size || now == before && now > 0 {
            return now;
        }
        before = now;
        sleep(REST).await;
    }
}

/// An endpoint that gives or takes bodies of the pattern.
pub struct Endpoint {
    pub address: SocketAddr,
    sent: Arc<AtomicU64>,
    task: JoinHandle<()>,
}

impl Endpoint {
    pub async fn start(listen: SocketAddr, protocol: Protocol) -> Self {
        let listener = TcpListener::bind(listen).await.unwrap();
        let address = listener.local_addr().unwrap();
        let sent = Arc::new(AtomicU64::new(0));
        let shared = sent.clone();
        let task = tokio::spawn(async move {
            loop {
                let (stream, _) = listener.accept().await.unwrap();
                let sent = shared.clone();
                let service = service_fn(move |request| answer(request, protocol, sent.clone()));
                let io = TokioIo::new(stream);
                tokio::spawn(async move {
                    // A connection that ends early is the transfer's failure.
                    match protocol {
                        Protocol::Http1 => {
                            let _ = hyper::server::conn::http1::Builder::new().serve_connection(io, service).await;
                        }
                        Protocol::Http2 => {
                            let builder = hyper::server::conn::http2::Builder::new(TokioExecutor::new());
                            let _ = builder.serve_connection(io, service).await;
                        }
                    }
                });
            }
        });
        Self { address, sent, task }
    }
}

impl Drop for Endpoint {
    fn drop(&mut self) {
        self.task.abort();
    }
}

async fn answer(
    request: Request<Incoming>,
    protocol: Protocol,
    sent: Arc<AtomicU64>,
) -> Result<Response<BoxBody<Bytes, std::io::Error>>, std::io::Error> {
    let words: Vec<&str> = request.uri().path().split('/').collect();
    let [_, size, told, pace] = words[..] else { return Err(std::io::Error::other("another path")) };
    let pace = match pace {
        "SlowReader" => Pace::SlowReader,
        "SlowWriter" => Pace::SlowWriter,
        _ => Pace::Fast,
    };
    let up = request.method() == hyper::Method::POST;
    let transfer = Transfer { size: size.parse().unwrap(), told: told == "true", pace, protocol, up };
    if !up {
        return Ok(Response::new(Pattern::new(&transfer, sent).boxed()));
    }
    let framed = framing(&transfer, request.headers());
    let checked = check(request.into_body(), &transfer, &sent).await;
    let text = match framed.and(checked) {
        Ok(ahead) => ahead.to_string(),
        Err(reason) => format!("endpoint: {reason}"),
    };
    Ok(Response::new(Full::from(text).map_err(|never| match never {}).boxed()))
}

/// The length passes as it was told; an empty body is told as one pleases.
fn framing(transfer: &Transfer, headers: &hyper::HeaderMap) -> Result<(), String> {
    let length = headers.get(CONTENT_LENGTH).and_then(|length| length.to_str().ok()?.parse::<u64>().ok());
    let right = if transfer.told { length == Some(transfer.size) } else { length.is_none() };
    if right || transfer.size == 0 { Ok(()) } else { Err(format!("content-length {length:?}")) }
}

impl Transfer {
    /// Makes it through the proxy at `to`; how many bytes the sender was ahead of a reader that paused.
    pub async fn run(&self, to: SocketAddr, endpoint: &Endpoint) -> Result<u64, String> {
        let bound = Duration::from_secs(120);
        let result = tokio::time::timeout(bound, self.go(to, endpoint)).await;
        result.unwrap_or_else(|_| Err("no end".into())).map_err(|reason| format!("{self:?}: {reason}"))
    }

    async fn go(&self, to: SocketAddr, endpoint: &Endpoint) -> Result<u64, String> {
        let uri = format!("http://fx/{}/{}/{:?}", self.size, self.told, self.pace);
        let request = Request::builder().header("host", "fx").method(if self.up { "POST" } else { "GET" });
        let request = match self.protocol {
            Protocol::Http1 => request.uri(uri.trim_start_matches("http://fx")),
            Protocol::Http2 => request.uri(&uri),
        };
        let body = if self.up {
            Pattern::new(self, endpoint.sent.clone()).boxed()
        } else {
            Full::default().map_err(|never| match never {}).boxed()
        };
        let response = send(to, self.protocol, request.body(body).unwrap()).await?;
        if response.status() != 200 {
            return Err(response.status().to_string());
        }
        if self.up {
            let text = response.into_body().collect().await.map_err(|error| error.to_string())?.to_bytes();
            let text = String::from_utf8_lossy(&text).into_owned();
            return text.parse().map_err(|_| text);
        }
        framing(self, response.headers())?;
        check(response.into_body(), self, &endpoint.sent).await
    }
}

async fn send(
    to: SocketAddr,
    protocol: Protocol,
    request: Request<BoxBody<Bytes, std::io::Error>>,
) -> Result<Response<Incoming>, String> {
    let io = TokioIo::new(TcpStream::connect(to).await.map_err(|error| error.to_string())?);
    let sent = match protocol {
        Protocol::Http1 => {
            let (mut sender, connection) = hyper::client::conn::http1::handshake(io).await.map_err(say)?;
            tokio::spawn(connection);
            sender.send_request(request).await
        }
        Protocol::Http2 => {
            let executor = TokioExecutor::new();
            let (mut sender, connection) = hyper::client::conn::http2::handshake(executor, io).await.map_err(say)?;
            tokio::spawn(connection);
            sender.send_request(request).await
        }
    };
    sent.map_err(say)
}

fn say(error: hyper::Error) -> String {
    format!("{error:?}")
}
