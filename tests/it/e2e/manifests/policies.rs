//! What the policies of `own-objects.yaml` let the server's account do, which RBAC cannot say.

use std::path::Path;
use std::process::Command;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use k8s_openapi::api::coordination::v1::Lease;
use k8s_openapi::api::core::v1::Secret;
use kube::Api;
use kube::api::{
    ApiResource, DeleteParams, DynamicObject, GroupVersionKind, ListParams, Patch, PatchParams, PostParams,
};
use serde_json::{Value, json};

use super::SYSTEM;
use super::applied::{Applied, folder, parsed, read};
use crate::support::cluster::client_from;
use crate::support::eventually::eventually;
use crate::support::pki::spiffe_csr;
use crate::support::{PATIENCE, parts, scratch};

/// The server's namespace may be another's as well: it reads no Secrets, among which are the CAs' keys, and changes and deletes
/// no Lease without its label, though RBAC cannot tell that.
pub(super) async fn touches_nothing_of_others(kubeconfig: &Path, applied: &Applied) {
    let client = client_from(kubeconfig).await;
    let secrets = Api::<Secret>::namespaced(client.clone(), SYSTEM);
    match secrets.list(&ListParams::default()).await {
        Err(kube::Error::Api(status)) => assert_eq!(status.code, 403, "{status:?}"),
        other => panic!("the server may read Secrets: {:?}", other.map(|list| list.items.len())),
    }

    let metadata = json!({"name": "kuma-cp-leader", "namespace": SYSTEM});
    let lease = json!({"apiVersion": "coordination.k8s.io/v1", "kind": "Lease", "metadata": metadata});
    applied.cluster.apply(lease).await;
    let leases = Api::<Lease>::namespaced(client, SYSTEM);
    let refused = |error| refused_by("envoy-sds-own-objects", error);
    // The API server takes a policy in a moment after it was applied.
    eventually("the server may not delete another's Lease", PATIENCE, async || {
        refused(leases.delete("kuma-cp-leader", &trial()).await.err())
    })
    .await;
    for change in [
        json!({"spec": {"holderIdentity": "envoy-sds"}}),
        json!({"metadata": {"labels": {"app.kubernetes.io/managed-by": "envoy-sds"}}}),
    ] {
        let patched = leases.patch("kuma-cp-leader", &PatchParams::default(), &Patch::Merge(&change)).await;
        assert_eq!(refused(patched.err()), Ok(()), "{change}");
    }
}

/// What it asks issuers for is what it asks for itself: whoever else has its token may not become a CA by it.
pub(super) async fn has_leaves_signed_and_nothing_else(kubeconfig: &Path, applied: &Applied) {
    let requests = Requests::of(kubeconfig, SYSTEM).await;
    let ask = async |changes: Value| requests.ask(changes).await;
    let refused = |error| refused_by("envoy-sds-leaves-alone", error);
    eventually("the server may not ask for a CA", PATIENCE, async || refused(ask(json!({"isCA": true})).await)).await;
    for changes in [
        json!({"usages": ["digital signature", "cert sign"]}),
        json!({"usages": ["any"]}),
        json!({"usages": null}),
        json!({"issuerRef": {"name": "envoy-sds-ca", "kind": "Issuer", "group": "cert-manager.io"}}),
        json!({"issuerRef": {"name": "self-signed"}}),
        json!({"duration": "87600h"}),
    ] {
        assert_eq!(refused(ask(changes.clone()).await), Ok(()), "{changes}");
    }
    for changes in [json!({}), json!({"duration": "2160h0m0s"}), json!({"duration": null})] {
        assert!(ask(changes.clone()).await.is_none(), "{changes}");
    }
    assert!(applied.cluster.get("cert-manager.io/v1", "CertificateRequest", Some(SYSTEM), "trial").await.is_none());
}

/// An account of the same name in another namespace is somebody else's, whom the policies do not bind. Those of the server are in
/// force already.
pub(super) async fn strangers_of_its_name_are_not_bound(applied: &Applied) {
    let elsewhere = applied.cluster.namespace("elsewhere").await;
    applied.cluster.service_account(&elsewhere, "envoy-sds").await;
    let group = "rbac.authorization.k8s.io";
    let binding = json!({
        "apiVersion": format!("{group}/v1"),
        "kind": "RoleBinding",
        "metadata": {"name": "envoy-sds", "namespace": elsewhere},
        "roleRef": {"apiGroup": group, "kind": "ClusterRole", "name": "cluster-admin"},
        "subjects": [{"kind": "ServiceAccount", "name": "envoy-sds", "namespace": elsewhere}],
    });
    applied.cluster.apply(binding).await;
    let metadata = json!({"name": "somebody-elses", "namespace": elsewhere});
    applied.cluster.apply(json!({"apiVersion": "coordination.k8s.io/v1", "kind": "Lease", "metadata": metadata})).await;
    let kubeconfig = applied.cluster.kubeconfig_for(&elsewhere, "envoy-sds").await;
    let leases = Api::<Lease>::namespaced(client_from(&kubeconfig).await, &elsewhere);
    eventually("an account elsewhere may delete a Lease", PATIENCE, async || {
        leases.delete("somebody-elses", &trial()).await.map(drop).map_err(|error| error.to_string())
    })
    .await;
    let requests = Requests::of(&kubeconfig, &elsewhere).await;
    let refused = requests.ask(json!({"issuerRef": {"name": "self-signed"}})).await;
    assert!(refused.is_none(), "an account elsewhere may ask any issuer there: {refused:?}");
}

/// In another namespace the policies are about the account there: when kustomize puts it there, and when the names are replaced as
/// docs/kubernetes.md has it done, after which nothing has the name from before.
#[test]
fn the_policies_go_with_the_account() {
    let guide = read(&folder().join("../docs/kubernetes.md"));
    let replaces = guide.lines().find(|line| line.starts_with("sed -i ")).expect("it says how names are replaced");
    let replaces = format!("{replaces}; ! grep -r kong-mesh-system deploy");
    let typed =
        [("elsewhere", "echo 'namespace: elsewhere' >>deploy/kustomization.yaml"), ("envoy-sds", replaces.as_str())];
    for (namespace, command) in typed {
        let dir = scratch::dir("another-namespace");
        let copy = "mkdir deploy && cd \"$1\" && cp -r *.yaml monitoring node \"$OLDPWD/deploy\" && cd -";
        for command in [copy, command] {
            let typed = Command::new("bash").args(["-ec", command, "bash"]).arg(folder()).current_dir(&dir).output();
            let typed = typed.expect("bash starts");
            assert!(typed.status.success(), "{command}: {typed:?}");
        }
        let deploy = dir.join("deploy");
        let output = Command::new(parts::program("kubectl")).arg("kustomize").arg(&deploy).output();
        let output = output.expect("kubectl starts");
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        let objects = parsed("kubectl kustomize", &String::from_utf8_lossy(&output.stdout));
        let policies = objects.iter().filter(|object| object["kind"] == "ValidatingAdmissionPolicy");
        let conditions: Vec<_> = policies.map(|policy| &policy["spec"]["matchConditions"]).collect();
        let expression = format!("request.userInfo.username == 'system:serviceaccount:{namespace}:envoy-sds'");
        assert_eq!(conditions, [&json!([{"name": "by-the-server", "expression": expression}]); 2]);
    }
}

/// Where CertificateRequests are asked for, on trial.
struct Requests {
    kind: ApiResource,
    requests: Api<DynamicObject>,
}

impl Requests {
    async fn of(kubeconfig: &Path, namespace: &str) -> Self {
        let kind = ApiResource::from_gvk(&GroupVersionKind::gvk("cert-manager.io", "v1", "CertificateRequest"));
        let requests = Api::<DynamicObject>::namespaced_with(client_from(kubeconfig).await, namespace, &kind);
        Self { kind, requests }
    }

    /// Asks for what the server asks for, but for these fields; without one that is null. Gives why it is refused.
    async fn ask(&self, changes: Value) -> Option<kube::Error> {
        let (csr, _) = spiffe_csr("spiffe://default/web");
        let mut spec = json!({
            "request": STANDARD.encode(&csr),
            "issuerRef": {"name": "mesh-ca", "kind": "Issuer", "group": "cert-manager.io"},
            "duration": "24h0m0s",
            "usages": ["digital signature", "key encipherment", "server auth", "client auth"],
            "isCA": false,
        });
        for (field, value) in changes.as_object().expect("fields") {
            spec[field] = value.clone();
        }
        spec.as_object_mut().expect("fields").retain(|_, value| !value.is_null());
        let labels = json!({"app.kubernetes.io/managed-by": "envoy-sds"});
        let metadata = json!({"name": "trial", "labels": labels});
        let version = &self.kind.api_version;
        let object = json!({"apiVersion": version, "kind": self.kind.kind, "metadata": metadata, "spec": spec});
        let object = serde_json::from_value(object).expect("it is an object");
        self.requests.create(&PostParams { dry_run: true, ..PostParams::default() }, &object).await.err()
    }
}

fn trial() -> DeleteParams {
    DeleteParams { dry_run: true, ..DeleteParams::default() }
}

/// Whether it was that policy that has refused something.
fn refused_by(policy: &str, error: Option<kube::Error>) -> Result<(), String> {
    match error {
        Some(kube::Error::Api(status)) if status.code == 403 && status.message.contains(policy) => Ok(()),
        other => Err(format!("{other:?}")),
    }
}
