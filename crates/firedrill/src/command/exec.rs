//! `firedrill exec -- command…`: becomes the command, tied to the life of the process that started it.
//!
//! The supervisor starts every child through this shim: the parent-death signal must be set in the child itself, and
//! doing it here, in an ordinary process, needs no code between `fork` and `exec`.

use std::{
    os::unix::process::CommandExt,
    process::{Command, ExitCode},
};

use rustix::process::{Pid, Signal, getppid, set_parent_process_death_signal};

/// Arguments of `firedrill exec`.
#[derive(Debug, clap::Args)]
pub struct Args {
    /// Process id of the parent; without it as parent, nothing is started.
    #[arg(long)]
    parent: i32,
    /// Mask of the files that it makes (octal); the one of this process if none is given.
    #[arg(long, value_parser = mask)]
    umask: Option<u32>,
    /// The command with its arguments.
    #[arg(last = true, required = true)]
    command: Vec<std::ffi::OsString>,
}

fn mask(text: &str) -> Result<u32, String> {
    u32::from_str_radix(text, 8).ok().filter(|mask| *mask <= 0o777).ok_or_else(|| "an octal mask is needed".to_owned())
}

/// Asks the kernel to kill this process when the thread that started it ends, then becomes the command.
///
/// # Errors
/// When the signal cannot be set, the parent is gone already, or the command cannot be started.
pub fn run(args: &Args) -> miette::Result<ExitCode> {
    set_parent_process_death_signal(Some(Signal::KILL))
        .map_err(|e| miette::miette!("cannot ask for the parent-death signal: {e}"))?;
    // The parent may have died before the request was in force; then nobody would ever send the signal.
    if getppid().map(Pid::as_raw_pid) != Some(args.parent) {
        return Err(miette::miette!("the process that asked for this command is gone"));
    }
    if let Some(mask) = args.umask {
        rustix::process::umask(rustix::fs::Mode::from_raw_mode(mask));
    }
    let Some((program, arguments)) = args.command.split_first() else {
        return Err(miette::miette!("no command given"));
    };
    let file = program.to_str().map_or(program.as_os_str(), |word| model::program(word).as_ref());
    let error = Command::new(file).arg0(program).args(arguments).exec();
    Err(miette::miette!("cannot start `{}`: {error}", program.display()))
}
