//! The parts that close a bundle: proofs that its entries stand in the ledger, signed statements, checkpoint, public key.

use base64::{Engine, engine::general_purpose::STANDARD};
use ed25519_dalek::{Signer, SigningKey};
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

use crate::{
    bundle::{
        archive::{Part, find},
        limits::Limits,
        parts::{Manifest, PartDigest, REGISTERED, RESULTS},
    },
    canonical,
    entry::Entry,
    ledger::Ledger,
    merkle::{self, Hash, Tree},
    note::{Checkpoint, VerifierKey},
    record::Verdict,
    results::Results,
};

/// Entries of the drill with their proofs.
pub const PROOFS: &str = "proofs.json";
/// Signed head of the ledger, as C2SP `tlog-checkpoint`.
pub const CHECKPOINT: &str = "checkpoint";
/// DSSE envelope of the in-toto `test-result` statement.
pub const TEST_RESULT: &str = "test-result.dsse.json";
/// DSSE envelope of our own statement.
pub const MEASUREMENT: &str = "measurement.dsse.json";
/// Public key, as C2SP `signed-note` verifier key.
pub const KEY: &str = "key.pub";
/// All of them, in order.
pub const CLOSING: [&str; 5] = [PROOFS, CHECKPOINT, TEST_RESULT, MEASUREMENT, KEY];

/// Memory that the values of an envelope may need, beyond its bytes.
const MAX_ENVELOPE: usize = 64 << 10;

const PAYLOAD_TYPE: &str = "application/vnd.in-toto+json";

/// An entry of the ledger and the way from it to the root.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Proof {
    /// The entry.
    pub entry: Entry,
    /// Base64 of the hashes of the audit path, from the leaf upwards.
    pub path: Vec<String>,
}

/// An entry whose proof leads to the checkpoint.
#[derive(Clone, Debug, PartialEq)]
pub struct Proved {
    /// The entry.
    pub entry: Entry,
    /// Its leaf hash.
    pub leaf: Hash,
    /// Its audit path.
    pub path: Vec<Hash>,
}

impl Proof {
    /// Checks that it leads to the root of the checkpoint.
    pub fn prove(self, checkpoint: &Checkpoint) -> Result<Proved, String> {
        let index = self.entry.index;
        let fail = |why: &str| format!("entry {index}: {why}");
        let bytes = canonical::to_vec(&self.entry).map_err(|_| fail("has no canonical form"))?;
        if self.path.len() > 64 {
            return Err(fail("its path is longer than that of any ledger"));
        }
        let mut path = Vec::with_capacity(self.path.len());
        for hash in &self.path {
            let hash = STANDARD.decode(hash).ok().and_then(|bytes| Hash::try_from(bytes).ok());
            path.push(hash.ok_or_else(|| fail("a hash of its path is not 32 bytes of base64"))?);
        }
        let leaf = merkle::leaf(&bytes);
        if !merkle::verify_inclusion(&leaf, index, checkpoint.size, &path, &checkpoint.root) {
            return Err(fail(
                "it was changed, or is not in the ledger at this place: its path does not lead to the signed root",
            ));
        }
        Ok(Proved { entry: self.entry, leaf, path })
    }
}

/// Registration and seal of this attempt and of those of the drill before it, in the tree that ends with the seal: a
/// missing number or seal is found offline.
fn proofs(ledger: &Ledger, tree: &Tree, drill: &str, number: u64, size: usize) -> Result<Vec<Proof>, String> {
    let known = ledger.attempts().of(drill).iter().take(usize::try_from(number).unwrap_or(usize::MAX));
    let mut indices: Vec<u64> = known
        .flat_map(|known| [Some(known.registered), known.sealed.map(|seal| seal.index)])
        .flatten()
        .filter(|index| usize::try_from(*index).is_ok_and(|index| index < size))
        .collect();
    indices.sort_unstable();
    let proof = |index: u64| {
        let path = usize::try_from(index).ok().and_then(|index| tree.inclusion(index, size));
        let path = path.ok_or_else(|| format!("entry {index} is not in the ledger"))?;
        let entry = ledger.entry(index).map_err(|error| error.to_string())?;
        Ok(Proof { entry, path: path.iter().map(|hash| STANDARD.encode(hash)).collect() })
    };
    indices.into_iter().map(proof).collect()
}

/// DSSE envelope.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
struct Envelope {
    payload: String,
    payload_type: String,
    signatures: Vec<DsseSignature>,
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
struct DsseSignature {
    keyid: String,
    sig: String,
}

/// Pre-authentication encoding of DSSE v1.
fn pae(payload: &[u8]) -> Vec<u8> {
    let mut message = format!("DSSEv1 {} {PAYLOAD_TYPE} {} ", PAYLOAD_TYPE.len(), payload.len()).into_bytes();
    message.extend_from_slice(payload);
    message
}

fn envelope(payload: &[u8], signer: &SigningKey) -> Result<Vec<u8>, String> {
    let signature = DsseSignature {
        keyid: VerifierKey::of(signer).fingerprint(),
        sig: STANDARD.encode(signer.sign(&pae(payload)).to_bytes()),
    };
    let envelope = Envelope {
        payload: STANDARD.encode(payload),
        payload_type: PAYLOAD_TYPE.to_owned(),
        signatures: vec![signature],
    };
    canonical::to_vec(&envelope).map_err(|error| error.to_string())
}

/// Checks an envelope: signed by `key`, and says exactly `expected`.
pub fn verify_envelope(bytes: &[u8], key: &VerifierKey, expected: &[u8]) -> Result<(), String> {
    let mut budget = bytes.len().saturating_add(MAX_ENVELOPE);
    let envelope: Envelope = canonical::json::from_slice(bytes, &mut budget).map_err(|error| error.to_string())?;
    let [signature] = envelope.signatures.as_slice() else {
        return Err(format!("has {} signatures, expected one", envelope.signatures.len()));
    };
    if envelope.payload_type != PAYLOAD_TYPE {
        return Err(format!("has the payload type {:?}", envelope.payload_type));
    }
    let payload =
        STANDARD.decode(&envelope.payload).map_err(|error| format!("has a payload that is not base64: {error}"))?;
    let decoded =
        STANDARD.decode(&signature.sig).map_err(|error| format!("has a signature that is not base64: {error}"))?;
    if signature.keyid != key.fingerprint() {
        return Err(format!("was signed by the key {}, not {}", signature.keyid, key.fingerprint()));
    }
    if !key.verifies(&pae(&payload), &decoded) {
        return Err("has a signature that does not fit: payload or signature were changed".to_owned());
    }
    if payload != expected {
        let at = canonical::first_difference(&payload, expected);
        return Err(format!("states something else than the parts and results do (payload byte {at})"));
    }
    Ok(())
}

/// What both statements are about: parts by digest.
fn statement(subject: &[PartDigest], predicate_type: &str, predicate: Value) -> Result<Vec<u8>, String> {
    let subject: Vec<_> =
        subject.iter().map(|part| json!({"name": part.name, "digest": {"sha256": part.sha256}})).collect();
    let statement = json!({
        "_type": "https://in-toto.io/Statement/v1",
        "subject": subject,
        "predicateType": predicate_type,
        "predicate": predicate,
    });
    canonical::to_vec(&statement).map_err(|error| error.to_string())
}

/// What is signed. With a seal of the present format: every part of the file before the statements, so that none can be
/// changed or left out without the key. With a seal of format 1: the parts that the manifest names.
pub fn subject(manifest: &Manifest, parts: &[Part], version: u64) -> Vec<PartDigest> {
    if version < 2 {
        return manifest.parts.clone();
    }
    let is_signed = |part: &&Part| ![TEST_RESULT, MEASUREMENT, KEY].contains(&part.name.as_str());
    parts.iter().filter(is_signed).map(PartDigest::of).collect()
}

/// The payload of the in-toto `test-result/v0.1` statement.
pub fn test_result(manifest: &Manifest, subject: &[PartDigest], results: &Results) -> Result<Vec<u8>, String> {
    let names = |met: Option<bool>| -> Vec<&str> {
        results.objectives.iter().filter(|judged| judged.met == met).map(|judged| judged.name.as_str()).collect()
    };
    let result = match results.verdict {
        Verdict::Passed => "PASSED",
        Verdict::Inconclusive => "WARNED",
        Verdict::Failed | Verdict::Aborted | Verdict::Refused | Verdict::Crashed => "FAILED",
    };
    let configuration: Vec<_> = manifest
        .parts
        .iter()
        .filter(|part| part.name == REGISTERED)
        .map(|part| json!({"name": part.name, "digest": {"sha256": part.sha256}}))
        .collect();
    let predicate = json!({
        "result": result,
        "configuration": configuration,
        "passedTests": names(Some(true)),
        "warnedTests": names(None),
        "failedTests": names(Some(false)),
    });
    statement(subject, "https://in-toto.io/attestation/test-result/v0.1", predicate)
}

/// The payload of our own statement: the measured values.
pub fn measurement(manifest: &Manifest, subject: &[PartDigest], results: &Results) -> Result<Vec<u8>, String> {
    let predicate = serde_json::to_value(results).map_err(|error| error.to_string())?;
    let predicate_type = format!("https://firedrill.dev/attestation/measurement/v{}", manifest.version);
    statement(subject, &predicate_type, predicate)
}

/// All closing parts for the parts before them; `seal` is the index of the seal in the ledger. The checkpoint ends at the
/// seal, whatever was appended since: an attempt has one bundle, byte for byte.
pub fn close(
    ledger: &Ledger,
    manifest: &Manifest,
    results: &Results,
    parts: &[Part],
    seal: u64,
) -> Result<Vec<Part<'static>>, String> {
    let tree = ledger.tree();
    let size = usize::try_from(seal).unwrap_or(usize::MAX).saturating_add(1);
    let root = tree.root(size).ok_or_else(|| format!("entry {seal} is not in the ledger"))?;
    let checkpoint = Checkpoint { origin: ledger.key().name().to_owned(), size: seal.saturating_add(1), root };
    let proofs = proofs(ledger, &tree, &manifest.drill, manifest.attempt, size)?;
    let version = ledger.entry(seal).map_err(|error| error.to_string())?.version;
    let mut signed: Vec<Part> = parts.iter().map(Part::borrowed).collect();
    signed.push(Part::new(PROOFS, canonical::to_vec(&proofs).map_err(|error| error.to_string())?));
    signed.push(Part::new(CHECKPOINT, checkpoint.sign(ledger.signer()).into_bytes()));
    let subject = subject(manifest, &signed, version);
    let owned = |part: Part| Part::new(part.name, part.bytes.into_owned());
    let mut closing: Vec<Part<'static>> = signed.split_off(parts.len()).into_iter().map(owned).collect();
    let test_result = test_result(manifest, &subject, results)?;
    closing.push(Part::new(TEST_RESULT, envelope(&test_result, ledger.signer())?));
    closing.push(Part::new(MEASUREMENT, envelope(&measurement(manifest, &subject, results)?, ledger.signer())?));
    closing.push(Part::new(KEY, format!("{}\n", ledger.key()).into_bytes()));
    Ok(closing)
}

/// Results part, for those who close.
pub fn results_of(parts: &[Part], limits: &Limits) -> Result<Results, String> {
    let part = find(parts, RESULTS)?;
    canonical::json::from_slice(&part.bytes, &mut { limits.values }).map_err(|error| format!("{RESULTS} {error}"))
}
