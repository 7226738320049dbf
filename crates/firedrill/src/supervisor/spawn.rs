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
    /// What it gets of the environment of this process.
    pub inherits: Inherits,
    /// Added to that.
    pub environment: BTreeMap<String, String>,
    /// Where output goes.
    pub log: PathBuf,
    /// For a proxy: how it gets into the mesh.
    pub join: Option<Join>,
}

/// How much of the supervisor's environment a process gets. Secrets are there, of whoever started the mesh.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Inherits {
    /// Everything: it acts for whoever started the mesh.
    All,
    /// What a proxy of ours reads, too.
    Proxy,
    /// What any program needs to run at all.
    Little,
}

/// What any program needs: where programs and libraries are, whose it is, language and time.
const LITTLE: &[&str] = &[
    "PATH",
    "LD_LIBRARY_PATH",
    "HOME",
    "USER",
    "LOGNAME",
    "SHELL",
    "TMPDIR",
    "TZ",
    "LANG",
    "LANGUAGE",
    "LC_ALL",
    "LC_CTYPE",
    "TERM",
    "NO_COLOR",
];
/// What a proxy reads.
const PROXY: &[&str] =
    &["FIREDRILL_LOG", "FIREDRILL_OTLP", "FIREDRILL_TRACE_SAMPLING", "RUST_BACKTRACE", "SPIFFE_ENDPOINT_SOCKET"];

impl Inherits {
    fn takes(self, name: &std::ffi::OsStr) -> bool {
        let among = |names: &[&str]| names.iter().any(|known| name == *known);
        match self {
            Self::All => true,
            Self::Proxy => among(LITTLE) || among(PROXY),
            Self::Little => among(LITTLE),
        }
    }
}

/// The mask that this process was started with, once it has taken a private one.
static MASK: OnceLock<u32> = OnceLock::new();

/// From now on files of this process are its user's alone, whatever mask it was started with. Workloads still get that one.
pub fn keep_files_private() {
    let before = rustix::process::umask(rustix::fs::Mode::from_raw_mode(0o077));
    // A second call finds the private one.
    let _ = MASK.set(before.as_raw_mode());
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
        command.arg0(OWN).args(["exec", "--parent", &std::process::id().to_string()]);
        if let Some(mask) = MASK.get().filter(|_| recipe.inherits == Inherits::Little) {
            command.args(["--umask", &format!("{mask:o}")]);
        }
        command.arg("--").args(&recipe.argv);
        command.env_clear().envs(std::env::vars_os().filter(|(name, _)| recipe.inherits.takes(name)));
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn secrets_of_the_environment_stay_with_whoever_started_the_mesh() {
        for secret in ["FIREDRILL_STORE", "FIREDRILL_TOKEN", "PGPASSWORD", "AWS_SECRET_ACCESS_KEY", "PATHS", "path", ""]
        {
            assert!(!Inherits::Little.takes(secret.as_ref()) && !Inherits::Proxy.takes(secret.as_ref()), "{secret}");
            assert!(Inherits::All.takes(secret.as_ref()));
        }
        assert!(Inherits::Little.takes("PATH".as_ref()) && Inherits::Proxy.takes("PATH".as_ref()));
        assert!(Inherits::Proxy.takes("FIREDRILL_OTLP".as_ref()) && !Inherits::Little.takes("FIREDRILL_OTLP".as_ref()));
    }
}
