//! `firedrill evidence`: verify or show a sealed bundle; offline, with nothing but the file.

mod show;
mod verify;

use std::{path::Path, process::ExitCode};

use evidence::bundle::{self, Limits};

use crate::{failure::Failure, manifests::reason, terminal::Terminal};

/// Subcommands of `firedrill evidence`.
#[derive(Debug, clap::Subcommand)]
pub enum Command {
    /// Check bundles or a ledger: signatures, proofs, digests, gapless attempts, and the verdict anew
    Verify(verify::Args),
    /// Show what a bundle holds
    Show(show::Args),
}

/// Runs the subcommand.
///
/// # Errors
/// When the file cannot be read.
pub fn run(command: &Command, terminal: &Terminal) -> miette::Result<ExitCode> {
    match command {
        Command::Verify(args) => verify::run(args, terminal),
        Command::Show(args) => show::run(args, terminal),
    }
}

/// The bytes of a bundle. Only regular files are read, and no more than `limits` allow.
fn bytes(path: &Path, limits: &Limits) -> Result<Vec<u8>, Failure> {
    bundle::load(path, limits).map_err(|e| Failure::usage(format!("cannot read `{}`: {}", path.display(), reason(&e))))
}
