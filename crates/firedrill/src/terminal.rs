//! Where a command prints to: colours and live lines only on a terminal, and a closed pipe is no error.
//!
//! Everything that a command shows goes through here, since much of it was written by others: bundles, events, manifests, proxies. What
//! a terminal would obey rather than show is written out ([`console::visible`]). Our own colours are told from an escape
//! sequence in foreign text by a number that each process draws.

use std::{
    fmt,
    hash::{BuildHasher as _, RandomState},
    io::{IsTerminal as _, Write as _, stderr, stdout},
    sync::{
        OnceLock,
        atomic::{AtomicBool, Ordering},
    },
};

use clap::builder::styling::{AnsiColor, Style};
use console::visible;

/// When output is coloured.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, clap::ValueEnum)]
pub enum When {
    /// On a terminal, unless NO_COLOR is set or TERM is `dumb`.
    #[default]
    Auto,
    /// Also into files and pipes.
    Always,
    /// Never.
    Never,
}

/// What a piece of text means; decides its colour.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Tone {
    /// Good news.
    Good,
    /// Bad news.
    Bad,
    /// Worth a look.
    Warn,
    /// Beside the point.
    Dim,
    /// The point.
    Strong,
}

impl Tone {
    fn style(self) -> Style {
        match self {
            Self::Good => AnsiColor::Green.on_default(),
            Self::Bad => AnsiColor::Red.on_default().bold(),
            Self::Warn => AnsiColor::Yellow.on_default(),
            Self::Dim => Style::new().dimmed(),
            Self::Strong => Style::new().bold(),
        }
    }
}

/// Standard output and error of this process.
#[derive(Debug)]
pub struct Terminal {
    color: bool,
    color_errors: bool,
    live: bool,
    closed: AtomicBool,
}

impl Terminal {
    /// Looks at the streams and the environment.
    pub fn new(when: When) -> Self {
        let variable = |name| std::env::var_os(name).filter(|value| !value.is_empty());
        let dumb = variable("TERM").is_some_and(|term| term == "dumb");
        let allowed = variable("NO_COLOR").is_none() && !dumb;
        let color = |terminal: bool| match when {
            When::Auto => terminal && allowed,
            When::Always => true,
            When::Never => false,
        };
        Self {
            color: color(stdout().is_terminal()),
            color_errors: color(stderr().is_terminal()),
            live: stdout().is_terminal() && !dumb,
            closed: AtomicBool::new(false),
        }
    }

    /// Whether standard output can show lines that change in place.
    pub fn live(&self) -> bool {
        self.live
    }

    /// Whether standard output is coloured.
    pub fn color(&self) -> bool {
        self.color
    }

    /// Whether standard error is coloured.
    pub fn color_errors(&self) -> bool {
        self.color_errors
    }

    /// Whether the reader of standard output has gone.
    pub fn closed(&self) -> bool {
        self.closed.load(Ordering::Relaxed)
    }

    /// Text for standard output in a tone.
    pub fn paint(&self, tone: Tone, text: impl fmt::Display) -> String {
        painted(self.color, tone, &text)
    }

    /// Text for standard error in a tone.
    pub fn paint_error(&self, tone: Tone, text: impl fmt::Display) -> String {
        painted(self.color_errors, tone, &text)
    }

    /// Prints a line on standard output; line breaks in it are written out, but for empty lines before it. When its reader
    /// has gone, nothing more is printed, and the command goes on: its effects and its exit code matter more than its words.
    pub fn line(&self, text: impl fmt::Display) {
        let text = text.to_string();
        let begin = text.len() - text.trim_start_matches('\n').len();
        let (empty, line) = text.split_at(begin);
        self.put(&format!("{empty}{}\n", shown(line, Lines::One)));
    }

    /// Prints lines of which each was made by us, as JSON or a list, and an end of line.
    pub fn block(&self, text: impl fmt::Display) {
        self.write(format_args!("{text}\n"));
    }

    /// Prints what was drawn around a problem of a manifest, whose parts are visible already.
    pub fn drawn(&self, text: impl fmt::Display) {
        self.put(&format!("{text}\n"));
    }

    /// Clears the screen, where there is one.
    pub fn clear(&self) {
        if self.live {
            // Home, erase to the end, and what has scrolled away stays.
            let mut out = stdout().lock();
            let _ = out.write_all(b"\x1b[H\x1b[2J").and_then(|()| out.flush());
        }
    }

    /// The same as [`Self::block`] without the end of the line.
    pub fn write(&self, text: impl fmt::Display) {
        self.put(&shown(&text.to_string(), Lines::Many));
    }

    fn put(&self, text: &str) {
        if self.closed() {
            return;
        }
        let mut out = stdout().lock();
        if out.write_all(text.as_bytes()).and_then(|()| out.flush()).is_err() {
            self.closed.store(true, Ordering::Relaxed);
        }
    }

    /// Prints a note on standard error; if that is closed, there is nobody to tell.
    pub fn note(&self, tone: Tone, label: &str, text: impl fmt::Display) {
        let text = format!("{} {text}", painted(self.color_errors, tone, &format_args!("{label}:")));
        let _ = writeln!(stderr().lock(), "{}", shown(&text, Lines::Many));
    }

    /// Prints why the command failed, on standard error.
    pub fn failure(&self, report: &miette::Report) {
        self.note(Tone::Bad, "error", report);
        for cause in report.chain().skip(1) {
            self.note(Tone::Dim, "  because", cause);
        }
        if let Some(help) = report.help() {
            self.note(Tone::Good, "  help", help);
        }
    }
}

/// Begins a colour of ours; a character that no text has.
const MARK: char = '\u{fdd0}';
/// Ends it.
const END: char = '\u{fdd1}';

/// What tells a colour of ours from one in foreign text: drawn anew by every process.
fn nonce() -> &'static str {
    static NONCE: OnceLock<String> = OnceLock::new();
    // The standard library seeds it from the operating system's randomness.
    NONCE.get_or_init(|| format!("{:016x}", RandomState::new().hash_one(std::process::id())))
}

/// Whether line breaks are shown as such.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Lines {
    /// Written out: the text is one line.
    One,
    /// Shown.
    Many,
}

/// A text as it is given to a terminal: our colours take effect, and what is hidden in the rest is written out.
pub fn shown(text: &str, lines: Lines) -> String {
    let mut out = String::with_capacity(text.len() + 16);
    let mut rest = text;
    while let Some(c) = rest.chars().next() {
        let colour =
            rest.strip_prefix(MARK).and_then(|rest| rest.strip_prefix(nonce())).and_then(|rest| rest.split_once(END));
        if let Some((sequence, after)) = colour {
            out.push_str(sequence);
            rest = after;
            continue;
        }
        match c {
            '\n' if lines == Lines::One => out.push_str("\\n"),
            c => visible::push(&mut out, c),
        }
        rest = &rest[c.len_utf8()..];
    }
    out
}

fn painted(color: bool, tone: Tone, text: &dyn fmt::Display) -> String {
    if color {
        let style = tone.style();
        let ours = |sequence: String| format!("{MARK}{}{sequence}{END}", nonce());
        format!("{}{text}{}", ours(style.to_string()), ours(format!("{style:#}")))
    } else {
        text.to_string()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_our_colours_take_effect() {
        let ours = painted(true, Tone::Good, &"good \x1b[2J\nVERIFIED");
        assert_eq!(shown(&ours, Lines::One), "\x1b[32mgood \\u001b[2J\\nVERIFIED\x1b[0m");
        let forged = format!("{MARK}0000000000000000\x1b[2J{END}");
        assert_eq!(shown(&forged, Lines::Many), "\\ufdd00000000000000000\\u001b[2J\\ufdd1");
        assert_eq!(shown("plain\n", Lines::Many), "plain\n");
        assert_eq!(painted(false, Tone::Bad, &"plain"), "plain");
    }
}
