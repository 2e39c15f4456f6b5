//! From nothing to a certificate that is served, step by step; and what it costs to know who asks for it.
//!
//! `cargo bench --bench issuing`; as `cargo test --bench issuing` each runs once.

#![expect(clippy::expect_used, reason = "a program that measures")]

mod common;

use std::hint::black_box;
use std::time::Duration;

use criterion::{BatchSize, Criterion, criterion_group, criterion_main};
use envoy_sds::identify::proxy_token::{
    self, DEFAULT_AUDIENCE, KeySource, ProxyTokens, Request, Settings, newest_or_create,
};
use envoy_sds::identify::{Evidence, Identify};
use envoy_sds::issue::ca::{IssuedChain, Signed};
use envoy_sds::issue::csr::SubjectKey;
use envoy_sds::issue::verify;
use envoy_sds::runtime::clock::Clock;
use envoy_sds::runtime::tasks::Tasks;
use rcgen::{KeyPair, PKCS_ECDSA_P256_SHA256};

use common::{Ca, SPIFFE_ID};

fn issuing(c: &mut Criterion) {
    let ca = Ca::new();
    let mut group = c.benchmark_group("issuing");
    group.bench_function("key", |b| {
        b.iter(|| KeyPair::generate_for(&PKCS_ECDSA_P256_SHA256).expect("a key"));
    });
    group.bench_function("signing request", |b| {
        let key = SubjectKey::generate().expect("a key");
        b.iter(|| key.request(black_box(SPIFFE_ID)).expect("a request"));
    });
    group.bench_function("key and leaf of the builtin CA", |b| b.iter(|| ca.sign()));
    let (Signed { key, chain: issued }, expected) = ca.issued();
    let unsaid = IssuedChain { signed_here: None, ..issued.clone() };
    for (name, issued) in [("verify what was signed here", issued), ("verify what a CA sent", unsaid)] {
        group.bench_function(name, |b| {
            let (bundle, now) = (ca.bundle(), Clock::system().now());
            let verify = |key| verify::verify(&issued, &expected, key, &bundle, now).expect("a good leaf");
            b.iter_batched(|| key.pem(), verify, BatchSize::SmallInput);
        });
    }
    group.bench_function("all of it", |b| b.iter(|| ca.svid()));
    group.finish();
}

fn tokens(c: &mut Criterion) {
    let folder = tempfile::tempdir().expect("a temporary folder can be made");
    let key = newest_or_create(folder.path()).expect("a key can be made").key;
    let request = Request {
        mesh: "default".to_owned(),
        name: "web-0".to_owned(),
        workload: "web".to_owned(),
        labels: [("app".to_owned(), "web".to_owned())].into(),
        audiences: vec![DEFAULT_AUDIENCE.to_owned()],
        valid_for: Duration::from_secs(3600),
    };
    let now = Clock::system().now();
    let issue = || proxy_token::issue(&key, &request, now).expect("a token").token;

    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
    let _entered = runtime.enter();
    let (tasks, _deaths) = Tasks::new();
    let settings = Settings {
        keys: KeySource::Folder(folder.path().to_owned()),
        audiences: vec![DEFAULT_AUDIENCE.to_owned()],
        revocations: None,
    };
    let tokens = ProxyTokens::start(settings, Clock::system(), &tasks).expect("the key can be read");
    let evidence = Evidence { bearer_token: Some(issue()), ..Evidence::default() };

    let mut group = c.benchmark_group("proxy token");
    group.bench_function("issue", |b| b.iter(issue));
    group.bench_function("verify", |b| {
        b.iter(|| {
            let proof = runtime.block_on(tokens.identify(black_box(&evidence)));
            proof.expect("a good token").expect("a proxy token")
        });
    });
    group.finish();
}

criterion_group!(benches, issuing, tokens);
criterion_main!(benches);
