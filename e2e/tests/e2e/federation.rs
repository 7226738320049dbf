//! Two meshes that are federated: one calls a service of the other, by ids that the other lists; roots of one vouch for nobody of
//! the other.

use std::{
    net::SocketAddr,
    path::{Path, PathBuf},
    time::Duration,
};

use e2e::{
    load::{Load, failed},
    mesh::{Mesh, address, bank, json_file, until},
    plane::envoy,
    process::command,
    tls::{self, Authority},
    web::get,
};
use tempfile::TempDir;

const MOMENT: Duration = Duration::from_secs(30);
const FRONT: &str = "spiffe://shop.example/gateway/front";
const EDGE: &str = "spiffe://bank.example/gateway/edge";

/// Bundles by name, for both.
struct Bundles(TempDir);

impl Bundles {
    fn path(&self, name: &str) -> PathBuf {
        self.0.path().join(name)
    }

    /// What a mesh tells others, as it is told.
    async fn export(&self, name: &str, mesh: &Mesh) {
        let state = mesh.state().display().to_string();
        let told = command(&["ca", "bundle", "--state", &state]).output().await.expect("runs");
        assert!(told.status.success(), "{}", String::from_utf8_lossy(&told.stderr));
        std::fs::write(self.path(name), told.stdout).expect("written");
    }
}

/// The bank, whose accounts a gateway of the shop may ask.
fn trusting_bank(gateway: &str, shop: &Path, lifetime: &str) -> TempDir {
    let federation = format!("federation: [{{trustDomain: shop.example, bundle: {}}}]", shop.display());
    bank(gateway.parse().unwrap(), |text| {
        text.replace("  gateways:\n", &format!("  {federation}\n  gateways:\n"))
            .replace("certificateLifetime: 24h", &format!("certificateLifetime: {lifetime}"))
            .replace(
                "  calls: [ledger, fx]\n",
                &format!(
                    "  calls: [ledger, fx]\n  authorization: {{allow: [{{from: edge}}, {{from: \"{FRONT}\"}}]}}\n"
                ),
            )
    })
}

/// Two gateways, and nothing behind them but the accounts of the bank, also as who they are not.
fn shop(gateways: [&str; 2], bank: &Path, accounts: &[SocketAddr], endpoint: &str) -> TempDir {
    let folder = tempfile::Builder::new().prefix("firedrill-e2e-").tempdir().expect("a temporary folder");
    let [front, back] = gateways;
    let addresses: Vec<String> = accounts.iter().map(|address| format!("\"{address}\"")).collect();
    let (bank, addresses) = (bank.display(), addresses.join(", "));
    let text = format!(
        "apiVersion: firedrill.dev/v1
kind: Mesh
metadata: {{name: shop}}
spec:
  trustDomain: shop.example
  regions: [east]
  federation: [{{trustDomain: bank.example, bundle: {bank}{endpoint}}}]
  gateways:
    - {{name: front, listen: \"{front}\", routes: [{{prefix: /wrong, service: wrong}}, {{service: accounts}}]}}
    - {{name: back, listen: \"{back}\", routes: [{{service: accounts}}]}}
---
apiVersion: firedrill.dev/v1
kind: Service
metadata: {{name: accounts}}
spec:
  identity: spiffe://bank.example/service/accounts
  endpoints: [{{region: east, addresses: [{addresses}]}}]
---
apiVersion: firedrill.dev/v1
kind: Service
metadata: {{name: wrong}}
spec:
  identity: spiffe://bank.example/service/fx
  endpoints: [{{region: east, addresses: [{addresses}]}}]
"
    );
    std::fs::write(folder.path().join("mesh.yaml"), text).expect("written");
    folder
}

fn inbound(bank: &Mesh) -> Vec<SocketAddr> {
    ["accounts-east-0", "accounts-east-1"].map(|name| address(&bank.workload(name)["inbound"])).to_vec()
}

async fn answers(mesh: &Mesh, gateway: &str, path: &str, expected: u16) {
    until(MOMENT, async || match mesh.web.get(mesh.gateway(gateway), path).await {
        Ok(answer) if answer.status == expected => Ok(()),
        other => Err(format!("{path} of {gateway}: {other:?}, {expected} is wanted")),
    })
    .await;
}

/// All of it, with the same data plane on both sides.
async fn one_calls_the_other(addresses: [&str; 3], plane: &[&str]) {
    let bundles = Bundles(tempfile::tempdir().expect("a folder"));
    let [edge, front, back] = addresses;
    let bank = Mesh::up(trusting_bank(edge, &bundles.path("shop.json"), "24h"), plane).await;
    bundles.export("bank.json", &bank).await;
    let accounts = inbound(&bank);
    let shop = Mesh::up(shop([front, back], &bundles.path("bank.json"), &accounts, ""), plane).await;

    // Without our bundle there, we are strangers.
    answers(&bank, "edge", "/accounts/42", 200).await;
    answers(&shop, "front", "/accounts/42", 503).await;
    bundles.export("shop.json", &shop).await;
    answers(&shop, "front", "/accounts/42", 200).await;
    // Believed, but not listed.
    answers(&shop, "back", "/accounts/42", 403).await;
    // Who answers is not who should.
    answers(&shop, "front", "/wrong", 503).await;

    // Each root for the other's trust domain, and for its own.
    let (ours, theirs) = (Authority::of(&shop.state()), Authority::of(&bank.state()));
    let ask = async |authority: &Authority, id: &str| {
        tls::get(accounts[0], Some(authority.certificate(Some(id), 1, 2)), "/accounts/42").await
    };
    assert_eq!((ask(&ours, FRONT).await, ask(&theirs, EDGE).await), (Ok(200), Ok(200)));
    for answer in [ask(&ours, EDGE).await, ask(&theirs, FRONT).await, ask(&Authority::stranger(), FRONT).await] {
        assert!(answer.as_ref().is_err_and(|e| !e.contains("neither")), "{answer:?}");
    }

    // A set without keys takes every id of the trust domain back.
    std::fs::write(bundles.path("shop.json"), r#"{"keys": []}"#).expect("written");
    until(MOMENT, async || match ask(&ours, FRONT).await {
        Ok(status) => Err(format!("still answered with {status}")),
        Err(_) => Ok(()),
    })
    .await;
    assert_eq!(ask(&theirs, EDGE).await, Ok(200));
    if plane.is_empty() {
        // Connections that were up, too, which an Envoy keeps.
        answers(&shop, "front", "/accounts/42", 503).await;
    }
    shop.down().await;
    bank.down().await;
}

#[tokio::test]
async fn a_service_of_a_federated_mesh_is_called_by_who_is_listed() {
    one_calls_the_other(["127.217.1.1:8080", "127.217.1.2:8080", "127.217.1.3:8080"], &[]).await;
}

#[tokio::test]
async fn the_same_on_stock_envoys() {
    let Some(envoy) = envoy() else {
        println!("skipped: no Envoy; make tools");
        return;
    };
    let plane = ["--data-plane", "envoy", "--envoy", envoy.to_str().unwrap(), "--patience", "55"];
    one_calls_the_other(["127.217.2.1:8080", "127.217.2.2:8080", "127.217.2.3:8080"], &plane).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn no_request_fails_while_the_other_mesh_replaces_its_root() {
    let bundles = Bundles(tempfile::tempdir().expect("a folder"));
    let bank = Mesh::up(trusting_bank("127.217.3.1:8080", &bundles.path("shop.json"), "20s"), &[]).await;
    bundles.export("bank.json", &bank).await;
    let told = address(&json_file(&bank.state().join("run/control.json"))["bundle"]);
    let endpoint = format!(", endpoint: {{url: \"https://{told}/\"}}");
    let gateways = ["127.217.3.2:8080", "127.217.3.3:8080"];
    let shop = Mesh::up(shop(gateways, &bundles.path("bank.json"), &inbound(&bank), &endpoint), &[]).await;
    bundles.export("shop.json", &shop).await;
    answers(&shop, "front", "/accounts/42", 200).await;
    let before = std::fs::read_to_string(bank.state().join("ca/root.pem")).expect("the root");

    let load = Load::start(shop.gateway("front"), "/accounts/42", 40);
    let state = bank.state().display().to_string();
    for _ in 0..3 {
        until(Duration::from_secs(90), async || {
            let done = command(&["ca", "rotate", "--root", "--state", &state]).output().await.expect("runs");
            if done.status.success() {
                return Ok(());
            }
            // Each try asks every proxy.
            tokio::time::sleep(Duration::from_secs(1)).await;
            Err(String::from_utf8_lossy(&done.stderr).into_owned())
        })
        .await;
    }
    // The shop has forgotten the old root as well, and traffic goes on.
    let after = std::fs::read_to_string(bank.state().join("ca/root.pem")).expect("the root");
    assert_ne!(before, after);
    until(MOMENT, async || {
        let known = shop.control("/v1/trust").await["federation"][0].clone();
        let roots = known["roots"].as_str().unwrap_or_default().matches("BEGIN CERTIFICATE").count();
        if roots == 1 && known["sequence"] == 3 { Ok(()) } else { Err(known.to_string()) }
    })
    .await;
    tokio::time::sleep(Duration::from_secs(2)).await;
    let shots = load.stop().await;
    println!("{} requests, {} failed", shots.len(), failed(&shots).len());
    assert!(failed(&shots).is_empty(), "{:?}", failed(&shots).first());
    let stale = shop.web.send(get(shop.gateway("front"), "/accounts/42"), MOMENT).await.expect("answered");
    assert!(stale.status.is_success());
    shop.down().await;
    bank.down().await;
}
