//! `firedrill apply`: manifests into force, with what changes shown.

use std::{path::Path, process::ExitCode};

use control::{
    api::{Applied, ApplyRequest, ManifestFile},
    client::{Client, ClientError},
};
use serde_json::json;

use crate::{
    applied,
    arguments::{Format, State},
    checkout,
    failure::{Exit, Failure},
    manifests::{self, Sources},
    render::changes,
    terminal::{Terminal, Tone},
};

const EXAMPLES: &str = "\
Examples:
  firedrill apply -f config --dry-run         what would change, checked by the control plane
  firedrill apply -f config -m 'longer dwell'
  firedrill apply -f config --expect-revision 7      refused if another one is in force by now
  firedrill apply -f config --prune           also remove what is not in the manifests any more

The manifests are the whole: name all of them. See `firedrill history`, `diff` and `rollback`.";

/// Arguments of `firedrill apply`.
#[derive(Debug, clap::Args)]
#[command(after_help = EXAMPLES)]
pub struct Args {
    #[command(flatten)]
    files: Sources,
    /// Remove what is in force and not in the manifests; without this, such manifests are refused
    #[arg(long)]
    prune: bool,
    #[command(flatten)]
    change: Change,
}

/// What `apply` and `rollback` share.
#[derive(Clone, Debug, clap::Args)]
pub struct Change {
    /// Check everything, show what would change, and change nothing
    #[arg(long)]
    pub dry_run: bool,
    /// Why, for the history
    #[arg(short, long, value_name = "TEXT", default_value = "", hide_default_value = true)]
    pub message: String,
    /// Who [default: you]
    #[arg(
        long,
        value_name = "NAME",
        env = "USER",
        hide_env = true,
        hide_default_value = true,
        default_value = "unknown"
    )]
    pub author: String,
    /// Apply although a drill is under way; its verdict names the revision
    #[arg(long)]
    pub during_drill: bool,
    /// Refuse unless this revision is in force (0: none is)
    #[arg(long, value_name = "N")]
    pub expect_revision: Option<u64>,
    #[command(flatten)]
    pub state: State,
    /// How to print what changed
    #[arg(long, value_enum, default_value = "text", value_name = "text|json", hide_possible_values = true)]
    pub format: Format,
}

/// Applies, and prints what changed.
///
/// # Errors
/// When the manifests are not valid, are refused, or no control plane runs.
pub fn run(args: &Args, terminal: &Terminal) -> miette::Result<ExitCode> {
    let (sources, _) = manifests::load(&args.files.paths(), terminal)?;
    let paths: Vec<&Path> = sources.iter().map(|source| Path::new(&source.path)).collect();
    let commit = checkout::commit_of(&paths);
    let files = manifests::stored(&sources);
    let Change { message, author, expect_revision, dry_run, during_drill, state, .. } = args.change.clone();
    let (expect, prune) = (expect_revision, args.prune);
    let request = ApplyRequest { files, author, message, commit, expect, prune, dry_run, during_drill };
    super::block_on(async {
        let control = client(&state.path)?;
        let applied = control.apply(&request).await.map_err(refused)?;
        finish(&control, &applied, &request.files, &args.change, terminal).await
    })?
}

/// Records the change in the ledger and shows it.
pub async fn finish(
    control: &Client,
    applied: &Applied,
    files: &[ManifestFile],
    change: &Change,
    terminal: &Terminal,
) -> miette::Result<ExitCode> {
    if !change.dry_run {
        applied::record(&change.state.path, control).await.map_err(|e| {
            Failure::internal(format!("revision {} is in force, but was not recorded: {e}", applied.revision))
                .help("mend that and run the same command again: the ledger is made complete")
        })?;
    }
    let before = match applied.previous {
        0 => Vec::new(),
        number => control.revision(number).await.map_err(refused)?.files,
    };
    let files = changes::files(&before, files);
    if change.format == Format::Json {
        let mut answer = json!(applied);
        answer["dryRun"] = change.dry_run.into();
        answer["files"] = changes::json(&files);
        terminal.block(format_args!("{answer:#}"));
        return Ok(Exit::Success.into());
    }
    terminal.write(changes::text(&files, terminal));
    terminal.write(changes::objects(&applied.objects, terminal));
    terminal.line(outcome(applied, change.dry_run));
    if !applied.unplaced.is_empty() {
        let names = applied.unplaced.join(", ");
        terminal.note(
            Tone::Warn,
            "warning",
            format_args!("placed nowhere: {names}; start `firedrill up` again to run them"),
        );
    }
    Ok(Exit::Success.into())
}

fn outcome(applied: &Applied, dry_run: bool) -> String {
    let Applied { revision, previous, changed, .. } = applied;
    match (changed, dry_run) {
        (false, _) => format!("nothing to do: revision {revision} says the same"),
        (true, true) => format!("valid; it would be revision {revision} (dry run: nothing was changed)"),
        (true, false) if *previous == 0 => format!("revision {revision} is in force"),
        (true, false) => format!("revision {revision} is in force, after {previous}"),
    }
}

/// The control plane of a state folder.
///
/// # Errors
/// When none was ever started there.
pub fn client(state: &Path) -> Result<Client, Failure> {
    Client::from_state(state).map_err(|e| Failure::usage(e.to_string()))
}

/// A call that was not done, for the person who must act.
pub fn refused(error: ClientError) -> Failure {
    match &error {
        ClientError::Refused { problems, status, .. } if (400..500).contains(status) => {
            let said = problems.iter().filter_map(|problem| problem["message"].as_str());
            let problems: String = said.map(|message| format!("\n  {message}")).collect();
            Failure::usage(format!("{error}{problems}"))
        }
        error if error.is_unreachable() => Failure::usage(error.to_string())
            .help("start one with `firedrill up` or `firedrill control`, or name its state folder with `--state DIR`"),
        _ => Failure::internal(error.to_string()),
    }
}
