//! The first minutes: `init`, `schema`.

use std::fs;

use serde_json::Value;

use super::{run, transcript};

#[test]
fn what_init_writes_is_valid() {
    let folder = tempfile::tempdir().unwrap();
    let arguments = ["init", "shop", "--service", "shop", "--primary", "a=10.0.1.5:80", "--standby", "b=10.0.2.5:80"];
    insta::assert_snapshot!("init", transcript(folder.path(), &arguments));
    insta::assert_snapshot!("init-check", transcript(folder.path(), &["check", "-f", "shop"]));
}

#[test]
fn init_overwrites_only_by_force() {
    let folder = tempfile::tempdir().unwrap();
    assert_eq!(run(folder.path(), &["init"]).code, 0);
    let path = folder.path().join("mesh.yaml");
    fs::write(&path, "mine").unwrap();
    let refused = run(folder.path(), &["init"]);
    assert_eq!(refused.code, 2);
    assert!(refused.err.contains("--force"), "{}", refused.err);
    assert_eq!(fs::read_to_string(&path).unwrap(), "mine");
    assert_eq!(run(folder.path(), &["init", "--force"]).code, 0);
    assert_ne!(fs::read_to_string(&path).unwrap(), "mine");
}

#[test]
fn init_refuses_what_contradicts_itself() {
    let folder = tempfile::tempdir().unwrap();
    for arguments in [
        ["init", "--primary", "east=localhost:80"].as_slice(),
        &["init", "--primary", "127.0.0.1:80"],
        &["init", "--primary", "East!=127.0.0.1:80"],
        &["init", "--standby", "east=127.0.0.1:8082"],
        &["init", "--service", "No Name"],
        &["init", "--listen", "8080"],
    ] {
        let ran = run(folder.path(), arguments);
        assert_eq!(ran.code, 2, "{arguments:?}: {}", ran.err);
        assert!(ran.err.starts_with("error: "), "{arguments:?}: {}", ran.err);
        assert!(!folder.path().join("mesh.yaml").exists(), "{arguments:?}");
    }
}

#[test]
fn schemas_are_json() {
    let folder = tempfile::tempdir().unwrap();
    for kind in ["", "Mesh", "Service", "RecoveryPlan", "Drill", "Backup", "Snapshot"] {
        let arguments: Vec<&str> = ["schema", kind].into_iter().filter(|word| !word.is_empty()).collect();
        let ran = run(folder.path(), &arguments);
        assert_eq!(ran.code, 0);
        let schema: Value = serde_json::from_str(&ran.out).unwrap();
        assert_eq!(schema["$schema"], "https://json-schema.org/draft/2020-12/schema", "{kind:?}");
    }
    assert_eq!(run(folder.path(), &["schema", "Nothing"]).code, 2);
}

#[test]
fn a_proxy_can_be_rendered_without_a_mesh() {
    let folder = tempfile::tempdir().unwrap();
    assert_eq!(run(folder.path(), &["init"]).code, 0);
    let ran = run(folder.path(), &["render", "--target", "snapshot", "--proxy", "edge"]);
    assert_eq!((ran.code, ran.err.as_str()), (0, ""), "a gateway to plaintext endpoints needs no trust");
    let snapshot: Value = serde_json::from_str(&ran.out).unwrap();
    assert_eq!(snapshot["listeners"][0]["address"], "127.0.0.1:8080");
    assert_eq!(snapshot["endpoints"][0]["localities"][1]["priority"], 1);
    let unknown = run(folder.path(), &["render", "--target", "snapshot", "--proxy", "nobody"]);
    assert_eq!(unknown.code, 2);
    assert!(unknown.err.contains("there is no proxy `nobody`; there are edge"), "{}", unknown.err);
    assert_eq!(run(folder.path(), &["render", "--proxy", "edge"]).code, 2, "an Envoy needs a folder");
}
