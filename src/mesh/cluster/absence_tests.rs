//! Kinds of object that are not there, or cannot be looked at: what is taken for none, and what is not.

use std::time::Duration;

use axum::http::Method;
use tokio::time::{sleep, timeout};

use super::tests::{LONG, Scene, becomes, mesh};
use super::*;
use crate::mesh::WithoutMeshes;
use crate::testing::fake_cluster::{Definition, Fault};

fn forbid(scene: &Scene, plural: &str, times: usize) {
    for _ in 0..times {
        scene.api.fault(Method::GET, plural, Fault::Refuse(403, "may not"));
    }
}

#[tokio::test(start_paused = true)]
async fn the_embedded_default_is_for_clusters_without_meshes() {
    let scene = Scene::new();
    let mut live = scene.live(vec![]);
    becomes(&mut live, "", 0).await;
    live.changed().await;
    becomes(&mut live, "", 0).await;

    let scene = Scene::new();
    for kind in ObjectKind::ALL {
        scene.api.define(kind.plural(), Some(Definition::Missing));
    }
    let mut live = scene.live(vec![]);
    becomes(&mut live, "default", 0).await;
    assert!(matches!(live.objects().of(ObjectKind::Mesh), Listing::NotInstalled));
    scene.api.define("meshes", None);
    sleep(LONG).await;
    becomes(&mut live, "default", 0).await;
    scene.api.put("meshes", mesh("first", "ca-1"));
    becomes(&mut live, "first", 0).await;
    scene.api.remove("meshes", "first");
    becomes(&mut live, "", 0).await;
}

#[tokio::test(start_paused = true)]
async fn the_embedded_default_lasts_until_there_is_a_mesh() {
    let scene = Scene::new();
    for kind in ObjectKind::ALL {
        scene.api.define(kind.plural(), Some(Definition::Missing));
    }
    becomes(&mut scene.live(vec![]), "default", 0).await;
    // The next server finds the definitions and no Mesh; the one after that, no API server.
    ObjectKind::ALL.into_iter().for_each(|kind| scene.api.define(kind.plural(), None));
    let mut live = scene.live(vec![]);
    let mut objects = scene.watch();
    timeout(LONG, objects.wait_for(|objects| objects.is_complete())).await.unwrap().unwrap();
    becomes(&mut live, "default", 0).await;
    scene.api.set_down(true);
    becomes(&mut scene.live(vec![]), "default", 0).await;
    scene.api.set_down(false);
    scene.api.put("meshes", mesh("first", "ca-1"));
    becomes(&mut scene.live(vec![]), "first", 0).await;
    // It does not come back.
    scene.api.remove("meshes", "first");
    becomes(&mut scene.live(vec![]), "", 0).await;
    scene.api.set_down(true);
    becomes(&mut scene.live(vec![]), "", 0).await;
}

/// Each replica would make a CA of its own; one that has served the embedded default before is not taken away.
#[tokio::test(start_paused = true)]
async fn where_meshes_are_to_be_objects_there_is_no_embedded_default() {
    let scene = Scene::new();
    ObjectKind::ALL.into_iter().for_each(|kind| scene.api.define(kind.plural(), Some(Definition::Missing)));
    let mut live = scene.live(vec![]).with_meshes_of_the_cluster();
    becomes(&mut live, "", 0).await;
    assert_eq!(live.without_meshes(), None, "the cluster has not answered");
    let told = async {
        while live.without_meshes().is_none() {
            live.changed().await;
            assert!(live.load().resources.policies.meshes.is_empty());
        }
    };
    timeout(LONG, told).await.unwrap();
    assert_eq!(live.without_meshes(), Some(WithoutMeshes::Nothing));
    ObjectKind::ALL.into_iter().for_each(|kind| scene.api.define(kind.plural(), None));
    scene.api.put("meshes", mesh("first", "ca-1"));
    becomes(&mut live, "first", 0).await;
    assert_eq!(live.without_meshes(), None);

    let scene = Scene::new();
    ObjectKind::ALL.into_iter().for_each(|kind| scene.api.define(kind.plural(), Some(Definition::Missing)));
    let mut live = scene.live(vec![]);
    becomes(&mut live, "default", 0).await;
    assert_eq!(live.without_meshes(), Some(WithoutMeshes::EmbeddedDefault));
    let mut live = scene.live(vec![]).with_meshes_of_the_cluster();
    becomes(&mut live, "default", 0).await;
    scene.api.define("meshes", None);
    scene.api.put("meshes", mesh("first", "ca-1"));
    becomes(&mut live, "first", 0).await;
    assert_eq!(live.without_meshes(), None);
}

#[tokio::test(start_paused = true)]
async fn what_may_not_be_listed_is_not_taken_for_none() {
    let scene = Scene::new();
    forbid(&scene, "meshtrusts", 1);
    let mut objects = scene.watch();
    let is = |objects: &Arc<ClusterObjects>| matches!(objects.of(ObjectKind::MeshTrust), Listing::Forbidden);
    timeout(Duration::from_secs(1), objects.wait_for(is)).await.unwrap().unwrap();
    assert!(!objects.borrow().is_complete() && !objects.borrow().is_known());
    assert_eq!(objects.borrow().unknown(), Some((ObjectKind::MeshTrust, true)));
    timeout(LONG, objects.wait_for(|objects| objects.is_complete())).await.unwrap().unwrap();

    // What is known from before is not given up, and is still not the cluster's word.
    scene.api.put("meshes", mesh("one", "ca-1"));
    timeout(LONG, objects.wait_for(|objects| objects.iter().count() == 1)).await.unwrap().unwrap();
    forbid(&scene, "meshes", 20);
    let objects = scene.watch();
    sleep(Duration::from_secs(5)).await;
    assert!(objects.borrow().is_known() && !objects.borrow().is_complete());
    assert_eq!(objects.borrow().iter().count(), 1);
}

#[tokio::test(start_paused = true)]
async fn without_a_permission_a_kind_that_is_not_installed_is_known_to_have_no_objects() {
    let scene = Scene::new();
    scene.api.define("meshtrusts", Some(Definition::Missing));
    forbid(&scene, "meshtrusts", 20);
    let mut objects = scene.watch();
    timeout(LONG, objects.wait_for(|objects| objects.is_complete())).await.unwrap().unwrap();
    assert!(matches!(objects.borrow().of(ObjectKind::MeshTrust), Listing::NotInstalled));
}

#[tokio::test(start_paused = true)]
async fn a_definition_that_is_gone_for_a_moment_takes_nothing_away() {
    let scene = Scene::new();
    // Discovery says otherwise: nothing is known.
    scene.api.define("meshes", Some(Definition::Away));
    let mut objects = scene.watch();
    sleep(LONG).await;
    assert!(matches!(objects.borrow().of(ObjectKind::Mesh), Listing::Unknown));
    scene.api.define("meshes", None);
    scene.api.put("meshes", mesh("one", "ca-1"));
    timeout(LONG, objects.wait_for(|objects| objects.is_complete())).await.unwrap().unwrap();

    let names =
        |objects: &Arc<ClusterObjects>| objects.iter().map(|object| object.at.name.to_string()).collect::<Vec<_>>();
    let minutes = |minutes: u64| Duration::from_secs(60 * minutes);
    for definition in [Definition::Away, Definition::Missing] {
        scene.api.define("meshes", Some(definition));
        scene.api.watch_error(410);
        for objects in [objects.clone(), scene.watch()] {
            sleep(minutes(4)).await;
            assert_eq!(names(&objects.borrow()), ["one"], "{definition:?}");
        }
        // Each time anew: the API server has to say so without a break.
        scene.api.define("meshes", None);
        sleep(minutes(1)).await;
        assert_eq!(names(&objects.borrow()), ["one"]);
    }
    scene.api.define("meshes", Some(Definition::Missing));
    scene.api.watch_error(410);
    sleep(minutes(5)).await;
    let mut remembered = scene.watch();
    sleep(minutes(8)).await;
    let listing = objects.borrow().of(ObjectKind::Mesh).clone();
    assert!(matches!(listing, Listing::NotInstalled), "{listing:?}");
    let missing = |objects: &Arc<ClusterObjects>| matches!(objects.of(ObjectKind::Mesh), Listing::NotInstalled);
    timeout(minutes(20), remembered.wait_for(missing)).await.unwrap().unwrap();
    // The next server knows that there was none, and that this is from before.
    scene.api.set_down(true);
    let objects = scene.watch();
    assert!(objects.borrow().is_known() && !objects.borrow().is_complete());
    assert_eq!(objects.borrow().iter().count(), 0);
}

#[tokio::test(start_paused = true)]
async fn the_first_word_that_there_is_no_such_kind_is_asked_for_again() {
    let scene = Scene::new();
    scene.api.define("meshes", Some(Definition::Missing));
    let mut objects = scene.watch();
    sleep(Duration::from_millis(100)).await;
    assert!(matches!(objects.borrow().of(ObjectKind::Mesh), Listing::Unknown));
    let missing = |objects: &Arc<ClusterObjects>| matches!(objects.of(ObjectKind::Mesh), Listing::NotInstalled);
    timeout(Duration::from_secs(5), objects.wait_for(missing)).await.unwrap().unwrap();
    assert_eq!(scene.api.count("GET meshes"), 2);
}

#[tokio::test(start_paused = true)]
async fn objects_in_another_namespace_are_told_of_once_and_do_not_count() {
    let scene = Scene::new();
    let object = |name: &str, namespace: &str| serde_json::json!({"metadata": {"name": name, "namespace": namespace}});
    scene.api.put("meshidentities", object("here", "system"));
    scene.api.put("meshidentities", object("there", "shop"));
    let (tasks, _deaths) = Tasks::new();
    tell_of_objects_elsewhere(&scene.api.client(), "system", "one", &tasks);
    let told = async {
        while scene.api.objects("events").is_empty() {
            sleep(Duration::from_millis(100)).await;
        }
    };
    timeout(LONG, told).await.unwrap();
    scene.api.merge("meshidentities", "there", &serde_json::json!({"spec": {}}));
    sleep(LONG).await;
    let events = scene.api.objects("events");
    assert_eq!(events.len(), 1, "{events:?}");
    let of = |field: &str| events[0].pointer(field).cloned().unwrap_or_default();
    assert_eq!((of("/reason"), of("/regarding/name")), ("NotInSystemNamespace".into(), "there".into()));
}
