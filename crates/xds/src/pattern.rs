//! Regular expressions of routes, in the syntax that RE2 and the `regex` crate share: no look-around, no back-references,
//! so that matching takes time in proportion to the text. Bytes count, not characters: `\w` is ASCII, `.` is one byte.

use regex::bytes::{Regex, RegexBuilder};

/// Longest pattern, in bytes.
const LONGEST: usize = 1024;
/// Most memory of a compiled pattern, and of what a thread keeps to run it, in bytes.
const LARGEST: usize = 256 * 1024;
/// Deepest nesting of groups.
const DEEPEST: u32 = 32;

/// A pattern that takes a whole text.
///
/// # Errors
/// A sentence, when it is no pattern or too large.
pub fn whole(pattern: &str) -> Result<Regex, String> {
    // By itself first: what surrounds it must not make one of what is none, as of `a)|(b`.
    part(pattern)?;
    compile(&format!(r"\A(?:{pattern})\z"))
}

/// A pattern that is looked for in a text.
///
/// # Errors
/// As [`whole`].
pub fn part(pattern: &str) -> Result<Regex, String> {
    if pattern.len() > LONGEST {
        return Err(format!("the pattern has more than {LONGEST} bytes"));
    }
    compile(pattern)
}

fn compile(pattern: &str) -> Result<Regex, String> {
    let mut builder = RegexBuilder::new(pattern);
    builder.unicode(false).size_limit(LARGEST).dfa_size_limit(LARGEST).nest_limit(DEEPEST);
    builder.build().map_err(|error| match error {
        regex::Error::CompiledTooBig(_) => format!("`{pattern}` is too large once compiled"),
        // Its first lines draw the pattern.
        error => format!("`{pattern}` is no pattern: {}", error.to_string().lines().last().unwrap_or_default().trim()),
    })
}

/// What stands in place of a match, in the form that the `regex` crate expands, from RE2's: `\1` is the first group,
/// `\0` the whole match, `\\` a backslash.
///
/// # Errors
/// A sentence, when a backslash stands before something else, or a group is named that the pattern has not.
pub fn replacement(with: &str, pattern: &Regex) -> Result<String, String> {
    let mut text = String::with_capacity(with.len());
    let mut chars = with.chars();
    while let Some(char) = chars.next() {
        match (char, char == '\\') {
            ('$', _) => text.push_str("$$"),
            (other, false) => text.push(other),
            (_, true) => match chars.next() {
                Some('\\') => text.push('\\'),
                Some(digit) if digit.is_ascii_digit() => {
                    let group = digit.to_digit(10).and_then(|digit| usize::try_from(digit).ok()).unwrap_or(usize::MAX);
                    if group >= pattern.captures_len() {
                        return Err(format!("`{with}` names group {digit}, which the pattern has not"));
                    }
                    text.push_str("${");
                    text.push(digit);
                    text.push('}');
                }
                _ => return Err(format!(r"`{with}`: a backslash is followed by a digit or by another one")),
            },
        }
    }
    Ok(text)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_whole_pattern_takes_all_of_a_text() {
        for (pattern, text, expected) in [
            ("/v[0-9]+/.*", "/v12/x", true),
            ("/v[0-9]+", "/v1/x", false),
            ("a|b", "ab", false),
            ("a|b", "b", true),
            ("", "", true),
            ("a", "a\n", false),
            (r"\w", "\u{e9}", false),
        ] {
            assert_eq!(whole(pattern).unwrap().is_match(text.as_bytes()), expected, "{pattern} {text:?}");
        }
    }

    #[test]
    fn what_is_no_pattern_or_too_large_is_refused() {
        for pattern in ["a)|(b", "(", "(?=a)", r"(a)\1", "(?x)a # (", "((a{100}){100}){100}", &"a".repeat(1025)] {
            assert!(whole(pattern).is_err(), "{pattern}");
        }
        let deep = format!("{}a{}", "(".repeat(40), ")".repeat(40));
        assert!(part(&deep).is_err());
        assert_eq!(part("(").unwrap_err(), "`(` is no pattern: error: unclosed group");
    }

    #[test]
    fn replacements_are_re2s() {
        let pattern = part("(/a)(/b)?").unwrap();
        for (with, expected) in [(r"\1x", "${1}x"), (r"$1\0", "$$1${0}"), (r"\\1", r"\1"), ("", "")] {
            assert_eq!(replacement(with, &pattern).as_deref(), Ok(expected), "{with}");
        }
        for with in [r"\3", r"\x", r"a\"] {
            assert!(replacement(with, &pattern).is_err(), "{with}");
        }
        let text = replacement(r"\2\1", &pattern).unwrap();
        assert_eq!(pattern.replace_all(b"/a/b", text.as_bytes()), &b"/b/a"[..]);
    }
}
