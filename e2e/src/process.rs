//! Processes of the release binary.

use std::{
    path::{Path, PathBuf},
    process::Stdio,
    time::{Duration, Instant},
};

use rustix::process::{Pid, Signal};
use tokio::process::{Child, Command};

/// The binary under test: `FIREDRILL_BIN`, else the release build of this workspace.
pub fn binary() -> PathBuf {
    let path =
        std::env::var_os("FIREDRILL_BIN").map_or_else(|| workspace().join("target/release/firedrill"), PathBuf::from);
    assert!(path.is_file(), "{} is missing: cargo build --release -p firedrill", path.display());
    path
}

/// Root of the workspace.
pub fn workspace() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).parent().expect("e2e is one level below the root").to_path_buf()
}

/// The binary with arguments; its environment tells nothing of a terminal.
pub fn command(args: &[&str]) -> Command {
    command_of(&binary(), args)
}

/// As [`command`], with a copy of the binary.
pub fn command_of(binary: &Path, args: &[&str]) -> Command {
    let mut command = Command::new(binary);
    command.args(args).stdin(Stdio::null()).kill_on_drop(true).env("NO_COLOR", "1");
    command
}

/// What a finished process said.
#[derive(Debug)]
pub struct Finished {
    /// Exit code; `None` after a signal.
    pub code: Option<i32>,
    /// Standard output.
    pub out: String,
    /// Standard error.
    pub err: String,
    /// How long it ran.
    pub took: Duration,
}

/// Runs to the end, with a bound.
pub async fn run(args: &[&str], bound: Duration) -> Finished {
    finish(command(args).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().expect("starts"), bound).await
}

/// Waits for the end of a process whose output is piped.
pub async fn finish(child: Child, bound: Duration) -> Finished {
    let started = Instant::now();
    let output = tokio::time::timeout(bound, child.wait_with_output())
        .await
        .unwrap_or_else(|_| panic!("still running after {bound:?}"))
        .expect("is waited for");
    Finished {
        code: output.status.code(),
        out: String::from_utf8_lossy(&output.stdout).into_owned(),
        err: String::from_utf8_lossy(&output.stderr).into_owned(),
        took: started.elapsed(),
    }
}

/// Sends a signal to one process.
pub fn signal(pid: u32, signal: Signal) {
    let pid = Pid::from_raw(i32::try_from(pid).expect("a pid")).expect("not zero");
    // A process that is already gone is what the caller wanted.
    let _ = rustix::process::kill_process(pid, signal);
}

/// Processes whose command line or environment names this path: each mesh has a state folder of its own.
pub fn naming(path: &Path) -> Vec<(u32, String)> {
    let needle = path.to_string_lossy().into_owned();
    let own = std::process::id();
    let mut found = Vec::new();
    for entry in std::fs::read_dir("/proc").expect("proc is mounted").flatten() {
        let Some(pid) = entry.file_name().to_str().and_then(|n| n.parse::<u32>().ok()) else { continue };
        if pid == own {
            continue;
        }
        let words = |file: &str| {
            let bytes = std::fs::read(entry.path().join(file)).unwrap_or_default();
            String::from_utf8_lossy(&bytes).replace('\0', " ")
        };
        let line = words("cmdline");
        // A zombie has neither; it is nobody's program any more.
        if line.contains(&needle) || words("environ").contains(&needle) {
            found.push((pid, line));
        }
    }
    found
}

/// Waits until no process names the path.
pub async fn gone(path: &Path, bound: Duration) {
    wait_until(bound, || {
        let left = naming(path);
        if left.is_empty() { Ok(()) } else { Err(format!("left behind: {left:?}")) }
    })
    .await;
}

/// Polls until the condition holds; the last reason is the failure.
pub async fn wait_until(bound: Duration, mut condition: impl FnMut() -> Result<(), String>) {
    let started = Instant::now();
    loop {
        match condition() {
            Ok(()) => return,
            Err(reason) => assert!(started.elapsed() < bound, "after {bound:?}: {reason}"),
        }
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}
