//! Commands of plans: a session of their own, bounded time and output. A command that is cut short is killed with everything
//! that it started and that did not leave its session, on every path: when its time is over, when its plan kills it, when
//! this process ends, and, if this process is killed itself, when the next one starts.

use std::{
    collections::{BTreeMap, VecDeque},
    fs,
    path::{Path, PathBuf},
    process::Stdio,
    time::Duration,
};

use rustix::process::{Pid, Signal, kill_process, kill_process_group};
use tokio::{
    io::{AsyncRead, AsyncReadExt as _},
    process::Command,
};

use crate::secret;

/// What is kept of each of stdout and stderr: the end.
const KEPT: usize = 4096;

/// What a command is known by in the environment of all that it starts.
const MARK: &str = "FIREDRILL_COMMAND_ID";
/// Looks for what a session started while it was being killed.
const PASSES: usize = 5;

/// The session of a running command, noted in a file while it runs. What is left of it is killed when this goes out of
/// scope.
struct Session {
    leader: Option<Pid>,
    note: Option<PathBuf>,
    /// It ended by itself: what left its process group was meant to stay.
    ended: bool,
}

impl Drop for Session {
    fn drop(&mut self) {
        if let Some(leader) = self.leader {
            // An empty group is what is wanted.
            let _ = kill_process_group(leader, Signal::KILL);
            if !self.ended {
                kill_session(leader, |_| true);
            }
        }
        if let Some(note) = &self.note {
            // One that stays is of a session that is gone: nobody bears its mark.
            let _ = fs::remove_file(note);
        }
    }
}

/// Kills what is in a session and is picked, until nothing is left there.
fn kill_session(session: Pid, pick: impl Fn(Pid) -> bool) {
    for _ in 0..PASSES {
        let members: Vec<Pid> = processes().filter(|pid| is_alive_in(*pid, session) && pick(*pid)).collect();
        if members.is_empty() {
            return;
        }
        for member in members {
            // Whoever ended in between is what is wanted.
            let _ = kill_process(member, Signal::KILL);
        }
    }
}

fn processes() -> impl Iterator<Item = Pid> {
    let entries = fs::read_dir("/proc").into_iter().flatten().flatten();
    entries.filter_map(|entry| Pid::from_raw(entry.file_name().to_str()?.parse().ok()?))
}

/// proc_pid_stat(5): behind the name, which may hold anything, come state, parent, group and session.
fn is_alive_in(pid: Pid, session: Pid) -> bool {
    let Ok(stat) = fs::read_to_string(format!("/proc/{}/stat", pid.as_raw_nonzero())) else { return false };
    let Some((_, fields)) = stat.rsplit_once(") ") else { return false };
    let fields: Vec<&str> = fields.split(' ').collect();
    let of = fields.get(3).and_then(|session| session.parse().ok());
    of == Some(session.as_raw_nonzero().get()) && !matches!(fields.first(), Some(&"Z" | &"X"))
}

/// Kills what commands of a former process left: those that were running when it was killed.
pub(super) fn kill_leftovers(notes: &Path) {
    for entry in fs::read_dir(notes).into_iter().flatten().flatten() {
        let session = fs::read_to_string(entry.path()).ok().and_then(|text| Pid::from_raw(text.trim().parse().ok()?));
        if let (Some(session), Some(id)) = (session, entry.file_name().to_str()) {
            // The number may be somebody else's by now; the mark is not.
            let mark = format!("{MARK}={id}");
            kill_session(session, |pid| bears(pid, &mark));
        }
        if let Err(error) = fs::remove_file(entry.path()) {
            tracing::warn!(%error, note = %entry.path().display(), "the note of a command that is gone stays");
        }
    }
}

fn bears(pid: Pid, mark: &str) -> bool {
    let environment = fs::read(format!("/proc/{}/environ", pid.as_raw_nonzero())).unwrap_or_default();
    environment.split(|byte| *byte == 0).any(|variable| variable == mark.as_bytes())
}

/// Runs a command to its end, noted in the folder `notes`. argv[0] `firedrill` means this program. Dropping the future
/// kills it.
///
/// # Errors
/// What went wrong, with the end of what it printed.
pub(super) async fn run(
    argv: &[String],
    environment: &BTreeMap<String, String>,
    timeout: Duration,
    notes: &Path,
) -> Result<String, String> {
    let (program, arguments) = argv.split_first().ok_or("the command is empty")?;
    let id = secret::random_hex(16).map_err(|e| e.to_string())?;
    let mut command = Command::new(model::program(program));
    command
        .arg0(program)
        .args(arguments)
        // What opens the control plane's own store is not the command's.
        .env_remove("FIREDRILL_STORE")
        .envs(environment)
        .env(MARK, &id)
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .kill_on_drop(true);
    tie(&mut command);
    let mut child = command.spawn().map_err(|e| format!("{program} cannot be started: {e}"))?;
    let leader = child.id().and_then(|id| i32::try_from(id).ok()).and_then(Pid::from_raw);
    let mut session = Session { leader, note: None, ended: false };
    if let Some(leader) = leader {
        let path = notes.join(&id);
        let text = leader.as_raw_nonzero().to_string();
        match fs::create_dir_all(notes).and_then(|()| secret::replace_private(&path, text.as_bytes())) {
            Ok(()) => session.note = Some(path),
            Err(error) => tracing::warn!(%error, "a command is not noted; if this process is killed, it lives on"),
        }
    }
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
    let outcome = tokio::time::timeout(timeout, work).await;
    session.ended = outcome.is_ok();
    match outcome {
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

/// Gives the command a session of its own, and lets the kernel kill it when the thread that started it ends: a worker of the
/// runtime, which ends with the process (also with SIGKILL).
#[allow(unsafe_code, reason = "there is no other way to set the parent-death signal before exec")]
fn tie(command: &mut Command) {
    let parent = rustix::process::getpid();
    let before_exec = move || {
        rustix::process::setsid()?;
        rustix::process::set_parent_process_death_signal(Some(Signal::KILL))?;
        // The parent may have died before the line above.
        if rustix::process::getppid() == Some(parent) {
            Ok(())
        } else {
            Err(std::io::Error::from(rustix::io::Errno::SRCH))
        }
    };
    // SAFETY: between fork and exec only async-signal-safe things may be done. `before_exec` makes three system calls
    // (setsid, prctl, getppid), which are; it captures one integer, allocates nothing (an `Errno` makes an error without
    // allocation) and takes no lock.
    unsafe {
        command.pre_exec(before_exec);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    async fn shell(script: &str, timeout: Duration) -> Result<String, String> {
        let notes = tempfile::tempdir().unwrap();
        let result = shell_in(script, timeout, notes.path()).await;
        assert_eq!(fs::read_dir(notes.path()).unwrap().count(), 0, "a note is left");
        result
    }

    async fn shell_in(script: &str, timeout: Duration, notes: &Path) -> Result<String, String> {
        let argv = ["/bin/sh", "-c", script].map(str::to_owned);
        let environment = BTreeMap::from([("FIREDRILL_REGION".to_owned(), "west".to_owned())]);
        run(&argv, &environment, timeout, notes).await
    }

    /// Waits until a process whose number a script wrote into a file is gone.
    async fn is_gone(file: &Path) {
        let pid: i32 = fs::read_to_string(file).unwrap().trim().parse().unwrap();
        // SIGKILL is delivered, but the grandchild may still be there for its reaper.
        let gone = async {
            loop {
                let stat = fs::read_to_string(format!("/proc/{pid}/stat"));
                if stat.is_err() || stat.is_ok_and(|stat| stat.contains(") Z ")) {
                    return;
                }
                tokio::task::yield_now().await;
            }
        };
        tokio::time::timeout(Duration::from_secs(10), gone).await.unwrap();
    }

    async fn is_written(file: &Path) {
        while !fs::read_to_string(file).is_ok_and(|text| text.ends_with('\n')) {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    }

    #[tokio::test]
    async fn a_command_tells_what_it_printed_and_how_it_ended() {
        let long = Duration::from_secs(30);
        assert_eq!(shell("echo to $FIREDRILL_REGION; echo done >&2", long).await.unwrap(), "to west\ndone");
        let error = shell("echo no such thing; exit 3", long).await.unwrap_err();
        assert!(error.contains("exit status: 3") && error.contains("no such thing"), "{error}");
        let error = run(&["/nonexistent/command".to_owned()], &BTreeMap::new(), long, Path::new("/nonexistent"))
            .await
            .unwrap_err();
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
        is_gone(&file).await;
    }

    /// `timeout` makes itself the leader of a process group of its own.
    const IN_ANOTHER_GROUP: &str = "timeout 600 sh -c 'echo $$ > FILE; sleep 600'";

    #[tokio::test]
    async fn a_command_that_is_dropped_leaves_no_child_in_another_process_group() {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("pid");
        let script = IN_ANOTHER_GROUP.replace("FILE", &file.display().to_string());
        let notes = folder.path().join("notes");
        let running = tokio::spawn(async move { shell_in(&script, Duration::from_secs(60), &notes).await });
        is_written(&file).await;
        running.abort();
        is_gone(&file).await;
    }

    #[tokio::test]
    async fn what_a_killed_process_left_is_killed_by_the_next_one_and_nothing_else() {
        let folder = tempfile::tempdir().unwrap();
        let (file, notes) = (folder.path().join("pid"), folder.path().join("notes"));
        fs::create_dir(&notes).unwrap();
        // As a command is started, by a process that is killed: nobody drops anything.
        let script = IN_ANOTHER_GROUP.replace("FILE", &file.display().to_string());
        let mut left =
            std::process::Command::new("setsid").args(["sh", "-c", &script]).env(MARK, "abc").spawn().unwrap();
        let mut other = std::process::Command::new("setsid").args(["sleep", "600"]).env(MARK, "xyz").spawn().unwrap();
        is_written(&file).await;
        fs::write(notes.join("abc"), left.id().to_string()).unwrap();
        // The number of this one was another command's.
        fs::write(notes.join("def"), other.id().to_string()).unwrap();
        kill_leftovers(&notes);
        is_gone(&file).await;
        assert!(!left.wait().unwrap().success());
        assert!(other.try_wait().unwrap().is_none());
        assert_eq!(fs::read_dir(&notes).unwrap().count(), 0);
        other.kill().unwrap();
        other.wait().unwrap();
    }
}
