//! `firedrill restore`: a store made of a backup.

use std::{
    fs,
    path::{Path, PathBuf},
    process::ExitCode,
};

use control::{
    client::Client,
    store::{Backup, Store, StoreAddress},
};
use serde_json::Value;

use super::backup::{StoreArgs, failed};
use crate::{
    failure::{Exit, Failure},
    manifests,
    terminal::{Terminal, Tone},
};

const EXAMPLES: &str = "\
Examples:
  firedrill restore mesh.backup                         into the state folder's control.db
  firedrill restore mesh.backup --store postgres://…    also from SQLite to PostgreSQL, or back
  firedrill restore mesh.backup --force                 proxies with newer revisions go back, too

Stop the control plane first. Keys and certificates (ca/) and the ledger are not in a backup of the store.";

/// Arguments of `firedrill restore`.
#[derive(Debug, clap::Args)]
#[command(after_help = EXAMPLES)]
pub struct Args {
    /// What `firedrill backup` wrote
    #[arg(value_name = "FILE")]
    file: PathBuf,
    /// Let proxies that hold a newer revision go back to the one of the backup
    #[arg(long)]
    force: bool,
    #[command(flatten)]
    store: StoreArgs,
}

/// Replaces all that the store holds.
///
/// # Errors
/// When the backup is not whole, a control plane runs, or proxies hold a newer revision.
pub fn run(args: &Args, terminal: &Terminal) -> miette::Result<ExitCode> {
    let shown = args.file.display();
    let bytes = fs::read(&args.file)
        .map_err(|e| Failure::usage(format!("cannot read `{shown}`: {}", manifests::reason(&e))))?;
    let backup = Backup::parse(&bytes).map_err(|reason| Failure::usage(format!("`{shown}`: {reason}")))?;
    let state = &args.store.state.path;
    if let Some((proxy, held)) = newest(state).filter(|(_, held)| *held > backup.latest() && !args.force) {
        return Err(Failure::usage(format!(
            "proxy {proxy} holds revision {held}, which is newer than {} of the backup",
            backup.latest()
        ))
        .help("take a newer backup, or let proxies go back with `--force`")
        .into());
    }
    super::block_on(async {
        let address = args.store.address();
        if matches!(address, StoreAddress::File(_))
            && let Ok(control) = Client::from_state(state)
            && control.ready().await.is_ok()
        {
            let said = format!("a control plane runs in `{}`", state.display());
            return Err(Failure::usage(said).help("stop it first").into());
        }
        if let Err(error) = control::prepare_folder(state) {
            return Err(Failure::internal(format!("the state folder cannot be made: {error}")).into());
        }
        let store = Store::open(&address).await.map_err(failed)?;
        let restored = store.restore(&backup, args.force).await;
        store.close().await;
        restored.map_err(failed)?;
        terminal.line(format_args!("{address} holds revision {} now", backup.latest()));
        if !args.force {
            terminal.note(Tone::Dim, "note", "proxies that hold a newer revision keep it, until one as new is applied");
        }
        Ok(Exit::Success.into())
    })?
}

/// The newest revision that a proxy of this state folder starts from.
fn newest(state: &Path) -> Option<(String, u64)> {
    let folders = fs::read_dir(state.join("proxies")).ok()?.flatten();
    let held = folders.filter_map(|folder| {
        let text = fs::read(folder.path().join("last-good.json")).ok()?;
        let stored: Value = serde_json::from_slice(&text).ok()?;
        let number = control::revision_of(stored["version"].as_str()?)?;
        Some((folder.file_name().to_string_lossy().into_owned(), number))
    });
    held.max_by_key(|(_, number)| *number)
}
