//! End to end: the release binary, real processes, real peers, real faults. `make e2e` builds what they need.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "a test that cannot go on has failed")]

mod bodies;
mod demo;
mod envoy;
mod envoy_plane;
mod failover;
mod federation;
mod foreign;
mod issued;
mod kill;
mod nginx;
mod oracle;
mod push;
mod rotation;
mod routing;
mod security;
mod store;
mod stranger;
mod supervise;
mod verdict;
mod websocket;
