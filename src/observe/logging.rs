//! Structured logs on standard error.

use std::borrow::Cow;
use std::fmt::Write as _;
use std::io::{self, IsTerminal, Write};

use tracing_subscriber::EnvFilter;
use tracing_subscriber::filter::ParseError;

use crate::model::text::is_misleading;

/// How log lines look.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum LogFormat {
    /// For people.
    #[default]
    Text,
    /// One JSON object a line.
    Json,
}

/// Starts logging. `level` is `error`, `warn`, `info`, `debug`, `trace`, or a filter in the syntax of `RUST_LOG`.
///
/// # Errors
/// If `level` is neither.
pub fn init(level: &str, format: LogFormat) -> Result<(), ParseError> {
    // Libraries at debug level drown what this program says about secrets and proxies.
    let quiet = match level {
        "debug" | "trace" => format!("info,kube_client=off,envoy_sds={level}"),
        // kube tells of each failed connection at error level; what it means is told by those who wanted it.
        "info" | "warn" | "error" => format!("{level},kube_client=off"),
        other => other.to_owned(),
    };
    let filter = EnvFilter::builder().parse(quiet)?;
    let builder = tracing_subscriber::fmt().with_env_filter(filter).with_writer(|| Visible(io::stderr()));
    // A second initialisation (the demo inside a test) leaves the first as it is.
    let _ = match format {
        LogFormat::Text => builder.with_target(false).with_ansi(io::stderr().is_terminal()).try_init(),
        LogFormat::Json => builder.json().flatten_event(true).with_current_span(true).with_span_list(false).try_init(),
    };
    Ok(())
}

/// Escapes what would make a line look like another, whoever wrote it there. (The formats themselves escape control
/// characters.) In JSON it can only be inside of strings, where the escape means the same character.
#[derive(Debug)]
struct Visible<W>(W);

impl<W: Write> Write for Visible<W> {
    /// A line is written at once, so no character is cut in two.
    fn write(&mut self, line: &[u8]) -> io::Result<usize> {
        self.0.write_all(visible(&String::from_utf8_lossy(line)).as_bytes())?;
        Ok(line.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        self.0.flush()
    }
}

fn visible(line: &str) -> Cow<'_, str> {
    if !line.contains(is_misleading) {
        return Cow::Borrowed(line);
    }
    let mut shown = String::with_capacity(line.len() + 16);
    for c in line.chars() {
        if is_misleading(c) {
            // Writing to a string cannot fail.
            let _ = write!(shown, "\\u{:04x}", u32::from(c));
        } else {
            shown.push(c);
        }
    }
    Cow::Owned(shown)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_line_looks_like_another() {
        let written = |line: &str| {
            let mut written = Visible(Vec::new());
            written.write_all(line.as_bytes()).unwrap();
            String::from_utf8(written.0).unwrap()
        };
        let plain = "INFO certificate issued proxy=spiffe://default/web (wéb ☃)\n";
        assert_eq!(written(plain), plain);
        assert_eq!(written("proxy=a\u{202e}b\u{2066}\u{200b}\n"), "proxy=a\\u202eb\\u2066\\u200b\n");
        let json = serde_json::json!({ "proxy": "a\u{202e}b" });
        assert_eq!(serde_json::from_str::<serde_json::Value>(&written(&json.to_string())).unwrap(), json);
    }
}
