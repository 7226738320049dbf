//! The record of an attempt: what was seen, what follows from it, and why it can be trusted.
//!
//! [`record`] is the plain data. The measured values and the verdict are pure functions of it, shared by the drill
//! engine and the offline verifier, so that they cannot disagree. This crate knows nothing of meshes or proxies.

pub mod record;
