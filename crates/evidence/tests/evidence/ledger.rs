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
        let drill = ["lose-east", "lose-west"][((n / 3) % 2) as usize];
        match n % 3 {
            1 => assert_eq!(ledger.register_attempt(WALL, &registration(drill)).unwrap(), n / 6 + 1),
            2 => assert_eq!(ledger.append("attemptSealed", WALL, seal_of(drill, n / 6 + 1)).unwrap(), n),
            _ => {
                assert_eq!(ledger.append("configurationApplied", WALL, json!({"revision": n, "at": WALL})).unwrap(), n)
            }
        }
    }
    (folder, ledger)
}

fn seal_of(drill: &str, number: u64) -> serde_json::Value {
    json!({"drill": drill, "number": number, "verdict": "failed", "manifest": "sha256:00"})
}

/// The files that say how far the log goes.
const STATE: [&str; 4] = ["entries.log", "checkpoint", "checkpoint.next", "high-water"];

type State = [Option<Vec<u8>>; 4];

fn state(folder: &Path) -> State {
    STATE.map(|name| fs::read(folder.join(name)).ok())
}

fn put(folder: &Path, state: &State) {
    for (name, content) in STATE.iter().zip(state) {
        match content {
            Some(content) => fs::write(folder.join(name), content).unwrap(),
            None => drop(fs::remove_file(folder.join(name))),
        }
    }
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

/// Every state in which a crash during an append can leave the folder, by the order in which the files are written.
#[test]
fn an_interrupted_append_is_cut_or_completed_wherever_it_stopped() {
    let (folder, mut ledger) = filled(4);
    let [before, _, _, _] = state(folder.path());
    let old = state(folder.path());
    ledger.append("leaseTaken", WALL, json!({"n": 5})).unwrap();
    let new = state(folder.path());
    let (before, after) = (before.unwrap(), new[0].clone().unwrap());
    let next = new[1].clone();
    for cut in before.len()..=after.len() {
        let torn: State = [Some(after[..cut].to_vec()), old[1].clone(), next.clone(), old[3].clone()];
        put(folder.path(), &torn);
        assert_eq!(verify_ledger(folder.path(), None).unwrap().torn, cut - before.len());
        assert_eq!(state(folder.path()), torn, "verifying changes nothing");
        let again = Ledger::open(folder.path()).unwrap();
        let (size, expected) = if cut == after.len() { (5, &new) } else { (4, &old) };
        assert_eq!((again.size(), &state(folder.path())), (size, expected), "cut at {cut}");
    }
    // Committed, and not acknowledged yet.
    put(folder.path(), &[new[0].clone(), new[1].clone(), None, old[3].clone()]);
    let mut again = Ledger::open(folder.path()).unwrap();
    assert_eq!((again.size(), state(folder.path())), (5, new));
    assert_eq!(again.append("leaseTaken", WALL, json!({"n": 6})).unwrap(), 5);
}

/// The line that was being written has its length on disk, and not its content.
#[test]
fn a_line_of_garbage_of_an_interrupted_append_is_cut() {
    let (folder, mut ledger) = filled(4);
    let old = state(folder.path());
    ledger.append("leaseTaken", WALL, json!({"n": 5})).unwrap();
    let new = state(folder.path());
    let mut garbage = old[0].clone().unwrap();
    garbage.resize(new[0].as_ref().unwrap().len() - 1, 0);
    garbage.push(b'\n');
    put(folder.path(), &[Some(garbage), old[1].clone(), new[1].clone(), old[3].clone()]);
    assert_eq!(Ledger::open(folder.path()).unwrap().size(), 4);
    assert_eq!(state(folder.path()), old);
}

/// Somebody puts files of an earlier moment back: nothing that was acknowledged may be cut, and nothing is changed.
#[test]
fn files_that_were_put_back_are_refused_and_nothing_is_cut() {
    let (folder, mut ledger) = filled(4);
    ledger.append("leaseTaken", WALL, json!({"n": 4})).unwrap();
    let old = state(folder.path());
    let sealed = ledger.register_attempt(WALL, &registration("lose-north")).unwrap();
    let middle = state(folder.path());
    ledger.append("attemptSealed", WALL, seal_of("lose-north", sealed)).unwrap();
    let new = state(folder.path());
    let [log, checkpoint, _, mark] = new.clone();
    let cut = |state: &State| Some(state[0].clone().unwrap()[..new[0].as_ref().unwrap().len() - 7].to_vec());
    let cases: Vec<(&str, State, &str)> = vec![
        (
            "the checkpoint of one entry ago",
            [log.clone(), middle[1].clone(), None, mark.clone()],
            "replaced by an older one",
        ),
        (
            "the checkpoint of two entries ago",
            [log.clone(), old[1].clone(), None, mark.clone()],
            "replaced by an older one",
        ),
        (
            "checkpoint and high-water of one entry ago",
            [log.clone(), middle[1].clone(), None, middle[3].clone()],
            "1 whole entry stands behind",
        ),
        (
            "checkpoint and high-water of two entries ago",
            [log.clone(), old[1].clone(), None, old[3].clone()],
            "2 whole entries stand behind",
        ),
        ("no high-water", [log.clone(), checkpoint.clone(), None, None], "high-water is missing"),
        (
            "an old high-water",
            [log.clone(), checkpoint, None, old[3].clone()],
            "high-water was replaced by an older one",
        ),
        (
            "log and checkpoint of one entry ago",
            [middle[0].clone(), middle[1].clone(), None, mark],
            "were acknowledged",
        ),
        (
            "the last entry cut, with checkpoint and high-water of one entry ago",
            [cut(&new), middle[1].clone(), None, middle[3].clone()],
            "no append was under way",
        ),
    ];
    for (what, state_of_case, words) in cases {
        put(folder.path(), &state_of_case);
        let why = refused(folder.path());
        assert!(why.contains(words) && why.contains("newest backup"), "{what}: {why}");
        assert_eq!(state(folder.path()), state_of_case, "{what}");
    }
    put(folder.path(), &new);
    assert_eq!(Ledger::open(folder.path()).unwrap().size(), 7);
}

/// A ledger of format 1: entries without a version, no high-water mark. It is taken over, and goes on in format 2.
#[test]
fn a_ledger_of_format_1_is_taken_over() {
    let folder = tempfile::tempdir().unwrap();
    let key = first_ledger(folder.path(), 3);
    let mut ledger = Ledger::open(folder.path()).unwrap();
    assert_eq!(ledger.key().to_string(), key.to_string());
    assert_eq!(ledger.attempts().of("lose-east").len(), 1);
    let why = ledger.register_attempt(WALL, &registration("lose-east")).unwrap_err().to_string();
    assert!(why.contains("no seal of attempt 1"), "{why}");
    ledger.append("attemptSealed", WALL, seal_of("lose-east", 1)).unwrap();
    assert_eq!(ledger.register_attempt(WALL, &registration("lose-east")).unwrap(), 2);
    let entries = ledger.entries(0).unwrap();
    assert_eq!(entries.iter().map(|entry| entry.version).collect::<Vec<_>>(), [1, 1, 1, 2, 2]);
    assert_eq!(entries[4].body["previous"]["entry"], 3);
    assert_eq!(verify_ledger(folder.path(), Some(&key)).unwrap().attempts, 2);
    // A torn line of format 1 was cut; a whole line behind the checkpoint may be a checkpoint that was put back.
    let folder = tempfile::tempdir().unwrap();
    first_ledger(folder.path(), 3);
    let log = folder.path().join("entries.log");
    let mut torn = fs::read(&log).unwrap();
    torn.extend_from_slice(b"0123abcd");
    fs::write(&log, torn).unwrap();
    assert_eq!(Ledger::open(folder.path()).unwrap().size(), 3);
    let folder = tempfile::tempdir().unwrap();
    first_ledger(folder.path(), 3);
    let earlier = tempfile::tempdir().unwrap();
    first_ledger(earlier.path(), 2);
    fs::copy(earlier.path().join("checkpoint"), folder.path().join("checkpoint")).unwrap();
    assert!(refused(folder.path()).contains("1 whole entry stands behind"), "{}", refused(folder.path()));
}

/// A registration, and others around it.
fn first_ledger(folder: &Path, entries: usize) -> VerifierKey {
    let registered = registration("lose-east");
    let body = json!({
        "drill": "lose-east", "number": 1, "digest": registered.digest().unwrap(),
        "registration": serde_json::to_value(&registered).unwrap(),
    });
    let bodies = [("configurationApplied", json!({})), ("attemptRegistered", body), ("leaseTaken", json!({"n": 1}))];
    let bodies = bodies.map(|(kind, body)| (kind.to_owned(), body)).into_iter().take(entries);
    ledger_of_format_1(folder, &bodies.collect::<Vec<_>>())
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
                    let mut numbers = Vec::new();
                    while numbers.len() < 5 {
                        // Refused while another writer's attempt is open.
                        let Ok(number) = ledger.register_attempt(WALL, &registration("lose-east")) else { continue };
                        ledger.append("attemptSealed", WALL, seal_of("lose-east", number)).unwrap();
                        numbers.push(number);
                    }
                    numbers
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
        let drill = format!("lose-{}-{n}", std::process::id());
        ledger.register_attempt(WALL, &registration(&drill)).unwrap();
        ledger.append("leaseTaken", WALL, json!({"n": n})).unwrap();
        fs::write(Path::new(&folder).join(format!("returned-{drill}")), b"").unwrap();
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
        while returned(folder.path()) < until {
            std::thread::yield_now();
            assert!(writers.iter_mut().all(|writer| writer.try_wait().unwrap().is_none()), "a writer failed");
        }
        for writer in &mut writers {
            writer.kill().unwrap();
            writer.wait().unwrap();
        }
        let found = verify_ledger(folder.path(), None).unwrap().attempts;
        let opened = Ledger::open(folder.path()).unwrap().attempts().all().count() as u64;
        // An append that was durable and not acknowledged is completed when the ledger is opened.
        assert!(opened == found || opened == found + 1, "{opened} attempts, {found} before");
        attempts = returned(folder.path());
        assert!(found >= attempts, "{found} attempts, {attempts} were returned");
    }
}

fn returned(folder: &Path) -> u64 {
    let names = fs::read_dir(folder).unwrap().map(|file| file.unwrap().file_name());
    names.filter(|name| name.to_string_lossy().starts_with("returned-")).count() as u64
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
