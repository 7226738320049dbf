//! The record from end to end: measuring against a brute-force oracle, the ledger under crashes and several writers,
//! bundles under mutation.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

mod bundle;
mod fixture;
mod golden;
mod history;
mod ledger;
mod linear;
mod measure;
mod merkle;
mod oracle;
mod scripted;
mod second;
mod verdict;
