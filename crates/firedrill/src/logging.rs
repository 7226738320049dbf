//! Log lines: to stderr, `RUST_LOG` decides how many, and a running process can be told otherwise.

use std::{io::IsTerminal, sync::OnceLock};

use tracing_subscriber::{EnvFilter, Registry, layer::SubscriberExt, reload};

static FILTER: OnceLock<reload::Handle<EnvFilter, Registry>> = OnceLock::new();

/// For processes whose log is kept in a file: `info` unless told otherwise.
pub fn to_stderr() {
    set_up("info");
}

/// For commands that talk to people themselves: only what went wrong.
pub fn quietly() {
    set_up("warn");
}

/// The filter in force; empty before there is one.
pub fn filter() -> String {
    FILTER.get().and_then(|filter| filter.with_current(ToString::to_string).ok()).unwrap_or_default()
}

/// Puts another filter into force.
///
/// # Errors
/// A sentence, when it is none.
pub fn set_filter(text: &str) -> Result<(), String> {
    let wrong = |reason: String| format!("`{text}` is no log filter like `debug` or `info,proxy=trace`: {reason}");
    if text.is_empty() {
        return Err(wrong("it is empty".to_owned()));
    }
    let filter = EnvFilter::try_new(text).map_err(|error| wrong(error.to_string()))?;
    let handle = FILTER.get().ok_or("this process writes no log")?;
    handle.reload(filter).map_err(|error| error.to_string())
}

fn set_up(default: &str) {
    let filter = EnvFilter::try_from_default_env().unwrap_or_else(|_| EnvFilter::new(default));
    let (filter, handle) = reload::Layer::new(filter);
    let ansi = std::io::stderr().is_terminal();
    let lines = tracing_subscriber::fmt::layer().with_ansi(ansi).with_writer(std::io::stderr);
    let subscriber = tracing_subscriber::registry().with(filter).with(lines);
    if tracing::subscriber::set_global_default(subscriber).is_err() || FILTER.set(handle).is_err() {
        tracing::debug!("logging was set up before");
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_running_process_can_be_told_otherwise() {
        to_stderr();
        set_filter("proxy=trace,info").unwrap();
        assert_eq!(filter(), "proxy=trace,info");
        for wrong in ["", "proxy=loud", "=info,["] {
            let reason = set_filter(wrong).unwrap_err();
            assert!(reason.starts_with(&format!("`{wrong}` is no log filter")), "{reason}");
        }
        assert_eq!(filter(), "proxy=trace,info");
    }
}
