//! What an attempt left standing: irreversible steps after an abort, and undo that was not done.

use serde::{Deserialize, Serialize};

/// What stands after an attempt that stopped behind an irreversible step: traffic stays where it can be served.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Standing {
    /// Irreversible steps that ran, by name, in order.
    pub steps: Vec<String>,
    /// Region that serves now.
    #[serde(default)]
    pub serving: Option<String>,
    /// Regions, or endpoints, that are fenced off.
    pub fenced: Vec<String>,
    /// Command that fails back.
    #[serde(default)]
    pub command: Option<String>,
}

/// An undo that has not succeeded yet. Another attempt may have left it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct OutstandingUndo {
    /// Step that it takes back, by name.
    pub name: String,
    /// Command, as it is run; `None` if it is not a command (a lease, a fault).
    #[serde(default)]
    pub command: Option<Vec<String>>,
    /// Why the last try failed; `None` if it was not tried yet.
    #[serde(default)]
    pub error: Option<String>,
    /// Since when, in nanoseconds since the Unix epoch.
    #[serde(with = "crate::canonical::big")]
    pub since: i64,
}
