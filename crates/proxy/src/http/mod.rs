//! HTTP/1.1 and HTTP/2: one path for both.

pub mod alarm;
pub mod allowance;
pub mod attempt;
pub mod body;
mod date;
pub mod fate;
mod flags;
pub mod forward;
pub mod guard;
pub mod h1;
pub mod h2;
pub mod interim;
pub mod message;
pub mod mirror;
pub mod pool;
pub mod reach;
pub mod record;
pub mod relay;
pub mod server;
pub mod shape;
pub mod standby;
pub mod tunnel;
