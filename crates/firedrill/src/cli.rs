//! The command line: what can be asked, and which module answers.

use std::process::ExitCode;

use clap::{CommandFactory as _, FromArgMatches as _, Parser, Subcommand};

use crate::{
    command,
    terminal::{Terminal, When},
};

const ABOUT: &str = "\
Firedrill is a service mesh that proves disaster recovery works.

It runs the traffic (control plane and sidecar proxies), moves it when a region dies, sets the
region on fire on purpose while real requests flow, measures from the client's side what was lost
and for how long, and seals what happened into evidence that anyone can check offline.";

const AFTER: &str = "\
Start here:
  firedrill demo                          a live drill on a sample bank in two regions, one minute
  firedrill init                          a first manifest for services that you already run
  firedrill check                         is it valid, and what does it say
  firedrill drill run lose-east           the drill
  firedrill evidence verify out/lose-east-1.drill

Exit codes:
  0  passed, or done
  1  an objective was missed, or verification left a doubt
  2  wrong usage, or an invalid manifest
  3  the drill was aborted
  4  the drill was refused before any fault
  5  crashed, or an internal error
  6  inconclusive: measured too close to the objective to say";

/// The command line of `firedrill`.
#[derive(Debug, Parser)]
#[command(name = "firedrill", version, propagate_version = true, about = ABOUT, after_help = AFTER)]
#[command(subcommand_required = true, arg_required_else_help = true)]
pub struct Cli {
    /// When to colour the output
    #[arg(long, global = true, value_enum, value_name = "WHEN", default_value = "auto", hide_possible_values = true)]
    #[arg(help = "Colour the output: auto (on a terminal, unless NO_COLOR is set), always, never")]
    color: When,
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Run a live fire drill on a sample bank: two regions, real processes, one minute
    Demo(command::demo::Args),
    /// Write a commented first manifest for services that you already run
    Init(command::init::Args),
    /// Validate manifests: every problem at once, with its place and how to mend it
    Check(command::check::Args),
    /// Print the JSON Schema of the manifests, for editors and validators
    Schema(command::schema::Args),
    /// Start the mesh of the manifests with its workloads on this machine, until Ctrl-C
    Up(command::up::Args),
    /// End the running mesh, as Ctrl-C at `up` does
    Down(command::down::Args),
    /// Print what a process of the mesh wrote to its log
    Logs(command::logs::Args),
    /// Put manifests in force in a running mesh, and show what changes
    Apply(command::apply::Args),
    /// List the revisions of the configuration: who applied what, when, why
    History(command::history::Args),
    /// Show what two revisions say differently
    Diff(command::diff::Args),
    /// Put an old revision in force again
    Rollback(command::rollback::Args),
    /// Write all that the control plane's store holds to a file
    Backup(command::backup::Args),
    /// Make a store of a backup
    Restore(command::restore::Args),
    /// Run a drill; list, show or abort drills
    #[command(subcommand)]
    Drill(command::drill::Command),
    /// List outstanding undo commands of drills; run one again, or confirm that it is done
    #[command(subcommand)]
    Undo(command::undo::Command),
    /// List or show recovery plans; fail one over or back
    Plan(command::plan::Args),
    /// Verify or show a sealed evidence bundle, offline
    #[command(subcommand)]
    Evidence(command::evidence::Command),
    /// Show what runs, which drill is under way, and which undos are outstanding
    Status(command::status::Args),
    /// List what a running mesh consists of: proxies, services, leases, recovery
    Get(command::get::Args),
    /// Show the merged event log of a running mesh
    Events(command::events::Args),
    /// Run a control plane (`up` starts one by itself)
    Control(command::control::Args),
    /// Run one proxy: a sidecar or a gateway (`up` starts them by itself)
    Proxy(Box<command::proxy::Args>),
    /// Write what a stock Envoy needs to be a proxy of the running mesh
    Render(command::render::Args),
    /// Make join tokens for proxies that are started by hand
    #[command(subcommand)]
    Token(command::token::Command),
    /// Show or rotate the mesh's certificate authority
    #[command(subcommand)]
    Ca(command::ca::Command),
    /// Run a workload of the sample bank, or promote its ledger
    Sample(command::sample::Args),
    /// Print the completion script of a shell
    Completion(command::completion::Args),
    /// Start a command that dies with its parent.
    #[command(hide = true)]
    Exec(command::exec::Args),
    /// Kill what a supervisor leaves behind.
    #[command(hide = true)]
    Guard(command::guard::Args),
}

impl Cli {
    /// Reads the command line. Help, version and usage errors end the process, as clap does.
    pub fn read() -> Self {
        // Colours are decided before parsing, because help and usage errors are coloured too.
        let arguments: Vec<_> = std::env::args_os().collect();
        let color = match color_asked(&arguments) {
            When::Auto => clap::ColorChoice::Auto,
            When::Always => clap::ColorChoice::Always,
            When::Never => clap::ColorChoice::Never,
        };
        let matches = Self::command().color(color).get_matches_from(arguments);
        Self::from_arg_matches(&matches).unwrap_or_else(|error| error.exit())
    }

    /// Where to print to.
    pub fn terminal(&self) -> Terminal {
        Terminal::new(self.color)
    }

    /// Runs the command.
    ///
    /// # Errors
    /// What went wrong, for the person who must act.
    pub fn run(self, terminal: &Terminal) -> miette::Result<ExitCode> {
        // Long-running parts of a mesh write secrets, and what they know of requests.
        if matches!(self.command, Command::Up(_) | Command::Control(_) | Command::Proxy(_)) {
            crate::supervisor::keep_files_private();
        }
        match self.command {
            Command::Demo(args) => command::demo::run(&args, terminal),
            Command::Init(args) => command::init::run(&args, terminal),
            Command::Check(args) => command::check::run(&args, terminal),
            Command::Schema(args) => command::schema::run(&args, terminal),
            Command::Up(args) => command::up::run(&args, terminal),
            Command::Down(args) => command::down::run(&args, terminal),
            Command::Logs(args) => command::logs::run(&args, terminal),
            Command::Apply(args) => command::apply::run(&args, terminal),
            Command::History(args) => command::history::run(&args, terminal),
            Command::Diff(args) => command::diff::run(&args, terminal),
            Command::Rollback(args) => command::rollback::run(&args, terminal),
            Command::Backup(args) => command::backup::run(&args, terminal),
            Command::Restore(args) => command::restore::run(&args, terminal),
            Command::Drill(command) => command::drill::run(&command, terminal),
            Command::Plan(args) => command::plan::run(&args, terminal),
            Command::Evidence(command) => command::evidence::run(&command, terminal),
            Command::Undo(command) => command::undo::run(&command, terminal),
            Command::Status(args) => command::status::run(&args, terminal),
            Command::Get(args) => command::get::run(&args, terminal),
            Command::Events(args) => command::events::run(&args, terminal),
            Command::Control(args) => command::control::run(args),
            Command::Proxy(args) => command::proxy::run(*args),
            Command::Render(args) => command::render::run(&args, terminal),
            Command::Token(command) => command::token::run(&command, terminal),
            Command::Ca(command) => command::ca::run(&command, terminal),
            Command::Sample(args) => command::sample::run(args),
            Command::Completion(args) => command::completion::run(&args, Cli::command(), terminal),
            Command::Exec(args) => command::exec::run(&args),
            Command::Guard(args) => command::guard::run(&args),
        }
    }
}

fn color_asked(arguments: &[std::ffi::OsString]) -> When {
    let asked = arguments.iter().enumerate().find_map(|(at, argument)| {
        let text = argument.to_str()?;
        match text.strip_prefix("--color")? {
            "" => arguments.get(at + 1)?.to_str(),
            rest => rest.strip_prefix('='),
        }
    });
    match asked {
        Some("always") => When::Always,
        Some("never") => When::Never,
        _ => When::Auto,
    }
}

#[cfg(test)]
#[path = "cli_tests.rs"]
mod tests;
