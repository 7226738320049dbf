//! What is wrong with a manifest, where, and how to mend it.

use std::fmt::Write as _;

use serde::Serialize;

/// A file of manifests.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Source {
    /// As it shall be named in problems.
    pub path: String,
    /// YAML, any number of documents.
    pub text: String,
}

/// How bad a problem is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "camelCase")]
pub enum Severity {
    /// There is no configuration until it is mended.
    Error,
    /// Allowed, but probably not meant.
    Warning,
}

/// A place in a file.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Place {
    /// [`Source::path`]; empty when there was no file at all.
    pub path: String,
    /// From 1.
    pub line: usize,
    /// In characters, from 1.
    pub column: usize,
    /// In bytes from the start of the file.
    pub offset: usize,
    /// In bytes; offset and offset + length are character boundaries of the text.
    pub length: usize,
}

/// One thing that is wrong, for the person who must mend it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Problem {
    /// How bad.
    pub severity: Severity,
    /// Stable name of the rule, as `unknown-field`.
    pub code: &'static str,
    /// Where.
    #[serde(flatten)]
    pub place: Place,
    /// What is wrong: a clause without full stop.
    pub message: String,
    /// How to mend it.
    pub help: Option<String>,
    /// Other places that matter, each with what it is.
    pub related: Vec<Related>,
}

/// Another place that matters for a problem.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Related {
    /// Where.
    #[serde(flatten)]
    pub place: Place,
    /// What is there, as `first named here`.
    pub message: String,
}

/// Longest excerpt of a line that is shown, in characters.
const EXCERPT: usize = 160;

impl Problem {
    /// Plain text of several lines, for terminals without graphics and for tests: place, severity, code, message,
    /// the line with the span underlined, related places, help. `sources` are those that were parsed.
    pub fn render(&self, sources: &[Source]) -> String {
        let severity = match self.severity {
            Severity::Error => "error",
            Severity::Warning => "warning",
        };
        let mut out = String::new();
        let Place { path, line, column, .. } = &self.place;
        if path.is_empty() {
            let _ = writeln!(out, "{severity}[{}]: {}", self.code, self.message);
        } else {
            let _ = writeln!(out, "{path}:{line}:{column}: {severity}[{}]: {}", self.code, self.message);
        }
        excerpt(&mut out, &self.place, sources);
        for related in &self.related {
            let Place { path, line, column, .. } = &related.place;
            let _ = writeln!(out, "  note: {} ({path}:{line}:{column})", related.message);
            excerpt(&mut out, &related.place, sources);
        }
        if let Some(help) = &self.help {
            let _ = writeln!(out, "  help: {help}");
        }
        out
    }
}

fn excerpt(out: &mut String, place: &Place, sources: &[Source]) {
    let Some(source) = sources.iter().find(|s| s.path == place.path) else { return };
    let Some(line) = source.text.lines().nth(place.line.saturating_sub(1)) else { return };
    let number = place.line.to_string();
    // A long line is shown from a little before the place on.
    let skip = if place.column + 40 > EXCERPT { place.column.saturating_sub(40) } else { 0 };
    let printable = |c: char| if c.is_control() { ' ' } else { c };
    let shown: String = line.chars().skip(skip).take(EXCERPT).map(printable).collect();
    let indent = place.column.saturating_sub(1).saturating_sub(skip);
    let rest = shown.chars().count().saturating_sub(indent).max(1);
    let end = place.offset.saturating_add(place.length);
    let marked = source.text.get(place.offset..end).unwrap_or_default();
    let width = marked.lines().next().unwrap_or_default().trim_end().chars().count().clamp(1, rest);
    let _ = writeln!(out, "  {number} | {shown}");
    let _ = writeln!(out, "  {:w$} | {:indent$}{}", "", "", "^".repeat(width), w = number.len());
}
