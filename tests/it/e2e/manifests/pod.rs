//! A pod without a node: what kubelet would do with it.

use std::fs;
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use serde_json::{Value, json};

use super::applied::{Applied, read};
use crate::support::scratch;

/// Runs a program in a mount namespace of its own, in which a service account's folder is where it is in each pod. Nothing of
/// it is left on the machine.
const WITH_ACCOUNT: &str = "\
    mount -t tmpfs tmpfs \"$(readlink -f /var/run)\"
    mkdir -p /var/run/secrets/kubernetes.io
    cp -a \"$0\" /var/run/secrets/kubernetes.io/serviceaccount
    exec \"$@\"";

/// A pod of a workload, made for real: whether its namespace's security level lets it in is the API server's to say.
pub(super) struct Pod {
    pub(super) name: String,
    pub(super) container: Value,
    pub(super) account: String,
    pub(super) dir: PathBuf,
    namespace: String,
    mounts: Vec<Mount>,
}

/// A path of the container.
struct Mount {
    path: String,
    /// Where it is here.
    here: PathBuf,
    volume: Value,
}

impl Pod {
    pub(super) async fn of(workload: &Value, ordinal: usize, applied: &Applied) -> Self {
        let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
        let (namespace, name) = (text(&workload["metadata"]["namespace"]), text(&workload["metadata"]["name"]));
        let pod_name = format!("{name}-{ordinal}");
        let template = &workload["spec"]["template"];
        let mut spec = template["spec"].clone();
        let claims = workload["spec"]["volumeClaimTemplates"].as_array().cloned().unwrap_or_default();
        for claim in &claims {
            let name = &claim["metadata"]["name"];
            let volume = json!({"name": name, "persistentVolumeClaim": {"claimName": name}});
            spec["volumes"].as_array_mut().expect("it has volumes").push(volume);
        }
        let metadata = json!({"name": pod_name, "namespace": namespace, "labels": template["metadata"]["labels"]});
        let pod = json!({"apiVersion": "v1", "kind": "Pod", "metadata": metadata, "spec": spec});
        applied.cluster.apply_strictly(pod).await;

        let [container] = spec["containers"].as_array().expect("it has containers").as_slice() else {
            panic!("{name} has several containers");
        };
        let dir = scratch::dir(&pod_name);
        let mount = |mount: &Value| {
            let volume = spec["volumes"].as_array().and_then(|all| all.iter().find(|one| one["name"] == mount["name"]));
            let volume = volume.unwrap_or_else(|| panic!("nothing is called {}", mount["name"])).clone();
            let here = dir.join(text(&mount["name"]));
            fs::create_dir(&here).expect("the scratch folder can be written");
            Mount { path: text(&mount["mountPath"]), here, volume }
        };
        let mounts = container["volumeMounts"].as_array().expect("it mounts something").iter().map(mount).collect();
        let (container, account) = (container.clone(), text(&spec["serviceAccountName"]));
        let pod = Self { name: pod_name, container, account, dir, namespace, mounts };
        for mount in &pod.mounts {
            pod.fill(mount, applied).await;
        }
        pod
    }

    /// What kubelet does a while after a ConfigMap has changed.
    pub(super) async fn refresh(&self, applied: &Applied) {
        for mount in self.mounts.iter().filter(|mount| mount.volume["configMap"].is_object()) {
            self.fill(mount, applied).await;
        }
    }

    async fn fill(&self, Mount { here, volume, .. }: &Mount, applied: &Applied) {
        let text = |value: &Value| value.as_str().expect("it is text").to_owned();
        let mut files = Vec::new();
        if let Some(name) = volume["configMap"]["name"].as_str() {
            let data = applied.config_map(&self.namespace, name).await;
            for (name, content) in data.as_object().expect("it has data") {
                files.push((name.clone(), self.here(&text(content)).into_bytes()));
            }
        } else if let Some(name) = volume["secret"]["secretName"].as_str() {
            for item in volume["secret"]["items"].as_array().expect("it says which") {
                files.push((text(&item["path"]), applied.secret(&self.namespace, name, &text(&item["key"])).await));
            }
        } else if let Some(sources) = volume["projected"]["sources"].as_array() {
            let token = &sources[0]["serviceAccountToken"];
            let ttl = Duration::from_secs(token["expirationSeconds"].as_u64().expect("it ends"));
            files.push((text(&token["path"]), self.token(&[&text(&token["audience"])], ttl, applied).await));
        } else {
            let is_folder = volume["persistentVolumeClaim"].is_object() || volume["hostPath"].is_object();
            assert!(is_folder, "nobody knows how to mount {volume}");
            return;
        }
        publish(here, &files);
    }

    async fn token(&self, audiences: &[&str], ttl: Duration, applied: &Applied) -> Vec<u8> {
        let (cluster, pod) = (&applied.cluster, Some(self.name.as_str()));
        cluster.service_account_token(&self.namespace, &self.account, pod, audiences, ttl).await.into_bytes()
    }

    /// The program in its container: without anything of this machine's environment, and with what each pod has of the
    /// cluster.
    pub(super) async fn command(&self, program: &str, kubeconfig: &Path, applied: &Applied) -> Command {
        let config: Value = serde_json::from_str(&read(kubeconfig)).expect("it is JSON");
        let server = config["clusters"][0]["cluster"]["server"].as_str().expect("it says where");
        let server = server.strip_prefix("https://").and_then(|server| server.split_once(':'));
        let (host, port) = server.expect("a host and a port");
        let ca = read(&applied.cluster.dir().join("ca.crt"));
        let account = self.dir.join("service-account");
        fs::create_dir(&account).expect("the scratch folder can be written");
        let token = self.token(&[], Duration::from_secs(3607), applied).await;
        let files = [("token", token), ("ca.crt", ca.into_bytes()), ("namespace", self.namespace.clone().into_bytes())];
        publish(&account, &files.map(|(name, content)| (name.to_owned(), content)));

        let mut command = Command::new("unshare");
        if !rustix::process::geteuid().is_root() {
            command.arg("--map-root-user");
        }
        command.args(["--mount", "sh", "-ec", WITH_ACCOUNT]).arg(account).arg(program).args(self.args());
        command.env_clear().envs([
            ("PATH", "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"),
            ("KUBERNETES_SERVICE_HOST", host),
            ("KUBERNETES_SERVICE_PORT", port),
        ]);
        command
    }

    /// A text with the container's paths, with the paths here.
    pub(super) fn here(&self, text: &str) -> String {
        let ends = |rest: &str| !rest.starts_with(|c: char| c.is_alphanumeric() || c == '-' || c == '_');
        self.mounts.iter().fold(text.to_owned(), |text, Mount { path, here, .. }| {
            let mut parts = text.split(path.as_str());
            let mut mapped = parts.next().unwrap_or_default().to_owned();
            for part in parts {
                let here = here.display().to_string();
                mapped.push_str(if ends(part) { &here } else { path });
                mapped.push_str(part);
            }
            mapped
        })
    }

    pub(super) fn file(&self, path: &str) -> String {
        read(Path::new(&self.here(path)))
    }

    pub(super) fn args(&self) -> Vec<String> {
        let args = self.container["args"].as_array().expect("it has arguments").iter();
        args.map(|arg| self.here(arg.as_str().expect("it is text")).replace("$(POD_NAME)", &self.name)).collect()
    }

    /// What a probe says that looks from inside the pod, at a place that is another one here.
    pub(super) fn probe(&self, name: &str, (place, here): (&str, &str)) -> bool {
        let command = &self.container[name]["exec"]["command"];
        let words: Vec<_> = command.as_array().expect("it has one").iter().filter_map(Value::as_str).collect();
        assert!(words.iter().any(|word| word.contains(place)), "{place} is not in {words:?}");
        let words = words.iter().map(|word| word.replace(place, here));
        let output = Command::new("env").args(words).output().expect("the probe can be run");
        output.status.success()
    }

    pub(super) fn port(&self, name: &str) -> u64 {
        let ports = self.container["ports"].as_array().expect("it has ports");
        let port = ports.iter().find(|port| port["name"] == name).unwrap_or_else(|| panic!("no port is called {name}"));
        port["containerPort"].as_u64().expect("a number")
    }
}

/// Lays files out as kubelet does: each is a link into a folder, by way of one link that is swapped to replace all at once.
fn publish(here: &Path, files: &[(String, Vec<u8>)]) {
    static NEXT: AtomicU32 = AtomicU32::new(0);
    let (all, new) = (here.join("..data"), here.join("..data_tmp"));
    let folder = format!("..{}", NEXT.fetch_add(1, Ordering::Relaxed));
    fs::create_dir(here.join(&folder)).expect("the scratch folder can be written");
    for (name, content) in files {
        fs::write(here.join(&folder).join(name), content).expect("it can be written");
    }
    let before = fs::read_link(&all).ok();
    symlink(&folder, &new).and_then(|()| fs::rename(&new, &all)).expect("the link can be swapped");
    match before {
        Some(before) => fs::remove_dir_all(here.join(before)).expect("it can be removed"),
        None => files.iter().for_each(|(name, _)| {
            symlink(Path::new("..data").join(name), here.join(name)).expect("links can be made");
        }),
    }
}
