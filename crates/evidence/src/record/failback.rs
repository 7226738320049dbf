//! The way back, as commanded and as observed.

use serde::{Deserialize, Serialize};

use super::Nanos;

/// One step of a failback ramp. The share that clients saw is measured from the samples, and not here.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct RampStep {
    /// Service that was moved.
    pub service: String,
    /// Region that it was moved to.
    pub region: String,
    /// Percent of requests that were to go there.
    pub commanded: f64,
    /// When it was commanded.
    pub time: Nanos,
    /// When the share was seen at clients and at every proxy; `None`: it never was.
    #[serde(default)]
    pub observed: Option<Nanos>,
    /// Load at the proxies that send to the service, as each was last seen within this step.
    #[serde(default)]
    pub proxies: Vec<ProxyShare>,
}

/// What one proxy sent to a region.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct ProxyShare {
    /// Name of the proxy.
    pub proxy: String,
    /// Percent of its requests that go to the region of the step.
    pub share: f64,
    /// When it was seen.
    pub time: Nanos,
}
