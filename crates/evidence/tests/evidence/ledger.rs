//! The ledger: what survives a crash, what is refused, and several writers at once.

use std::{fs, os::unix::fs::PermissionsExt, path::Path};

use evidence::{
    ledger::{Ledger, parse, verify_ledger},
    merkle,
    note::{Checkpoint, VerifierKey},
    record::*,
};
use proptest::prelude::*;
use serde_json::json;
use tempfile::TempDir;

use crate::fixture::*;

fn filled(entries: u64) -> (TempDir, Ledger) {
    let folder = tempfile::tempdir().unwrap();
    let mut ledger = Ledger::open(folder.path()).unwrap();
    for n in 0..entries {
        if n % 3 == 1 {
            ledger.register_attempt(WALL, &registration(["lose-east", "lose-west"][(n % 2) as usize])).unwrap();
        } else {
            ledger.append("configurationApplied", WALL, json!({"revision": n, "at": WALL})).unwrap();
        }
    }
    (folder, ledger)
}

fn refused(folder: &Path) -> String {
    let opened = Ledger::open(folder).map(|_| ()).unwrap_err().to_string();
    let verified = verify_ledger(folder, None).map(|_| ()).unwrap_err().to_string();
    assert_eq!(opened, verified);
    opened
}

#[test]
fn entries_and_proofs() {
    let (folder, mut ledger) = filled(20);
    let checkpoint = Checkpoint::verify(&ledger.checkpoint(), ledger.key()).unwrap();
    assert_eq!(fs::read_to_string(folder.path().join("checkpoint")).unwrap(), ledger.checkpoint());
    let entries = ledger.entries(0).unwrap();
    assert_eq!(entries.len(), 20);
    assert_eq!(entries[0].body, json!({"revision": 0, "at": WALL.to_string()}));
    assert_eq!(entries[0].time, "2026-11-20T17:44:37.120000001Z");
    for entry in &entries {
        let leaf = merkle::leaf(&evidence::canonical::to_vec(entry).unwrap());
        let path = ledger.inclusion(entry.index).unwrap();
        assert!(merkle::verify_inclusion(&leaf, entry.index, 20, &path, &checkpoint.root));
    }
    ledger.append("leaseTaken", WALL, json!({})).unwrap();
    let later = Checkpoint::verify(&ledger.checkpoint(), ledger.key()).unwrap();
    let proof = ledger.consistency(20).unwrap();
    assert!(merkle::verify_consistency((20, &checkpoint.root), (21, &later.root), &proof));
    let report = verify_ledger(folder.path(), Some(ledger.key())).unwrap();
    assert_eq!((report.entries, report.attempts, report.torn), (21, 7, 0));
}

#[test]
fn the_key_is_private_and_kept() {
    let (folder, ledger) = filled(2);
    let mode = fs::metadata(folder.path().join("key.pem")).unwrap().permissions().mode();
    assert_eq!(mode & 0o777, 0o600);
    assert_eq!(Ledger::open(folder.path()).unwrap().key(), ledger.key());
    let public = fs::read_to_string(folder.path().join("key.pub")).unwrap();
    assert_eq!(VerifierKey::parse(&public).unwrap(), *ledger.key());
    fs::set_permissions(folder.path().join("key.pem"), fs::Permissions::from_mode(0o644)).unwrap();
    assert!(Ledger::open(folder.path()).unwrap_err().to_string().contains("others can read"));
    fs::remove_file(folder.path().join("key.pem")).unwrap();
    assert!(Ledger::open(folder.path()).unwrap_err().to_string().contains("no key"));
}

#[test]
fn a_torn_tail_is_cut_wherever_it_was_torn() {
    let (folder, mut ledger) = filled(4);
    let log = folder.path().join("entries.log");
    let whole = fs::read(&log).unwrap();
    let checkpoint = fs::read(folder.path().join("checkpoint")).unwrap();
    ledger.append("leaseTaken", WALL, json!({"n": 5})).unwrap();
    let longer = fs::read(&log).unwrap();
    for cut in whole.len()..=longer.len() {
        fs::write(&log, &longer[..cut]).unwrap();
        fs::write(folder.path().join("checkpoint"), &checkpoint).unwrap();
        assert_eq!(verify_ledger(folder.path(), None).unwrap().torn, cut - whole.len());
        let mut again = Ledger::open(folder.path()).unwrap();
        assert_eq!((again.size(), fs::read(&log).unwrap() == whole), (4, true), "cut at {cut}");
        if cut % 16 == 0 {
            assert_eq!(again.append("leaseTaken", WALL, json!({"n": 5})).unwrap(), 4);
            assert_eq!(fs::read(&log).unwrap(), longer);
        }
    }
}

#[test]
fn an_older_checkpoint_does_not_cut_what_was_committed_after_it() {
    let (folder, mut ledger) = filled(5);
    let older = fs::read(folder.path().join("checkpoint")).unwrap();
    for n in 0..2 {
        ledger.append("note", n, json!({"n": n})).unwrap();
    }
    let log = fs::read(folder.path().join("entries.log")).unwrap();
    fs::write(folder.path().join("checkpoint"), older).unwrap();
    assert!(refused(folder.path()).contains("2 whole entries stand behind"), "{}", refused(folder.path()));
    assert_eq!(fs::read(folder.path().join("entries.log")).unwrap(), log);
}

#[test]
fn every_flipped_bit_is_refused_and_named() {
    let (folder, _) = filled(8);
    let log = folder.path().join("entries.log");
    let whole = fs::read(&log).unwrap();
    for seed in 0..200 {
        let mut random = fastrand::Rng::with_seed(seed);
        let mut changed = whole.clone();
        let at = random.usize(..whole.len());
        changed[at] ^= 1 << random.u8(..8);
        fs::write(&log, &changed).unwrap();
        let entry = whole[..at].iter().filter(|byte| **byte == b'\n').count();
        let why = refused(folder.path());
        assert!(why.contains(&format!("entry {entry} ")), "byte {at} in entry {entry}: {why}");
    }
    fs::write(&log, &whole).unwrap();
    let checkpoint = fs::read(folder.path().join("checkpoint")).unwrap();
    for at in 0..checkpoint.len() {
        let mut changed = checkpoint.clone();
        changed[at] ^= 1;
        fs::write(folder.path().join("checkpoint"), &changed).unwrap();
        Ledger::open(folder.path()).unwrap_err();
        verify_ledger(folder.path(), None).unwrap_err();
    }
}

#[test]
fn removed_swapped_and_rewritten_entries_are_refused() {
    let (folder, _) = filled(8);
    let log = folder.path().join("entries.log");
    let whole = fs::read_to_string(&log).unwrap();
    let lines: Vec<&str> = whole.split_inclusive('\n').collect();
    for removed in 0..8 {
        let kept: String = lines.iter().enumerate().filter(|(at, _)| *at != removed).map(|(_, line)| *line).collect();
        fs::write(&log, kept).unwrap();
        let why = refused(folder.path());
        assert!(why.contains(&format!("entry {removed} ")), "{removed}: {why}");
    }
    for at in 0..7 {
        let mut swapped = lines.clone();
        swapped.swap(at, at + 1);
        fs::write(&log, swapped.concat()).unwrap();
        assert!(refused(folder.path()).contains("removed, added or swapped"));
    }
    // Re-numbered attempt with its own hash in front: the number has a gap.
    let body = lines[7].split_once(' ').unwrap().1.trim_end().replace("\"number\":2", "\"number\":3");
    assert_ne!(lines[7].split_once(' ').unwrap().1.trim_end(), body);
    let forged = format!("{} {body}\n", evidence::canonical::hex(&merkle::leaf(body.as_bytes())));
    fs::write(&log, lines[..7].concat() + &forged).unwrap();
    assert!(refused(folder.path()).contains("registers attempt 3"));
    // A body changed together with its hash, which anybody can do: the signed root is another.
    let body = lines[3].split_once(' ').unwrap().1.trim_end().replace("\"revision\":3", "\"revision\":4");
    let forged = format!("{} {body}\n", evidence::canonical::hex(&merkle::leaf(body.as_bytes())));
    fs::write(&log, lines[..3].concat() + &forged + &lines[4..].concat()).unwrap();
    assert!(refused(folder.path()).contains("do not have the root hash of the signed checkpoint"));
}

#[test]
fn several_writers_get_gapless_numbers() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path();
    let mut numbers: Vec<u64> = std::thread::scope(|scope| {
        let writers: Vec<_> = (0..4)
            .map(|_| {
                scope.spawn(move || {
                    let mut ledger = Ledger::open(path).unwrap();
                    (0..5)
                        .map(|_| ledger.register_attempt(WALL, &registration("lose-east")).unwrap())
                        .collect::<Vec<_>>()
                })
            })
            .collect();
        writers.into_iter().flat_map(|writer| writer.join().unwrap()).collect()
    });
    numbers.sort_unstable();
    assert_eq!(numbers, (1..=20).collect::<Vec<_>>());
    assert_eq!(verify_ledger(path, None).unwrap().attempts, 20);
}

/// The process that [`killed_writers_leave_a_ledger_in_order`] starts and kills; does nothing when it is run as a test.
#[test]
fn writer() {
    let Some(folder) = std::env::var_os("EVIDENCE_TEST_WRITER") else { return };
    let mut ledger = Ledger::open(Path::new(&folder)).unwrap();
    for n in 0_u64.. {
        let number = ledger.register_attempt(WALL, &registration("lose-east")).unwrap();
        ledger.append("leaseTaken", WALL, json!({"n": n})).unwrap();
        fs::write(Path::new(&folder).join(format!("returned-{number}")), b"").unwrap();
    }
}

#[test]
fn killed_writers_leave_a_ledger_in_order() {
    let (folder, _) = filled(0);
    let mut attempts = 0;
    for seed in 0..12 {
        let mut writers: Vec<_> = (0..2)
            .map(|_| {
                std::process::Command::new(std::env::current_exe().unwrap())
                    .args(["--exact", "ledger::writer", "--test-threads=1"])
                    .env("EVIDENCE_TEST_WRITER", folder.path())
                    .stdout(std::process::Stdio::null())
                    .spawn()
                    .unwrap()
            })
            .collect();
        // Killed when a random number of attempts is there, at whatever they are doing then.
        let until = attempts + fastrand::Rng::with_seed(seed).u64(1..12);
        while !folder.path().join(format!("returned-{until}")).exists() {
            std::thread::yield_now();
            assert!(writers.iter_mut().all(|writer| writer.try_wait().unwrap().is_none()), "a writer failed");
        }
        for writer in &mut writers {
            writer.kill().unwrap();
            writer.wait().unwrap();
        }
        let found = verify_ledger(folder.path(), None).unwrap().attempts;
        assert!(found >= until, "{found} attempts, {until} were returned");
        assert_eq!(Ledger::open(folder.path()).unwrap().attempts().of("lose-east").len() as u64, found);
        attempts = found;
    }
}

#[test]
fn open_attempts_come_with_their_journal() {
    let (folder, mut ledger) = filled(0);
    let number = ledger.register_attempt(WALL, &registration("lose-east")).unwrap();
    let intent = attempt(vec![], 20 * S).journal.remove(0);
    let mut journal = ledger.journal("lose-east", number).unwrap();
    journal.append(intent.clone()).unwrap();
    drop((journal, ledger));
    // The engine died while it wrote its second intent.
    let file = folder.path().join("journal/lose-east-1.jsonl");
    let mut bytes = fs::read(&file).unwrap();
    bytes.extend_from_slice(b"{\"detail\":{\"un");
    fs::write(&file, bytes).unwrap();
    let mut ledger = Ledger::open(folder.path()).unwrap();
    let open = ledger.open_attempts().unwrap().remove(0);
    assert_eq!((open.number, open.journal.len()), (1, 1));
    assert_eq!(open.journal[0].text, intent.text);
    assert_eq!(open.journal[0].detail["undo"], intent.detail["undo"]);
    let crashed = open.attempt(Ending::Crashed { reason: "the engine was killed".into() }).unwrap();
    assert_eq!(crashed.objectives, objectives());
    let sealed = evidence::bundle::seal(&crashed, &mut ledger, WALL, &folder.path().join("out")).unwrap();
    assert_eq!(sealed.results.verdict, Verdict::Crashed);
    assert!(ledger.open_attempts().unwrap().is_empty());
    assert!(!file.exists());
    ledger.journal("lose-east", number).unwrap_err();
}

#[test]
fn names_that_are_no_file_names_are_rejected() {
    let (_folder, mut ledger) = filled(0);
    for name in ["", "../x", "a/b", ".hidden", "a\0b"] {
        ledger.register_attempt(WALL, &registration(name)).unwrap_err();
    }
    assert_eq!(ledger.size(), 0);
}

#[test]
fn notes_of_others_are_refused() {
    let (_first, ledger) = filled(1);
    let (_second, other) = filled(1);
    let note = ledger.checkpoint();
    Checkpoint::verify(&note, other.key()).unwrap_err();
    // A witness's signature may follow.
    let witnessed = format!("{note}\u{2014} witness.example AAAAAAAA\n");
    Checkpoint::verify(&witnessed, ledger.key()).unwrap();
    for broken in
        ["", "\n\n", "a\n1\n\n", &note.replace("\n1\n", "\n01\n"), note.trim_end(), &note.replace('\u{2014}', "-")]
    {
        Checkpoint::verify(broken, ledger.key()).unwrap_err();
    }
}

proptest! {
    #[test]
    fn parse_is_total(bytes in proptest::collection::vec(any::<u8>(), 0..400)) {
        let _ = parse(&bytes);
        let _ = VerifierKey::parse(&String::from_utf8_lossy(&bytes));
    }
}
