//! Commands of plans: own process group, bounded time and output, and never longer alive than this process.

use std::{
    collections::{BTreeMap, VecDeque},
    process::Stdio,
    time::Duration,
};

use rustix::process::{Pid, Signal, kill_process_group};
use tokio::{
    io::{AsyncRead, AsyncReadExt as _},
    process::Command,
};

/// What is kept of each of stdout and stderr: the end.
const KEPT: usize = 4096;

/// Kills the whole group when it goes out of scope.
struct Group(Option<Pid>);

impl Drop for Group {
    fn drop(&mut self) {
        if let Some(group) = self.0 {
            // An empty group is what is wanted.
            let _ = kill_process_group(group, Signal::KILL);
        }
    }
}

/// Runs a command to its end. argv[0] `firedrill` means this program. Dropping the future kills it.
///
/// # Errors
/// What went wrong, with the end of what it printed.
pub(super) async fn run(
    argv: &[String],
    environment: &BTreeMap<String, String>,
    timeout: Duration,
) -> Result<String, String> {
    let (program, arguments) = argv.split_first().ok_or("the command is empty")?;
    let mut command = Command::new(model::program(program));
    command
        .arg0(program)
        .args(arguments)
        // What opens the control plane's own store is not the command's.
        .env_remove("FIREDRILL_STORE")
        .envs(environment)
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .process_group(0)
        .kill_on_drop(true);
    die_with_parent(&mut command);
    let mut child = command.spawn().map_err(|e| format!("{program} cannot be started: {e}"))?;
    let group = child.id().and_then(|id| i32::try_from(id).ok()).and_then(Pid::from_raw);
    let _group = Group(group);
    let (stdout, stderr) = (child.stdout.take(), child.stderr.take());
    let work = async {
        // A grandchild may hold the pipes open after the command has ended: its end decides.
        let mut printed = (VecDeque::new(), VecDeque::new());
        let status = {
            let reading = async { tokio::join!(tail(stdout, &mut printed.0), tail(stderr, &mut printed.1)) };
            tokio::pin!(reading);
            tokio::select! {
                _ = &mut reading => child.wait().await,
                status = child.wait() => {
                    // What it wrote before its end is in the pipes already.
                    let _ = tokio::time::timeout(Duration::from_millis(50), reading).await;
                    status
                }
            }
        };
        (status, text(&printed.0), text(&printed.1))
    };
    match tokio::time::timeout(timeout, work).await {
        Err(_) => Err(format!("killed after {} ms", timeout.as_millis())),
        Ok((Err(error), ..)) => Err(format!("it could not be waited for: {error}")),
        Ok((Ok(status), stdout, stderr)) if status.success() => Ok(join(&stdout, &stderr)),
        Ok((Ok(status), stdout, stderr)) => Err(format!("{status}: {}", join(&stdout, &stderr))),
    }
}

fn join(stdout: &str, stderr: &str) -> String {
    let both = [stdout.trim_end(), stderr.trim_end()];
    both.into_iter().filter(|text| !text.is_empty()).collect::<Vec<_>>().join("\n")
}

fn text(bytes: &VecDeque<u8>) -> String {
    String::from_utf8_lossy(&bytes.iter().copied().collect::<Vec<_>>()).into_owned()
}

/// Reads to the end and keeps the last bytes.
async fn tail(from: Option<impl AsyncRead + Unpin>, kept: &mut VecDeque<u8>) {
    let Some(mut from) = from else { return };
    let mut chunk = [0; 1024];
    // A broken pipe is an end, too.
    while let Ok(read @ 1..) = from.read(&mut chunk).await {
        kept.extend(&chunk[..read]);
        let surplus = kept.len().saturating_sub(KEPT);
        kept.drain(..surplus);
    }
}

/// Lets the kernel kill the command when the thread that started it ends: a worker of the runtime, which ends with the
/// process (also with SIGKILL).
#[allow(unsafe_code, reason = "there is no other way to set the parent-death signal before exec")]
fn die_with_parent(command: &mut Command) {
    let parent = rustix::process::getpid();
    let before_exec = move || {
        rustix::process::set_parent_process_death_signal(Some(Signal::KILL))?;
        // The parent may have died before the line above.
        if rustix::process::getppid() == Some(parent) {
            Ok(())
        } else {
            Err(std::io::Error::from(rustix::io::Errno::SRCH))
        }
    };
    // SAFETY: between fork and exec only async-signal-safe things may be done. `before_exec` makes two system calls
    // (prctl, getppid), which are; it captures one integer, allocates nothing (an `Errno` makes an error without
    // allocation) and takes no lock.
    unsafe {
        command.pre_exec(before_exec);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    async fn shell(script: &str, timeout: Duration) -> Result<String, String> {
        let argv = ["/bin/sh", "-c", script].map(str::to_owned);
        let environment = BTreeMap::from([("FIREDRILL_REGION".to_owned(), "west".to_owned())]);
        run(&argv, &environment, timeout).await
    }

    #[tokio::test]
    async fn a_command_tells_what_it_printed_and_how_it_ended() {
        let long = Duration::from_secs(30);
        assert_eq!(shell("echo to $FIREDRILL_REGION; echo done >&2", long).await.unwrap(), "to west\ndone");
        let error = shell("echo no such thing; exit 3", long).await.unwrap_err();
        assert!(error.contains("exit status: 3") && error.contains("no such thing"), "{error}");
        let error = run(&["/nonexistent/command".to_owned()], &BTreeMap::new(), long).await.unwrap_err();
        assert!(error.contains("cannot be started"), "{error}");
    }

    #[tokio::test]
    async fn output_is_bounded_to_its_end() {
        let printed =
            shell("i=0; while [ $i -lt 3000 ]; do echo line $i; i=$((i+1)); done", Duration::from_secs(30)).await;
        let printed = printed.unwrap();
        assert!(printed.len() <= KEPT, "{}", printed.len());
        assert!(printed.ends_with("line 2999"));
    }

    #[tokio::test]
    async fn a_command_that_takes_too_long_is_killed_with_its_children() {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("pid");
        let script = format!("sleep 600 & echo $! > {}; wait", file.display());
        let error = shell(&script, Duration::from_millis(500)).await.unwrap_err();
        assert_eq!(error, "killed after 500 ms");
        let pid: i32 = std::fs::read_to_string(&file).unwrap().trim().parse().unwrap();
        let pid = Pid::from_raw(pid).unwrap();
        // SIGKILL is delivered, but the grandchild may still be there for its reaper.
        let gone = async {
            loop {
                let stat = std::fs::read_to_string(format!("/proc/{}/stat", pid.as_raw_nonzero()));
                if stat.is_err() || stat.is_ok_and(|stat| stat.contains(") Z ")) {
                    return;
                }
                tokio::task::yield_now().await;
            }
        };
        tokio::time::timeout(Duration::from_secs(10), gone).await.unwrap();
    }
}
