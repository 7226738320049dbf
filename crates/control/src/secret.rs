//! Random secrets, and the files that they live in.

use std::{
    fs,
    io::{self, Write as _},
    os::unix::fs::{DirBuilderExt as _, OpenOptionsExt as _},
    path::Path,
};

use aws_lc_rs::{
    constant_time,
    rand::{SecureRandom as _, SystemRandom},
};
pub(crate) use xds::hex::{decode as unhex, encode as hex};

/// Random bytes as text, for tokens and boots.
pub(crate) fn random_hex(bytes: usize) -> io::Result<String> {
    let mut random = vec![0; bytes];
    SystemRandom::new().fill(&mut random).map_err(|_| io::Error::other("the system has no randomness"))?;
    Ok(hex(&random))
}

/// Whether two secrets are equal, in time that does not depend on where they differ.
pub(crate) fn equal(a: &str, b: &str) -> bool {
    constant_time::verify_slices_are_equal(a.as_bytes(), b.as_bytes()).is_ok()
}

/// Makes a folder that only its owner can enter.
pub(crate) fn private_folder(path: &Path) -> io::Result<()> {
    fs::DirBuilder::new().recursive(true).mode(0o700).create(path)
}

/// The text of a file; the file is made (mode 0600) if it is not there. Two processes that do so at once agree.
pub(crate) fn read_or_make(path: &Path, make: impl FnOnce() -> io::Result<String>) -> io::Result<String> {
    match fs::read_to_string(path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => {}
        done => return done,
    }
    let whole = temporary(path)?;
    write_private(&whole, make()?.as_bytes())?;
    // A link fails where a rename would replace the other's file.
    let linked = fs::hard_link(&whole, path);
    fs::remove_file(&whole)?;
    match linked {
        Err(error) if error.kind() != io::ErrorKind::AlreadyExists => Err(error),
        _ => fs::read_to_string(path),
    }
}

/// Replaces a file as a whole, with mode 0600.
pub(crate) fn replace_private(path: &Path, bytes: &[u8]) -> io::Result<()> {
    let whole = temporary(path)?;
    write_private(&whole, bytes)?;
    fs::rename(&whole, path)
}

fn temporary(path: &Path) -> io::Result<std::path::PathBuf> {
    let mut name = path.as_os_str().to_owned();
    name.push(format!(".{}", random_hex(8)?));
    Ok(name.into())
}

/// Writes a file that is not there yet, with mode 0600.
pub(crate) fn write_private(path: &Path, bytes: &[u8]) -> io::Result<()> {
    let mut file = fs::OpenOptions::new().write(true).create_new(true).mode(0o600).open(path)?;
    file.write_all(bytes)?;
    file.sync_all()
}
