//! The agent's admin interface: that of a proxy of ours, so that whoever asks sees no difference.

use std::{fmt::Write as _, path::PathBuf, sync::Arc};

use bytes::Bytes;
use http::{HeaderValue, Method, Request, Response, StatusCode, header::CONTENT_TYPE};
use http_body_util::Full;
use hyper::body::Incoming;
use tokio::sync::Notify;

use super::{ask, told::Told};
use crate::{
    access::AccessLog,
    admin::{LogFilter, events, json, reopen, requests, text},
};

/// All that can be asked for: method, path, and what it is.
const PAGES: [(&str, &str, &str); 11] = [
    ("GET", "/", "this list"),
    ("GET", "/healthz", "200 as long as the process answers"),
    ("GET", "/ready", "200 while Envoy takes traffic with what it should have"),
    ("GET", "/status", "name, snapshot, digest of what Envoy has, overlays, clusters"),
    ("GET", "/clusters", "share of each tier; health, ejection, load and failures of each endpoint"),
    ("GET", "/config_dump", "Envoy's own"),
    ("GET", "/events", "transitions in order; ?after=N only later ones, &wait_ms=N waits for one (at most 30 s)"),
    (
        "GET",
        "/requests",
        "requests that are over, as an access log has them, while this is asked every 3 s; ?after=N only later ones",
    ),
    ("GET", "/metrics", "Prometheus text, Envoy's own"),
    ("POST", "/reopen_logs", "open the access log again, after its file was renamed (as SIGUSR1)"),
    ("POST", "/drain", "take no new connections, finish what is in flight, and end"),
];

/// What the interface acts on.
#[derive(Clone)]
pub struct Desk {
    /// What is said.
    pub told: Arc<Told>,
    /// Notified by `POST /drain`.
    pub drain: Arc<Notify>,
    /// Of the process, if it can be asked.
    pub log: Option<LogFilter>,
    /// The access log, if wanted.
    pub access: Option<AccessLog>,
    /// Envoy's admin interface.
    pub socket: PathBuf,
}

impl Desk {
    /// One answer.
    pub async fn answer(self, request: Request<Incoming>) -> Response<Full<Bytes>> {
        let told = &self.told;
        match (request.method(), request.uri().path()) {
            (&Method::GET, "/") => text(StatusCode::OK, list()),
            (&Method::GET, "/healthz") => text(StatusCode::OK, "ok\n"),
            (&Method::GET, "/ready") if told.is_ready() => text(StatusCode::OK, "ready\n"),
            (&Method::GET, "/ready") => text(StatusCode::SERVICE_UNAVAILABLE, "not ready\n"),
            (&Method::GET, "/status") => json(&told.now()),
            (&Method::GET, "/clusters") => json(&told.now().clusters),
            (&Method::GET, "/config_dump") => self.envoys("/config_dump?include_eds", "application/json").await,
            (&Method::GET, "/metrics") => self.envoys("/stats/prometheus", "text/plain; version=0.0.4").await,
            (&Method::GET, "/events") => {
                events(&told.events, &told.boot, request.uri().query().unwrap_or_default()).await
            }
            (&Method::GET, "/requests") => {
                let lost = self.lost().await;
                requests(&told.tap, &told.boot, lost, request.uri().query().unwrap_or_default())
            }
            (&Method::GET, "/logging") => match self.log {
                Some(log) => text(StatusCode::OK, (log.get)() + "\n"),
                None => text(StatusCode::NOT_FOUND, "the log of this process cannot be asked\n"),
            },
            (&Method::POST, "/reopen_logs") => reopen(self.access.as_ref()),
            (&Method::POST, "/drain") => {
                self.drain.notify_one();
                text(StatusCode::ACCEPTED, "draining\n")
            }
            (_, path) => text(StatusCode::NOT_FOUND, format!("there is no {path} here; GET / lists what there is\n")),
        }
    }

    /// Requests that Envoy had no room for on their way here, since it began.
    async fn lost(&self) -> u64 {
        let page = ask::get(&self.socket, "/stats?usedonly&filter=access_logs.grpc_access_log.logs_dropped").await;
        let text = page.map(|page| String::from_utf8_lossy(&page).into_owned()).unwrap_or_default();
        text.lines().filter_map(|line| line.rsplit(' ').next()?.parse::<u64>().ok()).sum()
    }

    async fn envoys(&self, page: &str, kind: &'static str) -> Response<Full<Bytes>> {
        match ask::get(&self.socket, page).await {
            Ok(body) => {
                let mut response = Response::new(Full::new(body));
                response.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static(kind));
                response
            }
            Err(error) => text(StatusCode::BAD_GATEWAY, format!("Envoy does not answer: {error}\n")),
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
