//! `firedrill evidence verify`: bundles, a ledger, and whether they tell one history.

use std::{
    path::{Path, PathBuf},
    process::ExitCode,
};

use evidence::{
    bundle::{self, Check, CheckOutcome, Claim, Limits, Report},
    ledger::{self, LedgerReport, verify_ledger, verify_whole},
    note::VerifierKey,
};
use serde_json::{Value, json};

use crate::{
    arguments::Format,
    failure::{Exit, Failure},
    manifests::{count, reason},
    terminal::{Terminal, Tone},
};

const EXAMPLES: &str = "\
Examples:
  firedrill evidence verify out/lose-east-1.drill --key ledger.key.pub     a key that you trust
  firedrill evidence verify out/*.drill --key ledger.key.pub               and that they tell one history
  firedrill evidence verify out/lose-east-1.drill --ledger .firedrill/ledger
  firedrill evidence verify .firedrill/ledger --key ledger.key.pub         the whole ledger

It needs no installation and no network. It recomputes every measured value and the verdict from
the raw samples. With several files, or with --ledger, it also finds a ledger that was copied or
rolled back and then continued twice.

Exit code 0: verified, and the signer is the one that you named with --key or --ledger.
Exit code 6: everything holds, but nobody says who the signer is: anybody could have made the file.
Exit code 1: any other doubt.";

/// Most files of one run.
const FILES: usize = 256;

/// Longest text of a public key.
const LONGEST_KEY: u64 = 4096;

/// Arguments of `firedrill evidence verify`.
#[derive(Debug, clap::Args)]
#[command(after_help = EXAMPLES)]
pub struct Args {
    /// Bundles (*.drill), signed checkpoints, or the folder of a ledger
    #[arg(value_name = "FILE", required = true)]
    paths: Vec<PathBuf>,
    /// Public key of the ledger: the key itself, or a file that holds it
    #[arg(long, value_name = "KEY")]
    key: Option<String>,
    /// Compare with this ledger, and trust its key unless --key is given
    #[arg(long, value_name = "DIR")]
    ledger: Option<PathBuf>,
    /// Exit with 0 also if the signer is unknown
    #[arg(long)]
    allow_unknown_key: bool,
    /// Also verify bundles of more than 64 MiB or 1.5 million samples; only for those whose origin you trust
    #[arg(long)]
    large: bool,
    /// How to print the result
    #[arg(long, value_enum, default_value = "text", value_name = "text|json", hide_possible_values = true)]
    format: Format,
}

/// How much of a verification holds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Trust {
    Verified,
    SignerUnknown,
    NotTrusted,
}

impl Trust {
    fn of(ok: bool, signer_known: bool) -> Self {
        match (ok, signer_known) {
            (false, _) => Self::NotTrusted,
            (true, false) => Self::SignerUnknown,
            (true, true) => Self::Verified,
        }
    }

    fn words(self) -> (Tone, &'static str) {
        match self {
            Self::Verified => (Tone::Good, "VERIFIED"),
            Self::SignerUnknown => (Tone::Warn, "VERIFIED, SIGNER UNKNOWN"),
            Self::NotTrusted => (Tone::Bad, "NOT TO BE TRUSTED"),
        }
    }

    fn name(self) -> &'static str {
        match self {
            Self::Verified => "verified",
            Self::SignerUnknown => "signerUnknown",
            Self::NotTrusted => "notTrusted",
        }
    }

    fn exit(self, allow_unknown_key: bool) -> Exit {
        match self {
            Self::Verified => Exit::Success,
            Self::SignerUnknown if allow_unknown_key => Exit::Success,
            Self::SignerUnknown => Exit::Inconclusive,
            Self::NotTrusted => Exit::Failed,
        }
    }
}

/// One file, verified.
struct File {
    name: String,
    report: Report,
    claim: Option<Claim>,
}

/// Verifies, compares and prints.
///
/// # Errors
/// When a file or the key cannot be read.
pub fn run(args: &Args, terminal: &Terminal) -> miette::Result<ExitCode> {
    let key = args.key.as_deref().map(key).transpose()?;
    if args.paths.len() > FILES {
        return Err(
            Failure::usage(format!("{} files are more than {FILES}, the most of one run", args.paths.len())).into()
        );
    }
    if let [path] = args.paths.as_slice()
        && path.is_dir()
        && args.ledger.is_none()
    {
        return Ok(ledger(args, path, key.as_ref(), terminal).into());
    }
    let ledger = match &args.ledger {
        None => None,
        Some(folder) => match verify_whole(folder, key.as_ref()) {
            Ok(ledger) => Some(ledger),
            Err(error) => return Ok(untrusted(args, &error.to_string(), terminal).into()),
        },
    };
    let key = key.or_else(|| ledger.as_ref().map(|ledger| ledger.report.key.clone()));
    let limits = if args.large { &Limits::LARGE } else { &Limits::STRICT };
    let mut files = Vec::with_capacity(args.paths.len());
    for path in &args.paths {
        let bytes = super::bytes(path, limits)?;
        let (report, claim) = bundle::verify_file(&bytes, key.as_ref(), limits);
        files.push(File { name: path.display().to_string(), report, claim });
    }
    let history = history(&files, ledger.as_ref());
    let ok =
        files.iter().all(|file| file.report.ok()) && history.iter().all(|check| check.outcome != CheckOutcome::Failed);
    let trust = Trust::of(ok, key.is_some());
    match args.format {
        Format::Json => terminal.block(format_args!("{:#}", as_json(&files, &history, trust, args))),
        Format::Text => print(&files, &history, trust, terminal),
    }
    Ok(trust.exit(args.allow_unknown_key).into())
}

/// Whether the files, and the ledger if there is one, tell one history.
fn history(files: &[File], ledger: Option<&ledger::Verified>) -> Vec<Check> {
    let claims: Vec<(&str, &Claim)> =
        files.iter().filter_map(|file| Some((file.name.as_str(), file.claim.as_ref()?))).collect();
    let mut checks = Vec::new();
    for (at, (name, claim)) in claims.iter().enumerate() {
        for (other_name, other) in &claims[at + 1..] {
            checks.push(bundle::compare(claim, other, (name, other_name)));
        }
        if let Some(ledger) = ledger {
            checks.push(bundle::compare_with_ledger(claim, ledger, name));
        }
    }
    checks
}

/// The fields of the only file stand at the top; several files are in `files`.
fn as_json(files: &[File], history: &[Check], trust: Trust, args: &Args) -> Value {
    let ok = trust.exit(args.allow_unknown_key) == Exit::Success;
    let mut answer = json!({"ok": ok, "trust": trust.name()});
    let fields = |file: &File| {
        let mut fields = json!({"file": file.name});
        if let (Some(fields), Ok(Value::Object(report))) = (fields.as_object_mut(), serde_json::to_value(&file.report))
        {
            fields.extend(report);
        }
        fields
    };
    if let ([file], Some(answer)) = (files, answer.as_object_mut()) {
        if let Value::Object(fields) = fields(file) {
            answer.extend(fields);
        }
    } else {
        answer["files"] = files.iter().map(fields).collect();
    }
    if files.len() > 1 || args.ledger.is_some() {
        answer["history"] = json!(history);
    }
    answer
}

fn print(files: &[File], history: &[Check], trust: Trust, terminal: &Terminal) {
    let is_one = files.len() == 1;
    let mut open = 0;
    for file in files {
        if !is_one {
            terminal.line(terminal.paint(Tone::Strong, &file.name));
        }
        file.report.checks.iter().for_each(|check| line(check, terminal));
        open += file.report.checks.iter().filter(|check| check.outcome == CheckOutcome::NotChecked).count();
    }
    if !is_one && !history.is_empty() {
        terminal.line(terminal.paint(Tone::Strong, "compared"));
    }
    history.iter().for_each(|check| line(check, terminal));
    open += history.iter().filter(|check| check.outcome == CheckOutcome::NotChecked).count();
    let failed = |checks: &[Check]| checks.iter().filter(|check| check.outcome == CheckOutcome::Failed).count();
    let failed = files.iter().map(|file| failed(&file.report.checks)).sum::<usize>() + failed(history);
    let what = match files {
        [File { report: Report { drill: Some(drill), attempt: Some(attempt), verdict, .. }, .. }] => {
            let sealed = verdict.filter(|_| failed == 0).map(|verdict| format!(", verdict {verdict}"));
            format!("{drill}, attempt {attempt}{}", sealed.unwrap_or_default())
        }
        [file] => file.name.clone(),
        _ => count(files.len(), "file"),
    };
    let (tone, words) = trust.words();
    let rest = match (failed, open) {
        (0, 0) => String::new(),
        (0, _) => format!("   ({open} not checked, see –)"),
        _ => format!(": {} failed", count(failed, "check")),
    };
    terminal.line(format_args!("{}   {what}{rest}", terminal.paint(tone, words)));
    if trust == Trust::SignerUnknown {
        terminal.line(UNKNOWN);
    }
}

const UNKNOWN: &str = "  anybody could have made this: give the public key of the ledger (`key.pub` in its folder), received \
                       from its owner, with --key";

fn line(check: &Check, terminal: &Terminal) {
    let (mark, tone) = match check.outcome {
        CheckOutcome::Passed => ("✓", Tone::Good),
        CheckOutcome::Failed => ("✗", Tone::Bad),
        CheckOutcome::NotChecked => ("–", Tone::Warn),
    };
    terminal.line(format_args!("  {} {:<22} {}", terminal.paint(tone, mark), check.name, check.detail));
}

fn ledger(args: &Args, path: &Path, key: Option<&VerifierKey>, terminal: &Terminal) -> Exit {
    let report = match verify_ledger(path, key) {
        Ok(report) => report,
        Err(error) => return untrusted(args, &error.to_string(), terminal),
    };
    let trust = Trust::of(true, key.is_some());
    let exit = trust.exit(args.allow_unknown_key);
    let open: Vec<_> = report.open.iter().map(|(drill, number)| format!("{drill} {number}")).collect();
    match args.format {
        Format::Json => terminal.block(format_args!(
            "{:#}",
            json!({
                "ok": exit == Exit::Success,
                "trust": trust.name(),
                "origin": report.origin,
                "key": report.key.to_string(),
                "signerKnown": key.is_some(),
                "entries": report.entries,
                "attempts": report.attempts,
                "open": open,
                "tornBytes": report.torn,
            })
        )),
        Format::Text => print_ledger(&report, &open, trust, terminal),
    }
    exit
}

fn print_ledger(report: &LedgerReport, open: &[String], trust: Trust, terminal: &Terminal) {
    let good = terminal.paint(Tone::Good, "✓");
    terminal.line(format_args!("  {good} {} in place and in order", count(number(report.entries), "entry")));
    terminal.line(format_args!("  {good} {} without gaps", count(number(report.attempts), "attempt")));
    if !open.is_empty() {
        terminal.line(format_args!("  – not sealed: {}", open.join(", ")));
    }
    if report.torn > 0 {
        terminal.line(format_args!("  – {} bytes of an append that was interrupted", report.torn));
    }
    let (tone, words) = trust.words();
    terminal.line(format_args!("{}   key {}", terminal.paint(tone, words), report.key));
    if trust == Trust::SignerUnknown {
        terminal.line(UNKNOWN);
    }
}

/// The ledger is not in order.
fn untrusted(args: &Args, why: &str, terminal: &Terminal) -> Exit {
    match args.format {
        Format::Json => {
            let trust = Trust::NotTrusted.name();
            terminal.block(format_args!("{:#}", json!({"ok": false, "trust": trust, "error": why})));
        }
        Format::Text => {
            terminal.line(format_args!("  {} {why}", terminal.paint(Tone::Bad, "✗")));
            let (tone, words) = Trust::NotTrusted.words();
            terminal.line(terminal.paint(tone, words));
        }
    }
    Exit::Failed
}

fn number(number: u64) -> usize {
    usize::try_from(number).unwrap_or(usize::MAX)
}

/// The key itself, or a file that holds it.
fn key(text: &str) -> Result<VerifierKey, Failure> {
    let path = Path::new(text);
    let text = match path.exists() {
        true => {
            let bytes = bundle::load_bounded(path, LONGEST_KEY)
                .map_err(|e| Failure::usage(format!("cannot read the key `{text}`: {}", reason(&e))))?;
            String::from_utf8_lossy(&bytes).into_owned()
        }
        false => text.to_owned(),
    };
    VerifierKey::parse(&text).map_err(|e| {
        Failure::usage(format!("--key is neither a public key of a ledger nor a file that holds one: {e}"))
            .help("it looks like `firedrill.dev/ledger/…+…+…`, and is in the file `key.pub` of the ledger's folder")
    })
}
