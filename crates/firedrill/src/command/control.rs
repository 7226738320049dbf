//! `firedrill control`: a control plane.

use std::{net::SocketAddr, process::ExitCode};

use miette::IntoDiagnostic;
use xds::clock::Clock;

use crate::{arguments::State, failure::Failure, logging};

/// Arguments of `firedrill control`.
#[derive(Debug, clap::Args)]
pub struct Args {
    /// Where the API listens (HTTP on loopback); port 0 takes a free one, see run/control.json
    #[arg(long, value_name = "ADDRESS", default_value = "127.0.0.1:7000")]
    api: SocketAddr,
    /// Where proxies connect (ADS: gRPC over TLS)
    #[arg(long, value_name = "ADDRESS", default_value = "127.0.0.1:7001")]
    ads: SocketAddr,
    #[command(flatten)]
    state: State,
}

/// Runs until SIGTERM or SIGINT, then ends in order.
///
/// # Errors
/// When it cannot be started, or one of its parts failed.
pub fn run(args: Args) -> miette::Result<ExitCode> {
    logging::to_stderr();
    let options =
        control::Options { state_dir: args.state.path, api: args.api, ads: args.ads, clock: Clock::anchored() };
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build();
    runtime.into_diagnostic()?.block_on(async {
        let mut stop = super::Stop::new()?;
        let ran = control::run(options, async move { stop.asked().await }).await;
        ran.map_err(|error| Failure::internal(error.to_string()))?;
        Ok(ExitCode::SUCCESS)
    })
}
