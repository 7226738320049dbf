//! Values that are written as one text, and `off`.

use std::{collections::BTreeMap, net::SocketAddr, str::FromStr, time::Duration};

use schemars::{JsonSchema, Schema, SchemaGenerator, json_schema};

use crate::{
    name::{self, NameError},
    read::{Cx, FromNode, mismatch, scalar, word},
    tree::{Node, Value},
    unit::{Percent, Rate, parse_duration},
};

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

/// A word of a command: any text that can be passed to a process, also an empty one.
#[derive(Clone, Debug)]
pub(crate) struct Word(pub String);

impl FromNode for Word {
    fn from_node(node: &Node, cx: &mut Cx<'_>) -> Option<Self> {
        let text = scalar(node, "a word of a command", cx)?;
        if text.contains('\0') {
            cx.error("wrong-type", node.at, "a command cannot have NUL in it").mend("delete it");
            return None;
        }
        Some(Self(text.to_owned()))
    }
}

impl FromNode for bool {
    fn from_node(node: &Node, cx: &mut Cx<'_>) -> Option<Self> {
        word(node, &[("true", true), ("false", false)], cx)
    }
}

impl FromNode for u32 {
    fn from_node(node: &Node, cx: &mut Cx<'_>) -> Option<Self> {
        whole(node, u64::from(Self::MAX), cx)
    }
}

impl FromNode for u16 {
    fn from_node(node: &Node, cx: &mut Cx<'_>) -> Option<Self> {
        whole(node, u64::from(Self::MAX), cx)
    }
}

/// A whole number from 0 to `most`. A number outside is told from what is no number.
fn whole<T: FromStr>(node: &Node, most: u64, cx: &mut Cx<'_>) -> Option<T> {
    let text = scalar(node, "a whole number", cx)?;
    let digits = text.strip_prefix(['-', '+']).unwrap_or(text);
    match text.parse() {
        Ok(value) => Some(value),
        Err(_) if !digits.is_empty() && digits.bytes().all(|b| b.is_ascii_digit()) => {
            let (wrong, help) = match text.starts_with('-') {
                true => ("is negative", "write a whole number that is not negative".to_owned()),
                false => ("is too large", format!("write a whole number of at most {most}")),
            };
            let shown: String = text.chars().take(40).collect();
            cx.error("out-of-range", node.at, format!("`{shown}` {wrong}")).mend(help);
            None
        }
        Err(_) => mismatch(node, "a whole number", cx),
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

/// The parts of `db.example:5432`.
fn host_name(text: &str) -> Option<(&str, u16)> {
    let (name, port) = text.rsplit_once(':')?;
    let port = port.parse().ok().filter(|port| *port != 0)?;
    let is_label =
        |label: &str| !label.is_empty() && label.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'-' || b == b'_');
    let is_name = name.split('.').all(is_label) && name.bytes().any(|b| b.is_ascii_alphabetic());
    is_name.then_some((name, port))
}

impl FromNode for HostPort {
    fn from_node(node: &Node, cx: &mut Cx<'_>) -> Option<Self> {
        let text = scalar(node, "an address", cx)?;
        let address = host_port(text);
        if address.is_none() {
            let help = match host_name(text) {
                // Endpoints may be found by name; where we listen is always an address.
                Some((name, port)) if cx.text(node.head) != "listen" => format!(
                    "`{name}` is a host name: write `dns: {{name: {name}, port: {port}}}` in place of the address, or an IP \
                     address"
                ),
                Some(_) => {
                    "write the IP address to listen on, as `127.0.0.1:8080`, or `0.0.0.0:8080` for all".to_owned()
                }
                None => {
                    "write an IP address and a port from 1 to 65535, as `127.0.0.1:8080` or `[::1]:8080`".to_owned()
                }
            };
            cx.error("bad-address", node.at, format!("`{text}` is not an IP address and port")).mend(help);
        }
        address.map(HostPort)
    }
}

/// Bytes as hexadecimal digits.
#[derive(Clone, Debug)]
pub(crate) struct Hex(pub Vec<u8>);

impl FromNode for Hex {
    fn from_node(node: &Node, cx: &mut Cx<'_>) -> Option<Self> {
        let text = scalar(node, "bytes as hexadecimal digits", cx)?;
        let digit = |byte: u8| char::from(byte).to_digit(16).and_then(|digit| u8::try_from(digit).ok());
        let byte = |pair: &[u8]| if let [high, low] = pair { Some(digit(*high)? << 4 | digit(*low)?) } else { None };
        let bytes: Option<Vec<u8>> = text.as_bytes().chunks(2).map(byte).collect();
        if bytes.is_none() {
            cx.error("bad-quantity", node.at, "these are not bytes as hexadecimal digits")
                .mend("write two of 0-9 and a-f for each byte, as `hex: 0d0a`");
        }
        bytes.map(Self)
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
    Word => {"type": "string"};
    Hex => {"type": "string", "pattern": "^([0-9A-Fa-f]{2})+$", "examples": ["0d0a"]};
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
