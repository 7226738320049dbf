//! `firedrill schema`: the JSON Schema of the manifests, and of a snapshot file.

use std::process::ExitCode;

use crate::{failure::Exit, terminal::Terminal};

const EXAMPLES: &str = "\
Examples:
  firedrill schema > firedrill.schema.json       of whole files, whatever kinds are in them
  firedrill schema Drill                         of one kind
  firedrill schema Snapshot                      of what `firedrill proxy --snapshot` reads

Editors that speak YAML (VS Code with the YAML extension, Neovim and others with yaml-language-server)
complete and check a manifest that begins with this line:
  # yaml-language-server: $schema=./firedrill.schema.json";

/// Arguments of `firedrill schema`.
#[derive(Debug, clap::Args)]
#[command(after_help = EXAMPLES)]
pub struct Args {
    /// Only this kind; without it, any kind that a manifest may hold
    #[arg(value_enum, value_name = "KIND")]
    kind: Option<Kind>,
}

/// Kind of a file.
#[derive(Clone, Copy, Debug, clap::ValueEnum)]
#[value(rename_all = "verbatim")]
enum Kind {
    Mesh,
    Service,
    RecoveryPlan,
    Drill,
    Backup,
    Snapshot,
}

/// Prints the schema.
///
/// # Errors
/// None.
pub fn run(args: &Args, terminal: &Terminal) -> miette::Result<ExitCode> {
    use model::schema::{Kind as Manifest, schema};
    let schema = match args.kind {
        None => model::schema::schema_of_file(),
        Some(Kind::Mesh) => schema(Manifest::Mesh),
        Some(Kind::Service) => schema(Manifest::Service),
        Some(Kind::RecoveryPlan) => schema(Manifest::RecoveryPlan),
        Some(Kind::Drill) => schema(Manifest::Drill),
        Some(Kind::Backup) => schema(Manifest::Backup),
        Some(Kind::Snapshot) => xds::file::schema(),
    };
    terminal.block(format_args!("{schema:#}"));
    Ok(Exit::Success.into())
}
