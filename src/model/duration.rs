//! Durations as Kuma and Go users write them.

use std::time::Duration;

use jiff::{SpanRelativeTo, Unit};

/// Parses `10s`, `24h`, `1h30m`, `1d`, `2w`, `1y`; the units are ms s m h d w y, a day has 24 hours, a year 365 days.
///
/// # Errors
/// A sentence that says what was expected, for anything else, a negative value included.
pub fn parse(text: &str) -> Result<Duration, String> {
    const EXPECTED: &str = "expected a duration such as 10s, 24h, 1h30m or 30d";
    let text = text.trim();
    // jiff reads a good deal more ("2 hours ago", ISO 8601); only what Kuma and Go read is meant here.
    let plain = !text.is_empty() && text.chars().all(|c| c.is_ascii_digit() || "mshdwy.".contains(c));
    let span: jiff::Span = Some(text)
        .filter(|_| plain)
        .and_then(|text| text.parse().ok())
        .ok_or_else(|| format!("{text:?} is not a duration; {EXPECTED}"))?;
    if span.get_months() != 0 || span.is_negative() {
        return Err(format!("{text:?} is not a duration; {EXPECTED}"));
    }
    let years = Duration::from_secs(365 * 24 * 3600) * u32::from(span.get_years().unsigned_abs());
    let rest = span
        .years(0)
        .to_duration(SpanRelativeTo::days_are_24_hours())
        .and_then(|rest| rest.round(Unit::Millisecond))
        .map_err(|error| format!("{text:?} is not a usable duration: {error}"))?;
    Ok(years + rest.unsigned_abs())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reads_every_unit() {
        let second = Duration::from_secs(1);
        for (text, expected) in [
            ("250ms", Duration::from_millis(250)),
            ("10s", 10 * second),
            ("5m", 300 * second),
            ("24h", 86_400 * second),
            ("1h30m", 5_400 * second),
            ("1d", 86_400 * second),
            ("2w", 14 * 86_400 * second),
            ("1y", 365 * 86_400 * second),
            ("1.5h", 5_400 * second),
        ] {
            assert_eq!(parse(text), Ok(expected), "{text}");
        }
    }

    #[test]
    fn refuses_everything_else() {
        for text in ["", "10", "h", "-5s", "5 s", "P1D", "10x", "1M", "1mo", "10s ago"] {
            assert!(parse(text).is_err(), "{text:?} was accepted");
        }
    }
}
