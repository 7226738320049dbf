//! `firedrill up`.

use std::{path::PathBuf, process::ExitCode};

/// Arguments of `firedrill up`.
#[derive(Debug, clap::Args)]
pub struct Args {
    /// Folder with the manifests, or one file.
    #[arg(short = 'f', long = "file", value_name = "DIR")]
    file: PathBuf,
    /// State folder.
    #[arg(long, default_value = ".firedrill")]
    state: PathBuf,
}

/// Runs until told to stop.
///
/// # Errors
/// When the mesh cannot be started.
pub fn run(args: Args) -> miette::Result<ExitCode> {
    Err(miette::miette!("not ready: {} {}", args.file.display(), args.state.display()))
}
