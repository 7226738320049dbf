//! A validated set of manifests. A value that exists is consistent: every reference resolves, every default is filled in.

mod authorization;
mod backup;
mod drill;
mod endpoint;
mod fault;
mod federation;
mod identity;
mod mesh;
mod plan;
mod policy;
mod route;
mod service;
mod upstream;

use std::collections::BTreeMap;

pub use self::{
    authorization::*, backup::*, drill::*, endpoint::*, fault::*, federation::*, identity::*, mesh::*, plan::*,
    policy::*, route::*, service::*, upstream::*,
};
use crate::name::{DrillName, PlanName, ServiceName};

/// Everything that a mesh consists of. Exactly one [`Mesh`].
#[derive(Clone, Debug, PartialEq)]
pub struct Config {
    /// The mesh.
    pub mesh: Mesh,
    /// Services by name.
    pub services: BTreeMap<ServiceName, Service>,
    /// Recovery plans by name.
    pub plans: BTreeMap<PlanName, RecoveryPlan>,
    /// Drills by name.
    pub drills: BTreeMap<DrillName, Drill>,
    /// Backups by name.
    pub backups: BTreeMap<String, Backup>,
}
