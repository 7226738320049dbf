//! The contract between control plane and data plane.
//!
//! A [`snapshot::Snapshot`] is what one proxy is told to do; [`overlay::Overlay`]s are laid over it under a lease;
//! [`event`] and [`status`] are what a proxy tells back. The crate encodes and decodes them to Envoy's v3 protobuf and
//! carries them over ADS. Nothing in here knows what a recovery plan or a drill is.

pub mod clock;
pub mod event;
mod human;
pub mod overlay;
pub mod snapshot;
pub mod status;
