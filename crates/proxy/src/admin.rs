//! The admin interface: what this proxy is, has, and saw. Who may ask for what is decided where it listens.

use std::{
    fmt::Write,
    sync::{Arc, atomic::Ordering},
    time::Duration,
};

use bytes::Bytes;
use http::{
    HeaderValue, Method, Request, Response, StatusCode,
    header::{ALLOW, CONTENT_TYPE},
};
use http_body_util::{BodyExt, Full, Limited};
use hyper::body::Incoming;
use serde::Serialize;
use tokio::{sync::Notify, time::Instant};
use xds::{event::Event, overlay::Overlay, snapshot::Snapshot, status::ProxyStatus};

use crate::{
    access::AccessLog,
    events::EventLog,
    metrics::{self, Elsewhere},
    state::Shared,
    tap::{self, Tap},
    trace::Tracer,
};

/// Longest long poll.
const LONGEST_WAIT: Duration = Duration::from_secs(30);
/// Events in one answer.
const PAGE: usize = 1024;
/// Longest log filter, in bytes.
const LONGEST_FILTER: usize = 4096;

/// All that can be asked for: method, path, and what it is.
const PAGES: [(&str, &str, &str); 13] = [
    ("GET", "/", "this list"),
    ("GET", "/healthz", "200 as long as the process answers"),
    ("GET", "/ready", "200 while traffic is taken; 503 before the first snapshot, and from the start of a drain"),
    ("GET", "/status", "name, snapshot, digest of what is in force, overlays, clusters"),
    ("GET", "/clusters", "share of each tier; health, ejection, load and failures of each endpoint"),
    ("GET", "/config_dump", "snapshot and overlays in force"),
    ("GET", "/events", "transitions in order; ?after=N only later ones, &wait_ms=N waits for one (at most 30 s)"),
    (
        "GET",
        "/requests",
        "requests that are over, as the access log has them, while this is asked every 3 s; ?after=N only later ones",
    ),
    ("GET", "/metrics", "Prometheus text"),
    ("GET", "/logging", "which log lines are written"),
    ("PUT", "/logging", "write others from now on: the body is a filter, `debug` or `info,proxy=trace`"),
    ("POST", "/reopen_logs", "open the access log again, after its file was renamed (as SIGUSR1)"),
    ("POST", "/drain", "take no new connections, finish what is in flight, and end"),
];

/// Which log lines the process writes.
#[derive(Clone, Copy, Debug)]
pub struct LogFilter {
    /// The filter in force.
    pub get: fn() -> String,
    /// Puts another into force, or says in a sentence why not.
    pub set: fn(&str) -> Result<(), String>,
}

/// What the interface acts on.
#[derive(Clone, Debug)]
pub struct Admin {
    /// What all threads share.
    pub shared: Arc<Shared>,
    /// Notified by `POST /drain`.
    pub drain: Arc<Notify>,
    /// Of the process, if it can be changed.
    pub log: Option<LogFilter>,
}

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
        identity_failing: shared.identity.failing(),
        clusters,
    }
}

fn ready(shared: &Shared) -> bool {
    let state = shared.state.load();
    let needs_identity = state.snapshot.listeners.iter().any(|listener| listener.tls.is_some())
        || state.snapshot.clusters.iter().any(|cluster| cluster.tls.is_some());
    shared.bound.load(Ordering::Acquire)
        && (shared.identity.is_set() || !needs_identity)
        && !shared.leaving.load(Ordering::Acquire)
}

impl Admin {
    /// One answer.
    pub async fn answer(self, request: Request<Incoming>) -> Response<Full<Bytes>> {
        let shared = &self.shared;
        let path = request.uri().path();
        match (request.method(), path) {
            (&Method::GET, "/") => text(StatusCode::OK, list()),
            (&Method::GET, "/healthz") => text(StatusCode::OK, "ok\n"),
            (&Method::GET, "/ready") if ready(shared) => text(StatusCode::OK, "ready\n"),
            (&Method::GET, "/ready") => text(StatusCode::SERVICE_UNAVAILABLE, "not ready\n"),
            (&Method::GET, "/status") => json(&status(shared)),
            (&Method::GET, "/clusters") => json(&status(shared).clusters),
            (&Method::GET, "/config_dump") => {
                let state = shared.state.load_full();
                let (version, digest) = (state.version.as_str(), state.digest.as_str());
                json(&Dump { version, digest, overlays: &state.overlays, snapshot: &state.snapshot })
            }
            (&Method::GET, "/events") => {
                let query = request.uri().query().unwrap_or_default();
                events(&shared.around.events, &shared.boot, query).await
            }
            (&Method::GET, "/requests") => {
                requests(&shared.tap, &shared.boot, 0, request.uri().query().unwrap_or_default())
            }
            (&Method::GET, "/metrics") => metrics(shared),
            (&Method::GET, "/logging") => match self.log {
                Some(log) => text(StatusCode::OK, (log.get)() + "\n"),
                None => text(StatusCode::NOT_FOUND, "the log of this process cannot be asked\n"),
            },
            (&Method::PUT, "/logging") => self.set_logging(request).await,
            (&Method::POST, "/reopen_logs") => reopen(shared.access.as_ref()),
            (&Method::POST, "/drain") => {
                self.drain.notify_one();
                text(StatusCode::ACCEPTED, "draining\n")
            }
            _ => unknown(path),
        }
    }

    async fn set_logging(&self, request: Request<Incoming>) -> Response<Full<Bytes>> {
        let Some(log) = self.log else {
            return text(StatusCode::NOT_FOUND, "the log of this process cannot be changed\n");
        };
        let body = match Limited::new(request.into_body(), LONGEST_FILTER).collect().await {
            Ok(body) => body.to_bytes(),
            Err(error) => return text(StatusCode::BAD_REQUEST, format!("the filter cannot be read: {error}\n")),
        };
        let set = std::str::from_utf8(&body).map_err(|_| "the filter is not text".to_owned());
        match set.and_then(|filter| (log.set)(filter.trim())) {
            Ok(()) => text(StatusCode::OK, (log.get)() + "\n"),
            Err(reason) => text(StatusCode::BAD_REQUEST, reason + "\n"),
        }
    }
}

fn list() -> String {
    PAGES.iter().fold(String::new(), |mut text, (method, path, what)| {
        // Writing to a String cannot fail.
        let _ = writeln!(text, "{method:<4} {path:<13} {what}");
        text
    })
}

/// No such page, or not by this method.
fn unknown(path: &str) -> Response<Full<Bytes>> {
    let methods: Vec<&str> = PAGES.iter().filter(|(_, page, _)| *page == path).map(|(method, ..)| *method).collect();
    if methods.is_empty() {
        return text(StatusCode::NOT_FOUND, format!("there is no {path} here; GET / lists what there is\n"));
    }
    let methods = methods.join(", ");
    let mut response = text(StatusCode::METHOD_NOT_ALLOWED, format!("{path} is asked for by {methods}\n"));
    if let Ok(methods) = HeaderValue::try_from(methods) {
        response.headers_mut().insert(ALLOW, methods);
    }
    response
}

fn metrics(shared: &Shared) -> Response<Full<Bytes>> {
    let elsewhere = Elsewhere {
        status: &status(shared),
        events: &shared.around.events.counts(),
        lines_dropped: shared.access.as_ref().map_or(0, AccessLog::dropped),
        spans: shared.tracer.as_ref().map(Tracer::counts),
        limits: &limits(shared),
    };
    let mut response = text(StatusCode::OK, shared.metrics.render(&elsewhere));
    response.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static(metrics::text::CONTENT_TYPE));
    response
}

fn limits(shared: &Shared) -> Vec<(String, u32)> {
    let state = shared.state.load();
    let mut limits: Vec<_> = state
        .listeners
        .iter()
        .filter_map(|(name, listener)| Some((name.clone(), listener.settings().admission.as_ref()?.limit())))
        .collect();
    limits.sort_unstable();
    limits
}

/// Has the access log opened again, if there is one.
pub fn reopen(access: Option<&AccessLog>) -> Response<Full<Bytes>> {
    match access.map(AccessLog::reopen) {
        None => text(StatusCode::NOT_FOUND, "there is no access log; --access-log FILE writes one\n"),
        Some(false) => text(StatusCode::SERVICE_UNAVAILABLE, "too many lines wait to be written; try again\n"),
        Some(true) => text(StatusCode::ACCEPTED, "opened again after the lines that wait\n"),
    }
}

/// Events after a sequence number; waits for the first one if there are none yet.
pub async fn events(log: &EventLog, boot: &str, query: &str) -> Response<Full<Bytes>> {
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
    let mut newest = log.watch();
    let deadline = Instant::now() + wait;
    // In time or not: what is there is the answer.
    let _ = tokio::time::timeout_at(deadline, newest.wait_for(|newest| *newest > after)).await;
    let page = log.after(after, PAGE);
    json(&Events { boot, events: page.events, dropped: page.dropped })
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct Requests<'a> {
    boot: &'a str,
    /// Requests since the start that could not be told here at all.
    lost: u64,
    #[serde(flatten)]
    page: tap::Page,
}

/// Requests after a position; none without one, which is the beginning.
pub fn requests(tap: &Tap, boot: &str, lost: u64, query: &str) -> Response<Full<Bytes>> {
    let after = match query.strip_prefix("after=").map(str::parse::<u64>) {
        Some(Ok(after)) => Some(after),
        None if query.is_empty() => None,
        _ => return text(StatusCode::BAD_REQUEST, format!("`{query}` is not after=N\n")),
    };
    json(&Requests { boot, lost, page: tap.read(after, std::time::Instant::now()) })
}

/// A page of plain text.
pub fn text(status: StatusCode, body: impl Into<Bytes>) -> Response<Full<Bytes>> {
    let mut response = Response::new(Full::new(body.into()));
    *response.status_mut() = status;
    response.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static("text/plain; charset=utf-8"));
    response
}

/// A page of JSON.
pub fn json(value: &impl Serialize) -> Response<Full<Bytes>> {
    match serde_json::to_vec(value) {
        Ok(body) => {
            let mut response = Response::new(Full::new(body.into()));
            response.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static("application/json"));
            response
        }
        Err(error) => text(StatusCode::INTERNAL_SERVER_ERROR, error.to_string()),
    }
}
