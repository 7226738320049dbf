//! One drill at a time in a state folder: who runs one holds the seat, and anybody may ask them to abort.
//!
//! The seat is a lock on `run/drill.json`, which the kernel takes back however the engine ends. A request to abort is
//! the file `run/drill.abort`, which holds the reason.

use std::{
    fs::{self, File, OpenOptions},
    io::{self, Read as _, Seek as _, Write as _},
    os::unix::fs::OpenOptionsExt as _,
    path::{Path, PathBuf},
    time::Duration,
};

use rustix::fs::{FlockOperation, flock};
use serde::{Deserialize, Serialize};

/// How often the engine looks for a request.
const LOOK: Duration = Duration::from_millis(20);
/// Longest reason that is read, in bytes.
const REASON: u64 = 1000;

/// Who holds the seat.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Holder {
    /// Process id of the drill engine.
    pub pid: u32,
    /// The drill.
    pub drill: String,
}

/// The seat, held until this is dropped.
#[derive(Debug)]
pub struct Seat {
    _lock: File,
    request: PathBuf,
}

impl Seat {
    /// Takes the seat, or says who holds it.
    ///
    /// # Errors
    /// When the folder cannot be written.
    pub fn take(state: &Path, drill: &str) -> io::Result<Result<Self, Option<Holder>>> {
        let folder = state.join("run");
        fs::create_dir_all(&folder)?;
        let mut file = OpenOptions::new()
            .read(true)
            .write(true)
            .create(true)
            .truncate(false)
            .mode(0o600)
            .open(folder.join("drill.json"))?;
        if flock(&file, FlockOperation::NonBlockingLockExclusive).is_err() {
            return Ok(Err(read(&mut file)));
        }
        let request = folder.join("drill.abort");
        remove(&request)?;
        let holder = Holder { pid: std::process::id(), drill: drill.to_owned() };
        file.set_len(0)?;
        file.write_all(&serde_json::to_vec(&holder)?)?;
        Ok(Ok(Self { _lock: file, request }))
    }

    /// Waits until somebody asks to abort; gives the reason.
    pub async fn abort_asked(&self) -> String {
        let mut look = tokio::time::interval(LOOK);
        loop {
            look.tick().await;
            if let Ok(reason) = read_reason(&self.request) {
                // One that stays is found again, which changes nothing.
                let _ = remove(&self.request);
                return reason;
            }
        }
    }
}

/// Who runs a drill in a state folder now, if anybody does.
pub fn holder(state: &Path) -> Option<Holder> {
    let mut file = File::open(state.join("run").join("drill.json")).ok()?;
    match flock(&file, FlockOperation::NonBlockingLockShared) {
        Ok(()) => None,
        Err(_) => read(&mut file),
    }
}

/// Asks the engine to abort, and waits until it has seen that. Returns false if it did not within `patience`.
///
/// # Errors
/// When the request cannot be written.
pub async fn ask_abort(state: &Path, reason: &str, patience: Duration) -> io::Result<bool> {
    let path = state.join("run").join("drill.abort");
    let partial = state.join("run").join("drill.abort.partial");
    fs::write(&partial, reason)?;
    fs::rename(&partial, &path)?;
    let seen = async {
        let mut look = tokio::time::interval(LOOK);
        while path.exists() {
            look.tick().await;
        }
    };
    let seen = tokio::time::timeout(patience, seen).await.is_ok();
    if !seen {
        remove(&path)?;
    }
    Ok(seen)
}

fn read(file: &mut File) -> Option<Holder> {
    let mut text = String::new();
    file.rewind().ok()?;
    file.take(64 << 10).read_to_string(&mut text).ok()?;
    serde_json::from_str(&text).ok()
}

fn read_reason(path: &Path) -> io::Result<String> {
    let mut text = String::new();
    File::open(path)?.take(REASON).read_to_string(&mut text)?;
    Ok(text)
}

fn remove(path: &Path) -> io::Result<()> {
    match fs::remove_file(path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
        _ => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_drill_at_a_time() {
        let state = tempfile::tempdir().unwrap();
        assert_eq!(holder(state.path()), None);
        let seat = Seat::take(state.path(), "lose-east").unwrap().unwrap();
        let held = Some(Holder { pid: std::process::id(), drill: "lose-east".to_owned() });
        assert_eq!(holder(state.path()), held);
        assert_eq!(Seat::take(state.path(), "other").unwrap().unwrap_err(), held);
        drop(seat);
        assert_eq!(holder(state.path()), None);
        Seat::take(state.path(), "other").unwrap().unwrap();
    }

    #[tokio::test]
    async fn a_request_is_seen_once() {
        let state = tempfile::tempdir().unwrap();
        let seat = Seat::take(state.path(), "lose-east").unwrap().unwrap();
        let (asked, seen) =
            tokio::join!(seat.abort_asked(), ask_abort(state.path(), "enough", Duration::from_secs(60)),);
        assert_eq!((asked.as_str(), seen.unwrap()), ("enough", true));
        drop(seat);
        let unseen = ask_abort(state.path(), "nobody", Duration::from_millis(1)).await.unwrap();
        assert!(!unseen && !state.path().join("run/drill.abort").exists());
    }
}
