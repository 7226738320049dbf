//! A gibibyte through one proxy, both ways, over both protocols: the bytes are the same, and the proxy holds few of them.

#[path = "../../../crates/proxy/tests/it/bodies/transfer.rs"]
mod transfer;

use std::{
    net::{Ipv4Addr, SocketAddr},
    process::Stdio,
    time::Duration,
};

use e2e::{
    mesh::until,
    process::command,
    web::{Web, get},
};
use serde_json::json;
use tempfile::TempDir;
use tokio::process::Child;
use transfer::{Endpoint, Pace, Protocol, Transfer};

const GIBIBYTE: u64 = 1 << 30;
/// What a proxy may come to hold, whatever the size of the bodies.
const MOST_RESIDENT: u64 = 8 << 20;
/// How far a sender may be ahead of a reader that stopped: the kernel's buffers on four sockets, and the proxy's.
const MOST_AHEAD: u64 = 48 << 20;

fn address(last: u8, port: u16) -> SocketAddr {
    (Ipv4Addr::new(127, 206, 0, last), port).into()
}

struct Running {
    child: Child,
    _folder: TempDir,
}

impl Running {
    /// A proxy that forwards to the endpoint.
    async fn start(last: u8, endpoint: &Endpoint, protocol: Protocol) -> Self {
        let folder = tempfile::Builder::new().prefix("firedrill-e2e-").tempdir().expect("a temporary folder");
        let http = if protocol == Protocol::Http1 { "http1" } else { "http2" };
        let forward =
            json!({"clusters": [{"cluster": "fx", "weight": 1}], "timeout": "0s", "retry": null, "hedge": null});
        let route = json!({"match": {"path": {"prefix": "/"}}, "action": {"forward": forward}});
        let snapshot = json!({
            "listeners": [{
                "name": "main", "address": address(last, 8000), "direction": "outbound", "tls": null,
                "protocol": {"http": {"routes": "main", "authorization": null}},
            }],
            "routes": [{"name": "main", "hosts": [{"name": "all", "domains": ["*"], "routes": [route]}]}],
            "clusters": [{
                "name": "fx", "service": "fx", "protocol": http, "connectTimeout": "1s", "balancer": "roundRobin",
                "tls": null, "healthCheck": null, "outlier": null, "panicThreshold": 0, "ramp": null,
            }],
            "endpoints": [{"cluster": "fx", "localities": [{
                "region": "east", "zone": "", "priority": 0, "weight": 1,
                "endpoints": [{"name": "bodies", "address": endpoint.address, "version": "v1", "weight": 1}],
            }]}],
            "trust": [],
        });
        let file = folder.path().join("snapshot.json");
        std::fs::write(&file, snapshot.to_string()).expect("written");
        let mut command = command(&["proxy", "--name", "bodies", "--admin", &address(last, 15000).to_string()]);
        command.arg("--snapshot").arg(file).arg("--state").arg(folder.path().join("state"));
        let child = command.stderr(Stdio::null()).spawn().expect("starts");
        let web = Web::default();
        until(Duration::from_secs(20), async || {
            let answer = web.send(get(address(last, 15000), "/ready"), Duration::from_secs(1)).await?;
            if answer.status.is_success() { Ok(()) } else { Err("not ready".to_owned()) }
        })
        .await;
        Self { child, _folder: folder }
    }

    /// Most bytes that were resident at once.
    fn peak(&self) -> u64 {
        let status = std::fs::read_to_string(format!("/proc/{}/status", self.child.id().expect("runs"))).expect("runs");
        let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:")).expect("is told");
        line.trim().trim_end_matches(" kB").parse::<u64>().expect("a number") * 1024
    }
}

async fn gibibytes(last: u8, protocol: Protocol) {
    let endpoint = Endpoint::start(address(last + 1, 8080), protocol).await;
    let proxy = Running::start(last, &endpoint, protocol).await;
    let to = address(last, 8000);
    let idle = proxy.peak();
    // Every combination, twelve for each protocol; those of smaller bodies are the proxy's own tests.
    let paces = [Pace::Fast, Pace::SlowReader, Pace::SlowWriter];
    let ways = [true, false].into_iter().flat_map(|told| paces.map(|pace| (told, pace)));
    for (told, pace) in ways {
        for up in [true, false] {
            let transfer = Transfer { size: GIBIBYTE, told, pace, protocol, up };
            let ahead = transfer.run(to, &endpoint).await.unwrap_or_else(|reason| panic!("{reason}"));
            assert!(ahead <= MOST_AHEAD, "{transfer:?}: the sender was {ahead} bytes ahead");
            // The kernel's peak is a reading of approximate counters, and may be less than one before.
            let more = proxy.peak().saturating_sub(idle);
            assert!(more <= MOST_RESIDENT, "{transfer:?}: {more} bytes more than idle");
            println!("{transfer:?}: {} KiB more than idle, sender ahead by {} KiB", more >> 10, ahead >> 10);
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_gibibyte_over_http1() {
    gibibytes(1, Protocol::Http1).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_gibibyte_over_http2() {
    gibibytes(11, Protocol::Http2).await;
}
