//! `firedrill backup`: all that the store holds, in one file.

use std::{
    fs::{self, OpenOptions},
    io::Write as _,
    os::unix::fs::OpenOptionsExt as _,
    path::{Path, PathBuf},
    process::ExitCode,
};

use control::store::{Store, StoreAddress, StoreError};

use crate::{
    arguments::State,
    failure::{Exit, Failure},
    manifests,
    terminal::Terminal,
};

const EXAMPLES: &str = "\
Examples:
  firedrill backup mesh.backup
  firedrill backup mesh.backup --store postgres://firedrill@db/firedrill

Revisions, placements and where recovery stands, at one moment; the control plane may run meanwhile.
See `firedrill restore`. Keep `ca/` and `ledger/` of the state folder, too: they are not in it.";

/// Arguments of `firedrill backup`.
#[derive(Debug, clap::Args)]
#[command(after_help = EXAMPLES)]
pub struct Args {
    /// File to write
    #[arg(value_name = "FILE")]
    file: PathBuf,
    #[command(flatten)]
    store: StoreArgs,
}

/// Which store.
#[derive(Debug, clap::Args)]
pub struct StoreArgs {
    /// The store: `postgres://USER:PASSWORD@HOST/DATABASE`, or `sqlite:FILE`
    /// [default: control.db in the state folder]
    #[arg(long, value_name = "URL", env = "FIREDRILL_STORE", hide_env_values = true)]
    store: Option<StoreAddress>,
    #[command(flatten)]
    pub state: State,
}

impl StoreArgs {
    /// Where it is.
    pub fn address(&self) -> StoreAddress {
        self.store.clone().unwrap_or_else(|| StoreAddress::of_state(&self.state.path))
    }
}

/// Writes the file as a whole or not at all.
///
/// # Errors
/// When the store cannot be read, or the file cannot be written.
pub fn run(args: &Args, terminal: &Terminal) -> miette::Result<ExitCode> {
    super::block_on(async {
        let address = args.store.address();
        if let StoreAddress::File(path) = &address
            && !path.is_file()
        {
            return Err(Failure::usage(format!("there is no store at {address}"))
                .help("name its state folder with `--state DIR`, or the store with `--store URL`")
                .into());
        }
        let store = Store::open(&address).await.map_err(failed)?;
        let backup = store.backup().await;
        store.close().await;
        let backup = backup.map_err(failed)?;
        let bytes = serde_json::to_vec(&backup).map_err(|e| Failure::internal(format!("cannot write JSON: {e}")))?;
        replace(&args.file, &bytes).map_err(|e| {
            Failure::usage(format!("cannot write `{}`: {}", args.file.display(), manifests::reason(&e)))
        })?;
        terminal.line(format_args!("{}: revision {} of {address}", args.file.display(), backup.latest()));
        Ok(Exit::Success.into())
    })?
}

/// Manifests may hold what is not everybody's, so only the owner can read it.
fn replace(path: &Path, bytes: &[u8]) -> std::io::Result<()> {
    let mut partial = path.as_os_str().to_owned();
    partial.push(".partial");
    let mut file = OpenOptions::new().write(true).create(true).truncate(true).mode(0o600).open(&partial)?;
    file.write_all(bytes)?;
    file.sync_all()?;
    fs::rename(&partial, path)
}

/// What the store said, for the person who must act.
pub fn failed(error: StoreError) -> Failure {
    match error {
        StoreError::InUse => Failure::usage(error.to_string()).help("stop every control plane of this store first"),
        error => Failure::internal(error.to_string()),
    }
}
