//! Small tables: columns as wide as their widest cell, two spaces between them.

use console::visible::on_one_line;

use crate::terminal::{Terminal, Tone};

/// A cell: what it says, and how it is meant.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Cell {
    text: String,
    tone: Option<Tone>,
}

impl Cell {
    /// A cell in a tone.
    pub fn toned(tone: Tone, text: impl Into<String>) -> Self {
        Self { text: on_one_line(&text.into()).into_owned(), tone: Some(tone) }
    }
}

impl<T: Into<String>> From<T> for Cell {
    fn from(text: T) -> Self {
        Self { text: on_one_line(&text.into()).into_owned(), tone: None }
    }
}

/// Lines of a table, each ending with a line break; the titles are dimmed. An empty cell shows as `-`.
pub fn table(titles: &[&str], rows: &[Vec<Cell>], terminal: &Terminal) -> String {
    let width = |column: usize| {
        let cells = rows.iter().filter_map(|row| row.get(column)).map(|cell| cell.text.chars().count());
        cells.chain([titles[column].len()]).max().unwrap_or(0)
    };
    let widths: Vec<usize> = (0..titles.len()).map(width).collect();
    let head: Vec<Cell> = titles.iter().map(|title| Cell::toned(Tone::Dim, *title)).collect();
    let mut out = String::new();
    for row in std::iter::once(&head).chain(rows) {
        let mut line = String::new();
        for (cell, width) in row.iter().zip(&widths) {
            let text = if cell.text.is_empty() { "-" } else { &cell.text };
            let gap = " ".repeat(width.saturating_sub(text.chars().count()) + 2);
            match cell.tone {
                Some(tone) => line.push_str(&terminal.paint(tone, text)),
                None => line.push_str(text),
            }
            line.push_str(&gap);
        }
        out.push_str(line.trim_end());
        out.push('\n');
    }
    out
}
