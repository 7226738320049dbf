//! `firedrill control`: a control plane.

use std::{net::SocketAddr, path::PathBuf, process::ExitCode};

use control::store::StoreAddress;
use miette::IntoDiagnostic;
use xds::clock::Clock;

use crate::{admissions, arguments::State, failure::Failure, gitops, logging};

/// Arguments of `firedrill control`.
#[derive(Debug, clap::Args)]
pub struct Args {
    /// Where the API listens (HTTP on loopback); port 0 takes a free one, see run/control.json
    #[arg(long, value_name = "ADDRESS", default_value = "127.0.0.1:7000")]
    api: SocketAddr,
    /// Where proxies connect (ADS: gRPC over TLS)
    #[arg(long, value_name = "ADDRESS", default_value = "127.0.0.1:7001")]
    ads: SocketAddr,
    /// Where meshes that are federated with this one ask for its trust bundle (HTTPS) [default: nowhere]
    #[arg(long, value_name = "ADDRESS")]
    bundle: Option<SocketAddr>,
    /// Where revisions are kept: `postgres://USER:PASSWORD@HOST/DATABASE`, or `sqlite:FILE`
    /// [default: control.db in the state folder]
    #[arg(long, value_name = "URL", env = "FIREDRILL_STORE", hide_env_values = true)]
    store: Option<StoreAddress>,
    /// Watch the manifests of a folder or Git checkout, and put every change (commit) in force
    #[arg(long, value_name = "DIR")]
    gitops: Option<PathBuf>,
    #[command(flatten)]
    state: State,
}

/// Runs until SIGTERM or SIGINT, then ends in order.
///
/// # Errors
/// When it cannot be started, or one of its parts failed.
pub fn run(args: Args) -> miette::Result<ExitCode> {
    logging::to_stderr();
    let state = args.state.path;
    let options = control::Options {
        store: args.store.unwrap_or_else(|| StoreAddress::of_state(&state)),
        state_dir: state.clone(),
        api: args.api,
        ads: args.ads,
        bundle: args.bundle,
        clock: Clock::anchored(),
    };
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build();
    runtime.into_diagnostic()?.block_on(async {
        let mut stop = super::Stop::new()?;
        tokio::spawn(admissions::record(state.clone()));
        if let Some(folder) = args.gitops {
            tokio::spawn(gitops::watch(folder, state));
        }
        let ran = control::run(options, async move { stop.asked().await }).await;
        ran.map_err(|error| Failure::internal(error.to_string()))?;
        Ok(ExitCode::SUCCESS)
    })
}
