//! HTTP/1.1 (RFC 9112): heads and bodies as bytes, the caller's side, and the endpoint's.

pub mod encode;
pub mod framing;
pub mod inlet;
pub mod outbox;
pub mod parse;
pub mod serve;
pub mod wire;
