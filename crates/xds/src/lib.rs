//! The contract between control plane and data plane.
//!
//! A [`snapshot::Snapshot`] is what one proxy is told to do; [`overlay::Overlay`]s are laid over it under a lease;
//! [`event`] and [`status`] are what a proxy tells back. The crate encodes and decodes them to Envoy's v3 protobuf
//! ([`codec`]) and carries them over ADS ([`server`], [`client`]). [`spiffe`] says who a peer
//! is. Nothing in here knows what a recovery plan or a
//! drill is, and nothing outside sees a protobuf type.
#![cfg_attr(test, allow(clippy::unwrap_used, clippy::expect_used, clippy::panic))]

pub mod access;
pub mod arrivals;
pub mod bootstrap;
pub mod client;
pub mod clock;
pub mod codec;
pub mod digest;
pub mod event;
pub mod file;
pub mod hex;
mod human;
pub mod lease;
pub mod load;
pub mod local;
pub mod lower;
pub mod news;
pub mod node;
pub mod origin;
pub mod overlay;
pub mod pattern;
pub mod pem;
pub mod reserved;
pub mod resource;
pub mod server;
pub mod snapshot;
pub mod spiffe;
pub mod status;
pub mod svid;
