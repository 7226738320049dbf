//! `firedrill up` as a process: what it starts, what it starts again, what it holds down, and that nothing outlives it.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, missing_docs)]

use std::{
    fs,
    net::{Ipv4Addr, SocketAddr, TcpListener},
    path::Path,
    process::Stdio,
    sync::atomic::{AtomicU8, Ordering},
    time::{Duration, Instant},
};

use http_body_util::{BodyExt, Full};
use hyper::{Method, Request, body::Bytes};
use hyper_util::rt::TokioIo;
use rustix::process::{Pid, Signal, kill_process};
use serde_json::{Value, json};
use tempfile::TempDir;
use tokio::{
    io::{AsyncBufReadExt, BufReader},
    net::TcpStream,
    process::{Child, Command},
};

const BINARY: &str = env!("CARGO_BIN_EXE_firedrill");

fn free() -> SocketAddr {
    static NEXT: AtomicU8 = AtomicU8::new(1);
    let [_, _, high, low] = std::process::id().to_be_bytes();
    let ip = Ipv4Addr::new(127, 64 + high % 32, low, NEXT.fetch_add(1, Ordering::Relaxed));
    TcpListener::bind((ip, 0)).unwrap().local_addr().unwrap()
}

/// Manifests: one service in two regions, each instance behind a shell that has a child of its own.
fn manifests(gateway: SocketAddr, run: &str) -> TempDir {
    let folder = tempfile::Builder::new().prefix("firedrill-supervisor-").tempdir().unwrap();
    let text = format!(
        r#"apiVersion: firedrill.dev/v1
kind: Mesh
metadata: {{name: small}}
spec:
  trustDomain: small.example
  regions: [east, west]
  gateways: [{{name: edge, listen: "{gateway}", routes: [{{service: fx}}]}}]
  defaults: {{detection: {{activeCheck: {{http: /healthz, every: 200ms}}}}}}
---
apiVersion: firedrill.dev/v1
kind: Service
metadata: {{name: fx}}
spec:
  protocol: http
  endpoints:
    - {{region: east, run: {run}}}
    - {{region: west, run: {run}}}
"#
    );
    fs::write(folder.path().join("mesh.yaml"), text).unwrap();
    folder
}

fn shell() -> String {
    json!(["sh", "-c", format!("sleep 600 & '{BINARY}' sample fx")]).to_string()
}

fn up(folder: &Path) -> Child {
    command(folder).spawn().unwrap()
}

fn command(folder: &Path) -> Command {
    let errors = fs::File::create(folder.join("up.err")).unwrap();
    let state = folder.join("state");
    let mut command = Command::new(BINARY);
    command
        .args(["up", "--format", "json", "-f"])
        .arg(folder.join("mesh.yaml"))
        .arg("--state")
        .arg(state)
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(errors)
        .kill_on_drop(true);
    command
}

/// Waits for the line that says what runs where.
async fn ready(child: &mut Child, folder: &Path) -> Value {
    let mut lines = BufReader::new(child.stdout.take().unwrap()).lines();
    let line = tokio::time::timeout(Duration::from_secs(60), lines.next_line()).await;
    let said = || fs::read_to_string(folder.join("up.err")).unwrap();
    let line = line.unwrap_or_else(|_| panic!("not ready in 60 s:\n{}", said())).unwrap();
    serde_json::from_str(&line.unwrap_or_else(|| panic!("ended before it was ready:\n{}", said()))).unwrap()
}

async fn send(to: SocketAddr, method: Method, path: &str, token: &str, body: &Value) -> (u16, Value) {
    let stream = TcpStream::connect(to).await.unwrap();
    let (mut sender, connection) = hyper::client::conn::http1::handshake(TokioIo::new(stream)).await.unwrap();
    tokio::spawn(connection);
    let request = Request::builder().method(method).uri(path).header("host", to.to_string());
    let request = request.header("authorization", format!("Bearer {token}"));
    let response = sender.send_request(request.body(Full::new(Bytes::from(body.to_string()))).unwrap()).await.unwrap();
    let status = response.status().as_u16();
    let body = response.into_body().collect().await.unwrap().to_bytes();
    (status, serde_json::from_slice(&body).unwrap_or(Value::Null))
}

struct Api {
    address: SocketAddr,
    token: String,
}

impl Api {
    fn of(folder: &Path) -> Self {
        let door: Value = serde_json::from_slice(&fs::read(folder.join("state/run/supervisor.json")).unwrap()).unwrap();
        let text = |field: &str| door[field].as_str().unwrap().to_owned();
        Self { address: text("api").parse().unwrap(), token: text("token") }
    }

    async fn ask(&self, method: Method, path: &str, body: Value) -> (u16, Value) {
        send(self.address, method, path, &self.token, &body).await
    }

    async fn workload(&self, name: &str) -> Value {
        let (_, all) = self.ask(Method::GET, "/v1/workloads", Value::Null).await;
        all.as_array().unwrap().iter().find(|w| w["name"] == name).unwrap().clone()
    }

    /// Waits until workload and sidecar are in a state.
    async fn until(&self, name: &str, state: &str) -> Value {
        let started = Instant::now();
        loop {
            let workload = self.workload(name).await;
            if workload["state"] == state && workload["proxy"]["state"] == state {
                return workload;
            }
            assert!(started.elapsed() < Duration::from_secs(30), "{name} is not {state}: {workload}");
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    }
}

fn hold(id: &str, region: &str, how: &str, ttl: u64) -> Value {
    json!({"id": id, "region": region, "how": how, "ttlMs": ttl})
}

fn pid(value: &Value) -> Pid {
    Pid::from_raw(i32::try_from(value["pid"].as_u64().unwrap()).unwrap()).unwrap()
}

fn state_of(pid: Pid) -> Option<char> {
    let stat = fs::read_to_string(format!("/proc/{}/stat", pid.as_raw_pid())).ok()?;
    stat.rsplit_once(") ")?.1.chars().next()
}

/// Processes whose command line or environment names the folder.
fn naming(folder: &Path) -> Vec<String> {
    let needle = folder.to_string_lossy().into_owned();
    let mut found = Vec::new();
    for entry in fs::read_dir("/proc").unwrap().flatten() {
        let read = |file: &str| fs::read(entry.path().join(file)).unwrap_or_default();
        let text = String::from_utf8_lossy(&[read("cmdline"), read("environ")].concat()).replace('\0', " ");
        if entry.file_name() != *std::process::id().to_string() && text.contains(&needle) {
            found.push(format!("{} {text:.200}", entry.file_name().display()));
        }
    }
    found
}

async fn gone(folder: &Path) {
    let started = Instant::now();
    while !naming(folder).is_empty() {
        assert!(started.elapsed() < Duration::from_secs(10), "left behind: {:#?}", naming(folder));
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

#[tokio::test]
async fn processes_are_started_again_held_down_and_ended() {
    let gateway = free();
    let folder = manifests(gateway, &shell());
    let mut child = up(folder.path());
    let report = ready(&mut child, folder.path()).await;
    assert_eq!(report["workloads"].as_array().unwrap().len(), 2);
    assert_eq!(send(gateway, Method::GET, "/rates/EUR", "", &Value::Null).await.0, 200);
    let api = Api::of(folder.path());

    // A second supervisor is refused, and disturbs nothing.
    let mut second = up(folder.path());
    assert_eq!(second.wait().await.unwrap().code(), Some(2));
    assert!(fs::read_to_string(folder.path().join("up.err")).unwrap().contains("running"));

    // What dies is started again.
    let before = api.workload("fx-east-0").await;
    kill_process(pid(&before), Signal::KILL).unwrap();
    let started = Instant::now();
    while api.workload("fx-east-0").await["restarts"] != 1 {
        assert!(started.elapsed() < Duration::from_secs(30));
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    let again = api.until("fx-east-0", "running").await;
    assert_ne!(again["pid"], before["pid"]);

    holds(&api, &again).await;

    // SIGTERM: everything ends in order.
    kill_process(Pid::from_raw(i32::try_from(child.id().unwrap()).unwrap()).unwrap(), Signal::TERM).unwrap();
    assert_eq!(child.wait().await.unwrap().code(), Some(0));
    assert!(!folder.path().join("state/run/supervisor.json").exists());
    gone(folder.path()).await;
}

async fn holds(api: &Api, workload: &Value) {
    // Killed, and not started again before the release.
    let (status, report) = api.ask(Method::POST, "/v1/holds", hold("k", "east", "kill", 3_000)).await;
    assert_eq!((status, &report["workloads"], &report["proxies"]), (200, &json!(1), &json!(1)), "{report}");
    assert!(report["effective"].as_i64() <= report["complete"].as_i64());
    let down = api.workload("fx-east-0").await;
    assert_eq!(
        (&down["state"], &down["proxy"]["state"], &down["pid"]),
        (&json!("killed"), &json!("killed"), &Value::Null)
    );
    assert_eq!(state_of(pid(workload)), None);
    assert_eq!(api.ask(Method::POST, "/v1/holds", hold("other", "east", "kill", 3_000)).await.0, 409);
    assert_eq!(api.ask(Method::POST, "/v1/holds", hold("k", "east", "kill", 3_000)).await, (200, report));
    assert_eq!(api.ask(Method::POST, "/v1/holds/k/heartbeat", Value::Null).await.0, 200);
    assert_eq!(api.ask(Method::DELETE, "/v1/holds/k", Value::Null).await.0, 200);
    let back = api.until("fx-east-0", "running").await;
    assert_eq!(back["restarts"], 1, "a start after a hold is none of its own");

    // Stopped; goes on by itself when heartbeats stay away.
    let (status, _) = api.ask(Method::POST, "/v1/holds", hold("p", "east", "pause", 500)).await;
    assert_eq!(status, 200);
    assert_eq!(state_of(pid(&back)), Some('T'));
    assert_eq!(state_of(pid(&back["proxy"])), Some('T'));
    let on = api.until("fx-east-0", "running").await;
    assert_eq!(on["pid"], back["pid"]);
    assert_eq!(api.ask(Method::POST, "/v1/holds/p/heartbeat", Value::Null).await.0, 404);
    let (_, events) = api.ask(Method::GET, "/v1/events?after=0&wait_ms=0", Value::Null).await;
    let ended: Vec<_> =
        events["events"].as_array().unwrap().iter().filter(|e| e["kind"]["type"] == "holdEnded").collect();
    // `other` failed, `k` was released, `p` lapsed.
    let lapsed: Vec<_> = ended.iter().map(|e| (&e["kind"]["hold"], &e["kind"]["lapsed"])).collect();
    assert_eq!(lapsed, [(&json!("other"), &json!(false)), (&json!("k"), &json!(false)), (&json!("p"), &json!(true))]);

    for (request, status) in [
        (hold("x", "mars", "kill", 1_000), 409),
        (hold("x", "east", "kill", 0), 400),
        (hold("x", "east", "kill", 3_001), 400),
        (json!({}), 400),
    ] {
        assert_eq!(api.ask(Method::POST, "/v1/holds", request).await.0, status);
    }
    assert_eq!(send(api.address, Method::GET, "/v1/workloads", "wrong", &Value::Null).await.0, 401);
    api.until("fx-west-0", "running").await;
}

#[tokio::test]
async fn a_killed_supervisor_leaves_nothing_and_the_next_one_finds_its_subnet() {
    let gateway = free();
    let folder = manifests(gateway, &shell());
    let mut child = up(folder.path());
    let first = ready(&mut child, folder.path()).await;
    assert!(naming(folder.path()).iter().any(|line| line.contains("sleep 600")), "the grandchild is seen");
    child.kill().await.unwrap();
    gone(folder.path()).await;

    let mut child = up(folder.path());
    let second = ready(&mut child, folder.path()).await;
    assert_eq!(first["control"], second["control"]);
    assert_eq!(send(gateway, Method::GET, "/rates/EUR", "", &Value::Null).await.0, 200);
    child.kill().await.unwrap();
    gone(folder.path()).await;
}

#[tokio::test]
async fn a_workload_that_cannot_run_is_named_with_its_last_words() {
    let folder = manifests(free(), r#"[sh, -c, "echo my configuration is missing >&2; exit 3"]"#);
    let status = up(folder.path()).wait().await.unwrap();
    let said = fs::read_to_string(folder.path().join("up.err")).unwrap();
    assert_eq!(status.code(), Some(5), "{said}");
    assert!(
        said.contains("fx-") && said.contains("exit code 3") && said.contains("my configuration is missing"),
        "{said}"
    );
    gone(folder.path()).await;
}

#[tokio::test]
async fn a_gateway_address_in_use_is_said_before_anything_starts() {
    let taken = TcpListener::bind(free()).unwrap();
    let folder = manifests(taken.local_addr().unwrap(), &shell());
    let status = up(folder.path()).wait().await.unwrap();
    let said = fs::read_to_string(folder.path().join("up.err")).unwrap();
    assert_eq!(status.code(), Some(5), "{said}");
    assert!(said.contains("gateway edge cannot listen"), "{said}");
    gone(folder.path()).await;
}

/// Modes of everything below a folder that anybody but its user may use.
fn open_to_others(folder: &Path) -> Vec<String> {
    use std::os::unix::fs::PermissionsExt as _;
    let mut found = Vec::new();
    for entry in fs::read_dir(folder).unwrap().flatten() {
        let path = entry.path();
        let Ok(metadata) = fs::symlink_metadata(&path) else { continue };
        let mode = metadata.permissions().mode() & 0o777;
        if mode & 0o077 != 0 {
            found.push(format!("{} {mode:o}", path.display()));
        }
        if metadata.is_dir() {
            found.extend(open_to_others(&path));
        }
    }
    found
}

#[tokio::test]
async fn workloads_get_no_secret_of_the_environment_and_files_are_their_users_alone() {
    let script = format!("umask > $FIREDRILL_DATA/umask; env > $FIREDRILL_DATA/env; exec '{BINARY}' sample fx");
    let folder = manifests(free(), &json!(["env", "DECLARED=yes", "sh", "-c", script]).to_string());
    let state = folder.path().join("state");
    // Any mask, and secrets of whoever starts the mesh.
    let started = command(folder.path());
    let errors = fs::File::create(folder.path().join("up.err")).unwrap();
    let mut shell = Command::new("sh");
    shell.args(["-c", "umask 0000; exec \"$@\"", "sh", BINARY]).args(started.as_std().get_args());
    shell.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(errors).kill_on_drop(true);
    let store = format!("sqlite:{}", state.join("other.db").display());
    let mut child = shell.env("FIREDRILL_STORE", &store).env("PGPASSWORD", "s3cret").env("LANG", "C").spawn().unwrap();
    ready(&mut child, folder.path()).await;
    let data = state.join("data/fx-east-0");
    let environment = fs::read_to_string(data.join("env")).unwrap();
    assert!(!environment.contains("s3cret") && !environment.contains("FIREDRILL_STORE"), "{environment}");
    for given in ["DECLARED=yes", "LANG=C", "PATH=", "FIREDRILL_SERVICE=fx", "http_proxy=http://127."] {
        assert!(environment.contains(given), "{given}: {environment}");
    }
    assert_eq!(fs::read_to_string(data.join("umask")).unwrap().trim(), "0000", "a workload's mask is the user's own");
    assert!(state.join("other.db").exists(), "the control plane has its store");
    for process in ["fx-east-0", "edge"] {
        let log = fs::read_to_string(state.join(format!("logs/{process}.proxy.log"))).unwrap_or_default();
        assert!(!log.contains("s3cret"), "{log}");
    }
    // What a workload makes is its own business; what a ledger publishes is no secret, and its folder is closed.
    let public = ["/data/fx-", "/ledger/entries.log", "/ledger/key.pub", "/ledger/checkpoint", "/ledger/high-water"];
    let open = open_to_others(&state).into_iter().filter(|line| !public.iter().any(|known| line.contains(known)));
    let open: Vec<String> = open.collect();
    assert_eq!(open, Vec::<String>::new());
    child.kill().await.unwrap();
    gone(folder.path()).await;
}
