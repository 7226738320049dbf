//! YAML as a tree with positions. Everything a document says is kept, duplicate keys too, so that the reader can report
//! every problem at once; a deserializer into types would stop at the first.

use serde_saphyr::granit_parser::{self, Event, Parser, ScalarStyle, Span, StructureStyle, Tag};

/// A range of bytes in one of the sources.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) struct Loc {
    /// Index of the source.
    pub file: usize,
    /// First byte.
    pub start: usize,
    /// After the last byte.
    pub end: usize,
}

/// A value of the tree.
#[derive(Clone, Debug)]
pub(crate) struct Node {
    /// Where the value is.
    pub at: Loc,
    /// Where to point for what is missing in it: its key, if it has one.
    pub head: Loc,
    /// What it is.
    pub value: Value,
}

/// What a node is.
#[derive(Clone, Debug)]
pub(crate) enum Value {
    /// Nothing, `~` or `null`.
    Null,
    /// Not readable; the flaw was reported.
    Broken,
    /// Text as written; its type is the reader's business.
    Scalar(String),
    /// A list.
    List(Vec<Node>),
    /// Keys and values in order; keys may repeat.
    Map(Vec<(Key, Node)>),
}

/// A key of a mapping.
#[derive(Clone, Debug)]
pub(crate) struct Key {
    /// Where.
    pub at: Loc,
    /// Text.
    pub text: String,
}

/// A mistake in YAML itself.
#[derive(Clone, Debug)]
pub(crate) struct Flaw {
    /// Where.
    pub at: Loc,
    /// What is wrong.
    pub message: String,
    /// How to mend it.
    pub help: &'static str,
    /// A bracket that may be the cause.
    pub open: Option<Loc>,
}

/// Deepest nesting of lists and mappings; manifests need about ten.
const DEPTH: usize = 64;
/// Most nodes of one file, those that aliases repeat included.
const NODES: usize = 200_000;
/// Longest file in bytes.
pub(crate) const FILE_BYTES: usize = 4 << 20;

/// Documents of a file, and what is wrong with its YAML. After a flaw the next document is tried.
pub(crate) fn documents(file: usize, text: &str) -> (Vec<Node>, Vec<Flaw>) {
    let whole = Loc { file, start: 0, end: 0 };
    if text.len() > FILE_BYTES {
        let message = format!("the file has {} bytes; at most {FILE_BYTES} are read", text.len());
        return (Vec::new(), vec![Flaw { at: whole, message, help: "split it into several files", open: None }]);
    }
    let options = granit_parser::options! {
        emit_comments: false,
        disallow_directives: true,
        emit_unresolved_aliases: true,
        flow_nesting_limit: DEPTH,
        block_nesting_limit: DEPTH,
    };
    let mut parser = Parser::new_from_str_with_options(text, options);
    let mut build = Builder {
        file,
        length: text.len(),
        nodes: 0,
        stack: Vec::new(),
        anchors: Vec::new(),
        flaws: Vec::new(),
        done: Vec::new(),
    };
    let mut flaws_of_parser = Vec::new();
    loop {
        match parser.next_event() {
            None => break,
            Some(Ok((event, span))) => {
                if build.event(event, &span).is_err() {
                    break; // over budget: said so, and nothing after it is read
                }
            }
            Some(Err(error)) => {
                let start = error.marker().byte_offset().unwrap_or(0).min(text.len());
                let start = (0..=start).rev().find(|i| text.is_char_boundary(*i)).unwrap_or(0);
                let at = Loc { file, start, end: start };
                let (message, help) = match tab_of_indentation(text, start) {
                    true => {
                        ("the line is indented with a tab".to_owned(), "indent with spaces: YAML does not allow tabs")
                    }
                    false => (error.info(), "mind indentation, unclosed quotes and brackets, and `: ` after a key"),
                };
                flaws_of_parser.push(Flaw { at, message, help, open: build.open_bracket() });
                build.abandon();
                if flaws_of_parser.len() >= 20 || !matches!(parser.proceed_next_document(), Ok(true)) {
                    break;
                }
            }
        }
    }
    let Builder { done, mut flaws, .. } = build;
    flaws.append(&mut flaws_of_parser);
    (done, flaws)
}

/// Whether the line at this byte begins with blanks of which one is a tab.
fn tab_of_indentation(text: &str, at: usize) -> bool {
    let begin = text.get(..at).and_then(|before| before.rfind('\n')).map_or(0, |newline| newline + 1);
    let line = text.get(begin..).unwrap_or_default();
    line.chars().take_while(|c| *c == ' ' || *c == '\t').any(|c| c == '\t')
}

enum Frame {
    List { start: Loc, flow: bool, anchor: usize, items: Vec<Node> },
    Map { start: Loc, flow: bool, anchor: usize, key: Option<Key>, entries: Vec<(Key, Node)> },
}

struct Builder {
    file: usize,
    length: usize,
    nodes: usize,
    stack: Vec<Frame>,
    anchors: Vec<(usize, Node, Extent)>,
    flaws: Vec<Flaw>,
    done: Vec<Node>,
}

/// A limit was exceeded; the flaw is recorded.
struct OverBudget;

impl Builder {
    fn loc(&self, span: &Span) -> Loc {
        let range = span.byte_range().unwrap_or(0..0);
        let start = range.start.min(self.length);
        Loc { file: self.file, start, end: range.end.clamp(start, self.length) }
    }

    fn flaw(&mut self, at: Loc, message: impl Into<String>, help: &'static str) {
        self.flaws.push(Flaw { at, message: message.into(), help, open: None });
    }

    /// The innermost bracket or brace that is not closed yet.
    fn open_bracket(&self) -> Option<Loc> {
        self.stack.iter().rev().find_map(|frame| match frame {
            Frame::List { start, flow: true, .. } | Frame::Map { start, flow: true, .. } => Some(*start),
            _ => None,
        })
    }

    fn abandon(&mut self) {
        self.stack.clear();
        self.anchors.clear();
    }

    fn count(&mut self, nodes: usize, at: Loc) -> Result<(), OverBudget> {
        self.nodes = self.nodes.saturating_add(nodes);
        if self.nodes > NODES {
            self.flaw(
                at,
                format!("more than {NODES} values in one file"),
                "split the file, and do not repeat large parts by aliases",
            );
            return Err(OverBudget);
        }
        Ok(())
    }

    /// Custom tags have no meaning here; `true` if the text is meant as text.
    fn tag(&mut self, tag: Option<&Tag>, span: &Span) -> bool {
        let Some(tag) = tag else { return false };
        let at = self.loc(&span.tag_span().unwrap_or(*span));
        if !tag.is_yaml_core_schema() {
            self.flaw(at, format!("the tag `{}` has no meaning here", tag.original()), "delete the tag");
        }
        tag.is_yaml_core_schema_tag("str")
    }

    fn event(&mut self, event: Event<'_>, span: &Span) -> Result<(), OverBudget> {
        let at = self.loc(span);
        match event {
            Event::DocumentEnd => self.abandon(),
            Event::Scalar(text, style, anchor, tag) => {
                self.count(1, at)?;
                let is_text = self.tag(tag.as_deref(), span) || style != ScalarStyle::Plain;
                let null = !is_text && matches!(&*text, "" | "~" | "null" | "Null" | "NULL");
                let value = if null { Value::Null } else { Value::Scalar(text.into_owned()) };
                self.add(Node { at, head: at, value }, anchor)?;
            }
            Event::SequenceStart(style, anchor, tag) => {
                self.count(1, at)?;
                self.tag(tag.as_deref(), span);
                self.stack.push(Frame::List {
                    start: at,
                    flow: style == StructureStyle::Flow,
                    anchor,
                    items: Vec::new(),
                });
            }
            Event::MappingStart(style, anchor, tag) => {
                self.count(1, at)?;
                self.tag(tag.as_deref(), span);
                let flow = style == StructureStyle::Flow;
                self.stack.push(Frame::Map { start: at, flow, anchor, key: None, entries: Vec::new() });
            }
            Event::SequenceEnd | Event::MappingEnd => self.close(at)?,
            Event::Alias(id) => self.alias(id, at)?,
            Event::UnresolvedAlias(name) => {
                self.flaw(
                    at,
                    format!("the alias `*{name}` has no anchor `&{name}` before it"),
                    "write the value, or quote the text if it begins with `*`",
                );
                self.add(Node { at, head: at, value: Value::Broken }, 0)?;
            }
            _ => {}
        }
        Ok(())
    }

    fn alias(&mut self, id: usize, at: Loc) -> Result<(), OverBudget> {
        let extent = self.anchors.iter().rev().find(|(i, ..)| *i == id).map(|(.., extent)| *extent);
        // Counted before it is copied, so that nested aliases cannot blow up.
        self.count(extent.map_or(1, |e| e.nodes), at)?;
        let copy = match extent {
            None => Err("an alias inside the value that it names"),
            Some(e) if self.stack.len().saturating_add(e.depth) > DEPTH => Err("an alias that nests too deep"),
            Some(_) => {
                self.anchors.iter().rev().find(|(i, ..)| *i == id).map(|(_, n, _)| n.clone()).ok_or("an unknown alias")
            }
        };
        let mut node = copy.unwrap_or_else(|message| {
            self.flaw(at, message, "write the value out");
            Node { at, head: at, value: Value::Broken }
        });
        node.head = at;
        self.add(node, 0)
    }

    fn close(&mut self, end: Loc) -> Result<(), OverBudget> {
        let whole = |start: Loc, flow: bool, last: Option<usize>| {
            let end = if flow { end.end } else { last.unwrap_or(start.end) };
            Loc { end: end.max(start.end), ..start }
        };
        let (at, anchor, value) = match self.stack.pop() {
            None => return Ok(()),
            Some(Frame::List { start, flow, anchor, items }) => {
                // A copy by alias has its place elsewhere, hence the head.
                let last = items.last().map(|n| n.at.end.max(n.head.end));
                (whole(start, flow, last), anchor, Value::List(items))
            }
            Some(Frame::Map { start, flow, anchor, entries, .. }) => {
                let last = entries.last().map(|(k, n)| n.at.end.max(k.at.end));
                (whole(start, flow, last), anchor, Value::Map(entries))
            }
        };
        let node = Node { at, head: at, value };
        self.add(node, anchor)
    }

    /// Puts a finished node where it belongs.
    fn add(&mut self, mut node: Node, anchor: usize) -> Result<(), OverBudget> {
        if anchor != 0 {
            let extent = extent(&node);
            // The kept copy is paid for, too.
            self.count(extent.nodes, node.at)?;
            self.anchors.push((anchor, node.clone(), extent));
        }
        match self.stack.last_mut() {
            None => self.done.push(node),
            Some(Frame::List { items, .. }) => items.push(node),
            Some(Frame::Map { key: key @ None, .. }) => {
                let text = match &node.value {
                    Value::Scalar(text) => text.clone(),
                    _ => {
                        *key = Some(Key { at: node.head, text: String::new() });
                        self.flaw(node.head, "a key must be text", "write `name: value`");
                        return Ok(());
                    }
                };
                *key = Some(Key { at: node.head, text });
            }
            Some(Frame::Map { key: key @ Some(_), entries, .. }) => {
                if let Some(key) = key.take() {
                    node.head = key.at;
                    entries.push((key, node));
                }
            }
        }
        Ok(())
    }
}

/// How large a tree is.
#[derive(Clone, Copy)]
struct Extent {
    nodes: usize,
    depth: usize,
}

fn extent(node: &Node) -> Extent {
    let mut extent = Extent { nodes: 0, depth: 0 };
    let mut todo = vec![(node, 1)];
    while let Some((node, depth)) = todo.pop() {
        extent = Extent { nodes: extent.nodes + 1, depth: extent.depth.max(depth) };
        match &node.value {
            Value::List(items) => todo.extend(items.iter().map(|n| (n, depth + 1))),
            Value::Map(entries) => todo.extend(entries.iter().map(|(_, n)| (n, depth + 1))),
            Value::Null | Value::Broken | Value::Scalar(_) => {}
        }
    }
    extent
}
