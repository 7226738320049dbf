//! Commands of the user: bounded in time and output, and never outliving their step or the engine.

mod guard;

use std::{
    collections::BTreeMap,
    process::{ChildStdin, Stdio},
    sync::Arc,
    time::Duration,
};

use rustix::process::{Pid, Signal, kill_process_group};
use tokio::{
    io::{AsyncRead, AsyncReadExt},
    process::{Child, Command},
    time::timeout,
};

pub use guard::guarded_by;

/// Output that is kept, of each of stdout and stderr.
const KEPT: usize = 4096;
/// A pipe that a killed command's descendants hold open is not waited for longer than this.
const DRAIN: Duration = Duration::from_millis(500);

/// Kills the command's whole process group when dropped before the command has ended.
struct Group {
    leader: Option<Pid>,
    guard: Option<Arc<ChildStdin>>,
}

impl Group {
    fn kill(&self) {
        if let Some(pid) = self.leader {
            // Fails only if the group has no process any more, which is what is wanted.
            let _ = kill_process_group(pid, Signal::KILL);
        }
    }
}

impl Drop for Group {
    fn drop(&mut self) {
        self.kill();
        if let (Some(guard), Some(leader)) = (&self.guard, self.leader) {
            guard::leave(guard, leader);
        }
    }
}

/// Runs a command in a process group of its own, and gives the last of its output.
///
/// When its time is up or the future is dropped, the whole group is killed. argv[0] `firedrill` is the running binary.
///
/// # Errors
/// A sentence, when it cannot be started, does not exit with 0, or takes too long.
pub async fn run(
    command: &[String],
    environment: &BTreeMap<String, String>,
    bound: Duration,
) -> Result<String, String> {
    let (program, arguments) = command.split_first().ok_or_else(|| "the command is empty".to_owned())?;
    let mut prepared = Command::new(model::program(program));
    // The store's address holds the password of a database, which is none of the command's business.
    prepared.arg0(program).args(arguments).env_remove("FIREDRILL_STORE").envs(environment).process_group(0);
    prepared.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
    let guard = guard::input().map_err(|error| format!("{program} cannot be started: no guard for it: {error}"))?;
    die_with_parent(&mut prepared, guard.clone());
    let mut child = prepared.spawn().map_err(|error| format!("{program} cannot be started: {error}"))?;
    let leader = child.id().and_then(|id| i32::try_from(id).ok()).and_then(Pid::from_raw);
    let group = Group { leader, guard };
    match timeout(bound, finish(&mut child)).await {
        Ok(result) => {
            let (status, output) = result.map_err(|error| format!("{program}: {error}"))?;
            let output = output.trim().to_owned();
            match (status.success(), output.is_empty()) {
                (true, _) => Ok(output),
                (false, true) => Err(format!("{program} ended with {status}")),
                (false, false) => Err(format!("{program} ended with {status}: {output}")),
            }
        }
        Err(_) => {
            group.kill();
            child.wait().await.map_err(|error| format!("{program}: {error}"))?;
            Err(format!("{program} did not end within {bound:?} and was killed"))
        }
    }
}

/// Lets the kernel kill the command when the thread that started it ends: a worker of the runtime, which ends with the
/// process (also with SIGKILL). A command that outlived its engine could do its work after it had been undone. The signal
/// does not reach what the command has started; its group is the guard's business, which is told before the command begins.
#[allow(unsafe_code, reason = "there is no other way to set the parent-death signal before exec")]
fn die_with_parent(command: &mut Command, guard: Option<Arc<ChildStdin>>) {
    let parent = rustix::process::getpid();
    let before_exec = move || {
        if let Some(guard) = &guard {
            guard::enter(guard)?;
        }
        rustix::process::set_parent_process_death_signal(Some(Signal::KILL))?;
        // The parent may have died before the line above.
        if rustix::process::getppid() == Some(parent) {
            Ok(())
        } else {
            Err(std::io::Error::from(rustix::io::Errno::SRCH))
        }
    };
    // SAFETY: between fork and exec only async-signal-safe things may be done. `before_exec` makes four system calls
    // (getpid, write, prctl, getppid), which are; it captures an integer and a counted file, allocates nothing (an `Errno` makes an error without
    // allocation) and takes no lock.
    unsafe {
        command.pre_exec(before_exec);
    }
}

async fn finish(child: &mut Child) -> std::io::Result<(std::process::ExitStatus, String)> {
    let (out, err) = (child.stdout.take(), child.stderr.take());
    let reading = async { tokio::join!(tail(out), tail(err)) };
    tokio::pin!(reading);
    // The pipes may be held open by something that the command left running: its exit is what counts.
    let (status, read) = tokio::select! {
        read = &mut reading => (child.wait().await?, Some(read)),
        status = child.wait() => (status?, None),
    };
    let (out, err) = match read {
        Some(read) => read,
        None => timeout(DRAIN, reading).await.unwrap_or_default(),
    };
    let text = [out, err].concat();
    Ok((status, String::from_utf8_lossy(&text).into_owned()))
}

async fn tail(pipe: Option<impl AsyncRead + Unpin>) -> Vec<u8> {
    let mut kept = Vec::new();
    let Some(mut pipe) = pipe else { return kept };
    let mut buffer = [0u8; 4096];
    // A read error ends the output; the exit status tells how the command ended.
    while let Ok(count @ 1..) = pipe.read(&mut buffer).await {
        kept.extend_from_slice(buffer.get(..count).unwrap_or_default());
        if kept.len() > KEPT {
            kept.drain(..kept.len() - KEPT);
        }
    }
    kept
}

#[cfg(test)]
mod tests {
    use super::*;

    fn argv(script: &str) -> Vec<String> {
        ["sh", "-c", script].map(str::to_owned).to_vec()
    }

    async fn check(script: &str, expected: Result<&str, &str>) {
        let environment = BTreeMap::from([("GREETING".to_owned(), "hello".to_owned())]);
        let seen = run(&argv(script), &environment, Duration::from_secs(10)).await;
        match expected {
            Ok(output) => assert_eq!(seen.as_deref(), Ok(output), "{script}"),
            Err(part) => assert!(seen.as_ref().is_err_and(|e| e.contains(part)), "{script}: {seen:?}"),
        }
    }

    #[tokio::test]
    async fn ends_and_output() {
        check("echo $GREETING", Ok("hello")).await;
        check("echo bad >&2; exit 3", Err("exit status: 3: bad")).await;
        check("exit 4", Err("exit status: 4")).await;
        let missing = run(&["no-such-program-1".to_owned()], &BTreeMap::new(), Duration::from_secs(1)).await;
        assert!(missing.is_err_and(|e| e.contains("cannot be started")));
        assert!(run(&[], &BTreeMap::new(), Duration::from_secs(1)).await.is_err());
    }

    /// A guard in the shell's words, as `firedrill guard` is one.
    const GUARD: &str = r#"while read -r line; do case "$line" in
        +*) groups="$groups ${line#+}";;
        -*) left=; for g in $groups; do [ "$g" = "${line#-}" ] || left="$left $g"; done; groups=$left;;
    esac; echo "$groups" > "$0"; done 2>/dev/null"#;

    #[tokio::test]
    async fn a_guard_knows_every_group_while_it_runs() {
        let folder = std::env::temp_dir().join(format!("drill-guard-{}", std::process::id()));
        std::fs::create_dir_all(&folder).unwrap();
        let known = folder.join("known");
        guarded_by(&["sh", "-c", GUARD, &known.to_string_lossy()]);
        // The guard writes down what it knows a moment after it was told.
        let script = format!(
            "for i in $(seq 1000); do grep -qw $$ {0} 2>/dev/null && {{ echo known; exit; }}; sleep 0.01; done",
            known.display()
        );
        let seen = run(&argv(&script), &BTreeMap::new(), Duration::from_secs(20)).await;
        assert_eq!(seen.as_deref(), Ok("known"));
        // The guard may be writing of another test's command just now, so that the folder is not empty.
        let _ = std::fs::remove_dir_all(&folder);
    }

    #[tokio::test]
    async fn killed_with_its_children() {
        let folder = std::env::temp_dir().join(format!("drill-command-{}", std::process::id()));
        std::fs::create_dir_all(&folder).unwrap();
        let pid_file = folder.join("pid");
        let script = format!("sleep 100 & echo $! > {}; wait", pid_file.display());
        let seen = run(&argv(&script), &BTreeMap::new(), Duration::from_millis(700)).await;
        assert!(seen.is_err_and(|e| e.contains("was killed")));
        let pid: i32 = std::fs::read_to_string(&pid_file).unwrap().trim().parse().unwrap();
        // SIGKILL is not instant: the child is gone, or a zombie that nobody has reaped yet.
        let gone = || match std::fs::read_to_string(format!("/proc/{pid}/stat")) {
            Err(_) => true,
            Ok(stat) => stat.rsplit(") ").next().is_some_and(|rest| rest.starts_with(['Z', 'X'])),
        };
        for _ in 0..1000 {
            if gone() {
                break;
            }
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
        assert!(gone());
        std::fs::remove_dir_all(&folder).unwrap();
    }
}
