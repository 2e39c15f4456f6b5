//! Starting and stopping the cluster's programs.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::Mutex;
use std::time::Duration;

use serde_json::json;

use super::{CERT_MANAGER_NAMESPACE, Cluster, ClusterOptions, client_from};
use crate::support::PATIENCE;
use crate::support::eventually::eventually;
use crate::support::pki::{Leaf, TestCa, new_key};
use crate::support::process::Process;
use crate::support::{parts, ports};

const ADMIN_TOKEN: &str = "admin-token";

impl Cluster {
    pub(super) async fn start_control_plane(options: ClusterOptions, dir: PathBuf) -> Self {
        let (port, etcd_port) = (ports::free(), ports::free());
        let kubeconfig = dir.join("admin.kubeconfig");
        let ca = write_credentials(&dir);
        fs::write(&kubeconfig, kubeconfig_text(port, &ca, ADMIN_TOKEN)).expect("the kubeconfig can be written");
        let cluster = Self {
            options,
            port,
            etcd_port,
            kubeconfig,
            _etcd: start_etcd(&dir, etcd_port),
            dir,
            cert_manager: Mutex::new(None),
            api_server: Mutex::new(None),
        };
        cluster.start_api_server().await;
        cluster
    }

    /// Starts the API server again, at the same address with the same data, and waits until it is ready.
    pub async fn start_api_server(&self) {
        let mut command = Command::new(parts::program("kube-apiserver"));
        let file = |name: &str| self.dir.join(name).display().to_string();
        command
            .arg(format!("--etcd-servers=http://127.0.0.1:{}", self.etcd_port))
            .args(["--bind-address=127.0.0.1", "--advertise-address=127.0.0.1"])
            .arg(format!("--secure-port={}", self.port))
            .arg(format!("--tls-cert-file={}", file("api.crt")))
            .arg(format!("--tls-private-key-file={}", file("api.key")))
            .arg(format!("--cert-dir={}", file("api-certs")))
            .arg(format!("--service-account-key-file={}", file("accounts.pub")))
            .arg(format!("--service-account-signing-key-file={}", file("accounts.key")))
            .arg("--service-account-issuer=https://kubernetes.default.svc")
            .arg(format!("--token-auth-file={}", file("tokens.csv")))
            .args(["--authorization-mode=RBAC", "--service-cluster-ip-range=10.0.0.0/24"])
            // It wants a controller that makes accounts and mounts their tokens; tests make the accounts they need.
            .arg("--disable-admission-plugins=ServiceAccount");
        let mut process = Process::start_part("kube-apiserver", command, &self.dir);
        let client = self.client().await;
        eventually("the API server is ready", PATIENCE, async || {
            process.assert_running();
            let request = http::Request::get("/readyz").body(Vec::new()).expect("a valid request");
            client.request_text(request).await.map(drop).map_err(|error| format!("{error}\n{}", process.log_tail()))
        })
        .await;
        put(&self.api_server, process, "the API server");
    }

    /// Ends the API server as a crash would: its connections break, and new ones are refused.
    pub fn stop_api_server(&self) {
        take(&self.api_server, "the API server").kill();
    }

    /// Freezes the API server: connections stay open, and nobody answers.
    pub fn pause_api_server(&self) {
        with(&self.api_server, "the API server", Process::pause);
    }

    pub fn resume_api_server(&self) {
        with(&self.api_server, "the API server", Process::resume);
    }

    /// Starts cert-manager and waits until it watches requests.
    pub async fn start_cert_manager(&self) {
        let mut command = Command::new(parts::program("cert-manager"));
        command.arg(format!("--kubeconfig={}", self.kubeconfig.display()));
        command.arg(format!("--cluster-resource-namespace={CERT_MANAGER_NAMESPACE}"));
        if !self.options.approver {
            command.arg("--disable-approver");
        }
        let ready = |process: &Process| process.log().lines().filter(|line| line.ends_with(" ready")).count();
        let mut process = Process::start_part("cert-manager", command, &self.dir);
        let before = ready(&process); // the log may be that of an earlier one, continued
        eventually("cert-manager watches requests", PATIENCE, async || {
            process.assert_running();
            if ready(&process) > before { Ok(()) } else { Err(process.log_tail()) }
        })
        .await;
        put(&self.cert_manager, process, "cert-manager");
    }

    /// Ends cert-manager; requests stay unanswered until it is started again.
    pub async fn stop_cert_manager(&self) {
        take(&self.cert_manager, "cert-manager").stop(Duration::from_secs(20)).await;
    }

    pub(super) async fn install_cert_manager_crds(&self) {
        let mut definitions = Vec::new();
        self.apply(json!({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": CERT_MANAGER_NAMESPACE}}))
            .await;
        for entry in fs::read_dir(parts::crds()).expect("the folder can be read") {
            let path = entry.expect("the folder can be read").path();
            if path.extension().is_some_and(|extension| extension == "yaml") {
                definitions.extend(self.apply_yaml(&fs::read_to_string(path).expect("the file can be read")).await);
            }
        }
        for definition in definitions {
            let name = definition.metadata.name.expect("a definition has a name");
            self.condition("apiextensions.k8s.io/v1", "CustomResourceDefinition", None, &name, "Established").await;
        }
    }

    /// A kubeconfig for this cluster with that bearer token.
    pub(super) fn write_kubeconfig(&self, name: &str, token: &str) -> PathBuf {
        let ca = fs::read_to_string(self.dir.join("ca.crt")).expect("the cluster's CA is there");
        let path = self.dir.join(format!("{name}.kubeconfig"));
        fs::write(&path, kubeconfig_text(self.port, &ca, token)).expect("the kubeconfig can be written");
        path
    }

    /// A new client with nothing but that bearer token.
    pub async fn client_with_token(&self, token: &str) -> kube::Client {
        let file = tempfile::NamedTempFile::new().expect("a temporary file can be made");
        let ca = fs::read_to_string(self.dir.join("ca.crt")).expect("the cluster's CA is there");
        fs::write(file.path(), kubeconfig_text(self.port, &ca, token)).expect("the kubeconfig can be written");
        client_from(file.path()).await
    }
}

fn put(slot: &Mutex<Option<Process>>, process: Process, what: &str) {
    let before = slot.lock().expect("not poisoned").replace(process);
    assert!(before.is_none(), "{what} was running already");
}

fn take(slot: &Mutex<Option<Process>>, what: &str) -> Process {
    slot.lock().expect("not poisoned").take().unwrap_or_else(|| panic!("{what} is not running"))
}

fn with(slot: &Mutex<Option<Process>>, what: &str, action: impl FnOnce(&mut Process)) {
    action(slot.lock().expect("not poisoned").as_mut().unwrap_or_else(|| panic!("{what} is not running")));
}

fn start_etcd(dir: &Path, port: u16) -> Process {
    let (client, peer) = (format!("http://127.0.0.1:{port}"), format!("http://127.0.0.1:{}", ports::free()));
    let mut command = Command::new(parts::program("etcd"));
    command
        .arg(format!("--data-dir={}", dir.join("etcd").display()))
        .args(["--name=one", "--log-level=warn"])
        .arg(format!("--listen-client-urls={client}"))
        .arg(format!("--advertise-client-urls={client}"))
        .arg(format!("--listen-peer-urls={peer}"))
        .arg(format!("--initial-advertise-peer-urls={peer}"))
        .arg(format!("--initial-cluster=one={peer}"))
        // The data need not outlive the machine.
        .arg("--unsafe-no-fsync");
    Process::start_part("etcd", command, dir)
}

/// Writes what the API server needs to know who it and others are; gives the CA that its own certificate is from.
fn write_credentials(dir: &Path) -> String {
    let ca = TestCa::root("test cluster");
    let mut serving = Leaf::server("127.0.0.1");
    serving.dns_names.extend(["localhost".into(), "kubernetes.default.svc".into()]);
    serving.lifetime = Duration::from_secs(7 * 24 * 3600);
    let serving = ca.issue(&serving);
    let accounts = new_key();
    let files = [
        ("ca.crt", ca.cert_pem.clone()),
        ("api.crt", serving.chain_pem),
        ("api.key", serving.key_pem),
        ("accounts.key", accounts.serialize_pem()),
        ("accounts.pub", accounts.public_key_pem()),
        ("tokens.csv", format!("{ADMIN_TOKEN},admin,admin,\"system:masters\"\n")),
    ];
    for (name, text) in files {
        fs::write(dir.join(name), text).expect("the scratch folder can be written");
    }
    ca.cert_pem
}

fn kubeconfig_text(port: u16, ca: &str, token: &str) -> String {
    use base64::Engine;
    let ca = base64::engine::general_purpose::STANDARD.encode(ca);
    let server = format!("https://127.0.0.1:{port}");
    // JSON is YAML.
    let config = json!({
        "apiVersion": "v1",
        "kind": "Config",
        "current-context": "test",
        "clusters": [{"name": "test", "cluster": {"server": server, "certificate-authority-data": ca}}],
        "users": [{"name": "test", "user": {"token": token}}],
        "contexts": [{"name": "test", "context": {"cluster": "test", "user": "test"}}],
    });
    format!("{config:#}")
}
