//! Tokens and the files that secrets live in.

use std::{
    fs,
    io::{self, Write as _},
    os::unix::fs::{DirBuilderExt as _, OpenOptionsExt as _},
    path::Path,
};

use aws_lc_rs::{
    constant_time, hmac,
    rand::{SecureRandom as _, SystemRandom},
};

/// Length of keys and tokens, in bytes.
const LENGTH: usize = 32;

/// Lower-case hexadecimal.
pub(crate) fn hex(bytes: &[u8]) -> String {
    use std::fmt::Write as _;
    bytes.iter().fold(String::with_capacity(bytes.len() * 2), |mut text, byte| {
        // Writing to a String cannot fail.
        let _ = write!(text, "{byte:02x}");
        text
    })
}

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

/// The token with which a proxy joins: HMAC-SHA256 of its name under `ca/join.key` of the state folder, in hex. The key
/// is made if it is not there yet.
///
/// # Errors
/// If the key cannot be read or made.
pub fn join_token(state_dir: &Path, proxy: &str) -> io::Result<String> {
    Ok(JoinKey::open(state_dir)?.token(proxy))
}

/// The key of join tokens.
pub(crate) struct JoinKey(hmac::Key);

impl JoinKey {
    pub(crate) fn open(state_dir: &Path) -> io::Result<Self> {
        let folder = state_dir.join("ca");
        private_folder(&folder)?;
        let text = read_or_make(&folder.join("join.key"), || random_hex(LENGTH))?;
        let key = text.trim();
        if key.len() != 2 * LENGTH {
            let path = folder.join("join.key");
            return Err(io::Error::other(format!("{} is not a join key; remove it to get a new one", path.display())));
        }
        Ok(Self(hmac::Key::new(hmac::HMAC_SHA256, key.as_bytes())))
    }

    pub(crate) fn token(&self, proxy: &str) -> String {
        hex(hmac::sign(&self.0, proxy.as_bytes()).as_ref())
    }

    pub(crate) fn accepts(&self, proxy: &str, token: &str) -> bool {
        equal(&self.token(proxy), token)
    }
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

fn write_private(path: &Path, bytes: &[u8]) -> io::Result<()> {
    let mut file = fs::OpenOptions::new().write(true).create_new(true).mode(0o600).open(path)?;
    file.write_all(bytes)?;
    file.sync_all()
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt as _;

    use super::*;

    #[test]
    fn a_join_token_is_the_same_for_everyone_who_has_the_key() {
        let state = tempfile::tempdir().unwrap();
        let token = join_token(state.path(), "edge").unwrap();
        assert_eq!(token.len(), 64);
        assert_eq!(join_token(state.path(), "edge").unwrap(), token);
        assert_ne!(join_token(state.path(), "edge2").unwrap(), token);
        let key = JoinKey::open(state.path()).unwrap();
        assert!(key.accepts("edge", &token));
        assert!(!key.accepts("accounts-east-0", &token));
        assert!(!key.accepts("edge", ""));
        let mode = fs::metadata(state.path().join("ca/join.key")).unwrap().permissions().mode();
        assert_eq!(mode & 0o777, 0o600);
    }

    #[test]
    fn a_broken_join_key_is_not_used() {
        let state = tempfile::tempdir().unwrap();
        fs::create_dir(state.path().join("ca")).unwrap();
        fs::write(state.path().join("ca/join.key"), "").unwrap();
        assert!(join_token(state.path(), "edge").is_err());
    }
}
