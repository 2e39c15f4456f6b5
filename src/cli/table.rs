//! Tables for people. A cell is on one line and cannot do anything to the terminal.

use super::proxy_json::rfc_3339;
use crate::model::text::escaped;

/// How much of a long text a narrow table shows.
const LIMIT: usize = 60;

/// A column: its head, what is in it, and where it is shown.
pub(super) type Column<T> = (&'static str, fn(&T) -> String, Shown);

/// Where a column is shown. The wide table has everything in full.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Shown {
    /// In the narrow table too, shortened.
    Short,
    /// In the narrow table too, in full.
    Full,
    /// In the wide table only.
    Wide,
}

/// The table, with a line for each item.
pub(super) fn of<T>(items: &[T], columns: &[Column<T>], wide: bool) -> String {
    let columns: Vec<&Column<T>> = columns.iter().filter(|(.., shown)| wide || *shown != Shown::Wide).collect();
    let limit = |shown: Shown| if wide || shown == Shown::Full { usize::MAX } else { LIMIT };
    let mut rows = vec![columns.iter().map(|(head, ..)| (*head).to_owned()).collect::<Vec<_>>()];
    rows.extend(
        items.iter().map(|item| columns.iter().map(|(_, text, shown)| cell(&text(item), limit(*shown))).collect()),
    );
    let mut widths = vec![0; columns.len()];
    for row in &rows {
        for (width, cell) in widths.iter_mut().zip(row) {
            *width = cell.chars().count().max(*width);
        }
    }
    let mut table = String::new();
    for row in rows {
        let line: Vec<String> = row.iter().zip(&widths).map(|(cell, width)| format!("{cell:width$}")).collect();
        table.push_str(line.join("   ").trim_end());
        table.push('\n');
    }
    table
}

/// A text in a cell: escaped, shortened, `-` if there is none.
fn cell(text: &str, limit: usize) -> String {
    let text = escaped(text);
    match text.char_indices().nth(limit) {
        _ if text.is_empty() => "-".to_owned(),
        None => text,
        Some(_) => text.chars().take(limit - 1).chain(['…']).collect(),
    }
}

/// A time, to the second.
pub(super) fn seconds(time: Option<&prost_types::Timestamp>) -> String {
    rfc_3339(time.map(|time| prost_types::Timestamp { nanos: 0, ..*time }).as_ref())
}
