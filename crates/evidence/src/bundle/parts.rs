//! An attempt as the parts of a bundle, and back. Pure.

use serde::{Deserialize, Serialize};
use serde_json::Value;

use crate::{
    bundle::{archive::Part, columns},
    canonical::{self, CanonicalError},
    measure::measure,
    record::{Attempt, ProbeRecord, RequestLog, WritesRecord},
    v1,
};

/// Name of the first part.
pub const MANIFEST: &str = "manifest.json";
/// Name of the measured values and verdict.
pub const RESULTS: &str = "results.json";
/// The canonical plan and drill: exactly the bytes whose digest was registered.
pub const REGISTERED: &str = "registered.json";
/// Requests at gateways, if the drill asked for them.
const REQUESTS: &str = "requests.json.gz";
/// What of the attempt has no part of its own.
const HEAD: &str = "attempt.json";

/// Fields of an attempt that are parts of their own, in the order of the archive.
const FIELDS: [(&str, &str); 8] = [
    ("registered", REGISTERED),
    ("timeline", "timeline.json"),
    ("journal", "journal.json"),
    ("events", "events.json"),
    ("guards", "guards.json"),
    ("findings", "findings.json"),
    ("residue", "residue.json"),
    ("probes", "probes.json"),
];

/// Format of new bundles.
pub const VERSION: u64 = 2;
/// Format of bundles that are verified with the rules of their time.
const VERSION_1: u64 = 1;

/// Names, sizes and digests of all parts but those that close the bundle.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Manifest {
    /// Format.
    pub version: u64,
    /// Drill name.
    pub drill: String,
    /// Number.
    pub attempt: u64,
    /// Parts in order.
    pub parts: Vec<PartDigest>,
}

/// Digest of one part.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct PartDigest {
    /// Name.
    pub name: String,
    /// Bytes.
    pub size: u64,
    /// SHA-256, hexadecimal.
    pub sha256: String,
}

impl PartDigest {
    /// Of a part.
    pub fn of(part: &Part) -> Self {
        let sha256 = canonical::hex(&canonical::sha256(&part.bytes));
        Self { name: part.name.clone(), size: part.bytes.len() as u64, sha256 }
    }
}

impl Manifest {
    /// Of an attempt's parts.
    pub fn of(drill: &str, attempt: u64, parts: &[Part]) -> Self {
        Self { version: VERSION, drill: drill.to_owned(), attempt, parts: parts.iter().map(PartDigest::of).collect() }
    }

    /// Reads it; the format must be known.
    pub fn read(bytes: &[u8]) -> Result<Self, String> {
        let manifest: Self = canonical::from_slice(bytes).map_err(|error| error.to_string())?;
        match manifest.version {
            VERSION | VERSION_1 => Ok(manifest),
            unknown => Err(format!(
                "has format {unknown}, and this program reads {VERSION_1} and {VERSION}: a newer firedrill is needed"
            )),
        }
    }
}

fn samples_name(probe: usize) -> String {
    format!("samples/{probe:04}.bin.gz")
}

fn writes_name(probe: usize) -> String {
    format!("writes/{probe:04}.bin.gz")
}

/// The probe without what is in columns; `writes` stays as a mark.
fn head(probe: &ProbeRecord) -> ProbeRecord {
    let empty = |_: &WritesRecord| WritesRecord { writes: Vec::new(), readbacks: Vec::new() };
    ProbeRecord {
        name: probe.name.clone(),
        service: probe.service.clone(),
        interval: probe.interval,
        timeout: probe.timeout,
        regions: probe.regions.clone(),
        samples: Vec::new(),
        writes: probe.writes.as_ref().map(empty),
    }
}

/// The parts of an attempt, in order, without results.
pub fn split(attempt: &Attempt) -> Result<Vec<Part>, String> {
    let text = |error: serde_json::Error| error.to_string();
    let without_samples = Attempt { probes: attempt.probes.iter().map(head).collect(), ..shallow(attempt) };
    let Value::Object(mut fields) = serde_json::to_value(&without_samples).map_err(text)? else {
        return Err("an attempt is an object".to_owned());
    };
    let canonical = |value: &Value| canonical::to_vec(value).map_err(|error: CanonicalError| error.to_string());
    let mut parts = Vec::new();
    for (field, name) in FIELDS {
        let value = fields.remove(field).ok_or_else(|| format!("an attempt has no {field}"))?;
        parts.push(Part::new(name, canonical(&value)?));
    }
    parts.insert(1, Part::new(HEAD, canonical(&Value::Object(fields))?));
    for (at, probe) in attempt.probes.iter().enumerate() {
        parts.push(Part::new(samples_name(at), columns::encode_samples(&probe.samples)?));
        if let Some(writes) = &probe.writes {
            parts.push(Part::new(writes_name(at), columns::encode_writes(writes)?));
        }
    }
    if let Some(requests) = &attempt.requests {
        let value = serde_json::to_value(requests).map_err(text)?;
        parts.push(Part::new(REQUESTS, columns::deflate(&canonical(&value)?)?));
    }
    Ok(parts)
}

/// Everything but the probes, which may be large.
fn shallow(attempt: &Attempt) -> Attempt {
    Attempt {
        drill: attempt.drill.clone(),
        number: attempt.number,
        plan: attempt.plan.clone(),
        digest: attempt.digest.clone(),
        registered: attempt.registered.clone(),
        about: attempt.about.clone(),
        lost_region: attempt.lost_region.clone(),
        recovery_regions: attempt.recovery_regions.clone(),
        anchor: attempt.anchor.clone(),
        objectives: attempt.objectives.clone(),
        phases: attempt.phases.clone(),
        timeline: attempt.timeline.clone(),
        probes: Vec::new(),
        guards: attempt.guards.clone(),
        findings: attempt.findings.clone(),
        residue: attempt.residue.clone(),
        journal: attempt.journal.clone(),
        events: attempt.events.clone(),
        requests: None,
        programs: attempt.programs.clone(),
        tested: attempt.tested.clone(),
        normal: attempt.normal.clone(),
        served: attempt.served.clone(),
        ramp: attempt.ramp.clone(),
        standing: attempt.standing.clone(),
        undos: attempt.undos.clone(),
        changes: attempt.changes.clone(),
        engine: attempt.engine.clone(),
        clock: attempt.clock.clone(),
        truncated: attempt.truncated,
        unproven: attempt.unproven.clone(),
        ending: attempt.ending.clone(),
    }
}

/// The record in a bundle, in the types of its format.
pub enum Record {
    /// Format 1, frozen.
    V1(Box<v1::record::Attempt>),
    /// Format 2.
    V2(Box<Attempt>),
}

impl Record {
    /// Canonical bytes of what follows from it by the rules of its format.
    pub fn results(&self) -> Result<Vec<u8>, String> {
        let bytes = match self {
            Self::V1(attempt) => canonical::to_vec(&v1::measure::measure(attempt)),
            Self::V2(attempt) => canonical::to_vec(&measure(attempt)),
        };
        bytes.map_err(|error| error.to_string())
    }

    /// The record in today's types.
    pub fn into_attempt(self) -> Result<Attempt, String> {
        match self {
            Self::V1(attempt) => v1::upgrade(*attempt),
            Self::V2(attempt) => Ok(*attempt),
        }
    }
}

/// The attempt that the parts of a bundle of this version hold. Every part is used, or its name is an error.
pub fn join(version: u64, parts: &[Part]) -> Result<Record, String> {
    let head = head_fields(parts)?;
    let not_an_attempt = |error: serde_json::Error| format!("the parts are not an attempt: {error}");
    let mut bulk = Bulk { parts, budget: columns::MAX_INFLATED, used: FIELDS.len() + 1 };
    let record = if version == VERSION_1 {
        let mut attempt: v1::record::Attempt = serde_json::from_value(head).map_err(not_an_attempt)?;
        for (at, probe) in attempt.probes.iter_mut().enumerate() {
            probe.samples = bulk.take(&samples_name(at), columns::decode_samples_v1)?;
            if let Some(writes) = &mut probe.writes {
                *writes = bulk.take(&writes_name(at), columns::decode_writes)?.into();
            }
        }
        attempt.requests = bulk.requests::<v1::record::RequestLog>()?;
        Record::V1(Box::new(attempt))
    } else {
        let mut attempt: Attempt = serde_json::from_value(head).map_err(not_an_attempt)?;
        for (at, probe) in attempt.probes.iter_mut().enumerate() {
            probe.samples = bulk.take(&samples_name(at), columns::decode_samples)?;
            if let Some(writes) = &mut probe.writes {
                *writes = bulk.take(&writes_name(at), columns::decode_writes)?;
            }
        }
        attempt.requests = bulk.requests::<RequestLog>()?;
        attempt.validate()?;
        Record::V2(Box::new(attempt))
    };
    if bulk.used != parts.len() {
        return Err(format!("there are {} parts, and {} belong to the attempt", parts.len(), bulk.used));
    }
    Ok(record)
}

/// The attempt but for what is in columns.
fn head_fields(parts: &[Part]) -> Result<Value, String> {
    let json = |name: &str| -> Result<Value, String> {
        canonical::from_slice(&find(parts, name)?.bytes).map_err(|error| format!("{name} {error}"))
    };
    let Value::Object(mut fields) = json(HEAD)? else { return Err(format!("{HEAD} is not an object")) };
    for (field, name) in FIELDS {
        if fields.insert(field.to_owned(), json(name)?).is_some() {
            return Err(format!("{HEAD} has a field {field}, which is a part of its own"));
        }
    }
    if fields.contains_key("requests") {
        return Err(format!("{HEAD} has a field requests, which is a part of its own"));
    }
    Ok(Value::Object(fields))
}

fn find<'a>(parts: &'a [Part], name: &str) -> Result<&'a Part, String> {
    parts.iter().find(|part| part.name == name).ok_or_else(|| format!("{name} is missing"))
}

/// The compressed parts: what may still be inflated of them, and how many parts were used.
struct Bulk<'a> {
    parts: &'a [Part],
    budget: usize,
    used: usize,
}

impl Bulk<'_> {
    fn take<T>(&mut self, name: &str, decode: impl Fn(&[u8], &mut usize) -> Result<T, String>) -> Result<T, String> {
        let decoded =
            decode(&find(self.parts, name)?.bytes, &mut self.budget).map_err(|why| format!("{name} {why}"))?;
        self.used += 1;
        Ok(decoded)
    }

    fn requests<T: serde::de::DeserializeOwned>(&mut self) -> Result<Option<T>, String> {
        if find(self.parts, REQUESTS).is_err() {
            return Ok(None);
        }
        let bytes = self.take(REQUESTS, columns::inflate)?;
        let value: Value = canonical::from_slice(&bytes).map_err(|error| format!("{REQUESTS} {error}"))?;
        serde_json::from_value(value).map_err(|error| format!("{REQUESTS} {error}"))
    }
}
