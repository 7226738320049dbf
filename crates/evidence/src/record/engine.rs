//! How well the drill engine did its own work: what it was late by or did not do is never the service's failure.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use super::Nanos;

/// Shortcomings of the engine during the attempt.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct EngineRecord {
    /// How late the main loop was.
    pub main_loop: Lateness,
    /// How late requests were sent after they were due, by probe.
    #[serde(default)]
    pub sends: BTreeMap<String, Lateness>,
    /// Requests that were due and have no sample at all, by probe; those with outcome `NotSent` are not counted again.
    #[serde(default)]
    pub unsent: BTreeMap<String, u64>,
    /// When the limit of open files was first hit.
    #[serde(default)]
    pub descriptor_limit: Option<Nanos>,
}

/// A distribution of delays, in nanoseconds.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Lateness {
    /// Largest.
    pub max: Nanos,
    /// 99th percentile.
    pub p99: Nanos,
}
