//! A PostgreSQL of Debian, started by a test in a folder of its own, reached through a socket there.

use std::{
    os::unix::fs::chown,
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    time::{Duration, Instant},
};

use tempfile::TempDir;

/// Whom it runs as if the test is run by root, which PostgreSQL refuses to be: Debian's `nobody`.
const NOBODY: u32 = 65_534;
/// Its superuser.
const USER: &str = "firedrill";

/// A running server; killed, with all that it holds, when it is dropped.
pub struct Postgres {
    folder: TempDir,
    programs: PathBuf,
    server: Child,
}

impl Postgres {
    /// Starts a server; `None` (which is said) where PostgreSQL is not installed.
    pub fn start() -> Option<Self> {
        let Some(programs) = programs() else {
            eprintln!("skipped: PostgreSQL is not installed (Debian: apt-get install postgresql; here: make tools)");
            return None;
        };
        let folder = tempfile::Builder::new().prefix("firedrill-pg-").tempdir().expect("a temporary folder");
        if is_root() {
            chown(folder.path(), Some(NOBODY), Some(NOBODY)).expect("a folder of nobody's");
        }
        let data = folder.path().join("data");
        let made = program(&programs, "initdb")
            .args(["--username", USER, "--auth=trust", "--no-sync", "--encoding=UTF8", "--locale=C", "--pgdata"])
            .arg(&data)
            .output()
            .expect("initdb starts");
        assert!(made.status.success(), "initdb: {}", String::from_utf8_lossy(&made.stderr));
        let log = std::fs::File::create(folder.path().join("log")).expect("created");
        let server = program(&programs, "postgres")
            // It is the control plane that is killed here, not the machine.
            .args(["-c", "listen_addresses=", "-c", "fsync=off", "-c", "shared_buffers=16MB", "-D"])
            .arg(&data)
            .arg("-k")
            .arg(folder.path())
            .stderr(log)
            .spawn()
            .expect("postgres starts");
        let mut postgres = Self { folder, programs, server };
        let started = Instant::now();
        while !postgres.sql("postgres", "SELECT 1") {
            let log = std::fs::read_to_string(postgres.folder.path().join("log")).unwrap_or_default();
            let ended = postgres.server.try_wait().expect("can be asked");
            assert!(ended.is_none() && started.elapsed() < Duration::from_secs(60), "PostgreSQL: {ended:?}\n{log}");
        }
        Some(postgres)
    }

    /// URL of a new, empty database of this name.
    pub fn database(&self, name: &str) -> String {
        assert!(self.sql("postgres", &format!("CREATE DATABASE {name}")), "the database {name} was not made");
        format!("postgres://{USER}@localhost/{name}?host={}", self.folder.path().display())
    }

    /// Runs a statement; false if it failed.
    pub fn sql(&self, database: &str, statement: &str) -> bool {
        let mut psql = Command::new(self.programs.join("psql"));
        psql.arg("-h").arg(self.folder.path()).args(["-U", USER, "-d", database, "-qXc", statement]);
        psql.stdin(Stdio::null()).output().expect("psql starts").status.success()
    }
}

impl Drop for Postgres {
    fn drop(&mut self) {
        // TERM would wait for clients, which may be gone or not.
        let _ = self.server.kill();
        let _ = self.server.wait();
    }
}

fn is_root() -> bool {
    rustix::process::geteuid().is_root()
}

/// Debian keeps them apart by version; the newest is taken.
fn programs() -> Option<PathBuf> {
    let versions = std::fs::read_dir("/usr/lib/postgresql").ok()?.flatten().map(|entry| entry.path().join("bin"));
    let whole = |folder: &PathBuf| folder.join("initdb").is_file() && folder.join("psql").is_file();
    let number = |folder: &PathBuf| {
        let version = folder.parent().and_then(Path::file_name).and_then(|name| name.to_str());
        version.and_then(|version| version.parse::<u32>().ok())
    };
    versions.filter(whole).max_by_key(number)
}

fn program(programs: &Path, name: &str) -> Command {
    let program = programs.join(name);
    let mut command = if is_root() {
        let mut command = Command::new("setpriv");
        let nobody = NOBODY.to_string();
        command.args(["--reuid", &nobody, "--regid", &nobody, "--clear-groups", "--"]).arg(program);
        command
    } else {
        Command::new(program)
    };
    command.stdin(Stdio::null()).stdout(Stdio::null()).current_dir("/");
    command
}
