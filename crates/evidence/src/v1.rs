//! Format v1, frozen: its record, its results and its rules of measuring, exactly as they were when bundles of this format
//! were sealed. The verifier recomputes such bundles with them, so that what v1 concluded stays verifiable for ever.
//!
//! Nothing here may change: `tests/golden-v1` holds bundles that must keep verifying, and their results.

pub mod measure;
pub mod record;
pub mod results;

use crate::record as current;

/// The record in today's types, for those who show it. What v1 did not record is unknown.
///
/// # Errors
/// If the record is not one that today's types can hold.
pub fn upgrade(attempt: record::Attempt) -> Result<current::Attempt, String> {
    let record::Attempt { probes, requests, .. } = attempt;
    let head = record::Attempt { probes: Vec::new(), requests: None, ..attempt };
    let convert = |error: serde_json::Error| format!("the record of format 1 cannot be read: {error}");
    let mut upgraded: current::Attempt =
        serde_json::from_value(serde_json::to_value(&head).map_err(convert)?).map_err(convert)?;
    upgraded.probes = probes.into_iter().map(probe).collect();
    if let Some(requests) = requests {
        let value = serde_json::to_value(&requests).map_err(convert)?;
        upgraded.requests = Some(serde_json::from_value(value).map_err(convert)?);
    }
    Ok(upgraded)
}

fn probe(probe: record::ProbeRecord) -> current::ProbeRecord {
    let record::ProbeRecord { name, interval, timeout, regions, samples, writes } = probe;
    let samples = samples.into_iter().map(sample).collect();
    let writes = writes.map(|writes| current::WritesRecord {
        writes: writes.writes.into_iter().map(write).collect(),
        readbacks: writes.readbacks.into_iter().map(readback).collect(),
    });
    current::ProbeRecord { name, service: None, interval, timeout, regions, samples, writes }
}

fn sample(sample: record::Sample) -> current::Sample {
    let record::Sample { due, latency, outcome, region, tries } = sample;
    let outcome = match outcome {
        record::Outcome::Ok => current::Outcome::Ok,
        record::Outcome::Status(status) => current::Outcome::Status(status),
        record::Outcome::Timeout => current::Outcome::Timeout,
        record::Outcome::Connect => current::Outcome::Connect,
        record::Outcome::Reset => current::Outcome::Reset,
        record::Outcome::NotSent => current::Outcome::NotSent,
    };
    current::Sample { due, latency, outcome, region, tries }
}

fn write(write: record::Write) -> current::Write {
    let record::Write { sequence, acknowledged, sent, region, epoch } = write;
    current::Write { sequence, acknowledged, sent, region, epoch }
}

fn readback(readback: record::Readback) -> current::Readback {
    let record::Readback { phase, time, judged, found } = readback;
    current::Readback { phase, time, judged, found }
}

impl From<current::WritesRecord> for record::WritesRecord {
    fn from(writes: current::WritesRecord) -> Self {
        let write = |write: current::Write| record::Write {
            sequence: write.sequence,
            acknowledged: write.acknowledged,
            sent: write.sent,
            region: write.region,
            epoch: write.epoch,
        };
        let readback = |readback: current::Readback| record::Readback {
            phase: readback.phase,
            time: readback.time,
            judged: readback.judged,
            found: readback.found,
        };
        Self {
            writes: writes.writes.into_iter().map(write).collect(),
            readbacks: writes.readbacks.into_iter().map(readback).collect(),
        }
    }
}
