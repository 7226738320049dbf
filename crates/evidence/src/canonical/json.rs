//! Canonical JSON (RFC 8785) checked in one pass over the bytes, with memory that depends on the depth alone, and with what
//! its values would cost when they are read. What is not canonical, or would cost too much, is refused before it is read.

use serde::de::DeserializeOwned;

use super::CanonicalError;

/// Deepest nesting that is read; as deep as the reader of values goes.
const DEEPEST: usize = 126;

/// Bytes that a value costs in memory, at most: in an array that has just grown.
const VALUE: usize = 144;
/// The same of an object with members, beyond them.
const OBJECT: usize = 600;
/// The same of a member of an object, beyond its value.
const MEMBER: usize = 208;
/// The same of a text, beyond its bytes.
const TEXT: usize = 32;

/// Largest integer that is written as its digits alone (2^53).
const EXACT: u64 = 1 << 53;

/// Checks the bytes and takes the memory that their values need off `budget`.
///
/// # Errors
/// The first byte that is not canonical, or that the budget is exceeded.
pub fn check(bytes: &[u8], budget: &mut usize) -> Result<(), CanonicalError> {
    let mut scanner = Scanner { bytes, at: 0, budget };
    scanner.document()?;
    match scanner.at == bytes.len() {
        true => Ok(()),
        false => Err(CanonicalError::Spelling(scanner.at)),
    }
}

/// Reads canonical bytes whose values cost no more than `budget`; any other spelling of the same value is refused.
///
/// # Errors
/// If they are not canonical, cost too much, or are not what was expected.
pub fn from_slice<T: DeserializeOwned>(bytes: &[u8], budget: &mut usize) -> Result<T, CanonicalError> {
    check(bytes, budget)?;
    serde_json::from_slice(bytes).map_err(CanonicalError::Read)
}

/// Slices of the elements of an array whose bytes were checked; `None` if they are not an array.
pub fn elements(bytes: &[u8]) -> Option<Vec<&[u8]>> {
    let inner = bytes.strip_prefix(b"[")?.strip_suffix(b"]")?;
    let (mut elements, mut from, mut depth, mut text, mut escaped) = (Vec::new(), 0, 0_usize, false, false);
    if inner.is_empty() {
        return Some(elements);
    }
    for (at, byte) in inner.iter().enumerate() {
        match byte {
            _ if escaped => escaped = false,
            b'\\' if text => escaped = true,
            b'"' => text = !text,
            _ if text => {}
            b'[' | b'{' => depth += 1,
            b']' | b'}' => depth = depth.saturating_sub(1),
            b',' if depth == 0 => {
                elements.push(&inner[from..at]);
                from = at + 1;
            }
            _ => {}
        }
    }
    elements.push(&inner[from..]);
    Some(elements)
}

struct Scanner<'a, 'b> {
    bytes: &'a [u8],
    at: usize,
    budget: &'b mut usize,
}

/// An array or object that is being read; of an object, the last name and the number of members.
enum Open<'a> {
    Array,
    Object(Option<&'a [u8]>),
}

impl<'a> Scanner<'a, '_> {
    fn spelling<T>(&self) -> Result<T, CanonicalError> {
        Err(CanonicalError::Spelling(self.at))
    }

    fn spend(&mut self, cost: usize) -> Result<(), CanonicalError> {
        match self.budget.checked_sub(cost) {
            Some(left) => {
                *self.budget = left;
                Ok(())
            }
            None => Err(CanonicalError::TooLarge),
        }
    }

    fn peek(&self) -> Option<u8> {
        self.bytes.get(self.at).copied()
    }

    fn eat(&mut self, byte: u8) -> Result<(), CanonicalError> {
        if self.peek() == Some(byte) {
            self.at += 1;
            Ok(())
        } else {
            self.spelling()
        }
    }

    fn literal(&mut self, text: &[u8]) -> Result<(), CanonicalError> {
        if self.bytes[self.at..].starts_with(text) {
            self.at += text.len();
            Ok(())
        } else {
            self.spelling()
        }
    }

    fn document(&mut self) -> Result<(), CanonicalError> {
        let mut open: Vec<Open<'a>> = Vec::new();
        loop {
            // A value begins here.
            self.spend(VALUE)?;
            let ended = match self.peek() {
                Some(b'[') => {
                    self.at += 1;
                    let is_empty = self.peek() == Some(b']');
                    if !is_empty {
                        open.push(Open::Array);
                    }
                    self.at += usize::from(is_empty);
                    is_empty
                }
                Some(b'{') => {
                    self.at += 1;
                    let is_empty = self.peek() == Some(b'}');
                    if is_empty {
                        self.at += 1;
                    } else {
                        self.spend(OBJECT)?;
                        let name = self.name(None)?;
                        open.push(Open::Object(Some(name)));
                    }
                    is_empty
                }
                Some(b'"') => {
                    self.text()?;
                    true
                }
                Some(b't') => self.literal(b"true").map(|()| true)?,
                Some(b'f') => self.literal(b"false").map(|()| true)?,
                Some(b'n') => self.literal(b"null").map(|()| true)?,
                Some(b'-' | b'0'..=b'9') => self.number().map(|()| true)?,
                _ => return self.spelling(),
            };
            if open.len() > DEEPEST {
                return Err(CanonicalError::TooDeep);
            }
            if ended && self.close(&mut open)? {
                return Ok(());
            }
        }
    }

    /// After a value: closes what ends here, and goes to the next value; true if the document has ended.
    fn close(&mut self, open: &mut Vec<Open<'a>>) -> Result<bool, CanonicalError> {
        loop {
            let Some(last) = open.pop() else { return Ok(true) };
            match (last, self.peek()) {
                (Open::Array, Some(b',')) => {
                    self.at += 1;
                    open.push(Open::Array);
                    return Ok(false);
                }
                (Open::Object(previous), Some(b',')) => {
                    self.at += 1;
                    let name = self.name(previous)?;
                    open.push(Open::Object(Some(name)));
                    return Ok(false);
                }
                (Open::Array, Some(b']')) | (Open::Object(_), Some(b'}')) => self.at += 1,
                _ => return self.spelling(),
            }
        }
    }

    /// Name of a member and the colon; it must stand behind `previous`.
    fn name(&mut self, previous: Option<&'a [u8]>) -> Result<&'a [u8], CanonicalError> {
        self.spend(MEMBER)?;
        let from = self.at;
        let name = self.text()?;
        if previous.is_some_and(|previous| !is_before(previous, name)) {
            self.at = from;
            return self.spelling();
        }
        self.eat(b':')?;
        Ok(name)
    }

    /// A text in quotes; gives what is between them.
    fn text(&mut self) -> Result<&'a [u8], CanonicalError> {
        self.eat(b'"')?;
        let from = self.at;
        loop {
            match self.peek() {
                Some(b'"') => break,
                Some(b'\\') => self.escape()?,
                Some(0x20..) => self.at += 1,
                _ => return self.spelling(),
            }
        }
        let text = &self.bytes[from..self.at];
        self.at += 1;
        self.spend(text.len().saturating_add(TEXT))?;
        match std::str::from_utf8(text) {
            Ok(_) => Ok(text),
            Err(error) => {
                self.at = from + error.valid_up_to();
                self.spelling()
            }
        }
    }

    /// Only what cannot stand as it is has an escape, and the shortest one.
    fn escape(&mut self) -> Result<(), CanonicalError> {
        match self.bytes.get(self.at + 1) {
            Some(b'"' | b'\\' | b'b' | b't' | b'n' | b'f' | b'r') => {
                self.at += 2;
                Ok(())
            }
            Some(b'u') => {
                let digits = self.bytes.get(self.at + 2..self.at + 6);
                let is_control = digits.is_some_and(|digits| match digits {
                    [b'0', b'0', b'0', low] => {
                        matches!(low, b'0'..=b'7' | b'b' | b'e' | b'f')
                    }
                    [b'0', b'0', b'1', low] => matches!(low, b'0'..=b'9' | b'a'..=b'f'),
                    _ => false,
                });
                if !is_control {
                    return self.spelling();
                }
                self.at += 6;
                Ok(())
            }
            _ => self.spelling(),
        }
    }

    fn number(&mut self) -> Result<(), CanonicalError> {
        let from = self.at;
        while let Some(b'-' | b'+' | b'.' | b'e' | b'E' | b'0'..=b'9') = self.peek() {
            self.at += 1;
            if self.at - from > 40 {
                self.at = from;
                return self.spelling();
            }
        }
        let text = &self.bytes[from..self.at];
        if is_plain_integer(text) || is_canonical_number(text) {
            return Ok(());
        }
        self.at = from;
        self.spelling()
    }
}

fn is_plain_integer(text: &[u8]) -> bool {
    let digits = text.strip_prefix(b"-").unwrap_or(text);
    let is_zero = digits == b"0" && text.len() == 1;
    let is_number = matches!(digits, [b'1'..=b'9', rest @ ..] if rest.iter().all(u8::is_ascii_digit));
    let value = || std::str::from_utf8(digits).ok().and_then(|digits| digits.parse::<u64>().ok());
    is_zero || (is_number && value().is_some_and(|value| value < EXACT))
}

/// As ECMAScript writes it.
fn is_canonical_number(text: &[u8]) -> bool {
    let Ok(value) = serde_json::from_slice::<serde_json::Number>(text) else { return false };
    serde_json_canonicalizer::to_vec(&value).is_ok_and(|canonical| canonical == text)
}

/// Whether one name stands before another: by UTF-16 code units of the names without escapes.
fn is_before(left: &[u8], right: &[u8]) -> bool {
    let is_plain = |name: &[u8]| name.is_ascii() && !name.contains(&b'\\');
    if is_plain(left) && is_plain(right) {
        return left < right;
    }
    units(left).is_some_and(|left| units(right).is_some_and(|right| left < right))
}

fn units(name: &[u8]) -> Option<Vec<u16>> {
    let quoted = [b"\"", name, b"\""].concat();
    let name: String = serde_json::from_slice(&quoted).ok()?;
    Some(name.encode_utf16().collect())
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::Value;

    fn is_canonical(text: &[u8]) -> bool {
        check(text, &mut usize::MAX.clone()).is_ok()
    }

    #[test]
    fn only_the_canonical_spelling_passes() {
        for text in [
            "null",
            "true",
            "[]",
            "{}",
            "0",
            "-1",
            "4.5",
            "1e+30",
            "9007199254740991",
            "\"\"",
            "\"\\u001f\\n\\\"\\\\€\"",
            "[1,[2,{\"a\":{},\"b\":[]}],\"x\"]",
            "{\"a\":1,\"b\":2,\"\u{10000}\":3,\"\u{fb33}\":4}",
            "\"\\u000b\"",
        ] {
            assert!(is_canonical(text.as_bytes()), "{text}");
            let value: Value = serde_json::from_str(text).unwrap();
            assert_eq!(serde_json_canonicalizer::to_vec(&value).unwrap(), text.as_bytes(), "{text}");
        }
        for text in [
            "",
            " 1",
            "1 ",
            "01",
            "-0",
            "1.0",
            "1E30",
            "1e30",
            "+1",
            "[1, 2]",
            "[1,]",
            "[,1]",
            "{\"a\":1,}",
            "{\"b\":1,\"a\":2}",
            "{\"a\":1,\"a\":2}",
            "\"\\u001F\"",
            "\"\\u000a\"",
            "\"\\/\"",
            "\"\\u0041\"",
            "\"a",
            "[",
            "{",
            "{\"a\"}",
            "nul",
            "{\"\u{fb33}\":1,\"\u{10000}\":2}",
            "\"\n\"",
            "[1]]",
            "--1",
            "1e999",
            "\"\\ud800\"",
            "'a'",
            "{a:1}",
            "1,2",
        ] {
            assert!(!is_canonical(text.as_bytes()), "{text}");
        }
        assert!(!is_canonical(b"\"\xff\""));
    }

    #[test]
    fn depth_and_cost_are_bounded() {
        let deep = |depth: usize| format!("{}1{}", "[".repeat(depth), "]".repeat(depth));
        assert!(is_canonical(deep(100).as_bytes()));
        assert!(matches!(check(deep(127).as_bytes(), &mut 1_000_000), Err(CanonicalError::TooDeep)));
        assert!(matches!(check(deep(5_000_000).as_bytes(), &mut 1_000_000), Err(CanonicalError::TooDeep)));
        let mut budget = 100_000;
        assert!(matches!(check(b"[0,0,0]", &mut budget), Ok(())));
        assert_eq!(budget, 100_000 - 4 * VALUE);
        let flood = format!("[{}0]", "0,".repeat(1000));
        assert!(matches!(check(flood.as_bytes(), &mut budget), Err(CanonicalError::TooLarge)));
    }

    #[test]
    fn elements_are_split_at_the_top_only() {
        let text = br#"[1,[2,3],{"a":"],{\"","b":[4]},"\\"]"#;
        let expected: Vec<&[u8]> = vec![b"1", b"[2,3]", br#"{"a":"],{\"","b":[4]}"#, br#""\\""#];
        assert_eq!(elements(text).unwrap(), expected);
        assert_eq!(elements(b"[]").unwrap().len(), 0);
        assert_eq!(elements(b"{}"), None);
    }
}
