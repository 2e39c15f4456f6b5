//! The only place that writes for people. A reader who has gone away (`envoy-sds check | head`) is no error.

use std::fmt::Display;
use std::io::Write;

/// A line of what was asked for.
pub(super) fn line(text: impl Display) {
    let _ = writeln!(std::io::stdout().lock(), "{text}");
}

/// Whole lines of what was asked for.
pub(super) fn text(text: impl Display) {
    let _ = write!(std::io::stdout().lock(), "{text}");
}

/// A line about what is wrong, or worth knowing.
pub(super) fn error(text: impl Display) {
    let _ = writeln!(std::io::stderr().lock(), "{text}");
}
