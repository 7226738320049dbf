//! Which attempts there are, as the ledger's entries tell. Pure.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};
use serde_json::Value;

use crate::{
    entry::{Entry, kind},
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

/// An attempt by its entries.
#[derive(Clone, Debug, PartialEq)]
pub struct Known {
    /// Index of its registration.
    pub registered: u64,
    /// Index of its seal and its verdict; `None` while it is open.
    pub sealed: Option<(u64, Verdict)>,
}

/// All attempts: by drill, in order of number.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Attempts {
    drills: BTreeMap<String, Vec<Known>>,
}

impl Attempts {
    /// Takes in the next entry; an error says what is wrong with the order of attempts.
    pub fn admit(&mut self, entry: &Entry) -> Result<(), String> {
        match entry.kind.as_str() {
            kind::REGISTERED => {
                let body: Registered = body(&entry.body)?;
                let known = self.drills.entry(body.drill.clone()).or_default();
                let next = known.len() as u64 + 1;
                if body.number != next {
                    return Err(format!(
                        "registers attempt {} of {}, where {next} is the next",
                        body.number, body.drill
                    ));
                }
                if body.registration.drill != body.drill {
                    return Err(format!("registers {} as {}", body.registration.drill, body.drill));
                }
                if body.registration.digest().ok().as_ref() != Some(&body.digest) {
                    return Err(format!("registers another plan than the one with digest {}", body.digest));
                }
                known.push(Known { registered: entry.index, sealed: None });
            }
            kind::SEALED => {
                let body: SealBody = body(&entry.body)?;
                let known = self.find_mut(&body.drill, body.number);
                let Some(known) = known else {
                    return Err(format!("seals attempt {} of {}, which was never registered", body.number, body.drill));
                };
                if let Some((first, _)) = known.sealed {
                    return Err(format!("seals attempt {} of {} again, after entry {first}", body.number, body.drill));
                }
                known.sealed = Some((entry.index, body.verdict));
            }
            _ => {}
        }
        Ok(())
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

fn body<T: for<'de> Deserialize<'de>>(body: &Value) -> Result<T, String> {
    T::deserialize(body).map_err(|error| format!("has a body that does not belong to its kind: {error}"))
}
