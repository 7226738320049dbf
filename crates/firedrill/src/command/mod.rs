//! One module for each command: its arguments, and what it does with the crates.

pub mod check;
pub mod completion;
pub mod control;
pub mod exec;
pub mod guard;
pub mod proxy;
pub mod sample;
pub mod up;
