//! Bytes in and out: requests with a real Envoy's node, secrets, and the responses around them.
//!
//! `cargo bench --bench encoding`; as `cargo test --bench encoding` each runs once.

#![expect(clippy::expect_used, reason = "a program that measures")]

mod common;

use std::hint::black_box;

use bytes::Bytes;
use criterion::{BatchSize, Criterion, Throughput, criterion_group, criterion_main};
use envoy_sds::serve::benching::{Delta, Secret, Secrets, Sent, Sotw, Variant};
use envoy_types::pb::envoy::config::core::v3::{Extension, Node};
use envoy_types::pb::envoy::service::discovery::v3::{DeltaDiscoveryRequest, DiscoveryRequest};
use prost::Message;

use common::Ca;

const TYPE: &str = "type.googleapis.com/envoy.extensions.transport_sockets.tls.v3.Secret";

/// What Envoy 1.40 sends of itself with every request, in bytes.
const NODE: usize = 61_000;

/// The payload of an HTTP/2 frame, unless a larger one is agreed on.
const FRAME: usize = 16 << 10;

/// A node as large as a real Envoy's, and large by the same thing: the extensions that are built in.
fn node() -> Node {
    let mut node = Node { id: "default.web-0".to_owned(), cluster: "web".to_owned(), ..Node::default() };
    while node.encoded_len() < NODE {
        let number = node.extensions.len();
        node.extensions.push(Extension {
            name: format!("envoy.filters.http.extension_{number}"),
            category: "envoy.filters.http".to_owned(),
            type_urls: vec![format!("envoy.extensions.filters.http.extension_{number}.v3.Extension")],
            ..Extension::default()
        });
    }
    node
}

/// As gRPC and HTTP/2 deliver it.
fn frames(message: &impl Message) -> Vec<Bytes> {
    let mut framed = vec![0];
    framed.extend(u32::try_from(message.encoded_len()).expect("small").to_be_bytes());
    message.encode(&mut framed).expect("a vector has room");
    framed.chunks(FRAME).map(Bytes::copy_from_slice).collect()
}

fn requests(c: &mut Criterion) {
    let names = vec!["default".to_owned()];
    let (node, type_url) = (Some(node()), TYPE.to_owned());
    let sotw = DiscoveryRequest {
        node: node.clone(),
        resource_names: names.clone(),
        type_url: type_url.clone(),
        ..Default::default()
    };
    let delta = DeltaDiscoveryRequest { node, resource_names_subscribe: names, type_url, ..Default::default() };
    let mut group = c.benchmark_group("encoding/request with a 61 KB node");
    group.throughput(Throughput::Bytes(sotw.encoded_len() as u64));
    let read = |frames: Vec<Bytes>, decode: fn(Vec<Bytes>) -> usize| assert_eq!(decode(frames), 1);
    group.bench_function("sotw", |b| {
        let frames = frames(&sotw);
        b.iter_batched(|| frames.clone(), |frames| read(frames, Sotw::decode), BatchSize::SmallInput);
    });
    group.bench_function("delta", |b| {
        let frames = frames(&delta);
        b.iter_batched(|| frames.clone(), |frames| read(frames, Delta::decode), BatchSize::SmallInput);
    });
    // What the server would do if it read requests with the API's own messages.
    group.bench_function("every field, for comparison", |b| {
        let bytes = sotw.encode_to_vec();
        b.iter(|| DiscoveryRequest::decode(black_box(bytes.as_slice())).expect("a request"));
    });
    group.finish();
}

fn secrets(c: &mut Criterion) {
    let ca = Ca::new();
    let (svid, bundle) = (ca.svid(), ca.bundle());
    let mut group = c.benchmark_group("encoding/secret");
    group.bench_function("tls_certificate", |b| {
        let secrets = Secrets::default();
        b.iter(|| secrets.certificate(black_box(&svid)));
    });
    group.bench_function("validation_context, first time", |b| {
        b.iter_batched_ref(Secrets::default, |secrets| secrets.trust_bundle(&bundle), BatchSize::SmallInput);
    });
    group.bench_function("validation_context, shared", |b| {
        let secrets = Secrets::default();
        secrets.trust_bundle(&bundle);
        b.iter(|| secrets.trust_bundle(black_box(&bundle)));
    });
    group.finish();
}

/// A push of `secret`, decided on.
fn push<V: Variant>(name: &str, secret: &Secret) -> Sent {
    let mut stream = V::new();
    stream.take(&V::first(&[name]));
    stream.available(name, secret);
    stream.next().expect("it is new")
}

fn responses(c: &mut Criterion) {
    let ca = Ca::new();
    let secret = Secrets::default().trust_bundle(&ca.bundle());
    let mut group = c.benchmark_group("encoding/response around a shared encoding");
    group.bench_function("sotw", |b| {
        let sent = push::<Sotw>("ROOTCA", &secret);
        b.iter_batched(|| sent.clone(), |sent| Sotw::respond(sent, &secret), BatchSize::SmallInput);
    });
    group.bench_function("delta", |b| {
        let sent = push::<Delta>("ROOTCA", &secret);
        b.iter_batched(|| sent.clone(), |sent| Delta::respond(sent, &secret), BatchSize::SmallInput);
    });
    group.finish();
}

criterion_group!(benches, requests, secrets, responses);
criterion_main!(benches);
