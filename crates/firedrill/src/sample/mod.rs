//! Sample workloads: a small bank, so that a mesh can be seen at work without bringing services of one's own.
//!
//! Plain HTTP servers that know nothing of the mesh but the environment variables every workload is given. They are
//! as fragile as real services are: the ledger replicates asynchronously, and loses what a killed region had not
//! passed on.

pub mod accounts;
pub mod fx;
mod http;
pub mod ledger;
pub mod promote;

use std::{net::SocketAddr, path::PathBuf};

/// Why a sample does not run.
#[derive(Debug, thiserror::Error)]
pub enum SampleError {
    /// A variable of the environment is missing or makes no sense.
    #[error("environment variable {name}: {reason}")]
    Environment {
        /// Variable.
        name: &'static str,
        /// What is wrong with it.
        reason: String,
    },
    /// Files or sockets.
    #[error("{what}: {source}")]
    Io {
        /// What was tried.
        what: String,
        /// What the system said.
        source: std::io::Error,
    },
    /// The ledger that was to be promoted did not become primary.
    #[error("{0}")]
    Promotion(String),
}

impl SampleError {
    fn io(what: impl Into<String>) -> impl FnOnce(std::io::Error) -> Self {
        let what = what.into();
        move |source| Self::Io { what, source }
    }
}

/// What a workload is told about itself.
#[derive(Clone, Debug)]
pub struct Workload {
    /// Where to listen.
    pub listen: SocketAddr,
    /// Its name.
    pub name: String,
    /// Its region.
    pub region: String,
    /// All regions, in the mesh's order.
    pub regions: Vec<String>,
    /// Its version.
    pub version: String,
    /// HTTP proxy through which other services are called.
    pub mesh: SocketAddr,
    /// Folder for its own data.
    pub data: PathBuf,
}

impl Workload {
    /// Reads the environment.
    ///
    /// # Errors
    /// When a variable is missing or cannot be read.
    pub fn from_env() -> Result<Self, SampleError> {
        let mesh = variable("FIREDRILL_MESH")?;
        let region = variable("FIREDRILL_REGION")?;
        // Only the ledger looks for peers; outside a mesh it has none.
        let regions = variable("FIREDRILL_REGIONS").unwrap_or_else(|_| region.clone());
        Ok(Self {
            listen: address("FIREDRILL_LISTEN", &variable("FIREDRILL_LISTEN")?)?,
            name: variable("FIREDRILL_WORKLOAD")?,
            regions: regions.split(',').map(str::trim).filter(|r| !r.is_empty()).map(str::to_owned).collect(),
            region,
            version: variable("FIREDRILL_VERSION")?,
            mesh: address("FIREDRILL_MESH", mesh.trim_start_matches("http://").trim_end_matches('/'))?,
            data: PathBuf::from(variable("FIREDRILL_DATA")?),
        })
    }
}

fn variable(name: &'static str) -> Result<String, SampleError> {
    std::env::var(name).map_err(|e| SampleError::Environment { name, reason: e.to_string() })
}

fn address(name: &'static str, text: &str) -> Result<SocketAddr, SampleError> {
    text.parse().map_err(|_| SampleError::Environment { name, reason: format!("`{text}` is no address") })
}
