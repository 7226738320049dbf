//! Log lines of the long-running commands: to stderr, `RUST_LOG` decides how many (default `info`).

use std::io::IsTerminal;

use tracing_subscriber::EnvFilter;

/// Sets the process's logging up. Colours only on a terminal.
pub fn to_stderr() {
    let filter = EnvFilter::try_from_default_env().unwrap_or_else(|_| EnvFilter::new("info"));
    let ansi = std::io::stderr().is_terminal();
    let subscriber = tracing_subscriber::fmt().with_env_filter(filter).with_ansi(ansi).with_writer(std::io::stderr);
    if subscriber.try_init().is_err() {
        tracing::debug!("logging was set up before");
    }
}
