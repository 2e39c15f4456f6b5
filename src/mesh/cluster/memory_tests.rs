//! What is kept of objects for the next start.

use std::path::Path;
use std::time::Duration;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use jiff::Timestamp;
use serde_json::json;
use tokio::time::{sleep, timeout};

use super::tests::{LONG, Scene, becomes, mesh};
use super::*;
use crate::mesh::LiveResources;
use crate::model::policy::{BackendKind, DataSource};

/// A CA that ends at this time, and its key, as PEM.
fn ca(not_after: Timestamp) -> (String, String) {
    let key = rcgen::KeyPair::generate().unwrap();
    let mut params = rcgen::CertificateParams::default();
    params.is_ca = rcgen::IsCa::Ca(rcgen::BasicConstraints::Unconstrained);
    let seconds = Duration::from_secs(u64::try_from(not_after.as_second()).unwrap());
    params.not_after = (std::time::UNIX_EPOCH + seconds).into();
    (params.self_signed(&key).unwrap().pem(), key.serialize_pem())
}

/// Every file below a folder.
fn files(folder: &Path) -> Vec<(String, String)> {
    let entries = std::fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path());
    let of = |path: std::path::PathBuf| match path.is_dir() {
        true => files(&path),
        false => vec![(path.display().to_string(), std::fs::read_to_string(path).unwrap())],
    };
    entries.flat_map(of).collect()
}

fn key_of(compiled: &crate::mesh::Compiled) -> DataSource {
    let backend = compiled.resources.policies.meshes["one"].enabled().unwrap();
    let BackendKind::Provided(ca) = &backend.kind else { panic!("it is {:?}", backend.kind) };
    ca.private_key.clone()
}

#[tokio::test(start_paused = true)]
async fn no_private_key_is_kept_and_what_was_good_of_such_a_mesh_is() {
    let scene = Scene::new();
    let state = StateDir::new(scene.folder.path().join("state"));
    let (certificate, key) = ca("2036-01-01T00:00:00Z".parse().unwrap());
    let backend = |name: &str, key: serde_json::Value| json!({"name": name, "type": "provided", "conf": {"cert": {"inlineString": certificate}, "key": key}});
    let backends =
        [backend("ca-1", json!({"inlineString": key})), backend("ca-2", json!({"inline": STANDARD.encode(&key)}))];
    let mut object = mesh("one", "ca-1");
    object["spec"]["mtls"]["backends"] = json!(backends);
    scene.api.put("meshes", object);
    scene.api.put("meshes", mesh("two", "ca-1"));
    // As an older version has left it.
    let file = state.path().join("objects/meshes.json");
    std::fs::create_dir_all(file.parent().unwrap()).unwrap();
    std::fs::write(&file, json!(scene.api.objects("meshes")).to_string()).unwrap();
    let start = || scene.live(vec![]).remembering(&state);
    let mut live = start();
    let listed = |live: &LiveResources| live.objects().is_complete();
    let compiled = async {
        loop {
            let compiled = live.load();
            if listed(&live) {
                return compiled;
            }
            live.changed().await;
        }
    };
    let compiled = timeout(LONG, compiled).await.unwrap();
    assert_eq!(compiled.problems, []);
    assert!(matches!(key_of(&compiled), DataSource::Inline(_)));

    let body: String = key.lines().filter(|line| !line.contains("-----")).collect();
    let kept = files(state.path());
    assert!(kept.iter().any(|(file, _)| file.ends_with("last-good.json")));
    assert!(kept.iter().any(|(file, text)| file.ends_with("meshes.json") && text.contains("BEGIN CERTIFICATE")));
    for (file, text) in kept {
        let is_key = |text: &str| text.contains("PRIVATE") || text.contains(&body[..40]);
        assert!(!is_key(&text) && !text.contains(&STANDARD.encode(&key)[..80]), "{file}: {text}");
    }

    scene.api.set_down(true);
    let mut live = start();
    let compiled = becomes(&mut live, "one two", 2).await;
    assert_eq!(key_of(&compiled), DataSource::NotKept);
    let told: Vec<String> = compiled.problems.iter().map(ToString::to_string).collect();
    assert!(told.iter().all(|told| told.contains("Mesh one") && told.contains("has not been kept")), "{told:?}");
    scene.api.set_down(false);
    let compiled = becomes(&mut live, "one two", 0).await;
    assert!(matches!(key_of(&compiled), DataSource::Inline(_)));
}

#[tokio::test(start_paused = true)]
async fn what_could_not_be_written_is_written_later_though_nothing_happens() {
    let scene = Scene::new();
    let state = StateDir::new(scene.folder.path().join("state"));
    std::fs::create_dir_all(state.path()).unwrap();
    for folder in ["objects", "resources"] {
        std::fs::write(state.path().join(folder), "in the way").unwrap();
    }
    scene.api.put("meshes", mesh("one", "ca-1"));
    let mut live = scene.live(vec![]).remembering(&state);
    becomes(&mut live, "one", 0).await;
    assert_eq!(state.troubles().borrow().len(), 1);
    for folder in ["objects", "resources"] {
        std::fs::remove_file(state.path().join(folder)).unwrap();
    }
    let looks_again = async {
        live.changed().await;
        live.load();
        while !ObjectKind::ALL.iter().all(|kind| state.path().join(format!("objects/{}.json", kind.plural())).exists())
        {
            sleep(Duration::from_secs(1)).await;
        }
    };
    timeout(LONG, looks_again).await.unwrap();
    assert!(state.path().join("resources/last-good.json").exists());
    assert_eq!(state.troubles().borrow().len(), 0);
}

#[tokio::test(start_paused = true)]
async fn a_ca_of_an_object_that_ends_is_told() {
    let scene = Scene::new();
    let (certificate, _) = ca(Timestamp::from_second(1_800_000_000 + 30).unwrap());
    let spec = json!({"trustDomain": "other", "caBundles": [{"type": "Pem", "pem": {"value": certificate}}]});
    scene.api.put("meshes", mesh("one", "ca-1"));
    let metadata = json!({"name": "t", "namespace": "system", "labels": {"kuma.io/mesh": "one"}});
    scene.api.put("meshtrusts", json!({"metadata": metadata, "spec": spec}));
    let mut live = scene.live(vec![]);
    becomes(&mut live, "one", 0).await;
    while !live.objects().is_complete() {
        live.changed().await;
        assert_eq!(live.load().problems, []);
    }
    let compiled = becomes(&mut live, "one", 1).await;
    assert!(compiled.problems[0].what.contains("expired"), "{:?}", compiled.problems);
}
