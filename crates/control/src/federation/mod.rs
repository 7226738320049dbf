//! Foreign trust domains of the manifests in force: each one's bundle is read from its file, and fetched again and again where
//! it has an endpoint. What was fetched last is kept on disk, since the file may be from before the foreign root was replaced.

mod fetch;
mod serve;

use std::{
    collections::BTreeMap,
    fs::File,
    io::{self, Read as _},
    path::{Path, PathBuf},
    sync::Arc,
    time::{Duration, Instant},
};

use model::config::{BundleEndpoint, Federated};
use serde::{Deserialize, Serialize};
use sha2::{Digest as _, Sha256};
use tokio::task::{AbortHandle, JoinSet};

pub(crate) use self::serve::serve;
use crate::{
    api::Stamp,
    bundle::{Bundle, MAX_BUNDLE, refresh_after},
    mesh::Mesh,
    secret,
};

/// Between two looks at a file; and before an endpoint that failed is asked again, at first.
const LOOK: Duration = Duration::from_secs(1);

/// What was fetched last.
#[derive(Serialize, Deserialize)]
struct Kept {
    /// SHA-256 of the file that was there, in hexadecimal: another one counts before this.
    file: String,
    /// As it was answered.
    bundle: String,
    fresh: Stamp,
}

/// Follows every foreign trust domain of the manifests in force, for ever. `folder` is where is kept what was fetched.
pub(crate) async fn follow(mesh: Arc<Mesh>, folder: PathBuf) {
    let mut changes = mesh.changes();
    let mut tasks = JoinSet::new();
    let mut running: BTreeMap<String, (Federated, AbortHandle)> = BTreeMap::new();
    loop {
        let config = mesh.state().config.clone();
        let wanted = config.as_deref().map_or(&[][..], |config| &config.mesh.federation);
        running.retain(|domain, (federated, task)| {
            let keep = wanted.contains(federated);
            if !keep {
                task.abort();
            }
            // What is known of one whose bundle comes from elsewhere now counts until that says something.
            if !wanted.iter().any(|one| one.trust_domain == *domain) {
                mesh.forget_foreign(domain);
            }
            keep
        });
        // One without a file is known by the Workload API.
        for (federated, file) in wanted.iter().filter_map(|one| Some((one, one.bundle.clone()?))) {
            let domain = &federated.trust_domain;
            if !running.contains_key(domain) {
                mesh.add_foreign(domain, words(federated, &file));
                let kept = folder.join(format!("{domain}.json"));
                let follower = Follower { mesh: mesh.clone(), kept, file: file.into(), federated: federated.clone() };
                running.insert(domain.clone(), (federated.clone(), tasks.spawn(follower.run())));
            }
        }
        tokio::select! {
            changed = changes.changed() => if changed.is_err() { return },
            Some(_) = tasks.join_next() => {}
        }
    }
}

fn words(federated: &Federated, file: &str) -> String {
    let file = || format!("file {file}");
    federated.endpoint.as_ref().map_or_else(file, |endpoint| endpoint.url.to_string())
}

/// Follows one trust domain.
struct Follower {
    mesh: Arc<Mesh>,
    federated: Federated,
    file: PathBuf,
    kept: PathBuf,
}

impl Follower {
    async fn run(self) {
        // Digests of the file: that which counts, and that of the last look.
        let (mut counts, mut last) = (None, None);
        let mut ask_at = Instant::now();
        let mut pause = LOOK;
        loop {
            if self.look(&mut counts, &mut last).await {
                ask_at = Instant::now();
            }
            if let (Some(endpoint), Some(file)) = (&self.federated.endpoint, &counts)
                && ask_at <= Instant::now()
            {
                let wait = self.ask(endpoint, file).await;
                ask_at = Instant::now() + wait.unwrap_or(pause);
                pause = if wait.is_some() { LOOK } else { (pause * 2).min(refresh_after(None)) };
            }
            tokio::time::sleep(LOOK).await;
        }
    }

    /// Looks at the file. Answers whether it has something new.
    async fn look(&self, counts: &mut Option<String>, last: &mut Option<String>) -> bool {
        let domain = &self.federated.trust_domain;
        let (digest, bundle) = match self.file().await {
            Ok(read) => read,
            Err(reason) => {
                // Where there is an endpoint, the file is for the beginning.
                if self.federated.endpoint.is_none() || counts.is_none() {
                    self.mesh.foreign_said(domain, Err(reason));
                }
                return false;
            }
        };
        // Half a write must not cut anybody off: what replaces something counts at the second look that finds it.
        let settled = last.replace(digest.clone()).as_ref() == Some(&digest) || counts.is_none();
        if !settled || counts.as_ref() == Some(&digest) {
            if self.federated.endpoint.is_none() && counts.as_ref() == Some(&digest) {
                self.mesh.foreign_said(domain, Ok(bundle));
            }
            return false;
        }
        let kept = if counts.is_none() { self.kept_of(&digest).await } else { None };
        match kept {
            Some((bundle, fresh)) => self.mesh.remember_foreign(domain, bundle, fresh),
            None => self.mesh.foreign_said(domain, Ok(bundle)),
        }
        *counts = Some(digest);
        true
    }

    /// Asks the endpoint. Answers when to ask again; `None`: it said nothing of use.
    async fn ask(&self, endpoint: &BundleEndpoint, file: &str) -> Option<Duration> {
        let domain = &self.federated.trust_domain;
        let known = self.mesh.foreign_roots(domain).unwrap_or_default();
        let fetched = fetch::fetch(endpoint, &known).await;
        if let Ok((text, _)) = &fetched {
            self.keep(file, text).await;
        }
        let wait = fetched.as_ref().ok().map(|(_, bundle)| refresh_after(Some(bundle)));
        self.mesh.foreign_said(domain, fetched.map(|(_, bundle)| bundle));
        wait
    }

    /// The file's digest and the bundle in it.
    async fn file(&self) -> Result<(String, Bundle), String> {
        let path = self.file.clone();
        let read = tokio::task::spawn_blocking(move || {
            let text = read(&path).and_then(|text| Ok((secret::hex(&Sha256::digest(&text)), Bundle::parse(&text)?)));
            text.map_err(|e| format!("{}: {e}", path.display()))
        });
        read.await.unwrap_or_else(|e| Err(e.to_string()))
    }

    /// What was fetched last, if the file has not changed since.
    async fn kept_of(&self, file: &str) -> Option<(Bundle, Stamp)> {
        self.federated.endpoint.as_ref()?;
        let path = self.kept.clone();
        let text = tokio::task::spawn_blocking(move || std::fs::read(path)).await.ok()?.ok()?;
        let kept: Kept = match serde_json::from_slice(&text) {
            Ok(kept) => kept,
            Err(error) => {
                tracing::error!(%error, path = %self.kept.display(), "a bundle that was fetched cannot be read");
                return None;
            }
        };
        let bundle = Bundle::parse(&kept.bundle).ok()?;
        (kept.file == file).then_some((bundle, kept.fresh))
    }

    async fn keep(&self, file: &str, bundle: &str) {
        let path = self.kept.clone();
        let kept = Kept { file: file.to_owned(), bundle: bundle.to_owned(), fresh: self.mesh.clock.now() };
        let written = tokio::task::spawn_blocking(move || {
            let text = serde_json::to_vec(&kept)?;
            path.parent().map_or(Ok(()), secret::private_folder)?;
            secret::replace_private(&path, &text)
        });
        if let Err(error) = written.await.unwrap_or_else(|e| Err(io::Error::other(e))) {
            tracing::error!(%error, path = %self.kept.display(), "a bundle that was fetched is not kept");
        }
    }
}

fn read(path: &Path) -> Result<String, String> {
    let mut text = String::new();
    let file = File::open(path).map_err(|e| e.to_string())?;
    file.take(MAX_BUNDLE as u64 + 1).read_to_string(&mut text).map_err(|e| e.to_string())?;
    if text.len() > MAX_BUNDLE {
        return Err(format!("it is larger than {MAX_BUNDLE} bytes"));
    }
    Ok(text)
}
