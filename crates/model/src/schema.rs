//! JSON Schema (draft 2020-12) of manifests, for editors: made from the same declarations that manifests are read by.

use schemars::{JsonSchema, SchemaGenerator, generate::SchemaSettings};
use serde_json::{Map, Value, json};

use crate::raw::{self, API_VERSION};

/// Kind of a manifest.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// The mesh.
    Mesh,
    /// A service.
    Service,
    /// A recovery plan.
    RecoveryPlan,
    /// A drill.
    Drill,
    /// A backup.
    Backup,
}

impl Kind {
    /// All kinds.
    pub const ALL: [Self; 5] = [Self::Mesh, Self::Service, Self::RecoveryPlan, Self::Drill, Self::Backup];

    /// As it is written in manifests.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Mesh => "Mesh",
            Self::Service => "Service",
            Self::RecoveryPlan => "RecoveryPlan",
            Self::Drill => "Drill",
            Self::Backup => "Backup",
        }
    }
}

const DRAFT: &str = "https://json-schema.org/draft/2020-12/schema";

/// Schema of a document of one kind.
pub fn schema(kind: Kind) -> Value {
    let mut generator = generator();
    let mut schema = document(kind, &mut generator);
    schema.insert("$schema".into(), json!(DRAFT));
    schema.insert("$id".into(), json!(format!("https://firedrill.dev/schema/v1/{}.json", kind.as_str())));
    schema.insert("$defs".into(), definitions(&mut generator));
    Value::Object(schema)
}

/// Schema of a document of any kind: what editors should use for a whole file, each document of which it is applied to.
pub fn schema_of_file() -> Value {
    let mut generator = generator();
    let kinds = Kind::ALL.map(|kind| {
        // `if` on the kind, rather than `anyOf`, so that editors report on the kind that is meant.
        json!({
            "if": {"properties": {"kind": {"const": kind.as_str()}}, "required": ["kind"]},
            "then": document(kind, &mut generator),
        })
    });
    let names = Kind::ALL.map(Kind::as_str);
    json!({
        "$schema": DRAFT,
        "$id": "https://firedrill.dev/schema/v1/manifest.json",
        "title": "Firedrill manifest",
        "type": "object",
        "properties": {"apiVersion": {"const": API_VERSION}, "kind": {"enum": names}},
        "required": ["apiVersion", "kind", "metadata", "spec"],
        "allOf": kinds,
        "$defs": definitions(&mut generator),
    })
}

fn generator() -> SchemaGenerator {
    SchemaSettings::draft2020_12().into_generator()
}

fn document(kind: Kind, generator: &mut SchemaGenerator) -> Map<String, Value> {
    fn spec<T: JsonSchema>(generator: &mut SchemaGenerator) -> (Value, Value) {
        let schema = generator.subschema_for::<T>().to_value();
        let metadata = generator.subschema_for::<raw::Metadata>().to_value();
        (schema, metadata)
    }
    let (spec, metadata) = match kind {
        Kind::Mesh => spec::<raw::Mesh>(generator),
        Kind::Service => spec::<raw::Service>(generator),
        Kind::RecoveryPlan => spec::<raw::RecoveryPlan>(generator),
        Kind::Drill => spec::<raw::Drill>(generator),
        Kind::Backup => spec::<raw::Backup>(generator),
    };
    let document = json!({
        "title": kind.as_str(),
        "type": "object",
        "properties": {
            "apiVersion": {"const": API_VERSION, "description": "Version of the manifest's format."},
            "kind": {"const": kind.as_str(), "description": "Kind of the manifest."},
            "metadata": metadata,
            "spec": spec,
        },
        "required": ["apiVersion", "kind", "metadata", "spec"],
        "additionalProperties": false,
    });
    match document {
        Value::Object(map) => map,
        _ => Map::new(),
    }
}

/// Mappings of which exactly one of these fields must be written.
const CHOICES: [(&str, &[&str]); 13] = [
    ("Endpoint", &["run", "address", "addresses", "dns", "file"]),
    ("Dns", &["name", "srv"]),
    ("Fault", &FAULTS),
    ("Guard", &["successRate", "latencyP99", "indeterminate"]),
    ("HashKey", &["header", "cookie", "sourceAddress"]),
    ("Mirror", &["version", "service"]),
    ("Named", &["present", "absent", "exact", "prefix", "regex"]),
    ("PathMatch", &["exact", "prefix", "regex"]),
    ("Probe", &["http", "writes"]),
    ("RouteFault", &FAULTS),
    ("ScenarioStep", &["lose", "fault", "partition", "noControl", "run", "wait"]),
    ("Step", &["shift", "run"]),
    ("Sticky", &["header", "cookie"]),
];

const FAULTS: [&str; 12] = [
    "delay",
    "abort",
    "abortGrpc",
    "refuse",
    "reset",
    "resetAfter",
    "blackhole",
    "dropConnect",
    "bandwidth",
    "truncate",
    "dns",
    "tls",
];

fn definitions(generator: &mut SchemaGenerator) -> Value {
    let mut definitions = Value::Object(generator.take_definitions(true));
    for (name, fields) in CHOICES {
        if let Some(Value::Object(definition)) = definitions.get_mut(name) {
            definition.insert("oneOf".into(), fields.iter().map(|field| json!({"required": [field]})).collect());
        }
    }
    strict(&mut definitions);
    definitions
}

/// A field that is not written may be left out, but not be null: the generator allows both.
fn strict(schema: &mut Value) {
    match schema {
        Value::Array(items) => items.iter_mut().for_each(strict),
        Value::Object(map) => {
            if let Some(Value::Array(types)) = map.get_mut("type") {
                types.retain(|t| t != "null");
                if let [only] = &types[..] {
                    let only = only.clone();
                    map.insert("type".into(), only);
                }
            }
            if let Some(Value::Array(choices)) = map.get_mut("anyOf") {
                choices.retain(|c| *c != json!({"type": "null"}));
                if let [only] = &choices[..]
                    && let Value::Object(only) = only.clone()
                {
                    map.remove("anyOf");
                    for (key, value) in only {
                        map.entry(key).or_insert(value);
                    }
                }
            }
            if let Some(Value::Array(choices)) = map.get_mut("oneOf") {
                // Left by words that are known only to be refused.
                choices.retain(|c| c.get("enum") != Some(&json!([])));
            }
            map.values_mut().for_each(strict);
        }
        _ => {}
    }
}
