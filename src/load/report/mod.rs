//! How a run is shown: as a table on a terminal, as a page with plots, and as JSON for programs.
//!
//! All three are made of [`Results`] alone. Texts in it may be the server's (a target's name, a status message), so nothing of
//! them gets to a terminal or into a page as anything but text. What was not measured is `-`, never zero or NaN.
//!
//! The figures "for each proxy" are what the server used in a phase, divided by the proxies of the run. Memory is counted above
//! what the server had before the first proxy connected, if a sample shows it ([`figures::base_rss`]).

mod chart;
mod figures;
mod page;
mod plots;
mod terminal;

use super::results::Results;

/// A table for a terminal: plain text within 100 columns, the verdict in its last line.
pub fn table(results: &Results) -> String {
    terminal::table(results)
}

/// One HTML page with everything in it: no script, nothing that is loaded from elsewhere.
pub fn html(results: &Results) -> String {
    page::html(results)
}

/// The results as JSON, for people to read too; the last line is ended. A number that JSON has no form for is `null`.
pub fn json(results: &Results) -> String {
    // Only a map with keys that are no text, or a writer that fails, could make an error; there is neither.
    let mut text = serde_json::to_string_pretty(results).unwrap_or_default();
    text.push('\n');
    text
}

#[cfg(test)]
mod tests;
