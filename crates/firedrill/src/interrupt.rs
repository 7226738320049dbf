//! SIGINT and SIGTERM: the first asks to stop, the second ends the process at once.

use tokio::signal::unix::{Signal, SignalKind, signal};

use crate::failure::Failure;

/// Both signals.
#[derive(Debug)]
pub struct Interrupts {
    interrupt: Signal,
    terminate: Signal,
}

impl Interrupts {
    /// From now on the signals do not end the process by themselves.
    ///
    /// # Errors
    /// When the handlers cannot be installed.
    pub fn new() -> Result<Self, Failure> {
        let on = |kind| signal(kind).map_err(|e| Failure::internal(format!("cannot listen for signals: {e}")));
        Ok(Self { interrupt: on(SignalKind::interrupt())?, terminate: on(SignalKind::terminate())? })
    }

    /// Waits for one; its name.
    pub async fn next(&mut self) -> &'static str {
        tokio::select! {
            _ = self.interrupt.recv() => "Ctrl-C",
            _ = self.terminate.recv() => "SIGTERM",
        }
    }
}
