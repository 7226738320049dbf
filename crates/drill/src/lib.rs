//! The drill engine: an attempt's life, faults, probes, guards, timeline.
//!
//! It sees the mesh only through [`target::Target`].

#![cfg_attr(test, allow(clippy::unwrap_used, clippy::expect_used, clippy::panic))]

pub mod engine;
pub mod progress;
pub mod target;

pub use engine::{Abort, DrillError, LEASE_TTL, Places, Sealed, recover_crashed, run};
pub use progress::Progress;
