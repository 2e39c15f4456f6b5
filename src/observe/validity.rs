//! When something ends, as metrics: two gauges for all that has an end.

use std::fmt;

use jiff::Timestamp;
use prometheus_client::encoding::{DescriptorEncoder, EncodeLabelSet, EncodeMetric};
use prometheus_client::metrics::MetricType;
use prometheus_client::metrics::gauge::ConstGauge;

use crate::model::certificate::Validity;

/// Writes `<name>_expiration_timestamp_seconds`, whose description is `help`, and `<name>_remaining_ratio` (from 1 to 0, at
/// `now`), with a series each for every validity.
///
/// # Errors
/// Those of `encoder`.
pub fn encode<L: EncodeLabelSet>(
    encoder: &mut DescriptorEncoder<'_>,
    name: &str,
    help: &str,
    validities: &[(L, Validity)],
    now: Timestamp,
) -> fmt::Result {
    let of_end = format!("{name}_expiration_timestamp_seconds");
    let mut family = encoder.encode_descriptor(&of_end, help, None, MetricType::Gauge)?;
    for (labels, validity) in validities {
        ConstGauge::new(validity.not_after.as_second()).encode(family.encode_family(labels)?)?;
    }
    let of_rest = format!("{name}_remaining_ratio");
    let help = "The part that is left of its life, from 1 to 0.";
    let mut family = encoder.encode_descriptor(&of_rest, help, None, MetricType::Gauge)?;
    for (labels, validity) in validities {
        ConstGauge::new(validity.remaining(now)).encode(family.encode_family(labels)?)?;
    }
    Ok(())
}
