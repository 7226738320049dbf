//! Files as the ledger needs them: durable, private, locked, bounded.

use std::{
    fs::{self, DirBuilder, File, OpenOptions, Permissions, TryLockError},
    io::{self, Read, Seek, SeekFrom, Write},
    os::unix::fs::{DirBuilderExt, FileTypeExt, OpenOptionsExt, PermissionsExt},
    path::{Path, PathBuf},
    time::{Duration, Instant},
};

use ed25519_dalek::{
    SigningKey,
    pkcs8::{DecodePrivateKey, EncodePrivateKey, spki::der::pem::LineEnding},
};

/// How long a process waits for another one's append.
const LOCK_WAIT: Duration = Duration::from_secs(20);

/// What the file system said, and of which file.
#[derive(Debug, thiserror::Error)]
#[error("{path}: {source}", path = path.display())]
pub struct FileError {
    path: PathBuf,
    source: io::Error,
}

impl FileError {
    /// Of `path`.
    pub fn new(path: &Path, source: io::Error) -> Self {
        Self { path: path.to_owned(), source }
    }

    fn other(path: &Path, why: impl Into<String>) -> Self {
        Self::new(path, io::Error::other(why.into()))
    }
}

/// Whether `name` is safe as part of a file name.
pub fn is_plain_name(name: &str) -> bool {
    let allowed = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'_' | b'.');
    !name.is_empty() && name.len() <= 128 && !name.starts_with('.') && name.bytes().all(allowed)
}

/// Makes a folder with these permissions, if it is not there.
pub fn make_folder(path: &Path, mode: u32) -> Result<(), FileError> {
    DirBuilder::new().recursive(true).mode(mode).create(path).map_err(|source| FileError::new(path, source))
}

/// A held lock; dropping it gives it back. So does the end of the process, however it ends.
#[derive(Debug)]
pub struct Lock(#[allow(dead_code)] File);

/// Takes the lock for writing, waiting for others.
pub fn lock(path: &Path) -> Result<Lock, FileError> {
    wait_for(path, File::try_lock)
}

/// Takes the lock for reading, waiting for writers.
pub fn lock_shared(path: &Path) -> Result<Lock, FileError> {
    wait_for(path, File::try_lock_shared)
}

// The ledger is a blocking interface (files and fsync); a file lock has no condition that could be awaited, and waiting
// without a bound would hide a stuck process.
#[allow(clippy::disallowed_methods)]
fn wait_for(path: &Path, take: fn(&File) -> Result<(), TryLockError>) -> Result<Lock, FileError> {
    let options = OpenOptions::new().write(true).create(true).truncate(false).mode(0o600).open(path);
    let file = options.map_err(|source| FileError::new(path, source))?;
    let started = Instant::now();
    loop {
        match take(&file) {
            Ok(()) => return Ok(Lock(file)),
            Err(TryLockError::WouldBlock) if started.elapsed() < LOCK_WAIT => {
                std::thread::sleep(Duration::from_millis(2));
            }
            Err(TryLockError::WouldBlock) => {
                return Err(FileError::other(path, format!("held by another process for {LOCK_WAIT:?}")));
            }
            Err(TryLockError::Error(source)) => return Err(FileError::new(path, source)),
        }
    }
}

/// Replaces a file atomically and durably: after a crash it is the old one or the new one, whole.
pub fn replace(path: &Path, bytes: &[u8]) -> Result<(), FileError> {
    replace_with_mode(path, bytes, 0o644)
}

fn replace_with_mode(path: &Path, bytes: &[u8], mode: u32) -> Result<(), FileError> {
    let mut name = path.file_name().unwrap_or_default().to_owned();
    name.push(format!(".{}.tmp", std::process::id()));
    let temporary = path.with_file_name(name);
    let io = |source| FileError::new(path, source);
    let write = || -> io::Result<()> {
        let mut file = OpenOptions::new().write(true).create(true).truncate(true).mode(mode).open(&temporary)?;
        file.set_permissions(Permissions::from_mode(mode))?;
        file.write_all(bytes)?;
        file.sync_all()?;
        fs::rename(&temporary, path)
    };
    if let Err(error) = write() {
        // The error that matters is the first one; a left-over temporary file is overwritten by the next attempt.
        let _ = fs::remove_file(&temporary);
        return Err(io(error));
    }
    sync_folder(path).map_err(io)
}

/// Opens a regular file for reading. Devices, pipes, sockets and folders are refused before they are opened: opening a
/// pipe waits for its writer, and a device may never end.
pub fn open_regular(path: &Path) -> io::Result<File> {
    let is_regular = |file: &fs::Metadata| match file.is_file() {
        true => Ok(()),
        false => Err(io::Error::other(format!("is {}, not a regular file", kind(file.file_type())))),
    };
    is_regular(&fs::metadata(path)?)?;
    let file = File::open(path)?;
    is_regular(&file.metadata()?)?;
    Ok(file)
}

fn kind(kind: fs::FileType) -> &'static str {
    if kind.is_dir() {
        "a folder"
    } else if kind.is_fifo() {
        "a pipe"
    } else if kind.is_socket() {
        "a socket"
    } else {
        "a device"
    }
}

/// Whole content of a regular file of at most `limit` bytes. The limit holds for what is read, whatever the size that the
/// file system states.
pub fn read_bounded(path: &Path, limit: u64) -> io::Result<Vec<u8>> {
    let file = open_regular(path)?;
    let length = file.metadata()?.len();
    let too_long = || io::Error::other(format!("has more than {limit} bytes"));
    if length > limit {
        return Err(too_long());
    }
    let mut bytes = Vec::with_capacity(usize::try_from(length).unwrap_or(0));
    file.take(limit.saturating_add(1)).read_to_end(&mut bytes)?;
    if bytes.len() as u64 > limit { Err(too_long()) } else { Ok(bytes) }
}

/// Reads from `offset` to the end, at most `limit` bytes.
pub fn read_from(path: &Path, offset: u64, limit: u64) -> Result<Vec<u8>, FileError> {
    let io = |source| FileError::new(path, source);
    let mut file = open_regular(path).map_err(io)?;
    let length = file.metadata().map_err(io)?.len();
    if length > limit {
        return Err(FileError::other(path, format!("has {length} bytes, more than {limit}")));
    }
    if length < offset {
        return Err(FileError::other(path, format!("was cut: it has {length} bytes, {offset} were there before")));
    }
    file.seek(SeekFrom::Start(offset)).map_err(io)?;
    let mut bytes = Vec::new();
    file.take(length - offset).read_to_end(&mut bytes).map_err(io)?;
    Ok(bytes)
}

/// Reads the bytes of `from..to`.
pub fn read_range(path: &Path, from: u64, to: u64) -> Result<Vec<u8>, FileError> {
    let io = |source| FileError::new(path, source);
    let mut file = open_regular(path).map_err(io)?;
    file.seek(SeekFrom::Start(from)).map_err(io)?;
    let mut bytes = Vec::new();
    file.take(to.saturating_sub(from)).read_to_end(&mut bytes).map_err(io)?;
    Ok(bytes)
}

/// Reads a small text file.
pub fn read_text(path: &Path, limit: u64) -> Result<String, FileError> {
    let bytes = read_from(path, 0, limit)?;
    String::from_utf8(bytes).map_err(|_| FileError::other(path, "is not text"))
}

/// Moves a file over another one in the same folder, durably.
pub fn rename(from: &Path, to: &Path) -> Result<(), FileError> {
    fs::rename(from, to).and_then(|()| sync_folder(to)).map_err(|source| FileError::new(from, source))
}

/// Removes a file durably; one that is not there is no error.
pub fn remove(path: &Path) -> Result<(), FileError> {
    match fs::remove_file(path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(FileError::new(path, error)),
        Err(_) => Ok(()),
        Ok(()) => sync_folder(path).map_err(|source| FileError::new(path, source)),
    }
}

fn sync_folder(path: &Path) -> io::Result<()> {
    let folder = path.parent().filter(|folder| !folder.as_os_str().is_empty()).unwrap_or(Path::new("."));
    File::open(folder).and_then(|folder| folder.sync_all())
}

/// Cuts a file durably.
pub fn truncate(path: &Path, length: u64) -> Result<(), FileError> {
    let cut = || -> io::Result<()> {
        let file = OpenOptions::new().write(true).open(path)?;
        file.set_len(length)?;
        file.sync_all()
    };
    cut().map_err(|source| FileError::new(path, source))
}

/// A new Ed25519 key from the operating system's randomness.
pub fn new_key() -> Result<SigningKey, FileError> {
    let mut seed = [0; 32];
    let path = Path::new("/dev/urandom");
    File::open(path).and_then(|mut file| file.read_exact(&mut seed)).map_err(|source| FileError::new(path, source))?;
    Ok(SigningKey::from_bytes(&seed))
}

/// Writes a private key as PKCS#8 PEM, readable by its owner only.
pub fn write_key(path: &Path, key: &SigningKey) -> Result<(), FileError> {
    let pem = key.to_pkcs8_pem(LineEnding::LF).map_err(|error| FileError::other(path, error.to_string()))?;
    replace_with_mode(path, pem.as_bytes(), 0o600)
}

/// Reads a private key; refuses one that others can read.
pub fn read_key(path: &Path) -> Result<SigningKey, FileError> {
    let mode = fs::metadata(path).map_err(|source| FileError::new(path, source))?.permissions().mode();
    if mode & 0o077 != 0 {
        return Err(FileError::other(
            path,
            format!("others can read this private key (mode {:o}); chmod 600 it", mode & 0o777),
        ));
    }
    let pem = read_text(path, 4096)?;
    SigningKey::from_pkcs8_pem(&pem).map_err(|error| FileError::other(path, format!("is not an Ed25519 key: {error}")))
}
