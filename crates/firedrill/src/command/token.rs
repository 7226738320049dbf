//! `firedrill token`: join tokens for proxies that the supervisor does not start.

use std::{path::Path, process::ExitCode, time::Duration};

use control::api::TokenRequest;
use serde_json::json;

use super::apply::{client, refused};
use crate::{
    arguments::{Format, State},
    failure::Exit,
    terminal::Terminal,
};

const EXAMPLES: &str = "\
Examples:
  firedrill token create --service ledger
  FIREDRILL_TOKEN=$(firedrill token create --gateway edge) firedrill proxy --name edge ...

A token lets one proxy in, once: it signs the proxy's first certificate, which proves it from then on. `up` makes
one for each proxy that it starts.";

/// Subcommands of `firedrill token`.
#[derive(Debug, clap::Subcommand)]
pub enum Command {
    /// Make a join token for a proxy of a service, or for a gateway, and print it
    #[command(after_help = EXAMPLES)]
    Create(Args),
}

/// Arguments of `firedrill token create`.
#[derive(Debug, clap::Args)]
pub struct Args {
    /// The service whose workload the proxy stands before
    #[arg(long, value_name = "NAME", required_unless_present = "gateway")]
    service: Option<String>,
    /// The gateway that the proxy is
    #[arg(long, value_name = "NAME", conflicts_with = "service")]
    gateway: Option<String>,
    /// The one proxy that may use it (its workload's name) [default: any of the service]
    #[arg(long, value_name = "NAME", conflicts_with = "gateway")]
    proxy: Option<String>,
    /// How long it is good for, 1s to 24h
    #[arg(long, value_name = "TIME", default_value = "10m", value_parser = ttl)]
    ttl: Duration,
    #[command(flatten)]
    state: State,
    /// How to print it
    #[arg(long, value_enum, default_value = "text", value_name = "text|json", hide_possible_values = true)]
    format: Format,
}

fn ttl(text: &str) -> Result<Duration, String> {
    model::unit::parse_duration(text).map_err(|error| error.0.to_owned())
}

/// Prints the token: the only time that anybody sees it.
///
/// # Errors
/// When no control plane runs, or it knows no such service or gateway.
pub fn run(command: &Command, terminal: &Terminal) -> miette::Result<ExitCode> {
    let Command::Create(args) = command;
    super::block_on(create(args, &args.state.path, terminal))?
}

async fn create(args: &Args, state: &Path, terminal: &Terminal) -> miette::Result<ExitCode> {
    let Args { service, gateway, proxy, ttl, .. } = args;
    let ttl_ms = u64::try_from(ttl.as_millis()).unwrap_or(u64::MAX);
    let request = TokenRequest { service: service.clone(), gateway: gateway.clone(), proxy: proxy.clone(), ttl_ms };
    let given = client(state)?.create_token(&request).await.map_err(refused)?;
    match args.format {
        Format::Text => terminal.line(&given.token),
        Format::Json => {
            let expires = evidence::entry::rfc3339(given.expires.0);
            terminal.line(json!({"token": given.token, "expires": expires}));
        }
    }
    Ok(Exit::Success.into())
}
