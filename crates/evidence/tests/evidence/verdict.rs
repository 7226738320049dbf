//! Loss, objectives and verdicts, as tables.

use evidence::{measure::measure, record::*, results::Results};

use crate::fixture::*;

/// An attempt that was down from 10 s for `down`, with a `writes` probe that loses `lost`.
fn drilled(down: Nanos, lost: std::ops::Range<u64>) -> Attempt {
    let fate = |due: Nanos| {
        if (10 * S..10 * S + down).contains(&due) { (Outcome::Connect, MS) } else { healthy(due) }
    };
    attempt(vec![probe("balance", 0, 5 * MS, 40 * S, fate), writes_probe(40 * S, lost)], 30 * S)
}

fn check(name: &str, attempt: &Attempt, verdict: Verdict, reason: &str) -> Results {
    let results = measure(attempt);
    assert_eq!(results.verdict, verdict, "{name}: {:?}", results.reasons);
    if reason.is_empty() {
        assert!(results.reasons.is_empty(), "{name}: {:?}", results.reasons);
    } else {
        assert!(results.reasons.iter().any(|given| given.contains(reason)), "{name}: {:?}", results.reasons);
    }
    results
}

#[test]
fn objectives_decide() {
    check("in time", &drilled(2 * S, 0..0), Verdict::Passed, "");
    check(
        "too late",
        &drilled(6200 * MS, 0..0),
        Verdict::Failed,
        "recovery took 6.2 s ± 0.023 s, 1.2 s more than the objective of 5 s",
    );
    check("too close", &drilled(5010 * MS, 0..0), Verdict::Inconclusive, "too close to the objective of 5 s");
    let mut unread = drilled(2 * S, 0..0);
    unread.probes[1].writes.as_mut().unwrap().readbacks.clear();
    check("never read back", &unread, Verdict::Inconclusive, "no writes were read back");
}

#[test]
fn a_missed_success_rate_says_by_how_much() {
    // Every fifth request of the last second of the hold fails: after a sustain window that held.
    let fate = |due: Nanos| match due {
        _ if (10 * S..11 * S).contains(&due) => (Outcome::Status(503), MS),
        _ if (28 * S..30 * S).contains(&due) && due % (25 * MS) == 0 => (Outcome::Status(503), MS),
        _ => healthy(due),
    };
    let made = attempt(vec![probe("balance", 0, 5 * MS, 40 * S, fate)], 30 * S);
    let results = check("flaky", &made, Verdict::Failed, "points less than the objective of");
    let first = results.timeline.iter().find(|point| point.point == Point::T1).unwrap();
    assert_eq!(first.note, "first failure a client saw: status 503");
}

#[test]
fn the_last_k_acknowledged_writes() {
    // The write with sequence n is due at 3 ms + 20 ms · n and acknowledged 2 ms later; 500 are before the fault.
    for k in [0_u64, 1, 7, 25, 49] {
        let results = measure(&drilled(2 * S, 500 - k..500));
        let loss = results.measured.loss.unwrap();
        assert_eq!((loss.lost, loss.lost_after_fault, loss.acknowledged), (k, 0, 1999));
        let oldest = 10.0 - (0.003 + 0.020 * (500 - k) as f64 + 0.002);
        assert!((loss.seconds - if k == 0 { 0.0 } else { oldest }).abs() < 1e-9, "{k}: {}", loss.seconds);
        assert_eq!(results.verdict, Verdict::Passed, "{k}: {:?}", results.reasons);
    }
    check("1.5 s of writes", &drilled(2 * S, 425..500), Verdict::Failed, "75 of 1999 acknowledged writes are lost");
    let mut about = drilled(2 * S, 450..500);
    about.timeline[1].error = 10 * MS;
    check("0.995 s", &about, Verdict::Inconclusive, "the oldest lost write is 0.995 s ± 0.011 s before the fault");
}

#[test]
fn every_verdict_but_passed_says_why() {
    for (down, lost) in [(6 * S, 0..0), (5 * S, 0..0), (2 * S, 400..500), (20 * S, 0..0)] {
        let results = measure(&drilled(down, lost));
        assert_ne!(results.verdict, Verdict::Passed);
        assert!(!results.reasons.is_empty());
    }
}

#[test]
fn loss_in_all_its_forms() {
    let mut made = drilled(2 * S, 0..0);
    let record = made.probes[1].writes.as_mut().unwrap();
    record.writes[100].acknowledged = None;
    // Written once, stored twice; stored behind a much later one; gone at first and there again.
    let mut first = record.readbacks[0].clone();
    (first.time, first.judged) = (20 * S, 900);
    first.found.retain(|sequence| *sequence < 900 && *sequence != 300);
    let last = &mut record.readbacks[0];
    (last.time, last.phase) = (36 * S, "failedBack".to_owned());
    last.found.push(200);
    last.found.retain(|sequence| *sequence != 50);
    last.found.push(50);
    record.readbacks.push(first);
    let results = check("integrity", &made, Verdict::Failed, "1 write was resurrected, and the plan allows 0");
    let loss = results.measured.loss.unwrap();
    assert_eq!((loss.lost, loss.indeterminate, loss.duplicated, loss.reordered, loss.resurrected), (1, 1, 1, 1, 1));
    assert_eq!((loss.absent_at_recovery, loss.lost_for_good), (Some(1), Some(0)));
    assert_eq!(loss.acknowledged, 1998);
}

#[test]
fn split_brain_fails() {
    let mut made = drilled(2 * S, 0..0);
    made.probes[1].writes.as_mut().unwrap().writes[600].epoch = Some(1);
    assert!(check("split", &made, Verdict::Failed, "split brain").measured.loss.unwrap().split_brain);
}

#[test]
fn loss_of_the_failback_is_apart() {
    let mut made = drilled(2 * S, 0..0);
    let record = made.probes[1].writes.as_mut().unwrap();
    let mut after = record.readbacks[0].clone();
    (record.readbacks[0].time, record.readbacks[0].judged) = (29 * S, 1400);
    (after.time, after.phase) = (36 * S, "failedBack".to_owned());
    // The last 100 writes before failback: two seconds.
    after.found.retain(|sequence| !(1400..1500).contains(sequence));
    record.readbacks.push(after);
    let results = check("failback", &made, Verdict::Failed, "100 of 1999 acknowledged writes are lost");
    let failback = results.measured.failback.unwrap();
    assert_eq!((failback.lost, failback.failed, failback.offered), (100, 0, 1250));
    assert!((failback.lost_seconds - 1.995).abs() < 1e-9, "{}", failback.lost_seconds);
    assert_eq!(results.measured.loss.unwrap().seconds, 0.0);
}

#[test]
fn writes_lost_after_recovery_fail() {
    check("after", &drilled(2 * S, 900..905), Verdict::Failed, "5 writes acknowledged after recovery are lost");
}

#[test]
fn endings_come_first() {
    let ended = |ending| Attempt { ending, ..drilled(20 * S, 0..0) };
    check(
        "refused",
        &ended(Ending::Refused { reasons: vec!["west is down".into()] }),
        Verdict::Refused,
        "west is down",
    );
    check("aborted", &ended(Ending::Aborted { reason: "a guard tripped".into() }), Verdict::Aborted, "a guard tripped");
    check("crashed", &ended(Ending::Crashed { reason: "killed".into() }), Verdict::Crashed, "killed");
}

#[test]
fn residue_fails() {
    let mut changed = drilled(2 * S, 0..0);
    changed.residue.after.insert("edge".to_owned(), "sha256:cc".to_owned());
    check("changed", &changed, Verdict::Failed, "proxy edge has another configuration than before");
    let mut unknown = drilled(2 * S, 0..0);
    unknown.residue.after.remove("edge");
    let results = check("unknown", &unknown, Verdict::Failed, "whether proxy edge is as before could not be seen");
    assert_eq!((results.residue.proxies, results.residue.unchanged), (2, 1));
}

#[test]
fn the_json_contract() {
    let results = measure(&drilled(910 * MS, 498..500));
    let json = serde_json::to_value(&results).unwrap();
    for (pointer, expected) in [
        ("/drill", "\"lose-east\""),
        ("/attempt", "1"),
        ("/verdict", "\"passed\""),
        ("/reasons", "[]"),
        ("/measured/recovery", r#"{"seconds":0.91,"error":0.023,"censored":false,"clientVisible":true}"#),
        ("/measured/loss/lost", "2"),
        ("/measured/loss/splitBrain", "false"),
        ("/measured/badSeconds", "0.91"),
        ("/measured/timeToAbort", "null"),
        ("/measured/execution", "0.41"),
        ("/objectives/0", r#"{"name":"recoveryTime","asked":5.0,"measured":0.91,"error":0.023,"met":true}"#),
        ("/timeline/0/point", "\"t0c\""),
        ("/timeline/0/time", "\"2026-11-20T17:44:47.12Z\""),
        ("/timeline/0/offset", "0.0"),
        ("/timeline/1/point", "\"t0e\""),
        ("/probes/0/name", "\"balance\""),
        ("/probes/0/offered", "8000"),
        ("/probes/0/failed", "182"),
        ("/probes/0/failures/connect", "182"),
        ("/probes/0/baseline/regions/east", "100.0"),
        ("/residue", r#"{"proxies":2,"unchanged":2}"#),
    ] {
        assert_eq!(json.pointer(pointer).map(ToString::to_string).as_deref(), Some(expected), "{pointer}");
    }
}

#[test]
fn requests_that_were_never_made_prove_nothing() {
    let silent = |from: Nanos, to: Nanos| {
        let mut made = drilled(2 * S, 0..0);
        let mut other = probe("other", 0, 5 * MS, 40 * S, healthy);
        other.samples.retain(|sample| !(from..to).contains(&sample.due));
        made.probes.push(other);
        made
    };
    check("all there", &silent(0, 0), Verdict::Passed, "");
    for (name, from, to) in [("since recovery", 20 * S, 40 * S), ("a second", 25 * S, 26 * S)] {
        check(name, &silent(from, to), Verdict::Inconclusive, "requests of probe other are missing");
    }
    let mut unhurt = silent(10 * S, 40 * S);
    unhurt.probes[0] = probe("balance", 0, 5 * MS, 40 * S, healthy);
    check("no outage", &unhurt, Verdict::Inconclusive, "requests of probe other are missing");
}

#[test]
fn an_outage_that_fits_between_two_requests_is_undecided() {
    let slow = |interval| Attempt {
        objectives: Objectives { data_loss: None, ..objectives() },
        ..attempt(vec![probe("slow", 0, interval, 40 * S, healthy)], 30 * S)
    };
    check("seen", &slow(4 * S), Verdict::Passed, "");
    check("not seen", &slow(6 * S), Verdict::Inconclusive, "recovery took 0 s ± 6.001 s");
}

#[test]
fn writes_that_were_not_read_back_after_failback_are_undecided() {
    let mut made = drilled(2 * S, 0..0);
    let readback = &mut made.probes[1].writes.as_mut().unwrap().readbacks[0];
    (readback.time, readback.judged) = (29 * S, 1400);
    check("unjudged", &made, Verdict::Inconclusive, "599 acknowledged writes were not read back");
}

#[test]
fn what_was_not_put_back_fails() {
    let mut unsteady = drilled(2 * S, 0..0);
    unsteady.timeline.retain(|seen| seen.point != Point::T9);
    check("unsteady", &unsteady, Verdict::Failed, "no steady state was seen after failback");

    let mut gone = drilled(2 * S, 0..0);
    gone.phases[2].name = "return".to_owned();
    gone.timeline.retain(|seen| !matches!(seen.point, Point::T8 | Point::T9));
    check("gone", &gone, Verdict::Failed, "what was lost did not come back");

    let undo = |ok: bool| JournalEntry {
        time: 30 * S,
        kind: "undo".to_owned(),
        text: "undo".to_owned(),
        detail: serde_json::json!({"step": 0, "ok": ok}),
    };
    let mut left = drilled(2 * S, 0..0);
    left.journal.push(undo(false));
    check("left", &left, Verdict::Failed, "step 1 of the scenario was not undone");
    left.journal.push(undo(true));
    check("undone at last", &left, Verdict::Passed, "");
}
