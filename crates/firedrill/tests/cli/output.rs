//! Exit codes, errors as sentences, closed pipes.

use std::{fs, process::Stdio};

use super::{command, run};

/// Arguments, exit code, words of standard error.
const ENDINGS: &[(&[&str], i32, &str)] = &[
    (&["nonsense"], 2, "unrecognized subcommand"),
    (&["check"], 2, "firedrill init"),
    (&["check", "-f", "missing.yaml"], 2, "no such file"),
    (&["drill", "run", "lose-east"], 2, "there is no manifest"),
    (&["drill", "run", "nothing", "-f", "shop"], 2, "the manifests hold: lose-east"),
    (&["drill", "show", "lose-east"], 2, "firedrill drill list"),
    (&["drill", "abort"], 2, "no drill runs"),
    (&["drill", "list"], 0, ""),
    (&["drill", "list", "-f", "shop"], 0, ""),
    (&["get", "proxies"], 2, "firedrill up"),
    (&["events"], 2, "firedrill up"),
    (&["evidence", "verify", "missing.drill"], 2, "o such file"),
    (&["evidence", "verify", "garbage.drill"], 1, ""),
    (&["evidence", "verify", "garbage.drill", "--format", "json"], 1, ""),
    (&["evidence", "verify", "garbage.drill", "--key", "garbage"], 2, "--key"),
    (&["evidence", "show", "garbage.drill"], 1, "firedrill evidence verify garbage.drill"),
    (&["evidence", "verify", "empty"], 1, ""),
];

#[test]
fn exit_codes_and_errors() {
    let folder = tempfile::tempdir().unwrap();
    fs::write(folder.path().join("garbage.drill"), b"\x00\xff not a bundle").unwrap();
    fs::create_dir(folder.path().join("empty")).unwrap();
    assert_eq!(run(folder.path(), &["init", "shop"]).code, 0);
    for (arguments, code, words) in ENDINGS {
        let ran = run(folder.path(), arguments);
        assert_eq!(ran.code, *code, "{arguments:?}: {ran:?}");
        assert!(ran.err.contains(words), "{arguments:?}: {}", ran.err);
        assert!(!ran.err.contains("panicked") && !ran.err.contains("backtrace"), "{arguments:?}: {}", ran.err);
    }
    assert!(!folder.path().join(".firedrill").exists(), "commands that only look leave nothing behind");
}

#[test]
fn a_reader_that_goes_away_is_no_error() {
    let folder = tempfile::tempdir().unwrap();
    for arguments in [["schema"].as_slice(), &["completion", "bash"]] {
        let mut child =
            command(folder.path(), arguments).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
        drop(child.stdout.take());
        let output = child.wait_with_output().unwrap();
        assert_eq!(output.status.code(), Some(0), "{arguments:?}");
        assert_eq!(String::from_utf8(output.stderr).unwrap(), "", "{arguments:?}");
    }
}

#[test]
fn a_verification_that_fails_says_so_in_json_too() {
    let folder = tempfile::tempdir().unwrap();
    fs::write(folder.path().join("garbage.drill"), b"garbage").unwrap();
    let ran = run(folder.path(), &["evidence", "verify", "garbage.drill", "--format", "json"]);
    let answer: serde_json::Value = serde_json::from_str(&ran.out).unwrap();
    assert_eq!(answer["ok"], false);
    assert!(answer["checks"].as_array().unwrap().iter().any(|check| check["outcome"] == "failed"));
}
