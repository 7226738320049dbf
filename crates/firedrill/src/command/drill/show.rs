//! `firedrill drill show`: the attempts of one drill, as the ledger has them.

use std::process::ExitCode;

use evidence::{attempts::Registered, ledger::Ledger, record::Verdict};
use serde::Serialize;

use super::{ledger, list::verdict_cell};
use crate::{
    arguments::{Format, State},
    failure::{Exit, Failure},
    render::{
        figures::short_digest,
        table::{Cell, table},
    },
    terminal::Terminal,
};

const EXAMPLES: &str = "\
Examples:
  firedrill drill show lose-east
  firedrill drill show lose-east --format json | jq '.[-1].verdict'";

/// Arguments of `firedrill drill show`.
#[derive(Debug, clap::Args)]
#[command(after_help = EXAMPLES)]
pub struct Args {
    /// Name of the drill
    name: String,
    #[command(flatten)]
    state: State,
    /// How to print it
    #[arg(long, value_enum, default_value = "text", value_name = "text|json", hide_possible_values = true)]
    format: Format,
}

/// One attempt in the ledger.
#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
struct Row {
    attempt: u64,
    /// When it was registered.
    registered: String,
    /// When it was sealed; `null` while it is open.
    sealed: Option<String>,
    verdict: Option<Verdict>,
    /// Of the plan and drill as registered.
    digest: String,
    /// Ledger entries of registration and seal.
    entries: Vec<u64>,
}

/// Prints the attempts.
///
/// # Errors
/// When there are none, or the ledger cannot be read.
pub fn run(args: &Args, terminal: &Terminal) -> miette::Result<ExitCode> {
    let rows = match ledger(&args.state.path)? {
        Some(ledger) => rows(&ledger, &args.name)?,
        None => Vec::new(),
    };
    if rows.is_empty() {
        let message = format!("drill `{}` has no attempt in `{}`", args.name, args.state.path.display());
        return Err(Failure::usage(message).help("`firedrill drill list` shows which drills have").into());
    }
    match args.format {
        Format::Json => {
            let text = serde_json::to_string_pretty(&rows).map_err(|e| Failure::internal(e.to_string()))?;
            terminal.block(text);
        }
        Format::Text => {
            let cells: Vec<Vec<Cell>> = rows.iter().map(cells).collect();
            let titles = ["ATTEMPT", "VERDICT", "REGISTERED", "SEALED", "PLAN AND DRILL", "ENTRIES"];
            terminal.write(table(&titles, &cells, terminal));
        }
    }
    Ok(Exit::Success.into())
}

fn rows(ledger: &Ledger, name: &str) -> Result<Vec<Row>, Failure> {
    let failed = |e: &dyn std::fmt::Display| Failure::internal(format!("the ledger cannot be read: {e}"));
    let mut rows = Vec::new();
    for (known, attempt) in ledger.attempts().of(name).iter().zip(1..) {
        let entry = ledger.entry(known.registered).map_err(|e| failed(&e))?;
        let body: Registered = serde_json::from_value(entry.body).map_err(|e| failed(&e))?;
        let sealed = match known.sealed {
            Some(seal) => Some(ledger.entry(seal.index).map_err(|e| failed(&e))?.time),
            None => None,
        };
        rows.push(Row {
            attempt,
            registered: entry.time,
            sealed,
            verdict: known.sealed.map(|seal| seal.verdict),
            digest: body.digest,
            entries: std::iter::once(known.registered).chain(known.sealed.map(|seal| seal.index)).collect(),
        });
    }
    Ok(rows)
}

fn cells(row: &Row) -> Vec<Cell> {
    let entries: Vec<_> = row.entries.iter().map(ToString::to_string).collect();
    vec![
        row.attempt.to_string().into(),
        verdict_cell(row.verdict),
        row.registered.clone().into(),
        row.sealed.clone().unwrap_or_default().into(),
        short_digest(&row.digest).into(),
        entries.join(", ").into(),
    ]
}
