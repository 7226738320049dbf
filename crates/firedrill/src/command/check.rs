//! `firedrill check`: is it valid, and what does it say.

use std::process::ExitCode;

use model::{Problem, Severity, Source};
use serde_json::json;

use crate::{
    arguments::Format,
    dataplane,
    failure::Exit,
    manifests::{self, Sources},
    programs, summary,
    supervisor::plane::Choice,
    terminal::Terminal,
};

const EXAMPLES: &str = "\
Examples:
  firedrill check                       the *.yaml files of this folder
  firedrill check -f mesh.yaml -f drills.yaml
  firedrill check -f config --effective       with every default filled in
  firedrill check --format json | jq .problems
  kustomize build | firedrill check -f -";

/// Arguments of `firedrill check`.
#[derive(Debug, clap::Args)]
#[command(after_help = EXAMPLES)]
pub struct Args {
    #[command(flatten)]
    files: Sources,
    /// Also print the configuration with every default filled in
    #[arg(long)]
    effective: bool,
    /// Also judge whether these proxies can do it: `envoy`, or `envoy=PROXY,PROXY`
    #[arg(long, value_name = "PLANE", default_value = "firedrill", hide_default_value = true)]
    data_plane: Choice,
    /// How to print the result
    #[arg(long, value_enum, default_value = "text", value_name = "text|json", hide_possible_values = true)]
    format: Format,
}

/// Prints every problem and, if there is no error, what the configuration holds.
///
/// # Errors
/// When the files cannot be read.
pub fn run(args: &Args, terminal: &Terminal) -> miette::Result<ExitCode> {
    let sources = manifests::read(&args.files.paths())?;
    let (config, problems) = match manifests::parse(&sources) {
        Ok(mut parsed) => {
            parsed.warnings.extend(programs::warnings(&parsed.config));
            (Some(parsed.config), parsed.warnings)
        }
        Err(problems) => (None, problems),
    };
    match args.format {
        Format::Json => {
            let mut answer = json!({"valid": config.is_some(), "problems": problems});
            if let Some(config) = &config {
                answer["summary"] = summary::json(config);
                if args.effective {
                    answer["effective"] = model::canonical(config);
                }
            }
            terminal.block(format_args!("{answer:#}"));
        }
        Format::Text => {
            show(&problems, &sources, terminal);
            if let Some(config) = &config {
                if args.effective {
                    terminal.write(config.to_yaml());
                } else {
                    terminal.write(summary::text(config, terminal));
                }
            }
            if !args.effective || config.is_none() {
                tally(&problems, terminal);
            }
        }
    }
    if let Some(config) = &config {
        dataplane::judge(config, &args.data_plane.unseen())?;
    }
    Ok(if config.is_some() { Exit::Success } else { Exit::Usage }.into())
}

fn show(problems: &[Problem], sources: &[Source], terminal: &Terminal) {
    for problem in problems {
        terminal.drawn(manifests::show(problem, sources, terminal.color()));
    }
}

fn tally(problems: &[Problem], terminal: &Terminal) {
    let errors = problems.iter().filter(|p| p.severity == Severity::Error).count();
    terminal.line(manifests::tally(errors, problems.len() - errors, terminal));
}
