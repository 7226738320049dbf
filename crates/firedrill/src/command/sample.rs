//! `firedrill sample`: the workloads of the demo.

use std::process::ExitCode;

use clap::Subcommand;
use miette::IntoDiagnostic;

use crate::sample::{self, SampleError, Workload};

/// Arguments of `firedrill sample`.
#[derive(Debug, clap::Args)]
pub struct Args {
    #[command(subcommand)]
    sample: Sample,
}

#[derive(Debug, Subcommand)]
enum Sample {
    /// What customers talk to; calls ledger and fx.
    Accounts,
    /// Keeps payments; one region writes, the others copy.
    Ledger(sample::ledger::LedgerArgs),
    /// Exchange rates.
    Fx,
    /// Make the ledger of this region the primary (FIREDRILL_ENDPOINTS_<SERVICE> names it).
    Promote {
        /// The service to promote.
        #[arg(default_value = "ledger")]
        service: String,
        /// The region whose instance is promoted (FIREDRILL_ENDPOINTS_<SERVICE>_IN_<REGION> names it).
        #[arg(long)]
        region: Option<String>,
    },
}

/// Runs until told to stop; `promote` ends by itself.
///
/// # Errors
/// When the workload cannot run.
pub fn run(args: Args) -> miette::Result<ExitCode> {
    crate::logging::to_stderr();
    // One thread: a sample is one small process of many on the same machine.
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().into_diagnostic()?;
    let done: Result<(), SampleError> = runtime.block_on(async {
        match args.sample {
            Sample::Accounts => sample::accounts::run(Workload::from_env()?).await,
            Sample::Ledger(arguments) => sample::ledger::run(Workload::from_env()?, arguments).await,
            Sample::Fx => sample::fx::run(Workload::from_env()?).await,
            Sample::Promote { service, region } => {
                println!("{}", sample::promote::run(&service, region.as_deref()).await?);
                Ok(())
            }
        }
    });
    match done {
        Ok(()) => Ok(ExitCode::SUCCESS),
        Err(error @ SampleError::Promotion(_)) => {
            eprintln!("{error}");
            Ok(ExitCode::FAILURE)
        }
        Err(error) => Err(miette::miette!("{error}")),
    }
}
