//! How many requests a workload gets at once.

use std::time::Duration;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::human;

/// A limit on requests in flight that follows the workload's latency (Envoy's `adaptive_concurrency`, gradient controller).
/// What is above it is refused at once, before the workload sees it.
///
/// Unlike Envoy, the latency without a queue is measured when no more than `at_least` requests happen to be in flight: none
/// is refused for the sake of the measurement.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields, default)]
pub struct Admission {
    /// Requests at once that are always let in. The limit begins here.
    pub at_least: u32,
    /// The limit is never higher.
    pub at_most: u32,
    /// Answers are gathered for this long before the limit is set anew.
    #[serde(with = "human")]
    #[schemars(with = "human::Text")]
    pub window: Duration,
    /// The latency without a queue is measured anew after this time.
    #[serde(with = "human")]
    #[schemars(with = "human::Text")]
    pub measure_every: Duration,
    /// Answers that make a measurement.
    pub samples: u32,
    /// Percent of the latency without a queue by which answers may be slower before the limit shrinks; at most 100.
    pub buffer: u8,
    /// Mirrors, repeats and hedges are refused above this percentage of the limit, before any other request is.
    pub low_percent: u8,
}

impl Default for Admission {
    fn default() -> Self {
        Self {
            at_least: 100,
            at_most: 1000,
            window: Duration::from_millis(100),
            measure_every: Duration::from_secs(60),
            samples: 50,
            buffer: 50,
            low_percent: 80,
        }
    }
}
