//! From trees to types: every mismatch is reported and reading goes on.

use schemars::{JsonSchema, Schema, SchemaGenerator};

pub(crate) use crate::report::Cx;
use crate::{
    near::{list, nearest},
    tree::{Loc, Node, Value},
};

/// Most items of a list: more than any manifest needs, and few enough to compare all with all.
const ITEMS: usize = 1000;

/// A value and where it was written.
#[derive(Clone, Debug)]
pub(crate) struct At<T> {
    /// What.
    pub value: T,
    /// Where the value is.
    pub at: Loc,
    /// Its key, or itself.
    pub head: Loc,
    /// Something in it could not be read and is left out, which was reported: what seems missing may be that.
    pub flawed: bool,
}

impl<T> std::ops::Deref for At<T> {
    type Target = T;
    fn deref(&self) -> &T {
        &self.value
    }
}

/// Can be read from a node. `None` means that a problem was reported.
pub(crate) trait FromNode: Sized {
    fn from_node(node: &Node, cx: &mut Cx<'_>) -> Option<Self>;
}

impl<T: FromNode> FromNode for At<T> {
    fn from_node(node: &Node, cx: &mut Cx<'_>) -> Option<Self> {
        let before = cx.errors();
        let value = T::from_node(node, cx)?;
        Some(Self { value, at: node.at, head: node.head, flawed: cx.errors() > before })
    }
}

/// Items that cannot be read are reported and left out.
impl<T: FromNode> FromNode for Vec<T> {
    fn from_node(node: &Node, cx: &mut Cx<'_>) -> Option<Self> {
        match &node.value {
            Value::List(items) => {
                if items.len() > ITEMS {
                    cx.error(
                        "too-long",
                        node.head,
                        format!("the list has {} items, at most {ITEMS} are read", items.len()),
                    )
                    .mend("shorten it");
                }
                Some(items.iter().take(ITEMS).filter_map(|item| T::from_node(item, cx)).collect())
            }
            Value::Scalar(text) => {
                let items: Vec<&str> = text.split_whitespace().take(20).collect();
                cx.error("wrong-type", node.at, format!("expected a list, found {}", kind(node)))
                    .mend(format!("write `[{}]`", items.join(", ")));
                None
            }
            _ => mismatch(node, "a list, as `[a, b]`", cx),
        }
    }
}

/// What a node is, for people.
fn kind(node: &Node) -> String {
    match &node.value {
        Value::Null | Value::Broken => "nothing".to_owned(),
        Value::Scalar(text) if text.chars().count() <= 40 => format!("`{text}`"),
        Value::Scalar(_) => "a text".to_owned(),
        Value::List(_) => "a list".to_owned(),
        Value::Map(_) => "a mapping".to_owned(),
    }
}

/// Reports a value of the wrong shape.
pub(crate) fn mismatch<T>(node: &Node, expected: &str, cx: &mut Cx<'_>) -> Option<T> {
    match &node.value {
        Value::Broken => {}
        Value::Null => {
            cx.error("no-value", node.head, format!("there is no value; expected {expected}"))
                .mend("write a value, or delete the line if the field has a default");
        }
        _ => {
            cx.error("wrong-type", node.at, format!("expected {expected}, found {}", kind(node)))
                .mend(format!("write {expected}"));
        }
    }
    None
}

/// The text of a scalar.
pub(crate) fn scalar<'n>(node: &'n Node, expected: &str, cx: &mut Cx<'_>) -> Option<&'n str> {
    match &node.value {
        Value::Scalar(text) => Some(text),
        _ => mismatch(node, expected, cx),
    }
}

/// A value that is one of a few words.
pub(crate) fn word<T: Copy>(node: &Node, words: &[(&'static str, T)], cx: &mut Cx<'_>) -> Option<T> {
    let known = || words.iter().map(|(w, _)| *w);
    let expected = format!("one of {}", list(known()).replace(" and ", " or "));
    let text = scalar(node, &expected, cx)?;
    let found = words.iter().find(|(w, _)| *w == text).map(|(_, v)| *v);
    if found.is_none() {
        let help = nearest(text, known()).map_or_else(|| format!("use {expected}"), |w| format!("did you mean `{w}`?"));
        cx.error("unknown-value", node.at, format!("`{text}` is not {expected}")).mend(help);
    }
    found
}

/// The fields of a mapping.
pub(crate) struct Fields<'n> {
    owner: &'n Node,
    what: &'static str,
    entries: Vec<(&'n str, &'n Node)>,
    /// Known names that unknown ones probably mean: not reported as missing, too.
    meant: Vec<&'n str>,
}

impl<'n> Fields<'n> {
    /// Reports what is not a mapping, unknown fields and repeated keys.
    pub(crate) fn of(node: &'n Node, what: &'static str, known: &'n [String], cx: &mut Cx<'_>) -> Option<Self> {
        let Value::Map(pairs) = &node.value else {
            let fields = list(known.iter().map(String::as_str));
            return mismatch(node, &format!("{what}: a mapping with {fields}"), cx);
        };
        let mut entries: Vec<(&str, &Node)> = Vec::new();
        let mut meant = Vec::new();
        for (key, value) in pairs {
            if let Some((name, first)) = entries.iter().find(|(name, _)| *name == key.text && opens_a_manifest(name)) {
                let first = cx.place(first.head);
                cx.error(
                    "missing-separator",
                    key.at,
                    format!("another manifest begins here: `{name}` is written twice"),
                )
                .mend("write a line `---` before it, or delete one of them")
                .see(first, "the manifest before it begins here");
                break;
            }
            if !known.contains(&key.text) {
                // A key that is no text was reported by the tree already.
                if !key.text.is_empty() {
                    meant.extend(unknown_field(key, what, known, cx));
                }
            } else if let Some((_, first)) = entries.iter().find(|(name, _)| *name == key.text) {
                let first = cx.place(first.head);
                cx.error("duplicate-key", key.at, format!("`{}` is written twice in {what}", key.text))
                    .mend("delete one of them")
                    .see(first, "first written here");
            } else {
                entries.push((&key.text, value));
            }
        }
        Some(Self { owner: node, what, entries, meant })
    }

    fn get(&self, name: &str) -> Option<&'n Node> {
        self.entries.iter().find(|(n, _)| *n == name).map(|(_, node)| *node)
    }
}

/// Whether a repeated key means that the line between two manifests is missing.
fn opens_a_manifest(key: &str) -> bool {
    matches!(key, "apiVersion" | "kind")
}

fn unknown_field<'n>(key: &crate::tree::Key, what: &str, known: &'n [String], cx: &mut Cx<'_>) -> Option<&'n str> {
    let known = || known.iter().map(String::as_str);
    let meant = if cx.is_full() { None } else { nearest(&key.text, known()) };
    let help = match meant {
        Some(name) => format!("did you mean `{name}`?"),
        None => format!("the fields here are {}", list(known())),
    };
    let shown: String = key.text.chars().take(60).collect();
    cx.error("unknown-field", key.at, format!("unknown field `{shown}` in {what}")).mend(help);
    meant
}

/// Can be a field: required, or not.
pub(crate) trait FromField: Sized {
    fn from_field(name: &str, fields: &Fields<'_>, cx: &mut Cx<'_>) -> Option<Self>;
}

impl<T: FromNode> FromField for At<T> {
    fn from_field(name: &str, fields: &Fields<'_>, cx: &mut Cx<'_>) -> Option<Self> {
        let node = fields.get(name);
        if node.is_none() && !fields.meant.contains(&name) {
            cx.error("missing-field", fields.owner.head, format!("{} needs the field `{name}`", fields.what))
                .mend(format!("add `{name}:`"));
        }
        Self::from_node(node?, cx)
    }
}

/// One that cannot be read is reported and then treated as not written.
impl<T: FromNode> FromField for Option<At<T>> {
    fn from_field(name: &str, fields: &Fields<'_>, cx: &mut Cx<'_>) -> Option<Self> {
        Some(fields.get(name).and_then(|node| At::from_node(node, cx)))
    }
}

/// `trust_domain` to `trustDomain`.
pub(crate) fn camel(field: &str) -> String {
    let mut out = String::new();
    let mut upper = false;
    for c in field.trim_start_matches("r#").chars() {
        if c == '_' {
            upper = true;
        } else {
            out.push(if upper { c.to_ascii_uppercase() } else { c });
            upper = false;
        }
    }
    out
}

/// Declares a mapping: the type, how it is read, and its JSON Schema, from one list of fields, so that they cannot differ.
macro_rules! mapping {
    ($(#[$meta:meta])* $what:literal $name:ident { $($(#[$field_meta:meta])* $field:ident: $type:ty,)* }) => {
        $(#[$meta])*
        #[derive(Clone, Debug, schemars::JsonSchema)]
        #[schemars(rename_all = "camelCase", deny_unknown_fields)]
        #[allow(dead_code, reason = "some fields are only judged while they are read")]
        pub(crate) struct $name { $($(#[$field_meta])* pub $field: $type,)* }

        impl $crate::read::FromNode for $name {
            fn from_node(node: &$crate::tree::Node, cx: &mut $crate::read::Cx<'_>) -> Option<Self> {
                let known = [$($crate::read::camel(stringify!($field)),)*];
                let fields = $crate::read::Fields::of(node, $what, &known, cx)?;
                // All fields are read before the first failure counts, so that every problem is seen.
                $(let $field = $crate::read::FromField::from_field(&$crate::read::camel(stringify!($field)), &fields, cx);)*
                Some(Self { $($field: $field?,)* })
            }
        }
    };
}

/// Declares a choice of words.
macro_rules! words {
    ($(#[$meta:meta])* $name:ident { $($(#[$variant_meta:meta])* $variant:ident = $word:literal,)* }) => {
        $(#[$meta])*
        #[derive(Clone, Copy, Debug, PartialEq, Eq, schemars::JsonSchema)]
        pub(crate) enum $name { $($(#[$variant_meta])* #[schemars(rename = $word)] $variant,)* }

        impl $crate::read::FromNode for $name {
            fn from_node(node: &$crate::tree::Node, cx: &mut $crate::read::Cx<'_>) -> Option<Self> {
                $crate::read::word(node, &[$(($word, Self::$variant),)*], cx)
            }
        }
    };
}
pub(crate) use {mapping, words};

macro_rules! transparent_schema {
    ($type:ident) => {
        impl<T: JsonSchema> JsonSchema for $type<T> {
            fn schema_name() -> std::borrow::Cow<'static, str> {
                T::schema_name()
            }
            fn schema_id() -> std::borrow::Cow<'static, str> {
                T::schema_id()
            }
            fn inline_schema() -> bool {
                T::inline_schema()
            }
            fn json_schema(generator: &mut SchemaGenerator) -> Schema {
                T::json_schema(generator)
            }
        }
    };
}
transparent_schema!(At);
