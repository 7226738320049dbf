//! The control plane: revisions of manifests, `compile`, certificate authority, leases and overlays, publishing over
//! ADS, recovery controller, and the API around them.
//!
//! Nothing in here knows what a drill is: it only sees leases that somebody holds.
#![cfg_attr(test, allow(clippy::unwrap_used, clippy::expect_used, clippy::panic))]

mod ads;
pub mod api;
pub mod authority;
pub mod bundle;
pub mod ca;
pub mod client;
pub mod compile;
mod denial;
mod discovery;
mod federation;
mod foreign;
mod health;
mod http;
mod issued;
mod log;
mod mesh;
mod metrics;
mod overlays;
mod peer;
mod proxies;
mod recovery;
mod refusals;
mod run;
mod secret;
pub mod server;
mod sharing;
pub mod sources;
mod standing;
pub mod store;
#[cfg(test)]
mod testing;
mod trust;

pub use mesh::{prepare_folder, revision_of};
pub use overlays::judge_envoys;
pub use run::{Options, RunError, run};
