//! A WebSocket through a mesh: gateway, sidecar, workload; and what its region's loss does to it.

#[path = "../../../crates/proxy/tests/it/websocket.rs"]
mod wire;

use std::{net::SocketAddr, time::Duration};

use e2e::{
    mesh::{Mesh, until},
    web::get,
};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{TcpListener, TcpStream},
};
use wire::{CLOSE, TEXT, accept, asks, echo, frame, framed, head};

const MASK: Option<[u8; 4]> = Some([9, 200, 33, 4]);

fn manifest(gateway: &str) -> String {
    let itself = std::env::current_exe().expect("this program");
    let run = format!("[{itself:?}, websocket::a_workload_that_echoes, --exact]");
    format!(
        "apiVersion: firedrill.dev/v1
kind: Mesh
metadata: {{name: chats}}
spec:
  trustDomain: chats.example
  regions: [east, west]
  gateways: [{{name: edge, listen: \"{gateway}\", routes: [{{service: chat}}]}}]
---
apiVersion: firedrill.dev/v1
kind: Service
metadata: {{name: chat}}
spec:
  protocol: http
  endpoints:
    - {{region: east, run: {run}}}
    - {{region: west, run: {run}}}
"
    )
}

/// This program as a workload of the mesh. As a test it has nothing to do.
#[tokio::test]
async fn a_workload_that_echoes() {
    let Ok(listen) = std::env::var("FIREDRILL_LISTEN") else { return };
    let listener = TcpListener::bind(&listen).await.expect("the address is free");
    loop {
        let (mut stream, _) = listener.accept().await.expect("accepts");
        tokio::spawn(async move {
            // Whoever only looks whether somebody listens asks for nothing.
            if head(&mut stream).await?.is_empty() {
                return Ok(());
            }
            accept(&mut stream).await?;
            echo(stream).await
        });
    }
}

/// A WebSocket, and the region that it leads to.
async fn opened(gateway: SocketAddr) -> Result<(TcpStream, String), String> {
    let mut stream = TcpStream::connect(gateway).await.map_err(|error| error.to_string())?;
    let asked = asks("websocket").replace("Host: fx", "Host: fx\r\nx-firedrill-probe: 1");
    stream.write_all(asked.as_bytes()).await.map_err(|error| error.to_string())?;
    let head = head(&mut stream).await.map_err(|error| error.to_string())?;
    let by = head.lines().find_map(|line| line.strip_prefix("x-firedrill-answered-by: "));
    match by.and_then(|by| by.split(';').next()).filter(|_| head.starts_with("HTTP/1.1 101 ")) {
        Some(region) => Ok((stream, region.to_owned())),
        None => Err(head),
    }
}

async fn echoes(stream: &mut TcpStream, kind: u8, message: &[u8]) {
    stream.write_all(&framed(kind, message, MASK)).await.expect("sent");
    assert_eq!(frame(stream).await.expect("echoed"), (kind, message.to_vec()));
}

#[tokio::test]
async fn a_websocket_passes_a_mesh_and_its_successor_goes_to_the_other_region() {
    let gateway = "127.207.21.1:8080";
    let folder = tempfile::Builder::new().prefix("firedrill-e2e-").tempdir().expect("a temporary folder");
    std::fs::write(folder.path().join("mesh.yaml"), manifest(gateway)).expect("written");
    let mesh = Mesh::up(folder, &[]).await;
    let gateway = gateway.parse().expect("an address");
    let (mut first, lost) = opened(gateway).await.expect("opened");
    echoes(&mut first, TEXT, b"hello").await;
    echoes(&mut first, TEXT, &vec![b'x'; 300_000]).await;
    let (mut closed, _) = opened(gateway).await.expect("opened");
    echoes(&mut closed, CLOSE, &[3, 232]).await;
    assert!(matches!(closed.read(&mut [0; 16]).await, Ok(0)), "the workload has closed its half");
    drop(closed);

    // The one that is over is counted at the gateway and at a sidecar.
    until(Duration::from_secs(10), async || {
        let mut counted = Vec::new();
        for proxy in mesh.proxies().await {
            let metrics = mesh.web.send(get(proxy.admin, "/metrics"), Duration::from_secs(1)).await?;
            let text = String::from_utf8_lossy(&metrics.body).into_owned();
            if text.lines().any(|l| l.starts_with("istio_requests_total{") && l.contains("response_code=\"101\"")) {
                counted.push(proxy.name);
            }
        }
        if counted.len() == 2 && counted.iter().any(|name| name == "edge") {
            Ok(())
        } else {
            Err(format!("{counted:?}"))
        }
    })
    .await;

    mesh.strike(&lost, "kill").await;
    assert!(matches!(first.read(&mut [0; 16]).await, Ok(0) | Err(_)), "a lost region's connection ends");
    until(Duration::from_secs(10), async || {
        let (mut next, region) = opened(gateway).await?;
        echoes(&mut next, TEXT, b"again").await;
        if region == lost { Err(format!("{region} is back already")) } else { Ok(()) }
    })
    .await;
    mesh.down().await;
}
