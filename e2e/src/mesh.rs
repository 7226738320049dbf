//! A mesh started by `firedrill up`, in a folder of its own, torn down with proof.

use std::{
    collections::BTreeMap,
    net::SocketAddr,
    path::{Path, PathBuf},
    process::Stdio,
    time::{Duration, Instant},
};

use bytes::Bytes;
use http_body_util::Full;
use hyper::{Method, Request};
use rustix::process::Signal;
use serde_json::{Value, json};
use tempfile::TempDir;
use tokio::{
    io::{AsyncBufReadExt, BufReader},
    process::{Child, Command},
};

use crate::{
    plane::DataPlane,
    process::{binary, command, command_of, gone, signal, workspace},
    web::{Answer, Web, get, request},
};

/// A running mesh.
pub struct Mesh {
    folder: TempDir,
    child: Child,
    report: Value,
    /// Client for everything.
    pub web: Web,
}

/// One proxy process.
#[derive(Clone, Debug)]
pub struct Proxy {
    /// Name.
    pub name: String,
    /// Process id.
    pub pid: u32,
    /// Admin address.
    pub admin: SocketAddr,
    /// Region; empty for a gateway.
    pub region: String,
}

/// Manifests of an example, changed by the test, in a folder of their own.
pub fn manifests(example: &str, change: impl Fn(&str) -> String) -> TempDir {
    let folder = tempfile::Builder::new().prefix("firedrill-e2e-").tempdir().expect("a temporary folder");
    let source = workspace().join("examples").join(example);
    for entry in std::fs::read_dir(&source).expect("the example is there").flatten() {
        if entry.path().extension().is_some_and(|e| e == "yaml") {
            let text = std::fs::read_to_string(entry.path()).expect("text");
            std::fs::write(folder.path().join(entry.file_name()), change(&text)).expect("written");
        }
    }
    folder
}

/// The bank, its gateway at an address that only this test uses.
pub fn bank(gateway: SocketAddr, change: impl Fn(String) -> String) -> TempDir {
    manifests("bank", |text| change(text.replace("127.0.0.1:8080", &gateway.to_string())))
}

impl Mesh {
    /// `firedrill up` on a folder of manifests; returns when it says that it is ready.
    pub async fn up(folder: TempDir, more: &[&str]) -> Self {
        Self::up_by(&binary(), folder, more).await
    }

    /// As [`Mesh::up`], on this data plane; `None` if there is no Envoy here that it needs.
    pub async fn on(plane: DataPlane, folder: TempDir) -> Option<Self> {
        let args = plane.args()?;
        Some(Self::up(folder, &args.iter().map(String::as_str).collect::<Vec<_>>()).await)
    }

    /// As [`Mesh::up`], with a copy of the binary.
    pub async fn up_by(binary: &Path, folder: TempDir, more: &[&str]) -> Self {
        let path = folder.path().to_str().expect("UTF-8").to_owned();
        let state = format!("{path}/state");
        let mut args = vec!["up", "-f", &path, "--state", &state, "--format", "json"];
        args.extend(more);
        let errors = std::fs::File::create(folder.path().join("up.err")).expect("created");
        let mut child = command_of(binary, &args).stdout(Stdio::piped()).stderr(errors).spawn().expect("starts");
        let mut lines = BufReader::new(child.stdout.take().expect("piped")).lines();
        let ready = async {
            while let Ok(Some(line)) = lines.next_line().await {
                if let Ok(value) = serde_json::from_str::<Value>(&line)
                    && value["gateways"].is_array()
                {
                    return Some(value);
                }
            }
            None
        };
        let said = || std::fs::read_to_string(folder.path().join("up.err")).unwrap_or_default();
        let report = tokio::time::timeout(Duration::from_secs(60), ready)
            .await
            .unwrap_or_else(|_| panic!("not ready in 60 s:\n{}", said()))
            .unwrap_or_else(|| panic!("ended before it was ready:\n{}", said()));
        // Whatever it says later is read, so that it never blocks.
        tokio::spawn(async move { while let Ok(Some(_)) = lines.next_line().await {} });
        Self { folder, child, report, web: Web::default() }
    }

    /// Folder of the manifests.
    pub fn path(&self) -> &Path {
        self.folder.path()
    }

    /// State folder.
    pub fn state(&self) -> PathBuf {
        self.folder.path().join("state")
    }

    /// Process id of the supervisor.
    pub fn pid(&self) -> u32 {
        self.child.id().expect("running")
    }

    /// What `up` reported.
    pub fn report(&self) -> &Value {
        &self.report
    }

    /// Where a gateway listens.
    pub fn gateway(&self, name: &str) -> SocketAddr {
        let gateway = rows(&self.report["gateways"]).find(|g| g["gateway"] == name).expect("the gateway");
        address(&gateway["listen"])
    }

    /// A workload's report by name.
    pub fn workload(&self, name: &str) -> &Value {
        rows(&self.report["workloads"]).find(|w| w["name"] == name).expect("the workload")
    }

    /// Asks the supervisor for the present report.
    pub async fn now(&self) -> Value {
        let door: Value = json_file(&self.state().join("run/supervisor.json"));
        self.authorised(address(&door["api"]), "/v1/mesh", door["token"].as_str().expect("a token")).await
    }

    /// Asks the control plane.
    pub async fn control(&self, path: &str) -> Value {
        let door: Value = json_file(&self.state().join("run/control.json"));
        self.authorised(address(&door["api"]), path, door["token"].as_str().expect("a token")).await
    }

    /// Tells the supervisor; the answer must be a success.
    pub async fn supervisor(&self, method: Method, path: &str, body: &Value) -> Value {
        let door: Value = json_file(&self.state().join("run/supervisor.json"));
        let request = request(method, address(&door["api"]), path, body.to_string().into());
        let answer = self.authorise(request, door["token"].as_str().expect("a token")).await;
        assert!(answer.status.is_success(), "{path}: {} {}", answer.status, String::from_utf8_lossy(&answer.body));
        if answer.body.is_empty() { Value::Null } else { answer.json() }
    }

    async fn authorised(&self, api: SocketAddr, path: &str, token: &str) -> Value {
        self.authorise(get(api, path), token).await.json()
    }

    async fn authorise(&self, mut request: Request<Full<Bytes>>, token: &str) -> Answer {
        let path = request.uri().clone();
        let value = format!("Bearer {token}").parse().expect("a header value");
        request.headers_mut().insert(hyper::header::AUTHORIZATION, value);
        self.web.send(request, Duration::from_secs(10)).await.unwrap_or_else(|e| panic!("{path}: {e}"))
    }

    /// Tells the control plane; the answer must be a success.
    pub async fn tell_control(&self, path: &str, body: &Value) -> Value {
        self.ask_control(Method::POST, path, Some(body)).await
    }

    /// Calls the control plane; the answer must be a success.
    pub async fn ask_control(&self, method: Method, path: &str, body: Option<&Value>) -> Value {
        let door: Value = json_file(&self.state().join("run/control.json"));
        let body = body.map(Value::to_string).unwrap_or_default();
        let request = request(method, address(&door["api"]), path, body.into());
        let answer = self.authorise(request, door["token"].as_str().expect("a token")).await;
        assert!(answer.status.is_success(), "{path}: {} {}", answer.status, String::from_utf8_lossy(&answer.body));
        answer.json()
    }

    /// Waits until every process of the mesh runs.
    pub async fn whole(&self) {
        until(Duration::from_secs(30), async || {
            let now = self.now().await;
            let processes = rows(&now["workloads"]).flat_map(|w| [w, &w["proxy"]]);
            let down: Vec<_> = processes.filter(|p| p["state"] != "running").map(|p| p["name"].to_string()).collect();
            if down.is_empty() { Ok(()) } else { Err(format!("not running: {}", down.join(", "))) }
        })
        .await;
    }

    /// Takes a region down (`kill` or `pause`) until heartbeats stay away for three seconds.
    pub async fn strike(&self, region: &str, how: &str) -> Value {
        let request = json!({"id": "e2e", "region": region, "how": how, "ttlMs": 3000});
        self.supervisor(Method::POST, "/v1/holds", &request).await
    }

    /// Keeps a region down (`kill` or `pause`) for this long, then lets it come back.
    pub async fn hold(&self, region: &str, how: &str, length: Duration) -> Value {
        let report = self.strike(region, how).await;
        let end = Instant::now() + length;
        while Instant::now() < end {
            self.supervisor(Method::POST, "/v1/holds/e2e/heartbeat", &Value::Null).await;
            tokio::time::sleep(Duration::from_millis(500)).await;
        }
        self.supervisor(Method::DELETE, "/v1/holds/e2e", &Value::Null).await;
        report
    }

    /// Every proxy as it runs now.
    pub async fn proxies(&self) -> Vec<Proxy> {
        let report = self.now().await;
        let one = |process: &Value, region: &str| {
            Some(Proxy {
                name: process["name"].as_str()?.to_owned(),
                pid: u32::try_from(process["pid"].as_u64()?).ok()?,
                admin: address(&process["admin"]),
                region: region.to_owned(),
            })
        };
        let sidecars = rows(&report["workloads"])
            .filter_map(|w| one(&w["proxy"], w["region"].as_str().expect("a region")))
            .collect::<Vec<_>>();
        let gateways = rows(&report["gateways"]).filter_map(|g| one(&g["proxy"], ""));
        sidecars.into_iter().chain(gateways).collect()
    }

    /// Digest of every proxy's effective configuration; the reason where one does not answer.
    pub async fn digests(&self) -> BTreeMap<String, Result<String, String>> {
        let mut digests = BTreeMap::new();
        for proxy in self.proxies().await {
            let answer = self.web.send(get(proxy.admin, "/status"), Duration::from_millis(500)).await;
            let digest = answer
                .and_then(|a| a.json()["digest"].as_str().map(str::to_owned).ok_or_else(|| "no digest".to_owned()));
            digests.insert(proxy.name, digest);
        }
        digests
    }

    /// `firedrill drill run NAME` on this mesh, its output piped.
    pub fn drill(&self, name: &str, more: &[&str]) -> Command {
        let path = self.path().to_str().expect("UTF-8");
        let (state, out) = (format!("{path}/state"), format!("{path}/out"));
        let mut args = vec!["drill", "run", name, "-f", path, "--state", &state, "--out", &out, "--format", "json"];
        args.extend(more);
        let mut command = command(&args);
        command.stdout(Stdio::piped()).stderr(Stdio::piped());
        command
    }

    /// SIGTERM, an orderly end with exit code 0, and nothing left behind.
    pub async fn down(mut self) {
        signal(self.pid(), Signal::TERM);
        let status = tokio::time::timeout(Duration::from_secs(30), self.child.wait())
            .await
            .expect("ends within 30 s of SIGTERM")
            .expect("is waited for");
        assert_eq!(status.code(), Some(0), "{}", self.said());
        gone(self.folder.path(), Duration::from_secs(5)).await;
    }

    /// Ends as [`Mesh::down`], and starts anew with the manifests and the state folder as they are now.
    pub async fn again(mut self) -> Self {
        signal(self.pid(), Signal::TERM);
        let ended = tokio::time::timeout(Duration::from_secs(30), self.child.wait()).await;
        assert_eq!(ended.expect("ends").expect("is waited for").code(), Some(0), "{}", self.said());
        gone(self.folder.path(), Duration::from_secs(5)).await;
        Self::up(self.folder, &[]).await
    }

    /// SIGKILL of the supervisor: everything goes with it.
    pub async fn kill(mut self) {
        self.child.kill().await.expect("killed");
        gone(self.folder.path(), Duration::from_secs(5)).await;
    }

    /// What `up` wrote to standard error.
    pub fn said(&self) -> String {
        std::fs::read_to_string(self.folder.path().join("up.err")).unwrap_or_default()
    }
}

/// A JSON file.
pub fn json_file(path: &Path) -> Value {
    let bytes = std::fs::read(path).unwrap_or_else(|e| panic!("{}: {e}", path.display()));
    serde_json::from_slice(&bytes).unwrap_or_else(|e| panic!("{}: {e}", path.display()))
}

/// A JSON array's items.
pub fn rows(value: &Value) -> impl Iterator<Item = &Value> {
    value.as_array().map(Vec::as_slice).unwrap_or_default().iter()
}

/// A JSON string as an address.
pub fn address(value: &Value) -> SocketAddr {
    value.as_str().and_then(|t| t.parse().ok()).unwrap_or_else(|| panic!("not an address: {value}"))
}

/// Polls until the condition holds; the last reason is the failure.
pub async fn until<T>(bound: Duration, mut condition: impl AsyncFnMut() -> Result<T, String>) -> T {
    let started = Instant::now();
    loop {
        match condition().await {
            Ok(value) => return value,
            Err(reason) => assert!(started.elapsed() < bound, "after {bound:?}: {reason}"),
        }
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
}
