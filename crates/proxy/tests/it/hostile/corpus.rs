//! Corpora: one case a line, `expected | bytes | why`, sections in brackets.
//!
//! In the bytes, `¶` is CRLF; `\r`, `\n`, `\t`, `\0`, `\\` and `\xHH` are themselves; `{text*n}` is the text n times;
//! `{fin}` at the end means that the sender closes its side.

/// One line.
#[derive(Clone, Debug)]
pub struct Case {
    /// Line in the file.
    pub line: usize,
    pub section: String,
    pub expected: String,
    pub bytes: Vec<u8>,
    /// Whether the sender closes its side after the bytes.
    pub fin: bool,
    pub why: String,
}

impl Case {
    /// The protocol's sentence, for failures.
    pub fn name(&self) -> String {
        let bytes: String = String::from_utf8_lossy(&self.bytes).chars().take(300).collect();
        format!("line {} ({}): {bytes:?}", self.line, self.why)
    }
}

/// The cases of a file.
pub fn cases(text: &str) -> Vec<Case> {
    let mut section = String::new();
    let mut cases = Vec::new();
    for (line, text) in (1..).zip(text.lines()) {
        if text.is_empty() || text.starts_with("# ") {
            continue;
        }
        if let Some(name) = text.strip_prefix('[').and_then(|text| text.strip_suffix(']')) {
            section = name.to_owned();
            continue;
        }
        let mut columns = text.splitn(2, " | ");
        let (expected, rest) = (columns.next().unwrap(), columns.next());
        let (bytes, why) = rest.and_then(|rest| rest.rsplit_once(" | ")).unwrap_or_else(|| panic!("line {line}"));
        let (bytes, fin) = bytes.strip_suffix("{fin}").map_or((bytes, false), |bytes| (bytes, true));
        cases.push(Case {
            line,
            section: section.clone(),
            expected: expected.trim().to_owned(),
            bytes: unescape(bytes),
            fin,
            why: why.to_owned(),
        });
    }
    cases
}

/// Bytes from their notation.
pub fn unescape(text: &str) -> Vec<u8> {
    let mut bytes = Vec::new();
    let mut rest = text.chars();
    while let Some(c) = rest.next() {
        match c {
            '¶' => bytes.extend_from_slice(b"\r\n"),
            '\\' => bytes.push(match rest.next().unwrap() {
                'r' => b'\r',
                'n' => b'\n',
                't' => b'\t',
                '0' => 0,
                '\\' => b'\\',
                'x' => u8::from_str_radix(&rest.by_ref().take(2).collect::<String>(), 16).unwrap(),
                other => panic!("escape {other:?} in {text:?}"),
            }),
            '{' => {
                let inner: String = rest.by_ref().take_while(|c| *c != '}').collect();
                let (piece, count) = inner.rsplit_once('*').unwrap_or_else(|| panic!("{inner:?} in {text:?}"));
                let piece = unescape(piece);
                bytes.extend(piece.repeat(count.parse().unwrap()));
            }
            c => bytes.extend_from_slice(c.encode_utf8(&mut [0; 4]).as_bytes()),
        }
    }
    bytes
}

#[test]
fn a_case_is_read() {
    let text = "[one]\n# c\n400 | GET /{a*3}¶\\x00\\\\{fin} | because\n";
    let cases = cases(text);
    assert_eq!((cases[0].bytes.as_slice(), cases[0].fin), (&b"GET /aaa\r\n\0\\"[..], true));
    assert_eq!((cases[0].expected.as_str(), cases[0].why.as_str(), cases[0].line), ("400", "because", 3));
}
