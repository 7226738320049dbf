//! `firedrill`: the one binary. Commands and wiring, nothing else; the only place where the crates meet.
#![cfg_attr(test, allow(clippy::unwrap_used, clippy::expect_used, clippy::panic))]

mod attach;
mod cli;
mod command;
mod failure;
mod interrupt;
mod logging;
mod manifests;
mod mesh;
mod render;
mod sample;
mod seat;
mod starter;
mod summary;
mod supervisor;
mod terminal;

use std::process::ExitCode;

#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

fn main() -> ExitCode {
    let cli = cli::Cli::read();
    let terminal = cli.terminal();
    cli.run(&terminal).unwrap_or_else(|report| {
        terminal.failure(&report);
        failure::exit_of(&report).into()
    })
}
