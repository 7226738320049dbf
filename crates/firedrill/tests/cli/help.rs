//! Help texts are read by people: every change to one is looked at.

use super::{run, transcript};

const COMMANDS: &[&[&str]] = &[
    &[],
    &["demo"],
    &["init"],
    &["check"],
    &["apply"],
    &["history"],
    &["diff"],
    &["rollback"],
    &["backup"],
    &["restore"],
    &["control"],
    &["schema"],
    &["up"],
    &["drill"],
    &["drill", "run"],
    &["drill", "list"],
    &["drill", "show"],
    &["drill", "abort"],
    &["plan"],
    &["plan", "list"],
    &["plan", "show"],
    &["plan", "run"],
    &["plan", "failback"],
    &["evidence"],
    &["evidence", "verify"],
    &["evidence", "show"],
    &["status"],
    &["undo"],
    &["undo", "list"],
    &["undo", "run"],
    &["undo", "confirm"],
    &["get"],
    &["events"],
    &["render"],
    &["completion"],
];

#[test]
fn help_of_every_command() {
    let folder = tempfile::tempdir().unwrap();
    for command in COMMANDS {
        let name = if command.is_empty() { "firedrill".to_owned() } else { command.join("-") };
        let arguments: Vec<&str> = command.iter().copied().chain(["--help"]).collect();
        insta::assert_snapshot!(format!("help-{name}"), transcript(folder.path(), &arguments));
    }
}

#[test]
fn help_fits_a_terminal() {
    let folder = tempfile::tempdir().unwrap();
    for command in COMMANDS {
        let arguments: Vec<&str> = command.iter().copied().chain(["--help"]).collect();
        for line in run(folder.path(), &arguments).out.lines() {
            assert!(line.chars().count() <= 100, "{command:?}: {line}");
        }
    }
}

#[test]
fn without_a_command_it_says_what_there_is() {
    let folder = tempfile::tempdir().unwrap();
    let ran = run(folder.path(), &[]);
    assert_eq!(ran.code, 2);
    assert!(ran.err.contains("firedrill demo"), "{}", ran.err);
}

#[test]
fn completion_knows_the_commands() {
    let folder = tempfile::tempdir().unwrap();
    for shell in ["bash", "zsh", "fish", "elvish", "powershell"] {
        let ran = run(folder.path(), &["completion", shell]);
        assert_eq!((ran.code, ran.err.as_str()), (0, ""), "{shell}");
        for word in ["firedrill", "drill", "evidence", "verify", "completion", "failback"] {
            assert!(ran.out.contains(word), "{shell} does not know {word}");
        }
    }
}
