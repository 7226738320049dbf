//! The drill engine: an attempt's life, faults, probes, guards, timeline.
//!
//! It sees the mesh only through [`target::Target`]. What is done when is decided by a pure state machine (`life`), fed
//! with time and events by a thin shell.

#![cfg_attr(test, allow(clippy::unwrap_used, clippy::expect_used, clippy::panic))]

pub mod clock;
pub mod command;
mod conduct;
mod context;
mod crash;
pub mod engine;
mod figures;
mod findings;
mod guard;
mod late;
mod life;
mod normal;
mod preflight;
pub mod probe;
pub mod progress;
pub mod record;
mod register;
mod requests;
mod shell;
mod spool;
pub mod target;
mod tasks;
#[cfg(test)]
mod testing;
mod timeline;
pub mod undo;

pub use crash::recover_crashed;
pub use engine::run;
pub use progress::Progress;
pub use record::{Abort, DrillError, LEASE_TTL, Options, Places, Sealed};
