//! What is said of broken manifests. The model tests every rule; here it is how they are shown.

use std::fs;

use serde_json::Value;

use super::{command, run, transcript};

pub const MESH: &str = "\
apiVersion: firedrill.dev/v1
kind: Mesh
metadata: {name: shop}
spec:
  trustDomain: shop.example
  regions: [east, west]
  gateways:
    - {name: edge, listen: \"127.0.0.1:8080\", routes: [{service: web}]}
";

pub const SERVICE: &str = "\
apiVersion: firedrill.dev/v1
kind: Service
metadata: {name: web}
spec:
  endpoints:
    - {region: east, address: \"127.0.0.1:8081\"}
    - {region: west, address: \"127.0.0.1:8082\"}
";

/// Endpoints that we run and endpoints outside the mesh are reached differently.
const MIXED: &str = "\
apiVersion: firedrill.dev/v1
kind: Service
metadata: {name: web}
spec:
  endpoints:
    - {region: east, run: [web]}
    - {region: west, address: \"127.0.0.1:8082\"}
";

/// Name, and files by name.
const BROKEN: &[(&str, &[(&str, &str)])] = &[
    (
        "misspelt",
        &[(
            "mesh.yaml",
            "apiVersion: firedrill.dev/v1\nkind: Mesh\nmetadata: {name: shop}\nspec:\n  trustDomian: shop.example\n  regions: [east, west]\n",
        )],
    ),
    ("not-yaml", &[("mesh.yaml", "kind: [Mesh\n")]),
    ("dangling", &[("mesh.yaml", MESH)]),
    ("twice", &[("mesh.yaml", MESH), ("one.yaml", SERVICE), ("two.yaml", SERVICE)]),
    ("no-mesh", &[("web.yaml", SERVICE)]),
    ("not-carried", &[("mesh.yaml", MESH), ("web.yaml", MIXED)]),
    ("long-lines-and-tabs", &[("mesh.yaml", "kind: Mesh\tx: 1\n")]),
];

fn folder(files: &[(&str, &str)]) -> tempfile::TempDir {
    let folder = tempfile::tempdir().unwrap();
    for (name, text) in files {
        fs::write(folder.path().join(name), text).unwrap();
    }
    folder
}

#[test]
fn broken_manifests_are_shown_with_place_and_help() {
    for (name, files) in BROKEN {
        let folder = folder(files);
        insta::assert_snapshot!(format!("check-{name}"), transcript(folder.path(), &["check"]));
    }
}

#[test]
fn problems_as_json_tell_the_same_places() {
    for (name, files) in BROKEN {
        let folder = folder(files);
        let (text, json) = (run(folder.path(), &["check"]), run(folder.path(), &["check", "--format", "json"]));
        assert_eq!((text.code, json.code), (2, 2), "{name}");
        let answer: Value = serde_json::from_str(&json.out).unwrap();
        assert_eq!(answer["valid"], false, "{name}");
        let problems = answer["problems"].as_array().unwrap();
        assert!(!problems.is_empty(), "{name}");
        for problem in problems {
            let message = problem["message"].as_str().unwrap();
            assert!(text.out.contains(message), "{name}: {message} is not in\n{}", text.out);
        }
    }
}

#[test]
fn a_valid_set_is_summed_up_and_its_defaults_are_visible() {
    let folder = folder(&[("mesh.yaml", MESH), ("web.yaml", SERVICE)]);
    insta::assert_snapshot!("check-valid", transcript(folder.path(), &["check"]));
    let effective = run(folder.path(), &["check", "--effective"]);
    assert_eq!(effective.code, 0);
    assert!(effective.out.contains("perTry"), "{}", effective.out);
    fs::create_dir(folder.path().join("effective")).unwrap();
    fs::write(folder.path().join("effective/all.yaml"), &effective.out).unwrap();
    let again = run(folder.path(), &["check", "-f", "effective", "--effective"]);
    assert_eq!((again.code, again.out), (0, effective.out), "what is printed is valid, and says the same");
}

#[test]
fn several_files_and_standard_input() {
    let folder = folder(&[("mesh.yaml", MESH), ("web.yaml", SERVICE)]);
    assert_eq!(run(folder.path(), &["check", "-f", "mesh.yaml", "-f", "web.yaml"]).code, 0);
    assert_eq!(run(folder.path(), &["check", "-f", "mesh.yaml", "web.yaml"]).code, 0);
    assert_eq!(run(folder.path(), &["check", "-f", "mesh.yaml"]).code, 2);
    let all = fs::File::open(folder.path().join("mesh.yaml")).unwrap();
    let output = command(folder.path(), &["check", "-f", "-", "web.yaml"]).stdin(all).output().unwrap();
    assert_eq!(output.status.code(), Some(0));
}

#[test]
fn a_terminal_gets_graphics_and_a_pipe_does_not() {
    let folder = folder(BROKEN[0].1);
    assert!(!run(folder.path(), &["check"]).out.contains('\u{1b}'));
    let drawn = run(folder.path(), &["--color", "always", "check"]).out;
    assert!(drawn.contains('\u{1b}') && drawn.contains('╭'), "{drawn}");
    assert!(!run(folder.path(), &["--color", "never", "check"]).out.contains('\u{1b}'));
}

#[test]
fn programs_that_are_not_here_are_found_before_a_drill_needs_them() {
    let plan = "\
apiVersion: firedrill.dev/v1
kind: RecoveryPlan
metadata: {name: move}
spec:
  services: [web]
  activePassive: {primary: east, standby: [west], tier: hot}
  objectives: {recoveryTime: 5s, successRate: 99%, sustain: 3s}
  failover: {trigger: {automatic: {unhealthyFor: 1s}}, steps: [{shift: {to: west}}]}
  failback: {trigger: manual, ramp: [100%], dwell: 1s}
---
apiVersion: firedrill.dev/v1
kind: Drill
metadata: {name: stop-east}
spec:
  plan: move
  type: live
  purpose: A program is missing.
  probes: [{name: pages, http: \"GET http://edge/\", rate: 10/s, timeout: 1s}]
  baseline: 5s
  scenario: [{at: 0s, run: {name: stop, command: [\"true\"], undo: [./no-such-program]}}]
  hold: 12s
";
    let mesh = format!("{MESH}  defaults: {{detection: {{consecutiveErrors: 3}}}}\n");
    let folder = folder(&[("mesh.yaml", &mesh), ("web.yaml", SERVICE), ("plan.yaml", plan)]);
    let checked = run(folder.path(), &["check"]);
    assert_eq!(checked.code, 0, "{}", checked.out);
    assert!(checked.out.contains("`./no-such-program` of step stop of drill stop-east"), "{}", checked.out);
    assert!(!checked.out.contains("`true`"), "{}", checked.out);

    let drilled = run(folder.path(), &["drill", "run", "stop-east", "--yes"]);
    assert_eq!(drilled.code, 2, "{}", drilled.err);
    assert!(drilled.err.contains("./no-such-program"), "{}", drilled.err);
    assert!(!folder.path().join(".firedrill").exists(), "something was started");
}
