//! Mesh Secrets of the cluster: Kubernetes Secrets of type `system.kuma.io/secret` in the system namespace, watched.

use std::collections::BTreeMap;
use std::sync::Arc;

use k8s_openapi::api::core::v1::Secret;
use kube::api::ObjectMeta;
use kube::core::DeserializeGuard;
use kube::runtime::watcher::{self, Event};
use kube::{Api, Client};
use tokio::sync::watch;

use crate::model::secrets::{MeshSecret, MeshSecrets, SecretBytes};
use crate::runtime::cluster::Watch;
use crate::runtime::tasks::Tasks;
use crate::runtime::watch_board::WatchBoard;

/// The type of Kubernetes Secret that is a mesh Secret.
pub const SECRET_TYPE: &str = "system.kuma.io/secret";

/// Label: the mesh that it belongs to.
const MESH: &str = "kuma.io/mesh";

/// The mesh where there is no such label.
const DEFAULT_MESH: &str = "default";

/// The only key in `data` that counts.
const KEY: &str = "value";

/// Watches the mesh Secrets in `namespace`. The receiver shows `None` until they are known for the first time, then
/// always the last that was known, also while the API server is away; it changes only when a content does. One that cannot be
/// read keeps its last content, and is there also if it has none. `board` is told whether the API server lists them.
pub fn watch_mesh_secrets(
    client: Client,
    namespace: &str,
    board: &WatchBoard,
    tasks: &Tasks,
) -> watch::Receiver<Option<Arc<MeshSecrets>>> {
    let (publish, published) = watch::channel(None);
    let selected = watcher::Config::default().fields(&format!("type={SECRET_TYPE}"));
    let mut events = Watch::new("mesh Secrets", Api::namespaced(client, namespace), selected).reporting(board);
    tasks.spawn_essential("mesh Secret watch", async move {
        let mut store = Store::default();
        loop {
            store.on_event(events.next().await);
            if let Some(secrets) = store.complete() {
                publish.send_if_modified(|current| {
                    let changed = current.as_deref() != Some(&secrets);
                    if changed {
                        *current = Some(Arc::new(secrets));
                    }
                    changed
                });
            }
        }
    });
    published
}

/// By name, as one name is one object, whatever its label says; with the mesh.
type Known = BTreeMap<Arc<str>, (Arc<str>, MeshSecret)>;

/// What the events so far add up to. Pure, but for the log.
#[derive(Debug, Default)]
struct Store {
    known: Option<Known>,
    /// What a list has shown so far; it replaces `known` once it is complete.
    listing: Option<Known>,
}

impl Store {
    fn on_event(&mut self, event: Event<DeserializeGuard<Secret>>) {
        match event {
            Event::Init => self.listing = Some(Known::new()),
            Event::InitDone => self.known = self.listing.take().or(self.known.take()),
            Event::InitApply(object) | Event::Apply(object) => self.apply(object),
            Event::Delete(object) => {
                let name = kube::Resource::meta(&object).name.clone().unwrap_or_default();
                self.known.iter_mut().for_each(|known| drop(known.remove(name.as_str())));
            }
        }
    }

    fn apply(&mut self, DeserializeGuard(object): DeserializeGuard<Secret>) {
        let (metadata, content) = match object {
            Ok(secret) => {
                let content = secret.data.and_then(|mut data| data.remove(KEY));
                (secret.metadata, content.ok_or_else(|| format!("its data has no key `{KEY}`")))
            }
            // What serde says of it may quote its content.
            Err(invalid) => (invalid.metadata, Err("it has not the shape of a Secret".to_owned())),
        };
        let Some(name) = metadata.name.as_deref().map(Arc::<str>::from) else { return };
        let entry = match content {
            Ok(content) => (mesh_of(&metadata), MeshSecret::Good(SecretBytes::new(content.0))),
            Err(why) => {
                // A bad resource never replaces a good one.
                let last = self.known.as_ref().and_then(|known| known.get(&name));
                let last = last.and_then(|(mesh, secret)| Some((mesh.clone(), secret.content()?.clone())));
                tracing::warn!(secret = %name, why, kept = last.is_some(), "a mesh Secret cannot be used");
                let (mesh, last) = last.map_or_else(|| (mesh_of(&metadata), None), |(mesh, last)| (mesh, Some(last)));
                (mesh, MeshSecret::Unreadable { why: why.into(), last })
            }
        };
        if let Some(known) = self.listing.as_mut().or(self.known.as_mut()) {
            known.insert(name, entry);
        }
    }

    /// The Secrets, unless none has been listed yet or a list is under way.
    fn complete(&self) -> Option<MeshSecrets> {
        let known = self.known.as_ref().filter(|_| self.listing.is_none())?;
        let by_mesh = known.iter().map(|(name, (mesh, secret))| ((mesh.clone(), name.clone()), secret.clone()));
        Some(by_mesh.collect())
    }
}

fn mesh_of(metadata: &ObjectMeta) -> Arc<str> {
    let label = metadata.labels.as_ref().and_then(|labels| labels.get(MESH));
    label.map_or(DEFAULT_MESH, String::as_str).into()
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use base64::Engine as _;
    use base64::engine::general_purpose::STANDARD;
    use serde_json::{Value, json};
    use tokio::time::{sleep, timeout};

    use super::*;
    use crate::runtime::clock::Clock;
    use crate::testing::fake_cluster::FakeApi;

    fn secret(name: &str, mesh: Option<&str>, value: &str) -> Value {
        let labels = mesh.map(|mesh| json!({"kuma.io/mesh": mesh}));
        json!({"metadata": {"name": name, "labels": labels}, "type": SECRET_TYPE,
            "data": {"value": STANDARD.encode(value)}})
    }

    type Receiver = watch::Receiver<Option<Arc<MeshSecrets>>>;

    /// Waits until these are shown, each with what it holds or why that is not known.
    async fn shows(secrets: &mut Receiver, expected: &[(&str, &str, Result<&str, &str>)]) {
        fn shown(secret: &MeshSecret) -> Result<&str, &str> {
            let content = secret.content().map(|bytes| std::str::from_utf8(bytes.expose()).unwrap());
            content.ok_or_else(|| &**secret.problem().unwrap())
        }
        let holds = |current: &Option<Arc<MeshSecrets>>| {
            let Some(current) = current else { return false };
            let all: Vec<_> = current.iter().map(|(mesh, name, secret)| (mesh, name, shown(secret))).collect();
            all == expected
        };
        timeout(Duration::from_secs(120), secrets.wait_for(holds)).await.expect("is shown in time").unwrap();
    }

    #[tokio::test(start_paused = true)]
    async fn secrets_are_followed() {
        let (api, (tasks, _deaths)) = (FakeApi::default(), Tasks::new());
        api.put("secrets", secret("ca", None, "one"));
        api.put("secrets", secret("other-ca", Some("prod"), "two"));
        api.put(
            "secrets",
            json!({"metadata": {"name": "tls"}, "type": "kubernetes.io/tls", "data": {"value": "eA=="}}),
        );
        api.put("secrets", json!({"metadata": {"name": "broken"}, "type": SECRET_TYPE, "data": {"key": "eA=="}}));
        api.put("secrets", json!({"metadata": {"name": "garbage"}, "type": SECRET_TYPE, "data": "x"}));
        let mut secrets =
            watch_mesh_secrets(api.client(), "kong-mesh-system", &WatchBoard::new(Clock::system()), &tasks);
        assert!(secrets.borrow().is_none());
        let broken = ("default", "broken", Err("its data has no key `value`"));
        let garbage = ("default", "garbage", Err("it has not the shape of a Secret"));
        let other = ("prod", "other-ca", Ok("two"));
        shows(&mut secrets, &[broken, ("default", "ca", Ok("one")), garbage, other]).await;
        let content = |name: &str| secrets.borrow().as_ref().unwrap().find("prod", name).unwrap().clone();
        assert_eq!(content("other-ca"), MeshSecret::Good(SecretBytes::new(b"two".to_vec())));

        api.put("secrets", secret("ca", Some("prod"), "three"));
        shows(&mut secrets, &[broken, garbage, ("prod", "ca", Ok("three")), other]).await;
        // Broken by an edit: the last good content stays, also through a new list.
        api.merge("secrets", "other-ca", &json!({"data": {"value": 7}}));
        api.watch_error(410);
        api.remove("secrets", "ca");
        shows(&mut secrets, &[broken, garbage, other]).await;
        let content = secrets.borrow().as_ref().unwrap().find("prod", "other-ca").unwrap().clone();
        assert_eq!(content.problem().map(AsRef::as_ref), Some("it has not the shape of a Secret"));
        api.put("secrets", secret("broken", None, "four"));
        shows(&mut secrets, &[("default", "broken", Ok("four")), garbage, other]).await;
    }

    #[tokio::test(start_paused = true)]
    async fn the_last_known_stay_during_an_outage_and_no_change_is_no_news() {
        let (api, (tasks, _deaths)) = (FakeApi::default(), Tasks::new());
        api.put("secrets", secret("ca", None, "one"));
        let mut secrets =
            watch_mesh_secrets(api.client(), "kong-mesh-system", &WatchBoard::new(Clock::system()), &tasks);
        shows(&mut secrets, &[("default", "ca", Ok("one"))]).await;
        api.set_down(true);
        sleep(Duration::from_secs(600)).await;
        api.set_down(false);
        sleep(Duration::from_secs(600)).await;
        assert!(!secrets.has_changed().unwrap());
        api.remove("secrets", "ca");
        shows(&mut secrets, &[]).await;
    }

    #[test]
    fn content_is_not_shown() {
        let bytes = SecretBytes::new(b"sesame".to_vec());
        assert!(!format!("{bytes:?}").contains("sesame"));
    }
}
