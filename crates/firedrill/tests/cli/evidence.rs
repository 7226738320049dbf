//! `evidence verify` as a user meets it: signers, several files, ledgers, and what is not a file.

use std::{fs, os::unix::net::UnixListener, path::Path, process::Command};

use serde_json::Value;

use super::{Ran, run};

/// Bundles that earlier versions sealed.
fn golden(name: &str) -> String {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../evidence/tests/golden-v1").join(name);
    path.canonicalize().unwrap().to_str().unwrap().to_owned()
}

/// The public key that a bundle carries, as its owner would hand it over.
fn key_of(bundle: &str) -> String {
    let bytes = fs::read(bundle).unwrap();
    let text = String::from_utf8_lossy(&bytes);
    let at = text.rfind("firedrill.dev/ledger/").unwrap();
    text[at..].lines().next().unwrap().to_owned()
}

fn verify(folder: &Path, more: &[&str]) -> Ran {
    run(folder, &[&["evidence", "verify"], more].concat())
}

#[test]
fn a_signer_that_nobody_named_is_said_and_is_no_success() {
    let folder = tempfile::tempdir().unwrap();
    let bundle = golden("passed.drill");
    let key = key_of(&bundle);
    fs::write(folder.path().join("key.pub"), format!("{key}\n")).unwrap();
    for (more, code, words) in [
        (vec![], 6, "VERIFIED, SIGNER UNKNOWN   lose-east, attempt 1, verdict passed"),
        (vec!["--allow-unknown-key"], 0, "VERIFIED, SIGNER UNKNOWN   lose-east"),
        (vec!["--key", &key], 0, "VERIFIED   lose-east, attempt 1, verdict passed"),
        (vec!["--key", "key.pub"], 0, "VERIFIED   lose-east, attempt 1, verdict passed"),
        (vec!["--key", &key_of(&golden("failed.drill"))], 1, "NOT TO BE TRUSTED"),
    ] {
        let ran = verify(folder.path(), &[&[bundle.as_str()], more.as_slice()].concat());
        assert_eq!(ran.code, code, "{more:?}: {ran:?}");
        assert!(ran.out.contains(words), "{more:?}: {}", ran.out);
        let json = verify(folder.path(), &[&[bundle.as_str(), "--format", "json"], more.as_slice()].concat());
        let answer: Value = serde_json::from_str(&json.out).unwrap();
        assert_eq!((json.code, &answer["ok"]), (code, &Value::Bool(code == 0)));
        assert_eq!(
            answer["trust"],
            ["verified", "notTrusted", "signerUnknown"][match code {
                0 if more[0] == "--allow-unknown-key" => 2,
                0 => 0,
                1 => 1,
                _ => 2,
            }]
        );
        assert_eq!(answer["signerKnown"], more.first().is_some_and(|first| *first == "--key"));
    }
}

/// Two bundles of one attempt, from a ledger and from a copy of it.
#[test]
fn bundles_and_ledgers_that_tell_two_histories_are_found() {
    let folder = tempfile::tempdir().unwrap();
    let at = folder.path();
    let seal = |ledger: &str, out: &str, reason: &str| {
        use evidence::record::{Anchor, Ending, Objectives, Registration};
        let mut ledger = evidence::ledger::Ledger::open(&at.join(ledger)).unwrap();
        let registration = Registration {
            drill: "lose-east".into(),
            plan: "bank-west".into(),
            registered: serde_json::json!({}),
            about: serde_json::json!({}),
            lost_region: None,
            recovery_regions: vec![],
            anchor: Anchor { wall: 1_795_000_000_000_000_000, error: 1_000 },
            objectives: Objectives {
                recovery_time: None,
                data_loss: None,
                success_rate: 99.0,
                latency_p99: None,
                sustain: 1_000_000_000,
                ..Objectives::default()
            },
            tested: evidence::record::Tested::default(),
            normal: vec![],
        };
        let number = ledger.register_attempt(1_795_000_000_000_000_000, &registration).unwrap();
        let attempt = registration.attempt(number, Ending::Aborted { reason: reason.into() }).unwrap();
        evidence::bundle::seal(&attempt, &mut ledger, 1_795_000_001_000_000_000, &at.join(out)).unwrap();
    };
    seal("ledger", "out", "one");
    let copied = Command::new("cp").args(["-r", "ledger", "copy"]).current_dir(at).status().unwrap();
    assert!(copied.success());
    seal("ledger", "out", "the guard tripped");
    seal("copy", "again", "by hand");
    let key = ["--key", "ledger/key.pub"];
    for (files, code, words) in [
        (vec!["out/lose-east-1.drill", "out/lose-east-2.drill"], 0, "continues the history of"),
        (
            vec!["out/lose-east-2.drill", "again/lose-east-2.drill"],
            1,
            "copied or rolled back, and then continued twice",
        ),
        (vec!["out/lose-east-1.drill", "again/lose-east-2.drill"], 0, "continues the history of"),
        (vec!["copy/checkpoint", "again/lose-east-2.drill"], 0, "continues the history of"),
        (vec!["copy/checkpoint", "out/lose-east-2.drill"], 1, "the first 4 entries of the ledger are others"),
    ] {
        let ran = verify(at, &[files.as_slice(), &key].concat());
        assert_eq!(ran.code, code, "{files:?}: {ran:?}");
        assert!(ran.out.contains(words), "{files:?}: {}", ran.out);
    }
    for (bundle, ledger, code) in [
        ("out/lose-east-2.drill", "ledger", 0),
        ("again/lose-east-2.drill", "copy", 0),
        ("out/lose-east-2.drill", "copy", 1),
        ("again/lose-east-2.drill", "ledger", 1),
    ] {
        let ran = verify(at, &[bundle, "--ledger", ledger]);
        assert_eq!(ran.code, code, "{bundle} {ledger}: {ran:?}");
        let json = verify(at, &[bundle, "--ledger", ledger, "--format", "json"]);
        let answer: Value = serde_json::from_str(&json.out).unwrap();
        assert_eq!(answer["history"][0]["outcome"], if code == 0 { "passed" } else { "failed" });
    }
    let whole = verify(at, &["ledger"]);
    assert_eq!(whole.code, 6, "{whole:?}");
    assert!(whole.out.contains("VERIFIED, SIGNER UNKNOWN"), "{}", whole.out);
    assert_eq!(verify(at, &["ledger", "--key", "ledger/key.pub"]).code, 0);
}

/// Devices, pipes, sockets and folders end at once, with a sentence.
#[test]
fn only_regular_files_are_read() {
    let folder = tempfile::tempdir().unwrap();
    let at = folder.path();
    assert!(Command::new("mkfifo").arg(at.join("pipe")).status().unwrap().success());
    let _socket = UnixListener::bind(at.join("socket")).unwrap();
    fs::create_dir(at.join("folder")).unwrap();
    let sparse = fs::File::create(at.join("sparse.drill")).unwrap();
    sparse.set_len(1 << 40).unwrap();
    for (path, words) in [
        ("/dev/zero", "is a device, not a regular file"),
        ("/dev/stdin", "not a regular file"),
        ("pipe", "is a pipe, not a regular file"),
        ("socket", "is a socket, not a regular file"),
        ("sparse.drill", "bytes"),
    ] {
        for command in [["evidence", "verify"], ["evidence", "show"]] {
            let ran = run(at, &[&command[..], &[path]].concat());
            assert_eq!(ran.code, 2, "{command:?} {path}: {ran:?}");
            assert!(ran.err.contains(words), "{command:?} {path}: {}", ran.err);
        }
        let ran = verify(at, &[&golden("passed.drill"), "--key", path]);
        assert_eq!(ran.code, 2, "--key {path}: {ran:?}");
    }
    let ran = verify(at, &["folder"]);
    assert_eq!(ran.code, 1, "{ran:?}");
    assert!(ran.out.contains("not the folder of a ledger"), "{}", ran.out);
    // The files of a ledger are no pipes either.
    fs::write(at.join("folder/key.pub"), key_of(&golden("passed.drill"))).unwrap();
    assert!(Command::new("mkfifo").arg(at.join("folder/checkpoint")).status().unwrap().success());
    let ran = verify(at, &["folder"]);
    assert_eq!(ran.code, 1, "{ran:?}");
    assert!(ran.out.contains("is a pipe"), "{}", ran.out);
}
