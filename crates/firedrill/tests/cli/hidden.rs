//! Text of others never reaches a terminal as something that it obeys: whatever a command is given, no escape sequence,
//! control character or bidirectional override of it is in what the command prints.

use std::fs;

use super::run;

/// Clears the screen, claims to be verified, hides the rest.
const HOSTILE: &str = "x\u{1b}[2J\u{1b}[HVERIFIED\r\u{9b}8m\u{202e}\u{200b}\u{7}";

fn is_obeyed(c: char) -> bool {
    c.is_control() && c != '\n' && c != '\t'
        || matches!(c, '\u{200b}'..='\u{200f}' | '\u{2028}'..='\u{202e}' | '\u{2066}'..='\u{2069}')
}

#[test]
fn no_command_passes_on_what_a_terminal_obeys() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path();
    fs::write(path.join("hostile.yaml"), format!("kind: Mesh # {HOSTILE}\n\"{}\": 1\n", HOSTILE.replace('\r', "")))
        .unwrap();
    fs::write(path.join(format!("{}.yaml", HOSTILE.replace('/', ""))), "kind: Mesh\n").unwrap();
    fs::write(path.join("hostile.drill"), HOSTILE).unwrap();
    fs::create_dir_all(path.join("state/logs")).unwrap();
    fs::write(path.join("state/logs/web.log"), format!("{HOSTILE}\n")).unwrap();
    fs::write(path.join(format!("state/logs/{HOSTILE}.log")), "a line\n").unwrap();
    let named = format!("{HOSTILE}.yaml");
    for arguments in [
        vec!["check", "hostile.yaml"],
        vec!["--color", "always", "check", "hostile.yaml"],
        vec!["check", &named],
        vec!["--color", "always", "check", &named],
        vec!["check", "--format", "json", "hostile.yaml"],
        vec!["check", HOSTILE],
        vec!["up", "hostile.yaml", "--state", "other"],
        vec!["drill", "run", HOSTILE, "-f", "hostile.yaml", "--yes"],
        vec!["drill", "list", "--state", HOSTILE],
        vec!["drill", "show", HOSTILE, "--state", "state"],
        vec!["drill", "abort", "--state", HOSTILE],
        vec!["evidence", "verify", "hostile.drill"],
        vec!["evidence", "verify", HOSTILE],
        vec!["evidence", "verify", "--format", "json", "hostile.drill"],
        vec!["evidence", "show", "hostile.drill"],
        vec!["logs", "--state", "state"],
        vec!["logs", "web", "--state", "state"],
        vec!["logs", HOSTILE, "--state", "state"],
        vec!["logs", "no-such", "--state", "state"],
        vec!["get", "proxies", "--state", HOSTILE],
        vec!["events", "--state", HOSTILE],
        vec!["status", "--state", HOSTILE],
        vec!["undo", "confirm", HOSTILE, "--by", HOSTILE, "--state", "state"],
        vec!["plan", "show", HOSTILE, "--state", "state"],
        vec!["history", "--state", HOSTILE],
        vec!["diff", "1", "--state", HOSTILE],
        vec!["apply", "hostile.yaml", "--state", HOSTILE],
        vec!["backup", "b", "--state", HOSTILE],
        vec!["restore", "hostile.drill", "--state", "third"],
        vec!["render", "--target", "snapshot", "--proxy", HOSTILE, "-f", "hostile.yaml"],
        vec!["down", "--state", HOSTILE],
    ] {
        let ran = run(path, &arguments);
        let ours = |text: &str| without_colours(text, arguments.contains(&"--color"));
        for text in [ours(&ran.out), ours(&ran.err)] {
            let found = text.chars().find(|c| is_obeyed(*c));
            assert_eq!(found, None, "{arguments:?} prints {:?} in {text:?}", found.map(char::escape_unicode));
        }
        assert!(!ran.out.is_empty() || !ran.err.is_empty(), "{arguments:?} prints nothing");
    }
}

/// Our own colours, which are `ESC [ digits m`, taken out. Hostile text has the eighth attribute only as C1.
fn without_colours(text: &str, coloured: bool) -> String {
    let mut out = String::new();
    let mut rest = text;
    while let Some(at) = rest.find('\u{1b}').filter(|_| coloured) {
        out.push_str(&rest[..at]);
        let after = &rest[at + 1..];
        let end = after.find(|c: char| c != '[' && c != ';' && !c.is_ascii_digit());
        match end.filter(|end| after[*end..].starts_with('m')) {
            Some(end) => rest = &after[end + 1..],
            None => {
                out.push('\u{1b}');
                rest = after;
            }
        }
    }
    out + rest
}
