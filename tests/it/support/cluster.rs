//! A Kubernetes cluster without nodes: etcd, the API server with RBAC, and cert-manager, each the real program.

mod accounts;
mod control_plane;
mod issuers;
mod objects;
mod requests;

use std::path::{Path, PathBuf};
use std::sync::{Mutex, OnceLock};

use kube::Client;
use kube::config::{KubeConfigOptions, Kubeconfig};

use super::process::Process;
use super::{crypto, scratch};

pub use requests::{IssuerRef, Signed};

/// Where cert-manager looks for the Secrets of ClusterIssuers.
pub const CERT_MANAGER_NAMESPACE: &str = "cert-manager";

#[derive(Debug, Clone, Copy)]
pub struct ClusterOptions {
    /// Whether cert-manager approves every request; without, the test approves or denies.
    pub approver: bool,
    /// Whether cert-manager runs from the start.
    pub cert_manager: bool,
}

impl Default for ClusterOptions {
    fn default() -> Self {
        Self { approver: true, cert_manager: true }
    }
}

/// Ends with the test process, or when dropped. Every method that looks into the cluster does so as an administrator.
#[derive(Debug)]
pub struct Cluster {
    options: ClusterOptions,
    dir: PathBuf,
    port: u16,
    etcd_port: u16,
    kubeconfig: PathBuf,
    // Dropped in this order: nobody is left to complain of a peer that went first.
    cert_manager: Mutex<Option<Process>>,
    api_server: Mutex<Option<Process>>,
    _etcd: Process,
}

impl Cluster {
    /// The cluster that tests have in common, started by the first that asks. Use a [`namespace`](Self::namespace) of
    /// your own in it, unique names for what has no namespace, and stop nothing.
    pub fn shared() -> &'static Self {
        static SHARED: OnceLock<Cluster> = OnceLock::new();
        SHARED.get_or_init(|| {
            // The caller is inside a runtime, which cannot be blocked on from within: so on a thread with another one.
            let start = || {
                let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
                runtime.expect("a runtime can be made").block_on(Self::start(ClusterOptions::default()))
            };
            std::thread::spawn(start).join().expect("the shared cluster starts")
        })
    }

    /// A cluster for one test alone, which may stop what it likes. Ready when this returns.
    pub async fn start(options: ClusterOptions) -> Self {
        crypto();
        let cluster = Self::start_control_plane(options, scratch::dir("cluster")).await;
        cluster.install_cert_manager_crds().await;
        if options.cert_manager {
            cluster.start_cert_manager().await;
        }
        cluster
    }

    /// The folder with the logs of the cluster's programs.
    pub fn dir(&self) -> &Path {
        &self.dir
    }

    /// The path of the administrator's kubeconfig.
    pub fn kubeconfig(&self) -> &Path {
        &self.kubeconfig
    }

    /// A new administrator's client. Never shared between tests: a client belongs to the runtime that made it.
    pub async fn client(&self) -> Client {
        client_from(&self.kubeconfig).await
    }
}

/// A client that does as this kubeconfig says.
pub async fn client_from(kubeconfig: &Path) -> Client {
    crypto();
    let kubeconfig = Kubeconfig::read_from(kubeconfig).expect("the kubeconfig can be read");
    let config = kube::Config::from_custom_kubeconfig(kubeconfig, &KubeConfigOptions::default()).await;
    Client::try_from(config.expect("the kubeconfig is sound")).expect("a client can be made")
}
