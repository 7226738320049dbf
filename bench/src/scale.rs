//! What a large snapshot costs: a request's price, and the time until a changed endpoint is in force.

use std::{fs, path::Path, time::Duration};

use crate::{
    cost::{
        generator::{self, Target},
        origin,
    },
    failure::Failure,
    machine::{PROXY_CORE, busy_micros},
    rendered::{self, LISTEN, Template},
    settings::Settings,
    stats::{median, spread},
    table,
};

/// Services of the small and of the large snapshot.
const SERVICES: [usize; 2] = [10, 1000];
/// Endpoints of each service.
const ENDPOINTS: usize = 10;
/// Requests at once.
const AT_ONCE: u32 = 64;
/// Changes of an endpoint whose time is taken.
const CHANGES: usize = 10;

/// Measures and prints a table.
///
/// # Errors
/// When there is no origin, no load generator, or the proxy does not start.
pub async fn run(settings: &Settings) -> Result<(), Failure> {
    let folder = tempfile::tempdir().map_err(Failure::io("temporary folder"))?;
    let certificates = folder.path().join("certificates");
    fs::create_dir_all(&certificates).map_err(Failure::io("certificates"))?;
    crate::certificates::write(&certificates)?;
    let _origin = origin::start("a", [0, 0, 0, 0].into(), &certificates, folder.path()).await?;
    let template = Template::rendered(folder.path())?;
    let mut costs = SERVICES.map(|_| Vec::new());
    let mut applied = SERVICES.map(|_| Vec::new());
    for round in 0..settings.rounds {
        for (at, services) in SERVICES.into_iter().enumerate() {
            let (cost, times) = measure(settings, &template, services, round == 0, folder.path()).await?;
            costs[at].push(cost);
            applied[at].extend(times);
        }
    }
    let header = ["services × endpoints", "CPU µs/request", "÷ small", "change of an endpoint in force after ms"];
    let mut rows = vec![header.map(str::to_owned).to_vec()];
    for (at, services) in SERVICES.into_iter().enumerate() {
        let ratio = median(costs[at].iter().zip(&costs[0]).map(|(this, small)| this / small)).unwrap_or_default();
        let name = format!("{services} × {ENDPOINTS}");
        rows.push(vec![name, spread(&costs[at], 1), format!("{ratio:.2}"), spread(&applied[at], 1)]);
    }
    table::print("scale", &rows);
    Ok(())
}

/// CPU time of a request in microseconds, and times until changes were in force in milliseconds.
async fn measure(
    settings: &Settings,
    template: &Template,
    services: usize,
    changes: bool,
    folder: &Path,
) -> Result<(f64, Vec<f64>), Failure> {
    // Ten thousand endpoints that are asked each second would be a load of their own.
    let mut snapshot = template.of_size(services, ENDPOINTS, false);
    let path = folder.join("snapshot.json");
    rendered::write(&snapshot, &path)?;
    let proxy = rendered::start(&path, folder).await?;
    let host = format!("s{}", services / 2);
    let target = Target { address: LISTEN, h2: false, host: Some(&host) };
    generator::run(&target, AT_ONCE, Duration::from_secs(1), folder).await?;
    let before = (proxy.cpu_micros(), busy_micros(PROXY_CORE));
    let load = generator::run(&target, AT_ONCE, settings.span, folder).await?;
    if load.errors > 0 {
        return Err(Failure::Program(format!("{} requests failed with {services} services", load.errors)));
    }
    let cost = (proxy.cpu_micros() - before.0) as f64 / load.requests.max(1) as f64;
    if changes {
        for weight in 2..2 + CHANGES {
            snapshot["endpoints"][services / 2]["localities"][0]["endpoints"][0]["weight"] = weight.into();
            rendered::write(&snapshot, &path)?;
            // The file is looked at five times a second.
            tokio::time::sleep(Duration::from_millis(500)).await;
        }
    }
    Ok((cost, in_force(&folder.join("said"))?))
}

/// What the proxy's log says about changes: after the first snapshot, how long each took.
fn in_force(log: &Path) -> Result<Vec<f64>, Failure> {
    let text = fs::read_to_string(log).map_err(Failure::io(log.display().to_string()))?;
    let micros = text.lines().filter(|line| line.contains("in force")).filter_map(|line| {
        let micros = line.split("micros=").nth(1)?.split_whitespace().next()?;
        micros.parse::<f64>().ok()
    });
    Ok(micros.skip(1).map(|micros| micros / 1000.0).collect())
}
