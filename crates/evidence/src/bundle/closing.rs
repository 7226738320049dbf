//! The parts that close a bundle: proofs that its entries stand in the ledger, signed statements, checkpoint, public key.

use base64::{Engine, engine::general_purpose::STANDARD};
use ed25519_dalek::{Signer, SigningKey};
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

use crate::{
    bundle::{
        archive::Part,
        parts::{Manifest, REGISTERED, RESULTS},
    },
    canonical,
    entry::Entry,
    ledger::{Ledger, LedgerError},
    merkle::{self, Hash},
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

impl Proof {
    /// Whether it leads to the root of the checkpoint.
    pub fn holds(&self, checkpoint: &Checkpoint) -> Result<(), String> {
        let fail = |why: &str| Err(format!("entry {}: {why}", self.entry.index));
        let Ok(bytes) = canonical::to_vec(&self.entry) else { return fail("has no canonical form") };
        let mut path = Vec::with_capacity(self.path.len());
        for hash in &self.path {
            match STANDARD.decode(hash).ok().and_then(|bytes| Hash::try_from(bytes).ok()) {
                Some(hash) => path.push(hash),
                None => return fail("a hash of its path is not 32 bytes of base64"),
            }
        }
        if !merkle::verify_inclusion(&merkle::leaf(&bytes), self.entry.index, checkpoint.size, &path, &checkpoint.root)
        {
            return fail(
                "it was changed, or is not in the ledger at this place: its path does not lead to the signed root",
            );
        }
        Ok(())
    }
}

/// Registration and seal of every attempt of the drill, so that a missing number is seen offline.
fn proofs(ledger: &Ledger, drill: &str) -> Result<Vec<Proof>, LedgerError> {
    let known = ledger.attempts().of(drill);
    let mut indices: Vec<u64> = known
        .iter()
        .flat_map(|known| [Some(known.registered), known.sealed.map(|(index, _)| index)])
        .flatten()
        .collect();
    indices.sort_unstable();
    let proof = |index| {
        let path = ledger.inclusion(index).unwrap_or_default();
        Ok(Proof { entry: ledger.entry(index)?, path: path.iter().map(|hash| STANDARD.encode(hash)).collect() })
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
    let envelope: Envelope = canonical::from_slice(bytes).map_err(|error| error.to_string())?;
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

/// What both statements are about: every part, by digest.
fn statement(manifest: &Manifest, predicate_type: &str, predicate: Value) -> Result<Vec<u8>, String> {
    let subject: Vec<_> =
        manifest.parts.iter().map(|part| json!({"name": part.name, "digest": {"sha256": part.sha256}})).collect();
    let statement = json!({
        "_type": "https://in-toto.io/Statement/v1",
        "subject": subject,
        "predicateType": predicate_type,
        "predicate": predicate,
    });
    canonical::to_vec(&statement).map_err(|error| error.to_string())
}

/// The payload of the in-toto `test-result/v0.1` statement.
pub fn test_result(manifest: &Manifest, results: &Results) -> Result<Vec<u8>, String> {
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
    statement(manifest, "https://in-toto.io/attestation/test-result/v0.1", predicate)
}

/// The payload of our own statement: the measured values.
pub fn measurement(manifest: &Manifest, results: &Results) -> Result<Vec<u8>, String> {
    let predicate = serde_json::to_value(results).map_err(|error| error.to_string())?;
    let predicate_type = format!("https://firedrill.dev/attestation/measurement/v{}", manifest.version);
    statement(manifest, &predicate_type, predicate)
}

/// All closing parts; the seal must be in the ledger.
pub fn close(ledger: &Ledger, manifest: &Manifest, results: &Results) -> Result<Vec<Part>, String> {
    let proofs = proofs(ledger, &manifest.drill).map_err(|error| error.to_string())?;
    Ok(vec![
        Part::new(PROOFS, canonical::to_vec(&proofs).map_err(|error| error.to_string())?),
        Part::new(CHECKPOINT, ledger.checkpoint()),
        Part::new(TEST_RESULT, envelope(&test_result(manifest, results)?, ledger.signer())?),
        Part::new(MEASUREMENT, envelope(&measurement(manifest, results)?, ledger.signer())?),
        Part::new(KEY, format!("{}\n", ledger.key())),
    ])
}

/// Results part, for those who close.
pub fn results_of(parts: &[Part]) -> Result<Results, String> {
    let part = parts.iter().find(|part| part.name == RESULTS).ok_or_else(|| format!("{RESULTS} is missing"))?;
    canonical::from_slice(&part.bytes).map_err(|error| format!("{RESULTS} {error}"))
}
