//! `firedrill completion`: the completion script of a shell.

use std::process::ExitCode;

use clap_complete::Shell;

use crate::{failure::Exit, terminal::Terminal};

const EXAMPLES: &str = "\
Examples:
  source <(firedrill completion bash)
  firedrill completion bash > /etc/bash_completion.d/firedrill
  firedrill completion zsh  > \"${fpath[1]}/_firedrill\"
  firedrill completion fish > ~/.config/fish/completions/firedrill.fish";

/// Arguments of `firedrill completion`.
#[derive(Debug, clap::Args)]
#[command(after_help = EXAMPLES)]
pub struct Args {
    /// The shell
    #[arg(value_enum)]
    shell: Shell,
}

/// Prints the script.
///
/// # Errors
/// None.
pub fn run(args: &Args, mut program: clap::Command, terminal: &Terminal) -> miette::Result<ExitCode> {
    let mut script = Vec::new();
    clap_complete::generate(args.shell, &mut program, "firedrill", &mut script);
    terminal.write(String::from_utf8_lossy(&script));
    Ok(Exit::Success.into())
}
