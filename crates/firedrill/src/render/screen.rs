//! Where a drill's progress is shown: lines, and on a terminal one line that changes in place.

use std::time::Duration;

use drill::Progress;
use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};

use super::progress;
use crate::terminal::{self, Lines, Terminal, Tone};

/// Shows progress as it comes.
pub struct Screen<'a> {
    terminal: &'a Terminal,
    bar: Option<ProgressBar>,
    errors: bool,
}

impl<'a> Screen<'a> {
    /// On standard output; in place only if it is a terminal.
    pub fn new(terminal: &'a Terminal) -> Self {
        Self { terminal, bar: terminal.live().then(spinner), errors: false }
    }

    /// On standard error as plain lines: standard output is kept for the result.
    pub fn aside(terminal: &'a Terminal) -> Self {
        Self { terminal, bar: None, errors: true }
    }

    /// Prints a line that stays.
    pub fn line(&self, text: &str) {
        match &self.bar {
            _ if self.errors => eprintln_quietly(text),
            Some(bar) => bar.suspend(|| self.terminal.line(text)),
            None => self.terminal.line(text),
        }
    }

    /// Replaces the live line, where there is one.
    pub fn live(&self, text: String) {
        if let Some(bar) = &self.bar {
            bar.set_message(terminal::shown(&text, Lines::One));
        }
    }

    /// Shows one step of a drill.
    pub fn show(&self, step: &Progress) {
        let paint = |tone: Tone, text: &str| self.paint(tone, text);
        match step {
            Progress::Tick(live) => self.live(progress::live(live, &paint)),
            Progress::Phase { name, .. } => self.live(progress::phase(name, &paint)),
            _ => {}
        }
        for line in progress::lines(step, &paint) {
            self.line(&line);
        }
    }

    /// Takes the live line away; lines may still be printed.
    pub fn finish(&mut self) {
        if let Some(bar) = self.bar.take() {
            bar.finish_and_clear();
        }
    }

    /// In the colours of the stream that is printed to.
    pub fn paint(&self, tone: Tone, text: &str) -> String {
        if self.errors { self.terminal.paint_error(tone, text) } else { self.terminal.paint(tone, text) }
    }
}

impl Drop for Screen<'_> {
    fn drop(&mut self) {
        self.finish();
    }
}

fn spinner() -> ProgressBar {
    let bar = ProgressBar::with_draw_target(None, ProgressDrawTarget::stdout());
    if let Ok(style) = ProgressStyle::with_template("  {spinner} {wide_msg}") {
        bar.set_style(style.tick_chars("⠋⠙⠹⠸⠼⠴⠦⠧⠇⠏ "));
    }
    bar.enable_steady_tick(Duration::from_millis(100));
    bar
}

fn eprintln_quietly(text: &str) {
    use std::io::Write as _;
    // Nobody is left to be told that standard error is closed.
    let _ = writeln!(std::io::stderr().lock(), "{}", terminal::shown(text, Lines::One));
}
