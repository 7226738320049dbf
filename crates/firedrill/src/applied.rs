//! A change of configuration is an entry of the ledger, as attempts are.

use std::path::Path;

use control::{
    api::Revision,
    client::{Client, ClientError},
};
use evidence::ledger::{Ledger, LedgerError};
use serde_json::{Value, json};
use xds::clock::Clock;

/// Kind of the entry.
const APPLIED: &str = "configurationApplied";

/// Why revisions could not be recorded.
#[derive(Debug, thiserror::Error)]
pub enum RecordError {
    /// They cannot be listed.
    #[error("{0}")]
    Control(#[from] ClientError),
    /// The ledger cannot be written.
    #[error("the ledger: {0}")]
    Ledger(#[from] LedgerError),
    /// The write was given up.
    #[error("the ledger was not written: {0}")]
    Stopped(String),
}

/// Records the revisions of the control plane that the ledger of the state folder does not have yet. What was recorded
/// last decides, so that one who died between a change and its record is made good by the next.
///
/// # Errors
/// If they cannot be listed or recorded.
pub async fn record(state: &Path, control: &Client) -> Result<(), RecordError> {
    let revisions = control.revisions().await?;
    let (folder, time) = (state.join("ledger"), Clock::anchored().now().0);
    let write = move || {
        let mut ledger = Ledger::open(&folder)?;
        let entries = ledger.entries(0)?;
        let last = entries.iter().rev().find(|entry| entry.kind == APPLIED).map(|entry| &entry.body);
        for revision in missing(&revisions, last) {
            ledger.append(APPLIED, time, body(revision))?;
        }
        Ok::<_, LedgerError>(())
    };
    let written = tokio::task::spawn_blocking(write).await.map_err(|error| RecordError::Stopped(error.to_string()))?;
    Ok(written?)
}

/// Revisions (given newest first) that are newer than the last one recorded, oldest first. After the store was restored
/// from a backup, or begun anew, the one in force has a number that was recorded for something else: then it is that one.
fn missing<'a>(revisions: &'a [Revision], last: Option<&Value>) -> Vec<&'a Revision> {
    let (number, digest) =
        last.map_or((0, None), |body| (body["revision"].as_u64().unwrap_or(0), body["digest"].as_str()));
    let newer: Vec<&Revision> = revisions.iter().rev().filter(|revision| revision.number > number).collect();
    if !newer.is_empty() {
        return newer;
    }
    let in_force = revisions.first().filter(|revision| Some(digest_of(revision).as_str()) != digest);
    in_force.into_iter().collect()
}

fn digest_of(revision: &Revision) -> String {
    format!("sha256:{}", revision.digest)
}

fn body(revision: &Revision) -> Value {
    json!({
        "revision": revision.number,
        "digest": digest_of(revision),
        "author": revision.author,
        "message": revision.message,
        "commit": revision.commit,
        "restores": revision.restores,
    })
}

#[cfg(test)]
mod tests {
    use control::api::Stamp;

    use super::*;

    fn revision(number: u64, digest: &str) -> Revision {
        Revision {
            number,
            author: "ann".to_owned(),
            message: String::new(),
            time: Stamp(0),
            commit: None,
            restores: None,
            digest: digest.to_owned(),
            files: Vec::new(),
        }
    }

    #[test]
    fn what_is_missing_is_recorded_once_and_in_order() {
        let revisions = [revision(3, "c"), revision(2, "b"), revision(1, "a")];
        let numbers = |last: Option<Value>| -> Vec<u64> {
            missing(&revisions, last.as_ref()).iter().map(|revision| revision.number).collect()
        };
        assert_eq!(numbers(None), [1, 2, 3]);
        assert_eq!(numbers(Some(body(&revisions[2]))), [2, 3]);
        assert_eq!(numbers(Some(body(&revisions[0]))), [0_u64; 0]);
        assert_eq!(numbers(Some(body(&revision(9, "z")))), [3], "the store is an older one");
        assert_eq!(numbers(Some(body(&revision(3, "z")))), [3]);
    }
}
