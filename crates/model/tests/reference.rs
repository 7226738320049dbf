//! `docs/reference.md` is made from the JSON Schema: every field of every manifest, and never out of date.
//! `UPDATE=1 cargo test -p model --test reference` writes it.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

use std::{fmt::Write as _, path::Path};

use model::schema::schema_of_file;
use serde_json::{Map, Value};

const KINDS: [&str; 5] = ["Mesh", "Service", "RecoveryPlan", "Drill", "Backup"];

fn name_of(reference: &str) -> &str {
    reference.trim_start_matches("#/$defs/")
}

/// What a field holds, in a few words; other objects by link.
fn kind_of(field: &Value) -> String {
    if let Some(reference) = field["$ref"].as_str() {
        let name = name_of(reference);
        return format!("[{name}](#{})", name.to_lowercase());
    }
    if let Some(constant) = field.get("const") {
        return format!("`{}`", constant.as_str().map_or_else(|| constant.to_string(), str::to_owned));
    }
    if let Some(values) = field["enum"].as_array() {
        return values.iter().map(|v| format!("`{}`", v.as_str().unwrap_or_default())).collect::<Vec<_>>().join(" or ");
    }
    for choice in ["oneOf", "anyOf"] {
        let kinds: Vec<String> =
            field[choice].as_array().into_iter().flatten().map(kind_of).filter(|k| !k.is_empty()).collect();
        if !kinds.is_empty() {
            return kinds.join(" or ");
        }
    }
    if field["type"] == "array" {
        return format!("list of {}", kind_of(&field["items"]));
    }
    let examples: Vec<String> = field["examples"]
        .as_array()
        .into_iter()
        .flatten()
        .filter_map(Value::as_str)
        .map(|e| format!("`{e}`"))
        .collect();
    if !examples.is_empty() {
        return examples.join(", ");
    }
    field["type"].as_str().unwrap_or_default().to_owned()
}

fn section(out: &mut String, title: &str, level: &str, object: &Value) {
    let _ = writeln!(out, "\n{level} {title}\n");
    if let Some(text) = object["description"].as_str() {
        let _ = writeln!(out, "{text}\n");
    }
    let empty = Map::new();
    let fields = object["properties"].as_object().unwrap_or(&empty);
    if fields.is_empty() {
        let _ = writeln!(out, "{}", kind_of(object));
        return;
    }
    let required: Vec<&str> = object["required"].as_array().into_iter().flatten().filter_map(Value::as_str).collect();
    out.push_str("| field | holds | |\n|---|---|---|\n");
    for (name, field) in fields {
        let text = field["description"].as_str().unwrap_or_default().replace('|', "\\|");
        let unsupported = field.get("not").is_some();
        let holds = if unsupported { "not supported yet".to_owned() } else { kind_of(field).replace('|', "\\|") };
        let must = if required.contains(&name.as_str()) { "**required.** " } else { "" };
        let _ = writeln!(out, "| `{name}` | {holds} | {must}{text} |");
    }
}

fn reference() -> String {
    let schema = schema_of_file();
    let definitions = schema["$defs"].as_object().expect("definitions");
    let mut out = String::from(
        "# Manifest reference\n\nMade from the JSON Schema (`firedrill schema`). A manifest has `apiVersion: firedrill.dev/v1`, `kind`, `metadata: {name}` and `spec`; \
         a file may hold several, with `---` between them. Unknown fields are refused.\n",
    );
    for kind in KINDS {
        section(&mut out, kind, "##", &definitions[kind]);
    }
    out.push_str("\n## Parts\n");
    for (name, object) in definitions.iter().filter(|(name, _)| !KINDS.contains(&name.as_str())) {
        section(&mut out, name, "###", object);
    }
    out
}

#[test]
fn the_reference_is_up_to_date() {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../docs/reference.md");
    let expected = reference();
    if std::env::var_os("UPDATE").is_some() {
        std::fs::write(&path, &expected).unwrap();
    }
    let found = std::fs::read_to_string(&path).unwrap_or_default();
    assert!(found == expected, "docs/reference.md is out of date: UPDATE=1 cargo test -p model --test reference");
}
