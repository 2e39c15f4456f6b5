//! Kinds of object are listed in any order, and nothing depends on it.

use std::path::PathBuf;

use kube::api::DynamicObject;
use serde_json::{Value, json};

use super::tests::mesh;
use super::*;
use crate::mesh::{Compiled, LiveResources, Settings};
use crate::runtime::clock::Clock;

/// Every order in which three kinds can arrive.
const ORDERS: [[usize; 3]; 6] = [[0, 1, 2], [0, 2, 1], [1, 0, 2], [1, 2, 0], [2, 0, 1], [2, 1, 0]];

fn identity(mesh: &str, spiffe_id: Value) -> Value {
    let bundled = json!({"autogenerate": {"enabled": true}, "insecureAllowSelfSigned": true});
    let provider = json!({"type": "Bundled", "bundled": bundled});
    let metadata = json!({"name": "i", "namespace": "system", "labels": {"kuma.io/mesh": mesh}});
    json!({"metadata": metadata, "spec": {"spiffeID": spiffe_id, "provider": provider}})
}

fn by_name(kind: ObjectKind, objects: &[Value]) -> objects::ByName {
    let object = |object: &Value| {
        let object: DynamicObject = serde_json::from_value(object.clone()).unwrap();
        Arc::new(Object::new(kind, Ok(object)).unwrap())
    };
    objects.iter().map(object).map(|object| (object.at.name.clone(), object)).collect()
}

fn listed(kind: ObjectKind, objects: &[Value]) -> Listing {
    Listing::Listed(by_name(kind, objects))
}

/// What a server finds that has run before: of all kinds, what there was.
fn remembered(meshes: &[Value]) -> ClusterObjects {
    let of = |kind| match kind {
        ObjectKind::Mesh => by_name(kind, meshes),
        ObjectKind::MeshIdentity | ObjectKind::MeshTrust => by_name(kind, &[]),
    };
    ClusterObjects { kinds: ObjectKind::ALL.into_iter().map(|kind| (kind, Listing::Remembered(of(kind)))).collect() }
}

/// The cluster answers for a kind, and what comes of it.
fn answer(
    live: &mut LiveResources,
    publish: &watch::Sender<Arc<ClusterObjects>>,
    kind: ObjectKind,
    now: &[Value],
) -> Compiled {
    publish.send_modify(|known| drop(Arc::make_mut(known).kinds.insert(kind, listed(kind, now))));
    live.load()
}

/// Who is served by what, and the trust domains of MeshIdentities that have a signer.
fn shown(compiled: &Compiled) -> String {
    let of = |policy: &crate::model::policy::MeshPolicy| {
        let signed = policy.identities.iter().filter(|identity| policy.backend(&identity.backend).is_some());
        let domains: Vec<&str> = signed.map(|identity| &*identity.trust_domain).collect();
        format!("{}:{}:{}", policy.name, policy.enabled_backend.as_deref().unwrap_or_default(), domains.join(","))
    };
    compiled.resources.policies.meshes.values().map(|policy| of(policy)).collect::<Vec<_>>().join(" ")
}

fn settings(paths: Vec<PathBuf>) -> Settings {
    Settings {
        paths,
        kubernetes_available: true,
        system_namespace: "system".to_owned(),
        zone: String::new(),
        read_file: None,
        state_dir: None,
    }
}

/// Lets the kinds arrive in each order, at a server that knows nothing, and starts it again.
fn arrive(meshes: &[Value], identities: &[Value], file: Option<&str>, expected: &str) {
    for order in ORDERS {
        let folder = tempfile::tempdir().unwrap();
        let state_dir = StateDir::new(folder.path().join("state"));
        let last_good = state_dir.path().join("resources/last-good.json");
        let paths: Vec<PathBuf> = file.iter().map(|_| folder.path().join("i.yaml")).collect();
        file.iter().for_each(|text| std::fs::write(&paths[0], text).unwrap());
        for is_fresh in [true, false] {
            let (publish, objects) = watch::channel(Arc::new(ClusterObjects::default()));
            let mut live = LiveResources::new(settings(paths.clone()), Some(objects), Clock::system());
            live = live.remembering(&state_dir);
            live.load();
            for kind in order {
                assert_eq!(last_good.exists(), !is_fresh, "{order:?}: something is kept before everything is known");
                let kind = ObjectKind::ALL[kind];
                let listing = match kind {
                    ObjectKind::Mesh => listed(kind, meshes),
                    ObjectKind::MeshIdentity => listed(kind, identities),
                    ObjectKind::MeshTrust => listed(kind, &[]),
                };
                publish.send_modify(|known| drop(Arc::make_mut(known).kinds.insert(kind, listing)));
                live.load();
            }
            let compiled = live.load();
            assert_eq!(shown(&compiled), expected, "{order:?}: {:?}", compiled.problems);
            assert_eq!(compiled.problems.len(), 1, "{order:?}: {:?}", compiled.problems);
            assert!(last_good.exists());
        }
    }
}

#[test]
fn a_trust_domain_is_the_meshs_of_that_name_whichever_is_listed_first() {
    let foreign = identity("dev", json!({"trustDomain": "prod"}));
    arrive(&[mesh("prod", "ca-1"), mesh("dev", "ca-1")], &[foreign], None, "dev:ca-1: prod:ca-1:");
}

#[test]
fn default_paths_are_the_meshs_whichever_is_listed_first() {
    let colliding = identity("prod", json!({"path": "/{{ .Name }}"}));
    arrive(&[mesh("prod", "ca-1")], &[colliding], None, "prod:ca-1:");
}

#[test]
fn a_file_that_is_read_before_anything_is_listed_holds_nothing_either() {
    let provider = "{type: Bundled, bundled: {insecureAllowSelfSigned: true, autogenerate: {enabled: true}}}";
    let file = format!(
        "{{type: MeshIdentity, name: i, mesh: dev, spec: {{spiffeID: {{trustDomain: prod}}, provider: {provider}}}}}"
    );
    arrive(&[mesh("prod", "ca-1"), mesh("dev", "ca-1")], &[], Some(&file), "dev:ca-1: prod:ca-1:");
}

#[test]
fn what_was_made_while_no_server_ran_comes_into_force_together() {
    let before = [mesh("dev", "ca-1")];
    let now = [mesh("prod", "ca-1"), mesh("dev", "ca-1")];
    let foreign = [identity("dev", json!({"trustDomain": "prod"}))];
    for order in ORDERS {
        let folder = tempfile::tempdir().unwrap();
        let state_dir = StateDir::new(folder.path().join("state"));
        let last_good = state_dir.path().join("resources/last-good.json");
        let (publish, objects) = watch::channel(Arc::new(remembered(&before)));
        let mut live = LiveResources::new(settings(vec![]), Some(objects), Clock::system()).remembering(&state_dir);
        assert_eq!(shown(&live.load()), "dev:ca-1:");
        for (at, kind) in order.into_iter().map(|kind| ObjectKind::ALL[kind]).enumerate() {
            let objects: &[Value] = match kind {
                ObjectKind::Mesh => &now,
                ObjectKind::MeshIdentity => &foreign,
                ObjectKind::MeshTrust => &[],
            };
            let compiled = answer(&mut live, &publish, kind, objects);
            assert_eq!(last_good.exists(), at == 2, "{order:?}: something is kept before everything is listed");
            if at == 2 {
                assert_eq!(shown(&compiled), "dev:ca-1: prod:ca-1:", "{order:?}: {:?}", compiled.problems);
                assert_eq!(compiled.problems.len(), 1, "{order:?}: {:?}", compiled.problems);
            }
        }
    }
}

#[tokio::test(start_paused = true)]
async fn what_the_cluster_does_not_list_in_time_is_kept_as_remembered() {
    let folder = tempfile::tempdir().unwrap();
    let state_dir = StateDir::new(folder.path().join("state"));
    let last_good = state_dir.path().join("resources/last-good.json");
    let path = folder.path().join("m.yaml");
    let good = "{type: Mesh, name: file, mtls: {enabledBackend: b, backends: [{name: b, type: builtin}]}}";
    std::fs::write(&path, good).unwrap();
    let (publish, objects) = watch::channel(Arc::new(remembered(&[mesh("dev", "ca-1")])));
    let mut live = LiveResources::new(settings(vec![path.clone()]), Some(objects), Clock::system());
    live = live.remembering(&state_dir);
    live.load();
    let begin = Instant::now();
    while !last_good.exists() {
        live.changed().await;
        live.load();
    }
    assert!(begin.elapsed() >= Duration::from_secs(10), "{:?}", begin.elapsed());
    // What breaks from now on stays.
    std::fs::write(&path, good.replace("enabledBackend: b", "enabledBackend: c")).unwrap();
    assert_eq!(shown(&live.load()), "dev:ca-1: file:b:");

    // The cluster is back, and its kinds are waited for again: one that is listed alone decides nothing.
    let foreign = [identity("dev", json!({"trustDomain": "prod"}))];
    assert_eq!(shown(&answer(&mut live, &publish, ObjectKind::MeshIdentity, &foreign)), "dev:ca-1:prod file:b:");
    answer(&mut live, &publish, ObjectKind::MeshTrust, &[]);
    let compiled = answer(&mut live, &publish, ObjectKind::Mesh, &[mesh("prod", "ca-1"), mesh("dev", "ca-1")]);
    assert_eq!(shown(&compiled), "dev:ca-1: file:b: prod:ca-1:");
}
