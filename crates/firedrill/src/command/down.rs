//! `firedrill down`: ends the mesh that `firedrill up` runs, as Ctrl-C there does.

use std::{
    fs::File,
    path::Path,
    process::ExitCode,
    time::{Duration, Instant},
};

use rustix::{
    fs::{FlockOperation, flock},
    process::{Pid, Signal, kill_process},
};

use crate::{
    arguments::State,
    failure::{Exit, Failure},
    manifests::reason,
    supervisor::api::Door,
    terminal::{Terminal, Tone},
};

const EXAMPLES: &str = "\
Examples:
  firedrill down
  firedrill down --state out/state        of `firedrill demo --keep`
  firedrill down --now                    kill every process of the mesh at once

Gateways finish their requests first, then workloads, sidecars and the control plane end.
A drill that runs on the mesh is sealed as crashed: abort it first with `firedrill drill abort`.";

/// How often the state folder is looked at.
const LOOK: Duration = Duration::from_millis(50);

/// Arguments of `firedrill down`.
#[derive(Debug, clap::Args)]
#[command(after_help = EXAMPLES)]
pub struct Args {
    #[command(flatten)]
    state: State,
    /// Kill everything at once, as a second Ctrl-C does: requests under way are lost
    #[arg(long)]
    now: bool,
    /// Seconds to wait until everything has ended
    #[arg(long, value_name = "SECONDS", default_value_t = 60, value_parser = clap::value_parser!(u64).range(1..=600))]
    patience: u64,
}

/// Ends the mesh and returns when its supervisor is gone.
///
/// # Errors
/// When no mesh runs there, or it does not end in time.
pub fn run(args: &Args, terminal: &Terminal) -> miette::Result<ExitCode> {
    super::block_on(end(args, terminal))?
}

async fn end(args: &Args, terminal: &Terminal) -> miette::Result<ExitCode> {
    let state = &args.state.path;
    let none = || {
        Failure::usage(format!("no mesh runs with state folder `{}`", state.display()))
            .help("name the state folder of the mesh with `--state DIR`")
    };
    // The lock tells a supervisor that lives from what a killed one left behind.
    if !is_locked(state) {
        return Err(none().into());
    }
    let door = Door::read(state).map_err(|e| {
        Failure::internal(format!("cannot read which process runs the mesh: {}", reason(&e)))
            .help("it may be starting or ending just now: try again")
    })?;
    let pid = i32::try_from(door.pid).ok().and_then(Pid::from_raw).ok_or_else(none)?;
    let signals = if args.now { 2 } else { 1 };
    for _ in 0..signals {
        kill_process(pid, Signal::TERM).map_err(|e| {
            Failure::internal(format!("cannot signal process {}: {}", door.pid, reason(&e.into())))
                .help("only the user that runs the mesh, or root, can end it")
        })?;
        // Two signals that are sent at once arrive as one.
        tokio::time::sleep(LOOK).await;
    }
    terminal.note(Tone::Dim, "stopping", "gateways, workloads, sidecars, control plane");
    let until = Instant::now() + Duration::from_secs(args.patience);
    while is_locked(state) {
        if Instant::now() >= until {
            return Err(Failure::internal(format!("the mesh did not end within {} s", args.patience))
                .help(format!("`firedrill down --now` kills it; its supervisor is process {}", door.pid))
                .into());
        }
        tokio::time::sleep(LOOK).await;
    }
    terminal.line(format_args!("the mesh of `{}` has ended", state.display()));
    Ok(Exit::Success.into())
}

/// Whether a supervisor holds the state folder.
fn is_locked(state: &Path) -> bool {
    let Ok(lock) = File::open(state.join("run").join("lock")) else { return false };
    matches!(flock(&lock, FlockOperation::NonBlockingLockShared), Err(rustix::io::Errno::WOULDBLOCK))
}
