//! What the user writes: manifest kinds, units, validation with positions, defaults, JSON Schema.
//!
//! Pure: no I/O, no async. Text goes in with the name of its file; a [`config::Config`] comes out, or every problem at
//! once with its position and how to mend it.

#![cfg_attr(test, allow(clippy::unwrap_used, clippy::expect_used, clippy::panic))]

pub mod config;
mod lower;
pub mod name;
mod near;
mod pattern;
mod print;
pub mod problem;
mod raw;
mod read;
mod report;
mod scalar;
pub mod schema;
pub mod spiffe;
mod tree;
pub mod unit;

/// The program file of a manifest's command by its first word: `firedrill` is the running binary, whatever it is called
/// and wherever it is installed; anything else is itself.
///
/// The path is a Linux one that leads to the very file that runs, also after another one was installed in its place.
/// Who uses it should leave the word as argv[0], which people see in lists of processes.
pub fn program(word: &str) -> &str {
    if word == "firedrill" { "/proc/self/exe" } else { word }
}

pub use print::{canonical, canonical_drill, canonical_text, yaml};
pub use problem::{Problem, Severity, Source};

/// What became of manifests without errors.
#[derive(Clone, Debug, PartialEq)]
pub struct Parsed {
    /// Consistent, with every default filled in.
    pub config: config::Config,
    /// What is allowed but probably not meant.
    pub warnings: Vec<Problem>,
}

/// Reads and validates all files together. Total: no input makes it panic, and work is bounded by the input's size.
///
/// # Errors
/// Every problem at once, in order of file and line; warnings among them.
pub fn parse(sources: &[Source]) -> Result<Parsed, Vec<Problem>> {
    let mut cx = read::Cx::new(sources);
    let mut manifests = Vec::new();
    let mut complete = true;
    for (file, source) in sources.iter().enumerate() {
        let (documents, flaws) = tree::documents(file, &source.text);
        for flaw in flaws {
            let open = flaw.open.map(|open| cx.place(open));
            let problem = cx.error("yaml", flaw.at, flaw.message).mend(flaw.help);
            if let Some(open) = open {
                problem.see(open, "opened here, and not closed before");
            }
            complete = false;
        }
        // An empty document, as after a last `---`, says nothing.
        let said = documents.iter().filter(|d| !matches!(d.value, tree::Value::Null));
        for document in said {
            let manifest = raw::manifest(document, &mut cx);
            complete &= manifest.is_some();
            manifests.extend(manifest);
        }
    }
    let config = lower::config(&manifests, complete, &mut cx);
    let problems = cx.finish();
    let sound = problems.iter().all(|p| p.severity == Severity::Warning);
    match config {
        Some(config) if sound => Ok(Parsed { config, warnings: problems }),
        _ => Err(problems),
    }
}
