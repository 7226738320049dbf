//! `firedrill schema`: the JSON Schema of the manifests.

use std::process::ExitCode;

use crate::{failure::Exit, terminal::Terminal};

const EXAMPLES: &str = "\
Examples:
  firedrill schema > firedrill.schema.json       of whole files, whatever kinds are in them
  firedrill schema Drill                         of one kind

Editors that speak YAML (VS Code with the YAML extension, Neovim and others with yaml-language-server)
complete and check a manifest that begins with this line:
  # yaml-language-server: $schema=./firedrill.schema.json";

/// Arguments of `firedrill schema`.
#[derive(Debug, clap::Args)]
#[command(after_help = EXAMPLES)]
pub struct Args {
    /// Only this kind; without it, any kind that a file may hold
    #[arg(value_enum, value_name = "KIND")]
    kind: Option<Kind>,
}

/// Kind of a manifest.
#[derive(Clone, Copy, Debug, clap::ValueEnum)]
#[value(rename_all = "verbatim")]
enum Kind {
    Mesh,
    Service,
    RecoveryPlan,
    Drill,
    Backup,
}

impl From<Kind> for model::schema::Kind {
    fn from(kind: Kind) -> Self {
        match kind {
            Kind::Mesh => Self::Mesh,
            Kind::Service => Self::Service,
            Kind::RecoveryPlan => Self::RecoveryPlan,
            Kind::Drill => Self::Drill,
            Kind::Backup => Self::Backup,
        }
    }
}

/// Prints the schema.
///
/// # Errors
/// None.
pub fn run(args: &Args, terminal: &Terminal) -> miette::Result<ExitCode> {
    let schema = match args.kind {
        Some(kind) => model::schema::schema(kind.into()),
        None => model::schema::schema_of_file(),
    };
    terminal.line(format_args!("{schema:#}"));
    Ok(Exit::Success.into())
}
