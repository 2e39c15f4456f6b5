//! For how long the API server has not listed what is watched, as a metric.

use std::fmt;

use prometheus_client::collector::Collector;
use prometheus_client::encoding::{DescriptorEncoder, EncodeMetric};
use prometheus_client::metrics::MetricType;
use prometheus_client::metrics::gauge::ConstGauge;
use prometheus_client::registry::Registry;

use crate::runtime::watch_board::WatchBoard;

#[derive(Debug)]
struct Watches(WatchBoard);

pub(super) fn register(registry: &mut Registry, board: WatchBoard) {
    registry.register_collector(Box::new(Watches(board)));
}

impl Collector for Watches {
    fn encode(&self, mut encoder: DescriptorEncoder<'_>) -> Result<(), fmt::Error> {
        let help = "For how long the API server has not listed the objects of a watched kind, 0 while it does; what it listed \
                    before counts until then (see /readyz).";
        let mut encoder = encoder.encode_descriptor("cluster_unlisted_seconds", help, None, MetricType::Gauge)?;
        for (kind, seconds) in self.0.seconds() {
            ConstGauge::new(seconds).encode(encoder.encode_family(&[("kind", kind)])?)?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use axum::http::Method;

    use super::*;
    use crate::mesh::cluster::watch_objects;
    use crate::runtime::clock::Clock;
    use crate::runtime::state_dir::StateDir;
    use crate::runtime::tasks::Tasks;
    use crate::testing::fake_cluster::{Definition, FakeApi, Fault};
    use crate::trust::source::mesh_secret::watch_mesh_secrets;

    #[tokio::test(start_paused = true)]
    async fn an_api_server_that_is_away_is_counted_until_it_is_back() {
        let (api, board) = (FakeApi::default(), WatchBoard::new(Clock::simulated(jiff::Timestamp::UNIX_EPOCH)));
        let mut registry = Registry::default();
        register(&mut registry, board.clone());
        let shown = || {
            let mut text = String::new();
            prometheus_client::encoding::text::encode(&mut text, &registry).unwrap();
            let value =
                text.lines().find_map(|line| line.strip_prefix("cluster_unlisted_seconds{kind=\"mesh Secrets\"} "));
            value.map(|value| value.parse::<i64>().unwrap())
        };
        assert_eq!(shown(), None);
        let (tasks, _deaths) = Tasks::new();
        let _secrets = watch_mesh_secrets(api.client(), "system", &board, &tasks);
        tokio::time::sleep(Duration::from_secs(1)).await;
        assert_eq!(shown(), Some(0));
        api.set_down(true);
        tokio::time::sleep(Duration::from_secs(300)).await;
        assert!(shown().is_some_and(|seconds| seconds >= 200), "{:?}", shown());
        assert_eq!(board.unlisted().len(), 1);
        api.set_down(false);
        tokio::time::sleep(Duration::from_secs(120)).await;
        assert_eq!((shown(), board.unlisted().len()), (Some(0), 0));
    }

    #[tokio::test(start_paused = true)]
    async fn a_kind_that_may_not_be_listed_is_told_and_one_that_is_not_installed_is_not() {
        let (api, board) = (FakeApi::default(), WatchBoard::new(Clock::simulated(jiff::Timestamp::UNIX_EPOCH)));
        api.define("meshtrusts", Some(Definition::Missing));
        for _ in 0..1000 {
            api.fault(Method::GET, "meshes", Fault::Refuse(403, "may not"));
        }
        let (tasks, _deaths) = Tasks::new();
        let folder = tempfile::tempdir().unwrap();
        let _objects = watch_objects(&api.client(), "system", &StateDir::new(folder.path()), &board, &tasks);
        tokio::time::sleep(Duration::from_secs(300)).await;
        let unlisted = board.unlisted();
        let [(kind, why)] = unlisted.as_slice() else { panic!("{unlisted:?}") };
        assert!(*kind == "meshes" && why.why.contains("may not (403)"), "{kind} {why:?}");
        assert_eq!(why.since, jiff::Timestamp::UNIX_EPOCH);
    }
}
