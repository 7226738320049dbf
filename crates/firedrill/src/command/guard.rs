//! `firedrill guard`: kills what a supervisor leaves behind when it dies without a chance to clean up.
//!
//! The parent-death signal reaches the supervisor's children, not *their* children (`sh -c`, worker processes). This
//! process knows the process group of every child, and lives until its standard input ends, which the kernel sees to
//! when the supervisor dies.

use std::{collections::BTreeSet, io::BufRead, process::ExitCode};

use rustix::process::{Pid, Signal, kill_process_group};

/// Arguments of `firedrill guard`.
#[derive(Debug, clap::Args)]
pub struct Args {}

/// Reads `+<group>` and `-<group>` lines until the end of input, then kills the groups that are left.
///
/// # Errors
/// Never: what cannot be read ends the input.
pub fn run(_: &Args) -> miette::Result<ExitCode> {
    let mut groups = BTreeSet::new();
    for line in std::io::stdin().lock().lines().map_while(Result::ok) {
        // Never 0 or 1: those would be this process's own group, or everybody.
        let group = |text: &str| text.parse().ok().filter(|raw: &i32| *raw > 1).and_then(Pid::from_raw);
        if let Some(group) = line.strip_prefix('+').and_then(group) {
            groups.insert(group.as_raw_pid());
        } else if let Some(group) = line.strip_prefix('-').and_then(group) {
            groups.remove(&group.as_raw_pid());
        }
    }
    for group in groups.into_iter().filter_map(Pid::from_raw) {
        // Gone already is what was wanted.
        if let Err(error) = kill_process_group(group, Signal::KILL)
            && error != rustix::io::Errno::SRCH
        {
            eprintln!("cannot kill process group {}: {error}", group.as_raw_pid());
        }
    }
    Ok(ExitCode::SUCCESS)
}
