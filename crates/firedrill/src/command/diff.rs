//! `firedrill diff`: what two revisions say differently.

use std::process::ExitCode;

use serde_json::json;

use super::apply::{client, refused};
use crate::{
    arguments::{Format, State},
    failure::Exit,
    render::changes,
    terminal::Terminal,
};

const EXAMPLES: &str = "\
Examples:
  firedrill diff 6 7
  firedrill diff 6                     against the revision in force
  firedrill apply -f config --dry-run  manifests against the revision in force";

/// Arguments of `firedrill diff`.
#[derive(Debug, clap::Args)]
#[command(after_help = EXAMPLES)]
pub struct Args {
    /// The older revision
    #[arg(value_name = "A")]
    from: u64,
    /// The newer one [default: the one in force]
    #[arg(value_name = "B")]
    to: Option<u64>,
    #[command(flatten)]
    state: State,
    /// How to print it
    #[arg(long, value_enum, default_value = "text", value_name = "text|json", hide_possible_values = true)]
    format: Format,
}

/// Prints a unified diff of every file that differs.
///
/// # Errors
/// When there is no such revision, or no control plane runs.
pub fn run(args: &Args, terminal: &Terminal) -> miette::Result<ExitCode> {
    super::block_on(async {
        let control = client(&args.state.path)?;
        let from = control.revision(args.from).await.map_err(refused)?;
        let to = match args.to {
            Some(number) => control.revision(number).await,
            None => control.config().await,
        };
        let to = to.map_err(refused)?;
        let files = changes::files(&from.files, &to.files);
        match args.format {
            Format::Json => {
                let answer = json!({"from": from.number, "to": to.number, "files": changes::json(&files)});
                terminal.block(format_args!("{answer:#}"));
            }
            Format::Text if files.is_empty() => {
                terminal.line(format_args!("revisions {} and {} have the same files", from.number, to.number));
            }
            Format::Text => terminal.write(changes::text(&files, terminal)),
        }
        Ok(Exit::Success.into())
    })?
}
