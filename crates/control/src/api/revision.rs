//! Manifests as they are applied and stored.

use serde::{Deserialize, Serialize};
use serde_json::Value;

use super::Stamp;

/// A manifest file.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct ManifestFile {
    /// As problems shall name it.
    pub path: String,
    /// YAML.
    pub text: String,
}

/// New manifests; the whole set, not a difference.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct ApplyRequest {
    /// All files.
    pub files: Vec<ManifestFile>,
    /// Who applies.
    pub author: String,
    /// Why.
    pub message: String,
    /// Git commit that the files are of.
    #[serde(default)]
    pub commit: Option<String>,
    /// Refused unless this revision is in force; 0: none is.
    #[serde(default)]
    pub expect: Option<u64>,
    /// Objects that are in force and not in the files are removed. Without this, files that lack one are refused.
    #[serde(default)]
    pub prune: bool,
    /// Everything is checked and answered as if it were done; nothing is.
    #[serde(default)]
    pub dry_run: bool,
    /// Applied although a lease is held. Without this it is refused then: a drill would end on another configuration than
    /// it began with.
    #[serde(default)]
    pub during_drill: bool,
}

/// Makes a new revision with the files of an old one.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct RollbackRequest {
    /// Who rolls back.
    pub author: String,
    /// Why.
    pub message: String,
    /// As in [`ApplyRequest`].
    #[serde(default)]
    pub expect: Option<u64>,
    /// As in [`ApplyRequest`].
    #[serde(default)]
    pub dry_run: bool,
    /// As in [`ApplyRequest`].
    #[serde(default)]
    pub during_drill: bool,
}

/// What became of new manifests.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Applied {
    /// The revision in force; after a dry run, the one that would be.
    pub revision: u64,
    /// The revision that was in force before; 0: none was.
    pub previous: u64,
    /// False if the files are those of the revision already in force; then no revision was made.
    pub changed: bool,
    /// SHA-256 (hex) over the files.
    pub digest: String,
    /// How the objects differ from those that were in force.
    pub objects: ObjectChanges,
    /// Workloads that the files ask to run, and gateways, that are placed nowhere: `firedrill up` places those it was started with.
    pub unplaced: Vec<String>,
    /// Warnings, as `model::Problem` serializes them.
    pub warnings: Vec<Value>,
}

/// Objects, each as `Kind/name`, by what became of them. What means the same counts as unchanged, however it is written.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct ObjectChanges {
    /// Were not there before.
    pub added: Vec<String>,
    /// Say something else than before.
    pub changed: Vec<String>,
    /// Are not there any more.
    pub removed: Vec<String>,
}

/// One stored set of manifests.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Revision {
    /// From 1.
    pub number: u64,
    /// Who applied it.
    pub author: String,
    /// Why.
    pub message: String,
    /// When.
    pub time: Stamp,
    /// Git commit that the files are of.
    #[serde(default)]
    pub commit: Option<String>,
    /// The revision whose files it has, if it was made by a rollback.
    #[serde(default)]
    pub restores: Option<u64>,
    /// SHA-256 (hex) over the files.
    pub digest: String,
    /// Empty in lists.
    #[serde(default)]
    pub files: Vec<ManifestFile>,
}

/// What a watcher of manifests (`--gitops`) sees.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct SourceReport {
    /// The folder that is watched.
    pub folder: String,
    /// The Git commit that was looked at last; `None` if the folder is not in a checkout.
    pub commit: Option<String>,
    /// How it stands.
    pub state: SourceState,
    /// Why, for people; empty if it is in force.
    pub detail: String,
}

/// How watched manifests stand to what is in force.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub enum SourceState {
    /// They are in force.
    InForce,
    /// Something else is in force, applied by somebody else, or the checkout has changes that no commit holds.
    Drift,
    /// They were refused; what was in force stays.
    Refused,
    /// They cannot be read; what was in force stays.
    Unreadable,
}
