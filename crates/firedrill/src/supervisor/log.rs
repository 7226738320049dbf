//! A child's output, kept in a file of bounded size.

use std::{
    fs::{self, File, OpenOptions},
    io::{self, Read, Seek, SeekFrom, Write},
    os::{fd::OwnedFd, unix::fs::OpenOptionsExt as _},
    path::{Path, PathBuf},
};

use tokio::{io::AsyncReadExt, net::unix::pipe};

/// A file beyond this is set aside as `<name>.log.1`, replacing the one before.
const MOST: u64 = 4 << 20;

/// An open log file.
#[derive(Debug)]
pub struct LogFile {
    path: PathBuf,
    file: File,
    size: u64,
}

impl LogFile {
    /// Opens or makes it; what is there stays.
    ///
    /// # Errors
    /// When it cannot be written.
    pub fn open(path: &Path) -> io::Result<Self> {
        let file = OpenOptions::new().append(true).create(true).mode(0o600).open(path)?;
        let size = file.metadata()?.len();
        Ok(Self { path: path.to_owned(), file, size })
    }

    fn write(&mut self, bytes: &[u8]) -> io::Result<()> {
        if self.size + bytes.len() as u64 > MOST {
            fs::rename(&self.path, self.path.with_extension("log.1"))?;
            *self = Self::open(&self.path)?;
        }
        self.file.write_all(bytes)?;
        self.size += bytes.len() as u64;
        Ok(())
    }

    /// Copies until every writer of the pipe is gone. When the file cannot be written, output is read on and dropped:
    /// a full disk must not stop a workload.
    pub async fn copy(mut self, pipe: OwnedFd) {
        let mut pipe = match pipe::Receiver::from_owned_fd(pipe) {
            Ok(pipe) => pipe,
            Err(error) => return tracing::warn!(%error, path = %self.path.display(), "output cannot be read"),
        };
        let mut buffer = vec![0; 16 << 10];
        let mut complained = false;
        loop {
            let read = match pipe.read(&mut buffer).await {
                Ok(0) | Err(_) => return,
                Ok(read) => read,
            };
            if let Err(error) = self.write(&buffer[..read])
                && !std::mem::replace(&mut complained, true)
            {
                tracing::warn!(%error, path = %self.path.display(), "log cannot be written");
            }
        }
    }
}

/// The last lines of a log file, for people.
pub fn last_lines(path: &Path, count: usize) -> Vec<String> {
    let read = || -> io::Result<String> {
        let mut file = File::open(path)?;
        let length = file.metadata()?.len();
        file.seek(SeekFrom::Start(length.saturating_sub(16 << 10)))?;
        let mut bytes = Vec::new();
        file.take(16 << 10).read_to_end(&mut bytes)?;
        Ok(String::from_utf8_lossy(&bytes).into_owned())
    };
    let text = read().unwrap_or_else(|error| format!("(cannot be read: {error})"));
    let lines: Vec<&str> = text.lines().collect();
    lines.iter().skip(lines.len().saturating_sub(count)).map(|line| (*line).to_owned()).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_log_is_bounded_and_keeps_its_end() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("a.log");
        let mut log = LogFile::open(&path).unwrap();
        for n in 0..2_000 {
            log.write(format!("{n:06} {}\n", "x".repeat(8_000)).as_bytes()).unwrap();
        }
        let size = |path: &Path| fs::metadata(path).unwrap().len();
        assert!(size(&path) <= MOST && size(&folder.path().join("a.log.1")) <= MOST);
        assert!(last_lines(&path, 1)[0].starts_with("001999"));
    }
}
