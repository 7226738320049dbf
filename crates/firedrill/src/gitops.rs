//! Watched manifests: what a folder, or the commit that is checked out there, says is put in force when it changes.
//!
//! In a checkout only commits count. What cannot be read or is refused is told, and what was in force stays. When
//! somebody else applied something else since, that is drift: it is told and left, until the folder changes again.

use std::{
    convert::Infallible,
    io,
    path::{Path, PathBuf},
    time::Duration,
};

use control::{
    api::{ApplyRequest, ManifestFile, Revision, SourceReport, SourceState},
    client::{Client, ClientError},
    store::digest_of,
};
use model::Source;

use crate::{
    applied,
    checkout::{Checkout, Commit},
    manifests,
};

/// Between two looks. A change of a plain folder counts at the second look that finds it.
const LOOK: Duration = Duration::from_secs(1);
/// Bytes of all manifests of a commit.
const MOST: u64 = 4 << 20;
/// Who applies what no commit says who wrote.
const AUTHOR: &str = "gitops";

/// What a folder holds now.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Content {
    /// Its manifests.
    pub files: Vec<ManifestFile>,
    commit: Option<Commit>,
    /// Files of the checkout that no commit holds as they are.
    dirty: Vec<String>,
}

impl Content {
    /// Reads a folder, or what the commit that is checked out there has of it.
    ///
    /// # Errors
    /// If it cannot be read, or has no manifest.
    pub fn read(folder: &Path) -> io::Result<Self> {
        let Some(checkout) = Checkout::of(folder) else {
            let sources = manifests::read(&[folder.to_owned()]).map_err(|e| io::Error::other(e.to_string()))?;
            return Ok(Self { files: manifests::stored(&sources), commit: None, dirty: Vec::new() });
        };
        let commit = checkout.head()?;
        let mut blobs = checkout.files(&commit.id)?;
        blobs.retain(|blob| manifests::is_manifest(Path::new(&blob.name)));
        // Known before a byte is read: whoever commits may commit anything, and this is asked each second.
        let bytes = blobs.iter().map(|blob| blob.bytes).fold(0, u64::saturating_add);
        if bytes > MOST {
            let reason = format!("the manifests of commit {} have {bytes} bytes, more than {MOST}", commit.id);
            return Err(io::Error::other(reason));
        }
        let mut names: Vec<String> = blobs.into_iter().map(|blob| blob.name).collect();
        names.sort();
        if names.is_empty() {
            return Err(io::Error::other(format!("commit {} has no manifest (*.yaml, *.yml) there", commit.id)));
        }
        let file = |name: String| Ok(ManifestFile { text: checkout.file(&commit.id, &name)?, path: name });
        let files = names.into_iter().map(file).collect::<io::Result<_>>()?;
        let mut dirty = checkout.dirty(&["."])?;
        dirty.retain(|name| manifests::is_manifest(Path::new(name)));
        Ok(Self { files, commit: Some(commit), dirty })
    }

    /// The manifests in the form that the model reads.
    pub fn sources(&self) -> Vec<Source> {
        self.files.iter().map(|file| Source { path: file.path.clone(), text: file.text.clone() }).collect()
    }

    /// The commit that they are of.
    pub fn commit(&self) -> Option<&str> {
        self.commit.as_ref().map(|commit| commit.id.as_str())
    }

    fn digest(&self) -> String {
        digest_of(&self.files)
    }
}

/// What is to be done after a look.
#[derive(Clone, Debug, PartialEq, Eq)]
enum Step {
    Nothing,
    Apply,
    Tell(SourceState, String),
}

/// Decides what a look means. Pure.
#[derive(Debug, Default)]
struct Watch {
    /// Digest of what was seen at the last look.
    last: Option<String>,
    /// Digest of what was put in force, or tried.
    tried: Option<String>,
    /// Why that was refused.
    refused: Option<String>,
}

impl Watch {
    /// Goes on where a former watcher stopped: a commit that was applied once is not applied again over what came after.
    fn resumed(content: Option<&Content>, revisions: &[Revision]) -> Self {
        let known = |content: &&Content| {
            let digest = content.digest();
            revisions.iter().any(|revision| {
                revision.digest == digest
                    && content.commit().is_some()
                    && revision.commit.as_deref() == content.commit()
            })
        };
        let tried = content.filter(known).map(Content::digest);
        Self { last: tried.clone(), tried, refused: None }
    }

    fn looked(&mut self, content: &Result<Content, String>, in_force: Option<&Revision>) -> Step {
        let content = match content {
            Ok(content) => content,
            Err(reason) => return Step::Tell(SourceState::Unreadable, reason.clone()),
        };
        let digest = content.digest();
        // Half a write must not come into force, so a plain folder counts when two looks agree. A commit is whole.
        let settled = self.last.as_ref() == Some(&digest) || content.commit.is_some();
        self.last = Some(digest.clone());
        if !settled {
            return Step::Nothing;
        }
        if in_force.is_some_and(|revision| revision.digest == digest) {
            self.tried = Some(digest);
            self.refused = None;
            return match content.dirty.as_slice() {
                [] => Step::Tell(SourceState::InForce, String::new()),
                dirty => Step::Tell(SourceState::Drift, format!("no commit holds {} as it is", dirty.join(", "))),
            };
        }
        if self.tried.as_ref() != Some(&digest) {
            return Step::Apply;
        }
        match (&self.refused, in_force) {
            (Some(reason), _) => Step::Tell(SourceState::Refused, reason.clone()),
            (None, Some(revision)) => Step::Tell(
                SourceState::Drift,
                format!(
                    "revision {} by {} is in force instead; commit it, or roll back",
                    revision.number, revision.author
                ),
            ),
            (None, None) => Step::Apply,
        }
    }

    fn applied(&mut self, content: &Content, refused: Option<String>) {
        self.tried = Some(content.digest());
        self.refused = refused;
    }
}

/// Watches for ever. The control plane is the one of the state folder; while it does not answer, nothing happens.
pub async fn watch(folder: PathBuf, state: PathBuf) -> Infallible {
    let mut watch: Option<Watch> = None;
    let mut looks = tokio::time::interval(LOOK);
    looks.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    loop {
        looks.tick().await;
        let of = folder.clone();
        let read = tokio::task::spawn_blocking(move || Content::read(&of)).await;
        let content = read.map_err(io::Error::other).flatten().map_err(|e| e.to_string());
        if let Err(error) = look(&mut watch, &content, &folder, &state).await {
            tracing::debug!(%error, "the control plane does not take what is watched yet");
        }
    }
}

async fn look(
    watch: &mut Option<Watch>,
    content: &Result<Content, String>,
    folder: &Path,
    state: &Path,
) -> Result<(), ClientError> {
    let control = Client::from_state(state)?;
    let revisions = control.revisions().await?;
    let watch = watch.get_or_insert_with(|| Watch::resumed(content.as_ref().ok(), &revisions));
    let tell = async |state, detail| {
        let commit = content.as_ref().ok().and_then(|content| content.commit().map(str::to_owned));
        control.put_source(&SourceReport { folder: folder.display().to_string(), commit, state, detail }).await
    };
    match (watch.looked(content, revisions.first()), content) {
        (Step::Tell(state, detail), _) => tell(state, detail).await,
        (Step::Apply, Ok(content)) => match control.apply(&request(content)).await {
            Ok(_) => {
                watch.applied(content, None);
                if let Err(error) = applied::record(state, &control).await {
                    tracing::error!(%error, "a revision was not recorded in the ledger; the next one makes it good");
                }
                tell(SourceState::InForce, String::new()).await
            }
            Err(ClientError::Refused { reason, problems, status, .. }) if (400..500).contains(&status) => {
                let said = problems.iter().filter_map(|problem| problem["message"].as_str());
                let reason = [reason.as_str()].into_iter().chain(said).collect::<Vec<_>>().join("; ");
                watch.applied(content, Some(reason.clone()));
                tell(SourceState::Refused, reason).await
            }
            Err(error) => Err(error),
        },
        (Step::Nothing | Step::Apply, _) => Ok(()),
    }
}

fn request(content: &Content) -> ApplyRequest {
    let (author, message) = match &content.commit {
        Some(commit) => (commit.author.clone(), commit.subject.clone()),
        None => (AUTHOR.to_owned(), "the watched folder changed".to_owned()),
    };
    let author = if author.trim().is_empty() { AUTHOR.to_owned() } else { bounded(&author, 200) };
    ApplyRequest {
        files: content.files.clone(),
        author,
        message: bounded(&message, 2000),
        commit: content.commit().map(str::to_owned),
        // The folder is the whole truth: what it does not have any more was removed on purpose.
        prune: true,
        ..ApplyRequest::default()
    }
}

/// What a commit says, as the control plane takes it.
fn bounded(text: &str, most: usize) -> String {
    let mut out = String::new();
    for c in text.chars().filter(|c| !c.is_control()) {
        if out.len() + c.len_utf8() > most {
            break;
        }
        out.push(c);
    }
    out
}

#[cfg(test)]
mod tests {
    use control::api::Stamp;

    use super::*;
    use crate::checkout::tests::git;

    fn content(text: &str, commit: Option<&str>) -> Content {
        let files = vec![ManifestFile { path: "a.yaml".to_owned(), text: text.to_owned() }];
        let commit = commit.map(|id| Commit { id: id.to_owned(), author: "Ann".to_owned(), subject: "s".to_owned() });
        Content { files, commit, dirty: Vec::new() }
    }

    fn revision(number: u64, content: &Content, author: &str) -> Revision {
        Revision {
            number,
            author: author.to_owned(),
            message: String::new(),
            time: Stamp(0),
            commit: content.commit().map(str::to_owned),
            restores: None,
            digest: content.digest(),
            files: Vec::new(),
        }
    }

    #[test]
    fn a_commit_is_applied_once_and_drift_is_told_and_left() {
        let (first, second) = (content("1", Some("c1")), content("2", Some("c2")));
        let by_hand = revision(2, &content("3", None), "bob");
        let mut watch = Watch::resumed(Some(&first), &[]);
        assert_eq!(watch.looked(&Ok(first.clone()), None), Step::Apply);
        watch.applied(&first, None);
        let in_force = revision(1, &first, "Ann");
        let fine = Step::Tell(SourceState::InForce, String::new());
        assert_eq!(watch.looked(&Ok(first.clone()), Some(&in_force)), fine);
        let Step::Tell(SourceState::Drift, why) = watch.looked(&Ok(first.clone()), Some(&by_hand)) else { panic!() };
        assert!(why.contains("revision 2 by bob"), "{why}");
        assert_eq!(watch.looked(&Ok(second.clone()), Some(&by_hand)), Step::Apply, "a new commit counts");
        watch.applied(&second, Some("no".to_owned()));
        let refused = Step::Tell(SourceState::Refused, "no".to_owned());
        assert_eq!(watch.looked(&Ok(second.clone()), Some(&by_hand)), refused, "it is not tried again and again");
        let gone = Step::Tell(SourceState::Unreadable, "gone".to_owned());
        assert_eq!(watch.looked(&Err("gone".to_owned()), Some(&by_hand)), gone);
        assert_eq!(watch.looked(&Ok(first.clone()), Some(&by_hand)), Step::Apply, "back to the former commit");
        let mut dirty = first.clone();
        dirty.dirty.push("a.yaml".to_owned());
        let Step::Tell(SourceState::Drift, why) = watch.looked(&Ok(dirty), Some(&in_force)) else { panic!() };
        assert!(why.contains("a.yaml"), "{why}");
    }

    #[test]
    fn a_watcher_that_comes_back_does_not_undo_what_came_after() {
        let (first, other) = (content("1", Some("c1")), content("2", None));
        let revisions = [revision(2, &other, "bob"), revision(1, &first, "Ann")];
        let mut watch = Watch::resumed(Some(&first), &revisions);
        let step = watch.looked(&Ok(first.clone()), revisions.first());
        assert!(matches!(step, Step::Tell(SourceState::Drift, _)), "{step:?}");
        let reverted = content("1", Some("c3"));
        let mut watch = Watch::resumed(Some(&reverted), &revisions);
        assert_eq!(
            watch.looked(&Ok(reverted), revisions.first()),
            Step::Apply,
            "a commit that says the same again is new"
        );
    }

    #[test]
    fn half_a_write_to_a_plain_folder_does_not_count() {
        let (old, half, whole) = (content("1", None), content("2", None), content("22", None));
        let in_force = revision(1, &old, "a");
        let mut watch = Watch::default();
        assert_eq!(watch.looked(&Ok(old.clone()), Some(&in_force)), Step::Nothing);
        assert!(matches!(watch.looked(&Ok(old), Some(&in_force)), Step::Tell(SourceState::InForce, _)));
        assert_eq!(watch.looked(&Ok(half), Some(&in_force)), Step::Nothing);
        assert_eq!(watch.looked(&Ok(whole.clone()), Some(&in_force)), Step::Nothing);
        assert_eq!(watch.looked(&Ok(whole), Some(&in_force)), Step::Apply);
    }

    #[test]
    fn of_a_checkout_the_commit_is_read_and_of_a_folder_what_is_there() {
        let root = tempfile::tempdir().unwrap();
        let folder = root.path().join("mesh");
        std::fs::create_dir(&folder).unwrap();
        std::fs::write(folder.join("b.yaml"), "b\n").unwrap();
        std::fs::write(folder.join("a.yaml"), "a\n").unwrap();
        std::fs::write(folder.join("notes.txt"), "n\n").unwrap();
        let plain = Content::read(&folder).unwrap();
        git(root.path(), &["init", "-q"]);
        assert!(Content::read(&folder).is_err(), "there is no commit yet");
        git(root.path(), &["add", "."]);
        git(root.path(), &["commit", "-qm", "first"]);
        std::fs::write(folder.join("a.yaml"), "changed\n").unwrap();
        std::fs::write(folder.join("notes.txt"), "changed\n").unwrap();
        let committed = Content::read(&folder).unwrap();
        assert_eq!(committed.files, plain.files, "the same by name and text");
        assert_eq!(committed.dirty, ["mesh/a.yaml"]);
        let asked = request(&committed);
        assert_eq!((asked.author.as_str(), asked.message.as_str(), asked.prune), ("Ann", "first", true));
        assert_eq!(asked.commit.as_deref(), committed.commit());
        // What is too large is not read, and a link is no manifest.
        std::fs::write(folder.join("large.yaml"), vec![b'#'; 5 << 20]).unwrap();
        std::os::unix::fs::symlink("/etc/hostname", folder.join("link.yaml")).unwrap();
        git(root.path(), &["add", "."]);
        git(root.path(), &["commit", "-qm", "second"]);
        let refused = Content::read(&folder).unwrap_err().to_string();
        assert!(refused.contains("more than 4194304"), "{refused}");
        std::fs::write(folder.join("large.yaml"), "c\n").unwrap();
        git(root.path(), &["commit", "-qam", "third"]);
        let names: Vec<String> = Content::read(&folder).unwrap().files.into_iter().map(|file| file.path).collect();
        assert_eq!(names, ["a.yaml", "b.yaml", "large.yaml"]);
        assert_eq!(bounded("a\u{1b}\u{e9}b", 3), "a\u{e9}");
    }
}
