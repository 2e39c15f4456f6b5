//! The bounds, one by one.

use std::sync::atomic::Ordering;

use prometheus_client::registry::Registry;
use tonic::Code;

use super::*;
use crate::model::identity::Workload;
use crate::serve::testing::identity;

fn admission(limits: StreamLimits) -> Admission {
    Admission::new(limits, Metrics::new(&mut Registry::default()))
}

fn proof(instance: Option<&str>, service_account: &str) -> Proof {
    Proof {
        method: "test",
        instance: instance.map(str::to_owned),
        workload: Workload { service_account: Some(service_account.into()), ..Workload::default() },
        ..Proof::default()
    }
}

impl Admission {
    /// A stream whose peer needs no proof.
    fn open(&self, connection: &Arc<AtomicUsize>) -> Result<Place, Status> {
        let mut place = self.enter(connection)?;
        self.admit(&mut place, None)?;
        Ok(place)
    }
}

fn exhausted<T>(result: Result<T, Status>) {
    assert_eq!(result.map(|_| ()).unwrap_err().code(), Code::ResourceExhausted);
}

#[tokio::test]
async fn item_63_bounds_are_exact_and_places_come_back() {
    let admission = admission(StreamLimits { streams: 2, per_proxy: 1, ..StreamLimits::default() });
    let connection = Arc::default();
    let places = (admission.open(&connection).unwrap(), admission.open(&connection).unwrap());
    exhausted(admission.open(&connection));
    drop(places);
    admission.open(&connection).unwrap();

    let (web, api) = (identity("web"), identity("api"));
    let place = admission.enter_as(&web).unwrap();
    exhausted(admission.enter_as(&web));
    let other = admission.enter_as(&api).unwrap();
    drop(place);
    let again = admission.enter_as(&web).unwrap();
    drop((other, again));
    assert_eq!(admission.counts(), [0; 4]);
    assert_eq!(connection.load(Ordering::Relaxed), 0);
}

#[tokio::test]
async fn item_63_one_credential_under_many_node_ids() {
    let admission = admission(StreamLimits { per_identity: 3, ..StreamLimits::default() });
    let named =
        |node: usize, method| Identity { instance: Instance::Node(node.to_string().into()), method, ..identity("web") };
    let mut places: Vec<_> = (0..3).map(|node| admission.enter_as(&named(node, "proxyToken")).unwrap()).collect();
    exhausted(admission.enter_as(&named(3, "proxyToken")));
    // Neither another identity nor a proven instance is any worse off for it, and a refusal leaves nothing behind.
    let other = Identity { spiffe_id: "spiffe://default/api".parse().unwrap(), ..named(0, "proxyToken") };
    places.push(admission.enter_as(&other).unwrap());
    places.push(admission.enter_as(&identity("web")).unwrap());
    assert_eq!(admission.counts(), [0, 0, 5, 2]);
    // Whoever may say anything of itself may say another identity as well.
    places.extend((0..100).map(|node| admission.enter_as(&named(node, node_id::METHOD)).unwrap()));
    drop(places);
    assert_eq!(admission.counts(), [0; 4]);
}

#[tokio::test]
async fn item_63_silent_streams_of_a_connection_and_of_an_instance() {
    let limits = StreamLimits { per_identity: 7, ..StreamLimits::default() };
    let admission = admission(limits);
    let (one, two) = (Arc::default(), Arc::default());
    let mut silent: Vec<_> = (0..SILENT).map(|_| admission.enter(&one).unwrap()).collect();
    exhausted(admission.enter(&one));
    // Another connection is another matter, unless the same instance is behind it, or the same identity without one.
    let web = proof(Some("web"), "web");
    for place in silent.iter_mut().take(limits.per_proxy) {
        admission.admit(place, Some(&web)).unwrap();
    }
    let mut further = admission.enter(&two).unwrap();
    exhausted(admission.admit(&mut further, Some(&web)));
    admission.admit(&mut further, Some(&proof(Some("api"), "web"))).unwrap();
    let shared = proof(None, "shared");
    for place in silent.iter_mut().skip(limits.per_proxy).take(limits.per_identity) {
        admission.admit(place, Some(&shared)).unwrap();
    }
    let mut another = admission.enter(&two).unwrap();
    exhausted(admission.admit(&mut another, Some(&shared)));
    admission.admit(&mut another, Some(&proof(None, "other"))).unwrap();

    silent[0].heard();
    silent.push(admission.enter(&one).unwrap());
    exhausted(admission.enter(&one));
    drop((silent, further, another));
    assert_eq!(admission.counts(), [0; 4]);
}

#[tokio::test]
async fn item_63_who_is_verified_takes_no_place_of_those_who_are() {
    let admission = admission(StreamLimits { streams: VERIFYING + 1, ..StreamLimits::default() });
    let (one, two) = (Arc::default(), Arc::default());
    let mut verifying: Vec<_> = (0..VERIFYING).map(|_| admission.verify(&one).unwrap()).collect();
    exhausted(admission.verify(&one));
    verifying.push(admission.verify(&two).unwrap());
    exhausted(admission.verify(&two));
    let place = admission.open(&two).unwrap();
    assert_eq!(admission.counts(), [1, 0, 0, 0]);
    drop((verifying, place));
    drop((admission.verify(&one).unwrap(), admission.verify(&two).unwrap()));
    assert_eq!((one.load(Ordering::Relaxed), two.load(Ordering::Relaxed)), (0, 0));
}

#[tokio::test(start_paused = true)]
async fn item_63_one_credential_that_comes_and_goes_under_new_node_ids() {
    let admission = admission(StreamLimits { per_identity: 3, ..StreamLimits::default() });
    let named =
        |node: usize, method| Identity { instance: Instance::Node(node.to_string().into()), method, ..identity("web") };
    let come_and_go = |node, method| admission.enter_as(&named(node, method)).map(drop);
    for node in 0..3 {
        come_and_go(node, "proxyToken").unwrap();
    }
    exhausted(come_and_go(3, "proxyToken"));
    come_and_go(0, "proxyToken").unwrap();
    for node in 0..100 {
        come_and_go(node, node_id::METHOD).unwrap();
    }
    tokio::time::advance(StreamLimits::default().remembered - Duration::from_secs(1)).await;
    exhausted(come_and_go(3, "proxyToken"));
    let stays = admission.enter_as(&named(1, "proxyToken")).unwrap();
    tokio::time::advance(Duration::from_secs(2)).await;
    assert_eq!(admission.instances.count(), 1);
    come_and_go(3, "proxyToken").unwrap();
    drop(stays);
    tokio::time::advance(StreamLimits::default().remembered).await;
    assert_eq!((admission.instances.count(), admission.counts()), (0, [0; 4]));
}

#[tokio::test(start_paused = true)]
async fn item_97_new_streams_a_second() {
    let admission = admission(StreamLimits { new_per_second: Some(5), ..StreamLimits::default() });
    let connection = Arc::default();
    // Those who prove nothing take nothing away.
    let opened = |_| admission.enter(&connection).map(drop);
    assert!((0..50).all(|number| opened(number).is_ok()));
    let admitted = || (0..50).filter(|_| admission.open(&connection).is_ok()).count();
    assert_eq!(admitted(), 5);
    assert_eq!(admitted(), 0);
    tokio::time::advance(Duration::from_secs(1)).await;
    assert_eq!(admitted(), 5);
    assert_eq!(admission.counts(), [0; 4]);
}
