//! Numbers with their units, as people write them: `99.9%`, `200/s`.
//!
//! Durations are [`std::time::Duration`], written `500ms`, `2s`, `5m`, `24h`.

use serde::{Deserialize, Serialize};

/// A share of a whole, 0–100.
#[derive(Clone, Copy, Debug, PartialEq, PartialOrd, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Percent(pub f64);

/// Events a second, above 0.
#[derive(Clone, Copy, Debug, PartialEq, PartialOrd, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Rate(pub f64);
