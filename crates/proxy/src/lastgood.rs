//! The last good snapshot on disk: what a proxy starts from when there is no control plane.

use std::{
    fs::{self, OpenOptions},
    io::{self, Write},
    os::unix::fs::OpenOptionsExt,
    path::{Path, PathBuf},
};

use serde::{Deserialize, Serialize};
use serde_json::value::RawValue;
use sha2::{Digest, Sha256};
use xds::snapshot::Snapshot;

const FILE: &str = "last-good.json";

/// The file's form. The digest is over version and snapshot as written.
#[derive(Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
struct Stored<'a> {
    version: String,
    sha256: String,
    #[serde(borrow)]
    snapshot: &'a RawValue,
}

/// Why there is no last good snapshot.
#[derive(Debug, thiserror::Error)]
pub enum LastGoodError {
    /// The file cannot be read or written.
    #[error("{path}: {error}")]
    Io {
        /// The file.
        path: PathBuf,
        /// Why.
        error: io::Error,
    },
    /// The file is damaged.
    #[error("{path} is damaged and is not used ({reason}); waiting for the control plane")]
    Damaged {
        /// The file.
        path: PathBuf,
        /// How it shows.
        reason: String,
    },
}

/// Where it is kept.
#[derive(Clone, Debug)]
pub struct LastGood {
    path: PathBuf,
}

impl LastGood {
    /// In this folder.
    pub fn new(folder: &Path) -> Self {
        Self { path: folder.join(FILE) }
    }

    /// Replaces it. A crash leaves the old one or the new one, never a part.
    ///
    /// # Errors
    /// When the file cannot be written.
    pub fn store(&self, version: &str, snapshot: &Snapshot) -> Result<(), LastGoodError> {
        let io = |error| LastGoodError::Io { path: self.path.clone(), error };
        let text = serde_json::value::to_raw_value(snapshot).map_err(|error| io(error.into()))?;
        let stored = Stored { version: version.to_owned(), sha256: digest(version, text.get()), snapshot: &text };
        let bytes = serde_json::to_vec(&stored).map_err(|error| io(error.into()))?;
        self.replace(&bytes).map_err(io)
    }

    fn replace(&self, bytes: &[u8]) -> io::Result<()> {
        let folder = self.path.parent().unwrap_or(Path::new("."));
        fs::create_dir_all(folder)?;
        let next = self.path.with_extension("next");
        let mut file = OpenOptions::new().write(true).create(true).truncate(true).mode(0o600).open(&next)?;
        file.write_all(bytes)?;
        file.sync_all()?;
        fs::rename(&next, &self.path)?;
        fs::File::open(folder)?.sync_all()
    }

    /// Reads it; `None` if there is none.
    ///
    /// # Errors
    /// When it cannot be read, or is damaged.
    pub fn load(&self) -> Result<Option<(String, Snapshot)>, LastGoodError> {
        let damaged = |reason: String| LastGoodError::Damaged { path: self.path.clone(), reason };
        let bytes = match fs::read(&self.path) {
            Ok(bytes) => bytes,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
            Err(error) => return Err(LastGoodError::Io { path: self.path.clone(), error }),
        };
        let stored: Stored<'_> = serde_json::from_slice(&bytes).map_err(|error| damaged(error.to_string()))?;
        if stored.sha256 != digest(&stored.version, stored.snapshot.get()) {
            return Err(damaged("its digest does not fit its content".into()));
        }
        let read = serde_json::from_str(stored.snapshot.get());
        let mut snapshot: Snapshot = read.map_err(|error| damaged(error.to_string()))?;
        snapshot.shrink();
        Ok(Some((stored.version, snapshot)))
    }
}

fn digest(version: &str, snapshot: &str) -> String {
    let mut hash = Sha256::new();
    hash.update((version.len() as u64).to_be_bytes());
    hash.update(version);
    hash.update(snapshot);
    hash.finalize().iter().map(|byte| format!("{byte:02x}")).collect()
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt;

    use super::*;

    #[test]
    fn what_is_stored_is_loaded_and_damage_is_found() {
        let folder = tempfile::tempdir().unwrap();
        let file = LastGood::new(&folder.path().join("proxies/p1"));
        assert!(file.load().unwrap().is_none());
        let snapshot = Snapshot::default();
        file.store("7", &snapshot).unwrap();
        assert_eq!(file.load().unwrap(), Some(("7".into(), snapshot)));
        assert_eq!(fs::metadata(&file.path).unwrap().permissions().mode() & 0o777, 0o600);
        let good = fs::read(&file.path).unwrap();
        for at in 0..good.len() {
            let mut bad = good.clone();
            bad[at] ^= 1;
            fs::write(&file.path, &bad).unwrap();
            assert!(matches!(file.load(), Err(LastGoodError::Damaged { .. })), "byte {at}");
        }
    }
}
