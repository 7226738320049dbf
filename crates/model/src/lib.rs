//! What the user writes: manifest kinds, units, validation with positions, defaults, JSON Schema.
//!
//! Pure: no I/O, no async. Text goes in with the name of its file; a [`config::Config`] comes out, or every problem at
//! once with its position and how to mend it.

pub mod config;
pub mod name;
pub mod unit;
