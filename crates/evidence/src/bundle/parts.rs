//! An attempt as the parts of a bundle, and back. Pure.

use serde::{Deserialize, Serialize};
use serde_json::Value;

use crate::{
    bundle::{
        archive::{Part, find},
        columns::{self, Budget},
        limits::Limits,
    },
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

/// Memory that the values of a manifest may need.
const MAX_VALUES: usize = 4 << 20;

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
        let manifest: Self =
            canonical::json::from_slice(bytes, &mut { MAX_VALUES }).map_err(|error| error.to_string())?;
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
fn without_columns(probe: &ProbeRecord) -> ProbeRecord {
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
pub fn split(attempt: &Attempt) -> Result<Vec<Part<'static>>, String> {
    let text = |error: serde_json::Error| error.to_string();
    let without_samples = Attempt { probes: attempt.probes.iter().map(without_columns).collect(), ..shallow(attempt) };
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

/// The attempt that the parts of a bundle of this version hold. Every part is used, or its name is an error. What the
/// requests at gateways say is only read if `with_requests`; nothing is measured with it but their number.
pub fn join(version: u64, parts: &[Part], limits: &Limits, with_requests: bool) -> Result<Record, String> {
    let mut values = limits.values;
    let head = head(parts, &mut values)?;
    let not_an_attempt = |error: serde_json::Error| format!("the parts are not an attempt: {error}");
    let of_its_own = || format!("{HEAD} has a field requests, which is a part of its own");
    let mut bulk = Bulk { parts, budget: Budget::new(limits), values, used: FIELDS.len() + 1, with_requests };
    let mut samples = 0_usize;
    let (record, probes) = if version == VERSION_1 {
        let mut attempt: v1::record::Attempt = serde_json::from_slice(&head).map_err(not_an_attempt)?;
        drop(head);
        for (at, probe) in attempt.probes.iter_mut().enumerate() {
            probe.samples = bulk.take(&samples_name(at), columns::decode_samples_v1)?;
            samples = samples.saturating_add(probe.samples.len());
            if let Some(writes) = &mut probe.writes {
                *writes = bulk.take(&writes_name(at), columns::decode_writes)?.into();
            }
        }
        if attempt.requests.is_some() {
            return Err(of_its_own());
        }
        attempt.requests = bulk.requests::<v1::record::RequestLog>()?;
        let probes = attempt.probes.len();
        (Record::V1(Box::new(attempt)), probes)
    } else {
        let mut attempt: Attempt = serde_json::from_slice(&head).map_err(not_an_attempt)?;
        drop(head);
        for (at, probe) in attempt.probes.iter_mut().enumerate() {
            probe.samples = bulk.take(&samples_name(at), columns::decode_samples)?;
            samples = samples.saturating_add(probe.samples.len());
            if let Some(writes) = &mut probe.writes {
                *writes = bulk.take(&writes_name(at), columns::decode_writes)?;
            }
        }
        if attempt.requests.is_some() {
            return Err(of_its_own());
        }
        attempt.requests = bulk.requests::<RequestLog>()?;
        attempt.validate()?;
        let probes = attempt.probes.len();
        (Record::V2(Box::new(attempt)), probes)
    };
    if bulk.used != parts.len() {
        return Err(format!("there are {} parts, and {} belong to the attempt", parts.len(), bulk.used));
    }
    if samples.saturating_mul(probes) > limits.judgements {
        return Err(format!(
            "it has {samples} samples of {probes} probes: their product is more than the {} that are judged",
            limits.judgements
        ));
    }
    Ok(record)
}

/// Canonical JSON of the attempt but for what is in columns: the fields that are parts of their own stand in the object of
/// the head again.
fn head(parts: &[Part], values: &mut usize) -> Result<Vec<u8>, String> {
    let mut checked = |name: &str| {
        let bytes = &find(parts, name)?.bytes;
        canonical::json::check(bytes, values).map_err(|error| format!("{name} {error}"))?;
        Ok::<_, String>(bytes)
    };
    let head = checked(HEAD)?;
    let Some(inner) = head.strip_suffix(b"}").filter(|inner| inner.first() == Some(&b'{')) else {
        return Err(format!("{HEAD} is not an object"));
    };
    let mut object = inner.to_vec();
    for (field, name) in FIELDS {
        let value = checked(name)?;
        if object.len() > 1 {
            object.push(b',');
        }
        object.extend_from_slice(format!("\"{field}\":").as_bytes());
        object.extend_from_slice(value);
    }
    object.push(b'}');
    Ok(object)
}

/// The compressed parts: what may still be read of them, and how many parts were used.
struct Bulk<'a> {
    parts: &'a [Part<'a>],
    budget: Budget,
    values: usize,
    used: usize,
    with_requests: bool,
}

impl Bulk<'_> {
    fn take<T>(&mut self, name: &str, decode: impl Fn(&[u8], &mut Budget) -> Result<T, String>) -> Result<T, String> {
        let decoded =
            decode(&find(self.parts, name)?.bytes, &mut self.budget).map_err(|why| format!("{name} {why}"))?;
        self.used += 1;
        Ok(decoded)
    }

    fn requests<T: serde::de::DeserializeOwned + From<Counted>>(&mut self) -> Result<Option<T>, String> {
        if find(self.parts, REQUESTS).is_err() {
            return Ok(None);
        }
        let bytes = self.take(REQUESTS, columns::inflate)?;
        let wrong = |error: CanonicalError| format!("{REQUESTS} {error}");
        if self.with_requests {
            return canonical::json::from_slice(&bytes, &mut self.values).map(Some).map_err(wrong);
        }
        canonical::json::check(&bytes, &mut { usize::MAX }).map_err(wrong)?;
        let unexpected = |error: serde_json::Error| format!("{REQUESTS} {error}");
        serde_json::from_slice::<Counted>(&bytes).map(|counted| Some(counted.into())).map_err(unexpected)
    }
}

/// A log of requests of which only the number is known.
#[derive(Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
struct Counted {
    most: u64,
    beyond: u64,
    lost: u64,
    gaps: u64,
    entries: Vec<CountedEntry>,
}

/// A request that is there.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct CountedEntry {
    #[serde(rename = "gateway")]
    _gateway: serde::de::IgnoredAny,
    #[serde(rename = "request")]
    _request: serde::de::IgnoredAny,
}

macro_rules! uncounted {
    ($log:ty, $entry:path) => {
        impl From<Counted> for $log {
            fn from(counted: Counted) -> Self {
                let Counted { most, beyond, lost, gaps, entries } = counted;
                let unknown = |_| {
                    use $entry as Entry;
                    Entry { gateway: String::new(), request: Value::Null }
                };
                Self { most, beyond, lost, gaps, entries: entries.into_iter().map(unknown).collect() }
            }
        }
    };
}

uncounted!(RequestLog, crate::record::RequestEntry);
uncounted!(v1::record::RequestLog, crate::v1::record::RequestEntry);
