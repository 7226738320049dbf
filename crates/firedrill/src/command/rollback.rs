//! `firedrill rollback`: an old revision's files, in force again as a new revision.

use std::process::ExitCode;

use control::api::RollbackRequest;

use super::apply::{Change, client, finish, refused};
use crate::terminal::Terminal;

const EXAMPLES: &str = "\
Examples:
  firedrill history
  firedrill rollback 7 --dry-run       what would change
  firedrill rollback 7 -m 'the new dwell flaps'

The history stays: a rollback is a new revision, and can itself be rolled back.";

/// Arguments of `firedrill rollback`.
#[derive(Debug, clap::Args)]
#[command(after_help = EXAMPLES)]
pub struct Args {
    /// The revision whose manifests shall be in force again
    #[arg(value_name = "N")]
    revision: u64,
    #[command(flatten)]
    change: Change,
}

/// Rolls back, and prints what changed.
///
/// # Errors
/// When there is no such revision, it is refused, or no control plane runs.
pub fn run(args: &Args, terminal: &Terminal) -> miette::Result<ExitCode> {
    let Change { message, author, expect_revision, dry_run, during_drill, state, .. } = args.change.clone();
    let message = if message.is_empty() { format!("rollback to revision {}", args.revision) } else { message };
    let request = RollbackRequest { author, message, expect: expect_revision, dry_run, during_drill };
    super::block_on(async {
        let control = client(&state.path)?;
        let applied = control.roll_back(args.revision, &request).await.map_err(refused)?;
        let files = control.revision(args.revision).await.map_err(refused)?.files;
        finish(&control, &applied, &files, &args.change, terminal).await
    })?
}
