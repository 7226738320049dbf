//! The sidecars carry every call: strangers, plaintext and unlisted callers get nothing, whether they are ours or stock Envoys.

use std::{
    io::{Read, Write},
    net::TcpStream,
    os::unix::fs::PermissionsExt,
    path::{Path, PathBuf},
    time::Duration,
};

use bytes::Bytes;
use e2e::{
    mesh::{Mesh, address, bank, json_file, rows, until},
    plane::DataPlane,
    process::{command, finish, signal},
    tls::{self, Authority},
    web::{get, request},
};
use hyper::{Method, StatusCode, header};
use rustix::process::Signal;
use serde_json::json;

/// fx may reach ledger by route, but ledger does not list it.
fn reaching(text: &str) -> String {
    text.replace("metadata: {name: fx}\nspec:\n", "metadata: {name: fx}\nspec:\n  calls: [ledger]\n")
}

#[tokio::test]
async fn plaintext_to_a_sidecar_is_refused_and_an_unlisted_caller_gets_403() {
    let folder = bank("127.207.1.1:8080".parse().unwrap(), |text| reaching(&text));
    let mesh = Mesh::up(folder, &[]).await;
    plaintext_and_the_unlisted_get_nothing(&mesh).await;
    mesh.down().await;
}

#[tokio::test]
async fn envoys_refuse_plaintext_strangers_and_the_unlisted() {
    let folder = bank("127.207.7.1:8080".parse().unwrap(), |text| reaching(&text));
    let Some(mesh) = Mesh::on(DataPlane::Mixed("accounts-east-0,ledger-east-0,fx-east-0"), folder).await else {
        return;
    };
    plaintext_and_the_unlisted_get_nothing(&mesh).await;
    only_the_meshs_own_get_in(&mesh, &["accounts-east-0", "ledger-east-0", "fx-east-0"]).await;
    nothing_gets_through_without_the_authority(&mesh).await;
    mesh.down().await;
}

async fn plaintext_and_the_unlisted_get_nothing(mesh: &Mesh) {
    for workload in rows(&mesh.report()["workloads"]) {
        let inbound = address(&workload["inbound"]);
        let answer = tokio::task::spawn_blocking(move || plaintext(inbound)).await.expect("ran");
        assert!(!answer.starts_with(b"HTTP/"), "{inbound}: {}", String::from_utf8_lossy(&answer));
    }
    let ask = async |workload: &str| {
        let outbound = address(&mesh.workload(workload)["outbound"]);
        let mut request = request(Method::GET, outbound, "/balances/42", Bytes::new());
        request.headers_mut().insert(header::HOST, "ledger".parse().expect("a host"));
        mesh.web.send(request, Duration::from_secs(5)).await.expect("answered").status
    };
    assert_eq!(ask("accounts-east-0").await, StatusCode::OK);
    assert_eq!(ask("fx-east-0").await, StatusCode::FORBIDDEN);
}

/// What a plaintext request gets until the connection ends.
fn plaintext(inbound: std::net::SocketAddr) -> Vec<u8> {
    let mut stream = TcpStream::connect(inbound).expect("listens");
    stream.set_read_timeout(Some(Duration::from_secs(5))).expect("set");
    stream.write_all(b"GET /healthz HTTP/1.1\r\nhost: x\r\n\r\n").expect("sent");
    let mut answer = Vec::new();
    // A reset is as good as an end.
    let _ = stream.read_to_end(&mut answer);
    answer
}

#[tokio::test]
async fn only_a_certificate_of_the_mesh_opens_a_sidecar() {
    let mesh = Mesh::up(bank("127.207.3.1:8080".parse().unwrap(), |text| text), &[]).await;
    only_the_meshs_own_get_in(&mesh, &[]).await;
    mesh.down().await;
}

async fn only_the_meshs_own_get_in(mesh: &Mesh, envoys: &[&str]) {
    let (own, stranger) = (Authority::of(&mesh.state()), Authority::stranger());
    let (edge, fx) = ("spiffe://bank.example/gateway/edge", "spiffe://bank.example/service/fx");
    let accounts = address(&mesh.workload("accounts-east-0")["inbound"]);
    // First that the same client with the right certificate gets through.
    assert_eq!(tls::get(accounts, Some(own.certificate(Some(edge), 1, 2)), "/accounts/42").await, Ok(200));
    let ledger = address(&mesh.workload("ledger-east-0")["inbound"]);
    assert_eq!(tls::get(ledger, Some(own.certificate(Some(fx), 1, 2)), "/balances/42").await, Ok(403));
    for workload in rows(&mesh.report()["workloads"]) {
        let inbound = address(&workload["inbound"]);
        for (what, presented) in [
            ("no certificate", None),
            ("another authority's", Some(stranger.certificate(Some(edge), 1, 2))),
            ("expired", Some(own.certificate(Some(edge), 3, 1))),
            ("without a SPIFFE id", Some(own.certificate(None, 1, 2))),
        ] {
            let answer = tls::get(inbound, presented, "/healthz").await;
            let refused = answer.as_ref().is_err_and(|e| !e.contains("neither"));
            // An Envoy finds out only when it asks who may do what.
            let denied = answer == Ok(403) && what == "without a SPIFFE id";
            let envoy = workload["name"].as_str().is_some_and(|name| envoys.contains(&name));
            assert!(refused || (envoy && denied), "{what} at {inbound}: {answer:?}");
        }
    }
}

#[tokio::test]
async fn interfaces_ask_for_a_token_and_secrets_are_their_owners_alone() {
    let mesh = Mesh::up(bank("127.207.4.1:8080".parse().unwrap(), |text| text), &[]).await;
    let doors = ["supervisor", "control"].map(|name| json_file(&mesh.state().join(format!("run/{name}.json"))));
    let token = |door: usize| doors[door]["token"].as_str().expect("a token").to_owned();
    // Each asked with nothing, nonsense, and the other's token.
    for (door, other, paths) in [
        (0, 1, ["/v1/mesh", "/v1/workloads", "/v1/events", "/v1/holds"].as_slice()),
        (1, 0, ["/v1/config", "/v1/proxies", "/v1/leases", "/v1/events", "/v1/recovery", "/v1/trust"].as_slice()),
    ] {
        let api = address(&doors[door]["api"]);
        assert!(api.ip().is_loopback());
        for (path, given) in paths.iter().flat_map(|p| [None, Some("x".to_owned()), Some(token(other))].map(|t| (p, t)))
        {
            let mut request = get(api, path);
            if let Some(given) = &given {
                let value = format!("Bearer {given}").parse().expect("a header value");
                request.headers_mut().insert(header::AUTHORIZATION, value);
            }
            let answer = mesh.web.send(request, Duration::from_secs(5)).await.expect("answered");
            assert_eq!(answer.status, StatusCode::UNAUTHORIZED, "{api}{path} {}", given.is_some());
        }
    }
    let hold = json!({"id": "x", "region": "east", "how": "kill", "ttlMs": 1000}).to_string();
    let request = request(Method::POST, address(&doors[0]["api"]), "/v1/holds", hold.into());
    let answer = mesh.web.send(request, Duration::from_secs(5)).await.expect("answered");
    assert_eq!(answer.status, StatusCode::UNAUTHORIZED);

    // A drill that is begun makes the ledger's signing key.
    let drill = mesh.drill("lose-east", &["--yes"]).spawn().expect("starts");
    let key = mesh.state().join("ledger/key.pem");
    until(Duration::from_secs(20), async || if key.exists() { Ok(()) } else { Err("no signing key".to_owned()) }).await;
    signal(drill.id().expect("running"), Signal::INT);
    finish(drill, Duration::from_secs(30)).await;

    let secrets = [token(0), token(1), "PRIVATE KEY".to_owned()];
    let open = open_secrets(&mesh.state(), &secrets);
    let expected = ["ca/root.key", "run/control.json", "run/supervisor.json", "ledger/key.pem"];
    for name in expected.into_iter().chain(["proxies/edge/identity.json", "proxies/ledger-west-0/identity.json"]) {
        assert!(open.iter().any(|(path, _)| path.ends_with(name)), "{name} is not among {open:?}");
    }
    assert!(open.iter().all(|(_, mode)| *mode == 0o600), "{open:?}");
    // Join tokens are nowhere: neither in the store, nor in logs, nor in the ledger.
    assert_eq!(open_secrets(&mesh.state(), &["fdj_".to_owned()]), []);
    mesh.down().await;
}

/// Files of a folder that hold one of the secrets, with their permissions.
fn open_secrets(folder: &Path, secrets: &[String]) -> Vec<(PathBuf, u32)> {
    let mut found = Vec::new();
    for entry in std::fs::read_dir(folder).expect("a folder").flatten() {
        let path = entry.path();
        if path.is_dir() {
            found.extend(open_secrets(&path, secrets));
            continue;
        }
        // What is gone by now (journals, temporary files) is no leak.
        let Ok(bytes) = std::fs::read(&path) else { continue };
        let text = String::from_utf8_lossy(&bytes);
        if secrets.iter().any(|secret| text.contains(secret)) {
            found.push((path, entry.metadata().expect("metadata").permissions().mode() & 0o777));
        }
    }
    found
}

#[tokio::test]
async fn a_proxy_joins_by_a_token_once_and_anew_when_all_it_had_is_lost() {
    let mesh = Mesh::up(bank("127.207.5.1:8080".parse().unwrap(), |text| text), &[]).await;
    let api = address(&json_file(&mesh.state().join("run/control.json"))["api"]);
    let state = mesh.state().to_str().expect("UTF-8").to_owned();
    let token = async |more: &[&str]| {
        let args = [&["token", "create", "--state", &state], more].concat();
        let made = command(&args).output().await.expect("runs");
        assert!(made.status.success(), "{}", String::from_utf8_lossy(&made.stderr));
        String::from_utf8(made.stdout).expect("text").trim().to_owned()
    };
    let csr = || {
        let key = rcgen::KeyPair::generate().expect("a key");
        let request = rcgen::CertificateParams::default().serialize_request(&key).expect("a request");
        request.pem().expect("PEM")
    };
    let ask = async |proxy: &str, token: &str, csr: &str| {
        let body = json!({"proxy": proxy, "csr": csr}).to_string();
        let mut request = request(Method::POST, api, "/v1/certificates", body.into());
        let bearer = format!("Bearer {token}").parse().expect("a header value");
        request.headers_mut().insert(header::AUTHORIZATION, bearer);
        mesh.web.send(request, Duration::from_secs(5)).await.expect("answered").status
    };
    let (own, other) = (csr(), csr());
    let good = token(&["--service", "fx"]).await;
    assert_eq!(ask("ledger-east-0", &good, &own).await, StatusCode::UNAUTHORIZED);
    assert_eq!(ask("fx-east-0", &good, &own).await, StatusCode::OK);
    assert_eq!(ask("fx-east-0", &good, &other).await, StatusCode::UNAUTHORIZED);
    assert_eq!(ask("fx-east-0", "", &other).await, StatusCode::UNAUTHORIZED);
    let short = token(&["--gateway", "edge", "--ttl", "1s"]).await;
    tokio::time::sleep(Duration::from_millis(1100)).await;
    assert_eq!(ask("edge", &short, &own).await, StatusCode::UNAUTHORIZED);
    let counted = mesh.web.send(get(api, "/metrics"), Duration::from_secs(5)).await.expect("answered");
    let counted = String::from_utf8_lossy(&counted.body).into_owned();
    for reason in ["other_token", "used_token", "nothing", "expired_token"] {
        assert!(counted.contains(&format!("firedrill_joins_refused_total{{reason=\"{reason}\"}} 1\n")), "{counted}");
    }
    until(Duration::from_secs(60), async || {
        let ledger = std::fs::read_to_string(mesh.state().join("ledger/entries.log")).unwrap_or_default();
        let told = ledger.contains("joinsRefused") && ledger.contains("joinTokensCreated");
        if told { Ok(()) } else { Err(ledger) }
    })
    .await;
    // Its certificate is gone and it dies: the supervisor starts it with a token of its own.
    let identity = mesh.state().join("proxies/fx-east-0/identity.json");
    std::fs::remove_file(&identity).expect("removed");
    let proxy = mesh.proxies().await.into_iter().find(|proxy| proxy.name == "fx-east-0").expect("the proxy");
    signal(proxy.pid, Signal::KILL);
    until(Duration::from_secs(20), async || if identity.exists() { Ok(()) } else { Err("no certificate".to_owned()) })
        .await;
    mesh.whole().await;
    mesh.down().await;
}

#[tokio::test]
async fn nothing_gets_through_when_the_trust_bundle_lacks_the_authority() {
    let mesh = Mesh::up(bank("127.207.2.1:8080".parse().unwrap(), |text| text), &[]).await;
    nothing_gets_through_without_the_authority(&mesh).await;
    mesh.down().await;
}

async fn nothing_gets_through_without_the_authority(mesh: &Mesh) {
    let gateway = mesh.gateway("edge");
    let status = async || mesh.web.get(gateway, "/accounts/42").await.map(|a| a.status);
    assert_eq!(status().await, Ok(StatusCode::OK));
    let trust = mesh.state().join("ca/trust.pem");
    let own = std::fs::read_to_string(&trust).expect("the trust bundle");
    std::fs::write(&trust, include_str!("other-authority.pem")).expect("written");
    until(Duration::from_secs(10), async || match status().await {
        Ok(StatusCode::OK) => Err("requests still get through".to_owned()),
        _ => Ok(()),
    })
    .await;
    // Not once in many tries, over new and kept connections.
    for _ in 0..50 {
        assert_ne!(status().await, Ok(StatusCode::OK));
    }
    std::fs::write(&trust, own).expect("written");
    until(Duration::from_secs(15), async || match status().await {
        Ok(StatusCode::OK) => Ok(()),
        other => Err(format!("{other:?}")),
    })
    .await;
}
