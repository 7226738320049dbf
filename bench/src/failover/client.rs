//! An open-loop client: requests are due at fixed times, whether or not earlier ones were answered, and latency counts from
//! then on (no coordinated omission).

use std::{
    net::SocketAddr,
    sync::{Arc, Mutex, PoisonError},
    time::{Duration, Instant},
};

use bytes::Bytes;
use http::{HeaderMap, Request, Response, StatusCode};
use http_body_util::{BodyExt as _, Full};
use hyper::{
    body::Incoming,
    client::conn::{http1, http2},
};
use hyper_util::rt::{TokioExecutor, TokioIo};
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::TcpStream,
    sync::mpsc,
};

use super::measure::{Outcome, Record};

/// A request that takes longer has failed.
const TIMEOUT: Duration = Duration::from_secs(5);
/// Connections of HTTP/2 that requests are spread over.
const CONNECTIONS: usize = 4;
/// Body of a request that is not idempotent.
const POSTED: &[u8] = &[b'p'; 128];
/// A gRPC message: not compressed, 16 bytes long.
const MESSAGE: &[u8] = b"\0\0\0\0\x10sixteen bytes ok";

/// What is asked.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// HTTP/1.1, idempotent.
    Get,
    /// HTTP/1.1, not idempotent.
    Post,
    /// HTTP/2, idempotent.
    H2Get,
    /// HTTP/2, not idempotent.
    H2Post,
    /// A unary call.
    Grpc,
    /// A connection for each: one line there, one line back.
    Tcp,
}

impl Kind {
    /// Whether it is spoken over HTTP/2.
    pub fn h2(self) -> bool {
        matches!(self, Self::H2Get | Self::H2Post | Self::Grpc)
    }

    /// For people and for `FAILOVER`.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Get => "get",
            Self::Post => "post",
            Self::H2Get => "h2-get",
            Self::H2Post => "h2-post",
            Self::Grpc => "grpc",
            Self::Tcp => "tcp",
        }
    }
}

/// A client at work. Dropping it stops it; what is in flight still ends.
#[derive(Debug)]
pub struct Client {
    records: Arc<Mutex<Vec<Record>>>,
    working: tokio::task::JoinHandle<()>,
    stop: Arc<()>,
}

impl Client {
    /// Begins to send at a rate a second.
    pub fn start(target: SocketAddr, kind: Kind, rate: u32) -> Self {
        let records = Arc::new(Mutex::new(Vec::new()));
        let stop = Arc::new(());
        let due = pace(rate, Arc::downgrade(&stop));
        let way = Arc::new(Way { target, kind, idle: Mutex::default(), shared: Mutex::default() });
        let working = tokio::spawn(work(due, way, records.clone()));
        Self { records, working, stop }
    }

    /// A look at what is over so far.
    pub fn look<T>(&self, look: impl FnOnce(&[Record]) -> T) -> T {
        look(&self.records.lock().unwrap_or_else(PoisonError::into_inner))
    }

    /// Stops sending, waits for what is in flight, and gives all records.
    pub async fn end(self) -> Vec<Record> {
        drop(self.stop);
        // A panic in there would leave fewer records, which the figures show.
        let _ = self.working.await;
        std::mem::take(&mut *self.records.lock().unwrap_or_else(PoisonError::into_inner))
    }
}

/// Due times, told at the time. A thread of its own, since the runtime's timers are a millisecond coarse.
fn pace(rate: u32, stop: std::sync::Weak<()>) -> mpsc::UnboundedReceiver<Instant> {
    let (tell, told) = mpsc::unbounded_channel();
    let interval = Duration::from_secs(1) / rate.max(1);
    std::thread::spawn(move || {
        let mut due = Instant::now();
        while stop.strong_count() > 0 {
            #[allow(clippy::disallowed_methods, reason = "this thread carries no runtime")]
            std::thread::sleep(due.saturating_duration_since(Instant::now()));
            if tell.send(due).is_err() {
                return;
            }
            due += interval;
        }
    });
    told
}

async fn work(mut due: mpsc::UnboundedReceiver<Instant>, way: Arc<Way>, records: Arc<Mutex<Vec<Record>>>) {
    let mut flying = tokio::task::JoinSet::new();
    while let Some(due) = due.recv().await {
        let (way, records) = (way.clone(), records.clone());
        flying.spawn(async move {
            let deadline = tokio::time::Instant::from_std(due + TIMEOUT);
            let asked = tokio::time::timeout_at(deadline, way.ask()).await;
            let outcome = match asked {
                Err(_) => Outcome::Failed("timeout".to_owned()),
                Ok(Err(how)) => Outcome::Failed(how),
                Ok(Ok(origin)) => Outcome::Answered(origin),
            };
            let record = Record { due, done: Instant::now(), outcome };
            records.lock().unwrap_or_else(PoisonError::into_inner).push(record);
        });
        while flying.try_join_next().is_some() {}
    }
    while flying.join_next().await.is_some() {}
}

type Body = Full<Bytes>;

struct Way {
    target: SocketAddr,
    kind: Kind,
    /// Connections of HTTP/1.1 that nobody uses.
    idle: Mutex<Vec<http1::SendRequest<Body>>>,
    /// Connections of HTTP/2, used by all in turns.
    shared: Mutex<Vec<http2::SendRequest<Body>>>,
}

impl Way {
    /// The origin that answered, or what went wrong.
    async fn ask(&self) -> Result<String, String> {
        match self.kind {
            Kind::Tcp => self.ask_line().await,
            Kind::Get | Kind::Post => self.ask_http1().await,
            Kind::H2Get | Kind::H2Post | Kind::Grpc => self.ask_http2().await,
        }
    }

    async fn ask_http1(&self) -> Result<String, String> {
        let kept = self.idle.lock().unwrap_or_else(PoisonError::into_inner).pop();
        let mut sender = match kept {
            Some(sender) => sender,
            None => {
                let connected = http1::handshake(TokioIo::new(self.connect().await?)).await;
                let (sender, connection) = connected.map_err(|_| "refused".to_owned())?;
                tokio::spawn(connection);
                sender
            }
        };
        sender.ready().await.map_err(|_| "closed".to_owned())?;
        let response = sender.send_request(self.request()?).await.map_err(|_| "closed".to_owned())?;
        let origin = judge(response, false).await?;
        self.idle.lock().unwrap_or_else(PoisonError::into_inner).push(sender);
        Ok(origin)
    }

    async fn ask_http2(&self) -> Result<String, String> {
        let kept = {
            let mut shared = self.shared.lock().unwrap_or_else(PoisonError::into_inner);
            shared.retain(|sender| !sender.is_closed());
            (shared.len() >= CONNECTIONS).then(|| {
                shared.rotate_left(1);
                shared[0].clone()
            })
        };
        let mut sender = match kept {
            Some(sender) => sender,
            None => {
                let io = TokioIo::new(self.connect().await?);
                let connected = http2::handshake(TokioExecutor::new(), io).await;
                let (sender, connection) = connected.map_err(|_| "refused".to_owned())?;
                tokio::spawn(connection);
                let mut shared = self.shared.lock().unwrap_or_else(PoisonError::into_inner);
                if shared.len() < CONNECTIONS {
                    shared.push(sender.clone());
                }
                sender
            }
        };
        let response = sender.send_request(self.request()?).await.map_err(|_| "closed".to_owned())?;
        judge(response, self.kind == Kind::Grpc).await
    }

    async fn ask_line(&self) -> Result<String, String> {
        let mut stream = self.connect().await?;
        stream.write_all(b"who\n").await.map_err(|_| "closed".to_owned())?;
        let mut line = String::new();
        stream.read_to_string(&mut line).await.map_err(|_| "reset".to_owned())?;
        match line.strip_suffix('\n') {
            Some(origin) => Ok(origin.to_owned()),
            None => Err("closed".to_owned()),
        }
    }

    async fn connect(&self) -> Result<TcpStream, String> {
        let stream = TcpStream::connect(self.target).await.map_err(|_| "refused".to_owned())?;
        stream.set_nodelay(true).map_err(|_| "refused".to_owned())?;
        Ok(stream)
    }

    fn request(&self) -> Result<Request<Body>, String> {
        let uri = format!("http://{}/", self.target);
        let (builder, body) = match self.kind {
            Kind::Get | Kind::H2Get | Kind::Tcp => (Request::get(uri), Bytes::new()),
            Kind::Post | Kind::H2Post => (Request::post(uri), Bytes::from_static(POSTED)),
            Kind::Grpc => {
                let call = Request::post(format!("http://{}/bench.Bench/Call", self.target));
                (call.header("content-type", "application/grpc").header("te", "trailers"), Bytes::from_static(MESSAGE))
            }
        };
        let builder = if self.kind.h2() { builder } else { builder.header("host", self.target.to_string()) };
        builder.body(Full::new(body)).map_err(|error| error.to_string())
    }
}

/// Reads an answer to its end: who gave it, or how it is bad.
async fn judge(response: Response<Incoming>, grpc: bool) -> Result<String, String> {
    let (head, body) = response.into_parts();
    let text = |headers: &HeaderMap, name: &str| headers.get(name)?.to_str().ok().map(str::to_owned);
    let body = body.collect().await.map_err(|_| "broken".to_owned())?;
    if head.status != StatusCode::OK {
        return Err(head.status.as_str().to_owned());
    }
    if grpc {
        let status = body.trailers().and_then(|trailers| text(trailers, "grpc-status"));
        match status.or_else(|| text(&head.headers, "grpc-status")).as_deref() {
            Some("0") => {}
            Some(status) => return Err(format!("grpc-{status}")),
            None => return Err("no grpc-status".to_owned()),
        }
    }
    text(&head.headers, "x-origin").ok_or_else(|| "no origin".to_owned())
}
