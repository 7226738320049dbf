//! Every manifest in `broken/` is refused, and says so as in the `.txt` beside it. `UPDATE=1 cargo test -p model` writes
//! those files anew; read them as a user would before committing.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

use std::{fs, path::Path};

use model::{Severity, Source};

#[test]
fn broken_manifests_are_explained() {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/broken");
    let update = std::env::var_os("UPDATE").is_some();
    let mut inputs: Vec<_> = fs::read_dir(&folder).unwrap().map(|e| e.unwrap().path()).collect();
    inputs.retain(|p| p.extension().is_some_and(|e| e == "yaml"));
    inputs.sort();
    assert!(inputs.len() >= 30, "{} broken manifests", inputs.len());
    let mut wrong = Vec::new();
    for input in inputs {
        let name = input.file_name().unwrap().to_string_lossy().into_owned();
        let source = Source { path: name.clone(), text: fs::read_to_string(&input).unwrap() };
        let sources = [source];
        let problems = model::parse(&sources).expect_err(&name);
        assert!(problems.iter().any(|p| p.severity == Severity::Error), "{name}");
        for problem in &problems {
            assert!(problem.help.is_some() || !problem.message.is_empty(), "{name}: {problem:?}");
            let end = problem.place.offset + problem.place.length;
            assert!(sources[0].text.get(problem.place.offset..end).is_some(), "{name}: {problem:?}");
        }
        let text = problems.iter().map(|p| p.render(&sources)).collect::<Vec<_>>().join("\n");
        let expected = input.with_extension("txt");
        if update {
            fs::write(&expected, &text).unwrap();
        } else if fs::read_to_string(&expected).unwrap_or_default() != text {
            wrong.push(format!("{name}: not as in {}:\n{text}", expected.display()));
        }
    }
    assert!(wrong.is_empty(), "{}\nUPDATE=1 writes what is said now", wrong.join("\n"));
}

#[test]
fn files_are_judged_together() {
    let service = |path: &str| {
        Source {
        path: path.to_owned(),
        text: "apiVersion: firedrill.dev/v1\nkind: Service\nmetadata: {name: web}\nspec: {endpoints: [{region: east, run: [web]}]}\n"
            .to_owned(),
    }
    };
    let mesh = Source {
        path: "z/mesh.yaml".to_owned(),
        text: "apiVersion: firedrill.dev/v1\nkind: Mesh\nmetadata: {name: m}\nspec: {trustDomain: m, regions: [east], gateway: []}\n"
            .to_owned(),
    };
    let sources = [mesh, service("a.yaml"), service("b.yaml")];
    let problems = model::parse(&sources).unwrap_err();
    let seen: Vec<(&str, &str, usize)> =
        problems.iter().map(|p| (p.code, p.place.path.as_str(), p.place.line)).collect();
    // In the order in which the files were given.
    assert_eq!(seen, [("unknown-field", "z/mesh.yaml", 4), ("duplicate-name", "b.yaml", 3)]);
    assert_eq!(problems[1].related[0].place.path, "a.yaml");
    let json = serde_json::to_value(&problems[1]).unwrap();
    assert_eq!((&json["severity"], &json["path"], &json["line"]), (&"error".into(), &"b.yaml".into(), &3.into()));
    assert_eq!(json["related"][0]["path"], "a.yaml");
}
