//! `firedrill events`: the merged log of a running mesh.

use std::{process::ExitCode, time::Duration};

use control::{
    api::{LogEntry, Logged},
    client::Client as Control,
};
use serde_json::Value;

use crate::{
    arguments::{Format, State},
    failure::{Exit, Failure},
    terminal::{Terminal, Tone},
};

const EXAMPLES: &str = "\
Examples:
  firedrill events                      what the control plane still remembers
  firedrill events --follow             and what comes, until Ctrl-C
  firedrill events --follow --proxy edge --format json";

/// How long one question to the control plane may wait.
const WAIT: Duration = Duration::from_secs(20);

/// Arguments of `firedrill events`.
#[derive(Debug, clap::Args)]
#[command(after_help = EXAMPLES)]
pub struct Args {
    /// Go on with what comes, until Ctrl-C
    #[arg(long)]
    follow: bool,
    /// Only what this proxy says
    #[arg(long, value_name = "NAME")]
    proxy: Option<String>,
    #[command(flatten)]
    state: State,
    /// How to print them; JSON is one event per line
    #[arg(long, value_enum, default_value = "text", value_name = "text|json", hide_possible_values = true)]
    format: Format,
}

/// Prints events in order.
///
/// # Errors
/// When no mesh runs, or it does not answer.
pub fn run(args: &Args, terminal: &Terminal) -> miette::Result<ExitCode> {
    super::block_on(async {
        let (control, _) = super::get::clients(&args.state.path).await?;
        tokio::select! {
            result = print(args, &control, terminal) => result,
            _ = tokio::signal::ctrl_c() => Ok(()),
        }
    })??;
    Ok(Exit::Success.into())
}

async fn print(args: &Args, control: &Control, terminal: &Terminal) -> Result<(), Failure> {
    let mut after = 0;
    loop {
        let wait = if args.follow && after > 0 { WAIT } else { Duration::ZERO };
        let events = control.events(after, wait).await.map_err(|e| Failure::internal(e.to_string()))?;
        if events.dropped > 0 && after > 0 {
            terminal.note(
                Tone::Warn,
                "note",
                format_args!("{} events were dropped before they could be read", events.dropped),
            );
        }
        let end = events.events.is_empty();
        after = events.next;
        for entry in events.events.iter().filter(|entry| wanted(args, entry)) {
            terminal.line(line(entry, args.format, terminal)?);
        }
        if terminal.closed() || (end && !args.follow) {
            return Ok(());
        }
        if end && after == 0 {
            // Nothing has ever happened: the next question may wait.
            after = 1;
        }
    }
}

fn wanted(args: &Args, entry: &LogEntry) -> bool {
    match (&args.proxy, &entry.what) {
        (None, _) => true,
        (Some(wanted), Logged::Proxy { proxy, .. }) => wanted == proxy,
        (Some(_), Logged::Control(_)) => false,
    }
}

fn line(entry: &LogEntry, format: Format, terminal: &Terminal) -> Result<String, Failure> {
    let unwritable = |e: serde_json::Error| Failure::internal(format!("cannot write an event: {e}"));
    if format == Format::Json {
        return serde_json::to_string(entry).map_err(unwritable);
    }
    let (source, detail) = match &entry.what {
        Logged::Proxy { proxy, event, .. } => (proxy.as_str(), serde_json::to_value(&event.kind).map_err(unwritable)?),
        Logged::Control(event) => ("control", serde_json::to_value(event).map_err(unwritable)?),
    };
    let kind = detail.get("type").and_then(Value::as_str).unwrap_or_default();
    let time = evidence::entry::rfc3339(entry.time.0);
    let time = time.get(11..23).unwrap_or(&time);
    Ok(format!(
        "{} {:<20} {:<18} {}",
        terminal.paint(Tone::Dim, time),
        source,
        terminal.paint(Tone::Strong, kind),
        fields(&detail)
    ))
}

/// `region=east healthy=false cause="connection refused"`.
fn fields(detail: &Value) -> String {
    let Some(fields) = detail.as_object() else { return detail.to_string() };
    let shown = fields.iter().filter(|(name, _)| *name != "type").map(|(name, value)| match value {
        Value::String(text) if !text.contains(' ') => format!("{name}={text}"),
        other => format!("{name}={other}"),
    });
    shown.collect::<Vec<_>>().join(" ")
}
