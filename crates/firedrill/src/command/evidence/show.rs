//! `firedrill evidence show`.

use std::{path::PathBuf, process::ExitCode};

use evidence::bundle::{self, Limits};

use crate::{
    failure::{Exit, Failure},
    render::outcome,
    terminal::Terminal,
};

const EXAMPLES: &str = "\
Examples:
  firedrill evidence show out/lose-east-1.drill
  firedrill evidence show out/lose-east-1.drill --format json | jq .verdict
  firedrill evidence show out/lose-east-1.drill --format html > report.html

`show` believes the bundle; `verify` does not.";

/// Arguments of `firedrill evidence show`.
#[derive(Debug, clap::Args)]
#[command(after_help = EXAMPLES)]
pub struct Args {
    /// A bundle (*.drill)
    #[arg(value_name = "FILE")]
    path: PathBuf,
    /// How to print it
    #[arg(long, value_enum, default_value = "text", value_name = "text|json|html", hide_possible_values = true)]
    format: Format,
}

/// For people, for programs (stable field names), or as the report: one self-contained page.
#[derive(Clone, Copy, Debug, clap::ValueEnum)]
enum Format {
    Text,
    Json,
    Html,
}

/// Prints what the bundle holds, without verifying it.
///
/// # Errors
/// When the file cannot be read, or is not a bundle.
pub fn run(args: &Args, terminal: &Terminal) -> miette::Result<ExitCode> {
    let path = &args.path;
    let (attempt, results) = bundle::read(&super::bytes(path, &Limits::LARGE)?).map_err(|e| {
        Failure::new(Exit::Failed, format!("`{}` cannot be shown: {e}", path.display()))
            .help(format!("`firedrill evidence verify {}` tells what is wrong with it", path.display()))
    })?;
    match args.format {
        Format::Json => terminal
            .line(serde_json::to_string(&results).map_err(|e| Failure::internal(format!("cannot write JSON: {e}")))?),
        Format::Html => {
            let name = path.file_name().map_or_else(String::new, |name| name.to_string_lossy().into_owned());
            terminal.write(console::report(&attempt, &results, &name));
        }
        Format::Text => {
            for line in outcome::summary(&attempt, &results, terminal) {
                terminal.line(line);
            }
        }
    }
    Ok(Exit::Success.into())
}
