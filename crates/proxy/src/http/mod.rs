//! HTTP/1.1 and HTTP/2: one path for both.

pub mod attempt;
pub mod body;
mod flags;
pub mod forward;
pub mod guard;
pub mod message;
pub mod pool;
pub mod record;
pub mod server;
