//! The state folder: one supervisor at a time, its subnet remembered, secrets for the owner only.

use std::{
    fs::{self, DirBuilder, File, OpenOptions},
    io::{self, Read, Write},
    net::{SocketAddr, TcpListener},
    os::unix::fs::{DirBuilderExt, OpenOptionsExt},
    path::{Path, PathBuf},
};

use rustix::fs::{FlockOperation, flock};

use super::{StartError, api::Door, layout::Subnet};

/// Subnets tried before giving up.
const TRIES: usize = 200;
/// What is added to ports when another program listens on the usual ones on all addresses.
const OFFSETS: [u16; 3] = [0, 10_000, 20_000];

/// A state folder that this process alone uses as supervisor.
#[derive(Debug)]
pub struct Folder {
    path: PathBuf,
    /// Held as long as the folder is.
    _lock: File,
}

fn machine(what: impl Into<String>) -> impl FnOnce(io::Error) -> StartError {
    let what = what.into();
    move |error| StartError::Machine { what, reason: error.to_string() }
}

impl Folder {
    /// Makes the folder if it is missing, and locks it.
    ///
    /// # Errors
    /// When it cannot be made, or another supervisor has it.
    pub fn open(path: &Path) -> Result<Self, StartError> {
        let what = format!("state folder {}", path.display());
        for part in ["run", "logs", "data", "proxies"] {
            let made = DirBuilder::new().recursive(true).mode(0o700).create(path.join(part));
            made.map_err(machine(what.clone()))?;
        }
        let path = path.canonicalize().map_err(machine(what.clone()))?;
        let mut options = OpenOptions::new();
        let lock = options.create(true).truncate(false).write(true).mode(0o600).open(path.join("run").join("lock"));
        let lock = lock.map_err(machine(what.clone()))?;
        match flock(&lock, FlockOperation::NonBlockingLockExclusive) {
            Ok(()) => {}
            Err(rustix::io::Errno::WOULDBLOCK) => {
                let pid = Door::read(&path).map_or(0, |door| door.pid);
                return Err(StartError::Busy { state: path, pid });
            }
            Err(error) => return Err(machine(what)(error.into())),
        }
        // Of a run that was killed: nobody answers there any more.
        for stale in ["supervisor.json", "control.json"] {
            match fs::remove_file(path.join("run").join(stale)) {
                Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(machine(what)(error)),
                _ => {}
            }
        }
        Ok(Self { path, _lock: lock })
    }

    /// The folder, absolute.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// A subnet that is free, the one of the last run if possible. The listener on the supervisor's address in it is
    /// the claim: no two supervisors can have it.
    ///
    /// # Errors
    /// When none is free.
    pub fn subnet(&self) -> Result<(Subnet, TcpListener), StartError> {
        let remembered = remembered_subnet(&self.path);
        let mut last = io::Error::from(io::ErrorKind::AddrInUse);
        for attempt in 0..TRIES {
            let subnet = match remembered.filter(|_| attempt == 0) {
                Some(subnet) => subnet,
                None => {
                    let [a, b] = random::<2>().map_err(machine("randomness"))?;
                    // Away from 127.0.x.y and neighbours, where people's own services are.
                    Subnet { a: 100 + a % 128, b, port_offset: OFFSETS[attempt % OFFSETS.len()] }
                }
            };
            match claim(subnet) {
                Ok(listener) => {
                    let bytes = serde_json::to_vec(&subnet).map_err(|e| machine("mesh.json")(e.into()))?;
                    fs::write(self.path.join("mesh.json"), bytes).map_err(machine("mesh.json"))?;
                    return Ok((subnet, listener));
                }
                Err(error) => last = error,
            }
        }
        Err(machine("a free loopback subnet")(last))
    }

    /// Writes where the supervisor is found.
    ///
    /// # Errors
    /// When the file cannot be written.
    pub fn publish(&self, api: SocketAddr) -> Result<Door, StartError> {
        let token = random::<32>().map_err(machine("randomness"))?;
        let token = token.iter().map(|byte| format!("{byte:02x}")).collect();
        let door = Door { api, token, pid: std::process::id() };
        let path = Door::path(&self.path);
        let what = path.display().to_string();
        let whole = path.with_extension("new");
        let write = || {
            let mut options = OpenOptions::new();
            let mut file = options.write(true).create(true).truncate(true).mode(0o600).open(&whole)?;
            file.write_all(&serde_json::to_vec(&door)?)?;
            fs::rename(&whole, &path)
        };
        write().map_err(machine(what))?;
        Ok(door)
    }

    /// Takes the file away again: nobody answers any more.
    pub fn unpublish(&self) {
        let path = Door::path(&self.path);
        if let Err(error) = fs::remove_file(&path) {
            tracing::debug!(%error, path = %path.display(), "unpublish");
        }
    }
}

/// The subnet of the last run with a state folder.
pub fn remembered_subnet(state: &Path) -> Option<Subnet> {
    let bytes = fs::read(state.join("mesh.json")).ok()?;
    serde_json::from_slice(&bytes).ok()
}

fn claim(subnet: Subnet) -> io::Result<TcpListener> {
    let listener = TcpListener::bind(subnet.supervisor_api())?;
    for address in subnet.samples() {
        TcpListener::bind(address)?;
    }
    Ok(listener)
}

/// Random bytes for tokens and choices.
pub(super) fn random<const N: usize>() -> io::Result<[u8; N]> {
    let mut bytes = [0; N];
    File::open("/dev/urandom")?.read_exact(&mut bytes)?;
    Ok(bytes)
}
