//! What people look at: the HTML report of an attempt. Knows the record, not where it came from.

#![cfg_attr(test, allow(clippy::unwrap_used, clippy::expect_used, clippy::panic))]

mod chart;
mod html;
pub mod report;
mod series;
pub mod visible;
mod waterfall;

pub use report::report;
