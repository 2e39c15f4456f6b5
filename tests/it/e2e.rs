//! The whole of it, from outside: the program, real Envoys with the bootstraps that users copy, and a real cluster with
//! cert-manager. While a test changes things, requests flow, and strangers try to get in.

mod admin;
mod apis;
mod approval;
mod backends;
mod bootstraps;
mod certificates_in_cluster;
mod cli;
mod cluster_resources;
mod compose;
mod default;
mod drop_in;
mod embedded;
mod federation;
mod hostile;
mod kubernetes_identity;
mod last_good;
mod late_trust;
mod left_behind;
mod load;
mod load_faults;
mod manifests;
mod membership;
mod metrics;
mod newer_compose;
mod outages;
mod peers;
mod preflight;
mod provided;
mod proxy_tokens;
mod restart;
mod rotation;
mod served;
mod starting;
mod storms;
mod tokens;
mod trust_domains;
mod workloads;

use std::time::Duration;

use crate::support::pki::{Identity, Leaf, TestCa};
use crate::support::proxy::Proxy;
use crate::support::strangers::Strangers;
use crate::support::traffic::{Report, Traffic};
use crate::support::wire::Certificate;

/// How long the server may take to end when asked to, with streams open: its own deadline is 10 s, and the machine may be
/// busy.
const SHUTDOWN: Duration = Duration::from_secs(20);

/// Two Envoys that call each other all the time, with strangers before both doors.
struct Scene {
    one: Proxy,
    other: Proxy,
    traffic: [Traffic; 2],
    strangers: Strangers,
}

impl Scene {
    /// Once both are ready.
    async fn begin((mut one, mut other): (Proxy, Proxy), strangers: Strangers) -> Self {
        one.ready().await;
        other.ready().await;
        strangers.assert_outside("when the proxies are ready");
        let traffic = [one.traffic(), other.traffic()];
        let mut scene = Self { one, other, traffic, strangers };
        scene.goes_on("at the beginning").await;
        scene
    }

    fn proxies(&self) -> [&Proxy; 2] {
        [&self.one, &self.other]
    }

    /// Checks that all is well: requests go on flowing and none has failed, strangers are outside, secrets are sound, and
    /// the Envoys are those of the beginning.
    async fn goes_on(&mut self, stage: &str) {
        for traffic in &self.traffic {
            traffic.flows_on(stage, 10).await;
        }
        self.strangers.assert_outside(stage);
        self.one.assert_sound().await;
        self.other.assert_sound().await;
    }

    /// Waits until both show a leaf as wanted; no request fails meanwhile.
    async fn both_show(&mut self, what: &str, wanted: impl Fn(&Certificate) -> bool) {
        for proxy in [&self.one, &self.other] {
            proxy.shows(what, &wanted).await;
        }
        self.goes_on(what).await;
    }

    /// Waits until both trust the CAs with these common names, and no others.
    async fn both_trust(&mut self, names: &[&str]) {
        for proxy in [&self.one, &self.other] {
            proxy.trusts(names).await;
        }
        self.goes_on(&format!("now that {names:?} are trusted")).await;
    }

    /// Ends it, and checks that all was well to the end.
    async fn end(mut self) -> [Report; 2] {
        self.goes_on("in the end").await;
        self.strangers.leave();
        for (proxy, traffic) in [&self.one, &self.other].into_iter().zip(&self.traffic) {
            let requests = traffic.report().requests;
            let connections = proxy.envoy.stat("cluster.peer.upstream_cx_total").await.expect("a statistic");
            assert!(connections >= requests, "{requests} requests over {connections} connections prove less");
        }
        self.traffic.map(Traffic::stop)
    }
}

/// Rogues with the right SPIFFE ID and an issuer of the right name, before the doors of both.
fn strangers_before((one, other): &(Proxy, Proxy), spiffe_id: &str, ca_name: &str) -> Strangers {
    Strangers::at(&[one.inbound, other.inbound], vec![rogue(spiffe_id, ca_name)])
}

/// An identity that says it is another's, from a CA that is called like another.
fn rogue(spiffe_id: &str, ca_name: &str) -> Identity {
    TestCa::root(ca_name).issue(&Leaf::spiffe(spiffe_id))
}

/// Checks that a leaf is exactly what a workload's has to be.
fn assert_workload_leaf(leaf: &Certificate, spiffe_id: &str, issuer: &str, lifetime: i64) {
    assert_eq!(leaf.uris, [spiffe_id], "{leaf:?}");
    assert_eq!((leaf.subject.as_str(), leaf.dns_names.len()), ("", 0), "{leaf:?}");
    assert_eq!(leaf.issuer, issuer);
    assert_eq!(leaf.key_usages, ["Digital Signature", "Key Encipherment"]);
    assert!(leaf.server_auth && leaf.client_auth && !leaf.is_ca, "{leaf:?}");
    assert_eq!(leaf.not_after - leaf.not_before, lifetime, "{leaf:?}");
}
