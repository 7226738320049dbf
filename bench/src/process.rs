//! Processes that are measured, and those that help: each in a group of its own, which ends with it and with us.

use std::{
    ffi::OsStr,
    fs::{self, File},
    os::unix::process::CommandExt as _,
    path::Path,
    process::{Child, ChildStdin, Command, ExitStatus, Stdio},
    time::{Duration, Instant},
};

use rustix::process::{Pid, Signal, kill_process_group};

use crate::{failure::Failure, machine};

/// Patience with a process that is asked to end.
const PATIENCE: Duration = Duration::from_secs(2);

/// A running process and its children. Dropping it ends them.
#[derive(Debug)]
pub struct Process {
    child: Child,
}

/// A command that runs on one core, and is killed when this process ends in whatever way.
pub fn command(core: usize, program: impl AsRef<OsStr>) -> Command {
    let mut command = Command::new("setpriv");
    command.args(["--pdeathsig", "KILL", "taskset", "-c", &core.to_string()]).arg(program);
    command.process_group(0).stdin(Stdio::null());
    command
}

impl Process {
    /// Starts a command; what it says goes to a file.
    ///
    /// # Errors
    /// When it cannot be started.
    pub fn start(mut command: Command, log: &Path) -> Result<Self, Failure> {
        let what = || log.display().to_string();
        let file = File::create(log).map_err(Failure::io(what()))?;
        let errors = file.try_clone().map_err(Failure::io(what()))?;
        let child = command.stdout(file).stderr(errors).spawn();
        Ok(Self { child: child.map_err(Failure::io("setpriv (of util-linux)"))? })
    }

    /// Its standard input, where the command has a pipe for it.
    pub fn input(&mut self) -> Option<&mut ChildStdin> {
        self.child.stdin.as_mut()
    }

    /// Kills it at once.
    pub fn kill(&self) {
        self.signal(Signal::KILL);
    }

    /// Stops it, as a machine that hangs.
    pub fn stop(&self) {
        self.signal(Signal::STOP);
    }

    /// Lets a stopped one go on.
    pub fn go_on(&self) {
        self.signal(Signal::CONT);
    }

    /// How it ended, if it did.
    pub fn ended(&mut self) -> Option<ExitStatus> {
        self.child.try_wait().ok().flatten()
    }

    /// Processor time of all its processes, in microseconds.
    pub fn cpu_micros(&self) -> u64 {
        // After the name: state ppid pgrp session tty tpgid flags minflt cminflt majflt cmajflt utime stime
        let ticks = self.members().map(|stat| number(&stat, 11).saturating_add(number(&stat, 12))).sum();
        machine::micros(ticks)
    }

    /// A figure of `/proc/PID/status` summed over all its processes, in KiB: `VmRSS`, `VmHWM`.
    pub fn status_kib(&self, field: &str) -> u64 {
        let of = |pid: u64| {
            let status = fs::read_to_string(format!("/proc/{pid}/status")).unwrap_or_default();
            let line = status.lines().find_map(|line| line.strip_prefix(field)?.strip_prefix(':'));
            line.and_then(|text| text.split_whitespace().next()?.parse::<u64>().ok()).unwrap_or_default()
        };
        self.pids().map(of).sum()
    }

    fn group(&self) -> u64 {
        u64::from(self.child.id())
    }

    fn pids(&self) -> impl Iterator<Item = u64> + '_ {
        let all = fs::read_dir("/proc").into_iter().flatten().flatten();
        let pids = all.filter_map(|entry| entry.file_name().to_str()?.parse::<u64>().ok());
        pids.filter(|pid| stat(*pid).is_some_and(|stat| number(&stat, 2) == self.group()))
    }

    fn members(&self) -> impl Iterator<Item = String> + '_ {
        self.pids().filter_map(stat)
    }

    fn signal(&self, signal: Signal) {
        if let Ok(id) = i32::try_from(self.child.id())
            && let Some(group) = Pid::from_raw(id)
        {
            // Nobody is left to be told when all have ended.
            let _ = kill_process_group(group, signal);
        }
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        self.signal(Signal::TERM);
        self.signal(Signal::CONT);
        let deadline = Instant::now() + PATIENCE;
        while self.ended().is_none() && Instant::now() < deadline {
            #[allow(clippy::disallowed_methods, reason = "a destructor cannot await")]
            std::thread::sleep(Duration::from_millis(10));
        }
        self.signal(Signal::KILL);
        let _ = self.child.wait();
    }
}

/// A process's line in `/proc`, from after its name on.
fn stat(pid: u64) -> Option<String> {
    let text = fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    text.rsplit_once(") ").map(|(_, rest)| rest.to_owned())
}

fn number(stat: &str, index: usize) -> u64 {
    stat.split(' ').nth(index).and_then(|text| text.parse().ok()).unwrap_or_default()
}
