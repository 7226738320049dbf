//! SVG charts over time, written by hand: one x axis in seconds, shaded stretches, marked points.

use std::fmt::Write as _;

use crate::html::escape;

const WIDTH: f64 = 960.0;
const LEFT: f64 = 64.0;
const RIGHT: f64 = 16.0;
const TOP: f64 = 22.0;
const BOTTOM: f64 = 26.0;

/// A stretch of time with its own background.
pub(crate) struct Shade {
    /// Seconds.
    pub(crate) from: f64,
    /// Seconds.
    pub(crate) to: f64,
    /// CSS class, and the word written above it.
    pub(crate) name: String,
}

/// A moment marked by a vertical line.
pub(crate) struct Mark {
    /// Seconds.
    pub(crate) at: f64,
    /// Shown beside the line.
    pub(crate) label: String,
    /// Shown when pointed at.
    pub(crate) title: String,
}

/// What all charts of a report share.
pub(crate) struct Frame {
    /// Seconds at the left edge.
    pub(crate) from: f64,
    /// Seconds at the right edge; above `from`.
    pub(crate) to: f64,
    /// Backgrounds.
    pub(crate) shades: Vec<Shade>,
    /// Moments.
    pub(crate) marks: Vec<Mark>,
}

/// How the y axis is divided.
#[derive(Clone, Copy)]
pub(crate) enum Scale {
    /// 0 to the value, in steps of a quarter.
    Linear(f64),
    /// Powers of ten from the first value to the second; both above 0.
    Log(f64, f64),
}

/// One band of a stacked chart, or one line: `(second, value)` in order of time.
pub(crate) struct Line {
    /// For the legend.
    pub(crate) name: String,
    /// CSS class of the stroke or fill.
    pub(crate) class: String,
    /// `None` breaks the line.
    pub(crate) points: Vec<(f64, Option<f64>)>,
}

/// A chart in the making.
pub(crate) struct Chart<'a> {
    frame: &'a Frame,
    height: f64,
    scale: Scale,
    svg: String,
}

impl<'a> Chart<'a> {
    /// Background, axes, shades and marks.
    pub(crate) fn new(frame: &'a Frame, height: f64, scale: Scale, unit: &str, label: &str) -> Self {
        let mut chart = Self { frame, height, scale, svg: String::new() };
        let total = height + TOP + BOTTOM;
        let _ = write!(
            chart.svg,
            r#"<div class="chart"><svg viewBox="0 0 {WIDTH} {total}" role="img" aria-label="{}">"#,
            escape(label)
        );
        chart.shades();
        chart.y_axis(unit);
        chart.x_axis();
        chart
    }

    fn x(&self, seconds: f64) -> f64 {
        let share = (seconds - self.frame.from) / (self.frame.to - self.frame.from);
        LEFT + share.clamp(0.0, 1.0) * (WIDTH - LEFT - RIGHT)
    }

    fn y(&self, value: f64) -> f64 {
        let share = match self.scale {
            Scale::Linear(top) => value / top,
            Scale::Log(low, high) => (value.max(low) / low).log10() / (high / low).log10(),
        };
        TOP + self.height * (1.0 - share.clamp(0.0, 1.0))
    }

    fn shades(&mut self) {
        let mut svg = String::new();
        for shade in &self.frame.shades {
            let (from, to) = (self.x(shade.from), self.x(shade.to));
            let name = escape(&shade.name);
            let _ = write!(
                svg,
                r#"<rect class="shade {name}" x="{from:.1}" y="{TOP}" width="{:.1}" height="{}"/>"#,
                (to - from).max(0.0),
                self.height
            );
            if to - from > 44.0 {
                let _ = write!(svg, r#"<text class="phase" x="{:.1}" y="{}">{name}</text>"#, from + 4.0, TOP - 6.0);
            }
        }
        self.svg.push_str(&svg);
    }

    fn y_axis(&mut self, unit: &str) {
        let ticks: Vec<f64> = match self.scale {
            Scale::Linear(top) => (0..=4).map(|n| top * f64::from(n) / 4.0).collect(),
            Scale::Log(low, high) => {
                let decades = (high / low).log10().round() as i32;
                (0..=decades).map(|n| low * 10_f64.powi(n)).collect()
            }
        };
        for tick in ticks {
            let y = self.y(tick);
            let _ = write!(
                self.svg,
                r#"<line class="grid" x1="{LEFT}" x2="{}" y1="{y:.1}" y2="{y:.1}"/><text class="tick" x="{}" y="{:.1}" text-anchor="end">{} {unit}</text>"#,
                WIDTH - RIGHT,
                LEFT - 6.0,
                y + 3.5,
                number(tick),
            );
        }
    }

    fn x_axis(&mut self) {
        let step = tick_step(self.frame.to - self.frame.from);
        let mut at = (self.frame.from / step).ceil() * step;
        let bottom = TOP + self.height;
        while at <= self.frame.to {
            let x = self.x(at);
            let _ = write!(
                self.svg,
                r#"<text class="tick" x="{x:.1}" y="{}" text-anchor="middle">{} s</text>"#,
                bottom + 16.0,
                number(at)
            );
            at += step;
        }
        let _ =
            write!(self.svg, r#"<line class="axis" x1="{LEFT}" x2="{}" y1="{bottom}" y2="{bottom}"/>"#, WIDTH - RIGHT);
    }

    /// A line through the points.
    pub(crate) fn line(mut self, line: &Line) -> Self {
        let mut path = String::new();
        let mut down = false;
        for (at, value) in &line.points {
            match value {
                Some(value) => {
                    let _ = write!(path, "{}{:.1},{:.1}", if down { "L" } else { "M" }, self.x(*at), self.y(*value));
                    down = true;
                }
                None => down = false,
            }
        }
        let _ = write!(
            self.svg,
            r#"<path class="line {}" d="{path}"><title>{}</title></path>"#,
            escape(&line.class),
            escape(&line.name)
        );
        self
    }

    /// One bar a second, bands stacked from the bottom; all bands have the same times.
    pub(crate) fn stack(mut self, bands: &[Line]) -> Self {
        let Some(first) = bands.first() else { return self };
        for (index, (at, _)) in first.points.iter().enumerate() {
            let mut base = 0.0;
            for band in bands {
                let value = band.points.get(index).and_then(|p| p.1).unwrap_or(0.0);
                if value <= 0.0 {
                    continue;
                }
                let (x, next) = (self.x(*at), self.x(*at + 1.0));
                let (low, high) = (self.y(base), self.y(base + value));
                let _ = write!(
                    self.svg,
                    r#"<rect class="band {}" x="{x:.1}" y="{high:.1}" width="{:.1}" height="{:.1}"><title>{} s: {} {}</title></rect>"#,
                    escape(&band.class),
                    (next - x - 0.6).max(0.4),
                    (low - high).max(0.0),
                    number(*at),
                    escape(&band.name),
                    number(value),
                );
                base += value;
            }
        }
        self
    }

    /// Marks on top, and the end of the picture. Marks too near for a label each share one.
    pub(crate) fn finish(mut self) -> String {
        let bottom = TOP + self.height;
        let mut rest = self.frame.marks.as_slice();
        let mut row = 0;
        let mut last = f64::NEG_INFINITY;
        while let Some(first) = rest.first() {
            let x = self.x(first.at);
            let near = rest.iter().take_while(|m| self.x(m.at) - x < 12.0).count();
            let (group, others) = rest.split_at(near);
            rest = others;
            row = if x - last < 64.0 { row + 1 } else { 0 };
            last = x;
            let titles: Vec<String> = group.iter().map(|m| escape(&m.title)).collect();
            let _ = write!(self.svg, r#"<g class="mark"><title>{}</title>"#, titles.join("\n"));
            for mark in group {
                let x = self.x(mark.at);
                let _ = write!(self.svg, r#"<line x1="{x:.1}" x2="{x:.1}" y1="{TOP}" y2="{bottom}"/>"#);
            }
            // At the right edge the label would leave the picture.
            let (at, anchor) = if x > WIDTH - 90.0 { (x - 3.0, "end") } else { (x + 3.0, "start") };
            let _ = write!(
                self.svg,
                r#"<text x="{at:.1}" y="{:.1}" text-anchor="{anchor}">{}</text></g>"#,
                TOP + 10.0 + f64::from(row % 6) * 11.0,
                escape(&shared_label(group)),
            );
        }
        self.svg.push_str("</svg></div>");
        self.svg
    }
}

/// `t3`, `t3 t4`, or `t0c … t6`.
fn shared_label(group: &[Mark]) -> String {
    match group {
        [] => String::new(),
        [one] => one.label.clone(),
        [one, two] => format!("{} {}", one.label, two.label),
        [first, .., last] => format!("{} … {}", first.label, last.label),
    }
}

/// Distance of labels on an axis of this length: 1, 2 or 5 times a power of ten, about ten labels.
fn tick_step(length: f64) -> f64 {
    let rough = (length / 10.0).max(1e-3);
    let power = 10_f64.powf(rough.log10().floor());
    let times = [1.0, 2.0, 5.0, 10.0].into_iter().find(|t| t * power >= rough).unwrap_or(10.0);
    times * power
}

/// Short, without a trailing `.0`.
pub(crate) fn number(value: f64) -> String {
    let text = if value.abs() >= 100.0 { format!("{value:.0}") } else { format!("{value:.2}") };
    let text = if text.contains('.') { text.trim_end_matches('0').trim_end_matches('.') } else { &text };
    if text == "-0" { "0".to_owned() } else { text.to_owned() }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_are_short() {
        for (value, text) in
            [(0.0, "0"), (-0.001, "0"), (1.5, "1.5"), (2.0, "2"), (99.95, "99.95"), (1234.5, "1234"), (100.0, "100")]
        {
            assert_eq!(number(value), text);
        }
    }

    #[test]
    fn an_axis_has_about_ten_labels() {
        for (length, step) in [(10.0, 1.0), (12.0, 2.0), (45.0, 5.0), (60.0, 10.0), (300.0, 50.0)] {
            assert!((tick_step(length) - step).abs() < 1e-9, "{length}");
        }
    }

    #[test]
    fn names_are_escaped() {
        let frame = Frame { from: 0.0, to: 10.0, shades: vec![], marks: vec![] };
        let line = Line { name: "<script>".into(), class: "ok".into(), points: vec![(0.0, Some(1.0)), (1.0, None)] };
        let svg = Chart::new(&frame, 100.0, Scale::Linear(1.0), "%", "a \"chart\"").line(&line).stack(&[line]).finish();
        assert!(!svg.contains("<script>"));
        assert!(svg.contains("a &quot;chart&quot;"));
    }
}
