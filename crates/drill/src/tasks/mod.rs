//! What the engine does, one task per action: each ends by telling the main loop what came of it.

pub mod after;
pub mod before;
pub mod loads;
pub mod out;
pub mod roles;
pub mod step;

use std::time::Duration;

/// How long the mesh may not answer before what was asked of it counts as failed. Under the lease, the lease's own
/// end comes first.
pub const PATIENCE: Duration = Duration::from_secs(10);
