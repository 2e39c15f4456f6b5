//! What becomes of streams when what is known of their proxies changes, as the program decides it.

use std::sync::Arc;

use futures::StreamExt;
use futures::stream::BoxStream;
use tokio::sync::watch;
use tokio_stream::wrappers::WatchStream;
use tonic::Code;

use super::super::client_testing::{Sotw, client, eventually, request, server};
use super::super::testing::TestServer;
use crate::identify::IdentifyError;
use crate::identify::chain::Identifiers;
use crate::identify::membership::{AllowRule, Rules};
use crate::identify::standing::{Facts, Standing, Stands};
use crate::model::identity::Labels;
use crate::model::policy::{IdentityPolicy, MeshPolicy, PolicySet, Selector};

/// Facts that a test changes.
#[derive(Debug)]
struct Told(watch::Sender<Result<Facts, IdentifyError>>);

impl Stands for Told {
    fn facts(&self) -> Result<Facts, IdentifyError> {
        self.0.borrow().clone()
    }

    fn changes(&self) -> BoxStream<'static, ()> {
        WatchStream::from_changes(self.0.subscribe()).map(drop).boxed()
    }
}

fn labels(labels: &[(&str, &str)]) -> Labels {
    labels.iter().map(|(key, value)| ((*key).into(), (*value).into())).collect()
}

fn facts(mesh: Option<&str>, read: &[(&str, &str)]) -> Result<Facts, IdentifyError> {
    Ok(Facts { mesh: mesh.map(Into::into), labels: Arc::new(labels(read)) })
}

/// The mesh `default` with an identity of its own for the front, and the mesh `prod`, which lets in who is of production.
fn decide(server: &TestServer) {
    let classic = |name: &str| MeshPolicy::classic(name.into(), "".into(), Vec::new());
    let front = IdentityPolicy {
        name: "front".into(),
        selector: Selector::Labels(labels(&[("tier", "front")])),
        trust_domain: "front".into(),
        path: None,
        backend: "".into(),
    };
    let meshes = [MeshPolicy { identities: vec![Arc::new(front)], ..classic("default") }, classic("prod")];
    let meshes = meshes.map(|mesh| (mesh.name.clone(), Arc::new(mesh)));
    let policies = watch::channel(Arc::new(PolicySet { meshes: meshes.into(), ..PolicySet::default() })).1;
    let rule = AllowRule { mesh: "prod".into(), labels: labels(&[("env", "prod")]), ..AllowRule::default() };
    let rules = Rules { default: None, allow: vec![rule] };
    server.authenticate.completes.set(Identifiers::new(Vec::new(), false, policies, rules, "".into())).unwrap();
}

/// A stream of a proxy of which this is known, and what changes that.
async fn open(server: &TestServer, name: &str, known: Result<Facts, IdentifyError>) -> (Sotw, Arc<Told>) {
    let told = Arc::new(Told(watch::channel(known).0));
    server.authenticate.standing.lock().unwrap().insert(name.to_owned(), Standing::on(told.clone()));
    let mut stream = Sotw::open(&mut client(server).await, name).await.unwrap();
    stream.send(request(&["default"])).await;
    stream.next().await;
    (stream, told)
}

#[tokio::test]
async fn item_26_a_change_of_what_is_known_ends_the_streams_whose_identity_it_changes() {
    let server = server().await;
    decide(&server);
    server.issue();
    let refused = |method| IdentifyError::Refused { method, reason: "the pod was deleted".to_owned() };
    for (name, change, code) in [
        ("another-label", facts(None, &[("env", "prod"), ("version", "2")]), None),
        ("another-identity", facts(None, &[("tier", "front")]), Some(Code::Unavailable)),
        ("another-mesh", facts(Some("prod"), &[("env", "prod")]), Some(Code::Unavailable)),
        ("not-let-in", facts(Some("prod"), &[("env", "test")]), Some(Code::PermissionDenied)),
        ("no-such-mesh", facts(Some("gone"), &[]), Some(Code::PermissionDenied)),
        ("revoked", Err(refused("test")), Some(Code::Unauthenticated)),
    ] {
        let (mut stream, told) = open(&server, name, facts(None, &[("env", "prod")])).await;
        drop(told.0.send_replace(change));
        match code {
            None => {
                stream.silent().await;
                server.issue();
                stream.next().await;
            }
            Some(code) => {
                let status = stream.status().await;
                assert_eq!(status.code(), code, "{name}");
                assert!(!status.message().contains("prod") && !status.message().contains("pod"), "{status:?}");
            }
        }
    }
    let shown: Vec<_> = server.service.refusals().snapshot();
    let reasons: Vec<&str> = shown.iter().map(|refused| &*refused.reason).collect();
    let [revoked, no_mesh, not_let_in] = reasons.as_slice() else { panic!("{reasons:?}") };
    assert!(not_let_in.contains("it does not match allow[0].labels"), "{not_let_in}");
    assert!(no_mesh.contains("there is no mesh \"gone\""), "{no_mesh}");
    assert_eq!(*revoked, "test: the pod was deleted");
    assert!(shown.iter().all(|refused| &*refused.host == "127.0.0.1" && refused.method == Some("test")), "{shown:?}");
    assert_eq!(shown[0].node_id.as_deref(), Some("proxy-0"));
    let metrics = server.metrics();
    for line in ["refused_total{reason=\"forbidden\"} 2\n", "refused_total{reason=\"unproven\"} 1\n"] {
        assert!(metrics.contains(line), "{line} is not in\n{metrics}");
    }
}

/// What has changed between the opening of a stream and its first request counts.
#[tokio::test]
async fn item_26_who_is_revoked_before_its_first_request_is_not_served() {
    let server = server().await;
    decide(&server);
    server.issue();
    let told = Arc::new(Told(watch::channel(facts(None, &[])).0));
    server.authenticate.standing.lock().unwrap().insert("web".to_owned(), Standing::on(told.clone()));
    let stream = Sotw::open(&mut client(&server).await, "web").await.unwrap();
    let revoked = IdentifyError::Refused { method: "test", reason: "revoked".to_owned() };
    drop(told.0.send_replace(Err(revoked)));
    stream.send(request(&["default"])).await;
    assert_eq!(stream.status().await.code(), Code::Unauthenticated);
    eventually(|| server.service.counts() == [0; 4]).await;
}
