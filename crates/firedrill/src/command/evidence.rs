//! `firedrill evidence`: verify or show a sealed bundle; offline, with nothing but the file.

use std::{
    path::{Path, PathBuf},
    process::ExitCode,
};

use evidence::{
    bundle::{self, CheckOutcome, Report},
    ledger::verify_ledger,
    note::VerifierKey,
};
use serde_json::json;

use crate::{
    arguments::Format,
    failure::{Exit, Failure},
    manifests::{count, reason},
    render::outcome,
    terminal::{Terminal, Tone},
};

const VERIFY: &str = "\
Examples:
  firedrill evidence verify out/lose-east-1.drill
  firedrill evidence verify out/lose-east-1.drill --key ledger.key.pub     a key that you trust
  firedrill evidence verify .firedrill/ledger                              the whole ledger

It needs no installation and no network. It recomputes every measured value and the verdict from
the raw samples. Without --key it can tell that the bundle is whole, not who made it.
Exit code 1 on any doubt.";

const SHOW: &str = "\
Examples:
  firedrill evidence show out/lose-east-1.drill
  firedrill evidence show out/lose-east-1.drill --format json | jq .verdict
  firedrill evidence show out/lose-east-1.drill --format html > report.html

`show` believes the bundle; `verify` does not.";

/// Largest bundle that is read, in bytes.
const LARGEST: u64 = 1 << 30;

/// Subcommands of `firedrill evidence`.
#[derive(Debug, clap::Subcommand)]
pub enum Command {
    /// Check a bundle or a ledger: signatures, proofs, digests, gapless attempts, and the verdict anew
    Verify(VerifyArgs),
    /// Show what a bundle holds
    Show(ShowArgs),
}

/// Arguments of `firedrill evidence verify`.
#[derive(Debug, clap::Args)]
#[command(after_help = VERIFY)]
pub struct VerifyArgs {
    /// A bundle (*.drill), or the folder of a ledger
    #[arg(value_name = "FILE")]
    path: PathBuf,
    /// Public key of the ledger: the key itself, or a file that holds it
    #[arg(long, value_name = "KEY")]
    key: Option<String>,
    /// How to print the result
    #[arg(long, value_enum, default_value = "text", value_name = "text|json", hide_possible_values = true)]
    format: Format,
}

/// Arguments of `firedrill evidence show`.
#[derive(Debug, clap::Args)]
#[command(after_help = SHOW)]
pub struct ShowArgs {
    /// A bundle (*.drill)
    #[arg(value_name = "FILE")]
    path: PathBuf,
    /// How to print it
    #[arg(long, value_enum, default_value = "text", value_name = "text|json|html", hide_possible_values = true)]
    format: ShowFormat,
}

/// For people, for programs (stable field names), or as the report: one self-contained page.
#[derive(Clone, Copy, Debug, clap::ValueEnum)]
enum ShowFormat {
    Text,
    Json,
    Html,
}

/// Runs the subcommand.
///
/// # Errors
/// When the file cannot be read.
pub fn run(command: &Command, terminal: &Terminal) -> miette::Result<ExitCode> {
    match command {
        Command::Verify(args) => verify(args, terminal),
        Command::Show(args) => show(args, terminal),
    }
}

fn verify(args: &VerifyArgs, terminal: &Terminal) -> miette::Result<ExitCode> {
    let key = args.key.as_deref().map(key).transpose()?;
    if args.path.is_dir() {
        return Ok(ledger(args, key.as_ref(), terminal).into());
    }
    let report = bundle::verify(&bytes(&args.path)?, key.as_ref());
    match args.format {
        Format::Json => {
            let mut answer = json!({"ok": report.ok()});
            if let (Some(answer), Ok(serde_json::Value::Object(fields))) =
                (answer.as_object_mut(), serde_json::to_value(&report))
            {
                answer.extend(fields);
            }
            terminal.line(format_args!("{answer:#}"));
        }
        Format::Text => print(&report, &args.path, terminal),
    }
    Ok(if report.ok() { Exit::Success } else { Exit::Failed }.into())
}

fn print(report: &Report, path: &Path, terminal: &Terminal) {
    let (mut failed, mut open) = (0, 0);
    for check in &report.checks {
        let (mark, tone) = match check.outcome {
            CheckOutcome::Passed => ("✓", Tone::Good),
            CheckOutcome::Failed => ("✗", Tone::Bad),
            CheckOutcome::NotChecked => ("–", Tone::Warn),
        };
        failed += usize::from(check.outcome == CheckOutcome::Failed);
        open += usize::from(check.outcome == CheckOutcome::NotChecked);
        terminal.line(format_args!("  {} {:<22} {}", terminal.paint(tone, mark), check.name, check.detail));
    }
    let what = match (&report.drill, report.attempt) {
        (Some(drill), Some(attempt)) => format!("{drill}, attempt {attempt}"),
        _ => path.display().to_string(),
    };
    if failed > 0 {
        let verdict = terminal.paint(Tone::Bad, "NOT TO BE TRUSTED");
        terminal.line(format_args!("{verdict}   {what}: {} failed", count(failed, "check")));
        return;
    }
    let sealed = report.verdict.map(|verdict| format!(", verdict {verdict}")).unwrap_or_default();
    let rest = if open > 0 { format!("   ({open} not checked, see –)") } else { String::new() };
    terminal.line(format_args!("{}   {what}{sealed}{rest}", terminal.paint(Tone::Good, "VERIFIED")));
}

fn ledger(args: &VerifyArgs, key: Option<&VerifierKey>, terminal: &Terminal) -> Exit {
    match verify_ledger(&args.path, key) {
        Ok(report) => {
            let open: Vec<_> = report.open.iter().map(|(drill, number)| format!("{drill} {number}")).collect();
            match args.format {
                Format::Json => terminal.line(format_args!(
                    "{:#}",
                    json!({
                        "ok": true,
                        "origin": report.origin,
                        "key": report.key.to_string(),
                        "keyTrusted": key.is_some(),
                        "entries": report.entries,
                        "attempts": report.attempts,
                        "open": open,
                        "tornBytes": report.torn,
                    })
                )),
                Format::Text => {
                    let good = terminal.paint(Tone::Good, "✓");
                    terminal.line(format_args!(
                        "  {good} {} in place and in order",
                        count(entries(report.entries), "entry")
                    ));
                    terminal.line(format_args!("  {good} {} without gaps", count(entries(report.attempts), "attempt")));
                    if !open.is_empty() {
                        terminal.line(format_args!("  – not sealed: {}", open.join(", ")));
                    }
                    if report.torn > 0 {
                        terminal.line(format_args!("  – {} bytes of an append that never ended", report.torn));
                    }
                    if key.is_none() {
                        terminal.line("  – whose it is was not checked: give the key that you trust with --key");
                    }
                    terminal.line(format_args!("{}   key {}", terminal.paint(Tone::Good, "VERIFIED"), report.key));
                }
            }
            Exit::Success
        }
        Err(error) => {
            match args.format {
                Format::Json => terminal.line(format_args!("{:#}", json!({"ok": false, "error": error.to_string()}))),
                Format::Text => {
                    terminal.line(format_args!("  {} {error}", terminal.paint(Tone::Bad, "✗")));
                    terminal.line(terminal.paint(Tone::Bad, "NOT TO BE TRUSTED"));
                }
            }
            Exit::Failed
        }
    }
}

fn entries(number: u64) -> usize {
    usize::try_from(number).unwrap_or(usize::MAX)
}

fn show(args: &ShowArgs, terminal: &Terminal) -> miette::Result<ExitCode> {
    let path = &args.path;
    let (attempt, results) = bundle::read(&bytes(path)?).map_err(|e| {
        Failure::new(Exit::Failed, format!("`{}` cannot be shown: {e}", path.display()))
            .help(format!("`firedrill evidence verify {}` tells what is wrong with it", path.display()))
    })?;
    match args.format {
        ShowFormat::Json => terminal
            .line(serde_json::to_string(&results).map_err(|e| Failure::internal(format!("cannot write JSON: {e}")))?),
        ShowFormat::Html => {
            let name = path.file_name().map_or_else(String::new, |name| name.to_string_lossy().into_owned());
            terminal.write(console::report(&attempt, &results, &name));
        }
        ShowFormat::Text => {
            for line in outcome::summary(&attempt, &results, terminal) {
                terminal.line(line);
            }
        }
    }
    Ok(Exit::Success.into())
}

fn bytes(path: &Path) -> Result<Vec<u8>, Failure> {
    let cannot = |why: String| Failure::usage(format!("cannot read `{}`: {why}", path.display()));
    let size = std::fs::metadata(path).map_err(|e| cannot(reason(&e)))?.len();
    if size > LARGEST {
        return Err(cannot(format!("it has {size} bytes, more than any bundle")));
    }
    std::fs::read(path).map_err(|e| cannot(reason(&e)))
}

/// The key itself, or a file that holds it.
fn key(text: &str) -> Result<VerifierKey, Failure> {
    let text = match std::fs::read_to_string(text) {
        Ok(file) => file,
        Err(_) => text.to_owned(),
    };
    VerifierKey::parse(&text).map_err(|e| {
        Failure::usage(format!("--key is neither a public key of a ledger nor a file that holds one: {e}"))
            .help("it looks like `firedrill.dev/ledger/…+…+…`, and is in the file `key.pub` of the ledger's folder")
    })
}
