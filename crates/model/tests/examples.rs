//! Every example in the repository is a valid configuration, without warnings.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

use std::{fs, path::Path};

use model::{Parsed, Source};

/// All manifests of a folder under `examples/`.
fn example(name: &str) -> Vec<Source> {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../examples").join(name);
    let mut sources = Vec::new();
    for entry in fs::read_dir(&folder).unwrap() {
        let path = entry.unwrap().path();
        if path.extension().is_some_and(|e| e == "yaml") {
            let name = path.file_name().unwrap().to_string_lossy().into_owned();
            sources.push(Source { path: name, text: fs::read_to_string(&path).unwrap() });
        }
    }
    sources.sort_by(|a, b| a.path.cmp(&b.path));
    sources
}

fn parse(sources: &[Source]) -> Parsed {
    model::parse(sources).unwrap_or_else(|problems| {
        let text: String = problems.iter().map(|p| p.render(sources)).collect();
        panic!("{text}")
    })
}

#[test]
fn bank() {
    let parsed = parse(&example("bank"));
    assert_eq!(parsed.warnings, []);
    let config = parsed.config;
    assert_eq!(config.services.len(), 3);
}
