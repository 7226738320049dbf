//! Offline verification of a bundle: total on any bytes, and every doubt is named.

use serde_json::Value;

use crate::{
    attempts::{Attempts, Registered, SealBody},
    bundle::{
        Check, CheckOutcome, Report, archive,
        archive::{Part, find},
        claim::Claim,
        closing::{self, Proof, Proved},
        limits::Limits,
        parts::{self, Manifest, PartDigest},
    },
    canonical,
    entry::{self, kind},
    measure::figures,
    note::{Checkpoint, VerifierKey},
    record::{Attempt, Point},
    results::Results,
};

/// Slack of the order of two observed times, beside their error bounds: one millisecond.
const SLACK: i64 = 1_000_000;

struct Verifier {
    checks: Vec<Check>,
}

impl Verifier {
    fn add(&mut self, name: &str, outcome: CheckOutcome, detail: impl Into<String>) {
        self.checks.push(Check { name: name.to_owned(), outcome, detail: detail.into() });
    }

    /// Records a result; gives its value on.
    fn check<T>(&mut self, name: &str, result: Result<(T, String), String>) -> Option<T> {
        match result {
            Ok((value, detail)) => {
                self.add(name, CheckOutcome::Passed, detail);
                Some(value)
            }
            Err(detail) => {
                self.add(name, CheckOutcome::Failed, detail);
                None
            }
        }
    }
}

/// What could be read, for the checks that need several parts.
#[derive(Default)]
struct Known {
    key: Option<VerifierKey>,
    manifest: Option<Manifest>,
    checkpoint: Option<Checkpoint>,
    proofs: Option<Vec<Proved>>,
    /// Attempts by the proved entries, or what is wrong with their order.
    attempts: Option<Result<Attempts, String>>,
    attempt: Option<Attempt>,
    /// Canonical bytes of what follows from the attempt.
    computed: Option<Vec<u8>>,
    results: Option<Results>,
}

/// Checks everything that can be checked offline. `key` is the key that the reader trusts.
pub fn verify(bytes: &[u8], key: Option<&VerifierKey>) -> Report {
    verify_claim(bytes, key, &Limits::STRICT).0
}

/// As [`verify`]. Also gives what the bundle says about its ledger, to be compared with other bundles or with a ledger;
/// `None` if that cannot be trusted.
pub fn verify_claim(bytes: &[u8], key: Option<&VerifierKey>, limits: &Limits) -> (Report, Option<Claim>) {
    let mut verifier = Verifier { checks: Vec::new() };
    let mut known = Known::default();
    let read = match bytes.len() as u64 > limits.file {
        true => Err(format!("it has {} bytes, more than the {} that are read of a bundle", bytes.len(), limits.file)),
        false => archive::read(bytes).map(|parts| {
            let detail = format!("{} parts, {} bytes", parts.len(), bytes.len());
            (parts, detail)
        }),
    };
    if let Some(parts) = verifier.check("file", read) {
        inspect(&mut verifier, &mut known, bytes, &parts, key, limits);
    }
    for (name, detail) in [
        ("approvals", "approvals are not part of this format: the people named in the record are not proved"),
        ("time", "no timestamp authority: the times are those of the machine that ran the drill"),
        (
            "witnesses",
            "no independent witness signed the checkpoint: a ledger rewritten as a whole by the holder of its key is not excluded",
        ),
    ] {
        verifier.add(name, CheckOutcome::NotChecked, detail);
    }
    let report = Report {
        drill: known.manifest.as_ref().map(|manifest| manifest.drill.clone()),
        attempt: known.manifest.as_ref().map(|manifest| manifest.attempt),
        verdict: known.results.as_ref().map(|results| results.verdict),
        signer_known: key.is_some(),
        checks: verifier.checks,
    };
    let claim = match (known.key, known.checkpoint, known.proofs) {
        (Some(key), Some(checkpoint), Some(proofs)) if report.ok() => Some(Claim::new(key, checkpoint, proofs)),
        _ => None,
    };
    (report, claim)
}

/// Longest checkpoint.
const MAX_CHECKPOINT: usize = 64 << 10;

/// As [`verify_claim`]; the file may also be a signed checkpoint alone.
pub fn verify_file(bytes: &[u8], key: Option<&VerifierKey>, limits: &Limits) -> (Report, Option<Claim>) {
    let note = std::str::from_utf8(bytes).ok().filter(|note| note.len() <= MAX_CHECKPOINT);
    let is_note = |note: &&str| note.contains("\n\n\u{2014} ") && !note.contains('\0');
    let Some(note) = note.filter(is_note) else { return verify_claim(bytes, key, limits) };
    let mut verifier = Verifier { checks: Vec::new() };
    let read = match key {
        None => Err("a checkpoint does not hold the key that signed it: give the key".to_owned()),
        Some(key) => Checkpoint::verify(note, key).map_err(|error| error.to_string()).map(|checkpoint| {
            let detail = format!("{} entries, signed by {}", checkpoint.size, key.name());
            ((key.clone(), checkpoint), detail)
        }),
    };
    let claim = verifier.check("checkpoint", read).map(|(key, checkpoint)| Claim::of_checkpoint(key, checkpoint));
    let (signer_known, checks) = (key.is_some(), verifier.checks);
    (Report { drill: None, attempt: None, verdict: None, signer_known, checks }, claim)
}

fn inspect(
    verifier: &mut Verifier,
    known: &mut Known,
    bytes: &[u8],
    parts: &[Part],
    key: Option<&VerifierKey>,
    limits: &Limits,
) {
    let spelled = match archive::locate_difference(bytes, parts) {
        None => Ok(((), "every byte outside the parts is as it is written".to_owned())),
        Some(place) => Err(place),
    };
    verifier.check("form", spelled);
    let trusted = trusted_key(verifier, parts, key);
    known.key.clone_from(&trusted);
    known.manifest = verifier.check("manifest", manifest(parts));
    let digests = known
        .manifest
        .as_ref()
        .map_or_else(|| Err("there is no manifest".to_owned()), |manifest| digests(manifest, parts));
    verifier.check("parts", digests);
    if let Some(key) = &trusted {
        let checkpoint = text(parts, closing::CHECKPOINT).and_then(|note| {
            if note.len() > MAX_CHECKPOINT {
                return Err(format!("{} has {} bytes, more than any", closing::CHECKPOINT, note.len()));
            }
            let checkpoint =
                Checkpoint::verify(note, key).map_err(|error| format!("{}: {error}", closing::CHECKPOINT))?;
            let spelled = note.matches("\u{2014} ").count() == 1;
            if !spelled {
                let name = closing::CHECKPOINT;
                return Err(format!("{name}: has further signatures, which this program cannot check"));
            }
            let detail = format!("{} entries, signed by {}", checkpoint.size, key.name());
            Ok((checkpoint, detail))
        });
        known.checkpoint = verifier.check("checkpoint", checkpoint);
    }
    let inclusion = inclusion(known, parts, limits);
    known.proofs = verifier.check("inclusion", inclusion);
    if let Some((attempt, computed)) = verifier.check("record", record(known.manifest.as_ref(), parts, limits)) {
        (known.attempt, known.computed) = (Some(attempt), Some(computed));
    }
    known.results = verifier.check("results", read_results(parts, limits));
    let attempts = attempts(known);
    verifier.check("attempts", attempts);
    let registered = registered(known, parts);
    verifier.check("registration", registered);
    let sealed = sealed(known, parts);
    verifier.check("seal", sealed);
    let order = known.attempt.as_ref().map_or_else(|| Err("there is no record".to_owned()), order);
    verifier.check("timeline", order);
    let recomputed = recompute(known, parts);
    verifier.check("recomputation", recomputed);
    if let Some(key) = &trusted {
        let statements = statements(known, parts, key);
        verifier.check("statements", statements);
    }
}

fn text<'a>(parts: &'a [Part<'a>], name: &str) -> Result<&'a str, String> {
    std::str::from_utf8(&find(parts, name)?.bytes).map_err(|_| format!("{name} is not text"))
}

/// The key that signatures are checked with: the reader's, or else the bundle's own.
fn trusted_key(verifier: &mut Verifier, parts: &[Part], key: Option<&VerifierKey>) -> Option<VerifierKey> {
    let own = text(parts, closing::KEY).and_then(|text| {
        let own = VerifierKey::parse(text).map_err(|error| format!("{}: {error}", closing::KEY))?;
        if format!("{own}\n") != text {
            return Err(format!("{} is not as it is written", closing::KEY));
        }
        Ok(own)
    });
    match (own, key) {
        (Err(why), key) => {
            verifier.add("key", CheckOutcome::Failed, why);
            key.cloned()
        }
        (Ok(own), Some(key)) if own == *key => {
            verifier.add("key", CheckOutcome::Passed, format!("the given key, {}", own.fingerprint()));
            Some(own)
        }
        (Ok(own), Some(key)) => {
            let detail = format!("sealed with another key: {}, given {}", own.fingerprint(), key.fingerprint());
            verifier.add("key", CheckOutcome::Failed, detail);
            Some(key.clone())
        }
        (Ok(own), None) => {
            let detail = format!(
                "not checked: the key was taken from the bundle itself; compare its fingerprint {} with the one you were \
                 given, or pass the key",
                own.fingerprint()
            );
            verifier.add("key", CheckOutcome::NotChecked, detail);
            Some(own)
        }
    }
}

fn manifest(parts: &[Part]) -> Result<(Manifest, String), String> {
    let first = parts.first().filter(|part| part.name == parts::MANIFEST);
    let first = first.ok_or_else(|| format!("the first part is not {}", parts::MANIFEST))?;
    let manifest = Manifest::read(&first.bytes).map_err(|why| format!("{} {why}", parts::MANIFEST))?;
    let expected = manifest.parts.iter().map(|part| part.name.as_str()).chain(closing::CLOSING);
    let mut found = parts[1..].iter().map(|part| part.name.as_str());
    for name in expected {
        match found.next() {
            Some(found) if found == name => {}
            Some(found) => {
                return Err(format!("{found} stands where {name} belongs: parts were swapped, added or removed"));
            }
            None => return Err(format!("{name} is missing")),
        }
    }
    if let Some(extra) = found.next() {
        return Err(format!("{extra} does not belong to the bundle"));
    }
    let detail = format!("{} attempt {}, {} parts in order", manifest.drill, manifest.attempt, parts.len());
    Ok((manifest, detail))
}

fn digests(manifest: &Manifest, parts: &[Part]) -> Result<((), String), String> {
    let mut wrong = Vec::new();
    for expected in &manifest.parts {
        let part = find(parts, &expected.name)?;
        if PartDigest::of(part) != *expected {
            let (from, size) = (archive::offset_of(parts, &part.name), part.bytes.len());
            wrong.push(format!("{} (bytes {from} to {}) was changed", part.name, from + size));
        }
    }
    if !wrong.is_empty() {
        return Err(wrong.join("; "));
    }
    Ok(((), figures::count(manifest.parts.len(), "digest")))
}

/// Proves the entries one after the other; of those of other attempts, no more is kept than what they are about.
fn inclusion(known: &mut Known, parts: &[Part], limits: &Limits) -> Result<(Vec<Proved>, String), String> {
    let bytes = &find(parts, closing::PROOFS)?.bytes;
    let wrong = |why: &dyn std::fmt::Display| format!("{} {why}", closing::PROOFS);
    canonical::json::check(bytes, &mut { usize::MAX }).map_err(|error| wrong(&error))?;
    let proofs = canonical::json::elements(bytes).ok_or_else(|| wrong(&"is not a list"))?;
    if proofs.len() > limits.proofs {
        return Err(wrong(&format!("has {} entries, more than the {} that are read", proofs.len(), limits.proofs)));
    }
    let checkpoint = known.checkpoint.as_ref().ok_or("there is no checkpoint to prove entries against")?;
    let ours = known.manifest.as_ref().map(|manifest| manifest.attempt);
    let mut proved = Vec::with_capacity(proofs.len());
    let mut admitted = Ok(Attempts::default());
    for proof in proofs {
        let proof: Proof = canonical::json::from_slice(proof, &mut { limits.entry }).map_err(|error| wrong(&error))?;
        let mut one = proof.prove(checkpoint).map_err(|why| format!("{}: {why}", closing::PROOFS))?;
        if let Ok(attempts) = &mut admitted
            && let Err(why) = attempts.admit(&one.entry, &one.leaf)
        {
            let index = one.entry.index;
            admitted = Err(format!("entry {index} {why}: an attempt is missing or re-numbered"));
        }
        if one.entry.body.get("number").and_then(Value::as_u64) != ours {
            one.entry.body = subject_of(&one.entry.body);
        }
        proved.push(one);
    }
    known.attempts = Some(admitted);
    let detail = format!("{} entries are in the ledger of {} entries", proved.len(), checkpoint.size);
    Ok((proved, detail))
}

/// What the body of an entry is about.
fn subject_of(body: &Value) -> Value {
    let fields = ["drill", "number", "verdict"].into_iter().filter_map(|name| Some((name, body.get(name)?)));
    fields.map(|(name, value)| (name.to_owned(), value.clone())).collect()
}

/// The record, and what follows from it.
fn record(
    manifest: Option<&Manifest>,
    parts: &[Part],
    limits: &Limits,
) -> Result<((Attempt, Vec<u8>), String), String> {
    let manifest = manifest.ok_or("there is no manifest")?;
    let named =
        |part: &&Part| part.name != parts::RESULTS && manifest.parts.iter().any(|named| named.name == part.name);
    let of_attempt: Vec<Part> = parts.iter().filter(named).map(Part::borrowed).collect();
    let record = parts::join(manifest.version, &of_attempt, limits, false)?;
    let computed = record.results()?;
    let attempt = record.into_attempt()?;
    if (attempt.drill.as_str(), attempt.number) != (manifest.drill.as_str(), manifest.attempt) {
        return Err(format!(
            "the record is of {} attempt {}, the manifest of {} attempt {}",
            attempt.drill, attempt.number, manifest.drill, manifest.attempt
        ));
    }
    let samples: usize = attempt.probes.iter().map(|probe| probe.samples.len()).sum();
    let count = figures::count;
    let detail = format!(
        "{}, {}, {}",
        count(attempt.probes.len(), "probe"),
        count(samples, "sample"),
        count(attempt.events.len(), "event")
    );
    Ok(((attempt, computed), detail))
}

fn read_results(parts: &[Part], limits: &Limits) -> Result<(Results, String), String> {
    let results = closing::results_of(parts, limits)?;
    let detail = format!("{}, verdict {}", figures::count(results.objectives.len(), "objective"), results.verdict);
    Ok((results, detail))
}

/// Attempts of the drill are numbered from 1 without a gap, each before this one is sealed, and this one is the last of
/// the signed history: nothing can be left out of the proofs.
fn attempts(known: &Known) -> Result<((), String), String> {
    let (proofs, manifest, checkpoint) = (known.proofs.as_ref(), known.manifest.as_ref(), known.checkpoint.as_ref());
    let (Some(proofs), Some(manifest), Some(checkpoint)) = (proofs, manifest, checkpoint) else {
        return Err("there are no proved entries to count".to_owned());
    };
    let mut previous = None;
    for Proved { entry, .. } in proofs {
        if previous.is_some_and(|previous| previous >= entry.index) {
            return Err(format!("entry {} is out of order", entry.index));
        }
        previous = Some(entry.index);
        if entry.body.get("drill").and_then(Value::as_str) != Some(manifest.drill.as_str()) {
            return Err(format!("entry {} is not of {}", entry.index, manifest.drill));
        }
    }
    let attempts =
        known.attempts.as_ref().ok_or("there are no proved entries to count")?.as_ref().map_err(String::clone)?;
    let (drill, number) = (manifest.drill.as_str(), manifest.attempt);
    let seal = match attempts.get(drill, number) {
        Some(known) => known.sealed.ok_or_else(|| format!("there is no seal of attempt {number} of {drill}"))?,
        None => return Err(format!("attempt {number} of {drill} was never registered")),
    };
    let before = attempts.of(drill).iter().zip(1..number);
    if let Some((_, open)) =
        before.into_iter().find(|(known, _)| known.sealed.is_none_or(|known| known.index > seal.index))
    {
        return Err(format!(
            "there is no seal of attempt {open} of {drill}: the proofs were cut, or attempt {number} began before it ended"
        ));
    }
    let version = proofs.iter().find(|proof| proof.entry.index == seal.index).map_or(1, |proof| proof.entry.version);
    if version > 1 && checkpoint.size != seal.index.saturating_add(1) {
        return Err(format!(
            "the checkpoint has {} entries, and the seal is entry {}: the checkpoint is not the one of this bundle",
            checkpoint.size, seal.index
        ));
    }
    let count = attempts.of(drill).len();
    Ok(((), format!("attempts 1 to {count} of {drill} without a gap; this is attempt {number}")))
}

/// Body of the entry of this kind about this attempt.
fn body<T: serde::de::DeserializeOwned>(known: &Known, kind: &str) -> Result<(u64, T), String> {
    let proofs = known.proofs.as_ref().ok_or("there are no proved entries")?;
    let manifest = known.manifest.as_ref().ok_or("there is no manifest")?;
    let is_ours = |proof: &&Proved| {
        let number = proof.entry.body.get("number").and_then(Value::as_u64);
        proof.entry.kind == kind && number == Some(manifest.attempt)
    };
    let proof = proofs
        .iter()
        .find(is_ours)
        .ok_or_else(|| format!("there is no entry {kind} of attempt {}", manifest.attempt))?;
    let body = serde_json::from_value(proof.entry.body.clone())
        .map_err(|error| format!("entry {}: {error}", proof.entry.index))?;
    Ok((proof.entry.index, body))
}

/// What was sealed is what was registered before.
fn registered(known: &Known, parts: &[Part]) -> Result<((), String), String> {
    let attempt = known.attempt.as_ref().ok_or("there is no record")?;
    let (index, body): (u64, Registered) = body(known, kind::REGISTERED)?;
    let digest = canonical::digest(&find(parts, parts::REGISTERED)?.bytes);
    if digest != body.digest || digest != attempt.digest {
        return Err(format!("the plan has digest {digest}, entry {index} registered {}", body.digest));
    }
    let registered =
        body.registration.attempt(body.number, attempt.ending.clone()).map_err(|error| error.to_string())?;
    let differs = [
        ("objectives", registered.objectives != attempt.objectives),
        ("plan", registered.plan != attempt.plan),
        ("regions", registered.lost_region != attempt.lost_region),
        ("recovery regions", registered.recovery_regions != attempt.recovery_regions),
        ("tested system", registered.tested != attempt.tested),
        ("normal state", registered.normal != attempt.normal),
    ];
    if let Some((what, _)) = differs.iter().find(|(_, differs)| *differs) {
        return Err(format!("the {what} of the record are not those that entry {index} registered"));
    }
    Ok(((), format!("plan and objectives are those of entry {index}, {digest}")))
}

fn sealed(known: &Known, parts: &[Part]) -> Result<((), String), String> {
    let results = known.results.as_ref().ok_or("there are no results")?;
    let (index, body): (u64, SealBody) = body(known, kind::SEALED)?;
    let digest = canonical::digest(&find(parts, parts::MANIFEST)?.bytes);
    if digest != body.manifest {
        return Err(format!("{} has digest {digest}, entry {index} sealed {}", parts::MANIFEST, body.manifest));
    }
    if results.verdict != body.verdict {
        return Err(format!("the verdict is {}, entry {index} sealed {}", results.verdict, body.verdict));
    }
    Ok(((), format!("entry {index} sealed exactly these parts")))
}

/// What causes stands before what it causes, within the error bounds.
fn order(attempt: &Attempt) -> Result<((), String), String> {
    use Point::{T0c, T0e, T3, T4, T5, T8, T9, T10};
    let first = |point| attempt.timeline.iter().filter(|seen| seen.point == point).min_by_key(|seen| seen.time);
    for (before, after) in [(T0c, T0e), (T0c, T8), (T3, T4), (T4, T5), (T8, T9), (T9, T10), (T0c, T10)] {
        if let (Some(before), Some(after)) = (first(before), first(after)) {
            let errors = before.error.saturating_add(after.error).saturating_add(attempt.anchor.error);
            if before.time.saturating_sub(after.time) > errors.saturating_add(SLACK) {
                return Err(format!("{} is after {}", before.point, after.point));
            }
        }
    }
    for phase in &attempt.phases {
        if phase.to.is_some_and(|to| to < phase.from) {
            return Err(format!("phase {} ends before it begins", phase.name));
        }
    }
    if let Some(pair) = attempt.phases.windows(2).find(|pair| pair[1].from < pair[0].from) {
        return Err(format!("phase {} begins before {}", pair[1].name, pair[0].name));
    }
    for probe in &attempt.probes {
        if let Some(at) = probe.samples.windows(2).position(|pair| pair[1].due < pair[0].due) {
            return Err(format!("sample {} of probe {} is due before the one before it", at + 1, probe.name));
        }
    }
    Ok((
        (),
        format!(
            "{}, {}",
            figures::count(attempt.timeline.len(), "point"),
            figures::count(attempt.phases.len(), "phase")
        ),
    ))
}

/// Measured values and verdict again, from the raw samples.
fn recompute(known: &Known, parts: &[Part]) -> Result<((), String), String> {
    let bytes = known.computed.as_ref().ok_or("there is no record to compute from")?;
    let stated = &find(parts, parts::RESULTS)?.bytes;
    if known.results.is_none() {
        return Err("there are no results to compare with".to_owned());
    }
    if bytes.as_slice() != stated.as_ref() {
        let computed = serde_json::from_slice(bytes).unwrap_or(Value::Null);
        let stated = serde_json::from_slice(stated).unwrap_or(Value::Null);
        let place = difference("", &stated, &computed).unwrap_or_else(|| "it is spelled in another way".to_owned());
        return Err(format!("{} is not what follows from the samples: {place}", parts::RESULTS));
    }
    let verdict = known.results.as_ref().map_or_else(String::new, |results| results.verdict.to_string());
    let rules = known.manifest.as_ref().map_or(0, |manifest| manifest.version);
    let detail =
        format!("measured values and verdict follow from the raw samples by the rules of format {rules}: {verdict}");
    Ok(((), detail))
}

/// First place in which two values differ.
fn difference(path: &str, stated: &Value, computed: &Value) -> Option<String> {
    match (stated, computed) {
        (Value::Object(a), Value::Object(b)) => {
            let names = a.keys().chain(b.keys().filter(|name| !a.contains_key(*name)));
            names.into_iter().find_map(|name| {
                let (a, b) = (a.get(name).unwrap_or(&Value::Null), b.get(name).unwrap_or(&Value::Null));
                difference(&format!("{path}/{name}"), a, b)
            })
        }
        (Value::Array(a), Value::Array(b)) if a.len() == b.len() => {
            a.iter().zip(b).enumerate().find_map(|(at, (a, b))| difference(&format!("{path}/{at}"), a, b))
        }
        (a, b) if a == b => None,
        (a, b) => Some(format!("{path} is stated as {a}, and computed as {b}")),
    }
}

fn statements(known: &Known, parts: &[Part], key: &VerifierKey) -> Result<((), String), String> {
    let (Some(manifest), Some(results), Some(proofs)) =
        (known.manifest.as_ref(), known.results.as_ref(), known.proofs.as_ref())
    else {
        return Err("there are no results that they could be about".to_owned());
    };
    let is_seal = |proof: &&Proved| {
        let number = proof.entry.body.get("number").and_then(Value::as_u64);
        proof.entry.kind == kind::SEALED && number == Some(manifest.attempt)
    };
    let version = proofs.iter().find(is_seal).map_or(entry::VERSION, |seal| seal.entry.version);
    let subject = closing::subject(manifest, parts, version);
    for (name, payload) in [
        (closing::TEST_RESULT, closing::test_result(manifest, &subject, results)?),
        (closing::MEASUREMENT, closing::measurement(manifest, &subject, results)?),
    ] {
        let part = find(parts, name)?;
        closing::verify_envelope(&part.bytes, key, &payload).map_err(|why| format!("{name} {why}"))?;
    }
    let what = if version < 2 { "these parts" } else { "every part before them" };
    Ok(((), format!("both in-toto statements are signed, and state these results of {what}")))
}
