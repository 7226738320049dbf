//! Raw samples and writes as columns: like values stand together, times as differences of differences, so that a regular
//! probe costs about two bytes per sample before compression. Decoding is bounded and total. Pure.

use std::io::{Read as _, Write as _};

use flate2::{Compression, GzBuilder, bufread::GzDecoder};

use crate::{
    bundle::limits::Limits,
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

/// Times and latencies are below this, in nanoseconds: 104 days, as everywhere in the record (2^53).
const MAX_TIME: i64 = 1 << 53;

/// What may still be decoded of one bundle.
#[derive(Debug)]
pub struct Budget {
    inflated: usize,
    rows: usize,
    largest: Limits,
}

impl Budget {
    /// All of it.
    pub fn new(limits: &Limits) -> Self {
        Self { inflated: limits.inflated, rows: limits.rows, largest: *limits }
    }
}

/// Compresses with a fixed header: no time, no name.
pub fn deflate(bytes: &[u8]) -> Result<Vec<u8>, String> {
    let mut encoder = GzBuilder::new().mtime(0).operating_system(255).write(Vec::new(), Compression::best());
    encoder.write_all(bytes).and_then(|()| encoder.finish()).map_err(|error| error.to_string())
}

/// Inflates at most what the budget allows, and takes it off.
pub fn inflate(bytes: &[u8], budget: &mut Budget) -> Result<Vec<u8>, String> {
    let mut decoder = GzDecoder::new(bytes);
    let mut out = Vec::new();
    let most = budget.inflated as u64;
    (&mut decoder).take(most + 1).read_to_end(&mut out).map_err(|error| format!("is not gzip: {error}"))?;
    if out.len() > budget.inflated {
        return Err(too_long(budget));
    }
    if !decoder.into_inner().is_empty() {
        return Err(BEHIND.to_owned());
    }
    budget.inflated -= out.len();
    Ok(out)
}

const BEHIND: &str = "has bytes behind its gzip stream";

fn too_long(budget: &Budget) -> String {
    format!("inflates, with the other parts, to more than {} bytes", budget.largest.inflated)
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

/// Reads numbers from a compressed part while it is inflated, so that only what they mean is in memory.
struct Cursor<'a, 'b> {
    decoder: GzDecoder<&'a [u8]>,
    buffer: Box<[u8]>,
    at: usize,
    end: usize,
    budget: &'b mut Budget,
}

impl<'a, 'b> Cursor<'a, 'b> {
    fn open(bytes: &'a [u8], magic: &[u8; 4], budget: &'b mut Budget) -> Result<Self, String> {
        let buffer = vec![0; 32 << 10].into_boxed_slice();
        let mut cursor = Self { decoder: GzDecoder::new(bytes), buffer, at: 0, end: 0, budget };
        for expected in magic {
            if cursor.next()? != Some(*expected) {
                return Err("does not begin with its format".to_owned());
            }
        }
        Ok(cursor)
    }

    fn next(&mut self) -> Result<Option<u8>, String> {
        if self.at == self.end {
            self.end = self.decoder.read(&mut self.buffer).map_err(|error| format!("is not gzip: {error}"))?;
            self.at = 0;
            let left = self.budget.inflated.checked_sub(self.end);
            self.budget.inflated = left.ok_or_else(|| too_long(self.budget))?;
            if self.end == 0 {
                return Ok(None);
            }
        }
        self.at += 1;
        Ok(self.buffer.get(self.at - 1).copied())
    }

    fn byte(&mut self) -> Result<u8, String> {
        self.next()?.ok_or_else(|| "ends too early".to_owned())
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

    /// A count of things, each of which takes `rows` off the budget.
    fn count(&mut self, rows: usize) -> Result<usize, String> {
        let count = self.number()?;
        let wanted = usize::try_from(count).ok().and_then(|count| count.checked_mul(rows));
        match wanted.and_then(|wanted| self.budget.rows.checked_sub(wanted)) {
            Some(left) => {
                self.budget.rows = left;
                Ok(count as usize)
            }
            None => Err(format!(
                "says that it has {count} items: more than the {} that are read of a bundle",
                self.budget.largest.rows
            )),
        }
    }

    /// Values stored as differences of differences.
    fn times(&mut self, mut each: impl FnMut(i64), count: usize) -> Result<(), String> {
        let (mut value, mut step) = (0_i64, 0_i64);
        for _ in 0..count {
            step = step.wrapping_add(self.signed()?);
            value = value.wrapping_add(step);
            each(value);
        }
        Ok(())
    }

    fn end(&mut self) -> Result<(), String> {
        if self.next()?.is_some() {
            return Err("has bytes too many".to_owned());
        }
        if self.decoder.get_ref().is_empty() { Ok(()) } else { Err(BEHIND.to_owned()) }
    }
}

/// A time that the rules of measuring can calculate with.
fn is_time(time: i64) -> Result<i64, String> {
    if (-MAX_TIME..=MAX_TIME).contains(&time) { Ok(time) } else { Err(format!("has the impossible time {time}")) }
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
pub fn decode_samples(bytes: &[u8], budget: &mut Budget) -> Result<Vec<Sample>, String> {
    decode(bytes, budget, SAMPLES)
}

/// Reads samples of format 1.
pub fn decode_samples_v1(bytes: &[u8], budget: &mut Budget) -> Result<Vec<v1::record::Sample>, String> {
    decode(bytes, budget, SAMPLES_V1)
}

/// A sample that is filled column by column.
trait Row {
    fn due(due: i64) -> Self;
    fn latency(&mut self, latency: i64);
    fn outcome(&mut self, code: u64) -> Result<(), String>;
    fn region(&mut self, region: Option<u16>);
    fn tries(&mut self, tries: u8);
}

macro_rules! row {
    ($sample:ty, $initial:expr, $outcome:path) => {
        impl Row for $sample {
            fn due(due: i64) -> Self {
                Self { due, latency: 0, outcome: $initial, region: None, tries: 0 }
            }

            fn latency(&mut self, latency: i64) {
                self.latency = latency;
            }

            fn outcome(&mut self, code: u64) -> Result<(), String> {
                self.outcome = $outcome(code)?;
                Ok(())
            }

            fn region(&mut self, region: Option<u16>) {
                self.region = region;
            }

            fn tries(&mut self, tries: u8) {
                self.tries = tries;
            }
        }
    };
}

row!(Sample, Outcome::NotSent, outcome);
row!(v1::record::Sample, v1::record::Outcome::NotSent, outcome_v1);

fn decode<S: Row>(bytes: &[u8], budget: &mut Budget, magic: &[u8; 4]) -> Result<Vec<S>, String> {
    let mut cursor = Cursor::open(bytes, magic, budget)?;
    let count = cursor.count(1)?;
    let (mut samples, mut wrong): (Vec<S>, _) = (Vec::new(), None);
    let each = |due| {
        samples.push(S::due(due));
        wrong = wrong.take().or_else(|| is_time(due).err());
    };
    cursor.times(each, count)?;
    if let Some(why) = wrong {
        return Err(why);
    }
    for sample in &mut samples {
        sample.latency(is_time(cursor.signed()?)?);
    }
    for sample in &mut samples {
        sample.outcome(cursor.number()?)?;
    }
    for sample in &mut samples {
        sample.region(region(cursor.number()?.checked_sub(1))?);
    }
    for sample in &mut samples {
        sample.tries(cursor.byte()?);
    }
    cursor.end()?;
    Ok(samples)
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
pub fn decode_writes(bytes: &[u8], budget: &mut Budget) -> Result<WritesRecord, String> {
    let mut cursor = Cursor::open(bytes, WRITES, budget)?;
    let count = cursor.count(2)?;
    let mut writes: Vec<Write> = Vec::new();
    let write = |sequence: i64| {
        let sequence = sequence as u64;
        writes.push(Write { sequence, acknowledged: None, sent: None, region: None, epoch: None });
    };
    cursor.times(write, count)?;
    optional_times(&mut cursor, &mut writes, |write| &mut write.sent)?;
    optional_times(&mut cursor, &mut writes, |write| &mut write.acknowledged)?;
    for write in &mut writes {
        write.region = region(cursor.optional()?)?;
    }
    for write in &mut writes {
        write.epoch = cursor.optional()?;
    }
    let count = cursor.count(2)?;
    let mut readbacks = Vec::new();
    for _ in 0..count {
        readbacks.push(readback(&mut cursor)?);
    }
    cursor.end()?;
    Ok(WritesRecord { writes, readbacks })
}

/// Marks of which writes have the time, then these times.
fn optional_times(
    cursor: &mut Cursor<'_, '_>,
    writes: &mut [Write],
    field: fn(&mut Write) -> &mut Option<i64>,
) -> Result<(), String> {
    let mut count = 0;
    for write in writes.iter_mut() {
        match cursor.byte()? {
            0 => {}
            1 => {
                *field(write) = Some(0);
                count += 1;
            }
            other => return Err(format!("has {other} where 0 or 1 belongs")),
        }
    }
    let (mut marked, mut wrong) = (writes.iter_mut().map(field).filter(|time| time.is_some()), None);
    let each = |time| {
        wrong = wrong.take().or_else(|| is_time(time).err());
        if let Some(field) = marked.next() {
            *field = Some(time);
        }
    };
    cursor.times(each, count)?;
    wrong.map_or(Ok(()), Err)
}

/// Longest name of a phase.
const MAX_PHASE: usize = 256;

fn readback(cursor: &mut Cursor<'_, '_>) -> Result<Readback, String> {
    let length = cursor.number()?;
    let length = usize::try_from(length).ok().filter(|length| *length <= MAX_PHASE);
    let length = length.ok_or("has a phase with a name that is too long")?;
    let phase: Vec<u8> = (0..length).map(|_| cursor.byte()).collect::<Result<_, _>>()?;
    let phase = String::from_utf8(phase).map_err(|_| "has a phase that is not text")?;
    let time = is_time(cursor.signed()?)?;
    let judged = cursor.number()?;
    let count = cursor.count(1)?;
    let mut found = Vec::new();
    cursor.times(|sequence| found.push(sequence as u64), count)?;
    Ok(Readback { phase, time, judged, found })
}
