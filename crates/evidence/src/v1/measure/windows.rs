//! The search for the first sustained window, in time that grows with the samples and not with their square: the same
//! windows as judging each candidate by itself (`Series::sustains`), which tests compare it with. Pure.

use crate::v1::{
    measure::{
        recovery::Frame,
        series::{SLICE, Series},
    },
    record::Nanos,
};

/// Earliest of `times` (ascending) from which every series sustains a window of the frame's length. A window must end
/// inside the frame and be complete if `is_whole`; if not, it is cut at the end of the frame.
pub fn first(series: &[Series<'_>], frame: &Frame, mut times: Vec<Nanos>, is_whole: bool) -> Option<Nanos> {
    let end = |time: Nanos| time.saturating_add(frame.sustain).min(frame.end);
    if is_whole {
        times.retain(|time| time.saturating_add(frame.sustain) <= frame.end);
    }
    // What is cheap first, for all series, so that little is left for the rest.
    for series in series {
        times.retain(|time| series.up_at(*time) && (!is_whole || series.is_complete(*time, end(*time))));
    }
    for series in series {
        let shortfalls = series.shortfalls();
        times.retain(|time| begins_and_ends_well(series, &shortfalls, *time, end(*time)));
        drop(shortfalls);
        times = without_bad_slices(series, times, end);
    }
    times.first().copied()
}

/// Whether the first slice, all of its beginnings, and a last slice that is shorter than the others reach the objectives.
fn begins_and_ends_well(series: &Series<'_>, shortfalls: &[u32], from: Nanos, to: Nanos) -> bool {
    let first_end = from.saturating_add(SLICE).min(to);
    let (first, last) = (series.before(from), series.before(first_end));
    let shortfall = shortfalls.get(first).map_or(usize::MAX, |at| *at as usize);
    let whole = to.saturating_sub(from) / SLICE;
    let rest = from.saturating_add(whole.saturating_mul(SLICE));
    shortfall > last && is_reached(series, from, first_end) && is_reached(series, rest, to)
}

/// Whether a slice reaches the objectives; one without samples does.
fn is_reached(series: &Series<'_>, from: Nanos, to: Nanos) -> bool {
    let (first, last) = (series.before(from), series.before(to));
    first >= last || series.reaches(first, last)
}

/// The times from which no whole slice behind the first one misses the objectives.
///
/// Whether the slice that begins at `x` misses them changes only where a sample enters or leaves it, so the bad `x` form
/// intervals, shorter than a slice. A window from `t` holds a bad slice if a bad `x` is a whole number of slices behind `t`.
/// Going back in time, the remainder of each bad interval is painted over what was painted before; so every remainder shows
/// the nearest bad `x` behind the present time.
fn without_bad_slices(series: &Series<'_>, times: Vec<Nanos>, end: impl Fn(Nanos) -> Nanos) -> Vec<Nanos> {
    let slices = |time: Nanos| end(time).saturating_sub(time) / SLICE;
    if times.iter().all(|time| slices(*time) < 2) {
        return times;
    }
    let mut canvas = Canvas::new(&times);
    let mut keep = vec![true; times.len()];
    let mut judge = |canvas: &Canvas, at: usize| {
        let time = times[at];
        let last = time.saturating_add(slices(time).saturating_sub(1).saturating_mul(SLICE));
        keep[at] = canvas.nearest(at, time).is_none_or(|bad| bad > last);
    };
    let enters = |at: usize| series.samples[at].due.saturating_sub(SLICE - 1);
    let leaves = |at: usize| series.samples[at].due.saturating_add(1);
    // Samples that have entered, or left, before the interval above; times that are still to be judged.
    let (mut entered, mut left, mut open) = (series.samples.len(), series.samples.len(), times.len());
    let mut to = Nanos::MAX;
    while entered > 0 || left > 0 {
        let enter = entered.checked_sub(1).map_or(Nanos::MIN, enters);
        let from = left.checked_sub(1).map_or(enter, |at| leaves(at).max(enter));
        while let Some(at) = open.checked_sub(1).filter(|at| times[*at] >= from) {
            judge(&canvas, at);
            open = at;
        }
        if left < entered && !series.reaches(left, entered) {
            canvas.paint(from, to);
        }
        to = from;
        while entered.checked_sub(1).is_some_and(|at| enters(at) == from) {
            entered -= 1;
        }
        while left.checked_sub(1).is_some_and(|at| leaves(at) == from) {
            left -= 1;
        }
    }
    (0..open).for_each(|at| judge(&canvas, at));
    let mut keep = keep.into_iter();
    let mut times = times;
    times.retain(|_| keep.next().unwrap_or(true));
    times
}

/// Remainders of the times by the length of a slice, each with the interval that was painted over it last.
struct Canvas {
    /// Sorted.
    remainders: Vec<u32>,
    /// Place of each time among the remainders.
    places: Vec<u32>,
    /// A segment tree over the places: number of the last interval painted over all places below a node; 0 is none.
    tree: Vec<u32>,
    /// Where each interval begins.
    begins: Vec<Nanos>,
}

impl Canvas {
    fn new(times: &[Nanos]) -> Self {
        let remainder = |time: Nanos| time.rem_euclid(SLICE) as u32;
        let mut order: Vec<u32> = (0..times.len() as u32).collect();
        order.sort_unstable_by_key(|at| remainder(times[*at as usize]));
        let mut places = vec![0; times.len()];
        for (place, at) in order.iter().enumerate() {
            places[*at as usize] = place as u32;
        }
        let remainders = order.iter().map(|at| remainder(times[*at as usize])).collect();
        Self { remainders, places, tree: vec![0; times.len() * 2], begins: Vec::new() }
    }

    /// Paints the interval `from..to`, which is no longer than a slice.
    fn paint(&mut self, from: Nanos, to: Nanos) {
        let begin = from.rem_euclid(SLICE);
        let end = begin.saturating_add(to.saturating_sub(from).min(SLICE));
        self.begins.push(from);
        self.assign(begin, end.min(SLICE));
        self.assign(0, end - SLICE);
    }

    fn assign(&mut self, begin: Nanos, end: Nanos) {
        let number = self.begins.len() as u32;
        let place = |remainder: Nanos| self.remainders.partition_point(|other| Nanos::from(*other) < remainder);
        let (mut low, mut high) = (place(begin) + self.places.len(), place(end) + self.places.len());
        while low < high {
            if low & 1 == 1 {
                self.tree[low] = number;
                low += 1;
            }
            if high & 1 == 1 {
                high -= 1;
                self.tree[high] = number;
            }
            low >>= 1;
            high >>= 1;
        }
    }

    /// Nearest painted time that is a whole number of slices behind `time`, which is number `at`.
    fn nearest(&self, at: usize, time: Nanos) -> Option<Nanos> {
        let mut node = self.places[at] as usize + self.places.len();
        let mut number = 0;
        while node > 0 {
            number = number.max(self.tree[node]);
            node >>= 1;
        }
        let begin = *self.begins.get((number as usize).checked_sub(1)?)?;
        Some(begin.saturating_add(time.saturating_sub(begin).rem_euclid(SLICE)))
    }
}
