//! `firedrill control`.

use std::process::ExitCode;

/// Arguments of `firedrill control`.
#[derive(Debug, clap::Args)]
pub struct Args {}

/// Runs until told to stop.
///
/// # Errors
/// When it cannot be started.
pub fn run(args: Args) -> miette::Result<ExitCode> {
    Err(miette::miette!("not ready: {args:?}"))
}
