//! What a control plane bears: many proxies that are connected to the real program over real gRPC and mutual TLS, one change
//! of an endpoint after another, and all of them coming back at once.

mod admin;
mod crowd;
mod mesh;
mod plane;
mod wire;

use std::{
    collections::BTreeSet,
    net::SocketAddr,
    time::{Duration, Instant},
};

use http::Method;
use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
use serde_json::{Value, json};
use tokio::time::{sleep, timeout};

use self::{
    crowd::{Awaited, Crowd},
    mesh::{HUBS, REGIONS, Size, Workload, name},
    plane::Plane,
};
use crate::{
    failure::Failure,
    stats::{median, quantile},
    table,
};

/// 500 services, 5,000 endpoints, 1,000 connected proxies.
const SIZE: Size = Size { services: 500, endpoints: 5, connected: 1 };
/// Changes of an endpoint, one after another.
const CHANGES: usize = 100;
/// One in this many is of a service that one in twenty of the mesh call.
const OF_A_HUB: usize = 10;
/// From a change's arrival to the next change; what still goes over the wire then is of the change.
const BETWEEN: Duration = Duration::from_millis(100);
/// Bound on what should take a fraction of it.
const PATIENCE: Duration = Duration::from_secs(60);

/// The bars of the table.
const ARRIVES: f64 = 100.0;
const PART: f64 = 1.0;
const SETTLES: f64 = 20.0;
const RESIDENT: f64 = 500.0;

/// Measures and prints a table.
///
/// # Errors
/// When the control plane does not start, refuses what it must take, or something never arrives.
pub async fn run() -> Result<(), Failure> {
    raise_files()?;
    let folder = tempfile::tempdir().map_err(Failure::io("temporary folder"))?;
    let plane = Plane::start(&folder.path().join("state")).await?;
    let file = json!({ "path": "mesh.yaml", "text": SIZE.manifests() });
    let request = json!({ "files": [file], "author": "bench", "message": "" });
    plane.call(Method::PUT, "/v1/config", Some(&request)).await?;
    plane.call(Method::PUT, "/v1/placements", Some(&SIZE.placements())).await?;

    let (mut crowd, begin) = Crowd::connect(SIZE, &plane).await?;
    admin::answer(&folder.path().join("state"), &crowd)?;
    let wanted = crowd.members.len() as u64;
    in_time("the first snapshots", crowd.complete()).await?;
    in_time("the first acknowledgements", settled(&plane, wanted)).await??;
    let (full, first) = (crowd.count.bytes(), begin.elapsed());
    // What the first contact set off is not a change's.
    sleep(Duration::from_secs(2)).await;

    let changes = changes(&plane, &mut crowd).await?;
    let before = plane.resident();
    let begin = Instant::now();
    let plane = plane.replace().await?;
    in_time("the reconnect storm", settled(&plane, wanted)).await??;
    let storm = begin.elapsed();
    let after = plane.resident();
    in_time("all proxies in sync after the storm", in_sync(&plane, wanted)).await??;
    print(&Seen { full, first, changes, storm, resident: before.0.max(after.0), highest: before.1.max(after.1) });
    Ok(())
}

/// A change's way.
struct Change {
    hub: bool,
    /// From the call to the last proxy that is concerned, in milliseconds.
    last: f64,
    /// On all connections, both ways.
    bytes: u64,
}

struct Seen {
    full: u64,
    first: Duration,
    changes: Vec<Change>,
    storm: Duration,
    resident: u64,
    highest: u64,
}

async fn changes(plane: &Plane, crowd: &mut Crowd) -> Result<Vec<Change>, Failure> {
    let mut changes = Vec::with_capacity(CHANGES);
    for number in 0..CHANGES {
        let hub = number % OF_A_HUB == 0;
        let service = if hub { number / OF_A_HUB % HUBS } else { HUBS + number * 37 % (SIZE.services - HUBS) };
        // Its own sidecar is not connected: only callers hear of it.
        let workload = Workload { service, region: number % REGIONS.len(), number: SIZE.endpoints - 1 };
        changes.push(change(plane, crowd, workload, 20_000 + number as u16, hub).await?);
    }
    crowd.wait_for(None);
    Ok(changes)
}

/// A workload's sidecar comes up at another port.
async fn change(plane: &Plane, crowd: &mut Crowd, workload: Workload, port: u16, hub: bool) -> Result<Change, Failure> {
    let concerned = SIZE.callers(workload.service).len() * REGIONS.len() * SIZE.connected;
    let address = SocketAddr::from((SIZE.address(workload), port));
    crowd.wait_for(Some(Awaited { cluster: name(workload.service), address }));
    let placement = SIZE.placement(workload, port);
    let (bytes, begin) = (crowd.count.bytes(), Instant::now());
    plane.call(Method::PUT, &format!("/v1/placements/{}", workload.name()), Some(&placement)).await?;
    let arrival = async {
        let mut last = begin;
        let mut reached = BTreeSet::new();
        while reached.len() < concerned {
            let Some((proxy, at)) = crowd.seen.recv().await else { break };
            reached.insert(proxy);
            last = last.max(at);
        }
        last
    };
    let last = in_time("a change", arrival).await?;
    sleep(BETWEEN).await;
    let last = last.duration_since(begin).as_secs_f64() * 1000.0;
    Ok(Change { hub, last, bytes: crowd.count.bytes() - bytes })
}

/// Waits until the control plane says that all have accepted what is published for them.
async fn settled(plane: &Plane, wanted: u64) -> Result<(), Failure> {
    while plane.metric("firedrill_proxies_settled").await? < wanted {
        sleep(Duration::from_millis(50)).await;
    }
    Ok(())
}

/// Waits until all proxies, asked by the control plane, hold what has the digest that it wants. One that does not answer in
/// time is asked again.
async fn in_sync(plane: &Plane, wanted: u64) -> Result<(), Failure> {
    let holds = |proxy: &&Value| proxy["connected"] == true && proxy["inSync"] == true;
    loop {
        let proxies = plane.call(Method::GET, "/v1/proxies", None).await?;
        let proxies = proxies.as_array().map(Vec::as_slice).unwrap_or_default();
        if proxies.iter().filter(holds).count() as u64 == wanted {
            return Ok(());
        }
        sleep(Duration::from_millis(200)).await;
    }
}

async fn in_time<T>(what: &str, awaited: impl Future<Output = T>) -> Result<T, Failure> {
    timeout(PATIENCE, awaited).await.map_err(|_| Failure::Program(format!("{what}: not within {PATIENCE:?}")))
}

/// Each connection is a file here, and one in the control plane, which inherits the limit.
fn raise_files() -> Result<(), Failure> {
    let limit = getrlimit(Resource::Nofile);
    setrlimit(Resource::Nofile, Rlimit { current: limit.maximum, maximum: limit.maximum })
        .map_err(|error| Failure::Io("the limit of open files".to_owned(), error.into()))
}

fn print(seen: &Seen) {
    let of = |hub: bool| seen.changes.iter().filter(move |change| change.hub == hub);
    let times = |hub| of(hub).map(|change| change.last);
    let all = || seen.changes.iter().map(|change| change.last);
    let part = |bytes: u64| bytes as f64 / seen.full as f64 * 100.0;
    let parts = |hub| of(hub).map(move |change| part(change.bytes));
    let mean = seen.changes.iter().map(|change| part(change.bytes)).sum::<f64>() / seen.changes.len().max(1) as f64;
    let best = |figure: Option<f64>| figure.unwrap_or(f64::NAN);
    let mebibytes = |kib: u64| kib as f64 / 1024.0;
    let p99 = best(quantile(all(), 0.99));
    let storm = seen.storm.as_secs_f64();
    let met = |met: bool| if met { "yes" } else { "NO" }.to_owned();
    let plain = |what: &str, seen: String| vec![what.to_owned(), String::new(), seen, String::new()];
    let rows = vec![
        ["", "bar", "seen", "met"].map(str::to_owned).to_vec(),
        vec![
            "a changed endpoint at the last proxy concerned, p99".to_owned(),
            format!("≤ {ARRIVES:.0} ms"),
            format!("{p99:.1} ms"),
            met(p99 <= ARRIVES),
        ],
        plain("… median, called by 4 services", format!("{:.1} ms", best(median(times(false))))),
        plain("… median, called by 25 services", format!("{:.1} ms", best(median(times(true))))),
        vec![
            "bytes of a change, of those of a full push, mean".to_owned(),
            format!("≤ {PART:.0} %"),
            format!("{mean:.3} %"),
            met(mean <= PART),
        ],
        plain("… median, called by 4 services", format!("{:.3} %", best(median(parts(false))))),
        plain("… median, called by 25 services", format!("{:.3} %", best(median(parts(true))))),
        plain("bytes of a full push", format!("{:.1} MiB", seen.full as f64 / 1024.0 / 1024.0)),
        plain("first contact of all, until settled", format!("{:.1} s", seen.first.as_secs_f64())),
        vec![
            "reconnect storm, from kill -9 until settled".to_owned(),
            format!("≤ {SETTLES:.0} s"),
            format!("{storm:.1} s"),
            met(storm <= SETTLES),
        ],
        vec![
            "resident memory, highest".to_owned(),
            format!("≤ {RESIDENT:.0} MiB"),
            format!("{:.0} MiB", mebibytes(seen.highest)),
            met(mebibytes(seen.highest) <= RESIDENT),
        ],
        plain("… at rest", format!("{:.0} MiB", mebibytes(seen.resident))),
    ];
    table::print("control: 1,000 proxies, 500 services, 5,000 endpoints", &rows);
}
