//! Tables for people, in Markdown.

/// Prints a title, and rows under a header: the first column to the left, figures to the right.
pub fn print(title: &str, rows: &[Vec<String>]) {
    print!("\n{}", text(title, rows));
}

fn text(title: &str, rows: &[Vec<String>]) -> String {
    let columns = rows.iter().map(Vec::len).max().unwrap_or_default();
    let cell = |row: &Vec<String>, column: usize| row.get(column).cloned().unwrap_or_default();
    let width = |column| rows.iter().map(|row| cell(row, column).chars().count()).max().unwrap_or_default();
    let widths: Vec<usize> = (0..columns).map(width).collect();
    let line = |row: &Vec<String>| {
        let cells = widths.iter().enumerate().map(|(column, width)| match column {
            0 => format!("{:width$}", cell(row, column)),
            _ => format!("{:>width$}", cell(row, column)),
        });
        format!("| {} |\n", cells.collect::<Vec<_>>().join(" | "))
    };
    let mut out = format!("## {title}\n\n");
    for (n, row) in rows.iter().enumerate() {
        out.push_str(&line(row));
        if n == 0 {
            let dashes = widths.iter().enumerate().map(|(column, width)| match column {
                0 => format!("{}-", "-".repeat(width + 1)),
                _ => format!("{}:", "-".repeat(width + 1)),
            });
            out.push_str(&format!("|{}|\n", dashes.collect::<Vec<_>>().join("|")));
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn figures_stand_under_each_other() {
        let rows = [["peer", "µs"], ["nginx", "20.1"], ["us", "7"]].map(|row| row.map(str::to_owned).to_vec());
        let expected = "## t\n\n| peer  |   µs |\n|-------|-----:|\n| nginx | 20.1 |\n| us    |    7 |\n";
        assert_eq!(text("t", &rows), expected);
    }
}
