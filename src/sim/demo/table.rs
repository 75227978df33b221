//! Plain text tables.

use std::fmt;

/// The widest a column gets.
const MAX_WIDTH: usize = 44;

/// How a column is set.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Align {
    /// Texts.
    Left,
    /// Numbers.
    Right,
}

/// Rows under a heading; columns are as wide as their widest cell.
#[derive(Debug)]
pub(super) struct Table {
    columns: Vec<Align>,
    rows: Vec<Vec<String>>,
}

impl Table {
    pub(super) fn new<const N: usize>(heading: [(&str, Align); N]) -> Self {
        Self {
            columns: heading.iter().map(|(_, align)| *align).collect(),
            rows: vec![heading.iter().map(|(name, _)| (*name).to_owned()).collect()],
        }
    }

    pub(super) fn row<const N: usize>(&mut self, cells: [String; N]) {
        self.rows.push(cells.into_iter().map(clip).collect());
    }
}

fn clip(cell: String) -> String {
    if cell.chars().count() <= MAX_WIDTH {
        return cell;
    }
    let mut short: String = cell.chars().take(MAX_WIDTH - 1).collect();
    short.push('…');
    short
}

impl fmt::Display for Table {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let widths: Vec<usize> = (0..self.columns.len())
            .map(|column| {
                self.rows
                    .iter()
                    .filter_map(|row| row.get(column))
                    .map(|cell| cell.chars().count())
                    .max()
                    .unwrap_or_default()
            })
            .collect();
        for row in &self.rows {
            let mut line = String::new();
            for ((cell, align), width) in row.iter().zip(&self.columns).zip(&widths) {
                let gap = " ".repeat(width.saturating_sub(cell.chars().count()));
                let (before, after) = match align {
                    Align::Left => ("", gap.as_str()),
                    Align::Right => (gap.as_str(), ""),
                };
                line.push_str("  ");
                line.push_str(before);
                line.push_str(cell);
                line.push_str(after);
            }
            writeln!(f, "{}", line.trim_end())?;
        }
        Ok(())
    }
}

/// A number with commas between thousands.
pub(super) fn number(value: u64) -> String {
    let digits = value.to_string();
    let mut text = String::new();
    for (index, digit) in digits.chars().enumerate() {
        if index > 0 && (digits.len() - index).is_multiple_of(3) {
            text.push(',');
        }
        text.push(digit);
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn columns_line_up_and_long_cells_are_cut() {
        let mut table = Table::new([("name", Align::Left), ("n", Align::Right)]);
        table.row(["Zoë".to_owned(), number(1_234_567)]);
        table.row(["x".repeat(100), number(12)]);
        let text = table.to_string();
        let lines: Vec<&str> = text.lines().collect();
        assert_eq!(lines[0], format!("  name{}n", " ".repeat(50)));
        assert!(lines[1].ends_with("  1,234,567"));
        assert!(lines[2].contains("…         12"));
        assert!(lines[1..].iter().all(|line| line.chars().count() == 57));
    }
}
