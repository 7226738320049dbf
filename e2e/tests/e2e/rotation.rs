//! The authority is replaced, root and all, while requests flow: nobody notices, neither on our proxies nor on stock Envoys.

use std::time::{Duration, Instant};

use e2e::{
    load::{Load, failed, slowest},
    mesh::{Mesh, address, bank, rows},
    plane::DataPlane,
    process::command,
    tls::{self, Authority},
    web::get,
};

/// Life of certificates: renewed every 6 s, so that each is renewed several times.
const LIFE: &str = "12s";

/// How long requests flow at least: `FIREDRILL_ROTATION_SECS=300` for the long version.
fn length() -> Duration {
    let asked = std::env::var("FIREDRILL_ROTATION_SECS").ok().and_then(|text| text.parse().ok());
    Duration::from_secs(asked.unwrap_or(45))
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn no_request_fails_while_root_and_certificates_are_replaced() {
    all_is_replaced(DataPlane::Firedrill, "127.207.6.1:8080").await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn no_request_fails_while_root_and_certificates_of_envoys_are_replaced() {
    all_is_replaced(DataPlane::Envoy, "127.207.8.1:8080").await;
}

async fn all_is_replaced(plane: DataPlane, gateway: &str) {
    let folder = bank(gateway.parse().unwrap(), |text| {
        text.replace("certificateLifetime: 24h", &format!("certificateLifetime: {LIFE}"))
    });
    let Some(mesh) = Mesh::on(plane, folder).await else { return };
    let before = std::fs::read_to_string(mesh.state().join("ca/root.pem")).expect("the root");
    // A sidecar that was up before its workload has failures from then.
    let broken = counters(&mesh).await;
    let (mut steps, mut looked) = (0, 0);
    let load = Load::start(mesh.gateway("edge"), "/accounts/42", 40);
    let began = Instant::now();
    // Whole rotations: each has three steps.
    while began.elapsed() < length() || steps % 3 != 0 {
        steps += u32::from(step(&mesh).await);
        looked += look(&mesh).await;
        assert!(began.elapsed() < length() + Duration::from_secs(120), "the rotation got stuck");
        tokio::time::sleep(Duration::from_millis(500)).await;
    }
    let shots = load.stop().await;
    println!("{} requests, {steps} steps, {looked} certificates, slowest {:?}", shots.len(), slowest(&shots));
    assert!(failed(&shots).is_empty(), "{:?}", failed(&shots));
    // Nothing was mended behind the requests' backs either.
    assert_eq!(counters(&mesh).await, broken);
    let roots = std::fs::read_to_string(mesh.state().join("ca/root.pem")).expect("the root");
    assert_ne!(roots, before);
    assert_eq!(std::fs::read_to_string(mesh.state().join("ca/trust.pem")).expect("the bundle"), roots);
    // Whom the old root vouches for is a stranger now.
    let old = Authority::of_files(&mesh.path().join("old.key"), &mesh.path().join("old.pem"));
    let edge = "spiffe://bank.example/gateway/edge";
    for workload in rows(&mesh.report()["workloads"]) {
        let answer = tls::get(address(&workload["inbound"]), Some(old.certificate(Some(edge), 1, 2)), "/healthz").await;
        assert!(answer.is_err(), "{answer:?}");
    }
    mesh.down().await;
}

/// The next step, if its time has come.
async fn step(mesh: &Mesh) -> bool {
    let keep = |name: &str, to: &str| {
        let to = mesh.path().join(to);
        if !to.exists() {
            std::fs::copy(mesh.state().join("ca").join(name), to).expect("copied");
        }
    };
    keep("root.key", "old.key");
    keep("root.pem", "old.pem");
    let state = mesh.state().to_str().expect("UTF-8").to_owned();
    let done = command(&["ca", "rotate", "--root", "--state", &state]).output().await.expect("runs");
    let said = String::from_utf8_lossy(&done.stderr).into_owned();
    assert!(done.status.success() || done.status.code() == Some(2), "{said}");
    done.status.success()
}

/// What every sidecar presents is of a root in the bundle, and valid. Answers how many it were.
async fn look(mesh: &Mesh) -> usize {
    let bundle = std::fs::read_to_string(mesh.state().join("ca/trust.pem")).expect("the bundle");
    let mut looked = 0;
    for workload in rows(&mesh.report()["workloads"]) {
        let chain = tls::presented(address(&workload["inbound"])).await;
        assert_eq!(tls::trusted(&chain, &bundle), Ok(()), "{}", workload["name"]);
        looked += 1;
    }
    looked
}

/// Repeats and connections that broke, at every proxy.
async fn counters(mesh: &Mesh) -> Vec<String> {
    let mut found = Vec::new();
    for proxy in mesh.proxies().await {
        let answer = mesh.web.send(get(proxy.admin, "/metrics"), Duration::from_secs(5)).await.expect("answered");
        let text = String::from_utf8_lossy(&answer.body).into_owned();
        let broken = |line: &&str| {
            let bad = line.starts_with("firedrill_endpoint_failures_total{")
                || line.starts_with("firedrill_refused_total{kind=\"distrusted\"}")
                || line.starts_with("firedrill_repeats_total{kind=\"retry\"}")
                || line.starts_with("envoy_cluster_upstream_cx_connect_fail{")
                || line.starts_with("envoy_cluster_upstream_rq_retry{")
                || line.starts_with("envoy_cluster_ssl_fail_verify");
            bad && !line.ends_with(" 0")
        };
        found.extend(text.lines().filter(broken).map(|line| format!("{}: {line}", proxy.name)));
    }
    found
}
