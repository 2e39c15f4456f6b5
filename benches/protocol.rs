//! The protocol's state machines, without anything around them: what a stream's first request, an ACK and a push cost.
//!
//! `cargo bench --bench protocol`; as `cargo test --bench protocol` each runs once.

#![expect(clippy::expect_used, reason = "a program that measures")]

mod common;

use std::hint::black_box;

use criterion::{BatchSize, Criterion, criterion_group, criterion_main};
use envoy_sds::serve::benching::{Delta, Secret, Secrets, Sent, Sotw, Variant};

use common::Ca;

/// The names that a proxy asks for.
const NAMES: [&str; 2] = ["default", "ROOTCA"];

/// The same two secrets before and after their CA has changed.
struct Versions {
    old: [Secret; 2],
    new: [Secret; 2],
}

impl Versions {
    fn new() -> Self {
        let secrets = Secrets::default();
        let [old, new] =
            [Ca::new(), Ca::new()].map(|ca| [secrets.certificate(&ca.svid()), secrets.trust_bundle(&ca.bundle())]);
        Self { old, new }
    }
}

/// A stream that has asked for both names, and has been sent both; with what it was sent last.
fn served<V: Variant>(versions: &Versions) -> (V, Sent) {
    let mut stream = V::new();
    stream.take(&V::first(&NAMES));
    NAMES.iter().zip(&versions.old).for_each(|(name, secret)| stream.available(name, secret));
    let sent = std::iter::from_fn(|| stream.next()).last().expect("there is something to send");
    (stream, sent)
}

/// One that has accepted it, too.
fn settled<V: Variant>(versions: &Versions) -> V {
    let (mut stream, sent) = served::<V>(versions);
    let (_, judged) = stream.take(&V::ack(&sent, &NAMES));
    assert!(judged, "an ACK is a verdict");
    stream
}

fn variant<V: Variant>(c: &mut Criterion, name: &str) {
    let versions = Versions::new();
    let mut group = c.benchmark_group(name);
    group.bench_function("first request for two names", |b| {
        let request = V::first(&NAMES);
        b.iter_batched_ref(V::new, |stream| assert_eq!(stream.take(&request), (2, false)), BatchSize::SmallInput);
    });
    group.bench_function("first request, two secrets sent", |b| {
        let request = V::first(&NAMES);
        let talk = |stream: &mut V| {
            stream.take(&request);
            NAMES.iter().zip(&versions.old).for_each(|(name, secret)| stream.available(name, secret));
            while let Some(sent) = stream.next() {
                black_box(sent);
            }
        };
        b.iter_batched_ref(V::new, talk, BatchSize::SmallInput);
    });
    group.bench_function("ack", |b| {
        let setup = || {
            let (stream, sent) = served::<V>(&versions);
            (stream, V::ack(&sent, &NAMES))
        };
        b.iter_batched_ref(setup, |(stream, ack)| assert!(stream.take(ack).1), BatchSize::SmallInput);
    });
    group.bench_function("push of a new trust bundle", |b| {
        let push = |stream: &mut V| {
            stream.available(NAMES[1], &versions.new[1]);
            black_box(stream.next().expect("it is new"))
        };
        b.iter_batched_ref(|| settled::<V>(&versions), push, BatchSize::SmallInput);
    });
    group.bench_function("push of a trust bundle that is not new", |b| {
        let push = |stream: &mut V| {
            stream.available(NAMES[1], &versions.old[1]);
            assert!(stream.next().is_none(), "nothing to send");
        };
        b.iter_batched_ref(|| settled::<V>(&versions), push, BatchSize::SmallInput);
    });
    group.finish();
}

fn both(c: &mut Criterion) {
    variant::<Sotw>(c, "protocol/sotw");
    variant::<Delta>(c, "protocol/delta");
}

criterion_group!(benches, both);
criterion_main!(benches);
