//! Bundles of format v1 keep verifying, with the results that they were sealed with. The files must never be made anew.

use std::{fs, path::PathBuf};

use evidence::{
    bundle::{self, CheckOutcome},
    canonical,
    entry::Entry,
    ledger::{Ledger, verify_ledger},
    measure::measure,
    record::*,
};
use serde_json::Value;

use crate::{
    bundle::{edit, pack, part, parts, redigest},
    fixture::*,
};

fn golden() -> Vec<(String, Vec<u8>)> {
    let folder = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("tests/golden-v1");
    let mut bundles: Vec<_> = fs::read_dir(folder)
        .unwrap()
        .map(|file| file.unwrap().path())
        .filter(|path| path.extension().is_some_and(|extension| extension == "drill"))
        .map(|path| (path.with_extension("json").to_str().unwrap().to_owned(), fs::read(path).unwrap()))
        .collect();
    bundles.sort();
    assert_eq!(bundles.len(), 8);
    bundles
}

#[test]
fn bundles_of_format_1_verify_with_what_they_concluded() {
    let mut verdicts = std::collections::HashSet::new();
    for (json, bytes) in golden() {
        let report = bundle::verify(&bytes, None);
        assert!(report.ok(), "{json}: {:?}", report.failed().collect::<Vec<_>>());
        let recomputed = report.checks.iter().find(|check| check.name == "recomputation").unwrap();
        assert!(recomputed.detail.contains("format 1"), "{}", recomputed.detail);
        let (attempt, results) = bundle::read(&bytes).unwrap();
        let stated: Value = serde_json::from_slice(&fs::read(&json).unwrap()).unwrap();
        assert_eq!(serde_json::to_value(&results).unwrap(), stated, "{json}");
        assert_eq!(attempt.probes.iter().map(|probe| probe.samples.len()).sum::<usize>(), offered(&stated), "{json}");
        verdicts.insert(results.verdict);
    }
    let all =
        [Verdict::Passed, Verdict::Failed, Verdict::Aborted, Verdict::Refused, Verdict::Crashed, Verdict::Inconclusive];
    assert!(all.iter().all(|verdict| verdicts.contains(verdict)), "{verdicts:?}");
}

fn offered(stated: &Value) -> usize {
    stated["probes"].as_array().unwrap().iter().map(|probe| probe["offered"].as_u64().unwrap()).sum::<u64>() as usize
}

#[test]
fn what_format_1_concluded_cannot_be_changed() {
    for (json, bytes) in golden() {
        let mut parts = parts(&bytes);
        let results = part(&mut parts, "results.json");
        let text = String::from_utf8(results.clone()).unwrap();
        let changed = if text.contains(r#""verdict":"passed""#) { "failed" } else { "passed" };
        let at = text.find(r#""verdict":""#).unwrap() + r#""verdict":""#.len();
        let end = at + text[at..].find('"').unwrap();
        *results = format!("{}{changed}{}", &text[..at], &text[end..]).into_bytes();
        redigest(&mut parts);
        let report = bundle::verify(&pack(&parts), None);
        let failed: Vec<_> = report.failed().map(|check| check.name.as_str()).collect();
        assert!(failed.contains(&"recomputation") && failed.contains(&"seal"), "{json}: {failed:?}");
    }
}

#[test]
fn an_unknown_format_is_refused_and_named() {
    let (_, bytes) = golden().remove(0);
    for version in ["0", "3", "18446744073709551615"] {
        let mut parts = parts(&bytes);
        edit(part(&mut parts, "manifest.json"), r#""version":1"#, &format!(r#""version":{version}"#));
        let packed = pack(&parts);
        let report = bundle::verify(&packed, None);
        let manifest = report.checks.iter().find(|check| check.name == "manifest").unwrap();
        assert_eq!(manifest.outcome, CheckOutcome::Failed);
        assert!(bundle::read(&packed).is_err());
        if version.len() == 1 {
            assert!(manifest.detail.contains(&format!("has format {version}")), "{}", manifest.detail);
        }
    }
    // A record of format 1 does not pass for one of format 2.
    let mut parts = parts(&bytes);
    edit(part(&mut parts, "manifest.json"), r#""version":1"#, r#""version":2"#);
    assert!(!bundle::verify(&pack(&parts), None).ok());
}

#[test]
fn a_ledger_with_attempts_of_format_1_opens_and_goes_on() {
    let (_, bytes) = golden().into_iter().find(|(json, _)| json.ends_with("passed-second-attempt.json")).unwrap();
    let mut parts = parts(&bytes);
    let proofs: Value = serde_json::from_slice(part(&mut parts, "proofs.json")).unwrap();
    let entries: Vec<Entry> = proofs
        .as_array()
        .unwrap()
        .iter()
        .map(|proof| canonical::from_slice(&canonical::to_vec(&proof["entry"]).unwrap()).unwrap())
        .collect();
    assert_eq!(entries.len(), 4, "two registrations, two seals");
    let folder = tempfile::tempdir().unwrap();
    let dir = folder.path().join("ledger");
    // All but the last seal: the second attempt is open.
    let bodies: Vec<_> = entries[..3].iter().map(|entry| (entry.kind.clone(), entry.body.clone())).collect();
    ledger_of_format_1(&dir, &bodies);
    let mut ledger = Ledger::open(&dir).unwrap();
    let open = ledger.open_attempts().unwrap().remove(0);
    let (drill, number) = (open.registration.drill.clone(), open.number);
    assert_eq!((drill.as_str(), number), ("lose-east", 2));
    assert_eq!(open.registration.objectives.minimum_hits, None);
    verify_ledger(&dir, None).unwrap();
    let crashed = open.attempt(Ending::Crashed { reason: "the engine died".to_owned() }).unwrap();
    let sealed = bundle::seal(&crashed, &mut ledger, WALL, folder.path()).unwrap();
    let report = bundle::verify(&fs::read(&sealed.path).unwrap(), Some(ledger.key()));
    assert!(report.ok(), "{:?}", report.failed().collect::<Vec<_>>());
    assert_eq!(ledger.register_attempt(WALL, &registration("lose-east")).unwrap(), 3);
    verify_ledger(&dir, None).unwrap();
}

#[test]
fn everything_of_format_2_is_sealed_and_read_back() {
    let folder = tempfile::tempdir().unwrap();
    let mut ledger = Ledger::open(&folder.path().join("ledger")).unwrap();
    let full = full_registration();
    let number = ledger.register_attempt(WALL, &full).unwrap();
    let mut attempt = Attempt { number, ..circumstances(full.attempt(number, Ending::Completed).unwrap()) };
    attempt.probes[0].samples[1].outcome = Outcome::WrongBody;
    attempt.probes[0].samples[2].outcome = Outcome::WrongHeader;
    attempt.probes[0].samples[3].outcome = Outcome::Status(u16::MAX);
    let sealed = bundle::seal(&attempt, &mut ledger, WALL, folder.path()).unwrap();
    let bytes = fs::read(sealed.path).unwrap();
    let report = bundle::verify(&bytes, Some(ledger.key()));
    assert!(report.ok(), "{:?}", report.failed().collect::<Vec<_>>());
    let (read, results) = bundle::read(&bytes).unwrap();
    assert_eq!(read, attempt);
    let json = serde_json::to_value(&results).unwrap();
    assert_eq!(json["tested"]["mesh"], "mesh-7f3a");
    assert_eq!(json["standing"]["command"], "firedrill plan failback bank-west");
    assert_eq!(json["undos"][0]["since"], "2026-11-20T17:44:37Z");
    assert_eq!(json["changes"][0]["to"]["revision"], 8);
    assert_eq!((&json["ramp"][0]["commanded"], &json["ramp"][0]["clients"]), (&50.0.into(), &100.0.into()));
    assert_eq!(json["clock"]["error"], 0.007);
    assert_eq!(json["engine"]["sendLate"], 0.003);
    // Another tested system than the registered one cannot be sealed.
    let number = ledger.register_attempt(WALL, &full).unwrap();
    let mut other = circumstances(full.attempt(number, Ending::Completed).unwrap());
    other.tested.mesh = Some("mesh-0000".to_owned());
    assert!(bundle::seal(&other, &mut ledger, WALL, folder.path()).is_err());
}

#[test]
fn what_cannot_be_measured_with_is_not_registered() {
    let folder = tempfile::tempdir().unwrap();
    let mut ledger = Ledger::open(&folder.path().join("ledger")).unwrap();
    for share in [f64::NAN, -1.0, 100.1] {
        let mut registration = full_registration();
        registration.normal[0].shares.insert("east".to_owned(), share);
        let error = ledger.register_attempt(WALL, &registration).unwrap_err().to_string();
        assert!(error.contains("not a percentage"), "{error}");
    }
    assert_eq!(ledger.size(), 0);
}

#[test]
fn what_stands_or_is_outstanding_is_never_passed() {
    let completed = || attempt(vec![probe("balance", 0, 20 * MS, 25 * S, healthy)], 20 * S);
    let full = circumstances(completed());
    let passing = |attempt: &Attempt| measure(attempt).verdict;
    let base = Attempt { objectives: Objectives { data_loss: None, ..objectives() }, ..completed() };
    assert_eq!(passing(&base), Verdict::Passed);
    type Change = fn(&mut Attempt, &Attempt);
    let changes: [(Change, &str); 6] = [
        (
            |attempt, full| attempt.standing.clone_from(&full.standing),
            "promote cannot be undone and stands; west serves",
        ),
        (|attempt, full| attempt.undos.clone_from(&full.undos), "the undo of fence is outstanding since 2026-11-20"),
        (|attempt, _| attempt.unproven = vec!["nobody looked".to_owned()], "nobody looked"),
        (
            |attempt, full| {
                attempt.engine.clone_from(&full.engine);
                attempt.engine.as_mut().unwrap().unsent.insert("balance".to_owned(), 2);
            },
            "did not send 0.16 % of the requests of probe balance",
        ),
        (
            |attempt, full| {
                attempt.engine.clone_from(&full.engine);
                attempt.engine.as_mut().unwrap().descriptor_limit = Some(S);
            },
            "limit of open files",
        ),
        (
            |attempt, full| {
                attempt.engine.clone_from(&full.engine);
                attempt.engine.as_mut().unwrap().sends.insert("balance".to_owned(), Lateness { max: S, p99: 0 });
            },
            "sent a request of probe balance 1 s late",
        ),
    ];
    for (change, reason) in changes {
        let mut attempt = base.clone();
        change(&mut attempt, &full);
        let results = measure(&attempt);
        assert_eq!(results.verdict, Verdict::Inconclusive, "{reason}");
        assert!(results.reasons.iter().any(|found| found.contains(reason)), "{:?}", results.reasons);
    }
}
