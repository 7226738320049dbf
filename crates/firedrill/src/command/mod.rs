//! One module for each command: its arguments, and what it does with the crates.

pub mod apply;
pub mod backup;
pub mod ca;
pub mod check;
pub mod completion;
pub mod control;
pub mod demo;
pub mod diff;
pub mod down;
pub mod drill;
pub mod events;
pub mod evidence;
pub mod exec;
pub mod get;
pub mod guard;
pub mod history;
pub mod init;
pub mod logs;
pub mod plan;
pub mod proxy;
pub mod render;
pub mod restore;
pub mod rollback;
pub mod sample;
pub mod schema;
pub mod status;
pub mod token;
pub mod undo;
pub mod up;

pub use crate::interrupt::Stop;

use crate::failure::Failure;

/// Runs what a short-lived command does on a runtime of its own.
///
/// # Errors
/// When the machine has no room for one.
pub fn block_on<F: Future>(future: F) -> Result<F::Output, Failure> {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .map_err(|e| Failure::internal(format!("cannot start the runtime: {e}")))?;
    Ok(runtime.block_on(future))
}
