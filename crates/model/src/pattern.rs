//! Regular expressions of routes: the syntax that RE2 and the `regex` crate share, within the bounds of the proxies.

use regex::bytes::{Regex, RegexBuilder};

/// Longest pattern, in bytes.
const LONGEST: usize = 1024;
/// Most memory of a compiled pattern, in bytes.
const LARGEST: usize = 256 * 1024;
/// Deepest nesting of groups.
const DEEPEST: u32 = 32;

/// Whether a proxy can use it, also where it must take a whole text.
///
/// # Errors
/// What is wrong, in a few words.
pub(crate) fn judge(pattern: &str) -> Result<Regex, String> {
    if pattern.len() > LONGEST {
        return Err(format!("it has more than {LONGEST} bytes"));
    }
    let found = compile(pattern)?;
    compile(&format!(r"\A(?:{pattern})\z"))?;
    Ok(found)
}

fn compile(pattern: &str) -> Result<Regex, String> {
    let mut builder = RegexBuilder::new(pattern);
    builder.unicode(false).size_limit(LARGEST).dfa_size_limit(LARGEST).nest_limit(DEEPEST);
    builder.build().map_err(|error| match error {
        regex::Error::CompiledTooBig(_) => "it is too large once compiled".to_owned(),
        // The lines before it draw the pattern.
        error => {
            let text = error.to_string();
            let last = text.lines().last().unwrap_or_default().trim();
            last.strip_prefix("error: ").unwrap_or(last).to_owned()
        }
    })
}

/// Whether each backslash of a replacement stands before a group of the pattern or another backslash.
pub(crate) fn fits(with: &str, pattern: &Regex) -> bool {
    let mut chars = with.chars();
    while let Some(char) = chars.next() {
        if char != '\\' {
            continue;
        }
        let fine = match chars.next() {
            Some('\\') => true,
            Some(next) => next.to_digit(10).is_some_and(|group| (group as usize) < pattern.captures_len()),
            None => false,
        };
        if !fine {
            return false;
        }
    }
    true
}
