//! The definitions again, as slowly and literally as they can be written.

use evidence::record::*;

const SLICE: Nanos = 1_000_000_000;

fn good(probe: &ProbeRecord, sample: &Sample) -> bool {
    sample.outcome == Outcome::Ok && sample.latency <= probe.timeout
}

fn harmed(probe: &ProbeRecord, objectives: &Objectives, sample: &Sample) -> bool {
    !good(probe, sample) || objectives.latency_p99.is_some_and(|limit| sample.latency > limit)
}

fn slice_holds(probe: &ProbeRecord, objectives: &Objectives, from: Nanos, to: Nanos) -> bool {
    let inside: Vec<_> = probe.samples.iter().filter(|s| s.due >= from && s.due < to).collect();
    if inside.is_empty() {
        return true;
    }
    let mut latencies: Vec<_> = inside.iter().filter(|s| good(probe, s)).map(|s| s.latency).collect();
    latencies.sort_unstable();
    let rate = latencies.len() as f64 / inside.len() as f64 * 100.0;
    let rank = (latencies.len() as f64 * 0.99).ceil() as usize;
    let p99 = if latencies.is_empty() { 0 } else { latencies[rank - 1] };
    rate + 1e-6 >= objectives.success_rate && objectives.latency_p99.is_none_or(|limit| p99 <= limit)
}

fn window_holds(probe: &ProbeRecord, objectives: &Objectives, from: Nanos, end: Nanos) -> bool {
    let to = from + objectives.sustain;
    if to > end {
        return false;
    }
    let inside: Vec<_> = probe.samples.iter().filter(|s| s.due >= from && s.due < to).collect();
    let slack = probe.interval * 3 / 2;
    let (Some(first), Some(last)) = (inside.first(), inside.last()) else { return false };
    if first.due - from > slack || to - last.due > slack || inside.windows(2).any(|p| p[1].due - p[0].due > slack) {
        return false;
    }
    // The last request at or before the start, and every beginning of the first slice.
    if probe.samples.iter().rfind(|s| s.due <= from).is_some_and(|s| !good(probe, s)) {
        return false;
    }
    let (mut seen, mut ok) = (0.0, 0.0);
    for sample in inside.iter().filter(|s| s.due < from + SLICE) {
        seen += 1.0;
        ok += f64::from(u8::from(good(probe, sample)));
        if ok / seen * 100.0 + 1e-6 < objectives.success_rate {
            return false;
        }
    }
    let slice = SLICE.min(objectives.sustain);
    slice_holds(probe, objectives, from, (from + slice).min(to))
        && inside.iter().filter(|s| s.due + slice <= to).all(|s| slice_holds(probe, objectives, s.due, s.due + slice))
}

/// First harmed request in or behind the first slice that misses an objective.
fn missed(probe: &ProbeRecord, objectives: &Objectives, start: Nanos) -> Option<Nanos> {
    let slice = SLICE.min(objectives.sustain);
    let mut after = probe.samples.iter().filter(|s| s.due >= start);
    let begin = after.find(|s| !slice_holds(probe, objectives, s.due, s.due + slice))?.due;
    probe.samples.iter().find(|s| s.due >= begin && harmed(probe, objectives, s)).map(|s| s.due)
}

/// t1 and t7.
pub fn recovery(attempt: &Attempt, start: Nanos, end: Nanos) -> Option<(Nanos, Option<Nanos>)> {
    let failed = attempt.probes.iter().flat_map(|p| p.samples.iter().filter(|s| !good(p, s)));
    let after = failed.filter(|s| s.due + s.latency.min(SLICE) >= start && s.due >= start - SLICE && s.due < end);
    let missed = attempt.probes.iter().filter_map(|p| missed(p, &attempt.objectives, start)).filter(|t| *t < end);
    let t1 = after.map(|s| s.due.max(start)).chain(missed).min()?;
    let mut times: Vec<_> =
        attempt.probes.iter().flat_map(|p| p.samples.iter().map(|s| s.due)).filter(|t| *t >= t1).collect();
    times.sort_unstable();
    let holds = |t: &Nanos| attempt.probes.iter().all(|p| window_holds(p, &attempt.objectives, *t, end));
    Some((t1, times.into_iter().find(holds)))
}
