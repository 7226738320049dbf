//! The rules of the workspace that a compiler does not enforce: crate edges, module cycles, licences, banned crates.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

use std::{
    collections::{BTreeMap, BTreeSet},
    fs,
    path::{Path, PathBuf},
    process::Command,
};

use serde_json::Value;

/// Who may use whom. `firedrill` is the only place where crates meet.
const EDGES: &[(&str, &[&str])] = &[
    ("model", &[]),
    ("xds", &[]),
    ("evidence", &[]),
    ("proxy", &["xds"]),
    ("control", &["model", "xds"]),
    ("drill", &["model", "evidence"]),
    ("console", &["model", "evidence"]),
    ("firedrill", &["model", "xds", "proxy", "control", "evidence", "drill", "console"]),
    // Simulated proxies speak to the control plane as proxies do.
    ("bench", &["xds"]),
    ("e2e", &[]),
    ("fuzz", &["model", "xds", "evidence", "proxy"]),
];

/// Every one of these may be linked into an Apache-2.0 program without further duties than naming it.
const LICENCES: &[&str] = &[
    "Apache-2.0",
    "Apache-2.0 WITH LLVM-exception",
    "MIT",
    "MIT-0",
    "BSD-1-Clause",
    "BSD-2-Clause",
    "BSD-3-Clause",
    "0BSD",
    "ISC",
    "Zlib",
    "Unicode-3.0",
    "CDLA-Permissive-2.0",
    "BSL-1.0",
    "CC0-1.0",
    "Unlicense",
];

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).ancestors().nth(2).expect("two levels below the root").to_path_buf()
}

/// What is built here: on a fresh machine the packages of other platforms were never downloaded.
fn metadata() -> Value {
    let platform = format!("{}-unknown-linux-gnu", std::env::consts::ARCH);
    let out = Command::new(env!("CARGO"))
        .args(["metadata", "--format-version", "1", "--locked", "--offline", "--filter-platform", &platform])
        .current_dir(root())
        .output()
        .expect("cargo runs");
    assert!(out.status.success(), "{}", String::from_utf8_lossy(&out.stderr));
    serde_json::from_slice(&out.stdout).expect("cargo prints JSON")
}

fn text<'a>(value: &'a Value, field: &str) -> &'a str {
    value[field].as_str().unwrap_or_default()
}

#[test]
fn crates_use_only_the_crates_they_may() {
    let metadata = metadata();
    let allowed: BTreeMap<&str, &[&str]> = EDGES.iter().copied().collect();
    let packages = metadata["packages"].as_array().expect("packages");
    let ours: Vec<&Value> = packages.iter().filter(|p| p["source"].is_null()).collect();
    let names: BTreeSet<&str> = ours.iter().map(|p| text(p, "name")).collect();
    assert_eq!(names, allowed.keys().copied().collect(), "a crate without a rule, or a rule without a crate");
    for package in ours {
        let name = text(package, "name");
        for dependency in package["dependencies"].as_array().expect("dependencies") {
            let used = text(dependency, "name");
            // Tests may look at other crates; the program may not.
            if names.contains(used) && text(dependency, "kind") != "dev" {
                assert!(allowed[name].contains(&used), "{name} may not use {used}");
            }
        }
    }
}

#[test]
fn modules_of_a_crate_form_no_cycle() {
    for (name, _) in EDGES {
        let source = root().join("crates").join(name).join("src");
        if !source.is_dir() {
            continue;
        }
        let edges = module_edges(&source);
        if let Some(cycle) = find_cycle(&edges) {
            panic!("crate {name}: modules import each other: {}", cycle.join(" -> "));
        }
    }
}

/// Top-level modules and the top-level modules that their text names as `crate::…`.
fn module_edges(source: &Path) -> BTreeMap<String, BTreeSet<String>> {
    let mut edges: BTreeMap<String, BTreeSet<String>> = BTreeMap::new();
    let mut files = Vec::new();
    rust_files(source, &mut files);
    for file in files {
        let relative = file.strip_prefix(source).expect("found below it");
        let first = relative.components().next().expect("not empty").as_os_str().to_string_lossy().into_owned();
        let module = first.trim_end_matches(".rs").to_owned();
        if module == "lib" || module == "main" {
            continue;
        }
        let text = fs::read_to_string(&file).expect("source is text");
        let text = text.split("#[cfg(test)]").next().unwrap_or_default();
        edges.entry(module.clone()).or_default().extend(named_modules(text).into_iter().filter(|m| *m != module));
    }
    let known: BTreeSet<String> = edges.keys().cloned().collect();
    for targets in edges.values_mut() {
        targets.retain(|m| known.contains(m));
    }
    edges
}

fn rust_files(folder: &Path, found: &mut Vec<PathBuf>) {
    for entry in fs::read_dir(folder).expect("readable").flatten() {
        let path = entry.path();
        if path.is_dir() {
            rust_files(&path, found);
        } else if path.extension().is_some_and(|e| e == "rs") {
            found.push(path);
        }
    }
}

fn named_modules(text: &str) -> BTreeSet<String> {
    let mut named = BTreeSet::new();
    for (at, found) in text.match_indices("crate::") {
        let rest = &text[at + found.len()..];
        if let Some(group) = rest.strip_prefix('{') {
            // `use crate::{a::b, c::{d, e}}`: names at depth 1.
            let (mut depth, mut begins) = (1, true);
            let mut word = String::new();
            for c in group.chars() {
                match c {
                    '{' => depth += 1,
                    '}' => depth -= 1,
                    _ => {}
                }
                if depth == 1 && begins && (c.is_alphanumeric() || c == '_') {
                    word.push(c);
                } else if !word.is_empty() {
                    named.insert(std::mem::take(&mut word));
                    begins = false;
                }
                if depth == 1 && c == ',' {
                    begins = true;
                }
                if depth == 0 {
                    break;
                }
            }
        } else {
            let word: String = rest.chars().take_while(|c| c.is_alphanumeric() || *c == '_').collect();
            named.insert(word);
        }
    }
    named
}

fn find_cycle(edges: &BTreeMap<String, BTreeSet<String>>) -> Option<Vec<String>> {
    fn visit(
        module: &str,
        edges: &BTreeMap<String, BTreeSet<String>>,
        path: &mut Vec<String>,
        done: &mut BTreeSet<String>,
    ) -> Option<Vec<String>> {
        if let Some(start) = path.iter().position(|m| m == module) {
            let mut cycle = path[start..].to_vec();
            cycle.push(module.to_owned());
            return Some(cycle);
        }
        if !done.insert(module.to_owned()) {
            return None;
        }
        path.push(module.to_owned());
        let found = edges[module].iter().find_map(|next| visit(next, edges, path, done));
        path.pop();
        found
    }
    let mut done = BTreeSet::new();
    edges.keys().find_map(|module| visit(module, edges, &mut Vec::new(), &mut done))
}

#[test]
fn cycles_are_found() {
    let edge = |from: &str, to: &[&str]| (from.to_owned(), to.iter().map(|t| (*t).to_owned()).collect());
    assert!(find_cycle(&BTreeMap::from([edge("a", &["b"]), edge("b", &[])])).is_none());
    assert!(find_cycle(&BTreeMap::from([edge("a", &["b"]), edge("b", &["c"]), edge("c", &["a"])])).is_some());
    assert_eq!(
        named_modules("use crate::{one::x, two::{y, z}, three}; fn f() { crate::four::g() }"),
        ["one", "two", "three", "four"].map(String::from).into()
    );
}

#[test]
fn every_dependency_has_a_permissive_licence() {
    let metadata = metadata();
    for package in metadata["packages"].as_array().expect("packages") {
        let licence = text(package, "license");
        assert!(permissive(licence), "{} {}: licence `{licence}`", text(package, "name"), text(package, "version"));
    }
}

/// An SPDX expression is satisfied when a choice of its `OR`s leaves only allowed licences. Expressions in use nest
/// one level of parentheses at most.
fn permissive(expression: &str) -> bool {
    let expression = expression.replace(" / ", " OR ").replace('/', " OR ");
    let mut groups = vec![];
    let mut rest = expression.as_str();
    // Replaces each parenthesised part by the answer for it.
    let mut flat = String::new();
    while let Some((before, after)) = rest.split_once('(') {
        let Some((inside, tail)) = after.split_once(')') else { return false };
        groups.push(permissive(inside));
        flat.push_str(before);
        flat.push_str(if groups.last() == Some(&true) { "MIT" } else { "(refused)" });
        rest = tail;
    }
    flat.push_str(rest);
    flat.split(" OR ").any(|choice| choice.split(" AND ").all(|l| LICENCES.contains(&l.trim())))
}

#[test]
fn licence_expressions_are_understood() {
    assert!(permissive("MIT OR GPL-3.0"));
    assert!(permissive("(MIT OR GPL-3.0) AND BSD-3-Clause"));
    assert!(permissive("MIT/Apache-2.0"));
    assert!(!permissive("GPL-3.0"));
    assert!(!permissive("MIT AND GPL-3.0"));
    assert!(!permissive("(GPL-2.0 OR GPL-3.0) AND MIT"));
    assert!(!permissive(""));
}

#[test]
fn one_cryptography_provider_and_one_date_library() {
    for banned in ["ring", "openssl-sys", "chrono", "native-tls"] {
        let out = Command::new(env!("CARGO"))
            .args(["tree", "--workspace", "--locked", "--offline", "--invert", banned])
            .current_dir(root())
            .output()
            .expect("cargo runs");
        let printed = String::from_utf8_lossy(&out.stdout);
        assert!(printed.trim().is_empty(), "{banned} is linked:\n{printed}");
    }
}

/// Implementations of cryptography of which there is one: a second copy is one more to be kept free of known faults.
const CRYPTOGRAPHY: &[&str] = &[
    "aws-lc-rs",
    "aws-lc-sys",
    "curve25519-dalek",
    "ed25519-dalek",
    "rcgen",
    "rustls",
    "rustls-webpki",
    "x509-parser",
];

#[test]
fn cryptography_is_there_once() {
    let metadata = metadata();
    let mut versions: BTreeMap<&str, Vec<&str>> = BTreeMap::new();
    for package in metadata["packages"].as_array().expect("packages") {
        versions.entry(text(package, "name")).or_default().push(text(package, "version"));
    }
    for name in CRYPTOGRAPHY {
        let found = versions.get(name).map(Vec::as_slice).unwrap_or_default();
        assert_eq!(found.len(), 1, "{name}: {found:?}");
    }
    for banned in ["rsa", "openssl", "mbedtls", "sodiumoxide", "rust-crypto", "md4", "rc4", "des"] {
        assert!(!versions.contains_key(banned), "{banned} is linked");
    }
}

/// Where there is unsafe code, and how many places of it. Each has its proof in the lines before it.
const UNSAFE: &[(&str, usize)] = &[
    ("crates/control/src/recovery/command.rs", 1),
    ("crates/drill/src/command.rs", 1),
    ("crates/firedrill/src/allocator.rs", 3),
    ("crates/proxy/src/allocations.rs", 5),
    ("crates/proxy/src/resident.rs", 1),
];

#[test]
fn unsafe_code_is_listed_and_each_place_has_its_proof() {
    let mut files = Vec::new();
    for folder in ["crates", "bench", "e2e", "fuzz"] {
        rust_files(&root().join(folder), &mut files);
    }
    let mut found = BTreeMap::new();
    for path in files {
        let name = path.strip_prefix(root()).expect("below the root").display().to_string();
        let text = fs::read_to_string(&path).expect("text");
        let lines: Vec<&str> = text.lines().map(str::trim_start).collect();
        for (at, line) in lines.iter().enumerate() {
            let code = line.split("//").next().unwrap_or_default();
            let words: Vec<&str> = code.split_ascii_whitespace().collect();
            let place = |pair: &[&str]| pair[0].ends_with("unsafe") && ["{", "fn", "impl", "extern"].contains(&pair[1]);
            if !words.windows(2).any(place) || code.contains('"') {
                continue;
            }
            *found.entry(name.clone()).or_insert(0) += 1;
            // A function of an unsafe trait keeps the trait's contract, which its `impl` answers for.
            let proved =
                code.contains("unsafe fn") || lines[at.saturating_sub(12)..at].iter().any(|l| l.contains("SAFETY:"));
            assert!(proved, "{name}:{}: there is no `SAFETY:` before it", at + 1);
        }
    }
    let listed = UNSAFE.iter().map(|(name, places)| ((*name).to_owned(), *places)).collect();
    assert_eq!(found, listed, "unsafe code that is not listed, or is listed and gone");
}
