//! No text makes the parser panic, hang or eat memory, and every problem points into the text.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

use std::{fs, path::Path};

use model::{Source, parse};
use proptest::prelude::*;

fn survives(text: &str) {
    let sources = [Source { path: "input.yaml".to_owned(), text: text.to_owned() }];
    match parse(&sources) {
        Ok(parsed) => {
            // What is accepted can be printed and read back to the same.
            let printed = Source { path: "printed.yaml".to_owned(), text: parsed.config.to_yaml() };
            let again = parse(std::slice::from_ref(&printed)).unwrap_or_else(|p| panic!("{p:#?}\n{}", printed.text));
            assert_eq!(again.config, parsed.config, "{}", printed.text);
        }
        Err(problems) => {
            assert!(!problems.is_empty());
            assert!(problems.len() <= 201);
            for problem in problems {
                let end = problem.place.offset + problem.place.length;
                assert!(text.get(problem.place.offset..end).is_some(), "{problem:?}");
                assert!(problem.render(&sources).len() < 20_000);
            }
        }
    }
}

/// All examples, and all broken manifests: what mutations start from.
fn seeds() -> Vec<String> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let bank = root.join("../../examples/bank");
    let read = |path: &Path| fs::read_to_string(path).unwrap();
    let mut seeds = vec![
        format!("{}---\n{}", read(&bank.join("mesh.yaml")), read(&bank.join("drills.yaml"))),
        read(&root.join("../../examples/nginx/mesh.yaml")),
        read(&root.join("tests/every-field.yaml")),
    ];
    let broken = fs::read_dir(root.join("tests/broken")).unwrap().map(|e| e.unwrap().path());
    let mut broken: Vec<_> = broken.filter(|p| p.extension().is_some_and(|e| e == "yaml")).collect();
    broken.sort();
    seeds.extend(broken.iter().map(|p| read(p)));
    seeds
}

/// Pieces that have broken parsers before.
const PIECES: [&str; 32] = [
    "",
    " ",
    "\n",
    "\t",
    "\r\n",
    ":",
    ": ",
    "- ",
    "---\n",
    "...\n",
    "[",
    "]",
    "{",
    "}",
    "&a ",
    "*a",
    "!x ",
    "!!str ",
    "|\n",
    ">-\n",
    "\"",
    "'",
    "#",
    "%YAML 1.2\n",
    "null",
    "~",
    "<<: *a",
    "99999999999999999999",
    "1e999",
    "é🔥",
    "\u{feff}",
    "\0",
];

/// 400 cases, or `PROPTEST_CASES`.
fn config() -> ProptestConfig {
    let cases = std::env::var("PROPTEST_CASES").ok().and_then(|c| c.parse().ok()).unwrap_or(400);
    ProptestConfig { cases, failure_persistence: None, ..ProptestConfig::default() }
}

proptest! {
    #![proptest_config(config())]

    #[test]
    fn any_text(text in any::<String>()) {
        survives(&text);
    }

    #[test]
    fn text_of_yaml_pieces(pieces in prop::collection::vec(prop::sample::select(&PIECES[..]), 0..40)) {
        survives(&pieces.concat());
    }

    #[test]
    fn mutated_manifests(
        seed in any::<prop::sample::Index>(),
        edits in prop::collection::vec((any::<prop::sample::Index>(), 0usize..30, prop::sample::select(&PIECES[..])), 1..6),
    ) {
        let seeds = seeds();
        let mut text = seed.get(&seeds).clone();
        for (place, cut, piece) in edits {
            let chars: Vec<char> = text.chars().collect();
            let at = place.index(chars.len() + 1);
            let after = (at + cut).min(chars.len());
            text = chars[..at].iter().collect::<String>() + piece + &chars[after..].iter().collect::<String>();
        }
        survives(&text);
    }
}

#[test]
fn every_prefix_of_an_example() {
    let seed = &seeds()[1];
    for (at, _) in seed.char_indices().step_by(17) {
        survives(&seed[..at]);
    }
}

#[test]
fn deep_nesting() {
    for open in ["[", "{a: ", "- ", "{", "? ", "&a [", "!x ["] {
        survives(&open.repeat(20_000));
        survives(&format!("spec: {}", open.repeat(500)));
    }
    let indented: String = (0..1000).map(|i| format!("{}a:\n", " ".repeat(i))).collect();
    survives(&indented);
}

#[test]
fn aliases_that_multiply() {
    let mut laughs = String::from("a0: &a0 [x, x, x, x, x, x, x, x, x, x]\n");
    for i in 1..30 {
        let previous = format!("*a{}", i - 1);
        laughs.push_str(&format!("a{i}: &a{i} [{}]\n", [previous.as_str(); 10].join(", ")));
    }
    survives(&laughs);
    // Each anchor holds the one before it: deep rather than wide.
    let mut deep = String::from("a0: &a0 [[[[[[[[x]]]]]]]]\n");
    for i in 1..5000 {
        deep.push_str(&format!("a{i}: &a{i} [[[[[[[[*a{}]]]]]]]]\n", i - 1));
    }
    survives(&deep);
    survives("a: &a [*a]");
    survives("a: &a {b: *a, *a : c}");
}

#[test]
fn large_inputs() {
    survives(&"x: 1\n".repeat(100_000));
    survives(&"- ".repeat(100_000));
    survives(&"---\n".repeat(50_000));
    survives(&format!("name: {}", "x".repeat(3_000_000)));
    survives(&"x".repeat((4 << 20) + 1));
    survives(&"{a, ".repeat(30_000));
    survives(&"bogus: 1\n".repeat(1_000).replace("bogus", &"é".repeat(300)));
    survives(&format!("kind: Mesh\nspec: {{{}}}", (0..50_000).map(|i| format!("k{i}: 1, ")).collect::<String>()));
}

#[test]
fn expansion_is_bounded() {
    let words = "w, ".repeat(900);
    let mut text = String::from(
        "apiVersion: firedrill.dev/v1\nkind: Mesh\nmetadata: {name: m}\nspec: {trustDomain: a, regions: [r]}\n",
    );
    for i in 0..150 {
        text.push_str(&format!("---\napiVersion: firedrill.dev/v1\nkind: Service\nmetadata: {{name: s{i}}}\nspec: {{calls: [x{i}], endpoints: [{{region: r, count: 100, run: [{words}]}}]}}\n"));
    }
    survives(&text);
}

#[test]
fn numbers_out_of_range() {
    for number in ["99999999999999999999999999", "-1", "1e309", "0x10", "1.5", "NaN", ".inf", "4294967296"] {
        survives(&format!(
            "apiVersion: firedrill.dev/v1\nkind: Service\nmetadata: {{name: a}}\nspec: {{endpoints: [{{region: r, count: {number}, weight: {number}, capacity: {number}/s, run: [x]}}], timeout: {number}s, retries: {{attempts: {number}}}}}\n"
        ));
    }
}
