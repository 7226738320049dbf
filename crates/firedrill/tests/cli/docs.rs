//! Every piece of a manifest that the README and the guides show is one that `check` accepts, in a manifest around it.

use std::{
    fs,
    path::{Path, PathBuf},
};

/// Keys of a mesh's `spec`; all other keys are a service's, and `run` is a step of a drill's scenario.
const OF_MESH: [&str; 6] = ["trustDomain", "federation", "identity", "defaults", "gateways", "regions"];

/// A drill whose only step is the one of a snippet, or a partition.
const PLAN_AND_DRILL: &str = "\
---
apiVersion: firedrill.dev/v1
kind: RecoveryPlan
metadata: {name: move}
spec:
  services: [moved]
  activePassive: {primary: east, standby: [west], tier: hot}
  objectives: {recoveryTime: 5s, successRate: 99%, sustain: 3s}
  failover:
    trigger: {automatic: {unhealthyFor: 1s}}
    steps: [{shift: {to: west}}]
  failback: {trigger: manual, ramp: [100%], dwell: 1s}
---
apiVersion: firedrill.dev/v1
kind: Drill
metadata: {name: lose-east}
spec:
  plan: move
  type: live
  purpose: The guides are true.
  probes: [{name: pages, http: \"GET http://edge/\", rate: 10/s, timeout: 1s}]
  baseline: 5s
  scenario: [SCENARIO]
  hold: 12s
";

#[test]
fn every_documented_piece_of_a_manifest_is_accepted() {
    let mut seen = 0;
    let mut refused = Vec::new();
    for path in documents() {
        let text = fs::read_to_string(&path).unwrap();
        for piece in pieces(&text) {
            seen += 1;
            let folder = tempfile::tempdir().unwrap();
            let manifest = completed(&piece);
            fs::write(folder.path().join("mesh.yaml"), &manifest).unwrap();
            let ran = super::run(folder.path(), &["check", "mesh.yaml"]);
            if ran.code != 0 {
                refused.push(format!("{}:\n{piece}\n{}{}", path.display(), ran.out, ran.err));
            }
        }
    }
    assert!(seen >= 18, "only {seen} pieces were found: does the search still work?");
    assert!(refused.is_empty(), "{}", refused.join("\n\n"));
}

fn documents() -> Vec<PathBuf> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("../..");
    let mut found = vec![root.join("README.md")];
    for folder in ["docs", "docs/decisions"] {
        for entry in fs::read_dir(root.join(folder)).unwrap() {
            let path = entry.unwrap().path();
            // The reference is generated from the fields themselves, and has a test of its own.
            if path.extension().is_some_and(|e| e == "md") && !path.ends_with("reference.md") {
                found.push(path);
            }
        }
    }
    found
}

/// Blocks of YAML, and `key: {…}` within sentences.
fn pieces(text: &str) -> Vec<String> {
    let mut found = Vec::new();
    let (mut block, mut fenced, mut after_blank) = (Vec::new(), false, true);
    for line in text.lines().chain([""; 2]) {
        let inside = if line.starts_with("```") {
            fenced = !fenced;
            false
        } else {
            fenced || line.starts_with("    ") && (after_blank || !block.is_empty())
        };
        if inside {
            block.push(if fenced { line } else { &line[4..] });
        } else if !block.is_empty() {
            found.push(std::mem::take(&mut block).join("\n"));
        }
        if !inside {
            found.extend(line.split('`').skip(1).step_by(2).filter(|code| code.contains(": {")).map(str::to_owned));
        }
        after_blank = line.is_empty();
    }
    found.retain(|piece| is_yaml(piece) && !piece.contains('…'));
    found
}

fn is_yaml(piece: &str) -> bool {
    first_key(piece).is_some_and(|key| key == "run" || key == "kind" || key == "spec" || top_level(key))
}

fn top_level(key: &str) -> bool {
    const OF_SERVICE: [&str; 8] =
        ["endpoints", "authorization", "routes", "balancing", "detection", "limits", "retries", "activeCheck"];
    OF_MESH.contains(&key) || OF_SERVICE.contains(&key)
}

fn first_key(piece: &str) -> Option<&str> {
    let line = piece.lines().find(|line| !line.trim_start().starts_with('#') && !line.trim().is_empty())?;
    let (key, _) = line.split_once(':')?;
    (!key.starts_with(' ')).then_some(key)
}

/// Keys at the left edge.
fn keys(piece: &str) -> Vec<&str> {
    let lines = piece.lines().filter(|line| !line.starts_with([' ', '#', '-', '}']));
    lines.filter_map(|line| line.split_once(':')).map(|(key, _)| key).collect()
}

/// A whole manifest with the piece in its place.
fn completed(piece: &str) -> String {
    let mut mesh: Vec<(&str, String)> = [
        ("trustDomain", "trustDomain: docs.example"),
        ("regions", "regions: [east, west]"),
        ("gateways", "gateways: [{name: edge, listen: \"127.0.0.1:8080\", routes: [{prefix: /, service: moved}]}]"),
        ("defaults", "defaults: {detection: {consecutiveErrors: 3}}"),
    ]
    .map(|(key, text)| (key, text.to_owned()))
    .to_vec();
    let mut services = Vec::new();
    let mut scenario = "{at: 0s, lose: {region: east, how: partition}}".to_owned();
    match first_key(piece) {
        Some("kind" | "spec") => {
            for document in piece.split("\n---\n") {
                let (head, spec) = document.split_once("spec:\n").unwrap_or(("", document));
                let spec = dedented(spec);
                match head.contains("kind: Service") {
                    true => services.push((name_in(head), spec)),
                    false => replace(&mut mesh, &spec),
                }
            }
        }
        Some("run") => scenario = format!("{{at: 0s, {piece}}}"),
        Some("activeCheck") => services.push(("web".to_owned(), format!("detection: {{{piece}}}"))),
        Some(key) if OF_MESH.contains(&key) => replace(&mut mesh, piece),
        _ => services.push(("web".to_owned(), piece.to_owned())),
    }
    for name in ["web", "front", "shop", "batch", "accounts", "moved"] {
        if !services.iter().any(|(known, _)| known == name) {
            services.push((name.to_owned(), String::new()));
        }
    }
    let spec = mesh.into_iter().map(|(_, text)| text).collect::<Vec<_>>().join("\n");
    let mut out =
        format!("apiVersion: firedrill.dev/v1\nkind: Mesh\nmetadata: {{name: docs}}\nspec:\n{}\n", indented(&spec));
    for (index, (name, spec)) in services.iter().enumerate() {
        let mut spec = spec.clone();
        if spec.contains("tcp: {") && !keys(&spec).contains(&"protocol") {
            spec = format!("protocol: tcp\nconnect: {{}}\n{spec}");
        }
        if !keys(&spec).contains(&"endpoints") {
            spec = format!("{}{spec}", endpoints(index, keys(&spec).contains(&"authorization")));
        }
        let head = format!("---\napiVersion: firedrill.dev/v1\nkind: Service\nmetadata: {{name: {name}}}\nspec:\n");
        out += &format!("{head}{}\n", indented(&spec));
    }
    out + &PLAN_AND_DRILL.replace("SCENARIO", &scenario)
}

/// Two versions in two regions. What a sidecar enforces needs workloads that the supervisor starts.
fn endpoints(index: usize, with_sidecar: bool) -> String {
    let places = [("east", "v1"), ("east", "v2"), ("west", "v1"), ("west", "v2")];
    let endpoint = |(at, (region, version)): (usize, (&str, &str))| {
        let place = match with_sidecar {
            true => "run: [\"true\"]".to_owned(),
            false => format!("address: \"127.0.0.1:{}\"", 9000 + index * 10 + at),
        };
        format!("  - {{region: {region}, version: {version}, {place}}}\n")
    };
    format!("endpoints:\n{}", places.into_iter().enumerate().map(endpoint).collect::<String>())
}

fn replace(mesh: &mut Vec<(&str, String)>, piece: &str) {
    let own = keys(piece);
    mesh.retain(|(key, _)| !own.contains(key));
    mesh.push(("", piece.to_owned()));
}

fn name_in(head: &str) -> String {
    let (_, rest) = head.split_once("name: ").unwrap();
    rest.split('}').next().unwrap().to_owned()
}

fn indented(text: &str) -> String {
    text.lines().map(|line| format!("  {line}\n")).collect()
}

fn dedented(text: &str) -> String {
    text.lines().map(|line| format!("{}\n", line.strip_prefix("  ").unwrap_or(line))).collect()
}
