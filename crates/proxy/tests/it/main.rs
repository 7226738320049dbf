//! A proxy between real sockets, each test on loopback addresses of its own.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, missing_docs)]

mod admission;
mod authority;
mod balancing;
mod bodies;
mod breakers;
mod doors;
mod failover;
mod forwarding;
mod health;
mod hostile;
mod http1;
mod identity;
mod joining;
mod leases;
mod lifecycle;
mod operations;
mod posts;
mod routing;
mod sent_once;
mod stalls;
mod standby;
mod streams;
mod support;
mod tcp;
mod tracing;
mod tunnel;
mod upgrade;
mod websocket;
