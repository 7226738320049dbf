//! Manifests on disk: which files are read, and how their problems are shown.

use std::{
    fs,
    io::{IsTerminal as _, Read as _},
    path::{Path, PathBuf},
};

use console::visible::{is_hidden, visible};
use control::api::ManifestFile;
use miette::{GraphicalReportHandler, GraphicalTheme, LabeledSpan, NamedSource};
use model::{Parsed, Problem, Severity, Source, problem::Place};

use crate::{
    failure::Failure,
    terminal::{Terminal, Tone},
};

/// Largest manifest file that is read, in bytes.
const LARGEST: u64 = 8 << 20;

/// Where the manifests are, for a command whose arguments name something else.
#[derive(Clone, Debug, clap::Args)]
pub struct Files {
    // One value for each `-f`: an option that takes several would swallow the command's own argument after it.
    /// Manifests: a folder (its *.yaml and *.yml files), a file, or `-` for standard input; may be repeated
    /// [default: .]
    #[arg(short = 'f', long = "file", value_name = "PATH")]
    named: Vec<PathBuf>,
}

impl Files {
    /// The paths in the order given; this folder if there are none.
    pub fn paths(&self) -> Vec<PathBuf> {
        or_here(self.named.clone())
    }
}

/// Where the manifests are, for a command that has no other argument: `check mesh` is `check -f mesh`.
#[derive(Clone, Debug, clap::Args)]
pub struct Sources {
    /// Manifests, as with `-f`
    #[arg(value_name = "PATH")]
    paths: Vec<PathBuf>,
    #[command(flatten)]
    files: Files,
}

impl Sources {
    /// The arguments, then what `-f` names; this folder if there are neither.
    pub fn paths(&self) -> Vec<PathBuf> {
        or_here(self.paths.iter().chain(&self.files.named).cloned().collect())
    }
}

fn or_here(paths: Vec<PathBuf>) -> Vec<PathBuf> {
    if paths.is_empty() { vec![PathBuf::from(".")] } else { paths }
}

/// Reads every file that `paths` name, in the order given; the files of a folder by name.
///
/// # Errors
/// When a path cannot be read, or a folder holds no manifest.
pub fn read(paths: &[PathBuf]) -> Result<Vec<Source>, Failure> {
    let mut sources: Vec<Source> = Vec::new();
    for path in paths {
        if path.as_os_str() == "-" {
            sources.push(standard_input()?);
            continue;
        }
        let found = if path.is_dir() { in_folder(path)? } else { vec![path.clone()] };
        for file in found {
            let source = one(&file)?;
            if !sources.iter().any(|s| s.path == source.path) {
                sources.push(source);
            }
        }
    }
    Ok(sources)
}

/// Whether a path is one of a manifest, by its name.
pub fn is_manifest(path: &Path) -> bool {
    path.extension().is_some_and(|extension| extension == "yaml" || extension == "yml")
}

/// Manifests as they are stored: named from the folder that they have in common, wherever that is.
pub fn stored(sources: &[Source]) -> Vec<ManifestFile> {
    let parts = |source: &Source| -> Vec<String> {
        let path = Path::new(&source.path);
        path.components().map(|part| part.as_os_str().to_string_lossy().into_owned()).collect()
    };
    let all: Vec<Vec<String>> = sources.iter().map(parts).collect();
    let mut shared = all.iter().map(|parts| parts.len().saturating_sub(1)).min().unwrap_or(0);
    if let Some((first, rest)) = all.split_first() {
        let agree = |other: &Vec<String>| first.iter().zip(other).take_while(|(a, b)| a == b).count();
        shared = rest.iter().map(agree).fold(shared, usize::min);
    }
    let name = |parts: &[String]| parts.iter().skip(shared).cloned().collect::<Vec<_>>().join("/");
    all.iter()
        .zip(sources)
        .map(|(parts, source)| ManifestFile { path: name(parts), text: source.text.clone() })
        .collect()
}

/// Validates as the control plane does when manifests are applied.
///
/// # Errors
/// Every problem.
pub fn parse(sources: &[Source]) -> Result<Parsed, Vec<Problem>> {
    let mut parsed = model::parse(sources)?;
    let unsupported = control::compile::unsupported(&parsed.config);
    if unsupported.is_empty() {
        return Ok(parsed);
    }
    // It is of several places, or of none that could be pointed at.
    let place = Place { path: String::new(), line: 0, column: 0, offset: 0, length: 0 };
    let problem = |message: String| Problem {
        severity: Severity::Error,
        code: "unsupported",
        place: place.clone(),
        message,
        help: None,
        related: Vec::new(),
    };
    parsed.warnings.extend(unsupported.into_iter().map(problem));
    Err(parsed.warnings)
}

/// Reads and validates; warnings are printed on standard error, and so are errors before the failure is returned.
///
/// # Errors
/// When there is no valid configuration.
pub fn load(paths: &[PathBuf], terminal: &Terminal) -> Result<(Vec<Source>, Parsed), Failure> {
    judge(read(paths)?, terminal)
}

/// The same for manifests that were read already.
///
/// # Errors
/// When there is no valid configuration.
pub fn judge(sources: Vec<Source>, terminal: &Terminal) -> Result<(Vec<Source>, Parsed), Failure> {
    match parse(&sources) {
        Ok(parsed) => {
            for warning in &parsed.warnings {
                eprint!("{}", show(warning, &sources, terminal.color_errors()));
            }
            Ok((sources, parsed))
        }
        Err(problems) => {
            for problem in &problems {
                eprint!("{}", show(problem, &sources, terminal.color_errors()));
            }
            let errors = problems.iter().filter(|p| p.severity == Severity::Error).count();
            Err(Failure::usage(format!("{} in the manifests", count(errors, "problem")))
                .help("mend them; `firedrill check` shows them again"))
        }
    }
}

/// A problem as it is shown to a person: with graphics on a terminal, else as plain lines.
pub fn show(problem: &Problem, sources: &[Source], graphics: bool) -> String {
    // The file is the user's, or of somebody who sent it.
    let problem = &problem_in_sight(problem);
    let sources: Vec<Source> =
        sources.iter().map(in_sight).filter(|s| s.path == problem.place.path || refers(problem, s)).collect();
    let sources = sources.as_slice();
    if !graphics {
        return problem.render(sources);
    }
    let mut text = String::new();
    let shown = Shown { problem, source: sources.iter().find(|s| s.path == problem.place.path).map(named) };
    let handler = GraphicalReportHandler::new_themed(GraphicalTheme::unicode());
    if handler.render_report(&mut text, &shown).is_err() {
        return problem.render(sources);
    }
    text
}

fn refers(problem: &Problem, source: &Source) -> bool {
    problem.related.iter().any(|related| related.place.path == source.path)
}

/// The problem with its words made visible.
fn problem_in_sight(problem: &Problem) -> Problem {
    let mut problem = problem.clone();
    problem.message = visible(&problem.message).into_owned();
    problem.help = problem.help.map(|help| visible(&help).into_owned());
    problem.place.path = visible(&problem.place.path).into_owned();
    for related in &mut problem.related {
        related.message = visible(&related.message).into_owned();
        related.place.path = visible(&related.place.path).into_owned();
    }
    problem
}

/// A source in which hidden characters are question marks, byte for byte: places are offsets.
fn in_sight(source: &Source) -> Source {
    let mut text = String::with_capacity(source.text.len());
    for c in source.text.chars() {
        match c {
            // Of an end of line as Windows writes it.
            '\r' => text.push(' '),
            c if is_hidden(c) => text.extend(std::iter::repeat_n('?', c.len_utf8())),
            c => text.push(c),
        }
    }
    Source { path: visible(&source.path).into_owned(), text }
}

/// `1 problem`, `2 problems`.
pub fn count(number: usize, noun: &str) -> String {
    if number == 1 { format!("1 {noun}") } else { format!("{number} {noun}s") }
}

/// `1 proxy`, `2 proxies`.
pub fn proxies(number: usize) -> String {
    if number == 1 { "1 proxy".to_owned() } else { format!("{number} proxies") }
}

fn named(source: &Source) -> NamedSource<String> {
    NamedSource::new(&source.path, source.text.clone()).with_language("yaml")
}

fn one(path: &Path) -> Result<Source, Failure> {
    let shown = path.display();
    let cannot = |reason: String| {
        Failure::usage(format!("cannot read `{shown}`: {reason}"))
            .help("name a manifest file or a folder of them with `-f PATH`; `firedrill init` writes a first one")
    };
    let size = fs::metadata(path).map_err(|e| cannot(reason(&e)))?.len();
    if size > LARGEST {
        return Err(cannot(format!("it has {size} bytes, more than the {LARGEST} that a manifest may have")));
    }
    let bytes = fs::read(path).map_err(|e| cannot(reason(&e)))?;
    let text = String::from_utf8(bytes).map_err(|e| {
        cannot(format!("it is not UTF-8 text (byte {} is not)", e.utf8_error().valid_up_to().saturating_add(1)))
    })?;
    Ok(Source { path: shown.to_string(), text })
}

fn standard_input() -> Result<Source, Failure> {
    if std::io::stdin().is_terminal() {
        return Err(Failure::usage("`-f -` reads manifests from standard input, which is a terminal")
            .help("pipe a manifest into it, or name a file or folder"));
    }
    let mut text = String::new();
    std::io::stdin()
        .take(LARGEST)
        .read_to_string(&mut text)
        .map_err(|e| Failure::usage(format!("cannot read manifests from standard input: {}", reason(&e))))?;
    Ok(Source { path: "stdin".to_owned(), text })
}

fn in_folder(folder: &Path) -> Result<Vec<PathBuf>, Failure> {
    let shown = folder.display();
    let entries =
        fs::read_dir(folder).map_err(|e| Failure::usage(format!("cannot read folder `{shown}`: {}", reason(&e))))?;
    let mut files: Vec<PathBuf> = entries
        .filter_map(|entry| entry.ok().map(|entry| entry.path()))
        .filter(|path| path.is_file() && is_manifest(path))
        .map(|path| if folder == Path::new(".") { path.strip_prefix(".").unwrap_or(&path).to_owned() } else { path })
        .collect();
    files.sort();
    if files.is_empty() {
        return Err(Failure::usage(format!("there is no manifest (*.yaml, *.yml) in `{shown}`"))
            .help("name a file or folder with `-f PATH`, or write a first manifest with `firedrill init`"));
    }
    Ok(files)
}

/// An I/O error without the operating system's number.
pub fn reason(error: &std::io::Error) -> String {
    let text = error.to_string();
    match text.find(" (os error") {
        Some(end) => text[..end].to_lowercase(),
        None => text,
    }
}

/// A problem in the form that miette draws.
#[derive(Debug)]
struct Shown<'a> {
    problem: &'a Problem,
    source: Option<NamedSource<String>>,
}

impl std::fmt::Display for Shown<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(&self.problem.message)
    }
}

impl std::error::Error for Shown<'_> {}

impl miette::Diagnostic for Shown<'_> {
    fn code<'a>(&'a self) -> Option<Box<dyn std::fmt::Display + 'a>> {
        Some(Box::new(self.problem.code))
    }

    fn severity(&self) -> Option<miette::Severity> {
        Some(match self.problem.severity {
            Severity::Error => miette::Severity::Error,
            Severity::Warning => miette::Severity::Warning,
        })
    }

    fn help<'a>(&'a self) -> Option<Box<dyn std::fmt::Display + 'a>> {
        // Places in other files cannot be drawn into this excerpt, so they are named.
        let mut help = self.problem.help.clone().unwrap_or_default();
        for related in self.problem.related.iter().filter(|r| r.place.path != self.problem.place.path) {
            let place = &related.place;
            if !help.is_empty() {
                help.push('\n');
            }
            help.push_str(&format!("{}: {}:{}:{}", related.message, place.path, place.line, place.column));
        }
        (!help.is_empty()).then(|| Box::new(help) as Box<dyn std::fmt::Display>)
    }

    fn source_code(&self) -> Option<&dyn miette::SourceCode> {
        self.source.as_ref().map(|source| source as &dyn miette::SourceCode)
    }

    fn labels(&self) -> Option<Box<dyn Iterator<Item = LabeledSpan> + '_>> {
        self.source.as_ref()?;
        let place = &self.problem.place;
        let here = LabeledSpan::new_primary_with_span(None, (place.offset, place.length));
        let related = self
            .problem
            .related
            .iter()
            .filter(|r| r.place.path == place.path)
            .map(|r| LabeledSpan::new_with_span(Some(r.message.clone()), (r.place.offset, r.place.length)));
        Some(Box::new(std::iter::once(here).chain(related)))
    }
}

/// The line that closes a list of problems.
pub fn tally(errors: usize, warnings: usize, terminal: &Terminal) -> String {
    match (errors, warnings) {
        (0, 0) => terminal.paint(Tone::Good, "valid"),
        (0, warnings) => format!("{}, {}", terminal.paint(Tone::Good, "valid"), count(warnings, "warning")),
        (errors, 0) => terminal.paint(Tone::Bad, count(errors, "problem")),
        (errors, warnings) => {
            format!("{}, {}", terminal.paint(Tone::Bad, count(errors, "problem")), count(warnings, "warning"))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_stored_does_not_depend_on_where_it_lay() {
        let names = |paths: &[&str]| -> Vec<String> {
            let source = |path: &&str| Source { path: (*path).to_owned(), text: String::new() };
            stored(&paths.iter().map(source).collect::<Vec<_>>()).into_iter().map(|file| file.path).collect()
        };
        for (paths, expected) in [
            (vec!["mesh.yaml", "drills.yaml"], vec!["mesh.yaml", "drills.yaml"]),
            (vec!["/srv/a/mesh.yaml", "/srv/a/drills.yaml"], vec!["mesh.yaml", "drills.yaml"]),
            (vec!["a/mesh.yaml", "a/b/mesh.yaml"], vec!["mesh.yaml", "b/mesh.yaml"]),
            (vec!["a/mesh.yaml", "b/mesh.yaml"], vec!["a/mesh.yaml", "b/mesh.yaml"]),
            (vec!["a/mesh.yaml"], vec!["mesh.yaml"]),
            (vec!["stdin", "a/mesh.yaml"], vec!["stdin", "a/mesh.yaml"]),
            (vec![], vec![]),
        ] {
            assert_eq!(names(&paths), expected, "{paths:?}");
        }
    }
}
