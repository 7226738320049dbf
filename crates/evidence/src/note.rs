//! Signed notes, checkpoints and verifier keys as C2SP `signed-note` and `tlog-checkpoint` say, with Ed25519.

use std::fmt;

use base64::{Engine, engine::general_purpose::STANDARD};
use ed25519_dalek::{Signature, Signer, SigningKey, VerifyingKey};
use sha2::{Digest, Sha256};

use crate::{canonical::hex, merkle::Hash};

/// Algorithm byte of Ed25519 in key ids and verifier keys.
const ED25519: u8 = 1;

/// What is wrong with a note, checkpoint or key.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum NoteError {
    /// Not in the form of the specification.
    #[error("the {what} is malformed: {why}")]
    Malformed {
        /// `checkpoint`, `signature`, `key`.
        what: &'static str,
        /// What was seen.
        why: String,
    },
    /// Signed by somebody else.
    #[error("the checkpoint has no signature by {0}")]
    NotSigned(String),
    /// The signature does not fit the text.
    #[error("the signature by {0} does not fit the text: one of them was changed")]
    BadSignature(String),
}

fn malformed(what: &'static str, why: impl Into<String>) -> NoteError {
    NoteError::Malformed { what, why: why.into() }
}

/// A public key with its name; text form `name+id+base64`.
#[derive(Clone, PartialEq, Eq)]
pub struct VerifierKey {
    name: String,
    key: VerifyingKey,
}

impl VerifierKey {
    /// The public key of `signer`, named after its log: `firedrill.dev/ledger/<first half of the key's fingerprint>`.
    pub fn of(signer: &SigningKey) -> Self {
        let key = signer.verifying_key();
        let name = format!("firedrill.dev/ledger/{}", hex(&Sha256::digest(key.as_bytes())[..8]));
        Self { name, key }
    }

    /// Reads the text form; surrounding white space is allowed.
    pub fn parse(text: &str) -> Result<Self, NoteError> {
        let mut parts = text.trim().splitn(3, '+');
        let (Some(name), Some(id), Some(body)) = (parts.next(), parts.next(), parts.next()) else {
            return Err(malformed("key", "expected `name+id+base64`"));
        };
        if name.is_empty() || name.chars().any(|c| c.is_whitespace() || c.is_control()) {
            return Err(malformed("key", "its name is empty or has white space"));
        }
        let body = STANDARD.decode(body).map_err(|error| malformed("key", error.to_string()))?;
        let Some((&ED25519, bytes)) = body.split_first() else {
            return Err(malformed("key", "not an Ed25519 key"));
        };
        let bytes: &[u8; 32] = bytes.try_into().map_err(|_| malformed("key", "expected 32 bytes"))?;
        let key = VerifyingKey::from_bytes(bytes).map_err(|_| malformed("key", "not a point of the curve"))?;
        let parsed = Self { name: name.to_owned(), key };
        if hex(&parsed.id()) != id {
            return Err(malformed("key", format!("its id is {}, not {id}", hex(&parsed.id()))));
        }
        Ok(parsed)
    }

    /// Name: also the origin of the log.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// First four bytes of SHA-256(name ‖ newline ‖ algorithm ‖ key).
    fn id(&self) -> [u8; 4] {
        let hash = Sha256::new()
            .chain_update(&self.name)
            .chain_update([b'\n', ED25519])
            .chain_update(self.key.as_bytes())
            .finalize();
        [hash[0], hash[1], hash[2], hash[3]]
    }

    /// `sha256:<hex>` over the 32 bytes of the key, to be compared by people.
    pub fn fingerprint(&self) -> String {
        crate::canonical::digest(self.key.as_bytes())
    }

    /// Whether `signature` over `message` is by this key (strict: no malleable or weak signatures).
    pub fn verifies(&self, message: &[u8], signature: &[u8]) -> bool {
        Signature::from_slice(signature).is_ok_and(|signature| self.key.verify_strict(message, &signature).is_ok())
    }
}

impl fmt::Display for VerifierKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut body = vec![ED25519];
        body.extend_from_slice(self.key.as_bytes());
        write!(f, "{}+{}+{}", self.name, hex(&self.id()), STANDARD.encode(body))
    }
}

impl fmt::Debug for VerifierKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "VerifierKey({self})")
    }
}

/// Head of a log at one moment.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Checkpoint {
    /// Name of the log.
    pub origin: String,
    /// Number of entries.
    pub size: u64,
    /// Root hash over them.
    pub root: Hash,
}

impl Checkpoint {
    fn text(&self) -> String {
        format!("{}\n{}\n{}\n", self.origin, self.size, STANDARD.encode(self.root))
    }

    /// The signed note.
    pub fn sign(&self, signer: &SigningKey) -> String {
        let (text, key) = (self.text(), VerifierKey::of(signer));
        let mut signature = key.id().to_vec();
        signature.extend_from_slice(&signer.sign(text.as_bytes()).to_bytes());
        format!("{text}\n\u{2014} {} {}\n", key.name, STANDARD.encode(signature))
    }

    /// Reads a signed note and checks that `key` signed it and is the origin. Further signatures (witnesses) may follow.
    pub fn verify(note: &str, key: &VerifierKey) -> Result<Self, NoteError> {
        let Some((body, signatures)) = note.rsplit_once("\n\n") else {
            return Err(malformed("checkpoint", "no empty line before the signatures"));
        };
        let text = format!("{body}\n");
        let checkpoint = Self::read(&text)?;
        let Some(lines) = signatures.strip_suffix('\n') else {
            return Err(malformed("checkpoint", "no newline at its end"));
        };
        let mut signed = false;
        for line in lines.split('\n') {
            let Some((name, encoded)) = line.strip_prefix("\u{2014} ").and_then(|rest| rest.split_once(' ')) else {
                return Err(malformed("signature", format!("the line {line:?}")));
            };
            let blob = STANDARD.decode(encoded).map_err(|error| malformed("signature", error.to_string()))?;
            if name == key.name && blob.get(..4) == Some(&key.id()[..]) {
                if !key.verifies(text.as_bytes(), &blob[4..]) {
                    return Err(NoteError::BadSignature(key.name.clone()));
                }
                signed = true;
            }
        }
        if !signed {
            return Err(NoteError::NotSigned(key.name.clone()));
        }
        if checkpoint.origin != key.name {
            return Err(malformed("checkpoint", format!("its origin {:?} is not the key's name", checkpoint.origin)));
        }
        Ok(checkpoint)
    }

    fn read(text: &str) -> Result<Self, NoteError> {
        let mut lines = text.split('\n');
        let (Some(origin), Some(size), Some(root), Some(""), None) =
            (lines.next(), lines.next(), lines.next(), lines.next(), lines.next())
        else {
            return Err(malformed("checkpoint", "expected origin, size and root hash, a line each"));
        };
        let root = STANDARD.decode(root).ok().and_then(|bytes| Hash::try_from(bytes).ok());
        let checkpoint = Self {
            origin: origin.to_owned(),
            size: size.parse().map_err(|_| malformed("checkpoint", format!("size {size:?}")))?,
            root: root.ok_or_else(|| malformed("checkpoint", "the root hash is not 32 bytes of base64"))?,
        };
        if checkpoint.text() != text {
            return Err(malformed("checkpoint", "the size has leading zeros or a sign"));
        }
        Ok(checkpoint)
    }
}
