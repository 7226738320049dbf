//! Snapshots of any size for our own proxy, made of what `firedrill render` prints: defaults are what users get.

use std::{
    env, fs,
    net::{Ipv4Addr, SocketAddr},
    path::{Path, PathBuf},
    process::Command,
};

use serde_json::{Value, json};

use crate::{
    failure::Failure,
    machine::PROXY_CORE,
    probe::{self, Speaks},
    process::{self, Process},
};

/// Where our proxy listens.
pub const LISTEN: SocketAddr = SocketAddr::new(std::net::IpAddr::V4(Ipv4Addr::new(127, 77, 3, 1)), 18080);
/// Its admin interface.
pub const ADMIN: SocketAddr = SocketAddr::new(std::net::IpAddr::V4(Ipv4Addr::new(127, 77, 3, 1)), 18099);
/// Origins listen on this port of every address.
pub const ORIGIN_PORT: u16 = 18001;

const MANIFEST: &str = r#"
apiVersion: firedrill.dev/v1
kind: Mesh
metadata: {name: bench}
spec:
  trustDomain: bench.example
  regions: [east, west]
  gateways: [{name: edge, listen: "127.77.3.1:18080", routes: [{service: up}]}]
---
apiVersion: firedrill.dev/v1
kind: Service
metadata: {name: up}
spec:
  endpoints: [{region: east, address: "127.78.0.1:18001"}, {region: west, address: "127.78.0.2:18001"}]
"#;

/// What one service is rendered as.
#[derive(Clone, Debug)]
pub struct Template(Value);

/// Our program: what `make` built, or `FIREDRILL_BIN`.
pub fn program() -> PathBuf {
    let built = || PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("../target/release/firedrill");
    env::var_os("FIREDRILL_BIN").map_or_else(built, PathBuf::from)
}

impl Template {
    /// Asks our program.
    ///
    /// # Errors
    /// When it is not built.
    pub fn rendered(folder: &Path) -> Result<Self, Failure> {
        let path = folder.join("mesh.yaml");
        fs::write(&path, MANIFEST).map_err(Failure::io(path.display().to_string()))?;
        let program = program();
        let mut command = Command::new(&program);
        command.args(["render", "--target", "snapshot", "--proxy", "edge", "-f"]).arg(&path).arg("--state").arg(folder);
        let output = command.output().map_err(Failure::io(program.display().to_string()))?;
        let errors = || Failure::Program(format!("render: {}", String::from_utf8_lossy(&output.stderr)));
        serde_json::from_slice(&output.stdout).map(Self).map_err(|_| errors())
    }

    /// Services `s0`, `s1`, ... with this many endpoints each, half of them (rounded up) in the first tier. `checked`
    /// keeps the active checks.
    pub fn of_size(&self, services: usize, endpoints: usize, checked: bool) -> Value {
        let mut snapshot = self.0.clone();
        let (mut clusters, mut sets, mut hosts) = (Vec::new(), Vec::new(), Vec::new());
        for service in 0..services {
            let name = format!("s{service}");
            let mut cluster = self.0["clusters"][0].clone();
            cluster["name"] = json!(name);
            cluster["service"] = json!(name);
            if !checked {
                cluster["healthCheck"] = Value::Null;
            }
            clusters.push(cluster);
            let tier = |range: std::ops::Range<usize>, region: &str, priority: u32| {
                let endpoints: Vec<Value> = range.map(|n| endpoint(&name, service * endpoints + n, n)).collect();
                json!({"region": region, "priority": priority, "weight": 1, "endpoints": endpoints})
            };
            let first = endpoints.div_ceil(2);
            sets.push(
                json!({"cluster": name, "localities": [tier(0..first, "east", 0), tier(first..endpoints, "west", 1)]}),
            );
            let mut host = self.0["routes"][0]["hosts"][0].clone();
            host["name"] = json!(name);
            host["domains"] = json!([name]);
            host["routes"][0]["action"]["forward"]["clusters"][0]["cluster"] = json!(name);
            hosts.push(host);
        }
        snapshot["clusters"] = Value::Array(clusters);
        snapshot["endpoints"] = Value::Array(sets);
        snapshot["routes"][0]["hosts"] = Value::Array(hosts);
        snapshot
    }
}

fn endpoint(service: &str, number: usize, n: usize) -> Value {
    let address = format!("127.{}.{}.{}:{ORIGIN_PORT}", 78 + number / 60_000, number / 240 % 250, 1 + number % 240);
    json!({"name": format!("{service}-{n}"), "address": address, "weight": 1})
}

/// Replaces a snapshot file as a whole.
///
/// # Errors
/// When it cannot be written.
pub fn write(snapshot: &Value, path: &Path) -> Result<(), Failure> {
    let next = path.with_extension("next");
    let written = fs::write(&next, snapshot.to_string()).and_then(|()| fs::rename(&next, path));
    written.map_err(Failure::io(path.display().to_string()))
}

/// Starts our proxy with a snapshot file and waits until it is ready.
///
/// # Errors
/// When it does not start.
pub async fn start(snapshot: &Path, folder: &Path) -> Result<Process, Failure> {
    let mut command = process::command(PROXY_CORE, program());
    command.args(["proxy", "--name", "edge", "--snapshot"]).arg(snapshot);
    command.args(["--admin", &ADMIN.to_string(), "--state"]).arg(folder);
    let log = folder.join("said");
    let mut process = Process::start(command, &log)?;
    if probe::answers(ADMIN, Speaks::Http1, "/ready", || process.ended().is_none()).await {
        return Ok(process);
    }
    let said = fs::read_to_string(&log).unwrap_or_default();
    Err(Failure::Program(format!("the proxy is not ready: {said}")))
}
