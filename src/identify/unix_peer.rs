//! `unixPeer`: the user and group of a process that connects to a unix socket, as the kernel tells them; and on a node of
//! Kubernetes the pod behind that process.
//!
//! A process is known by its number, which is another's after its end. So its beginning is noted as soon as the connection is
//! accepted, and compared after its control groups were read: then what was read is that process's, whatever became of the
//! connection's file descriptor meanwhile. What is left is the time between connecting and being accepted, which is a moment
//! unless the server has no descriptor left: a process that ends within it, and whose number goes to another one within it too,
//! is taken for that other.
//!
//! Users of pods are not users of the node, though they have the same numbers: a process that may be in a pod is nobody but
//! that pod, and is found by the rules for pods; and one that is in none by the others.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use async_trait::async_trait;

use super::pods::{FindPods, FoundPod};
use super::{Evidence, Identify, IdentifyError, Proof, UnixPeer, pod_cgroup, process};
use crate::model::identity::{Labels, Workload};

/// The name of the method, as configured.
pub const METHOD: &str = "unixPeer";

/// Who is behind some peers.
#[derive(Debug, Clone)]
pub struct Rule {
    /// The peer's user; any, if absent.
    pub uid: Option<u32>,
    /// The peer's group; any, if absent.
    pub gid: Option<u32>,
    /// Who it is.
    pub is: Behind,
}

/// Who is behind a peer.
#[derive(Debug, Clone)]
pub enum Behind {
    /// This proxy, whichever of the peer's processes connects, if it is in no pod.
    Proxy {
        /// Its mesh.
        mesh: String,
        /// Its name.
        name: String,
        /// Its workload.
        workload: Arc<str>,
        /// Its labels.
        labels: Labels,
    },
    /// The pod that the process runs in.
    Pod,
}

/// See the module.
#[derive(Debug)]
pub struct UnixPeers {
    /// The most specific first.
    rules: Vec<Rule>,
    pods: Option<Arc<dyn FindPods>>,
    /// There are pods, or may be: who cannot be seen may be one.
    among_pods: bool,
    proc: PathBuf,
}

impl UnixPeers {
    /// Goes by `rules`: by those for pods if the peer is in one, else by the others; of these, the one that names most of a
    /// peer counts: user and group, user, group, none. `pods` finds pods; without it, no peer is one.
    pub fn new(mut rules: Vec<Rule>, pods: Option<Arc<dyn FindPods>>) -> Self {
        rules.sort_by_key(|rule| (rule.uid.is_none(), rule.gid.is_none()));
        let among_pods = rules.iter().any(|rule| matches!(rule.is, Behind::Pod));
        Self { rules, pods, among_pods, proc: PathBuf::from(process::PROC) }
    }

    /// There may be pods although no rule is for them: the server uses a cluster, or runs in one.
    #[must_use]
    pub fn among_pods(self, among_pods: bool) -> Self {
        Self { among_pods: self.among_pods || among_pods, ..self }
    }

    /// Reads of processes there.
    #[cfg(test)]
    fn reading(self, proc: &Path) -> Self {
        Self { proc: proc.to_owned(), ..self }
    }

    fn rules(&self, peer: UnixPeer) -> impl Iterator<Item = &Behind> {
        let fits = |wanted: Option<u32>, id: u32| wanted.is_none_or(|wanted| wanted == id);
        let rules = self.rules.iter().filter(move |rule| fits(rule.uid, peer.uid) && fits(rule.gid, peer.gid));
        rules.map(|rule| &rule.is)
    }

    /// Whether a peer that both kinds of rules name is in no pod.
    fn is_of_the_node(&self, peer: UnixPeer) -> Result<bool, IdentifyError> {
        Ok(pod_cgroup::no_pod(&cgroups(&self.proc, peer).map_err(refused)?).is_ok())
    }

    /// Whether the peer's process is in no pod. Where there are none, one that the kernel says is none that this server can see,
    /// as in a container, is taken for such.
    fn is_in_no_pod(&self, peer: UnixPeer) -> Result<(), String> {
        if peer.pid.is_none_or(|pid| pid == 0) && !self.among_pods {
            return Ok(());
        }
        let cgroups = cgroups(&self.proc, peer)?;
        pod_cgroup::no_pod(&cgroups)
            .map_err(|reason| format!("rules for users are for processes in no pod, and {reason}"))
    }

    async fn pod(&self, peer: UnixPeer) -> Result<Proof, IdentifyError> {
        let uid = pod_uid(&self.proc, peer).map_err(refused)?;
        // Its mirror on the API server has the hash in an annotation (`kubernetes.io/config.hash`), but so has any pod whose
        // creator writes it there, with the node as owner and all: only nodes are kept from that. And no mirror has a service
        // account that it could be.
        if pod_cgroup::is_of_static_pod(&uid) {
            return Err(refused(
                "it is a static pod, which has no service account, and which the API server knows by a mirror that anybody \
                 could have made; give it a proxy token"
                    .to_owned(),
            ));
        }
        let pods =
            self.pods.as_deref().ok_or_else(|| refused("there is no Kubernetes to ask for the pod".to_owned()))?;
        let found = pods.by_uid(&uid).await.map_err(|reason| IdentifyError::Unavailable { method: METHOD, reason })?;
        let Some(FoundPod { workload, standing }) = found else {
            // Here, as reasons are redacted before they are logged, and uids look like secrets; this one is the kernel's.
            tracing::info!(uid, "the API server does not know the pod of a unix peer");
            return Err(refused("the API server does not know the pod that its control groups name".to_owned()));
        };
        let (Some(namespace), Some(pod)) = (&workload.namespace, &workload.pod) else {
            return Err(refused(format!(
                "the API server tells neither namespace nor name of the pod with the uid {uid}"
            )));
        };
        let instance = Some(format!("{namespace}/{}/{}", pod.name, pod.uid));
        Ok(Proof { method: METHOD, instance, workload, standing, ..Proof::default() })
    }
}

#[async_trait]
impl Identify for UnixPeers {
    fn method(&self) -> &'static str {
        METHOD
    }

    async fn identify(&self, evidence: &Evidence) -> Result<Option<Proof>, IdentifyError> {
        let Some(peer) = evidence.unix_peer else { return Ok(None) };
        let pod = self.rules(peer).find(|is| matches!(is, Behind::Pod));
        let proxy = self.rules(peer).find(|is| matches!(is, Behind::Proxy { .. }));
        let rule = match (pod, proxy) {
            // Whichever of them names more: a pod runs as any user it likes, also as one of the node who has a rule.
            (Some(_), Some(_)) if !self.is_of_the_node(peer)? => pod,
            (Some(_), None) => pod,
            (_, proxy) => proxy,
        };
        match rule {
            None => Ok(None),
            Some(Behind::Pod) => self.pod(peer).await.map(Some),
            Some(Behind::Proxy { mesh, name, workload, labels }) => {
                self.is_in_no_pod(peer).map_err(refused)?;
                Ok(Some(Proof {
                    method: METHOD,
                    mesh: Some(mesh.clone()),
                    instance: Some(name.clone()),
                    workload: Workload { name: Some(workload.clone()), ..Workload::default() },
                    labels: labels.clone(),
                    ..Proof::default()
                }))
            }
        }
    }
}

/// The uid of the pod that the peer's process runs in.
fn pod_uid(proc: &Path, peer: UnixPeer) -> Result<String, String> {
    let cgroups = cgroups(proc, peer)?;
    pod_cgroup::pod_uid(&cgroups).map_err(|reason| format!("the process that connected runs in no pod: {reason}"))
}

/// The control groups of the peer's process. Reading from `/proc` takes no waiting.
fn cgroups(proc: &Path, peer: UnixPeer) -> Result<String, String> {
    let (Some(pid), Some(began)) = (peer.pid.filter(|pid| *pid > 0), peer.started) else {
        return Err(
            "the process that connected is gone, or cannot be seen from here; run the server in the node's PID \
                    namespace (hostPID: true)"
                .to_owned(),
        );
    };
    let gone = |_| format!("the process {pid} that connected is gone");
    let cgroups = std::fs::read_to_string(proc.join(pid.to_string()).join("cgroup")).map_err(gone)?;
    if process::started(proc, pid) != Some(began) {
        return Err(format!("the process {pid} that connected is gone, and the number may be another's"));
    }
    Ok(cgroups)
}

fn refused(reason: String) -> IdentifyError {
    IdentifyError::Refused { method: METHOD, reason }
}

#[cfg(test)]
#[path = "unix_peer_tests.rs"]
mod tests;
