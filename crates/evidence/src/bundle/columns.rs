//! Raw samples and writes as columns: like values stand together, times as differences of differences, so that a regular
//! probe costs about two bytes per sample before compression. Decoding is bounded and total. Pure.

use std::io::{Read, Write as _};

use flate2::{Compression, GzBuilder, read::GzDecoder};

use crate::{
    record::{Outcome, Readback, Sample, Write, WritesRecord},
    v1,
};

const SAMPLES: &[u8; 4] = b"FDS2";
const SAMPLES_V1: &[u8; 4] = b"FDS1";
const WRITES: &[u8; 4] = b"FDW1";

/// First of the outcome codes that carry a status; those below it, and not named, are reserved.
const STATUS: u64 = 16;
/// The same in format 1.
const STATUS_V1: u64 = 5;

/// Column bytes of all parts of one bundle together: what a decoder is willing to inflate.
pub const MAX_INFLATED: usize = 128 << 20;

/// Compresses with a fixed header: no time, no name.
pub fn deflate(bytes: &[u8]) -> Result<Vec<u8>, String> {
    let mut encoder = GzBuilder::new().mtime(0).operating_system(255).write(Vec::new(), Compression::best());
    encoder.write_all(bytes).and_then(|()| encoder.finish()).map_err(|error| error.to_string())
}

/// Inflates at most `budget` bytes, and takes them off it.
pub fn inflate(bytes: &[u8], budget: &mut usize) -> Result<Vec<u8>, String> {
    let mut decoder = GzDecoder::new(bytes);
    let mut out = Vec::new();
    (&mut decoder).take(*budget as u64 + 1).read_to_end(&mut out).map_err(|error| format!("is not gzip: {error}"))?;
    if out.len() > *budget {
        return Err(format!("inflates to more than {MAX_INFLATED} bytes"));
    }
    if !decoder.into_inner().is_empty() {
        return Err("has bytes behind its gzip stream".to_owned());
    }
    *budget -= out.len();
    Ok(out)
}

fn put(out: &mut Vec<u8>, mut value: u64) {
    while value >= 0x80 {
        out.push((value & 0x7f) as u8 | 0x80);
        value >>= 7;
    }
    out.push(value as u8);
}

fn put_signed(out: &mut Vec<u8>, value: i64) {
    put(out, ((value << 1) ^ (value >> 63)) as u64);
}

/// A mark, and the value if there is one.
fn put_optional(out: &mut Vec<u8>, value: Option<u64>) {
    match value {
        None => out.push(0),
        Some(value) => {
            out.push(1);
            put(out, value);
        }
    }
}

struct Cursor<'a> {
    rest: &'a [u8],
}

impl Cursor<'_> {
    fn byte(&mut self) -> Result<u8, String> {
        let (first, rest) = self.rest.split_first().ok_or("ends too early")?;
        self.rest = rest;
        Ok(*first)
    }

    fn number(&mut self) -> Result<u64, String> {
        let mut value = 0_u64;
        for shift in (0..64).step_by(7) {
            let byte = self.byte()?;
            let bits = u64::from(byte & 0x7f);
            if shift == 63 && bits > 1 {
                break;
            }
            value |= bits << shift;
            if byte & 0x80 == 0 {
                return Ok(value);
            }
        }
        Err("has a number of more than 64 bits".to_owned())
    }

    fn signed(&mut self) -> Result<i64, String> {
        let value = self.number()?;
        Ok((value >> 1) as i64 ^ -((value & 1) as i64))
    }

    fn optional(&mut self) -> Result<Option<u64>, String> {
        match self.byte()? {
            0 => Ok(None),
            1 => self.number().map(Some),
            other => Err(format!("has {other} where 0 or 1 belongs")),
        }
    }

    /// A count of things of which each takes at least one more byte.
    fn count(&mut self) -> Result<usize, String> {
        let count = self.number()?;
        usize::try_from(count)
            .ok()
            .filter(|count| *count <= self.rest.len())
            .ok_or_else(|| format!("cannot hold {count} items"))
    }

    fn column<T>(&mut self, count: usize, read: impl FnMut(&mut Self) -> Result<T, String>) -> Result<Vec<T>, String> {
        let mut read = read;
        (0..count).map(|_| read(self)).collect()
    }

    /// Values stored as differences of differences.
    fn times(&mut self, count: usize) -> Result<Vec<i64>, String> {
        let (mut value, mut step) = (0_i64, 0_i64);
        self.column(count, |cursor| {
            step = step.wrapping_add(cursor.signed()?);
            value = value.wrapping_add(step);
            Ok(value)
        })
    }

    fn end(&self) -> Result<(), String> {
        if self.rest.is_empty() { Ok(()) } else { Err(format!("has {} bytes too many", self.rest.len())) }
    }
}

fn open<'a>(bytes: &'a [u8], magic: &[u8; 4]) -> Result<Cursor<'a>, String> {
    let rest = bytes.strip_prefix(magic).ok_or("does not begin with its format")?;
    Ok(Cursor { rest })
}

fn put_times(out: &mut Vec<u8>, times: impl Iterator<Item = i64>) {
    let (mut previous, mut step) = (0_i64, 0_i64);
    for time in times {
        let now = time.wrapping_sub(previous);
        put_signed(out, now.wrapping_sub(step));
        (previous, step) = (time, now);
    }
}

fn code(outcome: Outcome) -> u64 {
    match outcome {
        Outcome::Ok => 0,
        Outcome::Timeout => 1,
        Outcome::Connect => 2,
        Outcome::Reset => 3,
        Outcome::NotSent => 4,
        Outcome::WrongHeader => 5,
        Outcome::WrongBody => 6,
        Outcome::Status(status) => STATUS + u64::from(status),
    }
}

fn outcome(code: u64) -> Result<Outcome, String> {
    Ok(match code {
        0 => Outcome::Ok,
        1 => Outcome::Timeout,
        2 => Outcome::Connect,
        3 => Outcome::Reset,
        4 => Outcome::NotSent,
        5 => Outcome::WrongHeader,
        6 => Outcome::WrongBody,
        other => Outcome::Status(status(other, STATUS)?),
    })
}

fn outcome_v1(code: u64) -> Result<v1::record::Outcome, String> {
    use v1::record::Outcome;
    Ok(match code {
        0 => Outcome::Ok,
        1 => Outcome::Timeout,
        2 => Outcome::Connect,
        3 => Outcome::Reset,
        4 => Outcome::NotSent,
        other => Outcome::Status(status(other, STATUS_V1)?),
    })
}

fn status(code: u64, first: u64) -> Result<u16, String> {
    let status = code.checked_sub(first).and_then(|status| u16::try_from(status).ok());
    status.ok_or_else(|| format!("has the unknown outcome {code}"))
}

fn region(value: Option<u64>) -> Result<Option<u16>, String> {
    value.map(|region| u16::try_from(region).map_err(|_| format!("has the unknown region {region}"))).transpose()
}

/// Columns of samples, compressed.
pub fn encode_samples(samples: &[Sample]) -> Result<Vec<u8>, String> {
    let mut out = SAMPLES.to_vec();
    put(&mut out, samples.len() as u64);
    put_times(&mut out, samples.iter().map(|sample| sample.due));
    samples.iter().for_each(|sample| put_signed(&mut out, sample.latency));
    samples.iter().for_each(|sample| put(&mut out, code(sample.outcome)));
    samples.iter().for_each(|sample| put(&mut out, sample.region.map_or(0, |region| u64::from(region) + 1)));
    samples.iter().for_each(|sample| out.push(sample.tries));
    deflate(&out)
}

/// Reads what [`encode_samples`] wrote.
pub fn decode_samples(bytes: &[u8], budget: &mut usize) -> Result<Vec<Sample>, String> {
    decode(bytes, budget, SAMPLES, outcome, |due, latency, outcome, region, tries| Sample {
        due,
        latency,
        outcome,
        region,
        tries,
    })
}

/// Reads samples of format 1.
pub fn decode_samples_v1(bytes: &[u8], budget: &mut usize) -> Result<Vec<v1::record::Sample>, String> {
    decode(bytes, budget, SAMPLES_V1, outcome_v1, |due, latency, outcome, region, tries| v1::record::Sample {
        due,
        latency,
        outcome,
        region,
        tries,
    })
}

fn decode<O, S>(
    bytes: &[u8],
    budget: &mut usize,
    magic: &[u8; 4],
    outcome: fn(u64) -> Result<O, String>,
    sample: impl Fn(i64, i64, O, Option<u16>, u8) -> S,
) -> Result<Vec<S>, String> {
    let inflated = inflate(bytes, budget)?;
    let mut cursor = open(&inflated, magic)?;
    let count = cursor.count()?;
    let due = cursor.times(count)?;
    let latency = cursor.column(count, Cursor::signed)?;
    let outcomes = cursor.column(count, |cursor| outcome(cursor.number()?))?;
    let regions = cursor.column(count, |cursor| region(cursor.number()?.checked_sub(1)))?;
    let tries = cursor.column(count, Cursor::byte)?;
    cursor.end()?;
    let columns = due.into_iter().zip(latency).zip(outcomes).zip(regions).zip(tries);
    Ok(columns
        .map(|((((due, latency), outcome), region), tries)| sample(due, latency, outcome, region, tries))
        .collect())
}

/// Columns of writes and readbacks, compressed.
pub fn encode_writes(record: &WritesRecord) -> Result<Vec<u8>, String> {
    let mut out = WRITES.to_vec();
    let writes = &record.writes;
    put(&mut out, writes.len() as u64);
    put_times(&mut out, writes.iter().map(|write| write.sequence as i64));
    for time in [|write: &Write| write.sent, |write: &Write| write.acknowledged] {
        writes.iter().for_each(|write| out.push(u8::from(time(write).is_some())));
        put_times(&mut out, writes.iter().filter_map(time));
    }
    writes.iter().for_each(|write| put_optional(&mut out, write.region.map(u64::from)));
    writes.iter().for_each(|write| put_optional(&mut out, write.epoch));
    put(&mut out, record.readbacks.len() as u64);
    for readback in &record.readbacks {
        put(&mut out, readback.phase.len() as u64);
        out.extend_from_slice(readback.phase.as_bytes());
        put_signed(&mut out, readback.time);
        put(&mut out, readback.judged);
        put(&mut out, readback.found.len() as u64);
        put_times(&mut out, readback.found.iter().map(|sequence| *sequence as i64));
    }
    deflate(&out)
}

/// Reads what [`encode_writes`] wrote.
pub fn decode_writes(bytes: &[u8], budget: &mut usize) -> Result<WritesRecord, String> {
    let inflated = inflate(bytes, budget)?;
    let mut cursor = open(&inflated, WRITES)?;
    let count = cursor.count()?;
    let sequences = cursor.times(count)?;
    let sent = optional_times(&mut cursor, count)?;
    let acknowledged = optional_times(&mut cursor, count)?;
    let regions = cursor.column(count, |cursor| region(cursor.optional()?))?;
    let epochs = cursor.column(count, Cursor::optional)?;
    let count = cursor.count()?;
    let readbacks = cursor.column(count, readback)?;
    cursor.end()?;
    let columns = sequences.into_iter().zip(sent).zip(acknowledged).zip(regions).zip(epochs);
    let write = |((((sequence, sent), acknowledged), region), epoch)| Write {
        sequence: sequence as u64,
        sent,
        acknowledged,
        region,
        epoch,
    };
    Ok(WritesRecord { writes: columns.map(write).collect(), readbacks })
}

fn optional_times(cursor: &mut Cursor<'_>, count: usize) -> Result<Vec<Option<i64>>, String> {
    let present = cursor.column(count, |cursor| match cursor.byte()? {
        0 => Ok(false),
        1 => Ok(true),
        other => Err(format!("has {other} where 0 or 1 belongs")),
    })?;
    let mut times = cursor.times(present.iter().filter(|present| **present).count())?.into_iter();
    Ok(present.into_iter().map(|present| if present { times.next() } else { None }).collect())
}

fn readback(cursor: &mut Cursor<'_>) -> Result<Readback, String> {
    let length = cursor.count()?;
    let phase = String::from_utf8(cursor.column(length, Cursor::byte)?).map_err(|_| "has a phase that is not text")?;
    let time = cursor.signed()?;
    let judged = cursor.number()?;
    let found = cursor.count()?;
    let found = cursor.times(found)?.into_iter().map(|sequence| sequence as u64).collect();
    Ok(Readback { phase, time, judged, found })
}
