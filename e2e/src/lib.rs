//! What end-to-end tests need: the release binary as a user runs it, its mesh, load from outside, and the proof that
//! nothing is left behind.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "a test that cannot go on has failed")]

pub mod load;
pub mod mesh;
pub mod plane;
pub mod postgres;
pub mod process;
pub mod tls;
pub mod web;
