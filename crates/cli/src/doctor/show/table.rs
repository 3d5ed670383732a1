//! Tables of text.

use std::fmt::Write as _;

use super::super::text::clean;

/// A table: columns as wide as what is in them, numbers to the right.
pub(in crate::doctor) struct Table {
    rows: Vec<Vec<String>>,
}

impl Table {
    pub(in crate::doctor) fn new(heads: &[&str]) -> Table {
        Table { rows: vec![heads.iter().map(|h| (*h).to_owned()).collect()] }
    }

    pub(in crate::doctor) fn row(&mut self, cells: impl IntoIterator<Item = String>) {
        self.rows.push(cells.into_iter().map(|c| clean(&c)).collect());
    }

    /// Whether there is nothing below the heads.
    pub(super) fn is_empty(&self) -> bool {
        self.rows.len() < 2
    }

    pub(in crate::doctor) fn text(&self) -> String {
        let columns = self.rows.iter().map(Vec::len).max().unwrap_or(0);
        let cell = |row: &Vec<String>, i: usize| row.get(i).map_or(0, |c| c.chars().count());
        let widths: Vec<usize> =
            (0..columns).map(|i| self.rows.iter().map(|r| cell(r, i)).max().unwrap_or(0)).collect();
        let is_number = |i: usize| {
            let mut cells = self.rows[1..].iter().filter_map(|r| r.get(i)).peekable();
            cells.peek().is_some()
                && cells.all(|c| c == "-" || c.starts_with(|d: char| d.is_ascii_digit()))
        };
        let right: Vec<bool> = (0..columns).map(|i| i > 0 && is_number(i)).collect();
        let mut out = String::new();
        for row in &self.rows {
            let mut line = String::new();
            for (i, cell) in row.iter().enumerate() {
                let width = widths[i];
                let _ = match right[i] {
                    true => write!(line, "{cell:>width$}  "),
                    false => write!(line, "{cell:<width$}  "),
                };
            }
            let _ = writeln!(out, "{}", line.trim_end());
        }
        out
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn columns_are_as_wide_as_needed_and_numbers_stand_right() {
        let mut t = Table::new(&["device", "rx", "state"]);
        t.row(["eth0", "12", "up"].map(String::from));
        t.row(["a-long-name", "1234", "down"].map(String::from));
        let lines: Vec<String> = t.text().lines().map(str::to_owned).collect();
        assert_eq!(lines[0], "device         rx  state");
        assert_eq!(lines[1], "eth0           12  up");
        assert_eq!(lines[2], "a-long-name  1234  down");
    }
}
