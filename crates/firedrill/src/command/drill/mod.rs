//! `firedrill drill`: run a drill; what became of earlier ones; stop one.

mod abort;
mod list;
mod run;
mod show;

use std::process::ExitCode;

use evidence::ledger::Ledger;

use crate::{failure::Failure, terminal::Terminal};

/// Subcommands of `firedrill drill`.
#[derive(Debug, clap::Subcommand)]
pub enum Command {
    /// Run a drill: break what its scenario says, measure, put everything back, seal the evidence
    Run(run::Args),
    /// List the drills of the manifests and every attempt of the ledger
    List(list::Args),
    /// Show one drill: what it does, and its attempts
    Show(show::Args),
    /// Abort the running drill: everything is put back at once, the attempt is sealed as aborted
    Abort(abort::Args),
}

/// Runs the subcommand.
///
/// # Errors
/// What went wrong, for the person who must act.
pub fn run(command: &Command, terminal: &Terminal) -> miette::Result<ExitCode> {
    match command {
        Command::Run(args) => run::run(args, terminal),
        Command::List(args) => list::run(args, terminal),
        Command::Show(args) => show::run(args, terminal),
        Command::Abort(args) => abort::run(args, terminal),
    }
}

/// The ledger of a state folder; `None` if there was never a drill.
fn ledger(state: &std::path::Path) -> Result<Option<Ledger>, Failure> {
    let folder = state.join("ledger");
    if !folder.exists() {
        return Ok(None);
    }
    Ledger::open(&folder).map(Some).map_err(|e| {
        Failure::internal(format!("the ledger in `{}` cannot be used: {e}", folder.display()))
            .help(format!("`firedrill evidence verify {}` tells what is wrong with it", folder.display()))
    })
}
