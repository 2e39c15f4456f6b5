//! Which pod a process belongs to: its control groups, as `/proc/<pid>/cgroup` has them (cgroups(7)). Pure.
//!
//! kubelet makes a control group for each pod, below one for all pods, and the container runtime one for each container below
//! that. What is above a pod's group is root's; what is below may be a container's own to name, and so may groups that are
//! delegated to users of the node. So the outermost pod counts, and only where kubelet may have put it.

/// The uid of the pod that a process with these control groups runs in.
///
/// # Errors
/// Why there is none.
pub fn pod_uid(cgroups: &str) -> Result<String, String> {
    let mut found: Option<String> = None;
    for line in cgroups.lines() {
        // hierarchy:controllers:path; with version 2 alone, there is one line, which begins with 0::
        let Some(path) = line.splitn(3, ':').nth(2) else { continue };
        let Some(uid) = pod_of(path) else { continue };
        match &found {
            Some(other) if *other != uid => return Err(format!("its control groups name two pods, {other} and {uid}")),
            _ => found = Some(uid),
        }
    }
    found.ok_or_else(|| "its control groups are no pod's".to_owned())
}

/// Whether a process with these control groups is in no pod: no part of their paths looks like one of Kubernetes, wherever it
/// is. A user who names a group like that only hurts himself.
///
/// # Errors
/// Why it may be in one.
pub fn no_pod(cgroups: &str) -> Result<(), String> {
    let paths: Vec<&str> = cgroups.lines().filter_map(|line| line.splitn(3, ':').nth(2)).collect();
    if paths.is_empty() {
        return Err("its control groups cannot be read".to_owned());
    }
    let doubtful = paths.into_iter().find(|path| path.split('/').any(is_of_kubernetes) || is_hidden_container(path));
    doubtful.map_or(Ok(()), |path| Err(format!("its control group {path} may be a pod's")))
}

fn is_of_kubernetes(part: &str) -> bool {
    let is_pod = part.strip_prefix("pod").is_some_and(|uid| uid_of(uid).is_some());
    is_pod || part.contains("kubepods") || part.starts_with("cri-containerd-") || part.starts_with("crio-")
}

/// A container beside the server's own: if the server has a namespace of control groups, this is all that it sees of its own
/// pod's.
fn is_hidden_container(path: &str) -> bool {
    let mut parts = path.split('/').filter(|part| !part.is_empty()).peekable();
    parts.peek() == Some(&"..") && parts.find(|part| *part != "..").is_some_and(is_container)
}

fn pod_of(path: &str) -> Option<String> {
    let mut above = Above::Root;
    for part in path.split('/').filter(|part| !part.is_empty()) {
        if let Some(uid) = of_systemd(part) {
            return Some(uid);
        }
        above = match above {
            Above::Pods | Above::Hidden if part.starts_with("pod") => return uid_of(part.strip_prefix("pod")?),
            Above::Pods | Above::Hidden if is_qos(part) => Above::Pods,
            Above::Root | Above::Hidden if part == ".." => Above::Hidden,
            Above::Pods => return None,
            _ if is_kubepods(part) => Above::Pods,
            Above::Docker if is_container(part) => Above::Other,
            _ if part == "docker" => Above::Docker,
            _ if is_roots(part) => Above::Other,
            _ => return None,
        };
    }
    None
}

/// What is above a part of a path.
#[derive(Clone, Copy)]
enum Above {
    /// Nothing.
    Root,
    /// What the server, having a namespace of control groups, cannot see because it is above itself too: `..`
    Hidden,
    /// The group of Docker's containers.
    Docker,
    /// Another group that is root's alone.
    Other,
    /// The group of all pods.
    Pods,
}

/// systemd's name of a pod: all that is above it and then itself, joined by dashes, so that its own are underscores:
/// `kubepods-burstable-pod<uid>.slice`. containerd without systemd, below a kubelet with it, has
/// `kubepods-burstable-pod<uid>.slice:cri-containerd:<container>`.
fn of_systemd(part: &str) -> Option<String> {
    let (slice, _) = part.split_once(".slice").filter(|(_, rest)| rest.is_empty() || rest.starts_with(':'))?;
    let (above, uid) = slice.split_once("-pod")?;
    let above = above.strip_prefix("kubelet-").unwrap_or(above);
    matches!(above, "kubepods" | "kubepods-burstable" | "kubepods-besteffort").then(|| uid_of(uid))?
}

/// The group of all pods; below one of kubelet's where the node is itself a container (kind).
fn is_kubepods(part: &str) -> bool {
    matches!(part, "kubepods" | "kubepods.slice" | "kubelet-kubepods.slice")
}

/// Quality of service; a guaranteed pod has no group for that.
fn is_qos(part: &str) -> bool {
    let name = part.strip_suffix(".slice").unwrap_or(part);
    let name = name.strip_prefix("kubelet-").unwrap_or(name);
    matches!(name, "burstable" | "besteffort" | "kubepods-burstable" | "kubepods-besteffort")
}

/// Groups that only root can make and that are nobody else's to divide.
fn is_roots(part: &str) -> bool {
    let scope = part.strip_prefix("docker-").and_then(|part| part.strip_suffix(".scope"));
    matches!(part, "kubelet" | "kubelet.slice" | "system.slice" | "containerd.service")
        || scope.is_some_and(is_container)
}

/// The id of a container.
fn is_container(id: &str) -> bool {
    id.len() == 64 && id.bytes().all(|c| c.is_ascii_hexdigit())
}

/// Whether a uid is a static pod's: kubelet made it from the pod's file, and the API server does not know it.
pub fn is_of_static_pod(uid: &str) -> bool {
    !uid.contains('-')
}

/// A uid, with dashes; that of a static pod is a hash without any.
fn uid_of(text: &str) -> Option<String> {
    let uid = text.replace('_', "-");
    let groups: Vec<usize> = uid.split('-').map(str::len).collect();
    let hex = uid.bytes().all(|c| matches!(c, b'0'..=b'9' | b'a'..=b'f' | b'-'));
    (hex && (groups == [8, 4, 4, 4, 12] || groups == [32])).then_some(uid)
}

#[cfg(test)]
mod tests {
    use super::*;

    const UID: &str = "2c48913c-b29f-11e7-9350-020968147796";
    const C: &str = "9bca8d63d5fa610783847915bcff0ecac1273e5b4bed3f6fa1b07350e0135961";

    /// As nodes have them; `U` stands for the uid, `S` for it with underscores, `C` for a container's id.
    const NODES: [(&str, &str); 17] = [
        (
            "cgroupfs, version 1, burstable, docker",
            "11:pids:/kubepods/burstable/podU/C\n1:name=systemd:/kubepods/burstable/podU/C\n",
        ),
        ("cgroupfs, version 1, best effort", "4:memory:/kubepods/besteffort/podU/C"),
        ("cgroupfs, version 1, guaranteed", "4:memory:/kubepods/podU/C"),
        ("some controllers are not used", "12:rdma:/\n11:pids:/kubepods/burstable/podU/C\n0::/\n"),
        ("controllers with a name and a colon", "1:name=systemd:/kubepods/podU/C"),
        ("cgroupfs, cri-o", "0::/kubepods/burstable/podU/crio-C"),
        ("cgroupfs, version 2", "0::/kubepods/besteffort/podU/C"),
        (
            "systemd, version 2, containerd",
            "0::/kubepods.slice/kubepods-burstable.slice/kubepods-burstable-podS.slice/cri-containerd-C.scope",
        ),
        (
            "systemd, version 2, best effort, cri-o",
            "0::/kubepods.slice/kubepods-besteffort.slice/kubepods-besteffort-podS.slice/crio-C.scope/container",
        ),
        ("systemd, version 2, guaranteed", "0::/kubepods.slice/kubepods-podS.slice/cri-containerd-C.scope"),
        (
            "systemd, version 1, docker",
            "3:cpu,cpuacct:/kubepods.slice/kubepods-burstable.slice/kubepods-burstable-podS.slice/docker-C.scope",
        ),
        (
            "containerd without systemd below a kubelet with it",
            "0::/system.slice/containerd.service/kubepods-burstable-podS.slice:cri-containerd:C",
        ),
        ("kind, cgroupfs", "9:pids:/docker/C/kubelet/kubepods/burstable/podU/C"),
        (
            "kind, systemd",
            "0::/system.slice/docker-C.scope/kubelet.slice/kubelet-kubepods.slice/kubelet-kubepods-burstable.slice/kubelet-kubepods-burstable-podS.slice/cri-containerd-C.scope",
        ),
        (
            "the server has a namespace of its own, systemd",
            "0::/../../kubepods-burstable-podS.slice/cri-containerd-C.scope",
        ),
        ("the server has a namespace of its own, cgroupfs", "0::/../../podU/C"),
        ("the server has a namespace of its own, another quality of service", "0::/../../../besteffort/podU/C"),
    ];

    fn fill(text: &str) -> String {
        text.replace("podU", &format!("pod{UID}"))
            .replace("podS", &format!("pod{}", UID.replace('-', "_")))
            .replace('C', C)
    }

    #[test]
    fn pods_on_nodes() {
        for (node, cgroups) in NODES {
            assert_eq!(pod_uid(&fill(cgroups)).as_deref(), Ok(UID), "{node}");
            assert!(no_pod(&fill(cgroups)).is_err(), "{node}");
        }
        let hash = "6c2c8cb1d1f0b5d1c2d2a2f9e8a7b6c5";
        let of_static_pod = format!("0::/kubepods/burstable/pod{hash}/{C}");
        assert_eq!(pod_uid(&of_static_pod).as_deref(), Ok(hash), "a static pod");
        assert!(is_of_static_pod(hash) && !is_of_static_pod(UID));
    }

    #[test]
    fn processes_that_are_in_no_pod() {
        for cgroups in [
            "",
            "0::/",
            "rubbish",
            "0::/init.scope",
            "0::/system.slice/envoy-sds.service",
            "0::/kubepods",
            "0::/kubepods/burstable",
            "0::/kubepods.slice/kubepods-burstable.slice",
            "9:pids:/docker/C",
            "0::/kubepods/burstable/pod/C",
            "0::/kubepods/burstable/pod../C",
            "0::/kubepods/burstable/pod2c48913c/C",
            "0::/kubepods/burstable/podZc48913c-b29f-11e7-9350-020968147796/C",
            "0::/../cri-containerd-C.scope",
        ] {
            assert!(pod_uid(&fill(cgroups)).is_err(), "{cgroups}");
        }
    }

    /// What is certainly in none, and what is named so that it might be.
    #[test]
    fn processes_that_may_be_somebody_of_the_nodes() {
        for cgroups in [
            "0::/",
            "0::/init.scope",
            "0::/system.slice/envoy.service",
            "0::/user.slice/user-1000.slice/user@1000.service/app.slice/envoy.scope",
            "0::/../../../system.slice/envoy.service",
            "11:pids:/system.slice/envoy.service\n1:name=systemd:/system.slice/envoy.service\n0::/\n",
            "9:pids:/docker/C",
            "0::/system.slice/docker-C.scope",
            "0::/machine.slice/libpod-C.scope",
        ] {
            assert_eq!(no_pod(&fill(cgroups)), Ok(()), "{cgroups}");
        }
        for cgroups in [
            "",
            "rubbish",
            "0::/kubepods",
            "0::/kubepods.slice/kubepods-burstable.slice/unknown",
            "0::/podU/C",
            "0::/../C",
            "0::/../cri-containerd-C.scope",
            "0::/system.slice/web.service/kubepods/podU/C",
            "2:cpu:/system.slice/envoy.service\n1:pids:/kubepods/podU/C",
            "2:cpu:/kubepods/podU/C\n1:pids:/kubepods/pod11111111-b29f-11e7-9350-020968147796/C",
        ] {
            assert!(no_pod(&fill(cgroups)).is_err(), "{cgroups}");
        }
    }

    /// Whoever may make groups below their own can call them what they like.
    #[test]
    fn groups_that_are_not_kubelets_are_not_believed() {
        for cgroups in [
            // A user of the node, to whom systemd delegates.
            "0::/user.slice/user-1000.slice/user@1000.service/kubepods/burstable/podU/C",
            "0::/user.slice/user-1000.slice/user@1000.service/kubepods-burstable-podS.slice",
            "0::/../../user.slice/user-1000.slice/user@1000.service/kubepods/podU/C",
            // A service that is not root's.
            "0::/system.slice/web.service/kubepods/podU/C",
            // Another container of the server's own pod, of which only this is seen.
            "0::/../C/kubepods/podU/C",
            "0::/../cri-containerd-C.scope/kubepods-burstable-podS.slice",
            "0::/podU/C",
        ] {
            assert!(pod_uid(&fill(cgroups)).is_err(), "{cgroups}");
        }
        let other = "0::/kubepods/burstable/pod11111111-b29f-11e7-9350-020968147796/C/kubepods/burstable/podU/C";
        assert_eq!(
            pod_uid(&fill(other)).as_deref(),
            Ok("11111111-b29f-11e7-9350-020968147796"),
            "the outermost counts"
        );
        let two = "2:cpu:/kubepods/podU/C\n1:pids:/kubepods/pod11111111-b29f-11e7-9350-020968147796/C";
        assert!(pod_uid(&fill(two)).unwrap_err().contains("two pods"));
    }
}
