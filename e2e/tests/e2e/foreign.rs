//! Our proxy under a control plane that is not ours: written in Python on gRPC's own xDS types (`e2e/peers/ads.py`), with a
//! version for each kind, in both forms of ADS.

use std::{
    net::SocketAddr,
    path::{Path, PathBuf},
    process::Stdio,
    time::Duration,
};

use e2e::{
    mesh::{Mesh, address, until},
    process::{command, signal, workspace},
    tls::Authority,
};
use rustix::process::Signal;
use serde_json::{Value, json};
use tokio::{
    io::{AsyncBufReadExt as _, AsyncWriteExt as _, BufReader},
    process::{Child, ChildStdin, Command},
    sync::mpsc,
    time::timeout,
};

const MOMENT: Duration = Duration::from_secs(30);

/// A Python that has what the control plane needs, by the environment, or where `make tools` puts it.
pub async fn python() -> Option<PathBuf> {
    let usual = || workspace().join(".venv/bin/python");
    let python = std::env::var_os("FIREDRILL_PYTHON").map_or_else(usual, PathBuf::from);
    let mut has = Command::new(&python);
    has.args(["-c", "import grpc, envoy.service.discovery.v3.ads_pb2_grpc"]).stderr(Stdio::null());
    has.status().await.is_ok_and(|status| status.success()).then_some(python)
}

/// The control plane, and what it heard.
struct Foreign {
    child: Child,
    input: ChildStdin,
    heard: mpsc::UnboundedReceiver<Value>,
}

/// Where it is, and with what.
struct Place<'a> {
    python: &'a Path,
    ads: SocketAddr,
    gateway: SocketAddr,
    certificate: PathBuf,
    key: PathBuf,
    roots: PathBuf,
}

impl Foreign {
    async fn start(place: &Place<'_>) -> Self {
        let mut python = Command::new(place.python);
        python.arg(workspace().join("e2e/peers/ads.py"));
        python.args(["--ads", &place.ads.to_string(), "--gateway", &place.gateway.to_string()]);
        python.arg("--certificate").arg(&place.certificate).arg("--key").arg(&place.key);
        python.arg("--roots").arg(&place.roots);
        let mut child = python.stdin(Stdio::piped()).stdout(Stdio::piped()).kill_on_drop(true).spawn().expect("starts");
        let mut lines = BufReader::new(child.stdout.take().expect("piped")).lines();
        let (tell, heard) = mpsc::unbounded_channel();
        tokio::spawn(async move {
            while let Ok(Some(line)) = lines.next_line().await {
                let value = serde_json::from_str(&line).unwrap_or_else(|e| panic!("{e}: {line}"));
                if tell.send(value).is_err() {
                    return;
                }
            }
        });
        let input = child.stdin.take().expect("piped");
        let mut foreign = Self { child, input, heard };
        foreign.hears(|said| said["listening"].is_string()).await;
        foreign
    }

    /// Waits until it heard this; what it heard before is passed over.
    async fn hears(&mut self, wanted: impl Fn(&Value) -> bool) -> Value {
        let heard = async {
            loop {
                let said = self.heard.recv().await.expect("it runs");
                if wanted(&said) {
                    return said;
                }
            }
        };
        timeout(MOMENT, heard).await.expect("it hears that")
    }

    async fn serve(&mut self, endpoint: (&str, SocketAddr), header: &str, unsupported: bool) {
        let (name, at) = endpoint;
        let endpoints = json!([[name, at.ip().to_string(), at.port()]]);
        let state = json!({ "endpoints": endpoints, "header": header, "unsupported": unsupported });
        self.input.write_all(format!("{state}\n").as_bytes()).await.expect("it reads");
    }
}

fn manifests(gateway: SocketAddr) -> String {
    format!(
        "apiVersion: firedrill.dev/v1
kind: Mesh
metadata: {{name: foreign}}
spec:
  trustDomain: foreign.example
  regions: [east]
  gateways: [{{name: edge, listen: \"{gateway}\", routes: [{{service: rates}}]}}]
---
apiVersion: firedrill.dev/v1
kind: Service
metadata: {{name: rates}}
spec:
  endpoints: [{{region: east, count: 2, run: [firedrill, sample, fx]}}]
"
    )
}

async fn follows(form: &str, subnet: u8) {
    let Some(python) = python().await else {
        println!("skipped: no Python with grpcio and xds-protos; make tools");
        return;
    };
    let at = |port| SocketAddr::from(([127, 234, subnet, 1], port));
    let gateway = at(8080);
    let folder = tempfile::Builder::new().prefix("firedrill-e2e-").tempdir().expect("a temporary folder");
    std::fs::write(folder.path().join("mesh.yaml"), manifests(gateway)).expect("written");
    // Our control plane gives the proxy its certificate, and nothing else: the stream goes elsewhere.
    let mesh = Mesh::up(folder, &["--without", "edge"]).await;
    let authority = Authority::of(&mesh.state());
    let (certificate, key) =
        authority.certificate(Some("spiffe://foreign.example/control"), 1, 2).write(mesh.path(), "foreign");
    let roots = mesh.state().join("ca/root.pem");
    let place = Place { python: &python, ads: at(17_001), gateway, certificate, key, roots };
    let mut foreign = Foreign::start(&place).await;
    let workload = |name: &str| address(&mesh.workload(name)["address"]);
    let (first, second) = (("rates-east-0", workload("rates-east-0")), ("rates-east-1", workload("rates-east-1")));

    let token = mesh.tell_control("/v1/tokens", &json!({ "gateway": "edge", "ttlMs": 60_000 })).await;
    let api = format!("unix:{}", mesh.state().join("run/control.sock").display());
    let own = mesh.path().join("edge");
    let mut proxy = command(&["proxy", "--name", "edge", "--xds", form, "--state", own.to_str().expect("UTF-8")]);
    proxy.args(["--control", &place.ads.to_string(), "--api", &api, "--admin", &at(15_000).to_string()]);
    proxy.env("FIREDRILL_TOKEN", token["token"].as_str().expect("a token"));
    let log = std::fs::File::create(mesh.path().join("edge.log")).expect("created");
    let mut proxy = proxy.stdout(Stdio::null()).stderr(log).kill_on_drop(true).spawn().expect("starts");
    let answers = async |workload: &str, told: &str| {
        until(MOMENT, async || match mesh.web.get(gateway, "/rates/EUR").await {
            Ok(answer) if answer.status.is_success() => {
                let (by, header) = (answer.json()["workload"].clone(), answer.headers.get("x-told").cloned());
                let seen = (by.as_str() == Some(workload), header.is_some_and(|header| header == told));
                if seen == (true, true) { Ok(()) } else { Err(format!("{answer:?}")) }
            }
            other => {
                Err(format!("{other:?}\n{}", std::fs::read_to_string(mesh.path().join("edge.log")).unwrap_or_default()))
            }
        })
        .await;
    };

    // Listener, route, cluster and endpoints, each of a version of its own, are whole; then two of them change.
    foreign.serve(first, "one", false).await;
    answers("rates-east-0", "one").await;
    foreign.serve(second, "two", false).await;
    answers("rates-east-1", "two").await;

    // What we do not carry is refused with its path. The route that was good serves on, with the endpoints that are.
    foreign.serve(first, "three", true).await;
    let nack = foreign.hears(|said| said["nack"].is_string()).await;
    assert_eq!(nack["nack"], "RouteConfiguration", "{nack}");
    let detail = nack["detail"].as_str().expect("a detail");
    assert!(detail.contains("RouteConfiguration gateway") && detail.contains("virtual_hosts[0].require_tls"), "{nack}");
    answers("rates-east-0", "two").await;

    // Nobody is needed for what is in force; and who comes back is followed again.
    foreign.child.kill().await.expect("killed");
    answers("rates-east-0", "two").await;
    let mut foreign = Foreign::start(&place).await;
    foreign.serve(second, "four", false).await;
    answers("rates-east-1", "four").await;
    let ack = foreign.hears(|said| said["ack"] == "RouteConfiguration").await;
    println!("{form}: a foreign control plane is followed; {detail}; last {ack}");
    foreign.child.kill().await.expect("killed");

    signal(proxy.id().expect("running"), Signal::TERM);
    timeout(MOMENT, proxy.wait()).await.expect("it ends").expect("is waited for");
    mesh.down().await;
}

#[tokio::test]
async fn a_foreign_control_plane_that_tells_changes_is_followed() {
    follows("delta", 1).await;
}

#[tokio::test]
async fn a_foreign_control_plane_that_tells_whole_kinds_is_followed() {
    follows("sotw", 2).await;
}
