use std::time::Duration;

use prost::Message;

use super::*;
use crate::load::messages::{Any, SECRET_TYPE, Secret, SotwResponse, TlsCertificate, ValidationContext, secret};
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
        let meters = Arc::new(Meters::new(u64::from(role != Role::Refuses), 2, 100, phase));
        let clock = Clock::fixed(Timestamp::from_second(1000).unwrap());
        let manner = Manner { variant: Variant::Sotw, repeats_node: false, refuses: role == Role::Refuses };
        let mut proxy = Proxy::new(7, role, manner, HeaderMap::new(), 2);
        for (place, name) in ["default", "ROOTCA"].into_iter().enumerate() {
            let node = Node { own: Arc::from(&b""[..]), shared: Bytes::new() };
            proxy.subscribe(&[(place, name.into())], node);
        }
        let contexts = Arc::default();
        let run = Surroundings { meters, clock, renew_by: 0.5, silence: Silence::OnCertificates, contexts };
        proxy.begin(Instant::now(), false, &run);
        Self { run, proxy }
    }

    /// Loses its connection, and begins with another in a phase of this kind.
    fn comes_back(&mut self, kind: PhaseKind) {
        self.run.meters.begin(Arc::new(Current::new(2, "back".to_owned(), kind, Concerns::Nothing, 1)));
        self.proxy.disconnected(&self.run);
        self.proxy.begin(Instant::now(), false, &self.run);
        for channel in &mut self.proxy.channels {
            channel.subscription.first(&self.proxy.manner);
        }
    }

    fn are_all(&mut self, is: fn(&mut Self, usize)) {
        (0..self.proxy.channels.len()).for_each(|channel| is(self, channel));
    }

    fn is_let_in(&mut self, channel: usize) {
        self.proxy.let_in(channel, &self.run);
    }

    /// Is let in, and then sent what is under that name.
    fn is_answered(&mut self, channel: usize) {
        self.is_let_in(channel);
        let answer = answer(["default", "ROOTCA"][channel]);
        let received = self.proxy.channels[channel].subscription.receive(answer, &self.proxy.manner).unwrap();
        self.proxy.received(channel, received.changes, Instant::now(), &self.run);
    }

    fn gets(&mut self, channel: usize, news: News, before: &str) {
        let kind = if channel == 0 { Kind::Certificate } else { Kind::ValidationContext };
        let (before, secret) = (before.to_owned(), Bytes::from_static(b"x"));
        let change = Change { index: 0, kind, news, before, secret, digest: 0 };
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

/// What a server sends under a name.
fn answer(name: &str) -> Bytes {
    let content = match name {
        "ROOTCA" => secret::Type::ValidationContext(ValidationContext::default()),
        _ => secret::Type::TlsCertificate(TlsCertificate::default()),
    };
    let secret = Secret { name: name.to_owned(), r#type: Some(content) };
    let any = Any { type_url: SECRET_TYPE.to_owned(), value: secret.encode_to_vec().into() };
    let response = SotwResponse {
        version_info: "1".to_owned(),
        nonce: "1".to_owned(),
        type_url: SECRET_TYPE.to_owned(),
        resources: vec![any],
    };
    response.encode_to_vec().into()
}

#[tokio::test(start_paused = true)]
async fn who_comes_back_is_served_by_the_bundle_and_not_by_being_let_in() {
    for kind in [PhaseKind::Storm, PhaseKind::Churn] {
        let mut scene = Scene::new(Role::Sound, PhaseKind::Connect, Concerns::Nothing);
        scene.are_all(Scene::is_answered);
        assert_eq!((scene.proxy.served, scene.reached(), scene.run.meters.away()), (true, 1, 0));
        scene.comes_back(kind);
        scene.are_all(Scene::is_let_in);
        assert_eq!((scene.proxy.served, scene.reached(), scene.run.meters.away()), (false, 0, 1), "a mute server");
        scene.is_answered(1);
        assert_eq!((scene.proxy.served, scene.reached(), scene.run.meters.away()), (true, 1, 0), "the leaf is known");
        assert_eq!(scene.timed("let-in"), 1);
    }
}

#[tokio::test(start_paused = true)]
async fn what_the_server_may_leave_unsaid_is_the_runs_to_say() {
    for (silence, let_in, answered) in [(Silence::Never, false, false), (Silence::Always, true, true)] {
        let mut scene = Scene::new(Role::Sound, PhaseKind::Connect, Concerns::Nothing);
        scene.run.silence = silence;
        scene.are_all(Scene::is_answered);
        scene.comes_back(PhaseKind::Storm);
        scene.are_all(Scene::is_let_in);
        assert_eq!(scene.proxy.served, let_in, "{silence:?}");
        scene.is_answered(1);
        assert_eq!(scene.proxy.served, answered, "{silence:?}");
        scene.is_answered(0);
        assert!(scene.proxy.served && scene.reached() == 1, "{silence:?}");
    }
}

#[tokio::test(start_paused = true)]
async fn without_a_bundle_a_certificate_has_to_come_again() {
    let mut scene = Scene::new(Role::Sound, PhaseKind::Connect, Concerns::Nothing);
    scene.proxy.channels.pop();
    scene.is_answered(0);
    assert!(scene.proxy.served);
    scene.comes_back(PhaseKind::Storm);
    scene.proxy.let_in(0, &scene.run);
    assert!(!scene.proxy.served, "nothing tells this server from a mute one");
    scene.is_answered(0);
    assert!(scene.proxy.served);
}

#[tokio::test(start_paused = true)]
async fn times_are_taken_from_when_a_proxy_was_to_begin() {
    let mut scene = Scene::new(Role::Sound, PhaseKind::Connect, Concerns::Nothing);
    scene.proxy.begin(Instant::now(), false, &scene.run);
    tokio::time::advance(Duration::from_secs(2)).await;
    scene.are_all(Scene::is_answered);
    let first = &scene.run.meters.current().latencies()["first-secret"];
    assert!((first.p50_ms - 2000.0).abs() < 10.0, "{first:?}");
}

#[tokio::test(start_paused = true)]
async fn who_is_given_up_while_it_is_served_does_not_come_back() {
    let mut scene = Scene::new(Role::Sound, PhaseKind::Connect, Concerns::Nothing);
    scene.are_all(Scene::is_answered);
    let storm = Arc::new(Current::new(2, "storm".to_owned(), PhaseKind::Storm, Concerns::Nothing, 1));
    scene.run.meters.begin(storm.clone());
    scene.proxy.fail(&scene.run, "wrong", "why");
    assert!(futures::FutureExt::now_or_never(storm.over()).is_some(), "nobody is left to wait for");
    scene.proxy.disconnected(&scene.run);
    assert_eq!(scene.run.meters.away(), 0);
}

#[tokio::test(start_paused = true)]
async fn in_churn_each_time_that_one_leaves_it_has_to_come_back() {
    let mut scene = Scene::new(Role::Sound, PhaseKind::Connect, Concerns::Nothing);
    scene.are_all(Scene::is_answered);
    let churn = Arc::new(Current::new(2, "churn".to_owned(), PhaseKind::Churn, Concerns::Nothing, 0));
    scene.run.meters.begin(churn.clone());
    let cut = |scene: &mut Scene| {
        scene.proxy.disconnected(&scene.run);
        scene.proxy.begin(Instant::now(), false, &scene.run);
        let Proxy { channels, manner, .. } = &mut scene.proxy;
        channels.iter_mut().for_each(|channel| drop(channel.subscription.first(manner)));
    };
    let counted = || (churn.expected.load(Relaxed), churn.reached());
    cut(&mut scene);
    assert_eq!(counted(), (1, 0));
    tokio::time::advance(Duration::from_secs(2)).await;
    cut(&mut scene);
    assert_eq!(counted(), (1, 0), "it has not been back meanwhile");
    tokio::time::advance(Duration::from_secs(1)).await;
    scene.are_all(Scene::is_answered);
    assert_eq!(counted(), (1, 1));
    let latencies = churn.latencies();
    let waited = ["let-in", "served-again"].map(|what| (latencies[what].p50_ms / 100.0).round());
    assert_eq!(waited, [10.0, 30.0], "what was of the last attempt, and all of it");
    cut(&mut scene);
    scene.are_all(Scene::is_answered);
    assert_eq!(counted(), (2, 2));
}

#[tokio::test(start_paused = true)]
async fn one_stream_that_ends_takes_no_other_with_it() {
    let mut scene = Scene::new(Role::Sound, PhaseKind::Connect, Concerns::Nothing);
    let ends = |scene: &mut Scene, channel: usize| {
        let at = Instant::now() + Duration::from_secs(1);
        scene.proxy.reopens(channel, at, &scene.run);
        scene.proxy.channels[channel].subscription.first(&scene.proxy.manner);
    };
    ends(&mut scene, 1);
    assert_eq!(scene.run.meters.away(), 1, "it was waiting anyway");
    tokio::time::advance(Duration::from_secs(3)).await;
    scene.are_all(Scene::is_answered);
    let first = scene.run.meters.current().latencies()["first-secret"].p50_ms;
    assert!(
        (first - 3000.0).abs() < 10.0,
        "from the beginning, and not from when the stream was opened again: {first}"
    );
    ends(&mut scene, 1);
    assert_eq!((scene.proxy.served, scene.run.meters.away()), (false, 1));
    tokio::time::advance(Duration::from_secs(3)).await;
    scene.is_answered(1);
    assert_eq!((scene.proxy.served, scene.run.meters.away()), (true, 0), "the other stream was there all the time");
    let again = scene.run.meters.current().latencies()["let-in"].p50_ms;
    assert!((again - 2000.0).abs() < 10.0, "from when it was opened again: {again}");
}

/// Ten thousand proxies with one bundle are to cost the client one bundle.
#[tokio::test(start_paused = true)]
async fn proxies_share_the_bundle_that_they_have_alike() {
    let new = || Scene::new(Role::Sound, PhaseKind::Connect, Concerns::Nothing);
    let (mut one, mut other) = (new(), new());
    other.run.contexts = one.run.contexts.clone();
    for scene in [&mut one, &mut other] {
        scene.are_all(Scene::is_answered);
    }
    let kept = |scene: &Scene| lock(&scene.proxy.kept.secrets).latest.iter().flatten().cloned().collect::<Vec<_>>();
    let (one, other) = (kept(&one), kept(&other));
    assert_eq!((one.len(), &one), (2, &other));
    let are_shared: Vec<bool> = one.iter().zip(&other).map(|(one, other)| one.as_ptr() == other.as_ptr()).collect();
    assert_eq!(are_shared, [false, true], "the certificate is each one's own");
    assert!(one.iter().all(|secret| !secret.is_empty()));
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
