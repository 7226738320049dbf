//! Upstream services: who may be sent to, and who is chosen.

pub mod balance;
pub mod cluster;
pub mod health;
pub mod host;
mod members;
pub mod outlier;
pub mod priority;
pub mod ramp;
pub mod view;
