//! Backups of a service's data.

use std::time::Duration;

use crate::name::ServiceName;

/// Kind `Backup`.
#[derive(Clone, Debug, PartialEq)]
pub struct Backup {
    /// From `metadata.name`.
    pub name: String,
    /// Whose data.
    pub service: ServiceName,
    /// How often.
    pub every: Duration,
    /// argv that makes one.
    pub command: Vec<String>,
    /// argv that restores one.
    pub restore: Vec<String>,
    /// argv that checks a restore: exit 0 is good.
    pub check: Vec<String>,
}
