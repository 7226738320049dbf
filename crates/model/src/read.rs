//! From trees to types: every mismatch is reported and reading goes on.

use std::{collections::BTreeMap, net::SocketAddr, str::FromStr, time::Duration};

use schemars::{JsonSchema, Schema, SchemaGenerator, json_schema};

use crate::{
    name::{self, NameError},
    near::{list, nearest},
    problem::{Place, Problem, Related, Severity, Source},
    tree::{Loc, Node, Value},
    unit::{Percent, Rate, parse_duration},
};

/// Most problems that are kept; a file that is not a manifest at all should not flood the reader.
const PROBLEMS: usize = 200;

/// Most items of a list: more than any manifest needs, and few enough to compare all with all.
const ITEMS: usize = 1000;

/// Where problems go.
pub(crate) struct Cx<'a> {
    sources: &'a [Source],
    /// Offsets at which lines begin, per source.
    lines: Vec<Vec<usize>>,
    problems: Vec<Problem>,
    /// Errors so far, those beyond the limit too.
    errors: usize,
    /// Takes what is beyond the limit.
    spill: Problem,
}

impl<'a> Cx<'a> {
    pub(crate) fn new(sources: &'a [Source]) -> Self {
        let begins = |s: &Source| {
            let after_breaks = s.text.bytes().enumerate().filter(|(_, b)| *b == b'\n').map(|(i, _)| i + 1);
            std::iter::once(0).chain(after_breaks).collect()
        };
        let lines = sources.iter().map(begins).collect();
        Self {
            sources,
            lines,
            problems: Vec::new(),
            errors: 0,
            spill: blank(Severity::Error, "", Place::nowhere(), String::new()),
        }
    }

    /// Place of a range of bytes.
    pub(crate) fn place(&self, at: Loc) -> Place {
        let (Some(source), Some(lines)) = (self.sources.get(at.file), self.lines.get(at.file)) else {
            return Place::nowhere();
        };
        let line = lines.partition_point(|begin| *begin <= at.start).max(1);
        let begin = lines.get(line - 1).copied().unwrap_or(0);
        let column = source.text.get(begin..at.start).map_or(0, |before| before.chars().count()) + 1;
        Place { path: source.path.clone(), line, column, offset: at.start, length: at.end - at.start }
    }

    /// Text of a range of bytes.
    pub(crate) fn text(&self, at: Loc) -> &'a str {
        self.sources.get(at.file).and_then(|s| s.text.get(at.start..at.end)).unwrap_or_default()
    }

    fn push(&mut self, severity: Severity, code: &'static str, at: Option<Loc>, message: String) -> &mut Problem {
        self.errors += usize::from(severity == Severity::Error);
        if self.problems.len() >= PROBLEMS {
            return &mut self.spill;
        }
        let place = at.map_or_else(Place::nowhere, |at| self.place(at));
        self.problems.push(blank(severity, code, place, message));
        self.problems.last_mut().unwrap_or(&mut self.spill)
    }

    pub(crate) fn error(&mut self, code: &'static str, at: Loc, message: impl Into<String>) -> &mut Problem {
        self.push(Severity::Error, code, Some(at), message.into())
    }

    pub(crate) fn warning(&mut self, code: &'static str, at: Loc, message: impl Into<String>) -> &mut Problem {
        self.push(Severity::Warning, code, Some(at), message.into())
    }

    /// An error of the whole set of files.
    pub(crate) fn error_nowhere(&mut self, code: &'static str, message: impl Into<String>) -> &mut Problem {
        self.push(Severity::Error, code, None, message.into())
    }

    /// Errors so far: compare before and after to know whether a part is sound.
    pub(crate) fn errors(&self) -> usize {
        self.errors
    }

    /// No more problems are kept: looking for the best help is wasted.
    pub(crate) fn is_full(&self) -> bool {
        self.problems.len() >= PROBLEMS
    }

    /// All problems, by file and place.
    pub(crate) fn finish(self) -> Vec<Problem> {
        let order: BTreeMap<&str, usize> = self.sources.iter().enumerate().map(|(i, s)| (s.path.as_str(), i)).collect();
        let mut problems = self.problems;
        problems.sort_by_key(|p| (order.get(p.place.path.as_str()).copied(), p.place.offset));
        if problems.len() >= PROBLEMS {
            let message = format!("there may be more: at most {PROBLEMS} problems are shown at once");
            problems.push(blank(Severity::Warning, "too-many-problems", Place::nowhere(), message));
        }
        problems
    }
}

impl Place {
    fn nowhere() -> Self {
        Self { path: String::new(), line: 1, column: 1, offset: 0, length: 0 }
    }
}

fn blank(severity: Severity, code: &'static str, place: Place, message: String) -> Problem {
    Problem { severity, code, place, message, help: None, related: Vec::new() }
}

impl Problem {
    pub(crate) fn mend(&mut self, help: impl Into<String>) -> &mut Self {
        self.help = Some(help.into());
        self
    }

    pub(crate) fn see(&mut self, place: Place, message: impl Into<String>) -> &mut Self {
        self.related.push(Related { place, message: message.into() });
        self
    }
}

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

fn parsed<T: FromStr>(node: &Node, expected: &str, cx: &mut Cx<'_>) -> Option<T> {
    match scalar(node, expected, cx)?.parse() {
        Ok(value) => Some(value),
        Err(_) => mismatch(node, expected, cx),
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

/// Texts of at least one character, without control characters but line breaks.
impl FromNode for String {
    fn from_node(node: &Node, cx: &mut Cx<'_>) -> Option<Self> {
        let text = scalar(node, "a text", cx)?;
        if text.trim().is_empty() {
            cx.error("no-value", node.at, "the text is empty").mend("write one, or delete the line");
            return None;
        }
        if text.chars().any(|c| c.is_control() && c != '\n') {
            cx.error("wrong-type", node.at, "the text has control characters").mend("delete them");
            return None;
        }
        Some(text.to_owned())
    }
}

impl FromNode for bool {
    fn from_node(node: &Node, cx: &mut Cx<'_>) -> Option<Self> {
        word(node, &[("true", true), ("false", false)], cx)
    }
}

impl FromNode for u32 {
    fn from_node(node: &Node, cx: &mut Cx<'_>) -> Option<Self> {
        parsed(node, "a whole number", cx)
    }
}

impl FromNode for u16 {
    fn from_node(node: &Node, cx: &mut Cx<'_>) -> Option<Self> {
        parsed(node, "a whole number", cx)
    }
}

macro_rules! unit {
    ($type:ty, $text:ident => $parse:expr, $example:literal) => {
        impl FromNode for $type {
            fn from_node(node: &Node, cx: &mut Cx<'_>) -> Option<Self> {
                let $text = scalar(node, $example, cx)?;
                match $parse {
                    Ok(value) => Some(value),
                    Err(error) => {
                        cx.error("bad-quantity", node.at, format!("`{}` is not {}", $text, $example))
                            .mend(error.to_string());
                        None
                    }
                }
            }
        }
    };
}
unit!(Percent, text => text.parse::<Percent>(), "a percentage");
unit!(Rate, text => text.parse::<Rate>(), "a rate");
unit!(Time, text => parse_duration(text).map(Time), "a duration");

/// A duration as written.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Time(pub Duration);

/// `host:port` with a literal host, or `localhost`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct HostPort(pub SocketAddr);

/// Reads `127.0.0.1:80`, `[::1]:80`, `localhost:80`; the port is not 0.
pub(crate) fn host_port(text: &str) -> Option<SocketAddr> {
    let text = text.strip_prefix("localhost:").map_or_else(|| text.to_owned(), |port| format!("127.0.0.1:{port}"));
    text.parse().ok().filter(|a: &SocketAddr| a.port() != 0)
}

impl FromNode for HostPort {
    fn from_node(node: &Node, cx: &mut Cx<'_>) -> Option<Self> {
        let text = scalar(node, "an address", cx)?;
        let address = host_port(text);
        if address.is_none() {
            cx.error("bad-address", node.at, format!("`{text}` is not an address")).mend(
                "write an IP address and a port other than 0, as `127.0.0.1:8080`; host names are not supported yet",
            );
        }
        address.map(HostPort)
    }
}

macro_rules! names {
    ($($type:ident),*) => {$(
        impl FromNode for name::$type {
            fn from_node(node: &Node, cx: &mut Cx<'_>) -> Option<Self> {
                read_name(node, cx, |t| Self::new(t))
            }
        }
    )*};
}
names!(RegionName, ServiceName, GatewayName, PlanName, DrillName, ProbeName);

/// Reads a name.
pub(crate) fn read_name<T>(node: &Node, cx: &mut Cx<'_>, new: fn(String) -> Result<T, NameError>) -> Option<T> {
    let text = scalar(node, "a name", cx)?;
    match new(text.to_owned()) {
        Ok(name) => Some(name),
        Err(_) => {
            let shown: String = text.chars().take(80).collect();
            cx.error("bad-name", node.at, format!("`{shown}` is not a name"))
                .mend("use 1 to 63 of a-z, 0-9 and `-`, beginning and ending with a letter or digit");
            None
        }
    }
}

impl FromNode for BTreeMap<String, String> {
    fn from_node(node: &Node, cx: &mut Cx<'_>) -> Option<Self> {
        match &node.value {
            Value::Map(entries) => {
                let mut map = BTreeMap::new();
                for (key, value) in entries {
                    let Some(text) = scalar(value, "a text", cx) else { continue };
                    if map.insert(key.text.clone(), text.to_owned()).is_some() {
                        cx.error("duplicate-key", key.at, format!("`{}` is written twice", key.text))
                            .mend("delete one of them");
                    }
                }
                Some(map)
            }
            _ => mismatch(node, "a mapping of texts", cx),
        }
    }
}

/// A field that would be known, but is for later.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Unsupported;

impl FromNode for Unsupported {
    fn from_node(node: &Node, cx: &mut Cx<'_>) -> Option<Self> {
        let name = cx.text(node.head);
        let help = match name {
            "activeActive" | "canary" | "blueGreen" => "write `activePassive: {primary: …, standby: […]}`",
            "spire" | "files" => "write `builtin: {}`",
            _ => "delete it",
        };
        cx.error("not-supported", node.head, format!("`{name}` is not supported yet")).mend(help);
        None
    }
}

/// `off`, or something.
#[derive(Clone, Debug)]
pub(crate) enum OrOff<T> {
    Off,
    On(T),
}

impl<T: FromNode> FromNode for OrOff<T> {
    fn from_node(node: &Node, cx: &mut Cx<'_>) -> Option<Self> {
        match &node.value {
            Value::Scalar(text) if text == "off" => Some(Self::Off),
            _ => T::from_node(node, cx).map(Self::On),
        }
    }
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

impl<T: JsonSchema> JsonSchema for OrOff<T> {
    fn schema_name() -> std::borrow::Cow<'static, str> {
        format!("{}OrOff", T::schema_name()).into()
    }
    fn inline_schema() -> bool {
        true
    }
    fn json_schema(generator: &mut SchemaGenerator) -> Schema {
        let on = generator.subschema_for::<T>();
        json_schema!({"anyOf": [{"const": "off"}, on]})
    }
}

macro_rules! inline_schema {
    ($($type:ty => $schema:tt;)*) => {$(
        impl JsonSchema for $type {
            fn schema_name() -> std::borrow::Cow<'static, str> {
                stringify!($type).into()
            }
            fn inline_schema() -> bool {
                true
            }
            fn json_schema(_: &mut SchemaGenerator) -> Schema {
                json_schema!($schema)
            }
        }
    )*};
}
inline_schema! {
    Time => {"type": "string", "pattern": "^[0-9]+(\\.[0-9]+)? *(us|ms|s|m|h|d)$", "examples": ["500ms", "2s", "24h"]};
    Percent => {"type": "string", "pattern": "^([0-9]{1,2}(\\.[0-9]+)?|100(\\.0+)?) *%$", "examples": ["99.9%"]};
    Rate => {"type": "string", "pattern": "^[0-9]+(\\.[0-9]+)? */s$", "examples": ["200/s"]};
    HostPort => {"type": "string", "pattern": ":[0-9]+$", "examples": ["127.0.0.1:8080"]};
    Unsupported => {"not": {}, "description": "Not supported yet."};
    name::RegionName => {"type": "string", "pattern": "^[a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?$"};
    name::ServiceName => {"type": "string", "pattern": "^[a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?$"};
    name::GatewayName => {"type": "string", "pattern": "^[a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?$"};
    name::PlanName => {"type": "string", "pattern": "^[a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?$"};
    name::DrillName => {"type": "string", "pattern": "^[a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?$"};
    name::ProbeName => {"type": "string", "pattern": "^[a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?$"};
}
