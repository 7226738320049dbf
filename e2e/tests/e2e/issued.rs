//! Certificates that somebody else issues: in files, and by a SPIFFE Workload API. The latter is e2e/peers/workload_api.py, on gRPC's
//! own Python; SPIRE itself is in no registry that these tests can use.

use std::{
    path::{Path, PathBuf},
    process::Stdio,
    time::Duration,
};

use e2e::{
    load::{Load, failed},
    mesh::{Mesh, address, bank, rows, until},
    plane::DataPlane,
    process::{run, workspace},
    tls::{self, Authority},
};
use serde_json::{Value, json};
use tempfile::TempDir;
use tokio::{
    io::{AsyncBufReadExt as _, AsyncWriteExt as _, BufReader},
    process::{Child, ChildStdin, Command},
    sync::mpsc,
};

use crate::foreign::python;

const MOMENT: Duration = Duration::from_secs(30);
const WEB: &str = "spiffe://partner.example/service/web";

/// Every proxy of the bank, and the control plane, with their ids.
fn everybody() -> Vec<(String, String)> {
    let sidecars = ["accounts-east-0", "accounts-east-1", "accounts-west-0", "accounts-west-1"]
        .map(|name| (name, "service/accounts"));
    let others = [
        ("ledger-east-0", "service/ledger"),
        ("ledger-west-0", "service/ledger"),
        ("fx-east-0", "service/fx"),
        ("fx-west-0", "service/fx"),
        ("edge", "gateway/edge"),
        ("control", "control"),
    ];
    let all = sidecars.into_iter().chain(others);
    all.map(|(name, path)| (name.to_owned(), format!("spiffe://bank.example/{path}"))).collect()
}

/// What another tool would keep: an SVID for everybody, and the roots.
struct Tool(TempDir);

impl Tool {
    fn new() -> Self {
        Self(tempfile::tempdir().expect("a folder"))
    }

    /// As the Mesh names the files.
    fn identity(&self) -> String {
        let at = self.0.path().display();
        format!(
            "{{files: {{certificate: \"{at}/{{proxy}}.pem\", key: \"{at}/{{proxy}}.key\", bundle: \"{at}/bundle.pem\"}}}}"
        )
    }

    fn path(&self, name: &str) -> PathBuf {
        self.0.path().join(name)
    }

    /// An authority, and its root in a file.
    fn authority(&self, name: &str) -> (Authority, PathBuf) {
        let (authority, root) = Authority::with_root();
        let path = self.path(name);
        std::fs::write(&path, root).expect("written");
        (authority, path)
    }

    fn issue(&self, authority: &Authority) {
        for (name, id) in everybody() {
            authority.certificate(Some(&id), 1, 2).write(self.0.path(), &name);
        }
    }

    /// These roots are trusted.
    fn trust(&self, roots: &[&Path]) {
        let read = |path: &&Path| std::fs::read_to_string(path).expect("a root");
        std::fs::write(self.path("bundle.pem"), roots.iter().map(read).collect::<String>()).expect("written");
    }
}

fn identified(gateway: &str, identity: &str, more: &str) -> TempDir {
    bank(gateway.parse().unwrap(), |text| {
        text.replace("identity: {builtin: {certificateLifetime: 24h}}", &format!("identity: {identity}\n{more}"))
            .replace(
                "  calls: [ledger, fx]\n",
                &if more.is_empty() {
                    "  calls: [ledger, fx]\n".to_owned()
                } else {
                    format!(
                        "  calls: [ledger, fx]\n  authorization: {{allow: [{{from: edge}}, {{from: \"{WEB}\"}}]}}\n"
                    )
                },
            )
    })
}

/// Every sidecar presents a certificate that chains to this root.
async fn all_present(mesh: &Mesh, root: &Path) {
    let root = std::fs::read_to_string(root).expect("a root");
    until(MOMENT, async || {
        for workload in rows(&mesh.report()["workloads"]) {
            let chain = tls::presented(address(&workload["inbound"])).await;
            tls::trusted(&chain, &root).map_err(|e| format!("{}: {e}", workload["name"]))?;
        }
        Ok(())
    })
    .await;
}

/// Every proxy holds what is in force, with as many roots.
async fn all_trust(mesh: &Mesh, roots: usize) {
    until(MOMENT, async || {
        let known = mesh.control("/v1/trust").await["roots"].as_str().map_or(0, |pem| pem.matches("BEGIN").count());
        let proxies = mesh.control("/v1/proxies").await;
        let behind: Vec<_> =
            rows(&proxies).filter(|proxy| proxy["inSync"] != true).map(|p| p["name"].to_string()).collect();
        if known == roots && behind.is_empty() { Ok(()) } else { Err(format!("{known} roots, behind: {behind:?}")) }
    })
    .await;
}

/// Every proxy says this of why no newer certificate comes.
async fn fails(mesh: &Mesh, expected: &dyn Fn(Option<&str>) -> bool) {
    until(MOMENT, async || {
        let proxies = mesh.control("/v1/proxies").await;
        let other = rows(&proxies).map(|proxy| (&proxy["name"], &proxy["status"]["identityFailing"]));
        let other: Vec<_> = other.filter(|(_, failing)| !expected(failing.as_str())).collect();
        if other.is_empty() { Ok(()) } else { Err(format!("{other:?}")) }
    })
    .await;
}

async fn serves(mesh: &Mesh) {
    until(MOMENT, async || match mesh.web.get(mesh.gateway("edge"), "/accounts/42").await {
        Ok(answer) if answer.status == 200 => Ok(()),
        other => Err(format!("{other:?}")),
    })
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn no_request_fails_while_files_with_identities_are_replaced_root_and_all() {
    files_are_replaced(DataPlane::Firedrill, "127.218.1.1:8080").await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn no_request_fails_while_files_with_identities_of_envoys_are_replaced_root_and_all() {
    files_are_replaced(DataPlane::Envoy, "127.218.3.1:8080").await;
}

async fn files_are_replaced(plane: DataPlane, gateway: &str) {
    let tool = Tool::new();
    let ((first, first_root), (second, second_root)) = (tool.authority("first.pem"), tool.authority("second.pem"));
    tool.issue(&first);
    tool.trust(&[&first_root]);
    let Some(mesh) = Mesh::on(plane, identified(gateway, &tool.identity(), "")).await else { return };
    serves(&mesh).await;
    all_present(&mesh, &first_root).await;

    let load = Load::start(mesh.gateway("edge"), "/accounts/42", 40);
    tool.trust(&[&first_root, &second_root]);
    all_trust(&mesh, 2).await;
    tool.issue(&second);
    all_present(&mesh, &second_root).await;
    // The other half of everybody's connections is made with theirs.
    tokio::time::sleep(Duration::from_secs(2)).await;
    tool.trust(&[&second_root]);
    all_trust(&mesh, 1).await;
    tokio::time::sleep(Duration::from_secs(2)).await;
    let shots = load.stop().await;
    println!("{} requests, {} failed", shots.len(), failed(&shots).len());
    assert!(failed(&shots).is_empty(), "{:?}\n{}", failed(&shots).first(), mesh.said());

    // What is somebody else's, or broken, is not used.
    let inbound = address(&mesh.workload("fx-east-0")["inbound"]);
    let before = tls::presented(inbound).await;
    second.certificate(Some("spiffe://bank.example/service/ledger"), 1, 2).write(tool.0.path(), "fx-east-0");
    std::fs::write(tool.path("fx-west-0.pem"), "half").expect("written");
    let log = mesh.state().join("logs/fx-east-0.proxy.log");
    until(MOMENT, async || {
        let said = std::fs::read_to_string(&log).unwrap_or_default();
        if said.contains("spiffe://bank.example/service/fx is wanted") { Ok(()) } else { Err(said) }
    })
    .await;
    assert_eq!(tls::presented(inbound).await, before);
    serves(&mesh).await;
    // No key of ours was made, nor kept.
    let kept = std::fs::read_dir(mesh.state().join("proxies/fx-east-0")).expect("its folder").flatten();
    assert!(kept.map(|entry| entry.file_name()).all(|name| name != "identity.json"));
    mesh.down().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn who_issues_changes_with_a_start_and_not_while_the_mesh_runs() {
    const BUILT_IN: &str = "{builtin: {certificateLifetime: 24h}}";
    let tool = Tool::new();
    let (authority, root) = tool.authority("root.pem");
    tool.issue(&authority);
    tool.trust(&[&root]);
    let theirs = std::fs::read_to_string(&root).expect("a root");
    let mesh = Mesh::up(identified("127.218.5.1:8080", BUILT_IN, ""), &[]).await;
    let (path, state) =
        (mesh.path().to_str().expect("UTF-8").to_owned(), mesh.state().to_str().expect("UTF-8").to_owned());
    let ours = std::fs::read_to_string(mesh.state().join("ca/root.pem")).expect("our root");
    let bundle = async || run(&["ca", "bundle", "--format", "pem", "--state", &state], MOMENT).await.out;
    let manifests = mesh.path().join("mesh.yaml");
    let identity = |from: &str, to: &str| {
        let text = std::fs::read_to_string(&manifests).expect("manifests");
        assert!(text.contains(from), "{text}");
        std::fs::write(&manifests, text.replace(from, to)).expect("written");
    };
    serves(&mesh).await;
    assert_eq!(bundle().await, ours);

    // Nothing of it comes into force, and nobody notices.
    identity(BUILT_IN, &tool.identity());
    let load = Load::start(mesh.gateway("edge"), "/accounts/42", 40);
    let refused = run(&["apply", "-f", &path, "--state", &state], MOMENT).await;
    assert_ne!(refused.code, Some(0), "{refused:?}");
    assert!(
        refused.err.contains("`identity` of the Mesh cannot change while proxies run (9 are connected)"),
        "{refused:?}"
    );
    tokio::time::sleep(Duration::from_secs(2)).await;
    let shots = load.stop().await;
    println!("{} requests, {} failed", shots.len(), failed(&shots).len());
    assert!(failed(&shots).is_empty(), "{:?}\n{}", failed(&shots).first(), mesh.said());
    all_present(&mesh, &mesh.state().join("ca/root.pem")).await;

    let mesh = mesh.again().await;
    serves(&mesh).await;
    all_present(&mesh, &root).await;
    assert_eq!(bundle().await, theirs);
    let shown = run(&["ca", "show", "--state", &state], MOMENT).await;
    assert!(shown.out.contains("issued elsewhere") && !shown.out.contains("firedrill mesh root"), "{shown:?}");
    let rotated = run(&["ca", "rotate", "--root", "--state", &state], MOMENT).await;
    assert_eq!(rotated.code, Some(2), "{rotated:?}");
    let trust = run(&["get", "trust", "--state", &state], MOMENT).await;
    assert!(trust.out.contains("ours: file") && trust.out.contains("bundle.pem"), "{trust:?}");

    identity(&tool.identity(), BUILT_IN);
    let mesh = mesh.again().await;
    serves(&mesh).await;
    all_present(&mesh, &mesh.state().join("ca/root.pem")).await;
    assert_eq!(bundle().await, ours);
    mesh.down().await;
}

/// The Workload API in Python.
struct Api {
    child: Child,
    input: ChildStdin,
    heard: mpsc::UnboundedReceiver<Value>,
}

impl Api {
    async fn start(python: &Path, socket: &Path) -> Self {
        let mut command = Command::new(python);
        command.arg(workspace().join("e2e/peers/workload_api.py")).arg("--socket").arg(socket);
        let mut child =
            command.stdin(Stdio::piped()).stdout(Stdio::piped()).kill_on_drop(true).spawn().expect("starts");
        let mut lines = BufReader::new(child.stdout.take().expect("piped")).lines();
        let (tell, heard) = mpsc::unbounded_channel();
        tokio::spawn(async move {
            while let Ok(Some(line)) = lines.next_line().await {
                let said = serde_json::from_str(&line).unwrap_or_else(|e| panic!("{e}: {line}"));
                if tell.send(said).is_err() {
                    return;
                }
            }
        });
        let input = child.stdin.take().expect("piped");
        let mut api = Self { child, input, heard };
        api.hears("listening", 1).await;
        api
    }

    async fn tell(&mut self, what: &Value) {
        self.input.write_all(format!("{what}\n").as_bytes()).await.expect("told");
    }

    /// Waits until it said something as often.
    async fn hears(&mut self, what: &str, times: usize) -> Value {
        let mut seen = 0;
        loop {
            let said =
                tokio::time::timeout(MOMENT, self.heard.recv()).await.unwrap_or_else(|_| panic!("{seen} {what}"));
            let said = said.expect("it runs");
            seen += usize::from(!said[what].is_null());
            if seen == times {
                return said;
            }
        }
    }
}

/// All that everybody gets: each takes its own.
fn handed_out(tool: &Tool, partner: &Path) -> Value {
    let svid = |(name, id): (String, String)| {
        json!({
            "id": id,
            "certificate": tool.path(&format!("{name}.pem")),
            "key": tool.path(&format!("{name}.key")),
            "bundle": tool.path("bundle.pem"),
        })
    };
    json!({"svids": everybody().into_iter().map(svid).collect::<Vec<_>>(), "federated": {"partner.example": partner}})
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn no_request_fails_while_a_workload_api_rotates_ends_streams_dies_and_hangs() {
    a_workload_api_rotates(DataPlane::Firedrill, "127.218.2.1:8080").await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn no_request_of_envoys_fails_while_a_workload_api_rotates_ends_streams_dies_and_hangs() {
    a_workload_api_rotates(DataPlane::Envoy, "127.218.4.1:8080").await;
}

async fn a_workload_api_rotates(plane: DataPlane, gateway: &str) {
    let Some(python) = python().await else {
        println!("skipped: no Python with grpcio; make tools");
        return;
    };
    let tool = Tool::new();
    let ((first, first_root), (second, second_root)) = (tool.authority("first.pem"), tool.authority("second.pem"));
    let (partner, partner_root) = tool.authority("partner.pem");
    tool.issue(&first);
    tool.trust(&[&first_root]);
    let mut api = Api::start(&python, &tool.path("api.sock")).await;
    api.tell(&handed_out(&tool, &partner_root)).await;
    let identity = format!("{{spire: {{socket: \"unix://{}\"}}}}", tool.path("api.sock").display());
    let federation = "  federation: [{trustDomain: partner.example}]\n";
    let Some(mesh) = Mesh::on(plane, identified(gateway, &identity, federation)).await else { return };
    api.hears("fetching", everybody().len()).await;
    serves(&mesh).await;
    all_present(&mesh, &first_root).await;

    // The bundle of another trust domain came by the same way: it is believed for its own ids.
    let accounts = address(&mesh.workload("accounts-east-0")["inbound"]);
    let ask = async |id: &str| tls::get(accounts, Some(partner.certificate(Some(id), 1, 2)), "/accounts/42").await;
    until(MOMENT, async || match ask(WEB).await {
        Ok(200) => Ok(()),
        other => Err(format!("{other:?}")),
    })
    .await;
    assert!(ask("spiffe://bank.example/gateway/edge").await.is_err());
    let known = mesh.control("/v1/trust").await["federation"][0].clone();
    assert_eq!((&known["source"], &known["failing"]), (&json!("the Workload API"), &Value::Null));

    let load = Load::start(mesh.gateway("edge"), "/accounts/42", 40);
    tool.trust(&[&first_root, &second_root]);
    api.tell(&handed_out(&tool, &partner_root)).await;
    all_trust(&mesh, 2).await;
    tool.issue(&second);
    api.tell(&handed_out(&tool, &partner_root)).await;
    all_present(&mesh, &second_root).await;
    // Streams that end are opened again.
    api.tell(&json!({"end": true})).await;
    let metadata = api.hears("fetching", everybody().len()).await;
    assert_eq!(metadata["fetching"]["workload.spiffe.io"], "true");
    // Without the API, what came last goes on.
    api.child.kill().await.expect("killed");
    tokio::time::sleep(Duration::from_secs(3)).await;
    serves(&mesh).await;
    // One that takes connections and never answers is told by who needs it, and asked again.
    let mut api = Api::start(&python, &tool.path("api.sock")).await;
    let silent = format!("the Workload API at {}: it has not answered for 10 s", tool.path("api.sock").display());
    fails(&mesh, &|reason| reason.is_some_and(|reason| reason.contains(&silent))).await;
    let state = mesh.state().to_str().expect("UTF-8").to_owned();
    let shown = run(&["get", "proxies", "--state", &state], MOMENT).await;
    assert_eq!(shown.out.matches(&silent).count(), everybody().len() - 1, "{shown:?}");
    // Each tells it once; the log of the mesh fetches what its proxies tell.
    until(MOMENT, async || {
        let events = run(&["events", "--state", &state], MOMENT).await;
        let told = events.out.lines().filter(|line| line.contains("identityFailing") && line.contains(&silent)).count();
        if told == everybody().len() { Ok(()) } else { Err(format!("{told} tell it: {}", events.out)) }
    })
    .await;
    api.tell(&handed_out(&tool, &partner_root)).await;
    fails(&mesh, &|reason| reason.is_none()).await;
    let shots = load.stop().await;
    println!("{} requests, {} failed", shots.len(), failed(&shots).len());
    assert!(failed(&shots).is_empty(), "{:?}\n{}", failed(&shots).first(), mesh.said());
    mesh.down().await;
}
