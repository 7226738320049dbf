//! Commands do not outlive this process, however it ends: a process of its own knows their groups, and kills those that are
//! left when its input ends, which the kernel sees to.

use std::{
    io,
    os::fd::AsFd as _,
    process::{Child, ChildStdin, Command, Stdio},
    sync::{Arc, Mutex, OnceLock, PoisonError},
};

use rustix::process::Pid;

static GUARD: OnceLock<Guard> = OnceLock::new();

#[derive(Debug)]
struct Guard {
    argv: Vec<String>,
    running: Mutex<Option<(Child, Arc<ChildStdin>)>>,
}

/// From now on commands have a guard: this program, which reads lines `+<group>` and `-<group>` and kills the groups that are
/// left at the end of its input. It is started with the first command. To be called once, before that.
pub fn guarded_by(argv: &[&str]) {
    let argv = argv.iter().map(|word| (*word).to_owned()).collect();
    // A second call finds the first one's guard, which is as good.
    let _ = GUARD.set(Guard { argv, running: Mutex::default() });
}

/// Input of the running guard, started anew if it has ended; `None` if none was asked for.
pub(super) fn input() -> io::Result<Option<Arc<ChildStdin>>> {
    use std::os::unix::process::CommandExt as _;
    let Some(guard) = GUARD.get() else { return Ok(None) };
    let Some((program, arguments)) = guard.argv.split_first() else { return Ok(None) };
    let mut running = guard.running.lock().unwrap_or_else(PoisonError::into_inner);
    if let Some((child, input)) = running.as_mut()
        && child.try_wait()?.is_none()
    {
        return Ok(Some(input.clone()));
    }
    let mut command = Command::new(model::program(program));
    command.arg0(program).args(arguments).process_group(0);
    let mut child = command.stdin(Stdio::piped()).stdout(Stdio::null()).spawn()?;
    let input = child.stdin.take().ok_or_else(|| io::Error::other("the guard has no input"))?;
    let input = Arc::new(input);
    *running = Some((child, input.clone()));
    Ok(Some(input))
}

/// Tells the guard of this very process, which leads its group. Async-signal-safe: for between fork and exec.
pub(super) fn enter(input: &ChildStdin) -> io::Result<()> {
    let (mut line, mut at) = ([0u8; 16], 15);
    let mut number = rustix::process::getpid().as_raw_nonzero().get().unsigned_abs();
    line[at] = b'\n';
    loop {
        at -= 1;
        line[at] = b'0' + (number % 10) as u8;
        number /= 10;
        if number == 0 {
            break;
        }
    }
    at -= 1;
    line[at] = b'+';
    rustix::io::write(input.as_fd(), line.get(at..).unwrap_or_default())?;
    Ok(())
}

/// A group was killed: its number may be somebody else's from now on.
pub(super) fn leave(input: &ChildStdin, group: Pid) {
    // A guard that is gone needs not be told.
    let _ = rustix::io::write(input.as_fd(), format!("-{}\n", group.as_raw_nonzero()).as_bytes());
}
