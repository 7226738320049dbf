//! Text of others, so that what is shown is what is there.
//!
//! A bundle, an event or a manifest may hold characters that a terminal or a browser does not show but obeys: escape sequences that
//! clear the screen or rewrite a line, bidirectional controls that reorder it, characters without a width that hide in a name.

use std::borrow::Cow;

/// Whether a character is obeyed, or hides, rather than shown. Line breaks and tabs are shown.
pub fn is_hidden(c: char) -> bool {
    match c {
        '\n' | '\t' => false,
        // Soft hyphen, Arabic letter mark, Mongolian vowel separator.
        '\u{ad}' | '\u{61c}' | '\u{180e}'
        // Without a width, and directional marks.
        | '\u{200b}'..='\u{200f}'
        // Line and paragraph separators, bidirectional embeddings and overrides.
        | '\u{2028}'..='\u{202e}'
        // Word joiner, invisible operators, bidirectional isolates, deprecated format characters.
        | '\u{2060}'..='\u{206f}'
        | '\u{feff}'
        // Interlinear annotation, and characters that are none.
        | '\u{fdd0}'..='\u{fdef}' | '\u{fff9}'..='\u{fffb}' | '\u{fffe}' | '\u{ffff}'
        // Tags.
        | '\u{e0000}'..='\u{e007f}' => true,
        // C0 and C1 controls, DEL.
        _ => c.is_control(),
    }
}

/// The text with hidden characters written as `\u001b`, which means the same in JSON.
pub fn visible(text: &str) -> Cow<'_, str> {
    if !text.contains(is_hidden) {
        return Cow::Borrowed(text);
    }
    let mut out = String::with_capacity(text.len() + 16);
    for c in text.chars() {
        push(&mut out, c);
    }
    Cow::Owned(out)
}

/// Appends one character as [`visible`] writes it.
pub fn push(out: &mut String, c: char) {
    if !is_hidden(c) {
        return out.push(c);
    }
    for unit in c.encode_utf16(&mut [0; 2]) {
        out.push_str(&format!("\\u{unit:04x}"));
    }
}

/// The same on one line: line breaks are written as `\n`, so that no field can pass for another line.
pub fn on_one_line(text: &str) -> Cow<'_, str> {
    match visible(text) {
        text if text.contains('\n') => Cow::Owned(text.replace('\n', "\\n")),
        text => text,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_obeyed_is_written_out() {
        for (text, shown) in [
            ("plain, ünïcode, 日本語, 👩", "plain, ünïcode, 日本語, 👩"),
            ("two\n\tlines", "two\n\tlines"),
            ("\x1b[2J\x1b[H", "\\u001b[2J\\u001b[H"),
            ("over\rwritten\x07\x7f", "over\\u000dwritten\\u0007\\u007f"),
            ("\u{9b}31m", "\\u009b31m"),
            ("abc\u{202e}cba\u{2066}x\u{200b}", "abc\\u202ecba\\u2066x\\u200b"),
            ("tag\u{e0041}", "tag\\udb40\\udc41"),
        ] {
            assert_eq!(visible(text), shown);
            let read: String =
                serde_json::from_str(&format!("\"{}\"", visible(text).replace(['\n', '\t'], " "))).unwrap();
            assert_eq!(read, text.replace(['\n', '\t'], " "), "it means the same in JSON");
        }
        assert_eq!(on_one_line("a\nVERIFIED"), "a\\nVERIFIED");
    }
}
