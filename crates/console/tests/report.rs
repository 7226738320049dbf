//! The report of a synthetic attempt: everything is there, nothing is loaded, nothing of the record is taken as markup.

use console::report;
use evidence::{
    measure::measure,
    record::{
        Anchor, Attempt, Ending, Finding, JournalEntry, Nanos, Objectives, Outcome, Phase, Point, ProbeRecord,
        Registration, RequestEntry, RequestLog, Residue, Sample, Severity, Tested, TimelinePoint,
    },
};
use serde_json::json;

const SECOND: Nanos = 1_000_000_000;

fn samples() -> Vec<Sample> {
    (0..40 * 50)
        .map(|n| {
            let due = n * SECOND / 50;
            let outage = (10 * SECOND..10 * SECOND + 900_000_000).contains(&due);
            Sample {
                due,
                latency: 2_000_000 + (n % 17) * 150_000,
                outcome: if outage { Outcome::Status(503) } else { Outcome::Ok },
                region: (!outage).then_some(u16::from((10 * SECOND..30 * SECOND).contains(&due))),
                tries: 1,
            }
        })
        .collect()
}

fn point(point: Point, milliseconds: i64, observer: &str) -> TimelinePoint {
    TimelinePoint {
        point,
        time: 10 * SECOND + milliseconds * 1_000_000,
        error: 1_000_000,
        observer: observer.into(),
        note: String::new(),
    }
}

fn request(path: &str, code: u16) -> RequestEntry {
    RequestEntry { gateway: "edge".into(), request: json!({"path": path, "response_code": code}) }
}

fn attempt() -> Attempt {
    let phase =
        |name: &str, from: i64, to: i64| Phase { name: name.into(), from: from * SECOND, to: Some(to * SECOND) };
    let registration = Registration {
        drill: "lose-east".into(),
        plan: "bank-west".into(),
        registered: json!({"plan": {"name": "bank-west"}}),
        about: json!({"purpose": "East is lost as a whole while customers pay <script>alert(1)</script>."}),
        lost_region: Some("east".into()),
        recovery_regions: vec!["west".into()],
        anchor: Anchor { wall: 1_795_000_000_000_000_000, error: 50_000 },
        objectives: Objectives {
            recovery_time: Some(5 * SECOND),
            data_loss: Some(SECOND),
            success_rate: 99.9,
            latency_p99: Some(250_000_000),
            sustain: 3 * SECOND,
            ..Objectives::default()
        },
        tested: Tested::default(),
        normal: vec![],
    };
    Attempt {
        phases: vec![
            phase("baseline", 0, 10),
            phase("fault", 10, 28),
            phase("failback", 28, 36),
            phase("verify", 36, 40),
        ],
        timeline: vec![
            point(Point::T0c, 0, "engine"),
            point(Point::T0e, 3, "supervisor"),
            point(Point::T2, 40, "proxy edge"),
            point(Point::T3, 310, "control"),
            point(Point::T4, 312, "control"),
            point(Point::T5, 330, "proxy accounts-west-0"),
            point(Point::T8, 18_000, "engine"),
            point(Point::T9, 25_000, "engine"),
            point(Point::T10, 29_000, "engine"),
        ],
        probes: vec![ProbeRecord {
            name: "balance".into(),
            interval: SECOND / 50,
            timeout: SECOND,
            regions: vec!["east".into(), "west".into()],
            samples: samples(),
            ..ProbeRecord::default()
        }],
        guards: vec![],
        findings: vec![Finding {
            severity: Severity::High,
            title: "accounts in west calls fx in east".into(),
            detail: "12 tries while east was lost".into(),
            fix: "prefer the same region".into(),
        }],
        residue: Residue {
            before: [("edge".to_owned(), "sha256:aa".to_owned())].into(),
            after: [("edge".to_owned(), "sha256:aa".to_owned())].into(),
        },
        journal: vec![JournalEntry {
            time: 10 * SECOND,
            kind: "intent".into(),
            text: "lose east".into(),
            detail: json!({}),
        }],
        requests: Some(RequestLog {
            most: 2,
            beyond: 7,
            entries: vec![request("/accounts/<script>alert(2)</script>", 503), request("/accounts/42", 200)],
            ..RequestLog::default()
        }),
        programs: [("firedrill".to_owned(), "0.1.0".to_owned())].into(),
        digest: "sha256:4c1f".into(),
        registered: registration.registered.clone(),
        about: registration.about.clone(),
        ..registration.outline(3, Ending::Completed)
    }
}

#[test]
fn a_report_has_every_part_and_loads_nothing() {
    let attempt = attempt();
    let results = measure(&attempt);
    let page = report(&attempt, &results, "lose-east-3.drill");
    if let Some(path) = std::env::var_os("FIREDRILL_REPORT_OUT") {
        std::fs::write(path, &page).unwrap();
    }
    for part in [
        "lose-east, attempt 3",
        "Clients noticed an outage of 0.9 s",
        "To do: fix the finding of high severity below",
        "2026-11-18 11:06:40 to 2026-11-18 11:07:20 UTC, 40 s",
        "<b>t0c</b> fault commanded",
        "Recovery, phase by phase",
        "Phases of the recovery",
        "Requests answered and failed over time",
        "Latency over time",
        "Traffic share by region",
        "accounts in west calls fx in east",
        "firedrill evidence verify lose-east-3.drill --key key.pub",
        "does not show",
        "as before",
        "lose east",
        "The bundle has 2 of the access log; 1 of them had no good answer.",
        "7 beyond the bound of 2",
    ] {
        assert!(page.contains(part), "`{part}` is missing");
    }
    // Nothing wrote, so nothing is said of writes.
    assert!(!page.contains("writes lost"));
    assert!(page.find("<h2>Findings").unwrap() < page.find("<h2>What clients saw").unwrap());
    for outside in ["<script", "<link", "<img", "https://", "http://", "url("] {
        assert!(!page.contains(outside), "`{outside}`");
    }
    assert_eq!(page.matches("<svg").count(), page.matches("</svg>").count());
}

#[test]
fn an_attempt_that_was_refused_has_a_report_too() {
    let mut attempt = attempt();
    attempt.ending = Ending::Refused { reasons: vec!["ledger-west-0 does not answer".into()] };
    attempt.timeline.clear();
    attempt.phases.truncate(1);
    attempt.probes.clear();
    attempt.residue = Residue::default();
    let results = measure(&attempt);
    let page = report(&attempt, &results, "lose-east-3.drill");
    assert!(page.contains("refused") && page.contains("ledger-west-0 does not answer"));
    assert!(!page.contains("<svg"));
}
