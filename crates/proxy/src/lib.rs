//! The data plane: listeners, forwarding, TLS, balancing, health, retries, faults, telemetry.
//!
//! Nothing in here knows what a recovery plan or a drill is. Decisions are pure (`upstream::{priority, ramp, outlier,
//! health}`, `retry`, `hedge`, `budget`, `fault`, `grpc`, `route`, `http::h1::{parse, framing, encode}`, `check`);
//! everything else carries bytes.
#![cfg_attr(test, allow(clippy::unwrap_used, clippy::expect_used, clippy::panic))]

mod access;
mod admin;
mod admission;
#[cfg(test)]
mod allocations;
mod apply;
mod budget;
mod certify;
mod check;
mod checks;
mod control;
mod credentials;
mod doors;
pub mod envoy;
mod events;
mod fault;
pub mod fuzz;
mod gate;
mod grpc;
mod hedge;
mod http;
mod index;
mod lastgood;
mod link;
mod listener;
mod load;
mod metrics;
mod resident;
mod retry;
mod route;
mod run;
mod seldom;
mod sides;
mod state;
mod tap;
mod tcp;
mod tls;
mod trace;
mod upstream;
mod worker;

pub use access::Options as AccessLogOptions;
pub use admin::LogFilter;
pub use certify::Api;
pub use credentials::{Credentials, Issued};
pub use doors::socket as admin_socket;
pub use run::{ControlSource, Drain, Error, FileSource, Options, Source, run};
pub use trace::Options as TraceOptions;
