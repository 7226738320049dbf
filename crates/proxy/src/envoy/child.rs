//! The Envoy beside us: its files, its start and its end.

use std::{
    ffi::OsString,
    fs::{self, DirBuilder, OpenOptions},
    io::{self, Write as _},
    os::unix::fs::{DirBuilderExt as _, OpenOptionsExt as _},
    path::{Path, PathBuf},
    process::Stdio,
};

use tokio::process::{Child, Command};
use xds::{bootstrap::Attended, node::NodeInfo};

/// The first release that is known to take all that we write.
pub const OLDEST: (u32, u32) = (1, 30);
/// What the kernel has room for in the address of a Unix socket.
const LONGEST_SOCKET: usize = 107;

/// Which Envoy, and how it is started.
#[derive(Clone, Debug)]
pub struct Program {
    /// The program: a path, or a name that is looked for.
    pub path: PathBuf,
    /// Stands before the program in its command: what ties its life to ours.
    pub through: Vec<OsString>,
    /// Its worker threads.
    pub workers: usize,
}

/// Where it and we meet.
#[derive(Clone, Debug)]
pub struct Place {
    /// We serve ADS here.
    pub control: PathBuf,
    /// It has its admin interface here.
    pub admin: PathBuf,
    bootstrap: PathBuf,
}

impl Place {
    /// In this folder, which is the owner's alone. What a former process left there is taken away.
    ///
    /// # Errors
    /// When the folder cannot be made, or its path is too long for a socket.
    pub fn new(folder: &Path) -> io::Result<Self> {
        DirBuilder::new().recursive(true).mode(0o700).create(folder)?;
        // Envoy reads the paths as they stand, wherever it is started.
        let folder = folder.canonicalize()?;
        let place = Self {
            control: folder.join("ads.sock"),
            admin: folder.join("admin.sock"),
            bootstrap: folder.join("envoy.json"),
        };
        let length = place.admin.as_os_str().len();
        if length > LONGEST_SOCKET {
            return Err(io::Error::other(format!(
                "{} has {length} bytes, and a socket's path at most {LONGEST_SOCKET}: name a shorter folder with `--state DIR`",
                place.admin.display()
            )));
        }
        for socket in [&place.control, &place.admin] {
            match fs::remove_file(socket) {
                Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
                _ => {}
            }
        }
        Ok(place)
    }

    /// Starts Envoy. It is killed when the handle is dropped.
    ///
    /// # Errors
    /// When its bootstrap cannot be written, or it cannot be started.
    pub fn start(&self, program: &Program, node: NodeInfo) -> io::Result<Child> {
        let attended = Attended { node, control: self.control.clone(), admin: self.admin.clone() };
        let mut file = OpenOptions::new().write(true).create(true).truncate(true).mode(0o600).open(&self.bootstrap)?;
        file.write_all(attended.to_json().as_bytes())?;
        let mut words = program.through.iter().cloned().chain([program.path.clone().into_os_string()]);
        let mut command = Command::new(words.next().unwrap_or_default());
        command.args(words).arg("-c").arg(&self.bootstrap).arg("--concurrency").arg(program.workers.max(1).to_string());
        command.args(["--disable-hot-restart", "--log-level", "warning"]);
        command.args(["--drain-time-s", "5", "--drain-strategy", "immediate"]);
        command.stdin(Stdio::null()).kill_on_drop(true).spawn()
    }
}

/// The version of an Envoy, `1.40.0`.
///
/// # Errors
/// A sentence: there is no such program, it is no Envoy, or it is too old.
pub fn version(program: &Path) -> Result<String, String> {
    let name = program.display();
    let told = std::process::Command::new(program).arg("--version").stdin(Stdio::null()).output();
    let told = told.map_err(|error| format!("the Envoy `{name}` cannot be started: {error}"))?;
    let text = String::from_utf8_lossy(&told.stdout);
    let version = read_version(&text).ok_or_else(|| format!("`{name}` is no Envoy: it does not tell its version"))?;
    let mut numbers = version.split('.').map_while(|number| number.parse::<u32>().ok());
    let release = (numbers.next().unwrap_or(0), numbers.next().unwrap_or(0));
    if release < OLDEST {
        return Err(format!("`{name}` is Envoy {version}; {}.{} or later is needed", OLDEST.0, OLDEST.1));
    }
    Ok(version)
}

/// From `envoy  version: 0123abc/1.40.0/Clean/RELEASE/BoringSSL`.
fn read_version(text: &str) -> Option<String> {
    let (_, rest) = text.split_once("version: ")?;
    let version = rest.split('/').nth(1)?.trim();
    version.starts_with(|first: char| first.is_ascii_digit()).then(|| version.to_owned())
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt as _;

    use super::*;

    #[test]
    fn a_version_is_read_and_nothing_else_is_one() {
        let text = "\n/usr/bin/envoy  version: 9e5580/1.40.0/Clean/RELEASE/BoringSSL\n\n";
        assert_eq!(read_version(text).as_deref(), Some("1.40.0"));
        for other in ["", "version: 3", "GNU bash, version 5.2.15(1)-release"] {
            assert_eq!(read_version(other), None, "{other}");
        }
    }

    #[test]
    fn what_is_no_envoy_or_too_old_is_refused_with_the_reason() {
        let folder = tempfile::tempdir().unwrap();
        let program = |name: &str, text: &str| {
            let path = folder.path().join(name);
            fs::write(&path, format!("#!/bin/sh\necho '{text}'\n")).unwrap();
            fs::set_permissions(&path, fs::Permissions::from_mode(0o755)).unwrap();
            version(&path)
        };
        assert_eq!(program("new", "envoy  version: a/1.40.0/Clean/RELEASE/BoringSSL").as_deref(), Ok("1.40.0"));
        let old = program("old", "envoy  version: a/1.29.9/Clean/RELEASE/BoringSSL").unwrap_err();
        assert!(old.contains("1.29.9") && old.contains("1.30 or later"), "{old}");
        assert!(program("other", "hello").unwrap_err().contains("is no Envoy"));
        assert!(version(&folder.path().join("nothing")).unwrap_err().contains("cannot be started"));
    }

    #[test]
    fn the_folder_is_the_owners_and_a_path_too_long_is_refused() {
        let folder = tempfile::tempdir().unwrap();
        let own = folder.path().join("envoy");
        let place = Place::new(&own).unwrap();
        fs::write(&place.admin, "left").unwrap();
        Place::new(&own).unwrap();
        assert!(!place.admin.exists());
        assert_eq!(fs::metadata(&own).unwrap().permissions().mode() & 0o777, 0o700);
        let error = Place::new(&folder.path().join("x".repeat(120))).unwrap_err().to_string();
        assert!(error.contains("at most 107"), "{error}");
    }
}
