//! The command line.

use std::process::ExitCode;

use clap::{Parser, Subcommand};

use crate::command;

/// Exit code: usage or invalid manifest.
pub const USAGE: u8 = 2;
/// Exit code: crashed or internal.
pub const INTERNAL: u8 = 5;

/// A service mesh that proves disaster recovery works.
#[derive(Debug, Parser)]
#[command(name = "firedrill", version, propagate_version = true)]
pub struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Start the mesh of the manifests with its workloads on this machine, until Ctrl-C.
    Up(command::up::Args),
    /// Run a control plane.
    Control(command::control::Args),
    /// Run one proxy: a sidecar or a gateway.
    Proxy(command::proxy::Args),
    /// Run a sample workload, or promote a sample ledger.
    Sample(command::sample::Args),
    /// Start a command that dies with its parent.
    #[command(hide = true)]
    Exec(command::exec::Args),
}

/// Runs the command.
///
/// # Errors
/// What went wrong, for the person who must act.
pub fn run(cli: Cli) -> miette::Result<ExitCode> {
    match cli.command {
        Command::Up(args) => command::up::run(args),
        Command::Control(args) => command::control::run(args),
        Command::Proxy(args) => command::proxy::run(args),
        Command::Sample(args) => command::sample::run(args),
        Command::Exec(args) => command::exec::run(&args),
    }
}
