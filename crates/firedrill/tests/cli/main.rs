//! The command line as a user sees it: help, diagnostics, exit codes. No mesh runs here.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

mod apply;
mod backup;
mod check;
mod docs;
mod everyday;
mod evidence;
mod help;
mod hidden;
mod hostile;
mod output;
mod setup;

use std::{
    path::Path,
    process::{Command, Stdio},
};

/// What a run of the binary left.
#[derive(Debug)]
struct Ran {
    code: i32,
    out: String,
    err: String,
}

/// A command in a folder, with an environment that does not decide anything.
fn command(folder: &Path, arguments: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_firedrill"));
    command.args(arguments).current_dir(folder).stdin(Stdio::null());
    for name in ["NO_COLOR", "CLICOLOR_FORCE", "FORCE_COLOR", "COLUMNS", "RUST_LOG"] {
        command.env_remove(name);
    }
    command
}

fn run(folder: &Path, arguments: &[&str]) -> Ran {
    let output = command(folder, arguments).output().unwrap();
    Ran {
        code: output.status.code().unwrap(),
        out: String::from_utf8(output.stdout).unwrap(),
        err: String::from_utf8(output.stderr).unwrap(),
    }
}

/// Command, exit code, and both streams, as a snapshot shows them.
fn transcript(folder: &Path, arguments: &[&str]) -> String {
    let ran = run(folder, arguments);
    let mut text = format!("$ firedrill {}\n{}", arguments.join(" "), ran.out);
    if !ran.err.is_empty() {
        text.push_str(&format!("[stderr]\n{}", ran.err));
    }
    text.push_str(&format!("[exit {}]\n", ran.code));
    text
}
