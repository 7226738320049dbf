//! What an Envoy really has, by its own configuration dump.

use std::collections::BTreeMap;

use serde_json::Value;
use sha2::{Digest as _, Sha256};
use xds::{
    codec::{Layer, REQUESTS},
    resource::ResourceKind,
};

/// Versions by kind and name.
pub type Versions = BTreeMap<ResourceKind, BTreeMap<String, String>>;

/// The dynamic resources of a dump.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Dump {
    /// In force, each with its version.
    pub versions: Versions,
    /// SHA-256 of each body, as Envoy shows it.
    pub bodies: BTreeMap<(ResourceKind, String), String>,
    /// What is there beside what is in force: warming, draining, refused.
    pub beside: Vec<String>,
    /// The numbers in the layer of its runtime, by key; `None` is a value that is none.
    pub layer: BTreeMap<String, Option<u64>>,
}

/// Lists of a dump: what it holds, and whether that is in force.
const LISTS: [(&str, ResourceKind, bool); 6] = [
    ("dynamic_active_clusters", ResourceKind::Cluster, true),
    ("dynamic_warming_clusters", ResourceKind::Cluster, false),
    ("dynamic_listeners", ResourceKind::Listener, true),
    ("dynamic_route_configs", ResourceKind::Routes, true),
    ("dynamic_active_secrets", ResourceKind::Trust, true),
    ("dynamic_warming_secrets", ResourceKind::Trust, false),
];

impl Dump {
    /// Reads the answer of `/config_dump`.
    ///
    /// # Errors
    /// When it is none.
    pub fn read(bytes: &[u8]) -> Result<Self, String> {
        let value: Value = serde_json::from_slice(bytes).map_err(|error| error.to_string())?;
        let configs = value["configs"].as_array().ok_or("a dump without `configs`")?;
        let mut dump = Self::default();
        for config in configs {
            for (list, kind, active) in LISTS {
                for entry in config[list].as_array().into_iter().flatten() {
                    dump.take(kind, active, entry);
                }
            }
        }
        Ok(dump)
    }

    /// Reads the answer of `/runtime`.
    ///
    /// # Errors
    /// When it is none.
    pub fn read_layer(&mut self, bytes: &[u8]) -> Result<(), String> {
        let value: Value = serde_json::from_slice(bytes).map_err(|error| error.to_string())?;
        let entries = value["entries"].as_object().ok_or("a runtime without `entries`")?;
        // Whether requests are logged is no part of what is in force.
        let entries = entries.iter().filter(|(key, _)| *key != REQUESTS);
        self.layer = entries.map(|(key, entry)| (key.clone(), entry["final_value"].as_str().and_then(share))).collect();
        Ok(())
    }

    fn take(&mut self, kind: ResourceKind, active: bool, entry: &Value) {
        let (state, body) = match kind {
            ResourceKind::Cluster => (entry, &entry["cluster"]),
            ResourceKind::Listener => (&entry["active_state"], &entry["active_state"]["listener"]),
            ResourceKind::Routes => (entry, &entry["route_config"]),
            _ => (entry, &entry["secret"]),
        };
        let name = entry["name"].as_str().or_else(|| body["name"].as_str()).unwrap_or_default().to_owned();
        for other in ["warming_state", "draining_state"].iter().filter(|other| !entry[**other].is_null()) {
            self.beside.push(format!("{kind} {name}: {other}"));
        }
        if !active || state.is_null() {
            self.beside.push(format!("{kind} {name}: not in force"));
            return;
        }
        let version = state["version_info"].as_str().unwrap_or_default().to_owned();
        self.versions.entry(kind).or_default().insert(name.clone(), version);
        self.bodies.insert((kind, name), hex(canonical(body).as_bytes()));
    }

    /// How it differs from what should be there; empty if not at all. Endpoints have no version in a dump.
    pub fn differences(&self, wanted: &Versions, layer: &Layer) -> Vec<String> {
        let mut differences = self.beside.clone();
        let layer: BTreeMap<String, Option<u64>> =
            layer.iter().map(|(key, share)| (key.clone(), Some(share.shown()))).collect();
        if self.layer != layer {
            differences.push(format!("the runtime has {:?}, not {layer:?}", self.layer));
        }
        for kind in ResourceKind::ALL {
            if matches!(kind, ResourceKind::Endpoints | ResourceKind::Overlay) {
                continue;
            }
            let nothing = BTreeMap::new();
            let (has, wants) = (self.versions.get(&kind).unwrap_or(&nothing), wanted.get(&kind).unwrap_or(&nothing));
            for (name, version) in wants {
                match has.get(name) {
                    None => differences.push(format!("{kind} {name} is missing")),
                    Some(other) if other != version => {
                        differences.push(format!("{kind} {name} is {other}, not {version}"));
                    }
                    Some(_) => {}
                }
            }
            let more = has.keys().filter(|name| !wants.contains_key(*name));
            differences.extend(more.map(|name| format!("{kind} {name} is beside it")));
        }
        differences
    }

    /// Of all that it shows.
    pub fn digest(&self) -> String {
        hex(format!("{:?}", (&self.versions, &self.bodies, &self.beside, &self.layer)).as_bytes())
    }
}

/// A number, or the one number in a fraction as protobuf's text shows it: its numerator.
fn share(text: &str) -> Option<u64> {
    let Some((_, rest)) = text.split_once("number_value:") else { return text.parse().ok() };
    rest.split_whitespace().next()?.parse().ok()
}

/// Envoy shows the fields of a map in any order, and in another at the next look.
fn canonical(value: &Value) -> String {
    let mut text = String::new();
    write(value, &mut text);
    text
}

fn write(value: &Value, text: &mut String) {
    match value {
        Value::Object(fields) => {
            let fields: BTreeMap<&String, &Value> = fields.iter().collect();
            text.push('{');
            for (key, value) in fields {
                text.push_str(&Value::from(key.as_str()).to_string());
                text.push(':');
                write(value, text);
                text.push(',');
            }
            text.push('}');
        }
        Value::Array(items) => {
            text.push('[');
            for item in items {
                write(item, text);
                text.push(',');
            }
            text.push(']');
        }
        plain => text.push_str(&plain.to_string()),
    }
}

/// SHA-256 in lower-case hexadecimal.
pub fn hex(bytes: &[u8]) -> String {
    Sha256::digest(bytes).iter().map(|byte| format!("{byte:02x}")).collect()
}

#[cfg(test)]
mod tests {
    use serde_json::json;
    use xds::codec::Share;

    use super::*;

    fn dump(configs: &Value) -> Dump {
        Dump::read(json!({ "configs": configs }).to_string().as_bytes()).unwrap()
    }

    #[test]
    fn what_is_in_force_is_told_from_what_is_not() {
        let fx = json!({ "version_info": "1a", "cluster": { "name": "fx" } });
        let out = json!({ "name": "out", "active_state": { "version_info": "2b", "listener": { "name": "out" } } });
        let mut configs = json!([
            { "static_clusters": [{ "cluster": { "name": "control" } }], "dynamic_active_clusters": [fx] },
            { "dynamic_listeners": [out] },
            { "dynamic_active_secrets": [{ "name": "mesh", "version_info": "3c", "secret": { "name": "mesh" } }] },
        ]);
        let version = |name: &str, version: &str| BTreeMap::from([(name.to_owned(), version.to_owned())]);
        let wanted = BTreeMap::from([
            (ResourceKind::Cluster, version("fx", "1a")),
            (ResourceKind::Listener, version("out", "2b")),
            (ResourceKind::Trust, version("mesh", "3c")),
            (ResourceKind::Endpoints, version("fx", "4d")),
        ]);
        let nothing = Layer::new();
        let first = dump(&configs);
        assert_eq!(first.differences(&wanted, &nothing), Vec::<String>::new());
        configs[1]["dynamic_listeners"][0]["warming_state"] = json!({ "version_info": "5e" });
        assert_eq!(dump(&configs).differences(&wanted, &nothing), ["Listener out: warming_state"]);
        configs[0]["dynamic_active_clusters"][0]["version_info"] = json!("9");
        configs[1]["dynamic_listeners"] = json!([]);
        let second = dump(&configs);
        assert_eq!(second.differences(&wanted, &nothing), ["Cluster fx is 9, not 1a", "Listener out is missing"]);
        assert_ne!(first.digest(), second.digest());
        assert_eq!(first.differences(&BTreeMap::new(), &nothing).len(), 3);
    }

    #[test]
    fn a_fault_that_envoy_has_is_in_its_runtime() {
        let mut has = Dump::default();
        let runtime = |entries: &Value| json!({ "layers": ["firedrill"], "entries": entries }).to_string();
        // The spaces of this text change at each start of an Envoy, so that nobody relies on them.
        let text = "goo.gle/debugstr   \nfields {\n  key: \"denominator\"\n  value {\n    string_value: \"MILLION\"\n  }\n}\n\
             fields {\n  key: \"numerator\"\n  value {\n    number_value: 500000\n  }\n}\n";
        has.read_layer(runtime(&json!({ "firedrill.a": { "final_value": text, "layer_values": [text] } })).as_bytes())
            .unwrap();
        let wanted = |percent| Layer::from([("firedrill.a".to_owned(), Share::Fine(percent))]);
        assert_eq!(has.differences(&BTreeMap::new(), &wanted(50.0)), Vec::<String>::new());
        assert_eq!(has.differences(&BTreeMap::new(), &wanted(10.0)).len(), 1);
        let hurt = has.digest();
        has.read_layer(runtime(&json!({})).as_bytes()).unwrap();
        assert_eq!(has.differences(&BTreeMap::new(), &wanted(50.0)).len(), 1);
        assert_eq!(has.differences(&BTreeMap::new(), &Layer::new()), Vec::<String>::new());
        assert_ne!(has.digest(), hurt);
        has.read_layer(runtime(&json!({ REQUESTS: { "final_value": "100", "layer_values": ["100"] } })).as_bytes())
            .unwrap();
        assert_eq!(has.differences(&BTreeMap::new(), &Layer::new()), Vec::<String>::new());
        assert!(has.read_layer(b"{}").is_err());
    }

    #[test]
    fn a_body_that_changes_under_its_version_shows() {
        let secret = |body: &str| {
            dump(
                &json!([{ "dynamic_active_secrets": [{ "name": "m", "version_info": "1", "secret": { "x": body } }] }]),
            )
        };
        assert_eq!(secret("a").versions, secret("b").versions);
        assert_ne!(secret("a").bodies, secret("b").bodies);
    }

    #[test]
    fn the_order_of_a_map_says_nothing() {
        let read = |text: &str| canonical(&serde_json::from_str(text).unwrap());
        assert_eq!(read(r#"{"a": 1, "b": [{"c": 2, "d": "x"}]}"#), read(r#"{"b": [{"d": "x", "c": 2}], "a": 1}"#));
        assert_ne!(read(r#"{"a": [1, 2]}"#), read(r#"{"a": [2, 1]}"#));
    }

    #[test]
    fn what_is_no_dump_is_refused() {
        assert!(Dump::read(b"{}").is_err() && Dump::read(b"nothing").is_err());
    }
}
