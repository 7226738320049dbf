//! `make bench`: what a proxy of Firedrill costs, how it fails over, and what it holds in memory, beside the other proxies
//! that this machine has, in the same run. `docs/benchmarks.md` says how to read it.
#![cfg_attr(test, allow(clippy::unwrap_used, clippy::expect_used, clippy::panic))]

mod certificates;
mod control;
mod cost;
mod failover;
mod failure;
mod machine;
mod memory;
mod peer;
mod probe;
mod process;
mod rendered;
mod scale;
mod settings;
mod stats;
mod table;

use std::process::ExitCode;

use failure::Failure;
use settings::{Part, Settings};

fn main() -> ExitCode {
    match run() {
        Ok(()) => ExitCode::SUCCESS,
        Err(failure) => {
            eprintln!("error: {failure}");
            ExitCode::FAILURE
        }
    }
}

fn run() -> Result<(), Failure> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().map_err(Failure::io("runtime"))?;
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    if let Some(("origin", arguments)) = arguments.split_first().map(|(word, rest)| (word.as_str(), rest)) {
        return runtime.block_on(failover::origin::run(arguments));
    }
    let settings = Settings::read()?;
    machine::pin_to(machine::LOAD_CORE)?;
    let _precedence = machine::Precedence::take();
    println!("# {}", machine::described());
    runtime.block_on(async {
        let interrupted = tokio::signal::ctrl_c();
        tokio::select! {
            result = parts(&settings) => result,
            _ = interrupted => Err(Failure::Interrupted),
        }
    })
}

async fn parts(settings: &Settings) -> Result<(), Failure> {
    for part in &settings.parts {
        match part {
            Part::Cost(variant) => cost::run(settings, *variant).await?,
            Part::Failover => failover::run(&settings.failover).await?,
            Part::Memory => memory::run(settings.churn).await?,
            Part::Control => control::run().await?,
            Part::Scale => scale::run(settings).await?,
        }
    }
    Ok(())
}
