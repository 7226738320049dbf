//! `firedrill history`: revisions of the configuration, newest first.

use std::process::ExitCode;

use control::api::{Revision, SourceReport, SourceState, Stamp};
use serde_json::json;

use super::apply::{client, refused};
use crate::{
    arguments::{Format, State},
    failure::Exit,
    render::table::{Cell, table},
    terminal::{Terminal, Tone},
};

/// Characters of a commit that are shown.
const SHORT: usize = 12;

/// Arguments of `firedrill history`.
#[derive(Debug, clap::Args)]
pub struct Args {
    /// How many, at most
    #[arg(short = 'n', long, value_name = "N", default_value_t = 20)]
    limit: usize,
    #[command(flatten)]
    state: State,
    /// How to print it
    #[arg(long, value_enum, default_value = "text", value_name = "text|json", hide_possible_values = true)]
    format: Format,
}

/// Prints the revisions, and how watched manifests stand.
///
/// # Errors
/// When no control plane runs.
pub fn run(args: &Args, terminal: &Terminal) -> miette::Result<ExitCode> {
    super::block_on(async {
        let control = client(&args.state.path)?;
        let mut revisions = control.revisions().await.map_err(refused)?;
        let source = control.source().await.map_err(refused)?;
        revisions.truncate(args.limit);
        match args.format {
            Format::Json => {
                let rows: Vec<_> = revisions.iter().map(row_json).collect();
                terminal.block(format_args!("{:#}", json!({"revisions": rows, "source": source})));
            }
            Format::Text if revisions.is_empty() => terminal.line("nothing was applied yet"),
            Format::Text => {
                let rows: Vec<Vec<Cell>> = revisions.iter().enumerate().map(|(at, one)| row(at == 0, one)).collect();
                terminal.write(table(&["REVISION", "APPLIED", "AUTHOR", "COMMIT", "MESSAGE"], &rows, terminal));
                if let Some(source) = source {
                    terminal.line(format_args!("\n{}", watched(&source, terminal)));
                }
            }
        }
        Ok(Exit::Success.into())
    })?
}

fn row_json(revision: &Revision) -> serde_json::Value {
    let mut row = json!(revision);
    row["time"] = evidence::entry::rfc3339(revision.time.0).into();
    if let Some(row) = row.as_object_mut() {
        row.remove("files");
    }
    row
}

fn row(in_force: bool, revision: &Revision) -> Vec<Cell> {
    let number = revision.number.to_string();
    let message = match revision.restores {
        Some(old) => format!("{} (files of {old})", revision.message),
        None => revision.message.clone(),
    };
    vec![
        if in_force { Cell::toned(Tone::Good, format!("{number} *")) } else { number.into() },
        seconds(revision.time).into(),
        revision.author.clone().into(),
        revision.commit.as_deref().map(short).unwrap_or_default().into(),
        message.lines().next().unwrap_or_default().to_owned().into(),
    ]
}

/// UTC, in whole seconds.
fn seconds(time: Stamp) -> String {
    evidence::entry::rfc3339(time.0.div_euclid(1_000_000_000).saturating_mul(1_000_000_000))
}

/// A commit that people recognise; that its files were changed stays visible.
fn short(commit: &str) -> String {
    match commit.strip_suffix("-dirty") {
        Some(clean) => format!("{}-dirty", clean.chars().take(SHORT).collect::<String>()),
        None => commit.chars().take(SHORT).collect(),
    }
}

fn watched(source: &SourceReport, terminal: &Terminal) -> String {
    let (tone, state) = match source.state {
        SourceState::InForce => (Tone::Good, "in force"),
        SourceState::Drift => (Tone::Warn, "drift"),
        SourceState::Refused => (Tone::Bad, "refused"),
        SourceState::Unreadable => (Tone::Bad, "unreadable"),
    };
    let commit = source.commit.as_deref().map(|commit| format!(" at {}", short(commit))).unwrap_or_default();
    let detail = if source.detail.is_empty() { String::new() } else { format!(": {}", source.detail) };
    format!("watched  {}{commit}  {}{detail}", source.folder, terminal.paint(tone, state))
}
