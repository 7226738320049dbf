//! A stand-in for the mesh: an HTTP proxy that knows services by name and can be told to cut one off; and the samples
//! as processes behind it.

use std::{
    collections::BTreeMap,
    net::{Ipv4Addr, SocketAddr, TcpListener as StdListener},
    process::Stdio,
    sync::{
        Arc, Mutex,
        atomic::{AtomicU8, Ordering},
    },
    time::{Duration, Instant},
};

use http_body_util::{BodyExt, Full};
use hyper::{Method, Request, Response, StatusCode, body::Bytes, body::Incoming, service::service_fn};
use hyper_util::rt::TokioIo;
use rustix::process::{Pid, Signal, kill_process};
use serde_json::Value;
use tempfile::TempDir;
use tokio::{
    net::{TcpListener, TcpStream},
    process::{Child, Command},
};

/// An address that no other test has: port 0 of a loopback address of this test's own.
pub fn free() -> SocketAddr {
    static NEXT: AtomicU8 = AtomicU8::new(1);
    let [_, _, high, low] = std::process::id().to_be_bytes();
    let ip = Ipv4Addr::new(127, 32 + high % 32, low, NEXT.fetch_add(1, Ordering::Relaxed));
    StdListener::bind((ip, 0)).unwrap().local_addr().unwrap()
}

type Routes = Arc<Mutex<BTreeMap<String, SocketAddr>>>;

/// Names to addresses; a name that is not there answers 503, as a mesh does without a healthy endpoint.
pub struct FakeMesh {
    pub address: SocketAddr,
    routes: Routes,
}

impl FakeMesh {
    pub async fn start() -> Self {
        let address = free();
        let listener = TcpListener::bind(address).await.unwrap();
        let routes = Routes::default();
        let table = routes.clone();
        tokio::spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                let table = table.clone();
                let service = service_fn(move |request| forward(table.clone(), request));
                tokio::spawn(
                    hyper::server::conn::http1::Builder::new().serve_connection(TokioIo::new(stream), service),
                );
            }
        });
        Self { address, routes }
    }

    pub fn route(&self, name: &str, to: SocketAddr) {
        self.routes.lock().unwrap().insert(name.to_owned(), to);
    }

    pub fn cut(&self, name: &str) {
        self.routes.lock().unwrap().remove(name);
    }
}

async fn forward(routes: Routes, request: Request<Incoming>) -> Result<Response<Full<Bytes>>, std::io::Error> {
    let host = request.headers()["host"].to_str().unwrap().to_owned();
    let to = routes.lock().unwrap().get(&host).copied();
    let (parts, body) = request.into_parts();
    let body = body.collect().await.map_err(std::io::Error::other)?.to_bytes();
    let answered = match to {
        Some(to) => send(to, Request::from_parts(parts, Full::new(body))).await,
        None => Err(format!("no endpoint of {host}")),
    };
    let (status, body) =
        answered.unwrap_or_else(|error| (StatusCode::SERVICE_UNAVAILABLE, Bytes::from(error.into_bytes())));
    let mut response = Response::new(Full::new(body));
    *response.status_mut() = status;
    Ok(response)
}

async fn send(to: SocketAddr, request: Request<Full<Bytes>>) -> Result<(StatusCode, Bytes), String> {
    let exchange = async {
        let stream = TcpStream::connect(to).await.map_err(|e| e.to_string())?;
        let (mut sender, connection) =
            hyper::client::conn::http1::handshake(TokioIo::new(stream)).await.map_err(|e| e.to_string())?;
        tokio::spawn(connection);
        let response = sender.send_request(request).await.map_err(|e| e.to_string())?;
        let status = response.status();
        Ok((status, response.into_body().collect().await.map_err(|e| e.to_string())?.to_bytes()))
    };
    tokio::time::timeout(Duration::from_secs(5), exchange).await.unwrap_or_else(|_| Err("no answer".to_owned()))
}

/// One request straight to a process; status 0 is no answer.
pub async fn ask(to: SocketAddr, method: Method, path: &str, body: &Value) -> (u16, Value) {
    let body = if body.is_null() { Bytes::new() } else { Bytes::from(body.to_string()) };
    let request = Request::builder().method(method).uri(path).header("host", "test").body(Full::new(body)).unwrap();
    match send(to, request).await {
        Ok((status, body)) => (status.as_u16(), serde_json::from_slice(&body).unwrap_or(Value::Null)),
        Err(error) => (0, Value::String(error)),
    }
}

pub async fn get(to: SocketAddr, path: &str) -> (u16, Value) {
    ask(to, Method::GET, path, &Value::Null).await
}

/// A sample as a process; killed when dropped.
pub struct Sample {
    pub address: SocketAddr,
    region: String,
    arguments: Vec<String>,
    mesh: SocketAddr,
    data: TempDir,
    child: Child,
}

impl Sample {
    pub async fn start(mesh: &FakeMesh, region: &str, arguments: &[&str]) -> Self {
        let address = free();
        let arguments: Vec<String> = arguments.iter().map(|a| (*a).to_owned()).collect();
        let data = tempfile::tempdir().unwrap();
        let child = spawn(mesh.address, address, region, &arguments, &data);
        let sample = Self { address, region: region.to_owned(), arguments, mesh: mesh.address, data, child };
        sample.healthy().await;
        sample
    }

    async fn healthy(&self) {
        until("healthy", async || get(self.address, "/healthz").await.0 == 200).await;
    }

    pub async fn kill(&mut self) {
        self.child.kill().await.unwrap();
    }

    /// Starts it again at the same address with the same data.
    pub async fn restart(&mut self) {
        self.child = spawn(self.mesh, self.address, &self.region, &self.arguments, &self.data);
        self.healthy().await;
    }

    pub fn signal(&self, signal: Signal) {
        let pid = self.child.id().and_then(|id| Pid::from_raw(i32::try_from(id).unwrap())).unwrap();
        kill_process(pid, signal).unwrap();
    }

    /// `firedrill sample promote ledger`, as a recovery plan runs it.
    pub async fn promote(&self) -> (bool, String) {
        let output = Command::new(env!("CARGO_BIN_EXE_firedrill"))
            .args(["sample", "promote", "ledger"])
            .env("FIREDRILL_REGION", &self.region)
            .env("FIREDRILL_ENDPOINTS_LEDGER", self.address.to_string())
            .output()
            .await
            .unwrap();
        let text = [output.stdout, output.stderr].concat();
        (output.status.success(), String::from_utf8_lossy(&text).into_owned())
    }

    pub async fn ids(&self) -> Vec<String> {
        let (_, entries) = get(self.address, "/entries").await;
        entries.as_array().unwrap().iter().map(|e| e["id"].as_str().unwrap().to_owned()).collect()
    }

    pub async fn status(&self) -> Value {
        get(self.address, "/status").await.1
    }
}

fn spawn(mesh: SocketAddr, listen: SocketAddr, region: &str, arguments: &[String], data: &TempDir) -> Child {
    Command::new(env!("CARGO_BIN_EXE_firedrill"))
        .arg("sample")
        .args(arguments)
        .env("FIREDRILL_LISTEN", listen.to_string())
        .env("FIREDRILL_REGION", region)
        .env("FIREDRILL_REGIONS", "east,west")
        .env("FIREDRILL_WORKLOAD", format!("{}-{region}-0", arguments[0]))
        .env("FIREDRILL_VERSION", "v1")
        .env("FIREDRILL_MESH", format!("http://{mesh}"))
        .env("FIREDRILL_DATA", data.path())
        .env("RUST_LOG", std::env::var("SAMPLE_LOG").unwrap_or_else(|_| "warn".to_owned()))
        .stdin(Stdio::null())
        .kill_on_drop(true)
        .spawn()
        .unwrap()
}

/// Polls until the condition holds.
pub async fn until(what: &str, mut condition: impl AsyncFnMut() -> bool) {
    let started = Instant::now();
    while !condition().await {
        assert!(started.elapsed() < Duration::from_secs(20), "not {what} in 20 s");
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
}
