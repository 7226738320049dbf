//! The summary of a sealed attempt: what it measured, what that is worth, and where the proof is.

use std::{path::Path, time::Duration};

use evidence::{
    record::{Attempt, Point, Severity, Verdict},
    results::{ObjectiveResult, OutageResult, Results},
};

use super::{
    figures::{bound, latency, number, offset, one_line, percent, requests, seconds, shares, short_digest},
    progress::as_before,
};
use crate::{
    manifests::count,
    terminal::{Terminal, Tone},
};

/// Lines that close a run: verdict with its reasons, findings, where evidence and report are.
pub fn closing(
    results: &Results,
    bundle: &Path,
    key: &Path,
    report: Option<&Path>,
    terminal: &Terminal,
) -> Vec<String> {
    let mut lines = match results.verdict {
        // Its reasons were just shown, as they were found.
        Verdict::Refused => vec![format!("  {}", terminal.paint(Tone::Warn, "REFUSED"))],
        _ => verdict(results, terminal),
    };
    let name = bundle.display();
    lines.push(format!("  evidence  {name}"));
    lines.push(format!("  verify    firedrill evidence verify {name} --key {}", key.display()));
    if let Some(report) = report {
        lines.push(format!("  report    {}", report.display()));
    }
    lines
}

/// The verdict, its reasons, and the findings.
pub fn verdict(results: &Results, terminal: &Terminal) -> Vec<String> {
    let (word, tone) = word(results.verdict);
    let mut first = format!("  {}", terminal.paint(tone, word));
    if !results.findings.is_empty() {
        first.push_str(&format!("   {}", findings_in_short(results)));
    }
    let mut lines = vec![first];
    lines.extend(results.reasons.iter().map(|reason| format!("    {}", one_line(reason))));
    let mut findings: Vec<_> = results.findings.iter().collect();
    findings.sort_by_key(|finding| std::cmp::Reverse(finding.severity));
    for finding in findings {
        let (label, tone) = severity(finding.severity);
        lines.push(format!("    {} {}", terminal.paint(tone, format!("{label:<6}")), finding.title));
    }
    lines
}

/// Everything that was measured, for somebody who was not there.
pub fn summary(attempt: &Attempt, results: &Results, terminal: &Terminal) -> Vec<String> {
    let title = format!("Drill {}, attempt {}", results.drill, results.attempt);
    let began = evidence::entry::rfc3339(attempt.anchor.wall);
    let began = began.get(..19).map_or(began.clone(), |cut| format!("{cut}Z"));
    let mut lines = vec![format!(
        "{}   {}",
        terminal.paint(Tone::Strong, title),
        terminal.paint(Tone::Dim, format!("{began}   plan {} {}", attempt.plan, short_digest(&attempt.digest)))
    )];
    measured(results, terminal, &mut lines);
    objectives(results, terminal, &mut lines);
    timeline(results, terminal, &mut lines);
    probes(results, terminal, &mut lines);
    lines.extend(verdict(results, terminal));
    lines
}

fn word(verdict: Verdict) -> (&'static str, Tone) {
    match verdict {
        Verdict::Passed => ("PASSED", Tone::Good),
        Verdict::Failed => ("FAILED", Tone::Bad),
        Verdict::Aborted => ("ABORTED", Tone::Warn),
        Verdict::Refused => ("REFUSED", Tone::Warn),
        Verdict::Crashed => ("CRASHED", Tone::Bad),
        Verdict::Inconclusive => ("INCONCLUSIVE", Tone::Warn),
    }
}

fn severity(severity: Severity) -> (&'static str, Tone) {
    match severity {
        Severity::High => ("high", Tone::Bad),
        Severity::Medium => ("medium", Tone::Warn),
        Severity::Low => ("low", Tone::Dim),
    }
}

fn findings_in_short(results: &Results) -> String {
    let of = |severity: Severity| results.findings.iter().filter(|f| f.severity == severity).count();
    let parts: Vec<_> = [(of(Severity::High), "high"), (of(Severity::Medium), "medium"), (of(Severity::Low), "low")]
        .iter()
        .filter(|(number, _)| *number > 0)
        .map(|(number, word)| format!("{number} {word}"))
        .collect();
    format!("{} ({})", count(results.findings.len(), "finding"), parts.join(", "))
}

fn mark(terminal: &Terminal, met: Option<bool>) -> String {
    match met {
        Some(true) => terminal.paint(Tone::Good, "✓"),
        Some(false) => terminal.paint(Tone::Bad, "✗"),
        None => terminal.paint(Tone::Warn, "?"),
    }
}

fn measured(results: &Results, terminal: &Terminal, lines: &mut Vec<String>) {
    let mut say = |label: &str, good: bool, text: String| {
        lines.push(format!("  {} {label:<15} {text}", mark(terminal, Some(good))));
    };
    if let Some(recovery) = &results.measured.recovery {
        match (recovery.client_visible, recovery.censored) {
            (_, true) => say("not recovered", false, format!("more than {}", seconds(recovery.seconds))),
            (true, false) => {
                say("recovered", true, format!("in {} ± {}", seconds(recovery.seconds), seconds(recovery.error)));
            }
            (false, false) => {
                let offered: u64 = results.probes.iter().filter_map(|p| p.fault.as_ref()).map(|s| s.offered).sum();
                say("recovered", true, format!("no client-visible outage (0 of {})", requests(offered)));
            }
        }
    }
    if let Some(loss) = &results.measured.loss {
        let mut text = format!("{} of {} acknowledged writes lost", number(loss.lost), number(loss.acknowledged));
        if loss.lost > 0 {
            text.push_str(&format!(", the oldest {} before the fault", seconds(loss.seconds)));
        }
        if let (Some(absent), Some(gone)) = (loss.absent_at_recovery, loss.lost_for_good)
            && loss.lost > 0
        {
            text.push_str(&format!(" ({} absent at recovery, {} lost for good)", number(absent), number(gone)));
        }
        if loss.lost_after_fault > 0 && loss.absent_at_recovery.is_some() {
            text.push_str(&format!(", {} acknowledged after the fault", number(loss.lost_after_fault)));
        }
        for (count, what) in
            [(loss.duplicated, "duplicated"), (loss.reordered, "reordered"), (loss.resurrected, "resurrected")]
        {
            if count > 0 && loss.absent_at_recovery.is_some() {
                text.push_str(&format!(", {} {what}", number(count)));
            }
        }
        if loss.indeterminate > 0 {
            text.push_str(&format!(", {} never acknowledged", number(loss.indeterminate)));
        }
        if loss.split_brain {
            text.push_str(", split brain");
        }
        let judged = results.objectives.iter().find(|objective| objective.name == "dataLoss");
        let allowed = loss.lost == 0 || judged.is_some_and(|objective| objective.met == Some(true));
        say("loss", allowed && !loss.split_brain, text);
    }
    if let Some(success) = &results.measured.success {
        let mut text = format!("{} of requests over the whole drill", percent(success.whole_drill));
        if let Some(rate) = success.after_recovery {
            text.push_str(&format!(", {} after recovery", percent(rate)));
        }
        say("succeeded", true, text);
    }
    for outage in results.measured.outages.iter().filter(|outage| !is_first(results, outage)) {
        let more = if outage.censored { "more than " } else { "" };
        let text = format!(
            "for {more}{} ± {} {}, from {} on",
            seconds(outage.seconds),
            seconds(outage.error),
            outage.stage.words(),
            offset(outage.offset)
        );
        say("harmed again", false, text);
    }
    for undo in &results.undos {
        let error = undo.error.as_deref().unwrap_or("not tried yet");
        say("not undone", false, format!("{} since {}: {error}", undo.name, undo.since));
    }
    for change in &results.changes {
        let text = format!("revision {} to {}, at {}", change.from.revision, change.to.revision, offset(change.offset));
        say("configuration", true, text);
    }
    if let Some(truncated) = results.truncated {
        say("samples", false, format!("whole up to {}, where the engine died", offset(truncated)));
    }
    if let Some(back) = &results.measured.failback {
        let mut text = format!("{} failed of {}", number(back.failed), number(back.offered));
        if let Some(took) = back.seconds {
            text.push_str(&format!(", in {}", seconds(took)));
        }
        say("failback", back.failed == 0 && back.lost == 0, text);
    }
    if let Some(time) = results.measured.time_to_abort {
        say("all clear", true, format!("no fault at any proxy {} after the stop", seconds(time)));
    }
    let residue = &results.residue;
    if residue.proxies > 0 {
        let owed = results.undos.len();
        let clean = residue.unchanged == residue.proxies && owed == 0;
        let label = if clean { "no residue" } else { "residue" };
        let number = |count: u64| usize::try_from(count).unwrap_or(usize::MAX);
        let mut text = as_before(number(residue.unchanged), number(residue.proxies));
        match owed {
            0 => {}
            1 => text.push_str("; an undo is outstanding"),
            more => text.push_str(&format!("; {more} undos are outstanding")),
        }
        say(label, clean, text);
    }
    if let Some(kept) = &results.requests {
        let mut text = format!("{} kept", requests(kept.entries));
        for (count, what) in [(kept.beyond, "beyond the bound"), (kept.lost, "lost"), (kept.gaps, "gaps")] {
            if count > 0 {
                text.push_str(&format!(", {} {what}", number(count)));
            }
        }
        say("access log", kept.beyond + kept.lost + kept.gaps == 0, text);
    }
}

/// Whether this is the outage that the recovery time is measured of.
fn is_first(results: &Results, outage: &OutageResult) -> bool {
    let first = results.measured.recovery.as_ref().filter(|recovery| recovery.client_visible);
    first.is_some() && results.measured.outages.first() == Some(outage)
}

fn objectives(results: &Results, terminal: &Terminal, lines: &mut Vec<String>) {
    if results.objectives.iter().all(|objective| objective.measured.is_none()) {
        return;
    }
    lines.push(format!("  {}", terminal.paint(Tone::Strong, "Objectives")));
    for objective in &results.objectives {
        let (asked, seen) = objective_words(objective);
        let mark = mark(terminal, objective.met);
        lines.push(format!("  {mark} {:<15} {seen:<28} asked {asked}", objective.name));
    }
}

fn objective_words(objective: &ObjectiveResult) -> (String, String) {
    let unseen = || "not measured".to_owned();
    if objective.name.ends_with("successRate") {
        return (percent(objective.asked), objective.measured.map_or_else(unseen, percent));
    }
    let with_error = |value: f64| match objective.error > 0.0 {
        _ if objective.name.ends_with("latencyP99") => latency(Duration::from_secs_f64(value.clamp(0.0, 1e9))),
        true => format!("{} ± {}", seconds(value), seconds(objective.error)),
        false => seconds(value),
    };
    (bound(objective.asked), objective.measured.map_or_else(unseen, with_error))
}

fn timeline(results: &Results, terminal: &Terminal, lines: &mut Vec<String>) {
    if results.timeline.is_empty() {
        return;
    }
    lines.push(format!("  {}", terminal.paint(Tone::Strong, "Timeline")));
    for point in &results.timeline {
        let meaning = point_meaning(point.point);
        let text = match point.point {
            _ if point.note.is_empty() => meaning.to_owned(),
            // Their notes are whole sentences.
            Point::T1 | Point::T3 | Point::T4 | Point::T6 | Point::T8 => point.note.clone(),
            _ => format!("{meaning}: {}", point.note),
        };
        lines.push(format!(
            "    {:<4} {:<10} {text}   {}",
            point.point.to_string(),
            offset(point.offset),
            terminal.paint(Tone::Dim, format!("({})", point.observer))
        ));
    }
}

fn probes(results: &Results, terminal: &Terminal, lines: &mut Vec<String>) {
    if results.probes.is_empty() {
        return;
    }
    lines.push(format!("  {}", terminal.paint(Tone::Strong, "Probes")));
    for probe in &results.probes {
        let mut text = format!(
            "    {:<15} {} offered, {} sent, {} answered, {} failed",
            probe.name,
            number(probe.offered),
            number(probe.sent),
            number(probe.answered),
            number(probe.failed)
        );
        if !probe.failures.is_empty() {
            let classes: Vec<_> = probe.failures.iter().map(|(class, times)| format!("{class} {times}")).collect();
            text.push_str(&format!(" ({})", classes.join(", ")));
        }
        lines.push(text);
        for (label, stretch) in [("baseline", &probe.baseline), ("under fault", &probe.fault)] {
            let Some(stretch) = stretch else { continue };
            let p99 = stretch.p99.map(|p99| format!("   p99 {:.1} ms", p99 * 1e3)).unwrap_or_default();
            lines.push(format!(
                "      {label:<13} {} ok{p99}   {}",
                percent(stretch.success_rate),
                shares(&stretch.regions)
            ));
        }
    }
}

fn point_meaning(point: Point) -> &'static str {
    match point {
        Point::T0c => "fault commanded",
        Point::T0e => "fault effective",
        Point::T1 => "first failure a client saw",
        Point::T2 => "detected",
        Point::T3 => "failover decided",
        Point::T4 => "shift commanded",
        Point::T5 => "shift in force at every proxy",
        Point::T6 => "first answer from the recovery region",
        Point::T7 => "objectives hold again",
        Point::T8 => "failback commanded",
        Point::T9 => "failback sustained",
        Point::T10 => "all clear",
    }
}
