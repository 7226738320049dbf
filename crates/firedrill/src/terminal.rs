//! Where a command prints to: colours and live lines only on a terminal, and a closed pipe is no error.

use std::{
    fmt,
    io::{IsTerminal as _, Write as _, stderr, stdout},
    sync::atomic::{AtomicBool, Ordering},
};

use clap::builder::styling::{AnsiColor, Style};

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

    /// Prints a line on standard output. When its reader has gone, nothing more is printed, and the command goes on:
    /// its effects and its exit code matter more than its words.
    pub fn line(&self, text: impl fmt::Display) {
        self.write(format_args!("{text}\n"));
    }

    /// Clears the screen, where there is one.
    pub fn clear(&self) {
        if self.live {
            // Home, erase to the end, and what has scrolled away stays.
            let mut out = stdout().lock();
            let _ = out.write_all(b"\x1b[H\x1b[2J").and_then(|()| out.flush());
        }
    }

    /// The same without the end of the line.
    pub fn write(&self, text: impl fmt::Display) {
        if self.closed() {
            return;
        }
        let mut out = stdout().lock();
        if write!(out, "{text}").and_then(|()| out.flush()).is_err() {
            self.closed.store(true, Ordering::Relaxed);
        }
    }

    /// Prints a note on standard error; if that is closed, there is nobody to tell.
    pub fn note(&self, tone: Tone, label: &str, text: impl fmt::Display) {
        let _ = writeln!(stderr().lock(), "{} {text}", painted(self.color_errors, tone, &format_args!("{label}:")));
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

fn painted(color: bool, tone: Tone, text: &dyn fmt::Display) -> String {
    if color {
        let style = tone.style();
        format!("{style}{text}{style:#}")
    } else {
        text.to_string()
    }
}
