//! Unix sockets between processes of one user. The socket is in a folder that only its owner can enter, and both sides
//! check the other side's user (`SO_PEERCRED`) before they send anything.

use std::{
    ffi::OsStr,
    fs::{self, DirBuilder, File, Permissions},
    io,
    os::{
        fd::AsRawFd as _,
        unix::fs::{DirBuilderExt as _, PermissionsExt as _},
    },
    path::{Path, PathBuf},
};

use tokio::net::{UnixListener, UnixStream};

/// Longest path that fits `sockaddr_un` on every system, with room for the suffix of a temporary name.
const LONGEST_PATH: usize = 80;

/// Makes a folder with mode 0700, and its parents. The mode of a folder that exists already is changed to 0700.
///
/// # Errors
/// If it cannot be made, or is another user's.
pub fn private_folder(path: &Path) -> io::Result<()> {
    DirBuilder::new().recursive(true).mode(0o700).create(path)?;
    fs::set_permissions(path, Permissions::from_mode(0o700))
}

/// Listens at a path, in place of whatever was there. The folder gets mode 0700 and the socket mode 0600.
///
/// # Errors
/// If the folder or the socket cannot be made.
pub fn listen(path: &Path) -> io::Result<UnixListener> {
    let (folder, name) = split(path)?;
    private_folder(folder)?;
    let reach = Reach::new(folder)?;
    // Bound under another name and then moved, so that there is always a socket and it never has a wider mode.
    let mut fresh = name.to_owned();
    fresh.push(format!(".{}", std::process::id()));
    let fresh = reach.path(&fresh);
    match fs::remove_file(&fresh) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
        _ => {}
    }
    let listener = UnixListener::bind(&fresh)?;
    fs::set_permissions(&fresh, Permissions::from_mode(0o600))?;
    fs::rename(&fresh, reach.path(name))?;
    Ok(listener)
}

/// Connects to a socket of the same user.
///
/// # Errors
/// If nobody listens there, or another user does.
pub async fn connect(path: &Path) -> io::Result<UnixStream> {
    let (folder, name) = split(path)?;
    let reach = Reach::new(folder)?;
    let stream = UnixStream::connect(reach.path(name)).await?;
    if is_trusted(&stream) {
        return Ok(stream);
    }
    Err(io::Error::new(io::ErrorKind::PermissionDenied, "another user listens at this socket"))
}

/// True if the peer of a connection runs as the same user as this process, or as root.
pub fn is_trusted(stream: &UnixStream) -> bool {
    stream.peer_cred().is_ok_and(|peer| peer.uid() == rustix::process::geteuid().as_raw() || peer.uid() == 0)
}

fn split(path: &Path) -> io::Result<(&Path, &OsStr)> {
    let parts = path.parent().zip(path.file_name());
    parts.ok_or_else(|| io::Error::new(io::ErrorKind::InvalidInput, "the path of a socket has a folder and a name"))
}

/// A folder by a path that is short enough for a socket's address.
struct Reach {
    folder: PathBuf,
    /// Open for as long as the folder is named by its descriptor.
    _open: Option<File>,
}

impl Reach {
    fn new(folder: &Path) -> io::Result<Self> {
        if folder.as_os_str().len() <= LONGEST_PATH {
            return Ok(Self { folder: folder.to_owned(), _open: None });
        }
        let open = File::open(folder)?;
        Ok(Self { folder: PathBuf::from(format!("/proc/self/fd/{}", open.as_raw_fd())), _open: Some(open) })
    }

    fn path(&self, name: &OsStr) -> PathBuf {
        self.folder.join(name)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn mode(path: &Path) -> u32 {
        fs::metadata(path).unwrap().permissions().mode() & 0o777
    }

    #[tokio::test]
    async fn a_socket_is_its_owners_and_is_found_below_any_path() {
        let folder = tempfile::tempdir().unwrap();
        for depth in [1, 12] {
            let place = folder.path().join(vec!["a-long-name"; depth].join("/"));
            fs::create_dir_all(&place).unwrap();
            fs::set_permissions(&place, Permissions::from_mode(0o755)).unwrap();
            let path = place.join("control.sock");
            let first = listen(&path).unwrap();
            assert_eq!((mode(&place), mode(&path)), (0o700, 0o600));
            let connected = connect(&path).await.unwrap();
            let (accepted, _) = first.accept().await.unwrap();
            assert!(is_trusted(&connected) && is_trusted(&accepted));
            // Another one takes its place.
            let second = listen(&path).unwrap();
            let (connected, accepted) = tokio::join!(connect(&path), second.accept());
            drop((connected.unwrap(), accepted.unwrap()));
            assert_eq!(fs::read_dir(&place).unwrap().count(), 1, "no temporary name is left");
        }
    }

    #[tokio::test]
    async fn nobody_there_is_an_error() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("control.sock");
        assert_eq!(connect(&path).await.unwrap_err().kind(), io::ErrorKind::NotFound);
        drop(listen(&path).unwrap());
        assert_eq!(connect(&path).await.unwrap_err().kind(), io::ErrorKind::ConnectionRefused);
        assert!(connect(Path::new("/")).await.is_err());
    }
}
