//! Log lines: to stderr, `RUST_LOG` decides how many.

use std::io::IsTerminal;

use tracing_subscriber::EnvFilter;

/// For processes whose log is kept in a file: `info` unless told otherwise.
pub fn to_stderr() {
    set_up("info");
}

/// For commands that talk to people themselves: only what went wrong.
pub fn quietly() {
    set_up("warn");
}

fn set_up(default: &str) {
    let filter = EnvFilter::try_from_default_env().unwrap_or_else(|_| EnvFilter::new(default));
    let ansi = std::io::stderr().is_terminal();
    let subscriber = tracing_subscriber::fmt().with_env_filter(filter).with_ansi(ansi).with_writer(std::io::stderr);
    if tracing::subscriber::set_global_default(subscriber.finish()).is_err() {
        tracing::debug!("logging was set up before");
    }
}
