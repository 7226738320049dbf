//! An SVID in files that another tool writes.

use std::{fs::File, io::Read as _, path::Path, time::Duration};

use tokio::sync::watch;

use super::{Files, Known, Svid, tell};

/// Between two looks. A change counts at the second look that finds it: tools write one file after the other.
const LOOK: Duration = Duration::from_millis(400);
/// Largest file, in bytes.
const MAX: u64 = 1 << 20;

/// Looks for ever.
pub(super) async fn follow(files: &Files, id: Option<&str>, known: &watch::Sender<Known>) {
    let mut last: Option<Result<Svid, String>> = None;
    loop {
        let owned = files.clone();
        let seen = tokio::task::spawn_blocking(move || read(&owned)).await.unwrap_or_else(|e| Err(e.to_string()));
        let seen = seen.and_then(|svid| match id.filter(|id| **id != *svid.id) {
            Some(id) => Err(format!("{}: it is of {}, and {id} is wanted", files.certificate.display(), svid.id)),
            None => Ok(svid),
        });
        let nothing_yet = known.borrow().svid.is_none();
        if last.as_ref() == Some(&seen) || (nothing_yet && seen.is_ok()) {
            tell(known, seen.clone());
        }
        last = Some(seen);
        tokio::time::sleep(LOOK).await;
    }
}

fn read(files: &Files) -> Result<Svid, String> {
    let Files { certificate, key, bundle } = files;
    let at = |e: String| format!("{}: {e}", certificate.display());
    let roots = match bundle {
        Some(bundle) => text(bundle)?,
        None => String::new(),
    };
    if bundle.as_ref().is_some_and(|_| roots.trim().is_empty()) {
        return Err(at("there are no roots in its bundle".to_owned()));
    }
    Svid::new(text(certificate)?, text(key)?, roots, Default::default()).map_err(at)
}

fn text(path: &Path) -> Result<String, String> {
    let read = || {
        let mut text = String::new();
        File::open(path)?.take(MAX + 1).read_to_string(&mut text)?;
        Ok::<_, std::io::Error>(text)
    };
    match read() {
        Ok(text) if text.len() as u64 <= MAX => Ok(text),
        Ok(_) => Err(format!("{}: it is larger than {MAX} bytes", path.display())),
        Err(error) => Err(format!("{}: {error}", path.display())),
    }
}

#[cfg(test)]
mod tests {
    use std::{fs, path::PathBuf};

    use super::*;
    use crate::svid::testing::Authority;

    fn write(folder: &Path, authority: &Authority, id: &str) -> Files {
        let (certificate, key) = authority.issue(id);
        let file = |name: &str, text: &str| -> PathBuf {
            let path = folder.join(name);
            fs::write(&path, text).unwrap();
            path
        };
        Files {
            certificate: file("svid.pem", &certificate),
            key: file("key.pem", &key),
            bundle: Some(file("bundle.pem", &authority.roots())),
        }
    }

    #[tokio::test(start_paused = true)]
    async fn what_replaces_an_svid_counts_as_a_whole_and_what_is_none_leaves_it() {
        let folder = tempfile::tempdir().unwrap();
        let (authority, id) = (Authority::new(), "spiffe://bank.example/service/fx");
        let files = write(folder.path(), &authority, id);
        let (known, mut told) = watch::channel(Known::default());
        let (followed, wanted) = (files.clone(), Some(id));
        tokio::spawn(async move { follow(&followed, wanted, &known).await });
        told.wait_for(|known| known.svid.is_some()).await.unwrap();
        let first = told.borrow_and_update().svid.clone().unwrap();
        assert_eq!(
            (&*first.id, first.certificate.as_str()),
            (id, fs::read_to_string(&files.certificate).unwrap().as_str())
        );

        // Half of the next one: a key that is not the certificate's.
        let (next, key) = authority.issue(id);
        fs::write(&files.key, &key).unwrap();
        let failing = told.wait_for(|known| known.failing.is_some()).await.unwrap().clone();
        assert_eq!(failing.svid, Some(first.clone()));
        assert!(failing.failing.unwrap().contains("svid.pem: certificate and key"));
        fs::write(&files.certificate, &next).unwrap();
        let second = told.wait_for(|known| known.failing.is_none()).await.unwrap().svid.clone().unwrap();
        assert_eq!((second.certificate, second.key), (next, key));

        // Somebody else's.
        write(folder.path(), &authority, "spiffe://bank.example/service/other");
        let other = told.wait_for(|known| known.failing.is_some()).await.unwrap().clone();
        assert!(other.failing.unwrap().contains("it is of spiffe://bank.example/service/other, and"));
        fs::remove_file(files.bundle.as_ref().unwrap()).unwrap();
        let gone =
            told.wait_for(|known| known.failing.as_ref().is_some_and(|f| f.contains("bundle.pem"))).await.unwrap();
        assert!(gone.svid.is_some());
    }
}
