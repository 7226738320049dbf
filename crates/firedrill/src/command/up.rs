//! `firedrill up`: the mesh of the manifests on this machine, with its workloads, until told to stop.

use std::{path::PathBuf, process::ExitCode, sync::Arc, time::Duration};

use control::store::StoreAddress;
use miette::IntoDiagnostic;
use model::Source;

use crate::{
    arguments::{Format, State},
    dataplane::Plane,
    failure::{Exit, Failure},
    gitops,
    manifests::{self, Sources},
    render::table::table,
    supervisor::{
        self, Options, Progress, Running, StartError,
        api::{MeshReport, ProcessState, WorkloadReport},
    },
    terminal::{Terminal, Tone},
};

const EXAMPLES: &str = "\
Examples:
  firedrill up -f examples/bank
  firedrill up -f examples/bank --data-plane envoy          stock Envoys in place of our proxies
  firedrill up -f examples/bank --without edge      then: firedrill render --proxy edge …
  firedrill up -f mesh.yaml --state /var/lib/firedrill --format json
  firedrill up --gitops /srv/mesh        what is committed there, now and whenever that changes

Ctrl-C or SIGTERM ends it in order: gateways finish their requests, then workloads, sidecars, control plane.
A second Ctrl-C kills everything at once. No process outlives it.";

/// Arguments of `firedrill up`.
#[derive(Debug, clap::Args)]
#[command(after_help = EXAMPLES)]
pub struct Args {
    #[command(flatten)]
    files: Sources,
    /// Manifests of a folder or Git checkout, watched: every change (commit) is put in force
    #[arg(long, value_name = "DIR", conflicts_with_all = ["paths", "named"])]
    gitops: Option<PathBuf>,
    #[command(flatten)]
    state: State,
    /// Where the control plane keeps revisions: `postgres://USER:PASSWORD@HOST/DATABASE`, or `sqlite:FILE`
    /// [default: control.db in the state folder]
    #[arg(long, value_name = "URL", env = "FIREDRILL_STORE", hide_env_values = true)]
    store: Option<StoreAddress>,
    /// Do not start this proxy (a gateway's or workload's name): you start it (`firedrill render`)
    #[arg(long, value_name = "PROXY")]
    without: Vec<String>,
    #[command(flatten)]
    plane: Plane,
    /// Seconds until everything must be ready
    #[arg(long, value_name = "SECONDS", default_value_t = 30, value_parser = clap::value_parser!(u64).range(1..=600))]
    patience: u64,
    /// How to print what runs where: `json` prints one line when everything is ready
    #[arg(long, value_enum, default_value = "text", value_name = "text|json", hide_possible_values = true)]
    format: Format,
}

/// Runs until told to stop.
///
/// # Errors
/// When manifests are not valid, or the mesh cannot be started; nothing is left running then.
pub fn run(args: &Args, terminal: &Terminal) -> miette::Result<ExitCode> {
    let (sources, commit) = sources(args)?;
    let (sources, parsed) = manifests::judge(sources, terminal)?;
    crate::logging::quietly();
    let plane = args.plane.of(&parsed.config)?;
    let options = Options {
        sources,
        config: parsed.config,
        commit,
        store: args.store.clone(),
        state: args.state.path.clone(),
        patience: Duration::from_secs(args.patience),
        without: args.without.iter().cloned().collect(),
        plane,
    };
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build();
    let runtime = runtime.into_diagnostic()?;
    runtime.block_on(async {
        let mut stop = super::Stop::new()?;
        let running = tokio::select! {
            started = supervisor::start(options, sink(terminal, args.format)) => started.map_err(failure)?,
            // Dropping what was begun kills it.
            () = stop.asked() => return Ok(ExitCode::SUCCESS),
        };
        // The commands may need the mesh; who is told that it is up may start a drill.
        let state = running.mesh().state;
        tokio::select! {
            () = super::undo::at_start(&state, terminal) => {}
            () = stop.asked() => {
                running.shutdown().await;
                return Ok(ExitCode::SUCCESS);
            }
        }
        show(&running, args, terminal)?;
        if let Some(folder) = args.gitops.clone() {
            tokio::spawn(gitops::watch(folder, running.mesh().state));
        }
        stop.asked().await;
        if args.format == Format::Text {
            terminal.line("stopping: gateways, workloads, sidecars, control plane");
        }
        tokio::select! {
            () = running.shutdown() => {}
            () = stop.asked() => terminal.note(Tone::Warn, "warning", "killed"),
        }
        Ok(ExitCode::SUCCESS)
    })
}

/// What to start with, and the commit that it is of if that is watched.
fn sources(args: &Args) -> Result<(Vec<Source>, Option<String>), Failure> {
    let Some(folder) = &args.gitops else { return Ok((manifests::read(&args.files.paths())?, None)) };
    let content = gitops::Content::read(folder)
        .map_err(|e| Failure::usage(format!("cannot read `{}`: {}", folder.display(), manifests::reason(&e))))?;
    Ok((content.sources(), content.commit().map(str::to_owned)))
}

/// Why a mesh did not start, as an exit code and a sentence.
pub fn failure(error: StartError) -> Failure {
    let help = match &error {
        StartError::NoProxy { .. } => {
            return Failure::usage(error.to_string()).help("proxies have the names of gateways and workloads");
        }
        StartError::Busy { .. } => "stop it, or name another folder with `--state DIR`",
        StartError::Machine { .. } => "see the reason; `firedrill up --help` names what can be changed",
        StartError::NotReady { .. } => "mend what its log says; `--patience SECONDS` gives it more time",
        StartError::Control(_) => "its log is in the state folder, logs/control.log",
    };
    let exit = match &error {
        StartError::Busy { .. } => Exit::Usage,
        _ => Exit::Internal,
    };
    Failure::new(exit, error.to_string()).help(help)
}

/// Progress on standard error, so that standard output holds results only.
fn sink(terminal: &Terminal, format: Format) -> supervisor::Sink {
    let color = terminal.color_errors();
    let quiet = format == Format::Json;
    Arc::new(move |progress| {
        // Only when lines are shown: a terminal of its own, because the sink outlives this function.
        let terminal = Terminal::new(if color { crate::terminal::When::Always } else { crate::terminal::When::Never });
        match progress {
            Progress::Step(what) if !quiet => terminal.note(Tone::Dim, "starting", what),
            Progress::Waiting(names) if !quiet => terminal.note(Tone::Dim, "waiting for", some(&names)),
            Progress::Trouble(text) => terminal.note(Tone::Warn, "warning", text),
            Progress::Step(_) | Progress::Waiting(_) | Progress::Ready => {}
        }
    })
}

/// At most a few names.
fn some(names: &[String]) -> String {
    const MOST: usize = 6;
    let shown = names.iter().take(MOST).cloned().collect::<Vec<_>>().join(", ");
    if names.len() > MOST { format!("{shown} and {} more", names.len() - MOST) } else { shown }
}

fn show(running: &Running, args: &Args, terminal: &Terminal) -> miette::Result<()> {
    let mesh = running.mesh();
    if args.format == Format::Json {
        terminal.line(serde_json::to_string(&mesh).into_diagnostic()?);
        return Ok(());
    }
    terminal.write(overview(&mesh, terminal));
    Ok(())
}

/// What runs where, and how to call it.
fn overview(mesh: &MeshReport, terminal: &Terminal) -> String {
    let workload = |w: &WorkloadReport| {
        let pid = w.process.pid.map_or_else(String::new, |pid| pid.to_string());
        [&w.service, &w.region, &w.process.name, &w.address.to_string(), &w.inbound.to_string(), &pid]
            .map(|text| text.as_str().into())
            .to_vec()
    };
    let outside = mesh
        .outside
        .iter()
        .map(|o| [&o.service, &o.region, &o.name, &o.address.to_string(), "", ""].map(Into::into).to_vec());
    let rows: Vec<_> = mesh.workloads.iter().map(workload).chain(outside).collect();
    let mut out = format!("\nMesh {} is up.\n\n", terminal.paint(Tone::Strong, &mesh.mesh));
    out += &table(&["service", "region", "workload", "address", "sidecar", "process"], &rows, terminal);
    out.push('\n');
    for gateway in &mesh.gateways {
        out += &format!("gateway  {}  http://{}", gateway.gateway, gateway.listen);
        if gateway.proxy.process.state == ProcessState::External {
            out.push('\n');
        } else {
            out += &format!("    try: curl http://{}/\n", gateway.listen);
        }
    }
    for name in external(mesh) {
        let state = mesh.state.display();
        out += &format!("yours    {name}  you start it: firedrill render --proxy {name} --state {state} --out DIR\n");
    }
    out += &format!("state    {}    logs in logs/\n", mesh.state.display());
    out += &format!("control  http://{}    Ctrl-C stops\n", mesh.control);
    out
}

/// Proxies that are not started here.
fn external(mesh: &MeshReport) -> impl Iterator<Item = &str> {
    let gateways = mesh.gateways.iter().map(|gateway| &gateway.proxy.process);
    let sidecars = mesh.workloads.iter().map(|workload| &workload.proxy.process);
    let processes = gateways.chain(sidecars).filter(|process| process.state == ProcessState::External);
    processes.map(|process| process.name.as_str())
}
