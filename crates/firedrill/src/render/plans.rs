//! Recovery plans for people: where they stand, what they wait for, what goes on.

use control::api::{RecoveryReport, RecoveryState, ServiceSight};

use super::table::{Cell, table};
use crate::terminal::{Terminal, Tone};

fn state(report: &RecoveryReport) -> (Tone, &'static str) {
    match report.state {
        RecoveryState::Normal => (Tone::Good, "normal"),
        RecoveryState::FailingOver => (Tone::Warn, "failing over"),
        RecoveryState::FailedOver => (Tone::Bad, "failed over"),
        RecoveryState::FailingBack => (Tone::Warn, "failing back"),
    }
}

fn primary(report: &RecoveryReport) -> Cell {
    match report.primary_healthy {
        Some(true) => Cell::from("healthy"),
        Some(false) => Cell::toned(Tone::Bad, "unhealthy"),
        None if report.sights.iter().any(|sight| !sight.lost.is_empty()) => Cell::toned(Tone::Warn, "disputed"),
        None => Cell::from("not seen"),
    }
}

/// Every plan in a table; under it, what cannot be undone.
pub fn list(reports: &[RecoveryReport], terminal: &Terminal) -> String {
    let row = |report: &RecoveryReport| {
        let (tone, text) = state(report);
        vec![
            report.plan.clone().into(),
            Cell::toned(tone, text),
            primary(report),
            if report.armed { "armed" } else { "not armed" }.into(),
            report.lease.clone().unwrap_or_default().into(),
            report.reason.clone().unwrap_or_default().into(),
            report.waits_for.clone().unwrap_or_default().into(),
            report.command.clone().unwrap_or_default().into(),
            report.failure.clone().unwrap_or_default().into(),
        ]
    };
    let titles = ["PLAN", "STATE", "PRIMARY", "TRIGGER", "LEASE", "WHY", "WAITS FOR", "TO GO ON", "LAST FAILURE"];
    let rows: Vec<Vec<Cell>> = reports.iter().map(row).collect();
    let mut text = table(&titles, &rows, terminal);
    for report in reports {
        if let Some(stands) = &report.stands {
            text.push_str(&format!("\n{}: {stands}\n", report.plan));
        }
    }
    text
}

/// One line of a plan that moves.
pub fn line(report: &RecoveryReport) -> String {
    let (_, text) = state(report);
    let share = report.share.map(|share| format!(", primary at {share} %")).unwrap_or_default();
    let rest = match (&report.failure, &report.waits_for) {
        (Some(failure), _) => format!(": {failure}"),
        (None, Some(waits_for)) => format!("; waits for {waits_for}"),
        (None, None) => String::new(),
    };
    let command = report.command.as_ref().map(|command| format!(" (`{command}`)")).unwrap_or_default();
    format!("{}: {text}{share}{rest}{command}", report.plan)
}

/// All of one plan.
pub fn one(report: &RecoveryReport, since: &str, terminal: &Terminal) -> String {
    let (_, text) = state(report);
    let mut lines = vec![format!("plan       {}", report.plan), format!("state      {text} since {since}")];
    let mut say = |what: &str, value: Option<String>| {
        if let Some(value) = value {
            lines.push(format!("{what:<10} {value}"));
        }
    };
    say("why", report.reason.clone());
    say("trigger", Some(if report.armed { "armed" } else { "not armed" }.to_owned()));
    say("lease", report.lease.clone());
    say("share", report.share.map(|share| format!("{share} % at the primary")));
    say("failure", report.failure.clone());
    say("waits for", report.waits_for.clone());
    say("to go on", report.command.clone());
    say("stands", report.stands.clone());
    if let Some(fence) = &report.fence {
        let (held, open): (Vec<_>, Vec<_>) = fence.callers.iter().partition(|caller| caller.acknowledged);
        let open: Vec<&str> = open.iter().map(|caller| caller.proxy.as_str()).collect();
        let rest = if open.is_empty() { String::new() } else { format!("; not yet at {}", open.join(", ")) };
        say("fenced", Some(format!("{} at {} of {} callers{rest}", fence.region, held.len(), fence.callers.len())));
    }
    let mut text = lines.join("\n") + "\n";
    if !report.sights.is_empty() {
        let row = |sight: &ServiceSight| {
            vec![
                sight.service.clone().into(),
                sight.quorum.to_string().into(),
                sight.lost.join(", ").into(),
                sight.healthy.join(", ").into(),
                sight.silent.join(", ").into(),
            ]
        };
        let rows: Vec<Vec<Cell>> = report.sights.iter().map(row).collect();
        text.push('\n');
        text.push_str(&table(&["SERVICE", "QUORUM", "SEE IT LOST", "SEE IT", "SAY NOTHING"], &rows, terminal));
    }
    if !report.steps.is_empty() {
        let rows: Vec<Vec<Cell>> = report
            .steps
            .iter()
            .map(|step| {
                let how = match step.ok {
                    None => Cell::toned(Tone::Warn, "running"),
                    Some(true) => Cell::toned(Tone::Good, "done"),
                    Some(false) => Cell::toned(Tone::Bad, "failed"),
                };
                let took = step.finished.map(|end| format!("{:.1} s", (end.0 - step.started.0) as f64 / 1e9));
                vec![step.name.clone().into(), how, took.unwrap_or_default().into()]
            })
            .collect();
        text.push('\n');
        text.push_str(&table(&["STEP", "STATE", "TOOK"], &rows, terminal));
    }
    text
}
