//! Every example in the repository is a valid configuration, without warnings.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

use std::{fs, path::Path};

use model::{Parsed, Source, name::DrillName};

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

/// Valid without warnings, and what is printed with all defaults is the same configuration.
fn check(name: &str) -> model::config::Config {
    let Parsed { config, warnings } = parse(&example(name));
    assert_eq!(warnings, [], "{name}");
    let printed = Source { path: "printed.yaml".to_owned(), text: config.to_yaml() };
    let again = parse(std::slice::from_ref(&printed));
    assert_eq!(again.config, config, "{}", printed.text);
    assert_eq!(again.config.to_yaml(), printed.text);
    config
}

#[test]
fn bank() {
    let config = check("bank");
    assert_eq!(config.services.len(), 3);
    let accounts = config.services.values().next().unwrap();
    let workloads: Vec<&str> = accounts.endpoints.iter().map(|e| e.workload.as_str()).collect();
    assert_eq!(workloads, ["accounts-east-0", "accounts-east-1", "accounts-west-0", "accounts-west-1"]);
    let drill = DrillName::new("lose-east").unwrap();
    let registered = model::canonical_text(&model::canonical_drill(&config, &drill).unwrap());
    assert!(registered.starts_with(r#"{"drill":{"apiVersion":"firedrill.dev/v1","kind":"Drill","#), "{registered}");
}

/// As in `every-field.yaml`: nothing gets lost between what is written, the configuration and what is printed.
#[test]
fn every_field() {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/every-field.yaml");
    let source = Source { path: "every-field.yaml".to_owned(), text: fs::read_to_string(path).unwrap() };
    let Parsed { config, warnings } = parse(std::slice::from_ref(&source));
    let printed = config.to_yaml();
    let again = parse(&[Source { path: "printed.yaml".to_owned(), text: printed.clone() }]);
    assert_eq!(again.config, config, "{printed}");
    let codes: Vec<_> = warnings.iter().map(|w| (w.code, w.message.as_str())).collect();
    assert_eq!(codes, []);
    let drill = config.drills.values().next().unwrap();
    assert_eq!((drill.scenario.len(), drill.guards.len(), drill.probes.len()), (24, 3, 3));
    assert_eq!(config.backups.len(), 1);
}

#[test]
fn nginx() {
    let config = check("nginx");
    assert_eq!(config.drills.len(), 1);
}

#[test]
fn every_example_is_tested() {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../examples");
    let names = fs::read_dir(folder).unwrap().map(|e| e.unwrap().path()).filter(|p| p.is_dir());
    for name in names {
        check(&name.file_name().unwrap().to_string_lossy());
    }
}
