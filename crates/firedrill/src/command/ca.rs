//! `firedrill ca`: the mesh's authority on this machine.

use std::{
    path::{Path, PathBuf},
    process::ExitCode,
    time::Duration,
};

use control::{
    bundle,
    ca::{self, CaError, Described, Folder, Rotation, Step},
};
use evidence::{entry::rfc3339, ledger::Ledger};
use serde_json::json;
use xds::clock::Clock;

use super::apply::{client, refused};
use crate::{
    arguments::{Format, State},
    failure::{Exit, Failure},
    render::table::{Cell, table},
    terminal::Terminal,
};

/// Kind of the ledger's entries.
const ROTATED: &str = "authorityRotated";

const EXAMPLES: &str = "\
Examples:
  firedrill ca export-root /media/safe/root.key            the root's key leaves this machine
  firedrill ca rotate --root-key /media/safe/root.key      another intermediate; nobody is cut off
  firedrill ca rotate --root                               another root: the next of three steps
  firedrill ca rotate --root --now                         the next step at once: the old root was stolen

A root is replaced in three steps, with one life of a certificate between them, so that nobody is cut off: both roots are
trusted, the new one signs, the old one is trusted no more. `ca show` tells how far it is.";

/// Subcommands of `firedrill ca`.
#[derive(Debug, clap::Subcommand)]
pub enum Command {
    /// Show roots and intermediate, and how far a rotation is
    Show(Show),
    /// Print the trust bundle, for meshes that are federated with this one
    Bundle(Bundle),
    /// Replace the intermediate, or take the next step of replacing the root
    #[command(after_help = EXAMPLES)]
    Rotate(Rotate),
    /// Move the root's key to a file elsewhere
    ExportRoot(ExportRoot),
}

/// Arguments of `firedrill ca show`.
#[derive(Debug, clap::Args)]
pub struct Show {
    #[command(flatten)]
    state: State,
    /// How to print it
    #[arg(long, value_enum, default_value = "text", value_name = "text|json", hide_possible_values = true)]
    format: Format,
}

/// Arguments of `firedrill ca bundle`.
#[derive(Debug, clap::Args)]
pub struct Bundle {
    #[command(flatten)]
    state: State,
    /// How to print it: a SPIFFE bundle, or certificates
    #[arg(long, value_enum, default_value = "spiffe", value_name = "spiffe|pem", hide_possible_values = true)]
    format: BundleFormat,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
enum BundleFormat {
    Spiffe,
    Pem,
}

/// Arguments of `firedrill ca rotate`.
#[derive(Debug, clap::Args)]
pub struct Rotate {
    /// Replace the root: its next step
    #[arg(long)]
    root: bool,
    /// The root's key, if it is not in the state folder
    #[arg(long, value_name = "FILE", conflicts_with = "root")]
    root_key: Option<PathBuf>,
    /// Do not wait until nobody is cut off by the step
    #[arg(long, requires = "root")]
    now: bool,
    #[command(flatten)]
    state: State,
}

/// Arguments of `firedrill ca export-root`.
#[derive(Debug, clap::Args)]
pub struct ExportRoot {
    /// Where to; nothing may be there
    #[arg(value_name = "FILE")]
    file: PathBuf,
    #[command(flatten)]
    state: State,
}

/// Does it.
///
/// # Errors
/// When the authority cannot be read or changed, or a step would cut somebody off.
pub fn run(command: &Command, terminal: &Terminal) -> miette::Result<ExitCode> {
    match command {
        Command::Show(args) => show(args, terminal)?,
        Command::Bundle(args) => print_bundle(args, terminal)?,
        Command::Rotate(args) => rotate(args, terminal)?,
        Command::ExportRoot(args) => {
            folder(&args.state)?.take_root_key(&args.file).map_err(failed)?;
            terminal.line(format_args!("the root's key is in {} only", args.file.display()));
        }
    }
    Ok(Exit::Success.into())
}

fn folder(state: &State) -> Result<Folder, Failure> {
    if !state.path.join("ca").is_dir() {
        return Err(Failure::usage(format!("no mesh ever ran with state folder `{}`", state.path.display()))
            .help("name its state folder with `--state DIR`"));
    }
    Ok(Folder::of(&state.path, Clock::anchored()))
}

fn failed(error: CaError) -> Failure {
    Failure::usage(error.to_string())
}

fn show(args: &Show, terminal: &Terminal) -> Result<(), Failure> {
    let folder = folder(&args.state)?;
    let row = |what: &str, one: &Described| -> Vec<Cell> {
        let short = one.fingerprint.chars().take(16).collect::<String>();
        vec![what.to_owned().into(), one.name.clone().into(), short.into(), rfc3339(one.ends.0).into()]
    };
    let titles = ["WHAT", "NAME", "SHA-256", "ENDS"];
    if let Some(issued) = bundle::issued(&args.state.path).map_err(Failure::usage)? {
        let roots = ca::describe_all(&issued).map_err(Failure::usage)?;
        if args.format == Format::Json {
            terminal.block(format_args!("{:#}", json!({"issuedElsewhere": true, "roots": roots})));
            return Ok(());
        }
        if roots.is_empty() {
            terminal.line("no roots have come yet; `firedrill get trust` tells why");
        } else {
            let rows: Vec<_> = roots.iter().map(|root| row("root", root)).collect();
            terminal.write(table(&titles, &rows, terminal));
        }
        terminal.line(
            "certificates are issued elsewhere (`identity` of the Mesh): the authority here signs nothing, and nobody trusts it",
        );
        return Ok(());
    }
    let (roots, intermediate) = folder.describe().map_err(failed)?;
    let rotation = folder.rotation().map_err(failed)?;
    if args.format == Format::Json {
        let report = json!({
            "issuedElsewhere": false,
            "roots": roots,
            "intermediate": intermediate,
            "rootKeyHere": folder.has_root_key(),
            "rotation": rotation,
        });
        terminal.block(format_args!("{report:#}"));
        return Ok(());
    }
    let rows: Vec<_> = roots.iter().map(|root| row("root", root)).chain([row("intermediate", &intermediate)]).collect();
    terminal.write(table(&titles, &rows, terminal));
    terminal.line(match rotation {
        None => "no rotation of the root is under way",
        Some(Rotation { step: Step::Spread, .. }) => {
            "rotation of the root, step 1 of 3: both are trusted, the old signs"
        }
        Some(Rotation { step: Step::Switched, .. }) => {
            "rotation of the root, step 2 of 3: both are trusted, the new signs"
        }
    });
    Ok(())
}

fn print_bundle(args: &Bundle, terminal: &Terminal) -> Result<(), Failure> {
    folder(&args.state)?;
    // When to ask again is for an endpoint to say.
    let bundle = bundle::own(&args.state.path, None).map_err(Failure::usage)?;
    match args.format {
        BundleFormat::Spiffe => terminal.block(bundle.json().map_err(Failure::usage)?),
        BundleFormat::Pem => terminal.write(bundle.pem()),
    }
    Ok(())
}

fn rotate(args: &Rotate, terminal: &Terminal) -> miette::Result<()> {
    let (folder, state) = (folder(&args.state)?, args.state.path.as_path());
    if bundle::issued(state).map_err(Failure::usage)?.is_some() {
        let text =
            "certificates of this mesh are issued elsewhere (`identity` of the Mesh): the authority here signs nothing";
        return Err(Failure::usage(text)
            .help("replace roots and certificates where they are issued; docs/identity.md says in which order")
            .into());
    }
    if !args.root {
        folder.renew_intermediate(args.root_key.as_deref()).map_err(failed)?;
        record(state, "intermediate", &folder)?;
        terminal.line("certificates are signed by a new intermediate from now on");
        return Ok(());
    }
    let rotation = folder.rotation().map_err(failed)?;
    if let Some(rotation) = rotation.filter(|_| !args.now) {
        super::block_on(wait(state, rotation))??;
    }
    let (step, said) = match rotation.map(|rotation| rotation.step) {
        None => {
            folder.spread().map_err(failed)?;
            (
                "spread",
                "step 1 of 3: both roots are trusted, and the old one signs. Run this again in one life of a certificate",
            )
        }
        Some(Step::Spread) => {
            folder.switch().map_err(failed)?;
            ("switch", "step 2 of 3: the new root signs. Run this again in one life of a certificate")
        }
        Some(Step::Switched) => {
            folder.finish().map_err(failed)?;
            ("finish", "step 3 of 3: the old root is trusted no more")
        }
    };
    record(state, step, &folder)?;
    terminal.line(said);
    Ok(())
}

/// Whether the next step cuts nobody off: every certificate is one that was signed after the last step, and every proxy has
/// what is in force.
async fn wait(state: &Path, rotation: Rotation) -> miette::Result<()> {
    let control = client(state)?;
    let revision = control.config().await.map_err(refused)?;
    let sources = revision.files.into_iter().map(|file| model::Source { path: file.path, text: file.text });
    let config = model::parse(&sources.collect::<Vec<_>>()).map_err(|problems| {
        Failure::internal(format!("the manifests in force have {} problem(s); run the same version", problems.len()))
    })?;
    let life = config.config.mesh.certificate_lifetime;
    let over = Clock::anchored().now().0.saturating_sub(rotation.since.0);
    let left = life.saturating_sub(Duration::from_nanos(u64::try_from(over).unwrap_or(0)));
    if !left.is_zero() {
        let text = format!("certificates of before the last step last for another {} s", left.as_secs() + 1);
        return Err(Failure::usage(text).help("wait, or cut off who has none of the new with `--now`").into());
    }
    let proxies = control.proxies().await.map_err(refused)?;
    let behind: Vec<&str> = proxies.iter().filter(|proxy| !proxy.in_sync).map(|proxy| proxy.name.as_str()).collect();
    if !behind.is_empty() {
        return Err(Failure::usage(format!("these proxies do not have what is in force: {}", behind.join(", ")))
            .help("look at `firedrill get proxies`; cut them off with `--now`")
            .into());
    }
    Ok(())
}

fn record(state: &Path, step: &str, folder: &Folder) -> Result<(), Failure> {
    let (roots, intermediate) = folder.describe().map_err(failed)?;
    let body = json!({"step": step, "roots": roots, "intermediate": intermediate});
    let write = || Ledger::open(&state.join("ledger"))?.append(ROTATED, Clock::anchored().now().0, body);
    write().map(drop).map_err(|error| Failure::internal(format!("it is done, but not in the ledger: {error}")))
}
