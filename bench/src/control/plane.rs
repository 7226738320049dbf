//! The control plane that is measured: the real program, asked over its API.

use std::{
    fs,
    net::SocketAddr,
    path::{Path, PathBuf},
};

use bytes::Bytes;
use http::{Method, Request, StatusCode, header};
use http_body_util::{BodyExt as _, Full};
use hyper_util::rt::TokioIo;
use serde_json::Value;
use tokio::net::TcpStream;

use crate::{
    failure::Failure,
    machine::PROXY_CORE,
    probe::{self, Speaks},
    process::{self, Process},
    rendered,
};

/// Where its API and ADS listen.
const API: SocketAddr = SocketAddr::new(std::net::IpAddr::V4(std::net::Ipv4Addr::new(127, 77, 4, 1)), 17_000);
/// The same address before and after a restart: proxies come back to it.
pub const ADS: SocketAddr = SocketAddr::new(std::net::IpAddr::V4(std::net::Ipv4Addr::new(127, 77, 4, 1)), 17_001);

/// A running control plane.
#[derive(Debug)]
pub struct Plane {
    process: Process,
    state: PathBuf,
    token: String,
}

impl Plane {
    /// Starts it on a state folder, which may be another one's that has ended.
    ///
    /// # Errors
    /// When it does not become ready.
    pub async fn start(state: &Path) -> Result<Self, Failure> {
        let program = rendered::program();
        let mut command = process::command(PROXY_CORE, &program);
        command.arg("control").args(["--api", &API.to_string(), "--ads", &ADS.to_string(), "--state"]).arg(state);
        command.env("FIREDRILL_LOG", "warn");
        let log = state.with_extension("log");
        let mut process = Process::start(command, &log)?;
        let ready = probe::answers(API, Speaks::Http1, "/readyz", || process.ended().is_none()).await;
        if !ready {
            let said = fs::read_to_string(&log).unwrap_or_default();
            return Err(Failure::Program(format!("{} control: {said}", program.display())));
        }
        let path = state.join("run/control.json");
        let file = fs::read(&path).map_err(Failure::io(path.display().to_string()))?;
        let file: Value = serde_json::from_slice(&file).map_err(|e| Failure::Program(format!("control.json: {e}")))?;
        let token = file["token"].as_str().unwrap_or_default().to_owned();
        Ok(Self { process, state: state.to_owned(), token })
    }

    /// Kills it, and starts another one on its state.
    ///
    /// # Errors
    /// When that does not become ready.
    pub async fn replace(self) -> Result<Self, Failure> {
        let state = self.state.clone();
        self.process.kill();
        drop(self);
        Self::start(&state).await
    }

    /// Resident memory now and at its highest, in KiB.
    pub fn resident(&self) -> (u64, u64) {
        (self.process.status_kib("VmRSS"), self.process.status_kib("VmHWM"))
    }

    /// Calls the API as its owner.
    ///
    /// # Errors
    /// When it refuses.
    pub async fn call(&self, method: Method, path: &str, body: Option<&Value>) -> Result<Value, Failure> {
        call(&self.token, method, path, body).await
    }

    /// A metric without labels.
    ///
    /// # Errors
    /// When it is not told.
    pub async fn metric(&self, name: &str) -> Result<u64, Failure> {
        let text = exchange("", Method::GET, "/metrics", None).await?;
        let text = String::from_utf8_lossy(&text);
        let line = text.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(' '));
        let missing = || Failure::Program(format!("the control plane has no metric {name}"));
        line.and_then(|value| value.parse().ok()).ok_or_else(missing)
    }
}

/// Calls the API with any bearer token.
///
/// # Errors
/// When it refuses.
pub async fn call(token: &str, method: Method, path: &str, body: Option<&Value>) -> Result<Value, Failure> {
    let answer = exchange(token, method, path, body).await?;
    serde_json::from_slice(&answer).map_err(|error| Failure::Program(format!("{path}: {error}")))
}

async fn exchange(token: &str, method: Method, path: &str, body: Option<&Value>) -> Result<Bytes, Failure> {
    let failed = |error: String| Failure::Program(format!("{method} {path}: {error}"));
    let stream = TcpStream::connect(API).await.map_err(|e| failed(e.to_string()))?;
    stream.set_nodelay(true).map_err(|e| failed(e.to_string()))?;
    let handshake = hyper::client::conn::http1::handshake(TokioIo::new(stream)).await;
    let (mut sender, connection) = handshake.map_err(|e| failed(e.to_string()))?;
    let driving = tokio::spawn(connection);
    let body = body.map(|body| Bytes::from(body.to_string())).unwrap_or_default();
    let request = Request::builder()
        .method(method.clone())
        .uri(path)
        .header(header::HOST, API.to_string())
        .header(header::AUTHORIZATION, format!("Bearer {token}"))
        .body(Full::new(body))
        .map_err(|e| failed(e.to_string()))?;
    let response = sender.send_request(request).await.map_err(|e| failed(e.to_string()))?;
    let status = response.status();
    let body = response.into_body().collect().await.map_err(|e| failed(e.to_string()))?.to_bytes();
    driving.abort();
    match status {
        StatusCode::OK => Ok(body),
        _ => Err(failed(format!("{status}: {}", String::from_utf8_lossy(&body)))),
    }
}
