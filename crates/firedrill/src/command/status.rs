//! `firedrill status`: what runs with a state folder, which drill is under way, what is left to be undone.

use std::{path::Path, process::ExitCode};

use evidence::{attempts::Known, ledger::Ledger};
use serde_json::json;

use super::undo;
use crate::{
    arguments::{Format, State},
    command::block_on,
    failure::{Exit, Failure},
    seat,
    supervisor::{
        api::{MeshReport, ProcessReport, ProcessState},
        client::Client as Supervisor,
    },
    terminal::{Terminal, Tone},
};

const EXAMPLES: &str = "\
Examples:
  firedrill status
  firedrill status --state out/state --format json";

/// Arguments of `firedrill status`.
#[derive(Debug, clap::Args)]
#[command(after_help = EXAMPLES)]
pub struct Args {
    #[command(flatten)]
    state: State,
    /// How to print it
    #[arg(long, value_enum, default_value = "text", value_name = "text|json", hide_possible_values = true)]
    format: Format,
}

/// Prints it.
///
/// # Errors
/// When the ledger or the undos of the state folder cannot be read.
pub fn run(args: &Args, terminal: &Terminal) -> miette::Result<ExitCode> {
    let state = &args.state.path;
    let mesh = block_on(mesh(state))?;
    let running = seat::holder(state);
    let open = open(state)?;
    // The attempt of the drill that runs is not one that was left open.
    let left: Vec<_> =
        open.iter().filter(|(drill, _)| running.as_ref().is_none_or(|running| running.drill != *drill)).collect();
    let undos = undo::outstanding(state)?;
    if args.format == Format::Json {
        let status = json!({
            "mesh": mesh.as_ref().map(|mesh| json!({
                "name": mesh.mesh,
                "state": mesh.state,
                "processes": processes(mesh).count(),
                "notRunning": down(mesh).collect::<Vec<_>>(),
            })),
            "drill": running.as_ref().map(|holder| json!({"drill": holder.drill, "pid": holder.pid})),
            "openAttempts": left.iter().map(|(drill, attempt)| json!({"drill": drill, "attempt": attempt})).collect::<Vec<_>>(),
            "outstandingUndos": undos.iter().map(undo::as_json).collect::<Vec<_>>(),
        });
        terminal.block(format_args!("{status:#}"));
        return Ok(Exit::Success.into());
    }
    let say = |label: &str, tone: Tone, text: String| {
        terminal.line(format_args!("{} {text}", terminal.paint(tone, format!("{label:<7}"))));
    };
    match &mesh {
        None => say("mesh", Tone::Dim, format!("none runs with `{}`", state.display())),
        Some(mesh) => {
            let down: Vec<String> =
                down(mesh).map(|process| format!("{} ({})", process.name, word(process.state))).collect();
            let (total, tone) = (processes(mesh).count(), if down.is_empty() { Tone::Good } else { Tone::Warn });
            let not = if down.is_empty() { String::new() } else { format!("; not running: {}", down.join(", ")) };
            say("mesh", tone, format!("{} is up: {} of {total} processes run{not}", mesh.mesh, total - down.len()));
        }
    }
    match &running {
        None => say("drill", Tone::Dim, "none is under way".to_owned()),
        Some(holder) => say("drill", Tone::Warn, format!("{} is under way (process {})", holder.drill, holder.pid)),
    }
    for (drill, attempt) in &left {
        let text = format!("attempt {attempt} of {drill} was left open by an engine that died");
        say("", Tone::Warn, format!("{text}; the next `firedrill drill run` seals it as crashed"));
    }
    if undos.is_empty() {
        say("undos", Tone::Dim, "none is outstanding".to_owned());
    }
    for undo in &undos {
        say("undos", Tone::Bad, format!("{}: {}", undo.id, undo.describe()));
    }
    Ok(Exit::Success.into())
}

/// The mesh, if one runs and answers.
async fn mesh(state: &Path) -> Option<MeshReport> {
    Supervisor::of_state(state).await.ok()?.mesh().await.ok()
}

/// Processes that are started here.
fn processes(mesh: &MeshReport) -> impl Iterator<Item = &ProcessReport> {
    let proxies = mesh.gateways.iter().map(|gateway| &gateway.proxy.process);
    let workloads = mesh.workloads.iter().flat_map(|workload| [&workload.process, &workload.proxy.process]);
    let all = std::iter::once(&mesh.control_process).chain(proxies).chain(workloads);
    all.filter(|process| process.state != ProcessState::External)
}

fn down(mesh: &MeshReport) -> impl Iterator<Item = &ProcessReport> {
    processes(mesh).filter(|process| process.state != ProcessState::Running)
}

fn word(state: ProcessState) -> &'static str {
    match state {
        ProcessState::Starting => "starting",
        ProcessState::Running => "running",
        ProcessState::Killed => "killed by a drill",
        ProcessState::Paused => "paused by a drill",
        ProcessState::CrashLoop => "dies again and again",
        ProcessState::Stopped => "stopped",
        ProcessState::External => "started by somebody else",
    }
}

/// Attempts that are not sealed: drill and number.
fn open(state: &Path) -> Result<Vec<(String, u64)>, Failure> {
    let folder = state.join("ledger");
    if !folder.exists() {
        return Ok(Vec::new());
    }
    let ledger = Ledger::open(&folder).map_err(|error| Failure::internal(format!("the ledger: {error}")))?;
    let is_open = |(_, _, known): &(&str, u64, &Known)| known.sealed.is_none();
    Ok(ledger.attempts().all().filter(is_open).map(|(drill, number, _)| (drill.to_owned(), number)).collect())
}
