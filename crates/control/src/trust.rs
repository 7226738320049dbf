//! The trust bundle of traffic: `ca/trust.pem` of the state folder, roots in PEM that sidecars and gateways accept each
//! other's certificates from. Made from the authority's root at the first start; after that it is the operator's, and
//! read again whenever it changes. What proxies trust the control plane by stays the authority's own root, so that a
//! mesh whose traffic is cut off can still be told to go on.

use std::{
    fs::File,
    io::{self, Read as _},
    path::{Path, PathBuf},
    time::Duration,
};

use rustls::{
    RootCertStore,
    pki_types::{CertificateDer, pem::PemObject as _},
};
use tokio::time::MissedTickBehavior;

use crate::secret;

/// Between two looks at the file. A change counts at the second look that finds it.
const LOOK: Duration = Duration::from_millis(400);
/// Largest bundle, in bytes.
const MAX_BUNDLE: u64 = 1 << 20;

/// The file.
#[derive(Clone, Debug)]
pub(crate) struct TrustFile(PathBuf);

impl TrustFile {
    /// Opens the file of the state folder; it is made from `root` if it is not there. Answers it and what is in it.
    pub(crate) fn open(state_dir: &Path, root: &str) -> Result<(Self, String), String> {
        let path = state_dir.join("ca").join("trust.pem");
        secret::read_or_make(&path, || Ok(root.to_owned())).map_err(|e| format!("{}: {e}", path.display()))?;
        let file = Self(path);
        let bundle = file.read()?;
        Ok((file, bundle))
    }

    /// The bundle, if it can be used.
    pub(crate) fn read(&self) -> Result<String, String> {
        let read = || {
            let mut text = String::new();
            File::open(&self.0)?.take(MAX_BUNDLE + 1).read_to_string(&mut text)?;
            if text.len() as u64 > MAX_BUNDLE {
                return Err(io::Error::other(format!("it is larger than {MAX_BUNDLE} bytes")));
            }
            Ok(text)
        };
        let bundle = read().map_err(|e| format!("{}: {e}", self.0.display()))?;
        count(&bundle).map_err(|e| format!("{}: {e}", self.0.display()))?;
        Ok(bundle)
    }
}

/// How many roots a bundle has; each must be one that a proxy can use.
pub(crate) fn count(bundle: &str) -> Result<u64, String> {
    let mut roots = RootCertStore::empty();
    for certificate in CertificateDer::pem_slice_iter(bundle.as_bytes()) {
        let certificate = certificate.map_err(|e| e.to_string())?;
        roots.add(certificate).map_err(|e| format!("certificate {} is not a root: {e}", roots.len() + 1))?;
    }
    if roots.is_empty() {
        // A proxy without roots would verify nothing (Envoy: no trusted_ca), and an empty file is mostly a slip.
        return Err("no certificate in it; to trust none of the mesh, put another authority's root there".to_owned());
    }
    Ok(roots.len() as u64)
}

type Seen = Result<String, String>;

/// Decides when what was seen in the file counts.
#[derive(Debug)]
struct Changes {
    in_force: String,
    last: Seen,
    settled: Seen,
}

/// What is to be done after a look.
#[derive(Debug, PartialEq, Eq)]
enum Step {
    Nothing,
    Apply(String),
    Refuse(String),
}

impl Changes {
    fn new(in_force: String) -> Self {
        Self { last: Ok(in_force.clone()), settled: Ok(in_force.clone()), in_force }
    }

    /// Half a write must not cut the mesh off, so only what two looks in a row agree on counts. A refusal is told once.
    fn saw(&mut self, seen: Seen) -> Step {
        if seen != self.last {
            self.last = seen;
            return Step::Nothing;
        }
        if seen == self.settled {
            return Step::Nothing;
        }
        self.settled.clone_from(&seen);
        match seen {
            Ok(bundle) if bundle == self.in_force => Step::Nothing,
            Ok(bundle) => {
                self.in_force.clone_from(&bundle);
                Step::Apply(bundle)
            }
            Err(reason) => Step::Refuse(reason),
        }
    }
}

/// Follows what `read` finds in files, for ever; `tell` is told of each change once: what is to come into force, or why
/// it cannot, and what is in force stays.
pub(crate) async fn follow(
    read: impl Fn() -> Result<String, String> + Clone + Send + 'static,
    in_force: String,
    tell: impl Fn(Result<String, String>),
) {
    let mut changes = Changes::new(in_force);
    let mut looks = tokio::time::interval(LOOK);
    looks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        looks.tick().await;
        let seen = tokio::task::spawn_blocking(read.clone()).await;
        match changes.saw(seen.unwrap_or_else(|e| Err(e.to_string()))) {
            Step::Nothing => {}
            Step::Apply(bundle) => tell(Ok(bundle)),
            Step::Refuse(reason) => tell(Err(reason)),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::root;

    #[test]
    fn the_file_begins_as_the_root_and_is_the_operators_after_that() {
        let state = tempfile::tempdir().unwrap();
        secret::private_folder(&state.path().join("ca")).unwrap();
        let (own, other) = (root(), root());
        assert_eq!(TrustFile::open(state.path(), &own).unwrap().1, own);
        let both = format!("{own}{other}");
        std::fs::write(state.path().join("ca/trust.pem"), &both).unwrap();
        assert_eq!(TrustFile::open(state.path(), &own).unwrap().1, both);
        assert_eq!(count(&both), Ok(2));
    }

    #[test]
    fn what_is_no_bundle_is_refused_with_the_file_and_the_reason() {
        let state = tempfile::tempdir().unwrap();
        secret::private_folder(&state.path().join("ca")).unwrap();
        let own = root();
        let (file, _) = TrustFile::open(state.path(), &own).unwrap();
        let path = state.path().join("ca/trust.pem");
        let half = own[..own.len() / 2].to_owned();
        let not_a_certificate = "-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n".to_owned();
        let large = "#".repeat(MAX_BUNDLE as usize + 1);
        for (text, expected) in [
            (String::new(), "no certificate in it"),
            (half, "ection"),
            (not_a_certificate, "certificate 1 is not a root"),
            (large, "larger than"),
        ] {
            std::fs::write(&path, &text).unwrap();
            let error = file.read().unwrap_err();
            assert!(error.contains("trust.pem") && error.contains(expected), "{error}");
        }
        std::fs::write(&path, [0xff, 0xfe]).unwrap();
        assert!(file.read().is_err());
        std::fs::remove_file(&path).unwrap();
        assert!(file.read().is_err());
    }

    #[test]
    fn only_what_two_looks_agree_on_counts_and_a_refusal_is_told_once() {
        let ok = |text: &str| Ok(text.to_owned());
        let broken = || Err("broken".to_owned());
        let mut changes = Changes::new("a".to_owned());
        let (apply, refuse) = (|text: &str| Step::Apply(text.to_owned()), || Step::Refuse("broken".to_owned()));
        for (number, (seen, expected)) in [
            (ok("a"), Step::Nothing),
            (broken(), Step::Nothing), // half a write
            (ok("b"), Step::Nothing),
            (ok("b"), apply("b")),
            (ok("b"), Step::Nothing),
            (broken(), Step::Nothing),
            (broken(), refuse()),
            (broken(), Step::Nothing),
            (ok("b"), Step::Nothing), // put back: nothing to do
            (ok("b"), Step::Nothing),
            (broken(), Step::Nothing),
            (broken(), refuse()), // broken anew: told anew
            (ok("a"), Step::Nothing),
            (ok("a"), apply("a")),
        ]
        .into_iter()
        .enumerate()
        {
            assert_eq!(changes.saw(seen), expected, "look {number}");
        }
    }
}
