//! The points of an attempt in time: what each means, who saw it, and how exactly.

use evidence::{record::Point, results::Results};

use super::summary::instant;
use crate::{
    chart::number,
    html::{escape, table},
};

pub(super) fn label(point: Point) -> &'static str {
    match point {
        Point::T0c => "t0c",
        Point::T0e => "t0e",
        Point::T1 => "t1",
        Point::T2 => "t2",
        Point::T3 => "t3",
        Point::T4 => "t4",
        Point::T5 => "t5",
        Point::T6 => "t6",
        Point::T7 => "t7",
        Point::T8 => "t8",
        Point::T9 => "t9",
        Point::T10 => "t10",
    }
}

pub(super) fn meaning(point: Point) -> &'static str {
    match point {
        Point::T0c => "fault commanded",
        Point::T0e => "fault effective",
        Point::T1 => "first failure a client saw",
        Point::T2 => "detected",
        Point::T3 => "decided",
        Point::T4 => "shift commanded",
        Point::T5 => "last proxy has the shift",
        Point::T6 => "first success from the recovery region",
        Point::T7 => "start of the first window in which every objective holds",
        Point::T8 => "failback commanded",
        Point::T9 => "failback sustained",
        Point::T10 => "all clear",
    }
}

pub(super) fn timeline(results: &Results) -> String {
    if results.timeline.is_empty() {
        return String::new();
    }
    let rows: Vec<Vec<String>> = results
        .timeline
        .iter()
        .map(|p| {
            vec![
                format!("<b>{}</b>", label(p.point)),
                meaning(p.point).to_owned(),
                format!("<span class=\"nowrap\">{:+.3} s</span>", p.offset),
                format!("<span class=\"nowrap\">± {}</span>", error_bound(p.error)),
                escape(&p.observer),
                escape(&p.note),
                format!("<span class=\"soft nowrap\">{}</span>", escape(&instant(&p.time))),
            ]
        })
        .collect();
    format!("<h2>Timeline</h2>{}", table(&["", "point", "offset", "error", "seen by", "note", "time (UTC)"], &rows))
}

/// What the marks in the charts mean: those that this attempt has.
pub(super) fn key(results: &Results) -> String {
    if results.timeline.is_empty() {
        return String::new();
    }
    let terms: String = results
        .timeline
        .iter()
        .map(|p| format!("<span><b>{}</b> {}</span> ", label(p.point), meaning(p.point)))
        .collect();
    format!(r#"<p class="legend milestones">Milestones in the charts: {terms}</p>"#)
}

/// An error bound in its own unit.
fn error_bound(seconds: f64) -> String {
    if seconds < 0.001 { "under 1 ms".to_owned() } else { format!("{} ms", number(seconds * 1e3)) }
}
