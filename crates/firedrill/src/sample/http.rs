//! As much HTTP/1.1 as the samples need: a server with graceful end, and a client that keeps connections.

use std::{
    collections::VecDeque,
    future::Future,
    net::SocketAddr,
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use http_body_util::{BodyExt, Full, Limited};
use hyper::{
    Method, Request, Response, StatusCode,
    body::{Bytes, Incoming},
    client::conn::http1::SendRequest,
    service::service_fn,
};
use hyper_util::rt::{TokioIo, TokioTimer};
use serde_json::{Value, json};
use tokio::{
    net::{TcpListener, TcpStream},
    signal::unix::{SignalKind, signal},
    sync::watch,
    task::JoinSet,
};

use super::SampleError;

/// Largest request body.
const MAX_REQUEST: usize = 64 << 10;
/// Largest answer that a client takes.
const MAX_ANSWER: usize = 64 << 20;
/// How long connections may finish what they do when the process is told to end.
const DRAIN: Duration = Duration::from_secs(2);
/// Connections kept for later requests.
const KEPT: usize = 64;
/// How long a caller waits for another service, everything included.
pub const PATIENCE: Duration = Duration::from_secs(2);

/// An answer.
pub type Answer = Response<Full<Bytes>>;

/// A request with its body read.
#[derive(Debug)]
pub struct Call {
    /// Method.
    pub method: Method,
    /// Path without query.
    pub path: String,
    /// Query without `?`.
    pub query: String,
    /// Whether a peer passed it on ([`FORWARDED`]).
    pub forwarded: bool,
    /// Body.
    pub body: Bytes,
}

/// Header by which a ledger marks a write that it passes on, so that it never goes round in circles.
pub const FORWARDED: &str = "x-ledger-forwarded";

impl Call {
    /// Value of a query parameter. Nothing is unescaped: the samples' values are names and numbers.
    pub fn parameter(&self, name: &str) -> Option<&str> {
        self.query.split('&').filter_map(|pair| pair.split_once('=')).find(|(key, _)| *key == name).map(|(_, v)| v)
    }

    /// A query parameter that is a number.
    pub fn number(&self, name: &str) -> Option<u64> {
        self.parameter(name)?.parse().ok()
    }
}

/// A JSON answer.
pub fn answer(status: StatusCode, body: &Value) -> Answer {
    let mut response = Response::new(Full::new(Bytes::from(body.to_string())));
    *response.status_mut() = status;
    response.headers_mut().insert("content-type", hyper::header::HeaderValue::from_static("application/json"));
    response
}

/// An answer that says what went wrong.
pub fn failure(status: StatusCode, reason: impl Into<String>) -> Answer {
    answer(status, &json!({ "error": reason.into() }))
}

/// Serves until SIGTERM or SIGINT, then finishes requests in flight, for a bounded time.
///
/// # Errors
/// When the address cannot be listened on.
pub async fn serve<H, F>(listen: SocketAddr, handler: H) -> Result<(), SampleError>
where
    H: Fn(Call) -> F + Clone + Send + Sync + 'static,
    F: Future<Output = Answer> + Send + 'static,
{
    let listener = TcpListener::bind(listen).await.map_err(SampleError::io(format!("listen on {listen}")))?;
    let mut terminate = signal(SignalKind::terminate()).map_err(SampleError::io("wait for SIGTERM"))?;
    let mut interrupt = signal(SignalKind::interrupt()).map_err(SampleError::io("wait for SIGINT"))?;
    tracing::info!(%listen, "serving");
    let (stop, stopped) = watch::channel(false);
    let mut connections = JoinSet::new();
    loop {
        tokio::select! {
            _ = terminate.recv() => break,
            _ = interrupt.recv() => break,
            Some(_) = connections.join_next() => {}
            accepted = listener.accept() => match accepted {
                Ok((stream, _)) => {
                    connections.spawn(connection(stream, handler.clone(), stopped.clone()));
                }
                Err(error) => {
                    // Out of descriptors, or a client that gave up: neither gets better by spinning.
                    tracing::warn!(%error, "accept");
                    tokio::time::sleep(Duration::from_millis(10)).await;
                }
            },
        }
    }
    drop(listener);
    stop.send_replace(true);
    let drained = async { while connections.join_next().await.is_some() {} };
    if tokio::time::timeout(DRAIN, drained).await.is_err() {
        tracing::warn!("some requests were cut off");
    }
    Ok(())
}

async fn connection<H, F>(stream: TcpStream, handler: H, mut stopped: watch::Receiver<bool>)
where
    H: Fn(Call) -> F + Clone + Send + Sync + 'static,
    F: Future<Output = Answer> + Send + 'static,
{
    // Small answers go out at once; without it each waits for the peer's delayed acknowledgement.
    if let Err(error) = stream.set_nodelay(true) {
        tracing::debug!(%error, "nodelay");
    }
    let service = service_fn(move |request| {
        let handler = handler.clone();
        async move {
            let response = match read(request).await {
                Ok(call) => handler(call).await,
                Err(refusal) => refusal,
            };
            Ok::<_, std::convert::Infallible>(response)
        }
    });
    let mut server = hyper::server::conn::http1::Builder::new();
    // Longer than a proxy keeps an idle connection: who closes first must not be the one who is asked.
    server.timer(TokioTimer::new()).header_read_timeout(Duration::from_secs(90));
    let mut serving = std::pin::pin!(server.serve_connection(TokioIo::new(stream), service));
    tokio::select! {
        ended = serving.as_mut() => return log(ended),
        _ = stopped.wait_for(|stop| *stop) => serving.as_mut().graceful_shutdown(),
    }
    log(serving.await);
}

fn log(ended: hyper::Result<()>) {
    if let Err(error) = ended {
        tracing::debug!(%error, "connection");
    }
}

async fn read(request: Request<Incoming>) -> Result<Call, Answer> {
    let (parts, body) = request.into_parts();
    let body = Limited::new(body, MAX_REQUEST).collect().await;
    let body = body.map_err(|e| failure(StatusCode::BAD_REQUEST, format!("body: {e}")))?.to_bytes();
    Ok(Call {
        method: parts.method,
        path: parts.uri.path().to_owned(),
        query: parts.uri.query().unwrap_or_default().to_owned(),
        forwarded: parts.headers.contains_key(FORWARDED),
        body,
    })
}

/// Why another service gave no answer.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum CallError {
    /// The proxy of this workload does not listen: nothing can be said of the service.
    #[error("the mesh cannot be reached: {0}")]
    NoMesh(String),
    /// No connection, or it broke.
    #[error("{0}")]
    Broken(String),
    /// Nothing within the bound.
    #[error("no answer in time")]
    TimedOut,
}

impl CallError {
    /// As the caller's caller is told.
    pub fn to_answer(&self, service: &str) -> Answer {
        let status = match self {
            Self::NoMesh(_) | Self::Broken(_) => StatusCode::BAD_GATEWAY,
            Self::TimedOut => StatusCode::GATEWAY_TIMEOUT,
        };
        failure(status, format!("{service}: {self}"))
    }
}

/// Calls services by name through one HTTP proxy, keeping connections. Cheap to clone.
#[derive(Clone, Debug)]
pub struct Caller {
    proxy: SocketAddr,
    kept: Arc<Mutex<VecDeque<SendRequest<Full<Bytes>>>>>,
}

impl Caller {
    /// Calls through this proxy (or a server itself).
    pub fn new(proxy: SocketAddr) -> Self {
        Self { proxy, kept: Arc::default() }
    }

    /// GET; status and body.
    ///
    /// # Errors
    /// When there was no answer within `patience`.
    pub async fn get(&self, host: &str, path: &str, patience: Duration) -> Result<(StatusCode, Bytes), CallError> {
        self.call(Method::GET, host, path, None, false, patience).await
    }

    /// POST of JSON; status and body.
    ///
    /// # Errors
    /// When there was no answer within `patience`.
    pub async fn post(
        &self,
        host: &str,
        path: &str,
        body: Bytes,
        forwarded: bool,
        patience: Duration,
    ) -> Result<(StatusCode, Bytes), CallError> {
        self.call(Method::POST, host, path, Some(body), forwarded, patience).await
    }

    async fn call(
        &self,
        method: Method,
        host: &str,
        path: &str,
        body: Option<Bytes>,
        forwarded: bool,
        patience: Duration,
    ) -> Result<(StatusCode, Bytes), CallError> {
        let mut request = Request::builder().method(method).uri(path).header("host", host);
        if body.is_some() {
            request = request.header("content-type", "application/json");
        }
        if forwarded {
            request = request.header(FORWARDED, "1");
        }
        let request = request.body(Full::new(body.unwrap_or_default()));
        let request = request.map_err(|e| CallError::Broken(e.to_string()))?;
        tokio::time::timeout(patience, self.exchange(request)).await.unwrap_or(Err(CallError::TimedOut))
    }

    async fn exchange(&self, mut request: Request<Full<Bytes>>) -> Result<(StatusCode, Bytes), CallError> {
        let broken = |e: hyper::Error| CallError::Broken(e.to_string());
        loop {
            let (mut sender, fresh) = match self.take() {
                Some(kept) => (kept, false),
                None => (self.connect().await?, true),
            };
            let response = match sender.try_send_request(request).await {
                Ok(response) => response,
                // A kept connection that was closed meanwhile gives the request back unsent.
                Err(mut error) => match error.take_message() {
                    Some(unsent) if !fresh => {
                        request = unsent;
                        continue;
                    }
                    _ => return Err(broken(error.into_error())),
                },
            };
            let status = response.status();
            let body = Limited::new(response.into_body(), MAX_ANSWER).collect().await;
            let body = body.map_err(|e| CallError::Broken(e.to_string()))?.to_bytes();
            self.keep(sender);
            return Ok((status, body));
        }
    }

    /// Whether the proxy listens.
    pub async fn connects(&self) -> bool {
        TcpStream::connect(self.proxy).await.is_ok()
    }

    async fn connect(&self) -> Result<SendRequest<Full<Bytes>>, CallError> {
        let broken = |e: &dyn std::fmt::Display| CallError::Broken(e.to_string());
        let stream = TcpStream::connect(self.proxy).await.map_err(|e| CallError::NoMesh(e.to_string()))?;
        stream.set_nodelay(true).map_err(|e| broken(&e))?;
        let (sender, pump) =
            hyper::client::conn::http1::handshake(TokioIo::new(stream)).await.map_err(|e| broken(&e))?;
        tokio::spawn(async move { log(pump.await) });
        Ok(sender)
    }

    fn take(&self) -> Option<SendRequest<Full<Bytes>>> {
        let mut kept = self.kept.lock().unwrap_or_else(PoisonError::into_inner);
        kept.retain(|sender| !sender.is_closed());
        let ready = kept.iter().position(SendRequest::is_ready)?;
        kept.remove(ready)
    }

    fn keep(&self, sender: SendRequest<Full<Bytes>>) {
        let mut kept = self.kept.lock().unwrap_or_else(PoisonError::into_inner);
        if kept.len() < KEPT {
            kept.push_front(sender);
        }
    }
}
