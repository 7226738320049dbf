//! A snapshot as a file: YAML or JSON, the form that `firedrill proxy --snapshot` reads and `firedrill render` prints.

use schemars::generate::SchemaSettings;
use serde_json::Value;

use crate::snapshot::Snapshot;

/// Why a file is not a snapshot: what is wrong, in which field, at which line and column.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct Malformed(String);

/// Reads a snapshot: [`parse`], without room that its lists do not need.
///
/// # Errors
/// At the first thing that is not of the form.
pub fn read(text: &str) -> Result<Snapshot, Malformed> {
    parse(text).map(|mut snapshot| {
        snapshot.shrink();
        snapshot
    })
}

/// Text that begins with a brace is JSON, anything else YAML. What the fields mean together is not
/// judged here.
fn parse(text: &str) -> Result<Snapshot, Malformed> {
    let malformed = |error: String| Malformed(error.trim_end().to_owned());
    if !text.trim_start().starts_with('{') {
        let snapshot = serde_saphyr::from_str(text).map_err(|error| malformed(error.to_string()))?;
        // What a file that was cut short would say.
        let nothing = snapshot == Snapshot::default();
        return if nothing {
            Err(malformed("it says nothing; write `{}` if that is meant".to_owned()))
        } else {
            Ok(snapshot)
        };
    }
    // The path of the field costs time, which only a person's mistake is worth.
    serde_json::from_str(text).or_else(|plain: serde_json::Error| {
        let mut json = serde_json::Deserializer::from_str(text);
        match serde_path_to_error::deserialize(&mut json) {
            Ok(snapshot) => json.end().map(|()| snapshot).map_err(|error| malformed(error.to_string())),
            Err(error) if error.path().iter().next().is_some() => Err(malformed(format!("{}: {plain}", error.path()))),
            Err(_) => Err(malformed(plain.to_string())),
        }
    })
}

/// JSON Schema (draft 2020-12) of the file.
pub fn schema() -> Value {
    let schema = SchemaSettings::draft2020_12().into_generator().into_root_schema_for::<Snapshot>();
    let mut schema = schema.to_value();
    if let Value::Object(fields) = &mut schema {
        fields.insert("$id".to_owned(), "https://firedrill.dev/schema/v1/Snapshot.json".into());
    }
    schema
}

#[cfg(test)]
mod tests {
    use super::*;

    const YAML: &str = "
listeners:
- name: in
  address: 127.0.0.1:8080
  direction: gateway
  protocol: {http: {routes: all, limits: {idleTimeout: 60s}}}
routes:
- name: all
  hosts:
  - name: all
    domains: ['*']
    routes:
    - match: {path: {prefix: /}}
      action: {forward: {clusters: [{cluster: web, weight: 1}], timeout: 15s}}
clusters:
- name: web
  service: web
  protocol: http1
  connectTimeout: 1s
  balancer: leastRequest
  panicThreshold: 0
endpoints:
- cluster: web
  localities:
  - {region: east, priority: 0, weight: 1, endpoints: [{name: a, address: 127.0.0.1:8081, weight: 1}]}
";

    #[test]
    fn both_notations_say_the_same() {
        let snapshot = read(YAML).unwrap();
        assert_eq!(snapshot.clusters[0].name, "web");
        for json in [serde_json::to_string(&snapshot).unwrap(), serde_json::to_string_pretty(&snapshot).unwrap()] {
            assert_eq!(read(&json).unwrap(), snapshot);
        }
        assert_eq!(read("{}").unwrap(), Snapshot::default());
    }

    #[test]
    fn a_mistake_is_named_with_its_place() {
        let json = serde_json::to_string_pretty(&read(YAML).unwrap()).unwrap();
        let said = read(&json.replace("\"15s\"", "\"soon\"")).unwrap_err().to_string();
        assert!(
            said.starts_with("routes[0].hosts[0].routes[0].action.forward.timeout: `soon` is not a duration"),
            "{said}"
        );
        assert!(said.contains(" at line "), "{said}");
        let said = read(&YAML.replace("weight: 1, endpoints", "wieght: 1, endpoints")).unwrap_err().to_string();
        assert!(said.contains("wieght") && said.contains("line 25"), "{said}");
        assert!(read("{} {}").is_err() && read("[]").is_err() && read("").is_err());
    }

    #[test]
    fn the_schema_takes_what_is_read() {
        let schema = schema();
        let cluster = &schema["$defs"]["Cluster"];
        assert_eq!(cluster["properties"]["connectTimeout"]["pattern"], "^[0-9]+(ns|us|ms|s)$");
        let required: Vec<_> = cluster["required"].as_array().unwrap().iter().filter_map(Value::as_str).collect();
        assert_eq!(required, ["name", "service", "protocol", "connectTimeout", "balancer", "panicThreshold"]);
        assert_eq!(schema["additionalProperties"], false);
    }
}
