//! The record of an attempt: what was seen, what follows from it, and why it can be trusted.
//!
//! [`record`] is the plain data. The measured values and the verdict ([`measure`]) are pure functions of it, shared by the
//! drill engine and the offline verifier, so that they cannot disagree. The [`ledger`] is an append-only Merkle log of
//! everything that happened; a [`bundle`] is one file that holds a sealed attempt with the proofs that it stands in the
//! ledger. This crate knows nothing of meshes or proxies.

#![cfg_attr(test, allow(clippy::unwrap_used, clippy::expect_used, clippy::panic))]

pub mod attempts;
pub mod bundle;
pub mod canonical;
mod commit;
pub mod entry;
mod files;
pub mod journal;
pub mod ledger;
pub mod measure;
pub mod merkle;
pub mod note;
pub mod record;
pub mod results;
pub mod v1;
