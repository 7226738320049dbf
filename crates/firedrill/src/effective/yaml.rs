//! JSON values as block YAML. Every text that could be read as anything but a text is quoted.

use serde_json::{Map, Value};

/// One document, ending with a line break.
pub fn document(value: &Value) -> String {
    let mut out = String::new();
    match value {
        Value::Object(fields) if !fields.is_empty() => mapping(&mut out, fields, 0),
        other => {
            out.push_str(&flow(other));
            out.push('\n');
        }
    }
    out
}

fn mapping(out: &mut String, fields: &Map<String, Value>, depth: usize) {
    for (at, (name, value)) in fields.iter().enumerate() {
        // The first field of a list's item stands beside its dash.
        if at > 0 || !out.ends_with("- ") {
            out.push_str(&"  ".repeat(depth));
        }
        out.push_str(&text(name));
        out.push(':');
        field(out, value, depth);
    }
}

fn field(out: &mut String, value: &Value, depth: usize) {
    match value {
        Value::Object(fields) if !fields.is_empty() => {
            out.push('\n');
            mapping(out, fields, depth + 1);
        }
        Value::Array(items) if items.iter().any(Value::is_object) => {
            out.push('\n');
            for item in items {
                out.push_str(&"  ".repeat(depth + 1));
                out.push_str("- ");
                match item {
                    Value::Object(fields) if !fields.is_empty() => mapping(out, fields, depth + 2),
                    other => {
                        out.push_str(&flow(other));
                        out.push('\n');
                    }
                }
            }
        }
        other => {
            out.push(' ');
            out.push_str(&flow(other));
            out.push('\n');
        }
    }
}

fn flow(value: &Value) -> String {
    match value {
        Value::String(value) => text(value),
        Value::Array(items) => format!("[{}]", items.iter().map(flow).collect::<Vec<_>>().join(", ")),
        // Only empty objects come here; JSON is YAML anyway.
        other => other.to_string(),
    }
}

/// Plain where that is certainly a text in YAML, else quoted as JSON, which YAML reads the same.
fn text(value: &str) -> String {
    let plain = |c: char| c.is_ascii_alphanumeric() || matches!(c, '-' | '.' | '_' | '/' | '%');
    let ambiguous = matches!(
        value.to_ascii_lowercase().as_str(),
        "null" | "true" | "false" | "yes" | "no" | "on" | "off" | "y" | "n"
    );
    let lettered = value.starts_with(|c: char| c.is_ascii_alphabetic());
    // `24h` or `99.9%` cannot be numbers; `1e5`, `0x10`, `1_000` and dates could.
    let unit = value.starts_with(|c: char| c.is_ascii_digit())
        && value.ends_with(['s', 'h', '%'])
        && !value.contains(['x', '_', '-']);
    if value.chars().all(plain) && !ambiguous && (lettered || unit) {
        value.to_owned()
    } else {
        Value::String(value.to_owned()).to_string()
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn values_are_written_as_people_write_them() {
        let value = json!({
            "kind": "Mesh",
            "spec": {
                "regions": ["east", "west"],
                "listen": "127.0.0.1:8080",
                "hedge": "off",
                "timeout": "2s",
                "number": "12",
                "gateways": [{"name": "edge", "routes": [{"prefix": "/", "service": "web"}]}],
                "none": [],
                "people": {},
            }
        });
        let text = "\
kind: Mesh
spec:
  regions: [east, west]
  listen: \"127.0.0.1:8080\"
  hedge: \"off\"
  timeout: 2s
  number: \"12\"
  gateways:
    - name: edge
      routes:
        - prefix: \"/\"
          service: web
  none: []
  people: {}
";
        assert_eq!(document(&value), text);
    }
}
