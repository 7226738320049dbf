//! `firedrill drill list`: drills of the manifests, and what became of their attempts.

use std::{collections::BTreeMap, path::PathBuf, process::ExitCode};

use evidence::record::Verdict;
use serde_json::json;

use super::ledger;
use crate::{
    arguments::{Format, State},
    failure::Exit,
    manifests,
    render::table::{Cell, table},
    seat,
    terminal::{Terminal, Tone},
};

const EXAMPLES: &str = "\
Examples:
  firedrill drill list
  firedrill drill list -f mesh --format json";

/// Arguments of `firedrill drill list`.
#[derive(Debug, clap::Args)]
#[command(after_help = EXAMPLES)]
pub struct Args {
    /// Manifests, to list drills that never ran too: a folder or a file; may be repeated
    #[arg(short = 'f', long = "file", value_name = "PATH")]
    paths: Vec<PathBuf>,
    #[command(flatten)]
    state: State,
    /// How to print it
    #[arg(long, value_enum, default_value = "text", value_name = "text|json", hide_possible_values = true)]
    format: Format,
}

#[derive(Debug, Default)]
struct Row {
    plan: Option<String>,
    attempts: u64,
    last: Option<(Option<Verdict>, String)>,
}

/// Prints the drills.
///
/// # Errors
/// When manifests or ledger cannot be read.
pub fn run(args: &Args, terminal: &Terminal) -> miette::Result<ExitCode> {
    let mut rows: BTreeMap<String, Row> = BTreeMap::new();
    if !args.paths.is_empty() {
        let (_, parsed) = manifests::load(&args.paths, terminal)?;
        for drill in parsed.config.drills.values() {
            rows.entry(drill.name.to_string()).or_default().plan = Some(drill.plan.to_string());
        }
    }
    if let Some(ledger) = ledger(&args.state.path)? {
        for (drill, number, known) in ledger.attempts().all() {
            let entry = ledger.entry(known.registered).map_err(|e| super::Failure::internal(e.to_string()))?;
            let row = rows.entry(drill.to_owned()).or_default();
            row.attempts = number;
            row.last = Some((known.sealed.map(|seal| seal.verdict), entry.time));
        }
    }
    let running = seat::holder(&args.state.path).map(|holder| holder.drill);
    match args.format {
        Format::Json => {
            let drills = rows.iter().map(|(name, row)| {
                let last = row.last.as_ref();
                json!({
                    "drill": name,
                    "plan": row.plan,
                    "attempts": row.attempts,
                    "lastVerdict": last.and_then(|(verdict, _)| *verdict),
                    "lastTime": last.map(|(_, time)| time),
                    "running": running.as_deref() == Some(name),
                })
            });
            terminal.block(format_args!("{:#}", json!(drills.collect::<Vec<_>>())));
        }
        Format::Text if rows.is_empty() => {
            terminal.line("no drill has run here yet; `-f PATH` lists those of the manifests");
        }
        Format::Text => {
            let cells: Vec<_> = rows.iter().map(|(name, row)| cells(name, row, running.as_deref())).collect();
            terminal.write(table(&["DRILL", "PLAN", "ATTEMPTS", "LAST", "WHEN"], &cells, terminal));
        }
    }
    Ok(Exit::Success.into())
}

fn cells(name: &str, row: &Row, running: Option<&str>) -> Vec<Cell> {
    let (verdict, time) = match &row.last {
        None => (Cell::from(""), String::new()),
        Some((None, time)) if running == Some(name) => (Cell::toned(Tone::Warn, "running"), time.clone()),
        Some((verdict, time)) => (verdict_cell(*verdict), time.clone()),
    };
    vec![
        name.into(),
        row.plan.clone().unwrap_or_default().into(),
        row.attempts.to_string().into(),
        verdict,
        time.into(),
    ]
}

/// A verdict in its colour; an attempt without one is open.
pub fn verdict_cell(verdict: Option<Verdict>) -> Cell {
    match verdict {
        Some(Verdict::Passed) => Cell::toned(Tone::Good, "passed"),
        Some(Verdict::Failed) => Cell::toned(Tone::Bad, "failed"),
        Some(Verdict::Crashed) => Cell::toned(Tone::Bad, "crashed"),
        Some(Verdict::Aborted) => Cell::toned(Tone::Warn, "aborted"),
        Some(Verdict::Refused) => Cell::toned(Tone::Warn, "refused"),
        Some(Verdict::Inconclusive) => Cell::toned(Tone::Warn, "inconclusive"),
        None => Cell::toned(Tone::Warn, "open"),
    }
}
