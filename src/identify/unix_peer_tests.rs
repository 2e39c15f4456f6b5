use std::sync::Mutex;

use super::*;
use crate::identify::standing::Standing;
use crate::model::identity::Pod;

const UID: &str = "2c48913c-b29f-11e7-9350-020968147796";

/// Knows one pod.
#[derive(Debug, Default)]
struct OnePod {
    broken: bool,
    asked: Mutex<Vec<String>>,
}

#[async_trait]
impl FindPods for OnePod {
    async fn by_uid(&self, uid: &str) -> Result<Option<FoundPod>, String> {
        self.asked.lock().unwrap().push(uid.to_owned());
        if self.broken {
            return Err("the API server is away".to_owned());
        }
        let workload = Workload {
            namespace: Some("shop".into()),
            service_account: Some("web".into()),
            pod: Some(Pod { name: "web-0".into(), uid: UID.into() }),
            name: None,
        };
        Ok((uid == UID).then(|| FoundPod { workload, standing: Standing::default() }))
    }
}

fn rule(uid: Option<u32>, gid: Option<u32>, name: &str) -> Rule {
    let labels = Labels::from([("app".into(), name.into())]);
    let is = Behind::Proxy { mesh: "prod".to_owned(), name: format!("{name}-0"), workload: name.into(), labels };
    Rule { uid, gid, is }
}

fn pods(uid: Option<u32>) -> Rule {
    Rule { uid, gid: None, is: Behind::Pod }
}

fn peer(uid: u32, gid: u32) -> UnixPeer {
    UnixPeer { uid, gid, pid: Some(42), started: Some(700) }
}

fn evidence(peer: UnixPeer) -> Evidence {
    Evidence { unix_peer: Some(peer), ..Evidence::default() }
}

/// A `/proc` in which process 42 began at `started`.
fn proc(started: u64, cgroups: &str) -> tempfile::TempDir {
    let proc = tempfile::tempdir().unwrap();
    let process = proc.path().join("42");
    std::fs::create_dir(&process).unwrap();
    let stat = format!("42 (a) b) S {}{started} 0 0\n", "0 ".repeat(18));
    std::fs::write(process.join("stat"), stat).unwrap();
    std::fs::write(process.join("cgroup"), cgroups).unwrap();
    proc
}

#[tokio::test]
async fn the_rule_that_names_most_counts() {
    let rules =
        [pods(None), rule(Some(7), None, "seven"), rule(Some(7), Some(70), "seventy"), rule(Some(8), None, "eight")];
    let proc = proc(700, "0::/system.slice/envoy.service\n");
    let peers = UnixPeers::new(rules.to_vec(), None).reading(proc.path());
    for (uid, gid, name) in [(7, 7, "seven"), (7, 70, "seventy"), (8, 70, "eight")] {
        let proof = peers.identify(&evidence(peer(uid, gid))).await.unwrap().unwrap();
        assert_eq!(proof.workload.name.as_deref(), Some(name));
        assert_eq!((proof.mesh.as_deref(), proof.instance), (Some("prod"), Some(format!("{name}-0"))));
        assert_eq!(proof.labels, Labels::from([("app".into(), name.into())]));
        assert_eq!((proof.method, proof.until), (METHOD, None));
    }
}

#[tokio::test]
async fn whom_no_rule_names_has_proven_nothing() {
    let peers = UnixPeers::new(vec![rule(Some(7), Some(70), "seventy")], None);
    assert_eq!(peers.identify(&evidence(peer(7, 71))).await, Ok(None));
    assert_eq!(peers.identify(&evidence(peer(0, 0))).await, Ok(None));
    assert_eq!(peers.identify(&Evidence::default()).await, Ok(None));
}

#[tokio::test]
async fn the_pod_behind_a_process() {
    let proc = proc(700, &format!("1:pids:/kubepods/burstable/pod{UID}/x\n"));
    let cluster = Arc::new(OnePod::default());
    let peers = UnixPeers::new(vec![pods(Some(7))], Some(cluster.clone())).reading(proc.path());
    let proof = peers.identify(&evidence(peer(7, 7))).await.unwrap().unwrap();
    assert_eq!(proof.instance, Some(format!("shop/web-0/{UID}")), "the same as that of a token which is bound to it");
    assert_eq!(proof.workload.service_account.as_deref(), Some("web"));
    assert_eq!((proof.mesh, proof.workload.name), (None, None));
    assert_eq!(peers.identify(&evidence(peer(8, 7))).await, Ok(None));
    assert_eq!(*cluster.asked.lock().unwrap(), [UID]);
}

#[tokio::test]
async fn a_process_that_is_in_no_pod_or_cannot_be_known_is_refused() {
    let in_pod = format!("1:pids:/kubepods/burstable/pod{UID}/x\n");
    let other = "1:pids:/kubepods/burstable/pod11111111-b29f-11e7-9350-020968147796/x\n";
    let known = peer(7, 7);
    for (peer, started, cgroups, reason) in [
        (UnixPeer { pid: Some(0), started: None, ..known }, 700, in_pod.as_str(), "hostPID"),
        (UnixPeer { pid: None, started: None, ..known }, 700, &in_pod, "hostPID"),
        (UnixPeer { started: None, ..known }, 700, &in_pod, "hostPID"),
        (UnixPeer { pid: Some(43), ..known }, 700, &in_pod, "gone"),
        (known, 701, &in_pod, "another's"),
        (known, 700, "0::/system.slice/ssh.service\n", "runs in no pod"),
        (known, 700, other, "does not know the pod"),
    ] {
        let proc = proc(started, cgroups);
        let peers = UnixPeers::new(vec![pods(None)], Some(Arc::new(OnePod::default()))).reading(proc.path());
        let error = peers.identify(&evidence(peer)).await.unwrap_err();
        assert!(matches!(&error, IdentifyError::Refused { .. }) && error.to_string().contains(reason), "{error}");
    }
}

/// Whoever may create pods chooses the user that they run as.
#[tokio::test]
async fn a_pod_is_no_user_of_the_node() {
    let in_pod = format!("1:pids:/kubepods/burstable/pod{UID}/x\n");
    let (of_node, known) = ("0::/system.slice/envoy.service\n", peer(7, 7));
    let unseen = UnixPeer { pid: Some(0), started: None, ..known };
    for (peer, started, cgroups, with_pods, refused) in [
        (known, 700, of_node, true, None),
        (known, 700, of_node, false, None),
        (known, 700, in_pod.as_str(), true, Some("may be a pod's")),
        (known, 700, &in_pod, false, Some("may be a pod's")),
        // Where there are pods, who cannot be seen may be one. Elsewhere, the server may be in a container of its own.
        (unseen, 700, of_node, true, Some("hostPID")),
        (UnixPeer { pid: None, started: None, ..known }, 700, of_node, true, Some("hostPID")),
        (unseen, 700, of_node, false, None),
        // It could be seen, and has gone.
        (UnixPeer { started: None, ..known }, 700, of_node, false, Some("gone")),
        (UnixPeer { pid: Some(43), ..known }, 700, of_node, false, Some("gone")),
        (known, 701, of_node, false, Some("another's")),
    ] {
        let proc = proc(started, cgroups);
        let rules = [rule(Some(7), None, "web")].into_iter().chain(with_pods.then(|| pods(Some(8))));
        let peers = UnixPeers::new(rules.collect(), Some(Arc::new(OnePod::default()))).reading(proc.path());
        match (peers.identify(&evidence(peer)).await, refused) {
            (Ok(proof), None) => assert_eq!(proof.unwrap().workload.name.as_deref(), Some("web")),
            (Err(error @ IdentifyError::Refused { .. }), Some(reason)) if error.to_string().contains(reason) => {}
            (other, _) => panic!("{peer:?} {cgroups}: {other:?}"),
        }
    }
}

#[tokio::test]
async fn without_an_answer_of_the_api_server_it_may_try_again() {
    let proc = proc(700, &format!("0::/kubepods/pod{UID}/x\n"));
    let away = Arc::new(OnePod { broken: true, ..OnePod::default() });
    let peers = UnixPeers::new(vec![pods(None)], Some(away)).reading(proc.path());
    let error = peers.identify(&evidence(peer(7, 7))).await.unwrap_err();
    assert!(matches!(error, IdentifyError::Unavailable { .. }), "{error}");
}

#[tokio::test]
async fn who_cannot_be_seen_is_no_user_where_there_may_be_pods() {
    let unseen = UnixPeer { pid: Some(0), started: None, ..peer(7, 7) };
    let users = || UnixPeers::new(vec![rule(Some(7), None, "seven")], None);
    assert!(users().identify(&evidence(unseen)).await.unwrap().is_some());
    let error = users().among_pods(true).identify(&evidence(unseen)).await.unwrap_err();
    assert!(error.to_string().contains("hostPID"), "{error}");
}

/// A rule for a user of the node does not shut out the pods that run as a user of that number, nor the other way round.
#[tokio::test]
async fn rules_for_users_and_rules_for_pods_do_not_get_in_each_others_way() {
    let in_pod = format!("0::/kubepods/burstable/pod{UID}/x\n");
    let of_node = "0::/system.slice/envoy.service\n";
    let doubtful = "0::/kubepods/unknown\n";
    for rules in [[pods(None), rule(Some(7), None, "web")], [rule(Some(7), None, "web"), pods(Some(7))]] {
        for (cgroups, instance) in
            [(in_pod.as_str(), Ok(format!("shop/web-0/{UID}"))), (of_node, Ok("web-0".to_owned())), (doubtful, Err(()))]
        {
            let proc = proc(700, cgroups);
            let cluster = Some(Arc::new(OnePod::default()) as Arc<dyn FindPods>);
            let peers = UnixPeers::new(rules.to_vec(), cluster).reading(proc.path());
            let found = peers.identify(&evidence(peer(7, 7))).await;
            assert_eq!(found.map(|proof| proof.unwrap().instance.unwrap()).map_err(drop), instance, "{cgroups}");
            let unseen = UnixPeer { pid: Some(0), started: None, ..peer(7, 7) };
            let error = peers.identify(&evidence(unseen)).await.unwrap_err();
            assert!(error.to_string().contains("hostPID"), "{error}");
        }
    }
}
