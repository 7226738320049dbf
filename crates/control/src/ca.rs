//! The folder `ca`: the mesh's roots, the intermediate that signs, and the steps that replace them.
//!
//! `root.key` signs intermediates and nothing else, and may be kept elsewhere; `root.pem` has the roots that proxies trust
//! the control plane by; `intermediate.pem` (0600) is what a control plane signs with, certificate and key. A root is
//! replaced in three steps, each of which may come one life of a certificate after the one before: *spread* makes the next
//! pair and has everybody trust both roots; *switch* signs with the next; *finish* has nobody trust the old root.

use std::{
    fs, io,
    path::{Path, PathBuf},
    time::Duration,
};

use rcgen::{
    BasicConstraints, CertificateParams, DistinguishedName, DnType, IsCa, Issuer, KeyPair, KeyUsagePurpose,
    SerialNumber,
};
use rustls::pki_types::{CertificateDer, pem::PemObject as _};
use serde::{Deserialize, Serialize};
use sha2::{Digest as _, Sha256};
use thiserror::Error;
use x509_parser::parse_x509_certificate;
use xds::clock::Clock;

use crate::{api::Stamp, secret};

/// Life of a root: longer than any mesh on one machine.
const ROOT_LIFETIME: Duration = Duration::from_secs(10 * 365 * 24 * 3600);
/// Life of an intermediate; another one is made at half of it, where the root's key is.
const INTERMEDIATE_LIFETIME: Duration = Duration::from_secs(365 * 24 * 3600);
/// Validity begins a little before now, for machines whose clocks lag.
pub(crate) const SKEW: Duration = Duration::from_secs(60);

const ROOT_KEY: &str = "root.key";
const ROOTS: &str = "root.pem";
const INTERMEDIATE: &str = "intermediate.pem";
const TRUST: &str = "trust.pem";
const ROTATION: &str = "rotation.json";
const NEXT: &str = "next";
/// Where the key begins in the file of an intermediate.
const KEY: &str = "-----BEGIN PRIVATE KEY-----";

/// What is wrong with the folder, or not to be done with it now.
#[derive(Debug, Error)]
#[error("{path}: {reason}")]
pub struct CaError {
    path: String,
    reason: String,
}

fn failed(path: &Path, reason: impl std::fmt::Display) -> CaError {
    CaError { path: path.display().to_string(), reason: reason.to_string() }
}

/// What a control plane signs with.
pub struct Material {
    /// Roots, PEM: those of a rotation under way are all in it.
    pub roots: String,
    /// The intermediate's certificate, PEM.
    pub intermediate: String,
    /// Its key.
    pub key: KeyPair,
    /// When it ends.
    pub ends: Stamp,
}

/// How far the rotation of the root is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub enum Step {
    /// Both roots are trusted; the old one signs.
    Spread,
    /// Both roots are trusted; the new one signs.
    Switched,
}

/// A rotation under way.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Rotation {
    /// How far it is.
    pub step: Step,
    /// Since when.
    pub since: Stamp,
}

/// A certificate of the folder, for people.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Described {
    /// Subject.
    pub name: String,
    /// SHA-256 of the certificate, in hexadecimal.
    pub fingerprint: String,
    /// When it ends.
    pub ends: Stamp,
}

/// The folder.
#[derive(Clone, Debug)]
pub struct Folder {
    path: PathBuf,
    clock: Clock,
}

impl Folder {
    /// That of a state folder.
    pub fn of(state_dir: &Path, clock: Clock) -> Self {
        Self { path: state_dir.join("ca"), clock }
    }

    fn file(&self, name: &str) -> PathBuf {
        self.path.join(name)
    }

    /// Makes what a mesh begins with, if it is not there, and reads it.
    ///
    /// # Errors
    /// If it cannot be made or read, or does not belong together.
    pub fn prepare(&self) -> Result<Material, CaError> {
        secret::private_folder(&self.path).map_err(|e| failed(&self.path, e))?;
        if !self.file(ROOTS).exists() {
            self.make_root(&self.path)?;
        }
        if !self.file(INTERMEDIATE).exists() {
            self.make_intermediate(&self.path, None)?;
        }
        self.read()
    }

    /// What a control plane signs with.
    ///
    /// # Errors
    /// If it cannot be read, or does not belong together.
    pub fn read(&self) -> Result<Material, CaError> {
        let (roots, intermediate) = (self.text(ROOTS)?, self.text(INTERMEDIATE)?);
        let path = self.file(INTERMEDIATE);
        let at = intermediate.find(KEY).ok_or_else(|| failed(&path, "there is no private key in it"))?;
        let (certificate, key) = intermediate.split_at(at);
        let key = KeyPair::from_pem(key).map_err(|e| failed(&path, e))?;
        let der = CertificateDer::from_pem_slice(certificate.as_bytes()).map_err(|e| failed(&path, e))?;
        let (_, parsed) = parse_x509_certificate(&der).map_err(|e| failed(&path, e))?;
        if parsed.public_key().raw != rcgen::PublicKeyData::subject_public_key_info(&key) {
            return Err(failed(&path, "the certificate is not of the key in it"));
        }
        let ends = Stamp(parsed.validity().not_after.timestamp().saturating_mul(1_000_000_000));
        Ok(Material { roots, intermediate: certificate.to_owned(), key, ends })
    }

    /// Changes with everything that a control plane signs with.
    ///
    /// # Errors
    /// If it cannot be read.
    pub(crate) fn seen(&self) -> Result<String, String> {
        let read = |name| self.text(name).map_err(|e| e.to_string());
        Ok(format!("{}{}", read(ROOTS)?, read(INTERMEDIATE)?))
    }

    fn text(&self, name: &str) -> Result<String, CaError> {
        let path = self.file(name);
        fs::read_to_string(&path).map_err(|e| failed(&path, e))
    }

    fn write(&self, name: &str, text: &str) -> Result<(), CaError> {
        let path = self.file(name);
        secret::replace_private(&path, text.as_bytes()).map_err(|e| failed(&path, e))
    }

    /// A root's key and certificate; what is there already stays.
    fn make_root(&self, folder: &Path) -> Result<(), CaError> {
        let (key_path, path) = (folder.join(ROOT_KEY), folder.join(ROOTS));
        let make_key = || Ok(KeyPair::generate().map_err(io::Error::other)?.serialize_pem());
        let key = secret::read_or_make(&key_path, make_key).map_err(|e| failed(&key_path, e))?;
        let key = KeyPair::from_pem(&key).map_err(|e| failed(&key_path, e))?;
        let make = || {
            let mut params = authority("firedrill mesh root", 1).map_err(io::Error::other)?;
            let now = self.clock.now();
            set_validity(&mut params, shift(now, SKEW, false), shift(now, ROOT_LIFETIME, true));
            Ok(params.self_signed(&key).map_err(io::Error::other)?.pem())
        };
        secret::read_or_make(&path, make).map_err(|e| failed(&path, e))?;
        Ok(())
    }

    /// An intermediate of the root in a folder; what is there already stays.
    fn make_intermediate(&self, folder: &Path, root_key: Option<&Path>) -> Result<(), CaError> {
        let path = folder.join(INTERMEDIATE);
        let text = self.sign_intermediate(folder, root_key)?;
        secret::read_or_make(&path, || Ok(text)).map_err(|e| failed(&path, e))?;
        Ok(())
    }

    fn sign_intermediate(&self, folder: &Path, root_key: Option<&Path>) -> Result<String, CaError> {
        let key_path = root_key.map_or_else(|| folder.join(ROOT_KEY), Path::to_owned);
        let key = fs::read_to_string(&key_path).map_err(|e| {
            failed(&key_path, format!("{e}; the root's key signs intermediates: name it with `--root-key FILE`"))
        })?;
        let root_key = KeyPair::from_pem(&key).map_err(|e| failed(&key_path, e))?;
        let path = folder.join(ROOTS);
        let roots = fs::read_to_string(&path).map_err(|e| failed(&path, e))?;
        let public = rcgen::PublicKeyData::subject_public_key_info(&root_key);
        let mut of_key = None;
        for root in certificates(&roots).map_err(|e| failed(&path, e))? {
            let (_, parsed) = parse_x509_certificate(&root).map_err(|e| failed(&path, e))?;
            let constraints = parsed.basic_constraints().ok().flatten();
            if constraints.is_some_and(|c| c.value.path_len_constraint == Some(0)) {
                let why = "a root of an older version may have no intermediate; move the folder away, and every proxy \
                           joins a new authority";
                return Err(failed(&path, why));
            }
            if parsed.public_key().raw == public {
                of_key = Some((root.clone(), parsed.validity().not_after.timestamp()));
            }
        }
        let no = || failed(&path, format!("none of its certificates is of the key in {}", key_path.display()));
        let (root, ends) = of_key.ok_or_else(no)?;
        let sign = || {
            let issuer = Issuer::from_ca_cert_der(&root, root_key)?;
            let key = KeyPair::generate()?;
            let mut params = authority("firedrill mesh intermediate", 0)?;
            params.use_authority_key_identifier_extension = true;
            let now = self.clock.now();
            let until = shift(now, INTERMEDIATE_LIFETIME, true).min(Stamp(ends.saturating_mul(1_000_000_000)));
            set_validity(&mut params, shift(now, SKEW, false), until);
            let certificate = params.signed_by(&key, &issuer)?.pem();
            Ok::<_, rcgen::Error>(format!("{certificate}{}", key.serialize_pem()))
        };
        sign().map_err(|e| failed(&path, e))
    }

    /// Replaces the intermediate by another one of the same root: what it signed stays good until it ends.
    ///
    /// # Errors
    /// If the root's key (`root_key`, or `ca/root.key`) is not there or not the root's.
    pub fn renew_intermediate(&self, root_key: Option<&Path>) -> Result<(), CaError> {
        let text = self.sign_intermediate(&self.path, root_key)?;
        self.write(INTERMEDIATE, &text)
    }

    /// Whether the root's key is here.
    pub fn has_root_key(&self) -> bool {
        self.file(ROOT_KEY).is_file()
    }

    /// Makes another intermediate when half of its life is over, where the root's key is.
    pub(crate) fn renew_in_time(&self) -> Result<(), CaError> {
        let left = self.prepare()?.ends.0.saturating_sub(self.clock.now().0);
        if u128::from(left.max(0).unsigned_abs()) > INTERMEDIATE_LIFETIME.as_nanos() / 2 {
            return Ok(());
        }
        if self.has_root_key() {
            return self.renew_intermediate(None);
        }
        tracing::warn!("half of the intermediate's life is over; make another: `firedrill ca rotate --root-key FILE`");
        Ok(())
    }

    /// The rotation of the root that is under way.
    ///
    /// # Errors
    /// If that cannot be read.
    pub fn rotation(&self) -> Result<Option<Rotation>, CaError> {
        let path = self.file(ROTATION);
        match fs::read(&path) {
            Ok(bytes) => serde_json::from_slice(&bytes).map(Some).map_err(|e| failed(&path, e)),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
            Err(error) => Err(failed(&path, error)),
        }
    }

    fn note(&self, step: Step) -> Result<(), CaError> {
        let text = serde_json::to_string(&Rotation { step, since: self.clock.now() });
        self.write(ROTATION, &text.map_err(|e| failed(&self.path, e))?)
    }

    /// Begins to replace the root: makes the next one, and has everybody trust both. One that was interrupted goes on.
    ///
    /// # Errors
    /// If a file cannot be read or written.
    pub fn spread(&self) -> Result<(), CaError> {
        let next = self.file(NEXT);
        secret::private_folder(&next).map_err(|e| failed(&next, e))?;
        self.make_root(&next)?;
        self.make_intermediate(&next, None)?;
        let root = fs::read_to_string(next.join(ROOTS)).map_err(|e| failed(&next, e))?;
        for name in [ROOTS, TRUST] {
            let present = self.text(name)?;
            if !present.contains(root.trim()) {
                self.write(name, &format!("{}\n{root}", present.trim_end()))?;
            }
        }
        self.note(Step::Spread)
    }

    /// Signs with the next root's intermediate from now on.
    ///
    /// # Errors
    /// If a file cannot be read or written.
    pub fn switch(&self) -> Result<(), CaError> {
        let next = self.file(NEXT);
        let read = |name: &str| fs::read_to_string(next.join(name)).map_err(|e| failed(&next, e));
        self.write(ROOT_KEY, &read(ROOT_KEY)?)?;
        self.write(INTERMEDIATE, &read(INTERMEDIATE)?)?;
        self.note(Step::Switched)?;
        fs::remove_dir_all(&next).map_err(|e| failed(&next, e))
    }

    /// Has nobody trust another root of ours than the one that signs.
    ///
    /// # Errors
    /// If a file cannot be read or written.
    pub fn finish(&self) -> Result<(), CaError> {
        let issuer = {
            let (path, text) = (self.file(INTERMEDIATE), self.text(INTERMEDIATE)?);
            let der = CertificateDer::from_pem_slice(text.as_bytes()).map_err(|e| failed(&path, e))?;
            let (_, parsed) = parse_x509_certificate(&der).map_err(|e| failed(&path, e))?;
            parsed.issuer().as_raw().to_vec()
        };
        let path = self.file(ROOTS);
        let ours = certificates(&self.text(ROOTS)?).map_err(|e| failed(&path, e))?;
        let signs = |der: &CertificateDer<'_>| {
            parse_x509_certificate(der).is_ok_and(|(_, root)| root.subject().as_raw() == issuer)
        };
        let (kept, gone): (Vec<_>, Vec<_>) = ours.into_iter().partition(signs);
        if kept.is_empty() {
            return Err(failed(&path, "none of its roots signed the intermediate"));
        }
        for name in [TRUST, ROOTS] {
            let text = self.text(name)?;
            let stays =
                |block: &&str| CertificateDer::from_pem_slice(block.as_bytes()).is_ok_and(|root| !gone.contains(&root));
            let rest: Vec<&str> = blocks(&text).filter(stays).collect();
            // An empty bundle would be refused; somebody else's cut the mesh off on purpose.
            if !rest.is_empty() {
                self.write(name, &format!("{}\n", rest.join("\n")))?;
            }
        }
        let path = self.file(ROTATION);
        fs::remove_file(&path).map_err(|e| failed(&path, e))
    }

    /// Moves the root's key out of the folder, to where nothing is yet.
    ///
    /// # Errors
    /// If it is not here, or something is there.
    pub fn take_root_key(&self, to: &Path) -> Result<(), CaError> {
        let key = self.text(ROOT_KEY)?;
        secret::write_private(to, key.as_bytes()).map_err(|e| failed(to, e))?;
        let path = self.file(ROOT_KEY);
        fs::remove_file(&path).map_err(|e| failed(&path, e))
    }

    /// Roots, then the intermediate.
    ///
    /// # Errors
    /// If they cannot be read.
    pub fn describe(&self) -> Result<(Vec<Described>, Described), CaError> {
        let roots = certificates(&self.text(ROOTS)?).map_err(|e| failed(&self.file(ROOTS), e))?;
        let path = self.file(INTERMEDIATE);
        let text = self.text(INTERMEDIATE)?;
        let der = CertificateDer::from_pem_slice(text.as_bytes()).map_err(|e| failed(&path, e))?;
        let roots = roots.iter().map(|root| describe(root).map_err(|e| failed(&path, e))).collect::<Result<_, _>>()?;
        Ok((roots, describe(&der).map_err(|e| failed(&path, e))?))
    }
}

/// The certificates of a bundle, PEM.
///
/// # Errors
/// If one cannot be read.
pub fn describe_all(pem: &str) -> Result<Vec<Described>, String> {
    certificates(pem)?.iter().map(describe).collect()
}

fn describe(der: &CertificateDer<'_>) -> Result<Described, String> {
    let (_, parsed) = parse_x509_certificate(der).map_err(|e| e.to_string())?;
    Ok(Described {
        name: parsed.subject().to_string(),
        fingerprint: secret::hex(&Sha256::digest(der)),
        ends: Stamp(parsed.validity().not_after.timestamp().saturating_mul(1_000_000_000)),
    })
}

fn certificates(text: &str) -> Result<Vec<CertificateDer<'static>>, String> {
    CertificateDer::pem_slice_iter(text.as_bytes()).collect::<Result<_, _>>().map_err(|e| e.to_string())
}

/// Whether two bundles have a certificate in common.
pub(crate) fn share_a_root(one: &str, other: &str) -> bool {
    let (Ok(one), Ok(other)) = (certificates(one), certificates(other)) else { return false };
    one.iter().any(|root| other.contains(root))
}

/// The certificates of a bundle as they are written.
fn blocks(text: &str) -> impl Iterator<Item = &str> {
    const END: &str = "-----END CERTIFICATE-----";
    text.split_inclusive(END).filter_map(|part| part.find("-----BEGIN CERTIFICATE-----").map(|at| &part[at..]))
}

/// Parameters of an authority. Each has a name of its own, so that whose certificate one is can be told by its issuer.
fn authority(kind: &str, below: u8) -> Result<CertificateParams, rcgen::Error> {
    let mut params = CertificateParams::default();
    let serial = serial()?;
    params.distinguished_name = DistinguishedName::new();
    params.distinguished_name.push(DnType::CommonName, format!("{kind} {}", secret::hex(&serial.to_bytes()[..6])));
    params.serial_number = Some(serial);
    params.is_ca = IsCa::Ca(BasicConstraints::Constrained(below));
    params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
    Ok(params)
}

/// 127 random bits, so that the number is positive (RFC 5280 §4.1.2.2).
pub(crate) fn serial() -> Result<SerialNumber, rcgen::Error> {
    use aws_lc_rs::rand::SecureRandom as _;
    let mut bytes = [0_u8; 16];
    aws_lc_rs::rand::SystemRandom::new().fill(&mut bytes).map_err(|_| rcgen::Error::RingUnspecified)?;
    bytes[0] &= 0x7f;
    bytes[0] |= 0x40;
    Ok(SerialNumber::from_slice(&bytes))
}

pub(crate) fn shift(stamp: Stamp, by: Duration, later: bool) -> Stamp {
    let nanos = i64::try_from(by.as_nanos()).unwrap_or(i64::MAX);
    Stamp(if later { stamp.0.saturating_add(nanos) } else { stamp.0.saturating_sub(nanos) })
}

/// Certificates carry whole seconds.
pub(crate) fn set_validity(params: &mut CertificateParams, from: Stamp, to: Stamp) {
    let epoch = rcgen::date_time_ymd(1970, 1, 1);
    let since_epoch = |stamp: Stamp| Duration::from_secs(stamp.0.max(0).unsigned_abs() / 1_000_000_000);
    params.not_before = epoch + since_epoch(from);
    params.not_after = epoch + since_epoch(to);
}

#[cfg(test)]
mod tests {
    use std::{os::unix::fs::PermissionsExt as _, sync::Arc};

    use super::*;
    use crate::authority::{Authority, Request};

    struct Rig {
        state: tempfile::TempDir,
        clock: Clock,
    }

    impl Rig {
        fn new() -> Self {
            let rig = Self { state: tempfile::tempdir().unwrap(), clock: Clock::anchored() };
            let material = rig.folder().prepare().unwrap();
            std::fs::write(rig.folder().file(TRUST), material.roots).unwrap();
            rig
        }

        fn folder(&self) -> Folder {
            Folder::of(self.state.path(), self.clock)
        }

        fn authority(&self) -> Authority {
            Authority::new(self.folder().read().unwrap(), self.clock).unwrap()
        }

        /// A workload's chain.
        fn issue(&self) -> Vec<CertificateDer<'static>> {
            let key = KeyPair::generate().unwrap();
            let csr = CertificateParams::default().serialize_request(&key).unwrap().pem().unwrap();
            let request = Request::parse(&csr).unwrap();
            let id = "spiffe://bank.example/service/fx";
            let given = self.authority().sign(&request, id, Duration::from_secs(60)).unwrap();
            certificates(&given.certificate).unwrap()
        }

        fn believes(&self, chain: &[CertificateDer<'_>]) -> bool {
            self.authority().verify(chain) == Ok(Arc::from("spiffe://bank.example/service/fx"))
        }

        fn trusted(&self) -> usize {
            certificates(&self.folder().text(TRUST).unwrap()).unwrap().len()
        }
    }

    #[test]
    fn a_workloads_chain_leads_over_the_intermediate_to_the_root() {
        let rig = Rig::new();
        let chain = rig.issue();
        assert_eq!(chain.len(), 2);
        assert!(rig.believes(&chain));
        assert!(!rig.believes(&chain[..1]), "the root signs no workload");
        for name in [ROOT_KEY, INTERMEDIATE] {
            let mode = fs::metadata(rig.folder().file(name)).unwrap().permissions().mode();
            assert_eq!(mode & 0o777, 0o600, "{name}");
        }
    }

    #[test]
    fn the_roots_key_can_be_elsewhere() {
        let rig = Rig::new();
        let (old, elsewhere) = (rig.issue(), rig.state.path().join("safe.key"));
        rig.folder().take_root_key(&elsewhere).unwrap();
        assert!(!rig.folder().has_root_key());
        rig.folder().prepare().unwrap();
        assert!(rig.folder().renew_intermediate(None).unwrap_err().to_string().contains("--root-key"));
        rig.folder().renew_intermediate(Some(&elsewhere)).unwrap();
        let new = rig.issue();
        assert_ne!(old[1], new[1]);
        assert!(rig.believes(&old) && rig.believes(&new));
        // Neither another key, nor over what is there.
        let other = rig.state.path().join("other.key");
        fs::write(&other, KeyPair::generate().unwrap().serialize_pem()).unwrap();
        assert!(rig.folder().renew_intermediate(Some(&other)).is_err());
        fs::write(rig.folder().file(ROOT_KEY), "x").unwrap();
        assert!(rig.folder().take_root_key(&elsewhere).is_err());
    }

    #[test]
    fn a_root_is_replaced_in_three_steps_of_which_none_cuts_anybody_off() {
        let rig = Rig::new();
        let before = rig.issue();
        assert_eq!(rig.folder().rotation().unwrap(), None);
        rig.folder().spread().unwrap();
        // Interrupted, and done again.
        rig.folder().spread().unwrap();
        assert_eq!(rig.folder().rotation().unwrap().unwrap().step, Step::Spread);
        assert_eq!((rig.trusted(), rig.folder().describe().unwrap().0.len()), (2, 2));
        let spread = rig.issue();
        assert_eq!(before[1], spread[1], "the old one signs");
        rig.folder().switch().unwrap();
        let switched = rig.issue();
        assert_ne!(before[1], switched[1]);
        assert!(rig.believes(&before) && rig.believes(&switched));
        // What is of somebody else in the bundle stays in it.
        let other = Rig::new();
        let text = format!("# ours\n{}{}", rig.folder().text(TRUST).unwrap(), other.folder().text(ROOTS).unwrap());
        fs::write(rig.folder().file(TRUST), text).unwrap();
        rig.folder().finish().unwrap();
        assert_eq!(rig.folder().rotation().unwrap(), None);
        assert_eq!((rig.trusted(), rig.folder().describe().unwrap().0.len()), (2, 1));
        assert!(!rig.believes(&before) && rig.believes(&switched));
        // And again.
        rig.folder().spread().unwrap();
        rig.folder().switch().unwrap();
        rig.folder().finish().unwrap();
        assert!(!rig.believes(&switched) && rig.believes(&rig.issue()));
    }

    #[test]
    fn an_intermediate_of_somebody_else_signs_nothing() {
        let (rig, other) = (Rig::new(), Rig::new());
        fs::copy(other.folder().file(INTERMEDIATE), rig.folder().file(INTERMEDIATE)).unwrap();
        let error = Authority::new(rig.folder().read().unwrap(), rig.clock).err().unwrap().to_string();
        assert!(error.contains("do not vouch"), "{error}");
        fs::write(rig.folder().file(INTERMEDIATE), "half").unwrap();
        assert!(rig.folder().read().is_err());
    }
}
