//! Trust bundles as they travel between trust domains: a JSON Web Key Set (SPIFFE Trust Domain and Bundle, section 4), or PEM.

use std::{fs, io, path::Path, time::Duration};

use base64::{
    Engine as _,
    engine::general_purpose::{STANDARD, URL_SAFE_NO_PAD},
};
use rustls::{
    RootCertStore,
    pki_types::{CertificateDer, pem::PemObject as _},
};
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value, json};
use sha2::{Digest as _, Sha256};
use x509_parser::{
    oid_registry::{OID_EC_P256, OID_NIST_EC_P384, OID_NIST_EC_P521, OID_SIG_ED25519},
    parse_x509_certificate,
    public_key::PublicKey,
    x509::SubjectPublicKeyInfo,
};

use crate::secret;

/// Largest bundle, in bytes.
pub(crate) const MAX_BUNDLE: usize = 1 << 20;
/// The keys of a set that are roots of X.509.
const X509: &str = "x509-svid";
/// Where a state folder notes which bundle has which number.
const NOTED: &str = "bundle.json";
/// The operator's bundle of traffic, where the built-in authority issues certificates.
const TRUST: &str = "trust.pem";
/// What came last from whoever else issues them.
const ISSUED: &str = "issued.pem";
/// Longest time after which others are told to ask again (what SPIFFE recommends where nothing is said).
const REFRESH: Duration = Duration::from_secs(300);

/// The roots of a trust domain.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Bundle {
    /// Certificates; none: the trust domain vouches for nobody any more.
    pub(crate) roots: Vec<CertificateDer<'static>>,
    /// Grows with every change.
    pub sequence: Option<u64>,
    /// How long it should be used before a newer one is asked for.
    pub refresh_hint: Option<Duration>,
}

#[derive(Serialize, Deserialize)]
struct KeySet {
    keys: Vec<Key>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    spiffe_sequence: Option<u64>,
    /// Seconds.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    spiffe_refresh_hint: Option<u64>,
}

/// Keys for other uses and fields that we do not know are passed over, as the specification says.
#[derive(Serialize, Deserialize)]
struct Key {
    #[serde(default, rename = "use")]
    purpose: Option<String>,
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    x5c: Vec<String>,
    #[serde(flatten)]
    key: Map<String, Value>,
}

impl Bundle {
    /// Reads either form.
    ///
    /// # Errors
    /// What is wrong with it.
    pub fn parse(text: &str) -> Result<Self, String> {
        if text.trim_start().starts_with('{') { Self::of_keys(text) } else { Self::of_pem(text) }
    }

    /// Reads certificates in PEM; at least one.
    ///
    /// # Errors
    /// If there is none, or one cannot be a root.
    pub fn of_pem(text: &str) -> Result<Self, String> {
        let roots = CertificateDer::pem_slice_iter(text.as_bytes()).collect::<Result<Vec<_>, _>>();
        let roots = roots.map_err(|e| e.to_string())?;
        if roots.is_empty() {
            return Err("no certificate in it".to_owned());
        }
        Self::of(roots)
    }

    fn of_keys(text: &str) -> Result<Self, String> {
        let set: KeySet = serde_json::from_str(text).map_err(|e| format!("it is not a SPIFFE bundle: {e}"))?;
        let mut roots = Vec::new();
        for (index, key) in set.keys.iter().enumerate().filter(|(_, key)| key.purpose.as_deref() == Some(X509)) {
            let [certificate] = key.x5c.as_slice() else {
                return Err(format!("keys[{index}].x5c: there must be one certificate, not {}", key.x5c.len()));
            };
            let der = STANDARD.decode(certificate).map_err(|e| format!("keys[{index}].x5c: {e}"))?;
            roots.push(CertificateDer::from(der));
        }
        let refresh_hint = set.spiffe_refresh_hint.map(Duration::from_secs);
        Ok(Self { sequence: set.spiffe_sequence, refresh_hint, ..Self::of(roots)? })
    }

    fn of(roots: Vec<CertificateDer<'static>>) -> Result<Self, String> {
        let mut store = RootCertStore::empty();
        for root in &roots {
            store.add(root.clone()).map_err(|e| format!("certificate {} is not a root: {e}", store.len() + 1))?;
        }
        Ok(Self { roots, sequence: None, refresh_hint: None })
    }

    /// Number of roots.
    pub fn count(&self) -> u64 {
        self.roots.len() as u64
    }

    /// PEM, as proxies are told it.
    pub fn pem(&self) -> String {
        self.roots.iter().map(|root| xds::pem::write("CERTIFICATE", root)).collect()
    }

    /// A JSON Web Key Set.
    ///
    /// # Errors
    /// If a root's key is of a kind that has no place there.
    pub fn json(&self) -> Result<String, String> {
        let key = |root: &CertificateDer<'static>| {
            let (_, parsed) = parse_x509_certificate(root).map_err(|e| e.to_string())?;
            Ok(Key {
                purpose: Some(X509.to_owned()),
                x5c: vec![STANDARD.encode(root)],
                key: public_key(parsed.public_key())?,
            })
        };
        let set = KeySet {
            keys: self.roots.iter().map(key).collect::<Result<_, String>>()?,
            spiffe_sequence: self.sequence,
            spiffe_refresh_hint: self.refresh_hint.map(|hint| hint.as_secs()),
        };
        serde_json::to_string_pretty(&set).map_err(|e| e.to_string())
    }
}

/// RFC 7518, 6.2 and 6.3, and RFC 8037, 2.
fn public_key(info: &SubjectPublicKeyInfo<'_>) -> Result<Map<String, Value>, String> {
    let kind = &info.algorithm.algorithm;
    let no = || format!("a key of the kind {kind} cannot be written in a SPIFFE bundle");
    let text = |bytes: &[u8]| URL_SAFE_NO_PAD.encode(bytes);
    let key = match info.parsed().map_err(|e| e.to_string())? {
        PublicKey::EC(point) => {
            let curve = info.algorithm.parameters.as_ref().and_then(|p| p.as_oid().ok()).ok_or_else(no)?;
            let (name, size) =
                [(OID_EC_P256, "P-256", 32), (OID_NIST_EC_P384, "P-384", 48), (OID_NIST_EC_P521, "P-521", 66)]
                    .into_iter()
                    .find_map(|(oid, name, size)| (oid == curve).then_some((name, size)))
                    .ok_or_else(no)?;
            // Uncompressed: 4, x, y.
            let (x, y) = point
                .data()
                .strip_prefix(&[4])
                .filter(|both| both.len() == 2 * size)
                .map(|both| both.split_at(size))
                .ok_or_else(no)?;
            json!({"kty": "EC", "crv": name, "x": text(x), "y": text(y)})
        }
        PublicKey::RSA(rsa) => {
            let number = |bytes: &[u8]| text(&bytes[bytes.iter().take_while(|byte| **byte == 0).count()..]);
            json!({"kty": "RSA", "n": number(rsa.modulus), "e": number(rsa.exponent)})
        }
        _ if *kind == OID_SIG_ED25519 => {
            json!({"kty": "OKP", "crv": "Ed25519", "x": text(&info.subject_public_key.data)})
        }
        _ => return Err(no()),
    };
    match key {
        Value::Object(key) => Ok(key),
        _ => Err(no()),
    }
}

/// Which number a bundle has.
#[derive(Serialize, Deserialize)]
struct Noted {
    sequence: u64,
    /// SHA-256 of its roots, in hexadecimal.
    digest: String,
}

/// The bundle of the mesh of a state folder, as others are told it: what is in `ca/trust.pem`, or what came last from whoever
/// else issues certificates. Its number is one more than that of the one before it. While the root is replaced, `lifetime` (that
/// of certificates) passes between two steps; others are told to ask several times in it.
///
/// # Errors
/// If it cannot be read, or its number not be noted; or nothing came yet.
pub fn own(state_dir: &Path, lifetime: Option<Duration>) -> Result<Bundle, String> {
    let ca = state_dir.join("ca");
    let (path, text) = match issued(state_dir)? {
        Some(roots) if roots.is_empty() => return Err(NOTHING_CAME.to_owned()),
        Some(roots) => (ca.join(ISSUED), roots),
        None => {
            let path = ca.join(TRUST);
            let text = fs::read_to_string(&path).map_err(|e| failed(&path, &e))?;
            (path, text)
        }
    };
    numbered(state_dir, &text, lifetime).map_err(|e| failed(&path, &e))
}

/// Said where no roots are known.
const NOTHING_CAME: &str = "certificates of this mesh are issued elsewhere (`identity` of the Mesh), and no roots have come \
                            from there yet; `firedrill get trust` tells why";

/// The roots of the mesh of a state folder where somebody else issues its certificates, PEM, as the control plane heard them last;
/// empty: it heard none yet. `None`: the built-in authority issues.
///
/// # Errors
/// If they cannot be read.
pub fn issued(state_dir: &Path) -> Result<Option<String>, String> {
    let path = state_dir.join("ca").join(ISSUED);
    match fs::read_to_string(&path) {
        Ok(roots) => Ok(Some(roots)),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(error) => Err(failed(&path, &error)),
    }
}

/// Keeps in the state folder what [`issued`] answers. Empty roots leave what came last.
pub(crate) fn keep_issued(state_dir: &Path, roots: Option<&str>) -> Result<(), String> {
    let path = state_dir.join("ca").join(ISSUED);
    let done = match roots {
        Some("") => secret::read_or_make(&path, || Ok(String::new())).map(drop),
        Some(roots) => secret::replace_private(&path, roots.as_bytes()),
        None => match fs::remove_file(&path) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
            done => done,
        },
    };
    done.map_err(|e| failed(&path, &e))
}

fn failed(path: &Path, error: &dyn std::fmt::Display) -> String {
    format!("{}: {error}", path.display())
}

fn numbered(state_dir: &Path, roots: &str, lifetime: Option<Duration>) -> Result<Bundle, String> {
    let noted_at = state_dir.join("ca").join(NOTED);
    let bundle = Bundle::of_pem(roots)?;
    let digest = bundle.roots.iter().fold(Sha256::new(), |digest, root| digest.chain_update(Sha256::digest(root)));
    let digest = secret::hex(&digest.finalize());
    let before = match fs::read(&noted_at) {
        Ok(bytes) => Some(serde_json::from_slice::<Noted>(&bytes).map_err(|e| failed(&noted_at, &e))?),
        Err(error) if error.kind() == io::ErrorKind::NotFound => None,
        Err(error) => return Err(failed(&noted_at, &error)),
    };
    let sequence = match before {
        Some(noted) if noted.digest == digest => noted.sequence,
        before => {
            let sequence = before.map_or(1, |noted| noted.sequence + 1);
            let text = serde_json::to_vec(&Noted { sequence, digest }).map_err(|e| failed(&noted_at, &e))?;
            secret::replace_private(&noted_at, &text).map_err(|e| failed(&noted_at, &e))?;
            sequence
        }
    };
    let hint = lifetime.map(|lifetime| (lifetime / 4).clamp(Duration::from_secs(1), REFRESH));
    Ok(Bundle { sequence: Some(sequence), refresh_hint: hint, ..bundle })
}

/// How long a bundle is used before a newer one is asked for.
pub(crate) fn refresh_after(bundle: Option<&Bundle>) -> Duration {
    const DAY: Duration = Duration::from_secs(24 * 3600);
    let hint = bundle.and_then(|bundle| bundle.refresh_hint).unwrap_or(REFRESH);
    // Asked before the time is over, so that an answer that takes long is still within it.
    hint.clamp(Duration::from_secs(1), DAY).mul_f64(0.8)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::root;

    #[test]
    fn a_bundle_is_read_as_it_is_written() {
        let both = format!("{}{}", root(), root());
        let bundle =
            Bundle { sequence: Some(7), refresh_hint: Some(Duration::from_secs(9)), ..Bundle::parse(&both).unwrap() };
        assert_eq!(bundle.count(), 2);
        let text = bundle.json().unwrap();
        assert_eq!(Bundle::parse(&text), Ok(bundle.clone()));
        assert_eq!(Bundle::parse(&bundle.pem()).unwrap().roots, bundle.roots);
        let set: Value = serde_json::from_str(&text).unwrap();
        let key = &set["keys"][0];
        assert_eq!((&key["use"], &key["kty"], &key["crv"]), (&json!("x509-svid"), &json!("EC"), &json!("P-256")));
        assert_eq!((&set["spiffe_sequence"], &set["spiffe_refresh_hint"]), (&json!(7), &json!(9)));
        assert_eq!(URL_SAFE_NO_PAD.decode(key["x"].as_str().unwrap()).unwrap().len(), 32);
    }

    #[test]
    fn keys_for_other_uses_are_passed_over_and_what_is_no_root_is_refused() {
        let one = STANDARD.encode(&Bundle::of_pem(&root()).unwrap().roots[0]);
        let read = |keys: Value| Bundle::parse(&json!({"keys": keys, "other": 1}).to_string());
        let jwt = json!({"use": "jwt-svid", "kty": "EC", "kid": "a"});
        let x509 = |x5c: Value| json!({"use": "x509-svid", "kty": "EC", "x5c": x5c});
        assert_eq!(read(json!([jwt, {"kty": "EC"}, x509(json!([one]))])).unwrap().count(), 1);
        assert_eq!(read(json!([])).unwrap().count(), 0, "it vouches for nobody any more");
        for (keys, expected) in [
            (json!([jwt, x509(json!([]))]), "keys[1].x5c: there must be one certificate, not 0"),
            (json!([x509(json!([one, one]))]), "must be one certificate, not 2"),
            (json!([x509(json!(["%"]))]), "keys[0].x5c"),
            (json!([x509(json!(["AAAA"]))]), "certificate 1 is not a root"),
            (json!({}), "not a SPIFFE bundle"),
        ] {
            let error = read(keys).unwrap_err();
            assert!(error.contains(expected), "{error}");
        }
        assert!(Bundle::parse("").is_err_and(|e| e.contains("no certificate")));
    }

    #[test]
    fn where_somebody_else_issues_the_bundle_is_what_came_last_from_there() {
        let state = tempfile::tempdir().unwrap();
        secret::private_folder(&state.path().join("ca")).unwrap();
        let (ours, theirs, next) = (root(), root(), root());
        fs::write(state.path().join("ca").join(TRUST), &ours).unwrap();
        let own = || own(state.path(), None).map(|bundle| (bundle.pem(), bundle.sequence));
        let keep = |roots: Option<&str>| keep_issued(state.path(), roots).unwrap();
        keep(None);
        assert_eq!((own(), issued(state.path())), (Ok((ours.clone(), Some(1))), Ok(None)));
        keep(Some(""));
        assert!(own().unwrap_err().contains("no roots have come from there yet; `firedrill get trust`"));
        keep(Some(&theirs));
        assert_eq!(own(), Ok((theirs.clone(), Some(2))));
        // A control plane that starts anew has not heard any yet.
        keep(Some(""));
        assert_eq!((own(), issued(state.path())), (Ok((theirs.clone(), Some(2))), Ok(Some(theirs))));
        keep(Some(&next));
        assert_eq!(own(), Ok((next, Some(3))));
        keep(None);
        assert_eq!(own(), Ok((ours, Some(4))));
    }

    #[test]
    fn the_number_of_our_bundle_grows_with_each_change() {
        let state = tempfile::tempdir().unwrap();
        let trust = state.path().join("ca/trust.pem");
        secret::private_folder(&state.path().join("ca")).unwrap();
        let (a, b) = (root(), root());
        let told = |text: &str| {
            fs::write(&trust, text).unwrap();
            own(state.path(), Some(Duration::from_secs(20))).unwrap()
        };
        assert_eq!((told(&a).sequence, told(&format!("# a\n{a}\n")).sequence), (Some(1), Some(1)));
        assert_eq!(
            (told(&format!("{a}{b}")).sequence, told(&b).sequence, told(&a).sequence),
            (Some(2), Some(3), Some(4))
        );
        assert_eq!(told(&a).refresh_hint, Some(Duration::from_secs(5)));
        assert_eq!(own(state.path(), Some(Duration::from_secs(86_400))).unwrap().refresh_hint, Some(REFRESH));
    }
}
