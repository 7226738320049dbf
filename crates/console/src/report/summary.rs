//! The first paragraph: what happened, in sentences for somebody who reads nothing else.

use evidence::{
    entry::rfc3339,
    record::{Attempt, Severity, Verdict},
    results::{Loss, ObjectiveResult, Recovery, Results},
};

use crate::{chart::number, html::escape};

/// What was lost, for how long, what clients noticed, whether the objectives were met, and what to do.
pub(super) fn summary(attempt: &Attempt, results: &Results) -> String {
    let mut sentences = vec![opening(attempt, results.verdict)];
    sentences.extend(results.measured.recovery.as_ref().map(|recovery| outage(recovery, results)));
    sentences.extend(results.measured.loss.as_ref().map(loss));
    sentences.extend(objectives(&results.objectives));
    sentences.push(next(results));
    let text = sentences.iter().map(|sentence| escape(sentence)).collect::<Vec<_>>().join(" ");
    format!(r#"<p class="summary">{text}</p>{}"#, when(attempt))
}

fn opening(attempt: &Attempt, verdict: Verdict) -> String {
    let what = match &attempt.lost_region {
        Some(region) => format!("region {region} was taken away"),
        None => "the faults of the scenario were made".to_owned(),
    };
    match verdict {
        Verdict::Refused => "The drill was refused before anything was broken.".to_owned(),
        Verdict::Passed => format!("The drill passed: {what}, and every objective was met."),
        Verdict::Failed => format!("The drill failed: {what}, and an objective was missed."),
        Verdict::Inconclusive => format!("The drill is inconclusive: {what}, and the measurements do not decide it."),
        Verdict::Aborted => "The drill was aborted before its end.".to_owned(),
        Verdict::Crashed => "The drill crashed before its end.".to_owned(),
    }
}

fn outage(recovery: &Recovery, results: &Results) -> String {
    let stretches = results.probes.iter().filter_map(|probe| probe.fault.as_ref());
    let (offered, failed) = stretches.fold((0, 0), |(offered, failed), s| (offered + s.offered, failed + s.failed));
    let requests = format!("{failed} of {offered} requests failed");
    match recovery {
        Recovery { client_visible: false, .. } => format!("Clients noticed no outage ({requests})."),
        Recovery { censored: true, seconds, .. } => {
            format!("Clients noticed an outage of more than {} s: no recovery was seen ({requests}).", number(*seconds))
        }
        Recovery { seconds, error, .. } => {
            format!("Clients noticed an outage of {} s ± {} s ({requests}).", number(*seconds), number(*error))
        }
    }
}

fn loss(loss: &Loss) -> String {
    let split = if loss.split_brain { " Two regions took writes at the same time." } else { "" };
    format!("{} of {} acknowledged writes were lost.{split}", loss.lost, loss.acknowledged)
}

fn objectives(objectives: &[ObjectiveResult]) -> Option<String> {
    if objectives.is_empty() {
        return None;
    }
    let named = |met: Option<bool>| {
        let of = objectives.iter().filter(move |objective| objective.met == met);
        of.map(|objective| objective.name.as_str()).collect::<Vec<_>>()
    };
    let (missed, unsure) = (named(Some(false)), named(None));
    Some(match (missed.is_empty(), unsure.is_empty()) {
        (true, true) => format!("All {} objectives were met.", objectives.len()),
        (true, false) => format!("Not decided: {}.", unsure.join(", ")),
        (false, true) => format!("Missed: {}.", missed.join(", ")),
        (false, false) => format!("Missed: {}; not decided: {}.", missed.join(", "), unsure.join(", ")),
    })
}

fn next(results: &Results) -> String {
    let high = results.findings.iter().filter(|finding| finding.severity == Severity::High).count();
    let findings = match high {
        0 => String::new(),
        1 => "fix the finding of high severity below".to_owned(),
        _ => format!("fix the {high} findings of high severity below"),
    };
    let again = match results.verdict {
        Verdict::Passed => "",
        Verdict::Refused => "remove the reasons below and run the drill again",
        Verdict::Inconclusive => "run the drill again, with more requests a second or a longer hold",
        Verdict::Failed | Verdict::Aborted | Verdict::Crashed => "run the drill again after that",
    };
    match (findings.as_str(), again) {
        ("", "") => "Nothing has to be done.".to_owned(),
        ("", "run the drill again after that") => "To do: remove the reasons below and run the drill again.".to_owned(),
        (findings, "") => format!("To do: {findings}."),
        ("", again) => format!("To do: {again}."),
        (findings, again) => format!("To do: {findings}; {again}."),
    }
}

/// Start, end and duration of the attempt.
fn when(attempt: &Attempt) -> String {
    let starts = attempt.phases.iter().map(|phase| phase.from).min();
    let ends = attempt.phases.iter().map(|phase| phase.to.unwrap_or(phase.from)).max();
    let (Some(start), Some(end)) = (starts, ends) else { return String::new() };
    let wall = |time: i64| instant(&rfc3339(attempt.anchor.wall.saturating_add(time)));
    let length = number(end.saturating_sub(start) as f64 / 1e9);
    format!(r#"<p class="soft">{} to {} UTC, {length} s</p>"#, escape(&wall(start)), escape(&wall(end)))
}

/// An RFC 3339 instant as people read it, to the millisecond: `2026-11-30 16:40:12.345`.
pub(super) fn instant(rfc3339: &str) -> String {
    let text = rfc3339.trim_end_matches('Z').replacen('T', " ", 1);
    text.char_indices().nth(23).map_or(text.clone(), |(end, _)| text[..end].to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn instants_have_a_date_and_no_nanoseconds() {
        assert_eq!(instant("2026-11-30T16:40:12.345678901Z"), "2026-11-30 16:40:12.345");
        assert_eq!(instant("2026-11-30T16:40:12Z"), "2026-11-30 16:40:12");
        assert_eq!(instant("unknown"), "unknown");
    }
}
