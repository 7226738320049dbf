//! `firedrill plan`: recovery plans of a running mesh, and the way over and back.

use std::{
    process::ExitCode,
    time::{Duration, Instant},
};

use control::{
    api::{RecoveryReport, RecoveryState},
    client::{Client as Control, ClientError},
};
use evidence::entry::rfc3339;

use crate::{
    arguments::{Format, State},
    failure::{Exit, Failure},
    render::plans,
    terminal::Terminal,
};

const EXAMPLES: &str = "\
Examples:
  firedrill plan list                            where every plan stands, and what it waits for
  firedrill plan show bank-west                  steps, observers, the command that goes on
  firedrill plan run bank-west --reason 'flood in east'
  firedrill plan failback bank-west --wait 5m

Exit codes of run and failback: 0 done; 1 a step failed; 2 no such plan; 4 refused as things stand; 5 no answer; 6 still under
way when `--wait` was over.";

/// Between two looks at a plan that moves.
const LOOK: Duration = Duration::from_millis(200);

/// Arguments of `firedrill plan`.
#[derive(Debug, clap::Args)]
#[command(after_help = EXAMPLES)]
pub struct Args {
    #[command(subcommand)]
    command: Command,
}

/// Subcommands of `firedrill plan`.
#[derive(Debug, clap::Subcommand)]
enum Command {
    /// List every plan: where it stands, what it waits for
    List(Look),
    /// Show one plan: why it stands so, its steps, who sees the primary how
    Show(Show),
    /// Fail a plan over, as its trigger would
    Run(Move),
    /// Fail a plan back to its primary, which must be healthy first
    Failback(Move),
}

#[derive(Debug, clap::Args)]
struct Look {
    #[command(flatten)]
    state: State,
    /// How to print it
    #[arg(long, value_enum, default_value = "text", value_name = "text|json", hide_possible_values = true)]
    format: Format,
}

#[derive(Debug, clap::Args)]
struct Show {
    /// The plan
    #[arg(value_name = "NAME")]
    plan: String,
    #[command(flatten)]
    look: Look,
}

#[derive(Debug, clap::Args)]
struct Move {
    /// The plan
    #[arg(value_name = "NAME")]
    plan: String,
    /// Why; it is in the event log
    #[arg(long, default_value = "commanded with `firedrill plan`")]
    reason: String,
    /// Wait this long for its end; 0s returns at once
    #[arg(long, value_name = "TIME", default_value = "60s", value_parser = model::unit::parse_duration)]
    wait: Duration,
    #[command(flatten)]
    look: Look,
}

/// Which way a plan is moved.
#[derive(Clone, Copy, PartialEq)]
enum Way {
    Over,
    Back,
}

/// Runs the subcommand.
///
/// # Errors
/// When there is no such plan, the control plane refuses, or none answers.
pub fn run(args: &Args, terminal: &Terminal) -> miette::Result<ExitCode> {
    super::block_on(async {
        match &args.command {
            Command::List(look) => list(look, terminal).await,
            Command::Show(show) => self::show(show, terminal).await,
            Command::Run(args) => go(args, Way::Over, terminal).await,
            Command::Failback(args) => go(args, Way::Back, terminal).await,
        }
    })?
}

async fn list(look: &Look, terminal: &Terminal) -> miette::Result<ExitCode> {
    let control = super::apply::client(&look.state.path)?;
    let reports = control.recovery().await.map_err(refused)?;
    if look.format == Format::Json {
        return print(&reports, terminal);
    }
    terminal.write(plans::list(&reports, terminal));
    Ok(Exit::Success.into())
}

async fn show(show: &Show, terminal: &Terminal) -> miette::Result<ExitCode> {
    let control = super::apply::client(&show.look.state.path)?;
    let report = report(&control, &show.plan).await?;
    if show.look.format == Format::Json {
        return print(&report, terminal);
    }
    terminal.write(plans::one(&report, &rfc3339(report.since.0), terminal));
    Ok(Exit::Success.into())
}

/// The plan, as it is now.
async fn report(control: &Control, plan: &str) -> Result<RecoveryReport, Failure> {
    let reports = control.recovery().await.map_err(refused)?;
    let names: Vec<&str> = reports.iter().map(|report| report.plan.as_str()).collect();
    let known = match names[..] {
        [] => "the mesh has no recovery plan".to_owned(),
        _ => format!("there is {}", names.join(", ")),
    };
    let missing = || Failure::usage(format!("there is no recovery plan `{plan}`")).help(known);
    reports.iter().find(|report| report.plan == plan).cloned().ok_or_else(missing)
}

async fn go(args: &Move, way: Way, terminal: &Terminal) -> miette::Result<ExitCode> {
    let control = super::apply::client(&args.look.state.path)?;
    report(&control, &args.plan).await?;
    let commanded = match way {
        Way::Over => control.failover(&args.plan, &args.reason).await,
        Way::Back => control.failback(&args.plan, &args.reason).await,
    };
    let mut now = commanded.map_err(refused)?;
    let until = Instant::now() + args.wait;
    let mut told = String::new();
    loop {
        let exit = outcome(&now, way);
        let line = plans::line(&now);
        if args.look.format == Format::Text && line != told {
            terminal.line(&line);
            told = line;
        }
        let exit = match exit {
            Some(exit) => exit,
            None if args.wait.is_zero() => Exit::Success,
            None if Instant::now() >= until => Exit::Inconclusive,
            None => {
                tokio::time::sleep(LOOK).await;
                // One that does not answer for a moment goes on with the plan.
                match report(&control, &args.plan).await {
                    Ok(report) => now = report,
                    Err(failure) if Instant::now() >= until => return Err(failure.into()),
                    Err(_) => {}
                }
                continue;
            }
        };
        if args.look.format == Format::Json {
            print(&now, terminal)?;
        }
        return Ok(exit.into());
    }
}

/// How the command ends where the plan stands so; `None`: the plan still moves.
fn outcome(report: &RecoveryReport, way: Way) -> Option<Exit> {
    match (report.state, way, &report.failure) {
        (RecoveryState::FailingOver | RecoveryState::FailingBack, ..) => None,
        (RecoveryState::FailedOver, Way::Over, None) | (RecoveryState::Normal, Way::Back, _) => Some(Exit::Success),
        _ => Some(Exit::Failed),
    }
}

fn refused(error: ClientError) -> Failure {
    match &error {
        ClientError::Refused { status: 404, reason, .. } => Failure::usage(reason.clone()),
        ClientError::Refused { reason, .. } => Failure::new(Exit::Refused, reason.clone())
            .help("`firedrill plan show NAME` says where the plan stands, and what goes on"),
        _ => Failure::internal(error.to_string()),
    }
}

fn print(value: &impl serde::Serialize, terminal: &Terminal) -> miette::Result<ExitCode> {
    let text = serde_json::to_string_pretty(value).map_err(|e| Failure::internal(format!("cannot write JSON: {e}")))?;
    terminal.block(text);
    Ok(Exit::Success.into())
}
