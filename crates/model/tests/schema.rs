//! The JSON Schema is as in `schema.json` (`UPDATE=1` writes it anew), and says what the parser does.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

use std::{fs, path::Path};

use model::{Source, parse, schema::Kind};
use serde_json::Value;

#[test]
fn schema_of_a_file() {
    let text = serde_json::to_string_pretty(&model::schema::schema_of_file()).unwrap() + "\n";
    let expected = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/schema.json");
    if std::env::var_os("UPDATE").is_some() {
        fs::write(&expected, &text).unwrap();
    }
    assert_eq!(fs::read_to_string(&expected).unwrap_or_default(), text, "UPDATE=1 writes what it is now");
}

/// Every object and every property in a schema.
fn walk<'s>(path: &str, schema: &'s Value, see: &mut impl FnMut(&str, &'s Value)) {
    see(path, schema);
    match schema {
        Value::Object(map) => map.iter().for_each(|(key, value)| walk(&format!("{path}/{key}"), value, see)),
        Value::Array(items) => items.iter().enumerate().for_each(|(i, value)| walk(&format!("{path}/{i}"), value, see)),
        _ => {}
    }
}

#[test]
fn every_kind_is_closed_described_and_complete() {
    for kind in Kind::ALL {
        let schema = model::schema::schema(kind);
        assert_eq!(schema["$schema"], "https://json-schema.org/draft/2020-12/schema");
        walk("", &schema, &mut |path, part| {
            if let Some(reference) = part.get("$ref").and_then(Value::as_str) {
                assert!(schema.pointer(reference.trim_start_matches('#')).is_some(), "{kind:?} {path}: {reference}");
            }
            if let Some(properties) =
                part.get("properties").and_then(Value::as_object).filter(|_| part.get("if").is_none())
            {
                assert_eq!(part["additionalProperties"], false, "{kind:?} {path}");
                for (name, property) in properties {
                    let described = property.get("description").is_some() || property.get("$ref").is_some();
                    assert!(described, "{kind:?} {path}: {name} has no description");
                }
            }
            assert_ne!(part.get("type"), Some(&Value::from("null")), "{kind:?} {path}");
        });
    }
}

/// What the schema does not list, the parser refuses as unknown or not supported; what it requires, the parser misses.
#[test]
fn required_fields_agree_with_the_parser() {
    for kind in Kind::ALL {
        let text =
            format!("apiVersion: firedrill.dev/v1\nkind: {}\nmetadata: {{name: a}}\nspec: {{}}\n", kind.as_str());
        let problems = parse(&[Source { path: "a.yaml".to_owned(), text }]).unwrap_err();
        let mut missing: Vec<String> = problems
            .iter()
            .filter(|p| p.code == "missing-field")
            .filter_map(|p| Some(p.help.as_ref()?.strip_prefix("add `")?.trim_end_matches(":`").to_owned()))
            .collect();
        missing.sort();
        let schema = model::schema::schema(kind);
        let spec = schema["properties"]["spec"]["$ref"].as_str().unwrap().trim_start_matches('#');
        let mut required: Vec<String> = schema.pointer(spec).unwrap()["required"]
            .as_array()
            .unwrap()
            .iter()
            .map(|r| r.as_str().unwrap().to_owned())
            .collect();
        required.sort();
        assert_eq!(missing, required, "{kind:?}");
    }
}
