//! A drill's progress as lines: what is worth a line, and what it says. Pure; colours come in as a function.

use std::collections::BTreeMap;

use drill::progress::{Live, ProbeFigures, Progress};
use evidence::record::Point;

use super::figures::{bound, latency, number, offset, one_line, percent, requests, seconds, shares, short_digest};
use crate::{manifests::count, terminal::Tone};

/// Width of the first column.
const LABEL: usize = 15;
/// Width of what was measured, before the objective.
const MEASURED: usize = 56;

/// Colours a text, or not.
pub type Paint<'a> = dyn Fn(Tone, &str) -> String + 'a;

/// Lines for one thing that happened; none if it is not worth one.
pub fn lines(progress: &Progress, paint: &Paint<'_>) -> Vec<String> {
    match progress {
        Progress::Registered { drill, attempt, digest, entry, .. } => {
            let title = format!("Drill {drill}, attempt {attempt}");
            let rest = format!("plan {}  registered as entry {entry}", short_digest(digest));
            vec![format!("{}{}", pad(&title, 50, &paint(Tone::Strong, &title)), paint(Tone::Dim, &rest))]
        }
        Progress::Preflight { endpoints, lapse, .. } => vec![good(
            "preflight",
            &format!(
                "{} audited, undo path proved (lease lapsed in {})",
                count(*endpoints, "endpoint"),
                seconds(lapse.as_secs_f64())
            ),
            paint,
        )],
        Progress::Baseline { took, probes } => baseline(took.as_secs_f64(), probes, paint),
        Progress::Step { title, result, offset: at } => vec![step(title, result, at.as_secs_f64(), paint)],
        Progress::Undone { title, result, offset: at } => vec![undone(title, result, at.as_secs_f64(), paint)],
        Progress::Point { point, offset: at, observer, note } => {
            point_words(*point, observer, note).map(|words| beat(*at, &words)).into_iter().collect()
        }
        Progress::PlanStep { name, took, result, offset: at } => {
            let took = seconds(took.as_secs_f64());
            vec![match result {
                Ok(()) => beat(*at, &format!("step {name} done in {took}")),
                Err(reason) => {
                    let words = format!("step {name} failed after {took}: {}", one_line(reason));
                    beat(*at, &paint(Tone::Bad, &words))
                }
            }]
        }
        Progress::Phase { .. }
        | Progress::Tick(_)
        | Progress::Ramp { .. }
        | Progress::Finding(_)
        | Progress::Sealed { .. } => Vec::new(),
        other => outcome(other, paint),
    }
}

/// What came out of a phase, or how it was stopped.
fn outcome(progress: &Progress, paint: &Paint<'_>) -> Vec<String> {
    match progress {
        Progress::Recovered { seconds: took, error, objective, client_visible, offered, failed } => {
            let text = if *client_visible {
                format!("in {} ± {}", seconds(*took), seconds(*error))
            } else {
                format!("no client-visible outage (0 of {})", requests(*offered))
            };
            let met = objective.is_none_or(|objective| *took <= objective);
            let text = if *client_visible {
                format!("{text}, {} of {} failed", number(*failed), requests(*offered))
            } else {
                text
            };
            vec![measured("recovered", &text, objective.map(bound), met, paint)]
        }
        Progress::NotRecovered { longer_than } => {
            vec![bad("not recovered", &format!("it takes more than {}", seconds(*longer_than)), paint)]
        }
        Progress::Loss { phase, acknowledged, lost, indeterminate, seconds: age, objective } => {
            let label = if *phase == "failedBack" { "loss on return" } else { "loss" };
            let mut text = format!("{} of {} acknowledged writes lost", number(*lost), number(*acknowledged));
            if *lost > 0 {
                text.push_str(&format!(", {}", seconds(*age)));
            }
            if *indeterminate > 0 && *phase == "recovered" {
                text.push_str(&format!(" ({} never acknowledged)", number(*indeterminate)));
            }
            let met = *lost == 0 || objective.is_some_and(|objective| *age <= objective);
            vec![measured(label, &text, objective.map(bound), met, paint)]
        }
        Progress::FailedBack { ramp, offered, failed, problem } => {
            let ramp: Vec<_> = ramp.iter().map(|share| format!("{share:.0}")).collect();
            let text = format!("ramp {} %, {} failed of {}", ramp.join(" → "), number(*failed), number(*offered));
            match problem {
                None => vec![good("failback", &text, paint)],
                Some(problem) => vec![bad("failback", &format!("{problem} ({text})"), paint)],
            }
        }
        Progress::Residue { proxies, unchanged, differing, owed } => {
            if differing.is_empty() && owed.is_empty() {
                return vec![good("no residue", &as_before(*unchanged, *proxies), paint)];
            }
            let mut text = as_before(*unchanged, *proxies);
            for (what, which) in [("not", differing), ("not undone", owed)] {
                if !which.is_empty() {
                    text.push_str(&format!("; {what}: {}", which.join(", ")));
                }
            }
            vec![bad("residue", &text, paint)]
        }
        Progress::Aborting { reason } => vec![format!(
            "  {} {} {}",
            paint(Tone::Warn, "■"),
            pad("aborting", LABEL, &paint(Tone::Warn, "aborting")),
            one_line(reason)
        )],
        Progress::Cleared { after } => {
            vec![good(
                "all clear",
                &format!("no fault at any proxy {} after the stop", seconds(after.as_secs_f64())),
                paint,
            )]
        }
        Progress::Refused { reasons } => reasons.iter().map(|reason| bad("refused", reason, paint)).collect(),
        Progress::Crashed { reason } => vec![bad("crashed", reason, paint)],
        Progress::Waiting { reasons, left } => {
            let more = reasons.len().saturating_sub(1);
            let more = if more == 0 { String::new() } else { format!(" (and {more} more)") };
            let first = reasons.first().map_or("", String::as_str);
            let text =
                format!("up to {:.0} s for the plan's normal state: {}{more}", left.as_secs_f64(), one_line(first));
            vec![format!("  {} {} {text}", paint(Tone::Dim, "…"), pad("waiting", LABEL, &paint(Tone::Dim, "waiting")))]
        }
        Progress::Warning { text } => vec![format!("  {} {}", paint(Tone::Warn, "!"), one_line(text))],
        _ => Vec::new(),
    }
}

/// The line that changes in place while a phase lasts.
pub fn live(live: &Live, paint: &Paint<'_>) -> String {
    let elapsed = live.elapsed.as_secs_f64();
    let clock = match live.planned {
        Some(planned) => format!("{elapsed:.0} of {:.0} s", planned.as_secs_f64()),
        None => format!("{elapsed:.0} s"),
    };
    let probes: Vec<_> = live.probes.iter().map(|probe| live_probe(probe, paint)).collect();
    format!("{:<LABEL$} {clock:<11} {}", live.phase, probes.join("   "))
}

/// What a phase is called while it lasts, before it has numbers.
pub fn phase(name: &str, paint: &Paint<'_>) -> String {
    let words = match name {
        "preflight" => "auditing endpoints, proving the undo path",
        "baseline" => "measuring the steady state",
        "return" => "undoing the faults, waiting for the primary",
        "failback" => "moving traffic back",
        "verify" => "comparing every proxy with what it was before",
        _ => "",
    };
    format!("{name:<LABEL$} {}", paint(Tone::Dim, words))
}

fn live_probe(probe: &ProbeFigures, paint: &Paint<'_>) -> String {
    let ok = probe.ok.saturating_add(probe.failed);
    let rate = if ok == 0 { 0.0 } else { probe.ok as f64 * 100.0 / ok as f64 };
    let health = format!("{} ok", percent(rate));
    let health = if probe.failed > 0 { paint(Tone::Bad, &health) } else { health };
    let mut text = format!("{} {health}", probe.name);
    if let Some(p99) = probe.p99 {
        text.push_str(&format!(" p99 {}", latency(p99)));
    }
    let regions = shares(&probe.shares);
    if !regions.is_empty() {
        text.push_str(&paint(Tone::Dim, &format!(" {regions}")));
    }
    text
}

fn baseline(took: f64, probes: &[ProbeFigures], paint: &Paint<'_>) -> Vec<String> {
    let offered: u64 = probes.iter().map(|p| p.offered).sum();
    let ok: u64 = probes.iter().map(|p| p.ok).sum();
    let p99 = probes.iter().filter_map(|p| p.p99).max();
    let mut regions: BTreeMap<String, f64> = BTreeMap::new();
    for probe in probes {
        for (region, share) in &probe.shares {
            // Every probe counts by the requests that it made.
            let part = share * probe.ok as f64 / ok.max(1) as f64;
            *regions.entry(region.clone()).or_default() += part;
        }
    }
    let mut text = format!("{took:.1} s   {} / {} ok", number(ok), number(offered));
    if let Some(p99) = p99 {
        text.push_str(&format!("   p99 {}", latency(p99)));
    }
    let regions = shares(&regions);
    if !regions.is_empty() {
        text.push_str(&format!("   {regions}"));
    }
    vec![good("baseline", &text, paint)]
}

fn step(title: &str, result: &Result<String, String>, at: f64, paint: &Paint<'_>) -> String {
    let when = if at < 0.05 { "t0".to_owned() } else { format!("t0 {}", offset(at)) };
    match result {
        Ok(effect) => {
            let label = pad(title, LABEL, &paint(Tone::Bad, title));
            format!("  {} {label} {:<60} {}", paint(Tone::Bad, "●"), one_line(effect), paint(Tone::Dim, &when))
        }
        Err(reason) => bad(title, &one_line(reason), paint),
    }
}

fn undone(title: &str, result: &Result<(), String>, at: f64, paint: &Paint<'_>) -> String {
    match result {
        Ok(()) => {
            let when = paint(Tone::Dim, &format!("t0 {}", offset(at)));
            format!("  {} {:<LABEL$} {title:<60} {when}", paint(Tone::Good, "○"), "undone")
        }
        Err(reason) => bad("not undone", &format!("{title}: {}", one_line(reason)), paint),
    }
}

/// `11 of 11 proxies as before`, `1 of 1 proxy as before`.
pub fn as_before(unchanged: usize, proxies: usize) -> String {
    format!("{unchanged} of {} as before", crate::manifests::proxies(proxies))
}

/// What a point of the timeline says to a person; `None` for those that another line tells already.
fn point_words(point: Point, observer: &str, note: &str) -> Option<String> {
    let seen = observer.strip_prefix("proxy ").unwrap_or(observer);
    let noted = |words: &str| if note.is_empty() { words.to_owned() } else { note.to_owned() };
    match point {
        Point::T1 => Some(format!("{} ({observer})", noted("first failure a client saw"))),
        Point::T2 if note.is_empty() => Some(format!("detected at {seen}")),
        Point::T2 => Some(format!("detected at {seen} ({note})")),
        Point::T3 => Some("failover decided".to_owned()),
        Point::T4 => Some("shift commanded".to_owned()),
        Point::T5 => Some("shift in force at every proxy".to_owned()),
        Point::T6 => Some(noted("first answer from the recovery region")),
        Point::T0c | Point::T0e | Point::T7 | Point::T8 | Point::T9 | Point::T10 => None,
    }
}

fn beat(at: f64, words: &str) -> String {
    format!("      {:<10} {words}", offset(at))
}

fn good(label: &str, text: &str, paint: &Paint<'_>) -> String {
    format!("  {} {label:<LABEL$} {text}", paint(Tone::Good, "✓"))
}

fn bad(label: &str, text: &str, paint: &Paint<'_>) -> String {
    format!("  {} {} {text}", paint(Tone::Bad, "✗"), pad(label, LABEL, &paint(Tone::Bad, label)))
}

fn measured(label: &str, text: &str, objective: Option<String>, met: bool, paint: &Paint<'_>) -> String {
    let text = match objective {
        Some(objective) => format!("{text:<MEASURED$}   {}", paint(Tone::Dim, &format!("objective {objective}"))),
        None => text.to_owned(),
    };
    if met { good(label, &text, paint) } else { bad(label, &text, paint) }
}

/// Fills a painted text up to a width, by the width of what is seen.
fn pad(plain: &str, width: usize, painted: &str) -> String {
    format!("{painted}{}", " ".repeat(width.saturating_sub(plain.chars().count())))
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    fn shown(steps: &[Progress]) -> String {
        let plain = |_: Tone, text: &str| text.to_owned();
        steps.iter().flat_map(|step| lines(step, &plain)).map(|line| format!("{}\n", line.trim_end())).collect()
    }

    #[test]
    fn a_drill_reads_like_a_story() {
        let secs = Duration::from_secs_f64;
        let point = |point, offset, observer: &str, note: &str| Progress::Point {
            point,
            offset,
            observer: observer.to_owned(),
            note: note.to_owned(),
        };
        let steps = [
            Progress::Preflight { endpoints: 14, proxies: 11, lapse: secs(0.4) },
            Progress::Step {
                title: "east is lost".to_owned(),
                result: Ok("SIGKILL to 5 workloads, 5 proxies".to_owned()),
                offset: secs(0.002),
            },
            point(Point::T0e, 0.001, "supervisor", ""),
            point(Point::T2, 0.003, "proxy edge", "connection refused"),
            point(Point::T6, 0.004, "probe balance", "first answer from west after the fault"),
            Progress::Recovered {
                seconds: 0.91,
                error: 0.02,
                objective: Some(5.0),
                client_visible: true,
                offered: 4000,
                failed: 12,
            },
            Progress::Residue { proxies: 11, unchanged: 10, differing: vec!["edge".to_owned()], owed: vec![] },
        ];
        let story = "  \
  ✓ preflight       14 endpoints audited, undo path proved (lease lapsed in 0.40 s)
  ● east is lost    SIGKILL to 5 workloads, 5 proxies                            t0
      +0.003 s   detected at edge (connection refused)
      +0.004 s   first answer from west after the fault
  ✓ recovered       in 0.91 s ± 0.020 s, 12 of 4000 requests failed            objective 5 s
  ✗ residue         10 of 11 proxies as before; not: edge
";
        assert_eq!(shown(&steps), story);
    }

    #[test]
    fn a_missed_objective_is_marked() {
        let lost = |seconds| Progress::Loss {
            phase: "recovered",
            acknowledged: 412,
            lost: 3,
            indeterminate: 0,
            seconds,
            objective: Some(1.0),
        };
        assert!(shown(&[lost(0.12)]).starts_with("  ✓ loss"));
        assert!(shown(&[lost(1.2)]).starts_with("  ✗ loss"));
    }
}
