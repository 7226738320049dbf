//! Which attempts there are, as the ledger's entries tell. Pure.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};
use serde_json::Value;

use crate::{
    canonical,
    entry::{Entry, VERSION, kind},
    merkle::Hash,
    record::{Registration, Verdict},
};

/// Body of an `attemptRegistered` entry.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Registered {
    /// Drill name.
    pub drill: String,
    /// Number, from 1, gapless.
    pub number: u64,
    /// `sha256:…` over the canonical plan and drill.
    pub digest: String,
    /// What was registered.
    pub registration: Registration,
    /// Seal of the attempt before this one; absent for the first one, and in entries of format 1.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub previous: Option<SealRef>,
}

/// Names a seal by its place in the ledger and by its content.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct SealRef {
    /// Index of the entry.
    pub entry: u64,
    /// Leaf hash of the entry, hexadecimal.
    pub leaf: String,
}

/// Body of an `attemptSealed` entry.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct SealBody {
    /// Drill name.
    pub drill: String,
    /// Number.
    pub number: u64,
    /// Verdict.
    pub verdict: Verdict,
    /// `sha256:…` over the bundle's manifest, which holds the digest of every part.
    pub manifest: String,
}

/// Entry that sealed an attempt.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SealEntry {
    /// Its index.
    pub index: u64,
    /// The sealed verdict.
    pub verdict: Verdict,
    /// Its leaf hash.
    pub leaf: Hash,
}

/// An attempt by its entries.
#[derive(Clone, Debug, PartialEq)]
pub struct Known {
    /// Index of its registration.
    pub registered: u64,
    /// Its seal; `None` while it is open.
    pub sealed: Option<SealEntry>,
}

/// All attempts: by drill, in order of number.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Attempts {
    drills: BTreeMap<String, Vec<Known>>,
    /// Latest format among the entries so far; 0 if there were none.
    version: u64,
}

impl Attempts {
    /// Adds the next entry, whose leaf hash is `leaf`.
    ///
    /// # Errors
    /// If the entry breaks the order of attempts; the text continues "entry N …".
    pub fn admit(&mut self, entry: &Entry, leaf: &Hash) -> Result<(), String> {
        if !(1..=VERSION).contains(&entry.version) {
            return Err(format!("has format {}, this program reads formats up to {VERSION}", entry.version));
        }
        if entry.version < self.version {
            return Err(format!("has format {}, but an entry before it has format {}", entry.version, self.version));
        }
        match entry.kind.as_str() {
            kind::REGISTERED => self.register(entry)?,
            kind::SEALED => self.seal(entry, leaf)?,
            _ => {}
        }
        self.version = entry.version;
        Ok(())
    }

    fn register(&mut self, entry: &Entry) -> Result<(), String> {
        let body: Registered = body(&entry.body)?;
        let known = self.of(&body.drill);
        let next = known.len() as u64 + 1;
        if body.number != next {
            return Err(format!("registers attempt {} of {}, where {next} is the next", body.number, body.drill));
        }
        if body.registration.drill != body.drill {
            return Err(format!("registers {} as {}", body.registration.drill, body.drill));
        }
        if body.registration.digest().ok().as_ref() != Some(&body.digest) {
            return Err(format!("registers another plan than the one with digest {}", body.digest));
        }
        let expected = match entry.version {
            1 => None,
            _ => previous_seal(known, &body.drill)?,
        };
        if body.previous != expected {
            let name = |seal: &Option<SealRef>| {
                seal.as_ref()
                    .map_or_else(|| "no seal".to_owned(), |seal| format!("entry {} ({})", seal.entry, seal.leaf))
            };
            return Err(format!(
                "registers attempt {} of {} after {}, but the seal of the attempt before it is {}",
                body.number,
                body.drill,
                name(&body.previous),
                name(&expected)
            ));
        }
        self.drills.entry(body.drill).or_default().push(Known { registered: entry.index, sealed: None });
        Ok(())
    }

    fn seal(&mut self, entry: &Entry, leaf: &Hash) -> Result<(), String> {
        let body: SealBody = body(&entry.body)?;
        let known = self.find_mut(&body.drill, body.number);
        let Some(known) = known else {
            return Err(format!("seals attempt {} of {}, which was never registered", body.number, body.drill));
        };
        if let Some(first) = known.sealed {
            return Err(format!("seals attempt {} of {} again, after entry {}", body.number, body.drill, first.index));
        }
        known.sealed = Some(SealEntry { index: entry.index, verdict: body.verdict, leaf: *leaf });
        Ok(())
    }

    /// What the registration of the next attempt of `drill` names: the seal of the attempt before it.
    ///
    /// # Errors
    /// If that attempt is not sealed.
    pub fn previous_seal(&self, drill: &str) -> Result<Option<SealRef>, String> {
        previous_seal(self.of(drill), drill)
    }

    /// Latest format among the entries so far; 0 if there were none.
    pub fn version(&self) -> u64 {
        self.version
    }

    fn find_mut(&mut self, drill: &str, number: u64) -> Option<&mut Known> {
        let position = usize::try_from(number.checked_sub(1)?).ok()?;
        self.drills.get_mut(drill)?.get_mut(position)
    }

    /// Attempts of one drill, in order of number.
    pub fn of(&self, drill: &str) -> &[Known] {
        self.drills.get(drill).map_or(&[], Vec::as_slice)
    }

    /// One attempt.
    pub fn get(&self, drill: &str, number: u64) -> Option<&Known> {
        self.of(drill).get(usize::try_from(number.checked_sub(1)?).ok()?)
    }

    /// Drill, number and entries of every attempt.
    pub fn all(&self) -> impl Iterator<Item = (&str, u64, &Known)> {
        self.drills.iter().flat_map(|(drill, known)| {
            known.iter().zip(1..).map(move |(known, number)| (drill.as_str(), number, known))
        })
    }
}

fn previous_seal(known: &[Known], drill: &str) -> Result<Option<SealRef>, String> {
    let Some(last) = known.last() else { return Ok(None) };
    match last.sealed {
        Some(seal) => Ok(Some(SealRef { entry: seal.index, leaf: canonical::hex(&seal.leaf) })),
        None => Err(format!(
            "registers attempt {} of {drill}, but there is no seal of attempt {}",
            known.len() + 1,
            known.len()
        )),
    }
}

fn body<T: for<'de> Deserialize<'de>>(body: &Value) -> Result<T, String> {
    T::deserialize(body).map_err(|error| format!("has a body that does not belong to its kind: {error}"))
}
