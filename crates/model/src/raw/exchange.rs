//! What a check says over a connection, and what it is to hear.

use schemars::JsonSchema;

use crate::{
    read::{At, Cx, FromNode, mapping, mismatch},
    scalar::Hex,
    tree::{Node, Value},
};

/// `true`: only connect. Or say and hear something: `{send: "PING\r\n", receive: +PONG}`.
#[derive(Clone, Debug, JsonSchema)]
#[schemars(untagged)]
pub(crate) enum TcpCheck {
    /// `true`: only connect.
    Connects(bool),
    /// Say and hear something over a new connection.
    Exchange(Box<Exchange>),
}

mapping! {
    /// Say and hear something over a new connection.
    "`tcp`" Exchange {
        /// What is sent, at most 1024 bytes. Default: nothing, for a server that speaks first.
        send: Option<At<Payload>>,
        /// What the answer must contain, 1 to 1024 bytes in one piece, wherever they stand in its first 64 KiB.
        receive: At<Payload>,
    }
}

/// Bytes: a text, or `{hex: 0a0b}`.
#[derive(Clone, Debug, JsonSchema)]
#[schemars(untagged)]
pub(crate) enum Payload {
    /// The bytes of this text, in UTF-8. YAML writes a line's end in double quotes: `"PING\r\n"`.
    Text(String),
    /// Bytes that are no text.
    Bytes(Bytes),
}

mapping! {
    /// Bytes that are no text.
    "bytes" Bytes {
        /// Two hexadecimal digits for each byte.
        hex: At<Hex>,
    }
}

impl Payload {
    /// What is sent or looked for.
    pub(crate) fn bytes(&self) -> &[u8] {
        match self {
            Self::Text(text) => text.as_bytes(),
            Self::Bytes(bytes) => &bytes.hex.value.0,
        }
    }
}

impl FromNode for TcpCheck {
    fn from_node(node: &Node, cx: &mut Cx<'_>) -> Option<Self> {
        match &node.value {
            Value::Scalar(_) => FromNode::from_node(node, cx).map(Self::Connects),
            Value::Map(_) => Exchange::from_node(node, cx).map(|exchange| Self::Exchange(Box::new(exchange))),
            _ => mismatch(node, r#"`true` or `{send: "PING\r\n", receive: +PONG}`"#, cx),
        }
    }
}

impl FromNode for Payload {
    fn from_node(node: &Node, cx: &mut Cx<'_>) -> Option<Self> {
        match &node.value {
            Value::Scalar(text) => Some(Self::Text(text.clone())),
            Value::Map(_) => FromNode::from_node(node, cx).map(Self::Bytes),
            _ => mismatch(node, "a text or `{hex: 0a0b}`", cx),
        }
    }
}
