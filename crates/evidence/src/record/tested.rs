//! What was tested: so that evidence about one system can never be taken for evidence about another.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

/// The system under test, as the engine found it when the attempt was registered. A missing value is unknown.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Tested {
    /// Identity of the mesh installation: random, made once, kept in its state folder. Two meshes with the same
    /// configuration have different ones.
    #[serde(default)]
    pub mesh: Option<String>,
    /// Who ran the drill: `user alice` (operating system) or `token ci` (API).
    #[serde(default)]
    pub operator: Option<String>,
    /// Host on which the engine ran.
    #[serde(default)]
    pub host: Option<String>,
    /// Configuration in force when the attempt was registered.
    #[serde(default)]
    pub configuration: Option<Configuration>,
    /// The program that ran the drill.
    #[serde(default)]
    pub binary: Option<Binary>,
    /// Endpoints of the plan's services.
    #[serde(default)]
    pub endpoints: Vec<TestedEndpoint>,
}

/// A revision of the mesh's configuration.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Configuration {
    /// Number of the revision.
    pub revision: u64,
    /// `sha256:…` over it.
    pub digest: String,
}

/// The program that ran the drill.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Binary {
    /// Version.
    pub version: String,
    /// `sha256:…` over the file; `None` if it could not be read.
    #[serde(default)]
    pub digest: Option<String>,
}

/// One endpoint of a service.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct TestedEndpoint {
    /// Service.
    pub service: String,
    /// Region.
    pub region: String,
    /// `10.0.0.1:8080`.
    pub address: String,
    /// Host name that led to the address, or the host that it is on, if known.
    #[serde(default)]
    pub host: Option<String>,
}

/// The normal state of one service, as the plan and its traffic policy say: which share of requests each region serves
/// while nothing is wrong.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct NormalState {
    /// Service.
    pub service: String,
    /// Percent of requests by region; a region that is not named serves none.
    pub shares: BTreeMap<String, f64>,
}

/// Requests that one region served before the fault, as the proxies counted them.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Served {
    /// Service.
    pub service: String,
    /// Region of the endpoints.
    pub region: String,
    /// Requests during the baseline.
    pub requests: u64,
}

/// The configuration was changed during the attempt, with permission.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct ConfigurationChange {
    /// When it was put into force.
    pub time: super::Nanos,
    /// In force before.
    pub from: Configuration,
    /// In force after.
    pub to: Configuration,
    /// Who changed it, as in [`Tested::operator`].
    #[serde(default)]
    pub operator: Option<String>,
}
