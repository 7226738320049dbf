//! Upstream services: who may be sent to, and who is chosen.

pub mod affinity;
pub mod balance;
pub mod breaker;
pub mod cluster;
pub mod detect;
mod epoch;
mod ewma;
pub mod farewell;
mod hashing;
pub mod health;
pub mod host;
mod members;
pub mod outlier;
pub mod priority;
pub mod ramp;
mod schedule;
pub mod silence;
pub mod slow;
mod slow_start;
pub mod view;
