//! The metrics in Prometheus' own text format, for those who do not ask for OpenMetrics: many scrapers, `promtool check metrics`
//! and people with curl.

use std::collections::HashMap;
use std::fmt::Write;

/// The same in the older format, which has the same samples but describes each by its whole name, has no type for
/// information, no units and no end.
pub(super) fn classic(open_metrics: &str) -> String {
    let lines = || open_metrics.lines().filter_map(|line| line.strip_prefix("# TYPE ")?.split_once(' '));
    let types: HashMap<&str, &str> = lines().collect();
    let whole = |name: &str| match types.get(name) {
        Some(&"counter") => format!("{name}_total"),
        Some(&"info") => format!("{name}_info"),
        _ => name.to_owned(),
    };
    let mut classic = String::with_capacity(open_metrics.len());
    for line in open_metrics.lines() {
        // Writing to a string does not fail.
        let _ = match line.strip_prefix("# ").map(|comment| comment.splitn(3, ' ').collect::<Vec<_>>()).as_deref() {
            None => writeln!(classic, "{line}"),
            Some(["HELP", name, help]) => writeln!(classic, "# HELP {} {help}", whole(name)),
            Some(["TYPE", name, "info"]) => writeln!(classic, "# TYPE {} gauge", whole(name)),
            Some(["TYPE", name, kind]) => writeln!(classic, "# TYPE {} {kind}", whole(name)),
            Some(_) => Ok(()),
        };
    }
    classic
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use prometheus_client::metrics::counter::Counter;
    use prometheus_client::metrics::histogram::Histogram;
    use prometheus_client::metrics::info::Info;
    use prometheus_client::registry::{Registry, Unit};

    use super::*;

    #[test]
    fn names_are_whole_and_nothing_is_left_that_is_not_understood() {
        let mut registry = Registry::with_prefix("envoy_sds");
        registry.register("pushes", "Secrets sent", Counter::<u64>::default());
        registry.register("build", "The version", Info::new([("version", "1")]));
        let duration = Histogram::new([1.0]);
        duration.observe(Duration::from_millis(500).as_secs_f64());
        registry.register_with_unit("wait", "How long it took", Unit::Seconds, duration);
        let mut text = String::new();
        prometheus_client::encoding::text::encode(&mut text, &registry).unwrap();
        let expected = "\
# HELP envoy_sds_pushes_total Secrets sent.
# TYPE envoy_sds_pushes_total counter
envoy_sds_pushes_total 0
# HELP envoy_sds_build_info The version.
# TYPE envoy_sds_build_info gauge
envoy_sds_build_info{version=\"1\"} 1
# HELP envoy_sds_wait_seconds How long it took.
# TYPE envoy_sds_wait_seconds histogram
envoy_sds_wait_seconds_sum 0.5
envoy_sds_wait_seconds_count 1
envoy_sds_wait_seconds_bucket{le=\"1.0\"} 1
envoy_sds_wait_seconds_bucket{le=\"+Inf\"} 1
";
        assert_eq!(classic(&text), expected);
    }
}
