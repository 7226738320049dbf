//! `firedrill get`: what a running mesh consists of, now.

use std::{collections::BTreeMap, path::Path, process::ExitCode, time::Duration};

use control::{
    api::{LoadReport, ProxyReport, SourceOfEndpoints},
    bundle::Bundle,
    client::Client as Control,
};
use evidence::entry::rfc3339;
use serde::Serialize;
use xds::load::LocalityLoad;

use crate::{
    arguments::{Format, State},
    failure::{Exit, Failure},
    render::{
        plans,
        table::{Cell, table},
    },
    supervisor::{
        api::{Door, MeshReport, ProcessState},
        client::Client as Supervisor,
    },
    terminal::{Terminal, Tone},
};

const EXAMPLES: &str = "\
Examples:
  firedrill get proxies
  firedrill get proxies edge                     everything that it should do, as YAML
  firedrill get services
  firedrill get loads                            who sends how much where
  firedrill get recovery --format json
  firedrill get trust                            whose certificates are believed, and how fresh that is
  firedrill get services --watch                 again every two seconds, until Ctrl-C
  firedrill get proxies --state out/state        of `firedrill demo --keep`";

/// How often `--watch` lists.
const AGAIN: Duration = Duration::from_secs(2);

/// Arguments of `firedrill get`.
#[derive(Debug, clap::Args)]
#[command(after_help = EXAMPLES)]
pub struct Args {
    /// What to list
    #[arg(value_enum)]
    what: What,
    /// One proxy: its whole configuration, overlays and all
    #[arg(value_name = "NAME")]
    name: Option<String>,
    #[command(flatten)]
    state: State,
    /// Print it again every two seconds, until Ctrl-C
    #[arg(short, long, conflicts_with = "name")]
    watch: bool,
    /// How to print it
    #[arg(long, value_enum, default_value = "text", value_name = "text|json", hide_possible_values = true)]
    format: Format,
}

#[derive(Clone, Copy, Debug, clap::ValueEnum)]
enum What {
    /// Every proxy: where it is, whether it holds what it should
    Proxies,
    /// Every endpoint: process, health as the proxies see it
    Services,
    /// Load of every cluster by region, as the proxies reported it over the last minute
    Loads,
    /// Leases that are held, with their overlays
    Leases,
    /// State of every recovery plan
    Recovery,
    /// Our trust domain and those that the mesh is federated with
    Trust,
}

/// Asks the running mesh and prints a table.
///
/// # Errors
/// When no mesh runs, or it does not answer.
pub fn run(args: &Args, terminal: &Terminal) -> miette::Result<ExitCode> {
    if args.name.is_some() && !matches!(args.what, What::Proxies) {
        return Err(Failure::usage("only `get proxies` takes a name").into());
    }
    super::block_on(async {
        if let Some(name) = &args.name {
            let control = super::apply::client(&args.state.path)?;
            return proxy(&control, name, args.format, terminal).await;
        }
        let (control, supervisor) = clients(&args.state.path).await?;
        if !args.watch {
            return list(args, &control, &supervisor, terminal).await;
        }
        tokio::select! {
            result = watch(args, &control, &supervisor, terminal) => result,
            _ = tokio::signal::ctrl_c() => Ok(Exit::Success.into()),
        }
    })?
}

async fn list(
    args: &Args,
    control: &Control,
    supervisor: &Supervisor,
    terminal: &Terminal,
) -> miette::Result<ExitCode> {
    match args.what {
        What::Proxies => proxies(control, args.format, terminal).await,
        What::Services => services(control, supervisor, args.format, terminal).await,
        What::Loads => loads(control, args.format, terminal).await,
        What::Leases => leases(control, args.format, terminal).await,
        What::Recovery => recovery(control, args.format, terminal).await,
        What::Trust => trust(control, args.format, terminal).await,
    }
}

/// Lists again and again, until the reader has gone or the mesh no longer answers.
async fn watch(
    args: &Args,
    control: &Control,
    supervisor: &Supervisor,
    terminal: &Terminal,
) -> miette::Result<ExitCode> {
    let mut turn = tokio::time::interval(AGAIN);
    turn.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    let mut first = true;
    while !terminal.closed() {
        turn.tick().await;
        terminal.clear();
        if !first && !terminal.live() && args.format == Format::Text {
            terminal.line("");
        }
        list(args, control, supervisor, terminal).await?;
        first = false;
    }
    Ok(Exit::Success.into())
}

/// Clients of the mesh that runs in a state folder.
///
/// # Errors
/// When none runs there.
pub async fn clients(state: &Path) -> Result<(Control, Supervisor), Failure> {
    let none = |why: &str| {
        Failure::usage(format!("no mesh runs with state folder `{}`{why}", state.display()))
            .help("start one with `firedrill up`, or name its state folder with `--state DIR`")
    };
    let door = Door::read(state).map_err(|_| none(""))?;
    let supervisor = Supervisor::new(state, &door);
    supervisor.mesh().await.map_err(|e| none(&format!(" any more: {e}")))?;
    let control = Control::from_state(state).map_err(|e| none(&format!(" yet: {e}")))?;
    Ok((control, supervisor))
}

async fn proxies(control: &Control, format: Format, terminal: &Terminal) -> miette::Result<ExitCode> {
    let reports = control.proxies().await.map_err(unanswered)?;
    if format == Format::Json {
        return json(&reports, terminal);
    }
    let rows: Vec<Vec<Cell>> = reports.iter().map(proxy_row).collect();
    let titles = ["PROXY", "ROLE", "REGION", "ADMIN", "CONTROL", "SYNC", "OVERLAYS", "CONFIGURATION"];
    terminal.write(table(&titles, &rows, terminal));
    Ok(Exit::Success.into())
}

async fn trust(control: &Control, format: Format, terminal: &Terminal) -> miette::Result<ExitCode> {
    let trust = control.trust().await.map_err(unanswered)?;
    if format == Format::Json {
        return json(&trust, terminal);
    }
    let count = |pem: &str| Bundle::of_pem(pem).map_or(0, |bundle| bundle.count()).to_string();
    let state = match (&trust.failing, trust.roots.is_empty()) {
        (Some(reason), true) => Cell::toned(Tone::Bad, format!("nothing is known: {reason}")),
        (Some(reason), false) => Cell::toned(Tone::Warn, format!("failing: {reason}")),
        (None, true) => Cell::toned(Tone::Warn, "nothing is known yet"),
        (None, false) => Cell::toned(Tone::Good, "in force"),
    };
    let own: Vec<Cell> = vec![
        trust.trust_domain.into(),
        count(&trust.roots).into(),
        format!("ours: {}", trust.source).into(),
        String::new().into(),
        state,
    ];
    let foreign = trust.federation.iter().map(|one| {
        let state = match (&one.failing, one.stale) {
            (Some(reason), true) => Cell::toned(Tone::Bad, format!("stale: {reason}")),
            (Some(reason), false) => Cell::toned(Tone::Warn, format!("failing: {reason}")),
            (None, true) => Cell::toned(Tone::Bad, "nothing is known"),
            (None, false) => Cell::toned(Tone::Good, "in force"),
        };
        let refreshed = one.refreshed.map(|stamp| rfc3339(stamp.0)).unwrap_or_default();
        vec![
            one.trust_domain.clone().into(),
            count(&one.roots).into(),
            one.source.clone().into(),
            refreshed.into(),
            state,
        ]
    });
    let rows: Vec<_> = [own].into_iter().chain(foreign).collect();
    terminal.write(table(&["TRUST DOMAIN", "ROOTS", "BUNDLE", "REFRESHED", "STATE"], &rows, terminal));
    Ok(Exit::Success.into())
}

async fn proxy(control: &Control, name: &str, format: Format, terminal: &Terminal) -> miette::Result<ExitCode> {
    let configuration = control.proxy_configuration(name).await.map_err(super::apply::refused)?;
    if format == Format::Json {
        return json(&configuration, terminal);
    }
    let value = serde_json::to_value(&configuration).map_err(|e| Failure::internal(format!("cannot write it: {e}")))?;
    terminal.write(model::yaml(&value));
    Ok(Exit::Success.into())
}

fn proxy_row(proxy: &ProxyReport) -> Vec<Cell> {
    let role = match (&proxy.service, &proxy.gateway) {
        (Some(service), _) => format!("sidecar of {service}"),
        (None, _) => "gateway".to_owned(),
    };
    let connected = if proxy.connected { Cell::from("connected") } else { Cell::toned(Tone::Bad, "lost") };
    let no_certificate = proxy.status.as_ref().and_then(|status| status.identity_failing.as_ref());
    let sync = match (&proxy.nack, no_certificate, &proxy.error, proxy.in_sync) {
        (Some(nack), ..) => Cell::toned(Tone::Bad, format!("refused: {}", nack.detail)),
        (None, Some(reason), ..) => Cell::toned(Tone::Bad, format!("no newer certificate: {reason}")),
        // A proxy that is not ours tells no status, and is in sync all the same.
        (None, None, _, true) => Cell::toned(Tone::Good, "in sync"),
        (None, None, Some(error), false) => Cell::toned(Tone::Bad, error.clone()),
        (None, None, None, false) => Cell::toned(Tone::Warn, "behind"),
    };
    let status = proxy.status.as_ref();
    vec![
        proxy.name.clone().into(),
        role.into(),
        proxy.region.clone().unwrap_or_default().into(),
        proxy.admin.to_string().into(),
        connected,
        sync,
        status.map(|s| s.overlays.join(", ")).unwrap_or_default().into(),
        status.map(|s| s.digest.chars().take(12).collect::<String>()).unwrap_or_default().into(),
    ]
}

/// An endpoint as its supervisor and the proxies see it.
#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
struct EndpointRow {
    service: String,
    endpoint: String,
    region: String,
    version: Option<String>,
    address: String,
    /// `None` for an endpoint outside the mesh.
    process: Option<ProcessState>,
    restarts: u32,
    /// Proxies that use it, and how many of them see it healthy and in use.
    seen_by: usize,
    healthy_at: usize,
    tries: u64,
    failures: u64,
}

async fn services(
    control: &Control,
    supervisor: &Supervisor,
    format: Format,
    terminal: &Terminal,
) -> miette::Result<ExitCode> {
    let mesh = supervisor.mesh().await.map_err(|e| Failure::internal(e.to_string()))?;
    let proxies = control.proxies().await.map_err(unanswered)?;
    let sources = control.sources().await.map_err(unanswered)?;
    let rows = endpoint_rows(&mesh, &proxies, &sources);
    if format == Format::Json {
        return json(&rows, terminal);
    }
    let cells: Vec<Vec<Cell>> = rows.iter().map(endpoint_cells).collect();
    let titles = ["SERVICE", "ENDPOINT", "REGION", "VERSION", "ADDRESS", "PROCESS", "HEALTHY AT", "TRIES", "FAILED"];
    terminal.write(table(&titles, &cells, terminal));
    if !sources.is_empty() {
        let cells: Vec<Vec<Cell>> = sources.iter().map(source_cells).collect();
        terminal.line("");
        terminal.write(table(&["SERVICE", "ENDPOINTS OF", "REGION", "FOUND", "SAID", "SOURCE"], &cells, terminal));
    }
    Ok(Exit::Success.into())
}

fn source_cells(source: &SourceOfEndpoints) -> Vec<Cell> {
    let state = match (&source.failing, source.held_back) {
        (Some(reason), _) if source.age_ms.is_none() => {
            Cell::toned(Tone::Bad, format!("fails, and has not answered yet: {reason}"))
        }
        (Some(reason), _) if source.addresses.is_empty() => {
            Cell::toned(Tone::Bad, format!("fails, and its last answer is too old to be used: {reason}"))
        }
        (None, _) if source.age_ms.is_none() => Cell::toned(Tone::Warn, "has not answered yet"),
        (Some(reason), _) => Cell::toned(Tone::Bad, format!("fails, the last answer is kept: {reason}")),
        (None, Some(count)) => {
            Cell::toned(Tone::Warn, format!("an answer of {count} is held back: it takes most away"))
        }
        (None, None) => Cell::toned(Tone::Good, "answers"),
    };
    let age = source.age_ms.map_or_else(|| "never".to_owned(), |age| format!("{} s ago", age / 1000));
    vec![
        source.service.clone().into(),
        source.source.clone().into(),
        source.region.clone().into(),
        source.addresses.len().to_string().into(),
        age.into(),
        state,
    ]
}

fn endpoint_rows(mesh: &MeshReport, proxies: &[ProxyReport], sources: &[SourceOfEndpoints]) -> Vec<EndpointRow> {
    let mut seen: BTreeMap<&str, (usize, usize, u64, u64)> = BTreeMap::new();
    for proxy in proxies {
        let clusters = proxy.status.iter().flat_map(|status| &status.clusters).filter(|c| c.name == c.service);
        for endpoint in clusters.flat_map(|cluster| &cluster.endpoints) {
            let (by, healthy, tries, failures) = seen.entry(&endpoint.name).or_default();
            *by += 1;
            *healthy += usize::from(endpoint.healthy && !endpoint.ejected);
            *tries += endpoint.tries;
            *failures += endpoint.failures;
        }
    }
    let row = |service: &str, endpoint: &str, region: &str, address: String| {
        let (seen_by, healthy_at, tries, failures) = seen.get(endpoint).copied().unwrap_or_default();
        EndpointRow {
            service: service.to_owned(),
            endpoint: endpoint.to_owned(),
            region: region.to_owned(),
            version: None,
            address,
            process: None,
            restarts: 0,
            seen_by,
            healthy_at,
            tries,
            failures,
        }
    };
    let inside = mesh.workloads.iter().map(|w| EndpointRow {
        version: Some(w.version.clone()),
        process: Some(w.process.state),
        restarts: w.process.restarts,
        ..row(&w.service, &w.process.name, &w.region, w.inbound.to_string())
    });
    let outside = mesh.outside.iter().map(|o| row(&o.service, &o.name, &o.region, o.address.to_string()));
    let found = sources.iter().flat_map(|source| {
        let row = &row;
        source.addresses.iter().map(move |address| {
            let name = format!("{}@{address}", source.endpoint);
            row(&source.service, &name, &source.region, address.to_string())
        })
    });
    let mut rows: Vec<EndpointRow> = inside.chain(outside).chain(found).collect();
    rows.sort_by(|a, b| (&a.service, &a.region, &a.endpoint).cmp(&(&b.service, &b.region, &b.endpoint)));
    rows
}

fn endpoint_cells(row: &EndpointRow) -> Vec<Cell> {
    let process = match row.process {
        None => Cell::from("outside"),
        Some(ProcessState::Running) => Cell::toned(Tone::Good, "running"),
        Some(ProcessState::Starting) => Cell::toned(Tone::Warn, "starting"),
        Some(ProcessState::Killed) => Cell::toned(Tone::Bad, "killed by a drill"),
        Some(ProcessState::Paused) => Cell::toned(Tone::Bad, "paused by a drill"),
        Some(ProcessState::CrashLoop) => Cell::toned(Tone::Bad, "dies again and again"),
        Some(ProcessState::Stopped) => Cell::from("stopped"),
        Some(ProcessState::External) => Cell::from("not started here"),
    };
    let healthy = format!("{} of {}", row.healthy_at, row.seen_by);
    let healthy = match row.healthy_at == row.seen_by {
        true => Cell::from(healthy),
        false => Cell::toned(Tone::Warn, healthy),
    };
    vec![
        row.service.clone().into(),
        row.endpoint.clone().into(),
        row.region.clone().into(),
        row.version.clone().unwrap_or_default().into(),
        row.address.clone().into(),
        process,
        healthy,
        row.tries.to_string().into(),
        row.failures.to_string().into(),
    ]
}

async fn loads(control: &Control, format: Format, terminal: &Terminal) -> miette::Result<ExitCode> {
    let reports = control.loads().await.map_err(unanswered)?;
    if format == Format::Json {
        return json(&reports, terminal);
    }
    if reports.is_empty() {
        terminal.line("no proxy reported any load in the last minute");
        return Ok(Exit::Success.into());
    }
    let rows: Vec<Vec<Cell>> = reports.iter().map(load_row).collect();
    let titles = ["PROXY", "CLUSTER", "TIER", "REGION", "PER SECOND", "REQUESTS", "FAILED", "IN FLIGHT", "REPORTED"];
    terminal.write(table(&titles, &rows, terminal));
    Ok(Exit::Success.into())
}

fn load_row(load: &LoadReport) -> Vec<Cell> {
    let LocalityLoad { region, zone, priority, issued, successful: _, errors, in_progress } = &load.locality;
    let rate = issued.saturating_mul(1000).checked_div(load.over_ms);
    let place = if zone.is_empty() { region.clone() } else { format!("{region}/{zone}") };
    let failed = errors.to_string();
    vec![
        load.proxy.clone().into(),
        load.cluster.clone().into(),
        priority.to_string().into(),
        place.into(),
        rate.map(|rate| rate.to_string()).unwrap_or_default().into(),
        issued.to_string().into(),
        if *errors == 0 { Cell::from(failed) } else { Cell::toned(Tone::Bad, failed) },
        in_progress.to_string().into(),
        format!("{} s ago", load.age_ms / 1000).into(),
    ]
}

async fn leases(control: &Control, format: Format, terminal: &Terminal) -> miette::Result<ExitCode> {
    let reports = control.leases().await.map_err(unanswered)?;
    if format == Format::Json {
        return json(&reports, terminal);
    }
    if reports.is_empty() {
        terminal.line("no lease is held");
        return Ok(Exit::Success.into());
    }
    let rows: Vec<Vec<Cell>> = reports
        .iter()
        .map(|lease| {
            vec![
                lease.id.clone().into(),
                lease.holder.clone().into(),
                lease.reason.clone().into(),
                lease.plan.clone().unwrap_or_default().into(),
                format!("{} of {} ms", lease.remaining_ms, lease.ttl_ms).into(),
                lease.overlays.iter().map(|o| o.id.clone()).collect::<Vec<_>>().join(", ").into(),
            ]
        })
        .collect();
    terminal.write(table(&["LEASE", "HOLDER", "REASON", "PLAN", "LEFT", "OVERLAYS"], &rows, terminal));
    Ok(Exit::Success.into())
}

async fn recovery(control: &Control, format: Format, terminal: &Terminal) -> miette::Result<ExitCode> {
    let reports = control.recovery().await.map_err(unanswered)?;
    if format == Format::Json {
        return json(&reports, terminal);
    }
    terminal.write(plans::list(&reports, terminal));
    Ok(Exit::Success.into())
}

fn unanswered(error: control::client::ClientError) -> Failure {
    Failure::internal(error.to_string())
}

fn json(value: &impl Serialize, terminal: &Terminal) -> miette::Result<ExitCode> {
    let text = serde_json::to_string_pretty(value).map_err(|e| Failure::internal(format!("cannot write JSON: {e}")))?;
    terminal.block(text);
    Ok(Exit::Success.into())
}
