//! What changed between two sets of manifests, line by line.

use std::collections::BTreeMap;

use console::visible::visible;
use control::api::{ManifestFile, ObjectChanges};
use serde_json::{Value, json};
use similar::TextDiff;

use crate::terminal::{Terminal, Tone};

/// Lines shown around a change.
const AROUND: usize = 3;

/// A file that changed, as a unified diff.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct FileChange {
    /// Its name.
    pub path: String,
    /// The diff, with its two header lines.
    pub diff: String,
}

/// Files of which the text is another, by name.
pub fn files(old: &[ManifestFile], new: &[ManifestFile]) -> Vec<FileChange> {
    let by_path = |files: &[ManifestFile]| -> BTreeMap<String, String> {
        files.iter().map(|file| (file.path.clone(), file.text.clone())).collect()
    };
    let (old, new) = (by_path(old), by_path(new));
    let mut paths: Vec<&String> = old.keys().chain(new.keys()).collect();
    paths.sort();
    paths.dedup();
    let change = |path: &String| {
        let text = |of: &BTreeMap<String, String>| of.get(path).cloned().unwrap_or_default();
        let name = |of: &BTreeMap<String, String>| if of.contains_key(path) { path } else { "/dev/null" }.to_owned();
        let (before, after) = (text(&old), text(&new));
        let changed = before != after || old.contains_key(path) != new.contains_key(path);
        changed.then(|| {
            let diff = TextDiff::from_lines(&before, &after);
            let diff = diff.unified_diff().context_radius(AROUND).header(&name(&old), &name(&new)).to_string();
            FileChange { path: path.clone(), diff }
        })
    };
    paths.into_iter().filter_map(change).collect()
}

/// The same for a terminal.
pub fn text(changes: &[FileChange], terminal: &Terminal) -> String {
    let mut out = String::new();
    for line in changes.iter().flat_map(|change| change.diff.lines()) {
        let line = visible(line);
        let tone = match line.as_bytes() {
            [b'+', b'+', b'+', b' ', ..] | [b'-', b'-', b'-', b' ', ..] => Some(Tone::Strong),
            [b'+', ..] => Some(Tone::Good),
            [b'-', ..] => Some(Tone::Bad),
            [b'@', ..] => Some(Tone::Dim),
            _ => None,
        };
        match tone {
            Some(tone) => out.push_str(&terminal.paint(tone, line)),
            None => out.push_str(&line),
        }
        out.push('\n');
    }
    out
}

/// The same for programs.
pub fn json(changes: &[FileChange]) -> Value {
    changes.iter().map(|change| json!({"path": change.path, "diff": change.diff})).collect()
}

/// Objects that came, went or say something else, a line each.
pub fn objects(changes: &ObjectChanges, terminal: &Terminal) -> String {
    let line =
        |tone: Tone, sign: &str, name: &String| format!("{}\n", terminal.paint(tone, format_args!("{sign} {name}")));
    let added = changes.added.iter().map(|name| line(Tone::Good, "+", name));
    let changed = changes.changed.iter().map(|name| line(Tone::Warn, "~", name));
    let removed = changes.removed.iter().map(|name| line(Tone::Bad, "-", name));
    added.chain(changed).chain(removed).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::terminal::{Lines, When, shown};

    fn file(path: &str, text: &str) -> ManifestFile {
        ManifestFile { path: path.to_owned(), text: text.to_owned() }
    }

    #[test]
    fn only_what_changed_is_shown_and_only_a_terminal_gets_colours() {
        let old = [file("a.yaml", "1\n2\n3\n"), file("b.yaml", "x\n"), file("same.yaml", "s\n")];
        let new = [file("a.yaml", "1\ntwo\n3\n"), file("c.yaml", "\u{1b}[2J\n"), file("same.yaml", "s\n")];
        let changes = files(&old, &new);
        assert_eq!(changes.iter().map(|c| c.path.as_str()).collect::<Vec<_>>(), ["a.yaml", "b.yaml", "c.yaml"]);
        let plain = text(&changes, &Terminal::new(When::Never));
        let expected = "--- a.yaml\n+++ a.yaml\n@@ -1,3 +1,3 @@\n 1\n-2\n+two\n 3\n--- b.yaml\n+++ /dev/null\n@@ -1 +0,0 @@\n-x\n\
                        --- /dev/null\n+++ c.yaml\n@@ -0,0 +1 @@\n+\\u001b[2J\n";
        assert_eq!(plain, expected);
        let coloured = shown(&text(&changes, &Terminal::new(When::Always)), Lines::Many);
        assert!(coloured.contains("\u{1b}[32m+two"), "{coloured:?}");
        assert!(files(&old, &old).is_empty());
    }
}
