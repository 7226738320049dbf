//! Git checkouts, by the `git` program: which commit files are of, and what a commit holds. Nothing of a checkout is
//! changed, and none of its hooks runs.

use std::{
    io,
    path::{Path, PathBuf},
    process::{Command, Output, Stdio},
};

/// A folder inside a checkout.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Checkout {
    folder: PathBuf,
}

/// A commit.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Commit {
    /// SHA-1 or SHA-256, in hex.
    pub id: String,
    /// Who wrote it.
    pub author: String,
    /// First line of its message.
    pub subject: String,
}

/// A file of a commit.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Blob {
    /// Relative to the folder.
    pub name: String,
    /// Its size.
    pub bytes: u64,
}

impl Checkout {
    /// The checkout that a folder is in. `None`: it is in none, or there is no `git`.
    pub fn of(folder: &Path) -> Option<Self> {
        let folder = if folder.as_os_str().is_empty() { Path::new(".") } else { folder };
        let checkout = Self { folder: folder.to_owned() };
        let inside = checkout.git(&["rev-parse", "--is-inside-work-tree"]).ok()?;
        (inside.trim() == "true").then_some(checkout)
    }

    /// The commit that is checked out.
    ///
    /// # Errors
    /// If there is none yet.
    pub fn head(&self) -> io::Result<Commit> {
        let text = self.git(&["log", "-1", "--no-show-signature", "--format=%H%n%an%n%s", "HEAD"])?;
        let mut lines = text.lines().map(str::to_owned);
        let mut line = || lines.next().unwrap_or_default();
        Ok(Commit { id: line(), author: line(), subject: line() })
    }

    /// Files (relative to the folder; `.` is all of it) that are not as the commit has them.
    ///
    /// # Errors
    /// If `git` does not tell.
    pub fn dirty(&self, files: &[&str]) -> io::Result<Vec<String>> {
        let status = ["status", "--porcelain=v1", "--untracked-files=all", "--no-renames", "-z", "--"];
        let arguments: Vec<&str> = status.into_iter().chain(files.iter().copied()).collect();
        let text = self.git(&arguments)?;
        Ok(text.split('\0').filter_map(|entry| Some(entry.get(3..)?.to_owned())).collect())
    }

    /// The folder's own files in a commit: regular ones, so that none leads out of it. Their content is not read.
    ///
    /// # Errors
    /// If `git` does not tell.
    pub fn files(&self, commit: &str) -> io::Result<Vec<Blob>> {
        let text = self.git(&["ls-tree", "--long", "-z", commit, "./"])?;
        let blob = |entry: &str| {
            let (about, name) = entry.split_once('\t')?;
            let mut about = about.split_ascii_whitespace();
            let regular = about.next()?.starts_with("100") && about.next()? == "blob";
            let bytes = about.nth(1)?.parse().ok()?;
            regular.then(|| Blob { name: name.to_owned(), bytes })
        };
        Ok(text.split('\0').filter_map(blob).collect())
    }

    /// A file of the folder as a commit has it.
    ///
    /// # Errors
    /// If it is not there, or is not UTF-8.
    pub fn file(&self, commit: &str, name: &str) -> io::Result<String> {
        self.git(&["cat-file", "blob", &format!("{commit}:./{name}")])
    }

    fn git(&self, arguments: &[&str]) -> io::Result<String> {
        let Output { status, stdout, stderr } = Command::new("git")
            .arg("-C")
            .arg(&self.folder)
            .args(["--no-optional-locks", "--literal-pathspecs", "-c", "core.fsmonitor=false"])
            .args(arguments)
            .stdin(Stdio::null())
            .output()?;
        if !status.success() {
            let said = String::from_utf8_lossy(&stderr);
            return Err(io::Error::other(format!("git {}: {}", arguments[0], said.trim())));
        }
        String::from_utf8(stdout).map_err(|_| io::Error::other(format!("git {}: not UTF-8", arguments[0])))
    }
}

/// The commit that files are of, `-dirty` behind it if they are not all as it has them. `None`: they are in no checkout.
pub fn commit_of(files: &[&Path]) -> Option<String> {
    let folder = files.first()?.parent()?;
    let checkout = Checkout::of(folder)?;
    let head = checkout.head().ok()?;
    let absolute: Vec<PathBuf> = files.iter().map(std::path::absolute).collect::<Result<_, _>>().ok()?;
    let names: Vec<&str> = absolute.iter().map(|path| path.to_str()).collect::<Option<_>>()?;
    let dirty = checkout.dirty(&names).ok()?;
    Some(if dirty.is_empty() { head.id } else { format!("{}-dirty", head.id) })
}

#[cfg(test)]
pub mod tests {
    use super::*;

    /// Runs `git` in a folder, as somebody.
    pub fn git(folder: &Path, arguments: &[&str]) {
        let who = ["-c", "user.name=Ann", "-c", "user.email=ann@example.com", "-c", "commit.gpgsign=false"];
        let out = Command::new("git").arg("-C").arg(folder).args(who).args(arguments).output().unwrap();
        assert!(out.status.success(), "{arguments:?}: {}", String::from_utf8_lossy(&out.stderr));
    }

    #[test]
    fn a_commit_is_what_it_holds_whatever_the_folder_says() {
        let root = tempfile::tempdir().unwrap();
        let folder = root.path().join("mesh");
        std::fs::create_dir(&folder).unwrap();
        let file = folder.join("a.yaml");
        std::fs::write(&file, "one\n").unwrap();
        assert_eq!(Checkout::of(&folder), None);
        assert_eq!(commit_of(&[&file]), None);
        git(root.path(), &["init", "-q"]);
        let checkout = Checkout::of(&folder).unwrap();
        assert!(checkout.head().is_err(), "nothing is committed yet");
        git(root.path(), &["add", "."]);
        git(root.path(), &["commit", "-qm", "first\n\nbody"]);
        let head = checkout.head().unwrap();
        assert_eq!((head.author.as_str(), head.subject.as_str()), ("Ann", "first"));
        assert_eq!(commit_of(&[&file]), Some(head.id.clone()));

        std::fs::write(&file, "two\n").unwrap();
        std::fs::write(folder.join("b.yaml"), "new\n").unwrap();
        assert_eq!(commit_of(&[&file]), Some(format!("{}-dirty", head.id)));
        assert_eq!(checkout.dirty(&["."]).unwrap(), ["mesh/a.yaml", "mesh/b.yaml"]);
        assert_eq!(checkout.files(&head.id).unwrap(), [Blob { name: "a.yaml".to_owned(), bytes: 4 }]);
        assert_eq!(checkout.file(&head.id, "a.yaml").unwrap(), "one\n");
        assert!(checkout.file(&head.id, "b.yaml").is_err());
    }
}
