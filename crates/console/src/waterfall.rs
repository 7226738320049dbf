//! The phases of a recovery as bars under each other, from the fault to the sustained recovery.

use std::fmt::Write as _;

use evidence::{
    record::Point,
    results::{Results, TimelineResult},
};

use crate::{chart::number, html::escape};

const WIDTH: f64 = 960.0;
const LEFT: f64 = 210.0;
const ROW: f64 = 30.0;

struct Bar {
    class: &'static str,
    name: &'static str,
    what: &'static str,
    from: f64,
    to: f64,
}

/// The picture, or `None` if no stretch of the recovery was seen.
pub(crate) fn waterfall(results: &Results) -> Option<String> {
    let bars = bars(&results.timeline);
    if bars.is_empty() {
        return None;
    }
    let allowed = results.objectives.iter().find(|o| o.name == "recoveryTime").map(|o| o.asked);
    let start = bars.iter().map(|b| b.from).fold(0.0, f64::min);
    let first_failure = offset(&results.timeline, Point::T1);
    let longest = bars.iter().map(|b| b.to).fold(0.0, f64::max);
    // The objective is drawn to scale only where it does not squash the bars.
    let shown = allowed.filter(|a| *a < longest * 8.0).map(|a| first_failure.unwrap_or(0.0) + a);
    let end = shown.unwrap_or(0.0).max(longest) * 1.12 + 1e-3;
    let x = |seconds: f64| LEFT + (seconds - start) / (end - start) * (WIDTH - LEFT - 70.0);
    let height = ROW * (bars.len() as f64 + 1.0);
    let mut svg = format!(
        r#"<div class="chart"><svg class="wf" viewBox="0 0 {WIDTH} {height}" role="img" aria-label="Phases of the recovery">"#
    );
    for (index, bar) in bars.iter().enumerate() {
        let y = index as f64 * ROW;
        let (from, to) = (x(bar.from), x(bar.to));
        let _ = write!(
            svg,
            r#"<text x="0" y="{:.1}">{}</text><rect class="{}" x="{from:.1}" y="{:.1}" width="{:.1}" height="16"><title>{}: +{} s to +{} s</title></rect><text x="{:.1}" y="{:.1}">{}</text>"#,
            y + 18.0,
            escape(bar.what),
            bar.class,
            y + 6.0,
            (to - from).max(1.5),
            escape(bar.name),
            seconds(bar.from),
            seconds(bar.to),
            to.max(from + 1.5) + 6.0,
            y + 18.0,
            length(bar.to - bar.from),
        );
    }
    if let (Some(shown), Some(allowed)) = (shown, allowed) {
        let from = x(first_failure.unwrap_or(0.0));
        let y = bars.len() as f64 * ROW;
        let _ = write!(
            svg,
            r#"<text x="0" y="{:.1}">objective</text><rect class="allowed" x="{from:.1}" y="{:.1}" width="{:.1}" height="16"/><text x="{:.1}" y="{:.1}">{}</text>"#,
            y + 18.0,
            y + 6.0,
            x(shown) - from,
            x(shown) + 6.0,
            y + 18.0,
            length(allowed),
        );
    }
    svg.push_str("</svg></div>");
    Some(svg)
}

fn offset(timeline: &[TimelineResult], point: Point) -> Option<f64> {
    timeline.iter().find(|p| p.point == point).map(|p| p.offset)
}

fn bars(timeline: &[TimelineResult]) -> Vec<Bar> {
    let at = |point| offset(timeline, point);
    let stretches = [
        ("detect", "detect", "detect (t0e → t2)", at(Point::T0e), at(Point::T2)),
        ("decide", "decide", "decide (t2 → t3)", at(Point::T2), at(Point::T3)),
        ("propagate", "propagate", "propagate (t4 → t5)", at(Point::T4), at(Point::T5)),
        ("warm", "warm up", "warm up (t5 → t7)", at(Point::T5), at(Point::T7)),
        ("total", "client-visible outage", "client's outage (t1 → t7)", at(Point::T1), at(Point::T7)),
    ];
    stretches
        .into_iter()
        .filter_map(|(class, name, what, from, to)| {
            let (from, to) = (from?, to?);
            (to >= from).then_some(Bar { class, name, what, from, to })
        })
        .collect()
}

/// An offset in seconds with milliseconds.
fn seconds(value: f64) -> String {
    format!("{value:.3}")
}

/// A length as people say it.
fn length(value: f64) -> String {
    if value < 1.0 {
        format!("{} ms", number((value * 1e3 * 10.0).round() / 10.0))
    } else {
        format!("{} s", number(value))
    }
}
