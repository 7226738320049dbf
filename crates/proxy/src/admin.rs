//! The admin interface: what this proxy is, has, and saw. Plain HTTP, meant for loopback.

use std::{
    convert::Infallible,
    sync::{Arc, atomic::Ordering},
    time::Duration,
};

use bytes::Bytes;
use http::{Method, Request, Response, StatusCode, header::CONTENT_TYPE};
use http_body_util::Full;
use hyper::{body::Incoming, server::conn::http1, service::service_fn};
use hyper_util::rt::{TokioIo, TokioTimer};
use serde::Serialize;
use tokio::{net::TcpListener, sync::Notify, time::Instant};
use xds::{event::Event, overlay::Overlay, snapshot::Snapshot, status::ProxyStatus};

use crate::{
    access::AccessLog,
    metrics::{self, Elsewhere},
    state::Shared,
};

/// Longest long poll.
const LONGEST_WAIT: Duration = Duration::from_secs(30);
/// Events in one answer.
const PAGE: usize = 1024;
/// Connections served at once.
const CONNECTIONS: usize = 256;

#[derive(Serialize)]
struct Events<'a> {
    boot: &'a str,
    events: Vec<Event>,
    dropped: u64,
}

#[derive(Serialize)]
struct Dump<'a> {
    version: &'a str,
    digest: &'a str,
    overlays: &'a [Overlay],
    snapshot: &'a Snapshot,
}

/// What `GET /status` says.
pub fn status(shared: &Shared) -> ProxyStatus {
    let state = shared.state.load_full();
    let mut clusters: Vec<_> = state.clusters.values().map(|cluster| cluster.status()).collect();
    clusters.sort_by(|a, b| a.name.cmp(&b.name));
    ProxyStatus {
        name: shared.name.clone(),
        boot: shared.boot.clone(),
        program: format!("firedrill {}", env!("CARGO_PKG_VERSION")),
        digest: state.digest.clone(),
        snapshot: state.version.clone(),
        overlays: state.overlays.iter().map(|overlay| overlay.id.clone()).collect(),
        ready: ready(shared),
        connected: shared.connected.load(Ordering::Acquire),
        clusters,
    }
}

fn ready(shared: &Shared) -> bool {
    let state = shared.state.load();
    let needs_identity = state.snapshot.listeners.iter().any(|listener| listener.tls.is_some())
        || state.snapshot.clusters.iter().any(|cluster| cluster.tls.is_some());
    shared.bound.load(Ordering::Acquire) && (shared.identity.is_set() || !needs_identity) && !*shared.draining.borrow()
}

/// Serves until dropped. `drain` is notified by `POST /drain`.
pub async fn serve(shared: Arc<Shared>, listener: TcpListener, drain: Arc<Notify>) {
    let permits = Arc::new(tokio::sync::Semaphore::new(CONNECTIONS));
    loop {
        let Ok(permit) = permits.clone().acquire_owned().await else { return };
        let stream = match listener.accept().await {
            Ok((stream, _)) => stream,
            Err(error) => {
                tracing::warn!(%error, "the admin interface could not accept a connection");
                tokio::time::sleep(Duration::from_millis(50)).await;
                continue;
            }
        };
        let (shared, drain) = (shared.clone(), drain.clone());
        tokio::spawn(async move {
            let _permit = permit;
            let service = service_fn(move |request| {
                let (shared, drain) = (shared.clone(), drain.clone());
                async move { Ok::<_, Infallible>(answer(&shared, &drain, &request).await) }
            });
            let serving = http1::Builder::new()
                .timer(TokioTimer::new())
                .header_read_timeout(Duration::from_secs(60))
                .max_buf_size(16 * 1024)
                .serve_connection(TokioIo::new(stream), service);
            if let Err(error) = serving.await {
                tracing::debug!(%error, "an admin connection broke");
            }
        });
    }
}

async fn answer(shared: &Arc<Shared>, drain: &Notify, request: &Request<Incoming>) -> Response<Full<Bytes>> {
    match (request.method(), request.uri().path()) {
        (&Method::GET, "/healthz") => text(StatusCode::OK, "ok\n"),
        (&Method::GET, "/ready") if ready(shared) => text(StatusCode::OK, "ready\n"),
        (&Method::GET, "/ready") => text(StatusCode::SERVICE_UNAVAILABLE, "not ready\n"),
        (&Method::GET, "/status") => json(&status(shared)),
        (&Method::GET, "/config_dump") => {
            let state = shared.state.load_full();
            let (version, digest) = (state.version.as_str(), state.digest.as_str());
            json(&Dump { version, digest, overlays: &state.overlays, snapshot: &state.snapshot })
        }
        (&Method::GET, "/events") => events(shared, request.uri().query().unwrap_or_default()).await,
        (&Method::GET, "/metrics") => {
            let lines = shared.access.as_ref().map_or(0, AccessLog::dropped);
            let events = shared.around.events.counts();
            let elsewhere = Elsewhere { status: &status(shared), events: &events, lines_dropped: lines };
            let mut response = text(StatusCode::OK, shared.metrics.render(&elsewhere));
            let format = http::HeaderValue::from_static(metrics::text::CONTENT_TYPE);
            response.headers_mut().insert(CONTENT_TYPE, format);
            response
        }
        (&Method::POST, "/drain") => {
            drain.notify_one();
            text(StatusCode::ACCEPTED, "draining\n")
        }
        (_, "/healthz" | "/ready" | "/status" | "/config_dump" | "/events" | "/metrics" | "/drain") => {
            text(StatusCode::METHOD_NOT_ALLOWED, "another method is needed\n")
        }
        _ => text(StatusCode::NOT_FOUND, "no such page\n"),
    }
}

/// Events after a sequence number; waits for the first one if there are none yet.
async fn events(shared: &Arc<Shared>, query: &str) -> Response<Full<Bytes>> {
    let mut after = 0;
    let mut wait = Duration::ZERO;
    for pair in query.split('&').filter(|pair| !pair.is_empty()) {
        let parsed = pair.split_once('=').and_then(|(key, value)| Some((key, value.parse::<u64>().ok()?)));
        match parsed {
            Some(("after", number)) => after = number,
            Some(("wait_ms", number)) => wait = Duration::from_millis(number).min(LONGEST_WAIT),
            _ => return text(StatusCode::BAD_REQUEST, format!("`{pair}` is not after=N or wait_ms=N\n")),
        }
    }
    let log = &shared.around.events;
    let mut newest = log.watch();
    let deadline = Instant::now() + wait;
    // In time or not: what is there is the answer.
    let _ = tokio::time::timeout_at(deadline, newest.wait_for(|newest| *newest > after)).await;
    let page = log.after(after, PAGE);
    json(&Events { boot: &shared.boot, events: page.events, dropped: page.dropped })
}

fn text(status: StatusCode, body: impl Into<Bytes>) -> Response<Full<Bytes>> {
    let mut response = Response::new(Full::new(body.into()));
    *response.status_mut() = status;
    response.headers_mut().insert(CONTENT_TYPE, http::HeaderValue::from_static("text/plain; charset=utf-8"));
    response
}

fn json(value: &impl Serialize) -> Response<Full<Bytes>> {
    match serde_json::to_vec(value) {
        Ok(body) => {
            let mut response = Response::new(Full::new(body.into()));
            response.headers_mut().insert(CONTENT_TYPE, http::HeaderValue::from_static("application/json"));
            response
        }
        Err(error) => text(StatusCode::INTERNAL_SERVER_ERROR, error.to_string()),
    }
}
