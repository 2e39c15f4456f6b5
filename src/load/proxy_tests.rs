use std::time::Duration;

use super::*;
use crate::load::meters::Concerns;
use crate::load::protocol::Variant;
use crate::load::results::PhaseKind;

struct Scene {
    run: Surroundings,
    proxy: Proxy,
}

impl Scene {
    /// A proxy with a stream for each of two names, in a phase in which two are waited for.
    fn new(role: Role, kind: PhaseKind, concerns: Concerns) -> Self {
        let phase = Current::new(1, "now".to_owned(), kind, concerns, 2);
        let meters = Arc::new(Meters::new(2, 100, phase));
        let clock = Clock::fixed(Timestamp::from_second(1000).unwrap());
        let manner = Manner { variant: Variant::Sotw, repeats_node: false, refuses: role == Role::Refuses };
        let mut proxy = Proxy::new(7, role, manner, HeaderMap::new(), 2);
        for (place, name) in ["default", "ROOTCA"].into_iter().enumerate() {
            let node = Node { own: Arc::from(&b""[..]), shared: Bytes::new() };
            proxy.subscribe(&[(place, name.into())], node);
        }
        proxy.begin(false);
        Self { run: Surroundings { meters, clock, renew_by: 0.5 }, proxy }
    }

    fn gets(&mut self, channel: usize, news: News, before: &str) {
        let kind = if channel == 0 { Kind::Certificate } else { Kind::ValidationContext };
        let change = Change { index: 0, kind, news, before: before.to_owned(), secret: Bytes::from_static(b"x") };
        self.proxy.received(channel, vec![change], Instant::now(), &self.run);
    }

    fn timed(&self, what: &str) -> u64 {
        self.run.meters.current().latencies().get(what).map_or(0, |latency| latency.count)
    }

    fn reached(&self) -> u64 {
        self.run.meters.current().reached()
    }
}

#[tokio::test(start_paused = true)]
async fn each_new_version_counts_once_in_a_phase_and_only_where_it_concerns() {
    let mut scene = Scene::new(Role::Sound, PhaseKind::LeafRotation, Concerns::Kind(Kind::Certificate));
    scene.gets(0, News::First, "");
    scene.gets(1, News::First, "");
    assert_eq!((scene.reached(), scene.run.meters.names[0].holders.load(Relaxed)), (0, 1));
    scene.gets(1, News::Changed, "bundle.1");
    scene.gets(0, News::Unchanged, "certificate.0.1000.x");
    assert_eq!(scene.reached(), 0);
    scene.gets(0, News::Changed, "certificate.0.1000.x.y.z");
    scene.gets(0, News::Changed, "certificate.0.1000.x.y.z");
    assert_eq!((scene.reached(), scene.timed("fan-out"), scene.timed("renewal-lag")), (1, 1, 1));
    let lag = &scene.run.meters.current().latencies()["renewal-lag"];
    assert!((lag.p50_ms - 500_000.0).abs() < 1000.0, "due at half of its life: {lag:?}");
    assert_eq!(scene.run.meters.traffic().unchanged, 1);
}

#[tokio::test(start_paused = true)]
async fn slow_and_refusing_proxies_are_not_waited_for() {
    for role in [Role::Slow, Role::Refuses] {
        let mut scene = Scene::new(role, PhaseKind::LeafRotation, Concerns::Kind(Kind::Certificate));
        scene.gets(0, News::First, "");
        scene.gets(0, News::Changed, "certificate.0.1000.x.y.z");
        assert_eq!((scene.reached(), scene.run.meters.names[0].holders.load(Relaxed)), (0, 0), "{role:?}");
    }
}

#[tokio::test(start_paused = true)]
async fn who_fails_is_waited_for_no_more() {
    let mut scene = Scene::new(Role::Sound, PhaseKind::Connect, Concerns::Nothing);
    scene.proxy.connected(&scene.run);
    scene.proxy.fail(&scene.run, "lost", "why");
    scene.proxy.fail(&scene.run, "lost", "why");
    let phase = scene.run.meters.current();
    assert_eq!(phase.reached(), 0);
    phase.reach();
    tokio::time::timeout(Duration::from_secs(1), phase.over()).await.expect("one reached, one lost, once");
    assert_eq!(scene.run.meters.failures()[0].example, "proxy 7: why");
    scene.proxy.disconnected(&scene.run);
    assert_eq!(scene.run.meters.connected.load(Relaxed), 0);
}

#[test]
fn lateness_begins_when_a_leaf_is_due() {
    let at = |second| Timestamp::from_second(second).unwrap();
    let validity = validity_in("certificate.100.200.a.b.c").unwrap();
    assert_eq!((validity.not_before, validity.not_after), (at(100), at(200)));
    assert_eq!(lag(validity, 0.75, at(180)), Some(Duration::from_secs(5)));
    assert_eq!(lag(validity, 0.75, at(170)), None);
    for other in ["", "bundle.1", "certificate.x.2.a", "certificate.1", "7"] {
        assert_eq!(validity_in(other), None, "{other}");
    }
}
