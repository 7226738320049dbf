//! `firedrill drill abort`: tells the running engine to stop.

use std::{process::ExitCode, time::Duration};

use crate::{
    arguments::State,
    command::block_on,
    failure::{Exit, Failure},
    manifests::reason,
    seat,
    terminal::Terminal,
};

const EXAMPLES: &str = "\
Examples:
  firedrill drill abort
  firedrill drill abort --reason 'customers complain' --state out/state";

/// The engine looks fifty times a second.
const PATIENCE: Duration = Duration::from_secs(5);

/// Arguments of `firedrill drill abort`.
#[derive(Debug, clap::Args)]
#[command(after_help = EXAMPLES)]
pub struct Args {
    /// Why; it is in the evidence
    #[arg(long, default_value = "stopped by `firedrill drill abort`")]
    reason: String,
    #[command(flatten)]
    state: State,
}

/// Asks the engine to abort and returns when it has begun.
///
/// # Errors
/// When no drill runs, or its engine does not react.
pub fn run(args: &Args, terminal: &Terminal) -> miette::Result<ExitCode> {
    let state = &args.state.path;
    let Some(holder) = seat::holder(state) else {
        return Err(Failure::usage(format!("no drill runs with state folder `{}`", state.display()))
            .help("name the state folder of the drill with `--state DIR`")
            .into());
    };
    let seen = block_on(seat::ask_abort(state, &args.reason, PATIENCE))?
        .map_err(|e| Failure::internal(format!("cannot ask it to abort: {}", reason(&e))))?;
    if !seen {
        return Err(Failure::internal(format!(
            "drill {} (process {}) did not react within {} s",
            holder.drill,
            holder.pid,
            PATIENCE.as_secs()
        ))
        .help(format!("`kill -9 {}` ends it: every fault then lapses by itself within 3 s", holder.pid))
        .into());
    }
    terminal.line(format_args!(
        "drill {} (process {}) is aborting: everything is put back, the attempt is sealed as aborted",
        holder.drill, holder.pid
    ));
    Ok(Exit::Success.into())
}
