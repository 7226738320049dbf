//! Starting a child so that it cannot outlive this process: own process group, parent-death signal, guard.

use std::{
    collections::BTreeMap,
    io,
    path::PathBuf,
    process::Stdio,
    sync::{Mutex, OnceLock, PoisonError, mpsc},
};

use rustix::process::{Pid, Signal, kill_process, kill_process_group};
use tokio::{
    process::{Child, Command},
    runtime::Handle,
    sync::oneshot,
};

use super::{join::Join, log::LogFile};

/// What to start.
#[derive(Clone, Debug)]
pub struct Recipe {
    /// Program and arguments.
    pub argv: Vec<String>,
    /// Added to the environment of this process.
    pub environment: BTreeMap<String, String>,
    /// Where output goes.
    pub log: PathBuf,
    /// For a proxy: how it gets into the mesh.
    pub join: Option<Join>,
}

/// What this very binary is called in a command.
const OWN: &str = "firedrill";

type Job = Box<dyn FnOnce() + Send>;

/// The parent-death signal is sent when the *thread* that started the child ends, so children are started by one that
/// lives as long as the process.
fn lasting_thread() -> io::Result<&'static mpsc::Sender<Job>> {
    static JOBS: OnceLock<mpsc::Sender<Job>> = OnceLock::new();
    if let Some(jobs) = JOBS.get() {
        return Ok(jobs);
    }
    let (sender, jobs) = mpsc::channel::<Job>();
    std::thread::Builder::new().name("spawner".to_owned()).spawn(move || jobs.into_iter().for_each(|job| job()))?;
    // If two came at once, one thread idles until the end.
    Ok(JOBS.get_or_init(|| sender))
}

/// Starts children.
#[derive(Debug)]
pub struct Spawner {
    guard: Mutex<Option<std::process::Child>>,
}

impl Spawner {
    /// With a guard process that cleans up if this process is killed.
    ///
    /// # Errors
    /// When the guard cannot be started.
    pub fn new() -> io::Result<Self> {
        use std::os::unix::process::CommandExt;
        // No parent-death signal for this one: it acts when the parent is dead.
        let guard = std::process::Command::new(model::program(OWN))
            .arg0(OWN)
            .arg("guard")
            .stdin(Stdio::piped())
            .stdout(Stdio::null())
            .process_group(0)
            .spawn()?;
        Ok(Self { guard: Mutex::new(Some(guard)) })
    }

    /// Starts a child in a process group of its own; its id is also the group's.
    ///
    /// # Errors
    /// When there is no program, or no more processes.
    pub async fn spawn(&self, recipe: &Recipe) -> io::Result<(Child, Pid)> {
        let token = match &recipe.join {
            Some(join) => join.token().await,
            None => None,
        };
        let (reader, writer) = io::pipe()?;
        let mut command = Command::new(model::program(OWN));
        command.arg0(OWN).args(["exec", "--parent", &std::process::id().to_string(), "--"]).args(&recipe.argv);
        command.envs(token.map(|token| ("FIREDRILL_TOKEN", token)));
        command.envs(&recipe.environment).stdin(Stdio::null()).stdout(writer.try_clone()?).stderr(writer);
        command.process_group(0);
        let log = LogFile::open(&recipe.log)?;
        let child = start(command).await?;
        let pid = child.id().and_then(|id| i32::try_from(id).ok()).and_then(Pid::from_raw);
        let pid = pid.ok_or_else(|| io::Error::other("the process has no id"))?;
        self.tell_guard('+', pid);
        tokio::spawn(log.copy(reader.into()));
        Ok((child, pid))
    }

    /// The leader of a group was reaped: whoever is left in its group dies too.
    pub fn finish(&self, group: Pid) {
        signal_group(group, Signal::KILL);
        self.tell_guard('-', group);
    }

    fn tell_guard(&self, sign: char, group: Pid) {
        use std::io::Write;
        let mut guard = self.guard.lock().unwrap_or_else(PoisonError::into_inner);
        let Some(input) = guard.as_mut().and_then(|guard| guard.stdin.as_mut()) else { return };
        if let Err(error) = writeln!(input, "{sign}{}", group.as_raw_pid()) {
            tracing::warn!(%error, "the guard is gone: a SIGKILL of this process could leave grandchildren");
        }
    }

    /// Ends the guard; to be called when every child is gone.
    pub fn close(&self) {
        let guard = self.guard.lock().unwrap_or_else(PoisonError::into_inner).take();
        if let Some(mut guard) = guard {
            drop(guard.stdin.take());
            if let Err(error) = guard.wait() {
                tracing::debug!(%error, "guard");
            }
        }
    }
}

async fn start(mut command: Command) -> io::Result<Child> {
    let (reply, replied) = oneshot::channel();
    let runtime = Handle::current();
    let job: Job = Box::new(move || {
        let _entered = runtime.enter();
        if let Err(Ok(mut child)) = reply.send(command.spawn()) {
            // Nobody waits for it any more.
            if let Err(error) = child.start_kill() {
                tracing::debug!(%error, "kill");
            }
        }
    });
    lasting_thread()?.send(job).map_err(|_| io::Error::other("the spawner thread is gone"))?;
    replied.await.map_err(|_| io::Error::other("the spawner thread is gone"))?
}

/// Sends a signal to the leader of a group alone. Returns whether it was there.
pub fn signal_leader(leader: Pid, signal: Signal) -> bool {
    told(kill_process(leader, signal), leader, signal)
}

/// Sends a signal to a whole group. Returns whether there was anybody.
pub fn signal_group(group: Pid, signal: Signal) -> bool {
    told(kill_process_group(group, signal), group, signal)
}

fn told(sent: rustix::io::Result<()>, pid: Pid, signal: Signal) -> bool {
    match sent {
        Ok(()) => true,
        Err(error) => {
            if error != rustix::io::Errno::SRCH {
                tracing::warn!(%error, ?signal, pid = pid.as_raw_pid(), "signal");
            }
            false
        }
    }
}
