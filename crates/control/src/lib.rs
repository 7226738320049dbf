//! The control plane: revisions of manifests, `compile`, certificate authority, leases and overlays, publishing over
//! ADS, recovery controller, and the API around them.
//!
//! Nothing in here knows what a drill is: it only sees leases that somebody holds.
#![cfg_attr(test, allow(clippy::unwrap_used, clippy::expect_used, clippy::panic))]

pub mod api;
pub mod compile;
pub mod client;
