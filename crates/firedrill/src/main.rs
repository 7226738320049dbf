//! `firedrill`: the one binary. Commands and wiring, nothing else; the only place where the crates meet.
#![cfg_attr(test, allow(clippy::unwrap_used, clippy::expect_used, clippy::panic))]

mod admissions;
mod allocator;
mod applied;
mod arguments;
mod attach;
mod checkout;
mod cli;
mod command;
mod dataplane;
mod failure;
mod gitops;
mod interrupt;
mod logging;
mod manifests;
mod mesh;
mod programs;
mod render;
mod sample;
mod seat;
mod starter;
mod summary;
mod supervisor;
mod terminal;

use std::{io::Write as _, process::ExitCode};

fn main() -> ExitCode {
    // A defect is said in one line; the exit code tells it from a verdict. Whatever it held lapses or dies with it.
    std::panic::set_hook(Box::new(|defect| {
        // Nobody is left to be told when standard error is closed.
        let _ = writeln!(std::io::stderr(), "error: firedrill has a defect: {defect}");
        std::process::exit(i32::from(failure::Exit::Internal as u8));
    }));
    // Started with the first command of a drill, by whichever process runs one.
    drill::command::guarded_by(&["firedrill", "guard"]);
    raise_descriptors();
    let cli = cli::Cli::read();
    let terminal = cli.terminal();
    cli.run(&terminal).unwrap_or_else(|report| {
        terminal.failure(&report);
        failure::exit_of(&report).into()
    })
}

/// As many files and connections as this process may have: engine, proxies, control plane and supervisor alike. The usual
/// soft limit of 1,024 is there for programs that use select(2), which this one does not.
fn raise_descriptors() {
    use rustix::process::{Resource, getrlimit, setrlimit};
    let mut limit = getrlimit(Resource::Nofile);
    limit.current = limit.maximum;
    // What is refused leaves the limit as it was, which then is the limit.
    let _ = setrlimit(Resource::Nofile, limit);
}
