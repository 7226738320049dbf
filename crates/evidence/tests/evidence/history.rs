//! History that was cut, or that a copied ledger tells twice.

use std::{fs, path::Path};

use evidence::{
    bundle::{CheckOutcome, Claim, Limits, compare, compare_with_ledger, resume, seal, verify, verify_claim},
    ledger::{Ledger, verify_whole},
    note::{Checkpoint, VerifierKey},
    record::*,
};
use serde_json::{Value, json};

use crate::{bundle::*, fixture::*};

fn failed() -> Ending {
    Ending::Aborted { reason: "the guard tripped".to_owned() }
}

fn copy(from: &Path, to: &Path) {
    fs::create_dir_all(to).unwrap();
    for file in fs::read_dir(from).unwrap().map(Result::unwrap) {
        let target = to.join(file.file_name());
        if file.file_type().unwrap().is_dir() {
            copy(&file.path(), &target)
        } else {
            fs::copy(file.path(), target).map(|_| ()).unwrap()
        }
    }
}

fn claim(path: &Path, key: &VerifierKey) -> Claim {
    let (report, claim) = verify_claim(&fs::read(path).unwrap(), Some(key), &Limits::STRICT);
    assert!(report.ok(), "{:?}", report.checks);
    claim.unwrap()
}

/// The proofs of attempt `number`, with everything that needs no key made right again.
fn with_proofs(bytes: &[u8], edit: impl FnOnce(&mut Vec<Value>)) -> Vec<u8> {
    let mut forged = parts(bytes);
    let mut proofs: Vec<Value> = serde_json::from_slice(part(&mut forged, "proofs.json")).unwrap();
    edit(&mut proofs);
    *part(&mut forged, "proofs.json") = evidence::canonical::to_vec(&proofs).unwrap();
    pack(&forged)
}

fn kinds(proofs: &[Value]) -> Vec<String> {
    let of =
        |proof: &Value| format!("{} {}", proof["entry"]["kind"].as_str().unwrap(), proof["entry"]["body"]["number"]);
    proofs.iter().map(of).collect()
}

#[test]
fn no_proof_can_be_left_out() {
    let folder = tempfile::tempdir().unwrap();
    let mut ledger = Ledger::open(&folder.path().join("ledger")).unwrap();
    for _ in 0..3 {
        sealed(&mut ledger, "lose-east", failed(), folder.path());
    }
    let bytes = fs::read(folder.path().join("lose-east-3.drill")).unwrap();
    assert!(verify(&bytes, Some(ledger.key())).ok());
    let (r, s) = ("attemptRegistered", "attemptSealed");
    let all: Vec<String> = (1..=3).flat_map(|n| [format!("{r} {n}"), format!("{s} {n}")]).collect();
    with_proofs(&bytes, |proofs| assert_eq!(kinds(proofs), all));
    for mask in 0..63_u32 {
        let forged = with_proofs(&bytes, |proofs| {
            let mut at = 0;
            proofs.retain(|_| {
                at += 1;
                mask >> (at - 1) & 1 == 1
            });
        });
        let report = verify(&forged, Some(ledger.key()));
        let names: Vec<_> = report.failed().map(|check| check.name.as_str()).collect();
        assert!(names.contains(&"attempts") && names.contains(&"statements"), "{mask:b}: {names:?}");
    }
}

/// Bundles of format 1 bind their proofs by no statement; what is missing is still seen.
#[test]
fn an_earlier_seal_cannot_be_left_out_of_a_bundle_of_format_1() {
    let golden = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/golden-v1/passed-second-attempt.drill");
    let bytes = fs::read(golden).unwrap();
    assert!(verify(&bytes, None).ok());
    let cut = with_proofs(&bytes, |proofs| {
        assert_eq!(kinds(proofs), ["attemptRegistered 1", "attemptSealed 1", "attemptRegistered 2", "attemptSealed 2"]);
        proofs.remove(1);
    });
    let why: Vec<_> = verify(&cut, None).failed().map(|check| format!("{}: {}", check.name, check.detail)).collect();
    assert!(why.iter().any(|why| why.contains("no seal of attempt 1 of lose-east")), "{why:?}");
}

/// A checkpoint of a later moment, with proofs that lead to it, would hide what was done in between.
#[test]
fn a_later_checkpoint_is_not_the_one_of_the_bundle() {
    let folder = tempfile::tempdir().unwrap();
    let mut ledger = Ledger::open(&folder.path().join("ledger")).unwrap();
    let first = fs::read(sealed(&mut ledger, "lose-east", failed(), folder.path())).unwrap();
    let second = fs::read(sealed(&mut ledger, "lose-east", failed(), folder.path())).unwrap();
    let mut later = parts(&second);
    let mut forged = parts(&first);
    let mut proofs: Vec<Value> = serde_json::from_slice(part(&mut later, "proofs.json")).unwrap();
    *part(&mut forged, "checkpoint") = part(&mut later, "checkpoint").clone();
    for keep in [2, 4] {
        proofs.truncate(4.min(proofs.len()).min(if keep == 2 { 2 } else { 4 }).max(2));
        *part(&mut forged, "proofs.json") = evidence::canonical::to_vec(&proofs).unwrap();
        let report = verify(&pack(&forged), Some(ledger.key()));
        let why: Vec<_> = report.failed().map(|check| format!("{}: {}", check.name, check.detail)).collect();
        assert!(why.iter().any(|why| why.contains("the checkpoint is not the one of this bundle")), "{why:?}");
        assert!(why.iter().any(|why| why.starts_with("statements: ")), "{why:?}");
    }
}

#[test]
fn an_attempt_has_one_bundle_whenever_it_is_written() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("ledger");
    let mut ledger = Ledger::open(&path).unwrap();
    let registration = registration("lose-east");
    let number = ledger.register_attempt(WALL, &registration).unwrap();
    let attempt = registration.attempt(number, failed()).unwrap();
    let blocked = folder.path().join("blocked");
    fs::write(&blocked, b"a file where a folder belongs").unwrap();
    seal(&attempt, &mut ledger, WALL, &blocked).unwrap_err();
    let pending = fs::read(path.join("pending/lose-east-1.parts")).unwrap();
    let first = resume(&mut ledger, WALL, &folder.path().join("a")).unwrap().remove(0);
    // Written again, when the ledger has grown.
    ledger.append("leaseTaken", WALL, json!({})).unwrap();
    fs::write(path.join("pending/lose-east-1.parts"), pending).unwrap();
    let second = resume(&mut ledger, WALL, &folder.path().join("b")).unwrap().remove(0);
    assert_eq!(fs::read(&first.path).unwrap(), fs::read(&second.path).unwrap());
}

#[test]
fn a_copied_ledger_that_went_on_twice_is_found_and_named() {
    let folder = tempfile::tempdir().unwrap();
    let (original, restored) = (folder.path().join("original"), folder.path().join("restored"));
    let mut ledger = Ledger::open(&original).unwrap();
    let first = sealed(&mut ledger, "lose-east", failed(), &folder.path().join("out"));
    let key = ledger.key().clone();
    copy(&original, &restored);
    let bad = sealed(&mut ledger, "lose-east", failed(), &folder.path().join("out"));
    let other = sealed(&mut ledger, "lose-west", failed(), &folder.path().join("out"));
    // Back to the copy, until the result pleases.
    let mut copied = Ledger::open(&restored).unwrap();
    let refused = Ending::Refused { reasons: vec!["not ready".to_owned()] };
    let good = sealed(&mut copied, "lose-east", refused, &folder.path().join("again"));
    let (first, bad, good, other) = (claim(&first, &key), claim(&bad, &key), claim(&good, &key), claim(&other, &key));

    let check = compare(&bad, &good, ("A", "B"));
    assert_eq!(check.outcome, CheckOutcome::Failed);
    for words in
        ["seal of lose-east attempt 2, aborted", "seal of lose-east attempt 2, refused", "copied or rolled back"]
    {
        assert!(check.detail.contains(words), "{}", check.detail);
    }
    for (a, b) in [(&first, &bad), (&bad, &first), (&first, &good), (&first, &first)] {
        let check = compare(a, b, ("A", "B"));
        assert_eq!(check.outcome, CheckOutcome::Passed, "{}", check.detail);
    }
    // Two drills prove nothing about each other, unless their proofs overlap; the ledger decides.
    assert_ne!(compare(&bad, &other, ("A", "B")).outcome, CheckOutcome::Failed);

    let (here, there) = (verify_whole(&original, None).unwrap(), verify_whole(&restored, None).unwrap());
    for (claim, ledger, expected) in [
        (&first, &here, CheckOutcome::Passed),
        (&bad, &here, CheckOutcome::Passed),
        (&other, &here, CheckOutcome::Passed),
        (&good, &there, CheckOutcome::Passed),
        (&good, &here, CheckOutcome::Failed),
        (&bad, &there, CheckOutcome::Failed),
        (&other, &there, CheckOutcome::Failed),
    ] {
        let check = compare_with_ledger(claim, ledger, "A");
        assert_eq!(check.outcome, expected, "{}", check.detail);
    }
    assert!(compare_with_ledger(&other, &there, "A").detail.contains("rolled back"));
}

/// Forks of ledgers of every shape: found whenever the two bundles are of one drill.
#[test]
fn forks_are_found_and_histories_are_not_at_every_size() {
    for before in 0..9 {
        let folder = tempfile::tempdir().unwrap();
        let (left, right) = (folder.path().join("left"), folder.path().join("right"));
        let mut ledger = Ledger::open(&left).unwrap();
        let key = ledger.key().clone();
        let first = sealed(&mut ledger, "lose-east", failed(), &folder.path().join("out"));
        for n in 0..before {
            ledger.append("leaseTaken", WALL, json!({"n": n})).unwrap();
        }
        copy(&left, &right);
        let mut other = Ledger::open(&right).unwrap();
        other.append("leaseTaken", WALL, json!({"fork": true})).unwrap();
        ledger.append("leaseTaken", WALL, json!({"fork": false})).unwrap();
        let a = sealed(&mut ledger, "lose-east", failed(), &folder.path().join("a"));
        let b = sealed(&mut other, "lose-east", failed(), &folder.path().join("b"));
        let later = sealed(&mut ledger, "lose-east", failed(), &folder.path().join("a"));
        let (first, a, b, later) = (claim(&first, &key), claim(&a, &key), claim(&b, &key), claim(&later, &key));
        for (x, y, expected) in [
            (&first, &a, CheckOutcome::Passed),
            (&first, &b, CheckOutcome::Passed),
            (&a, &later, CheckOutcome::Passed),
            (&a, &b, CheckOutcome::Failed),
            (&b, &later, CheckOutcome::Failed),
        ] {
            let check = compare(x, y, ("A", "B"));
            assert_eq!(check.outcome, expected, "{before}: {}", check.detail);
        }
        // A checkpoint alone, such as one that was kept elsewhere.
        let kept = Checkpoint::verify(&fs::read_to_string(right.join("checkpoint")).unwrap(), &key).unwrap();
        let kept = Claim::of_checkpoint(key.clone(), kept);
        assert_eq!(compare(&kept, &b, ("C", "B")).outcome, CheckOutcome::Passed);
        assert_eq!(compare(&kept, &a, ("C", "A")).outcome, CheckOutcome::Failed);
    }
}
