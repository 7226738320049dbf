//! What clients saw, second by second: outcomes, latencies, regions, with the phases of the attempt behind them.

use std::{collections::BTreeMap, fmt::Write as _};

use evidence::{
    record::{Attempt, Nanos, Point, ProbeRecord},
    results::Results,
};

use super::timeline::{label, meaning};
use crate::{
    chart::{Chart, Frame, Line, Mark, Scale, Shade, number},
    html::escape,
    series::{Second, by_second},
};

/// Where zero of the charts lies: the fault, else the first sample.
pub(super) fn origin(attempt: &Attempt) -> Nanos {
    let point = |p: Point| attempt.timeline.iter().find(|t| t.point == p).map(|t| t.time);
    point(Point::T0c)
        .or_else(|| point(Point::T0e))
        .or_else(|| attempt.probes.iter().filter_map(|p| p.samples.first()).map(|s| s.due).min())
        .unwrap_or(0)
}

fn frame(attempt: &Attempt, results: &Results) -> Option<Frame> {
    let origin = origin(attempt);
    let seconds = |nanos: Nanos| (nanos - origin) as f64 / 1e9;
    let dues = || attempt.probes.iter().flat_map(|p| p.samples.iter().map(|s| s.due));
    let (from, to) = (seconds(dues().min()?).floor(), seconds(dues().max()?).ceil());
    if to <= from {
        return None;
    }
    let shades = attempt
        .phases
        .iter()
        .map(|p| Shade {
            from: seconds(p.from).clamp(from, to),
            to: p.to.map_or(to, seconds).clamp(from, to),
            name: p.name.clone(),
        })
        .collect();
    let marks = results
        .timeline
        .iter()
        .map(|p| Mark {
            at: p.offset,
            label: label(p.point).to_owned(),
            title: format!("{} at +{:.3} s: {}", label(p.point), p.offset, meaning(p.point)),
        })
        .collect();
    Some(Frame { from, to, shades, marks })
}

pub(super) fn charts(attempt: &Attempt, results: &Results) -> String {
    let Some(frame) = frame(attempt, results) else { return String::new() };
    let origin = origin(attempt);
    let mut out = String::from("<h2>What clients saw</h2>");
    let colours = colours(attempt);
    for probe in &attempt.probes {
        let seconds = by_second(probe, origin);
        let rate = 1e9 / probe.interval.max(1) as f64;
        let _ = write!(
            out,
            "<h3>{} <span class=\"soft\">({} requests a second)</span></h3>",
            escape(&probe.name),
            number(rate)
        );
        out.push_str(&outcomes(&frame, &seconds, rate));
        out.push_str(&latency(&frame, &seconds));
        out.push_str(&regions(&frame, probe, &seconds, &colours));
    }
    out
}

fn points(seconds: &BTreeMap<i64, Second>, value: impl Fn(&Second) -> Option<f64>) -> Vec<(f64, Option<f64>)> {
    seconds.iter().map(|(at, second)| (*at as f64, value(second))).collect()
}

fn outcomes(frame: &Frame, seconds: &BTreeMap<i64, Second>, rate: f64) -> String {
    let band = |class: &str, name: &str, value: &dyn Fn(&Second) -> f64| Line {
        name: name.to_owned(),
        class: class.to_owned(),
        points: points(seconds, |s| Some(value(s))),
    };
    let bands = [band("ok", "answered", &|s| f64::from(s.ok)), band("failed", "failed", &|s| f64::from(s.failed))];
    let worst = seconds.values().filter_map(Second::success).fold(100.0, f64::min);
    format!(
        r#"<p class="legend"><span class="key ok"></span>answered<span class="key failed"></span>failed, requests by the second in which they were due; worst second {} %</p>{}"#,
        number(worst),
        Chart::new(frame, 90.0, Scale::Linear(rate.ceil()), "/s", "Requests answered and failed over time")
            .stack(&bands)
            .finish()
    )
}

fn latency(frame: &Frame, seconds: &BTreeMap<i64, Second>) -> String {
    let line = |class: &str, share: f64| Line {
        name: class.to_owned(),
        class: class.to_owned(),
        points: points(seconds, |s| s.quantile(share)).into_iter().map(|(at, v)| (at + 0.5, v)).collect(),
    };
    let lines = [line("p50", 0.5), line("p99", 0.99)];
    let values = || lines.iter().flat_map(|l| l.points.iter().filter_map(|p| p.1));
    let low = 10_f64.powf(values().fold(1.0, f64::min).max(0.01).log10().floor());
    let high = 10_f64.powf(values().fold(10.0, f64::max).log10().ceil());
    let [p50, p99] = &lines;
    format!(
        r#"<p class="legend"><span class="key p50"></span>median<span class="key p99"></span>99th percentile of good answers, from the time a request was due</p>{}"#,
        Chart::new(frame, 110.0, Scale::Log(low, high), "ms", "Latency over time").line(p50).line(p99).finish()
    )
}

/// Regions in the order of their colours, one order for all charts and attempts of a plan: the one that is lost, those that
/// stand by, then others by name.
fn colours(attempt: &Attempt) -> Vec<&String> {
    let mut others: Vec<&String> = attempt.probes.iter().flat_map(|probe| &probe.regions).collect();
    others.sort();
    let mut order: Vec<&String> = Vec::new();
    for region in attempt.lost_region.iter().chain(&attempt.recovery_regions).chain(others) {
        if !order.contains(&region) {
            order.push(region);
        }
    }
    order
}

fn regions(frame: &Frame, probe: &ProbeRecord, seconds: &BTreeMap<i64, Second>, colours: &[&String]) -> String {
    let answered = |region: &String| seconds.values().any(|second| second.regions.contains_key(region));
    let known: Vec<(usize, &String)> = colours
        .iter()
        .enumerate()
        .map(|(colour, region)| (colour % 4, *region))
        .filter(|(_, region)| probe.regions.contains(region) && answered(region))
        .collect();
    if known.is_empty() {
        return String::new();
    }
    let share = |second: &Second, region: &str| {
        let total: u32 = second.regions.values().sum();
        (total > 0).then(|| 100.0 * f64::from(second.regions.get(region).copied().unwrap_or(0)) / f64::from(total))
    };
    let bands: Vec<Line> = known
        .iter()
        .map(|(colour, region)| Line {
            name: format!("{region} %"),
            class: format!("r{colour}"),
            points: points(seconds, |s| share(s, region)),
        })
        .collect();
    let keys: String = known
        .iter()
        .map(|(colour, region)| format!(r#"<span class="key r{colour}"></span>{}"#, escape(region)))
        .collect();
    format!(
        r#"<p class="legend">{keys}, share of good answers by region</p>{}"#,
        Chart::new(frame, 60.0, Scale::Linear(100.0), "%", "Traffic share by region").stack(&bands).finish()
    )
}
