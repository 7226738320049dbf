//! Where problems go while manifests are read.

use std::collections::BTreeMap;

use crate::{
    problem::{Place, Problem, Related, Severity, Source},
    tree::Loc,
};

/// Most problems that are kept; a file that is not a manifest at all should not flood the reader.
const PROBLEMS: usize = 200;

/// Where problems go.
pub(crate) struct Cx<'a> {
    sources: &'a [Source],
    /// Offsets at which lines begin, per source.
    lines: Vec<Vec<usize>>,
    problems: Vec<Problem>,
    /// Errors so far, those beyond the limit too.
    errors: usize,
    /// Takes what is beyond the limit.
    spill: Problem,
}

impl<'a> Cx<'a> {
    pub(crate) fn new(sources: &'a [Source]) -> Self {
        let begins = |s: &Source| {
            let after_breaks = s.text.bytes().enumerate().filter(|(_, b)| *b == b'\n').map(|(i, _)| i + 1);
            std::iter::once(0).chain(after_breaks).collect()
        };
        let lines = sources.iter().map(begins).collect();
        Self {
            sources,
            lines,
            problems: Vec::new(),
            errors: 0,
            spill: blank(Severity::Error, "", Place::nowhere(), String::new()),
        }
    }

    /// Place of a range of bytes.
    pub(crate) fn place(&self, at: Loc) -> Place {
        let (Some(source), Some(lines)) = (self.sources.get(at.file), self.lines.get(at.file)) else {
            return Place::nowhere();
        };
        let line = lines.partition_point(|begin| *begin <= at.start).max(1);
        let begin = lines.get(line - 1).copied().unwrap_or(0);
        let column = source.text.get(begin..at.start).map_or(0, |before| before.chars().count()) + 1;
        Place { path: source.path.clone(), line, column, offset: at.start, length: at.end - at.start }
    }

    /// Text of a range of bytes.
    pub(crate) fn text(&self, at: Loc) -> &'a str {
        self.sources.get(at.file).and_then(|s| s.text.get(at.start..at.end)).unwrap_or_default()
    }

    fn push(&mut self, severity: Severity, code: &'static str, at: Option<Loc>, message: String) -> &mut Problem {
        self.errors += usize::from(severity == Severity::Error);
        if self.problems.len() >= PROBLEMS {
            return &mut self.spill;
        }
        let place = at.map_or_else(Place::nowhere, |at| self.place(at));
        self.problems.push(blank(severity, code, place, message));
        self.problems.last_mut().unwrap_or(&mut self.spill)
    }

    pub(crate) fn error(&mut self, code: &'static str, at: Loc, message: impl Into<String>) -> &mut Problem {
        self.push(Severity::Error, code, Some(at), message.into())
    }

    pub(crate) fn warning(&mut self, code: &'static str, at: Loc, message: impl Into<String>) -> &mut Problem {
        self.push(Severity::Warning, code, Some(at), message.into())
    }

    /// An error of the whole set of files.
    pub(crate) fn error_nowhere(&mut self, code: &'static str, message: impl Into<String>) -> &mut Problem {
        self.push(Severity::Error, code, None, message.into())
    }

    /// Errors so far: compare before and after to know whether a part is sound.
    pub(crate) fn errors(&self) -> usize {
        self.errors
    }

    /// No more problems are kept: looking for the best help is wasted.
    pub(crate) fn is_full(&self) -> bool {
        self.problems.len() >= PROBLEMS
    }

    /// All problems, by file and place.
    pub(crate) fn finish(self) -> Vec<Problem> {
        let order: BTreeMap<&str, usize> = self.sources.iter().enumerate().map(|(i, s)| (s.path.as_str(), i)).collect();
        let mut problems = self.problems;
        problems.sort_by_key(|p| (order.get(p.place.path.as_str()).copied(), p.place.offset));
        if problems.len() >= PROBLEMS {
            let message = format!("there may be more: at most {PROBLEMS} problems are shown at once");
            problems.push(blank(Severity::Warning, "too-many-problems", Place::nowhere(), message));
        }
        problems
    }
}

impl Place {
    fn nowhere() -> Self {
        Self { path: String::new(), line: 1, column: 1, offset: 0, length: 0 }
    }
}

fn blank(severity: Severity, code: &'static str, place: Place, message: String) -> Problem {
    Problem { severity, code, place, message, help: None, related: Vec::new() }
}

impl Problem {
    pub(crate) fn mend(&mut self, help: impl Into<String>) -> &mut Self {
        self.help = Some(help.into());
        self
    }

    pub(crate) fn see(&mut self, place: Place, message: impl Into<String>) -> &mut Self {
        self.related.push(Related { place, message: message.into() });
        self
    }
}
