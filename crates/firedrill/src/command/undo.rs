//! `firedrill undo`: undo commands of drills that are outstanding; run one again, or say that it has been done.

use std::{path::Path, process::ExitCode};

use drill::undo::{Undo, UndoError, Undos};
use serde_json::json;
use xds::clock::Clock;

use crate::{
    arguments::{Format, State},
    command::block_on,
    failure::{Exit, Failure},
    render::table::table,
    seat::{self, Holder},
    terminal::{Terminal, Tone},
};

const EXAMPLES: &str = "\
Examples:
  firedrill undo list
  firedrill undo run lose-east-3-1               once more, now
  firedrill undo confirm lose-east-3-1 --by ann  it has been undone by hand

An undo that failed, or that a dead drill engine left, is outstanding: `up` and `drill run` run it
again when they start, and no drill of a plan with the same services starts before it is done.
Undos run at least once and may run again, so they must be idempotent.";

/// Subcommands of `firedrill undo`.
#[derive(Debug, clap::Subcommand)]
#[command(after_help = EXAMPLES)]
pub enum Command {
    /// List undo commands that have not been done
    List(ListArgs),
    /// Run an outstanding undo again, or all of them
    Run(RunArgs),
    /// Say that an outstanding undo has been done by hand; who says so is recorded in the ledger
    Confirm(ConfirmArgs),
}

/// Arguments of `firedrill undo list`.
#[derive(Debug, clap::Args)]
pub struct ListArgs {
    #[command(flatten)]
    state: State,
    /// How to print it
    #[arg(long, value_enum, default_value = "text", value_name = "text|json", hide_possible_values = true)]
    format: Format,
}

/// Arguments of `firedrill undo run`.
#[derive(Debug, clap::Args)]
pub struct RunArgs {
    /// Name of the undo, as `firedrill undo list` prints it; all of them without one
    name: Option<String>,
    #[command(flatten)]
    state: State,
}

/// Arguments of `firedrill undo confirm`.
#[derive(Debug, clap::Args)]
pub struct ConfirmArgs {
    /// Name of the undo, as `firedrill undo list` prints it
    name: String,
    /// Who says that it has been done
    #[arg(long, value_name = "WHO")]
    by: String,
    #[command(flatten)]
    state: State,
}

/// Runs the subcommand.
///
/// # Errors
/// What went wrong, for the person who must act.
pub fn run(command: &Command, terminal: &Terminal) -> miette::Result<ExitCode> {
    match command {
        Command::List(args) => list(args, terminal),
        Command::Run(args) => again(args, terminal),
        Command::Confirm(args) => confirm(args, terminal),
    }
}

/// Undos of a state folder that nobody will run before the next start: not those of a drill that runs.
///
/// # Errors
/// If they cannot be read.
pub fn outstanding(state: &Path) -> Result<Vec<Undo>, Failure> {
    let owed = Undos::of(state).owed().map_err(|error| unusable(&error))?;
    let holder = seat::holder(state);
    Ok(owed.into_iter().filter(|undo| !in_force(undo, holder.as_ref())).collect())
}

/// Whether the step that an undo takes back is of the drill that runs now.
fn in_force(undo: &Undo, holder: Option<&Holder>) -> bool {
    undo.failed.is_none() && holder.is_some_and(|holder| holder.drill == undo.drill)
}

/// For programs.
pub fn as_json(undo: &Undo) -> serde_json::Value {
    let failed = undo.failed.as_ref();
    json!({
        "undo": undo.id,
        "step": undo.name,
        "drill": undo.drill,
        "attempt": undo.attempt,
        "plan": undo.plan,
        "services": undo.services,
        "command": undo.command,
        "since": evidence::entry::rfc3339(undo.registered),
        "tries": failed.map_or(0, |failed| failed.tries),
        "lastTry": failed.map(|failed| evidence::entry::rfc3339(failed.time)),
        "reason": failed.map(|failed| &failed.reason),
    })
}

fn list(args: &ListArgs, terminal: &Terminal) -> miette::Result<ExitCode> {
    let owed = outstanding(&args.state.path)?;
    match args.format {
        Format::Json => {
            terminal.block(format_args!("{:#}", json!(owed.iter().map(as_json).collect::<Vec<_>>())));
        }
        Format::Text if owed.is_empty() => terminal.line("no undo is outstanding"),
        Format::Text => {
            let row = |undo: &Undo| {
                let seen = undo.failed.as_ref().map_or_else(
                    || "not run yet".to_owned(),
                    |failed| format!("failed {}×: {}", failed.tries, failed.reason.lines().next().unwrap_or_default()),
                );
                [&undo.id, &undo.name, &undo.services.join(", "), &undo.command.join(" "), &seen]
                    .map(|text| text.as_str().into())
                    .to_vec()
            };
            let rows: Vec<_> = owed.iter().map(row).collect();
            terminal.write(table(&["UNDO", "STEP", "SERVICES", "COMMAND", "SEEN"], &rows, terminal));
        }
    }
    Ok(Exit::Success.into())
}

fn again(args: &RunArgs, terminal: &Terminal) -> miette::Result<ExitCode> {
    let state = &args.state.path;
    let owed = outstanding(state)?;
    if let Some(name) = &args.name
        && !owed.iter().any(|undo| undo.id == *name)
    {
        return Err(unusable(&UndoError::Unknown(name.clone())).into());
    }
    let wanted: Vec<&str> = owed.iter().map(|undo| undo.id.as_str()).collect();
    let of = |undo: &Undo| wanted.contains(&undo.id.as_str()) && args.name.as_ref().is_none_or(|name| undo.id == *name);
    let clock = Clock::anchored();
    let tried = block_on(Undos::of(state).retry(of, "`firedrill undo run`", || clock.now().0))?;
    let tried = tried.map_err(|error| unusable(&error))?;
    if tried.is_empty() {
        terminal.line("no undo is outstanding");
    }
    let mut exit = Exit::Success;
    for (undo, result) in tried {
        match result {
            Ok(_) => terminal.line(format_args!("{}: {} is undone", undo.id, undo.name)),
            Err(reason) => {
                terminal.note(Tone::Bad, "failed", format!("{}: the undo of {}: {reason}", undo.id, undo.name));
                exit = Exit::Failed;
            }
        }
    }
    Ok(exit.into())
}

fn confirm(args: &ConfirmArgs, terminal: &Terminal) -> miette::Result<ExitCode> {
    let by = args.by.trim();
    if by.is_empty() {
        return Err(Failure::usage("`--by` names who says that it has been done").into());
    }
    let state = &args.state.path;
    if !outstanding(state)?.iter().any(|undo| undo.id == args.name) {
        return Err(unusable(&UndoError::Unknown(args.name.clone())).into());
    }
    let confirmed = block_on(Undos::of(state).confirm(&args.name, by, Clock::anchored().now().0))?;
    let undo = confirmed.map_err(|error| unusable(&error))?;
    terminal.line(format_args!("{}: {by} confirms that {} is undone; recorded in the ledger", undo.id, undo.name));
    Ok(Exit::Success.into())
}

fn unusable(error: &UndoError) -> Failure {
    match error {
        UndoError::Unknown(_) => Failure::usage(error.to_string()).help("`firedrill undo list` names them"),
        error => Failure::internal(format!("undos cannot be used: {error}")),
    }
}

/// Runs what is outstanding, at a start; prints what came of it. A drill that runs looks after its own.
pub async fn at_start(state: &Path, terminal: &Terminal) {
    let owed = match outstanding(state) {
        Ok(owed) => owed,
        Err(failure) => return terminal.note(Tone::Warn, "warning", failure),
    };
    if owed.is_empty() {
        return;
    }
    let clock = Clock::anchored();
    let of = |undo: &Undo| owed.iter().any(|wanted| wanted.id == undo.id);
    match Undos::of(state).retry(of, "`firedrill up`", || clock.now().0).await {
        Err(error) => terminal.note(Tone::Warn, "warning", format!("undos cannot be used: {error}")),
        Ok(tried) => {
            for (undo, result) in tried {
                match result {
                    Ok(_) => terminal.note(Tone::Dim, "undone", format!("{} ({})", undo.name, undo.id)),
                    Err(reason) => terminal.note(
                        Tone::Warn,
                        "warning",
                        format!(
                            "the undo of {} ({}) failed: {reason}; drills of plans with {} are blocked until it is done",
                            undo.name,
                            undo.id,
                            undo.services.join(", ")
                        ),
                    ),
                }
            }
        }
    }
}
