//! HTTP/2 (RFC 9113) over the `h2` crate: the caller's side, and the endpoint's.

pub mod duplex;
pub mod flow;
pub mod pulse;
pub mod sending;
pub mod serve;
pub mod stream;
