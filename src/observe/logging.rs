//! Structured logs on standard error.

use std::io::IsTerminal;

use tracing_subscriber::EnvFilter;
use tracing_subscriber::filter::ParseError;

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
    let builder = tracing_subscriber::fmt().with_env_filter(filter).with_writer(std::io::stderr);
    // A second initialisation (the demo inside a test) leaves the first as it is.
    let _ = match format {
        LogFormat::Text => builder.with_target(false).with_ansi(std::io::stderr().is_terminal()).try_init(),
        LogFormat::Json => builder.json().flatten_event(true).with_current_span(true).with_span_list(false).try_init(),
    };
    Ok(())
}
