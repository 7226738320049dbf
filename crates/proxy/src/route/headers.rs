//! Changes to headers, prepared.

use http::{HeaderMap, HeaderName, HeaderValue};
use xds::snapshot::HeaderEdits;

/// First what is removed, then what is set, then what is added.
#[derive(Debug, Default)]
pub struct Edits {
    remove: Vec<HeaderName>,
    set: Vec<(HeaderName, HeaderValue)>,
    add: Vec<(HeaderName, HeaderValue)>,
}

impl Edits {
    /// Prepares them. Names and values that are none were refused with their snapshot.
    pub fn new(edits: &HeaderEdits) -> Self {
        let name = |name: &String| HeaderName::from_bytes(name.as_bytes()).ok();
        let pair = |(key, value): &(String, String)| Some((name(key)?, HeaderValue::from_str(value).ok()?));
        Self {
            remove: edits.remove.iter().filter_map(name).collect(),
            set: edits.set.iter().filter_map(pair).collect(),
            add: edits.add.iter().filter_map(pair).collect(),
        }
    }

    /// Makes them.
    pub fn apply(&self, headers: &mut HeaderMap) {
        for name in &self.remove {
            headers.remove(name);
        }
        for (name, value) in &self.set {
            headers.insert(name, value.clone());
        }
        for (name, value) in &self.add {
            headers.append(name, value.clone());
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn removed_then_set_then_added() {
        let pair = |name: &str, value: &str| (name.to_owned(), value.to_owned());
        let edits = Edits::new(&HeaderEdits {
            set: vec![pair("x-set", "new"), pair("x-both", "set")],
            add: vec![pair("x-add", "2"), pair("x-both", "added")],
            remove: vec!["x-gone".into(), "x-both".into()],
        });
        let mut headers = HeaderMap::new();
        for (name, value) in [("x-set", "old"), ("x-add", "1"), ("x-gone", "1"), ("x-both", "old"), ("x-kept", "1")] {
            headers.append(HeaderName::from_static(name), HeaderValue::from_static(value));
        }
        edits.apply(&mut headers);
        let all = |name: &str| headers.get_all(name).iter().map(|v| v.to_str().unwrap()).collect::<Vec<_>>();
        assert_eq!(all("x-set"), ["new"]);
        assert_eq!(all("x-add"), ["1", "2"]);
        assert_eq!(all("x-both"), ["set", "added"]);
        assert!(all("x-gone").is_empty() && all("x-kept") == ["1"]);
    }
}
