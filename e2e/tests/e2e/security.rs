//! The sidecars carry every call: strangers, plaintext and unlisted callers get nothing.

use std::{
    io::{Read, Write},
    net::TcpStream,
    time::Duration,
};

use bytes::Bytes;
use e2e::{
    mesh::{Mesh, address, bank, rows, until},
    web::request,
};
use hyper::{Method, StatusCode, header};

#[tokio::test]
async fn plaintext_to_a_sidecar_is_refused_and_an_unlisted_caller_gets_403() {
    // fx may reach ledger by route, but ledger does not list it.
    let folder = bank("127.207.1.1:8080".parse().unwrap(), |text| {
        text.replace("metadata: {name: fx}\nspec:\n", "metadata: {name: fx}\nspec:\n  calls: [ledger]\n")
    });
    let mesh = Mesh::up(folder, &[]).await;
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
    mesh.down().await;
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
async fn nothing_gets_through_when_the_trust_bundle_lacks_the_authority() {
    let mesh = Mesh::up(bank("127.207.2.1:8080".parse().unwrap(), |text| text), &[]).await;
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
    mesh.down().await;
}
