//! One self-contained HTML file for one attempt: reads well on a screen and on paper, loads nothing, runs nothing.

mod graphs;
mod summary;
mod timeline;

use evidence::{
    record::{Attempt, Severity, Verdict},
    results::{ObjectiveResult, Results},
};
use serde_json::Value;

use self::{
    graphs::{charts, origin},
    summary::summary,
    timeline::{key, timeline},
};
use crate::{
    chart::number,
    html::{escape, table},
    waterfall::waterfall,
};

const STYLE: &str = include_str!("../report.css");

/// Writes the report. `bundle` is the file name that its reader should verify.
pub fn report(attempt: &Attempt, results: &Results, bundle: &str) -> String {
    let title = format!("{}, attempt {}", attempt.drill, attempt.number);
    let mut page = format!(
        r#"<!doctype html><html lang="en"><head><meta charset="utf-8"><meta name="viewport" content="width=device-width, initial-scale=1"><title>{} — fire drill</title><style>{STYLE}</style></head><body><main>"#,
        escape(&title)
    );
    for part in [
        header(attempt, results),
        summary(attempt, results),
        reasons(results),
        cards(results),
        objectives(results),
        findings(results),
        recovery(results),
        charts(attempt, results),
        key(results),
        timeline(results),
        losses(results),
        probes(results),
        guards(results),
        residue(attempt, results),
        requests(attempt, results),
        journal(attempt),
        about(attempt),
        verify(bundle),
    ] {
        page.push_str(&part);
    }
    page.push_str("</main></body></html>\n");
    page
}

fn word(verdict: Verdict) -> &'static str {
    match verdict {
        Verdict::Passed => "passed",
        Verdict::Failed => "failed",
        Verdict::Aborted => "aborted",
        Verdict::Refused => "refused",
        Verdict::Crashed => "crashed",
        Verdict::Inconclusive => "inconclusive",
    }
}

fn header(attempt: &Attempt, results: &Results) -> String {
    let verdict = word(results.verdict);
    let purpose = attempt.about.get("purpose").and_then(Value::as_str).unwrap_or_default();
    format!(
        r#"<header><div><h1>{}, attempt {}</h1><p>{}</p><p class="soft">Recovery plan <b>{}</b><br><code>{}</code></p></div><div class="verdict {verdict}">{verdict}</div></header>"#,
        escape(&attempt.drill),
        attempt.number,
        escape(purpose),
        escape(&attempt.plan),
        escape(&attempt.digest),
    )
}

/// Why it is not passed.
fn reasons(results: &Results) -> String {
    if results.reasons.is_empty() {
        return String::new();
    }
    let items: String = results.reasons.iter().map(|reason| format!("<li>{}</li>", escape(reason))).collect();
    format!("<ul>{items}</ul>")
}

fn card(name: &str, value: &str, of: &str) -> String {
    format!(
        r#"<div class="card"><span class="name">{}</span><b>{}</b><span class="of">{}</span></div>"#,
        escape(name),
        escape(value),
        escape(of)
    )
}

fn cards(results: &Results) -> String {
    let measured = &results.measured;
    let asked = |name: &str| results.objectives.iter().find(|o| o.name == name).map(|o| o.asked);
    let objective =
        |name: &str| asked(name).map_or("no objective".to_owned(), |a| format!("objective {} s", number(a)));
    let mut out = String::from(r#"<div class="cards">"#);
    if let Some(recovery) = &measured.recovery {
        let value = if !recovery.client_visible {
            "no outage".to_owned()
        } else if recovery.censored {
            format!("> {} s", number(recovery.seconds))
        } else {
            format!("{} s ± {}", number(recovery.seconds), number(recovery.error))
        };
        out.push_str(&card("Recovery time (client's side)", &value, &objective("recoveryTime")));
    }
    if let Some(loss) = &measured.loss {
        let value = format!("{} of {}", loss.lost, loss.acknowledged);
        let of = format!("acknowledged writes lost, {} s; {}", number(loss.seconds), objective("dataLoss"));
        out.push_str(&card("Data loss", &value, &of));
        if let (Some(absent), Some(gone)) = (loss.absent_at_recovery, loss.lost_for_good) {
            let of = format!("absent at recovery; {gone} lost for good, {} resurrected", loss.resurrected);
            out.push_str(&card("Read back", &absent.to_string(), &of));
        }
    }
    if let Some(success) = &measured.success {
        let after = success.after_recovery.map_or("unknown".to_owned(), |rate| format!("{} %", precise(rate)));
        let of = format!("succeeded over the whole drill; {after} after recovery");
        out.push_str(&card("Requests", &format!("{} %", precise(success.whole_drill)), &of));
    }
    out.push_str(&card("Bad seconds", &number(measured.bad_seconds), "failed requests over the rate, worst probe"));
    if let Some(failback) = &measured.failback {
        let value = format!("{} of {}", failback.failed, failback.offered);
        let lost = measured.loss.as_ref().map(|_| format!("{} writes lost", failback.lost));
        out.push_str(&card("Failed in failback", &value, &lost.unwrap_or_default()));
    }
    if let Some(abort) = measured.time_to_abort {
        out.push_str(&card("Time to abort", &format!("{} s", number(abort)), "from the trip to no fault at any proxy"));
    }
    let residue = &results.residue;
    let of = if residue.unchanged == residue.proxies { "no residue" } else { "residue left" };
    out.push_str(&card("Proxies as before", &format!("{} of {}", residue.unchanged, residue.proxies), of));
    out.push_str("</div>");
    out
}

fn met(objective: &ObjectiveResult) -> &'static str {
    match objective.met {
        Some(true) => r#"<span class="yes">met</span>"#,
        Some(false) => r#"<span class="no">missed</span>"#,
        None => r#"<span class="unsure">inconclusive</span>"#,
    }
}

fn objectives(results: &Results) -> String {
    if results.objectives.is_empty() {
        return String::new();
    }
    let unit = |name: &str| if name.ends_with("successRate") { "%" } else { "s" };
    let rows: Vec<Vec<String>> = results
        .objectives
        .iter()
        .map(|o| {
            let unit = unit(&o.name);
            vec![
                escape(objective_name(&o.name)),
                format!("{} {unit}", number(o.asked)),
                o.measured.map_or("not measured".to_owned(), |m| format!("{} {unit}", precise(m))),
                if o.measured.is_none() {
                    "–".to_owned()
                } else if o.error > 0.0 {
                    format!("± {} {unit}", precise(o.error))
                } else {
                    "exact".to_owned()
                },
                met(o).to_owned(),
            ]
        })
        .collect();
    format!("<h2>Objectives</h2>{}", table(&["objective", "target", "measured", "error bound", ""], &rows))
}

/// What an objective is over, in words, where its name alone does not say it.
fn objective_name(name: &str) -> &str {
    match name {
        "successRate" => "successRate (after recovery)",
        "failback.recoveryTime" => "recoveryTime (failback)",
        "failback.dataLoss" => "dataLoss (failback)",
        "failback.successRate" => "successRate (failback)",
        "failback.latencyP99" => "latencyP99 (failback)",
        name => name,
    }
}

/// Enough digits for milliseconds.
fn precise(value: f64) -> String {
    if value != 0.0 && value.abs() < 1.0 { number_of(value, 4) } else { number_of(value, 3) }
}

fn number_of(value: f64, digits: usize) -> String {
    let text = format!("{value:.digits$}");
    text.trim_end_matches('0').trim_end_matches('.').to_owned()
}

fn recovery(results: &Results) -> String {
    let Some(picture) = waterfall(results) else { return String::new() };
    format!(
        r#"<h2>Recovery, phase by phase</h2>{picture}<p class="soft">Each phase was observed at the proxies and the control plane; the last bar is what clients saw. A phase whose points were not seen in this order is left out.</p>"#
    )
}

fn losses(results: &Results) -> String {
    let Some(loss) = &results.measured.loss else { return String::new() };
    let row = |name: &str, value: String| vec![name.to_owned(), value];
    let mut rows = vec![
        row("acknowledged and judged", loss.acknowledged.to_string()),
        row("lost: acknowledged and absent", format!("<b>{}</b>", loss.lost)),
        row("of these acknowledged after the fault", loss.lost_after_fault.to_string()),
        row("age of the oldest lost write at the fault", format!("{} s", precise(loss.seconds))),
        row("indeterminate: never acknowledged", loss.indeterminate.to_string()),
        row("duplicated", loss.duplicated.to_string()),
        row("reordered", loss.reordered.to_string()),
        row("resurrected: absent, then back", loss.resurrected.to_string()),
        row("acknowledged after the last read-back, not judged", loss.unjudged.to_string()),
        row("split brain", if loss.split_brain { "<span class=\"no\">seen</span>".into() } else { "not seen".into() }),
    ];
    if let Some(failback) = &results.measured.failback {
        rows.push(row("lost by the failback", failback.lost.to_string()));
    }
    format!("<h2>Writes</h2>{}", table(&["", ""], &rows))
}

fn findings(results: &Results) -> String {
    if results.findings.is_empty() {
        return "<h2>Findings</h2><p>None.</p>".to_owned();
    }
    let severity = |s: Severity| match s {
        Severity::High => "high",
        Severity::Medium => "medium",
        Severity::Low => "low",
    };
    let rows: Vec<Vec<String>> = results
        .findings
        .iter()
        .map(|f| {
            let class = severity(f.severity);
            vec![
                format!(r#"<span class="{class}">{class}</span>"#),
                format!("<b>{}</b><br><span class=\"soft\">{}</span>", escape(&f.title), escape(&f.detail)),
                escape(&f.fix),
            ]
        })
        .collect();
    format!("<h2>Findings</h2>{}", table(&["severity", "finding", "fix"], &rows))
}

fn probes(results: &Results) -> String {
    let milliseconds = |seconds: Option<f64>| seconds.map_or("–".to_owned(), |s| format!("{} ms", number(s * 1e3)));
    let rows: Vec<Vec<String>> = results
        .probes
        .iter()
        .map(|p| {
            let classes: Vec<String> = p.failures.iter().map(|(class, n)| format!("{n} {}", escape(class))).collect();
            vec![
                escape(&p.name),
                p.offered.to_string(),
                p.sent.to_string(),
                p.answered.to_string(),
                p.failed.to_string(),
                if classes.is_empty() { "–".to_owned() } else { classes.join(", ") },
                milliseconds(p.baseline.as_ref().and_then(|s| s.p99)),
                milliseconds(p.fault.as_ref().and_then(|s| s.p99)),
            ]
        })
        .collect();
    format!(
        "<h2>Probes</h2>{}",
        table(&["probe", "offered", "sent", "answered", "failed", "failures", "p99 baseline", "p99 fault"], &rows)
    )
}

fn guards(results: &Results) -> String {
    if results.guards.is_empty() {
        return String::new();
    }
    let rows: Vec<Vec<String>> = results
        .guards
        .iter()
        .map(|g| {
            vec![
                escape(&g.guard),
                g.tripped
                    .map_or("not tripped".to_owned(), |t| format!("<span class=\"no\">tripped at {t:+.3} s</span>")),
                g.seen.as_deref().map(escape).unwrap_or_default(),
                g.time_to_abort.map_or(String::new(), |t| format!("clear after {} s", precise(t))),
            ]
        })
        .collect();
    format!("<h2>Guards</h2>{}", table(&["guard", "", "saw", ""], &rows))
}

fn residue(attempt: &Attempt, results: &Results) -> String {
    let short = |digest: Option<&String>| {
        digest.map_or("<span class=\"no\">no answer</span>".to_owned(), |d| {
            format!("<code>{}</code>", escape(&d.chars().take(23).collect::<String>()))
        })
    };
    let rows: Vec<Vec<String>> = attempt
        .residue
        .before
        .iter()
        .map(|(proxy, before)| {
            let after = attempt.residue.after.get(proxy);
            let same = after == Some(before);
            vec![
                escape(proxy),
                short(Some(before)),
                short(after),
                if same {
                    "<span class=\"yes\">as before</span>".into()
                } else {
                    "<span class=\"no\">changed</span>".into()
                },
            ]
        })
        .collect();
    if rows.is_empty() {
        return String::new();
    }
    format!(
        "<h2>Residue</h2><p>{} of {} proxies have the configuration that they had before the fault.</p><details><summary>Digests</summary>{}</details>",
        results.residue.unchanged,
        results.residue.proxies,
        table(&["proxy", "before", "after", ""], &rows)
    )
}

/// Bad requests that are shown; all of them are in the bundle.
const SHOWN: usize = 50;

fn requests(attempt: &Attempt, results: &Results) -> String {
    let (Some(log), Some(counts)) = (&attempt.requests, &results.requests) else { return String::new() };
    let code = |request: &Value| request["response_code"].as_u64().unwrap_or_default();
    let bad = || log.entries.iter().filter(|entry| !(200..400).contains(&code(&entry.request)));
    let rows: Vec<Vec<String>> = bad()
        .take(SHOWN)
        .map(|entry| {
            let words = |name: &str| match &entry.request[name] {
                Value::Null => String::new(),
                Value::String(text) => escape(text),
                other => escape(&other.to_string()),
            };
            let asked = format!("{} {}", words("method"), words("path"));
            let tries = words("upstream_request_attempt_count");
            let (code, flags) = (words("response_code"), words("response_flags"));
            vec![escape(&entry.gateway), words("start_time"), asked, code, flags, words("upstream_host"), tries]
        })
        .collect();
    let mut text = format!(
        "<h2>Requests at gateways</h2><p>The bundle has {} of the access log; {} of them had no good answer.",
        counts.entries,
        bad().count()
    );
    if counts.beyond + counts.lost + counts.gaps > 0 {
        text.push_str(&format!(
            " <span class=\"no\">Not in it: {} beyond the bound of {}, {} that a gateway could not tell, and what there was in {} gaps.</span>",
            counts.beyond, log.most, counts.lost, counts.gaps
        ));
    }
    text.push_str("</p>");
    if !rows.is_empty() {
        let head = ["gateway", "begun", "request", "status", "flags", "endpoint", "sent"];
        let shown = rows.len();
        text.push_str(&format!("<details><summary>The first {shown}</summary>{}</details>", table(&head, &rows)));
    }
    text
}

fn journal(attempt: &Attempt) -> String {
    let origin = origin(attempt);
    let rows: Vec<Vec<String>> = attempt
        .journal
        .iter()
        .map(|entry| {
            vec![format!("{:+.3} s", (entry.time - origin) as f64 / 1e9), escape(&entry.kind), escape(&entry.text)]
        })
        .collect();
    if rows.is_empty() {
        return String::new();
    }
    format!(
        "<h2>What was done</h2><details><summary>Journal, {} entries</summary>{}</details>",
        rows.len(),
        table(&["offset", "", ""], &rows)
    )
}

fn about(attempt: &Attempt) -> String {
    let programs: Vec<Vec<String>> =
        attempt.programs.iter().map(|(name, version)| vec![escape(name), escape(version)]).collect();
    let registered = serde_json::to_string_pretty(&attempt.registered).unwrap_or_default();
    let about = serde_json::to_string_pretty(&attempt.about).unwrap_or_default();
    format!(
        "<h2>As registered</h2><details><summary>Plan and drill</summary><pre>{}</pre></details><details><summary>Purpose, people, scope</summary><pre>{}</pre></details>{}",
        escape(&registered),
        escape(&about),
        table(&["program", "version"], &programs)
    )
}

fn verify(bundle: &str) -> String {
    format!(
        r#"<h2>How to verify</h2><p>This page is a view. The record is the sealed bundle; checking it needs no network, no installation and no trust in this page:</p><pre>firedrill evidence verify {0} --key key.pub
firedrill evidence show {0} --format json</pre><h3>What this does not show</h3><ul><li>That the system recovers from a fault that this drill did not make.</li><li>That clients elsewhere saw the same: the probes ran where the engine ran.</li><li>That the signing key was in the right hands: <code>key.pub</code> is the public key of the ledger, as you got it from its owner.</li><li>Compliance. It is evidence toward a control, never the control.</li></ul>"#,
        escape(bundle)
    )
}
