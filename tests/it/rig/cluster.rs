//! That the cluster is a real one: tokens, rights, outages, approval.

use std::time::Duration;

use k8s_openapi::api::authentication::v1::{TokenReview, TokenReviewSpec, TokenReviewStatus};
use k8s_openapi::api::core::v1::ConfigMap;
use kube::Api;
use kube::api::{ListParams, PostParams};

use crate::support::PATIENCE;
use crate::support::cluster::{Cluster, ClusterOptions, IssuerRef, client_from};
use crate::support::eventually::eventually;
use crate::support::pki::spiffe_csr;

const TEN_MINUTES: Duration = Duration::from_secs(600);

async fn review(cluster: &Cluster, token: &str, audience: &str) -> TokenReviewStatus {
    let review = TokenReview {
        spec: TokenReviewSpec { token: token.into(), audiences: Some(vec![audience.into()]) },
        ..TokenReview::default()
    };
    let api: Api<TokenReview> = Api::all(cluster.client().await);
    let answer = api.create(&PostParams::default(), &review).await.expect("the API server reviews");
    answer.status.expect("with a status")
}

#[tokio::test]
async fn a_pod_bound_token_tells_its_pod_and_only_to_its_audience() {
    let cluster = Cluster::shared();
    let ns = cluster.namespace("token").await;
    cluster.service_account(&ns, "app").await;
    let pod = cluster.pod(&ns, "app-1", "app").await;
    let token = cluster.service_account_token(&ns, "app", Some("app-1"), &["envoy-sds"], TEN_MINUTES).await;

    let status = review(cluster, &token, "envoy-sds").await;
    assert_eq!(status.authenticated, Some(true), "{status:?}");
    assert_eq!(status.audiences, Some(vec!["envoy-sds".into()]));
    let user = status.user.expect("an authenticated user");
    assert_eq!(user.username, Some(format!("system:serviceaccount:{ns}:app")));
    let extra = user.extra.expect("what the token is bound to");
    assert_eq!(extra["authentication.kubernetes.io/pod-name"], ["app-1"]);
    assert_eq!(extra["authentication.kubernetes.io/pod-uid"], [pod.metadata.uid.expect("a uid")]);

    let status = review(cluster, &token, "somebody-else").await;
    assert_ne!(status.authenticated, Some(true), "{status:?}");

    // A token dies with its pod. Not one that was just reviewed: the API server keeps its answers for 10 s.
    let unseen = cluster.service_account_token(&ns, "app", Some("app-1"), &["envoy-sds"], TEN_MINUTES).await;
    cluster.delete_pod_now(&ns, "app-1").await;
    eventually("the token is refused", PATIENCE, async || {
        let status = review(cluster, &unseen, "envoy-sds").await;
        if status.authenticated == Some(true) { Err(format!("{status:?}")) } else { Ok(()) }
    })
    .await;
}

#[tokio::test]
async fn an_account_has_the_rights_that_it_was_given_and_no_others() {
    let cluster = Cluster::shared();
    let ns = cluster.namespace("rights").await;
    cluster.service_account(&ns, "server").await;
    cluster
        .apply_yaml(&format!(
            "
apiVersion: rbac.authorization.k8s.io/v1
kind: Role
metadata: {{name: reader, namespace: {ns}}}
rules: [{{apiGroups: [''], resources: [configmaps], verbs: [list]}}]
---
apiVersion: rbac.authorization.k8s.io/v1
kind: RoleBinding
metadata: {{name: reader, namespace: {ns}}}
roleRef: {{apiGroup: rbac.authorization.k8s.io, kind: Role, name: reader}}
subjects: [{{kind: ServiceAccount, name: server, namespace: {ns}}}]
"
        ))
        .await;
    let client = client_from(&cluster.kubeconfig_for(&ns, "server").await).await;
    let maps = |ns: &str| Api::<ConfigMap>::namespaced(client.clone(), ns);
    // The authorizer learns of a binding by a watch.
    eventually("the account may list", PATIENCE, async || {
        maps(&ns).list(&ListParams::default()).await.map(drop).map_err(|error| error.to_string())
    })
    .await;
    let forbidden = |result: Result<(), kube::Error>| match result {
        Err(kube::Error::Api(status)) => assert_eq!(status.code, 403, "{status:?}"),
        other => panic!("not refused: {other:?}"),
    };
    forbidden(maps("default").list(&ListParams::default()).await.map(drop));
    forbidden(maps(&ns).create(&PostParams::default(), &config_map("mine")).await.map(drop));
}

#[tokio::test]
async fn the_api_server_comes_back_with_its_data() {
    let cluster = Cluster::start(ClusterOptions { cert_manager: false, ..ClusterOptions::default() }).await;
    let api: Api<ConfigMap> = Api::namespaced(cluster.client().await, "default");
    let made = api.create(&PostParams::default(), &config_map("kept")).await.expect("it can be made");

    cluster.stop_api_server();
    let refused = api.get("kept").await.expect_err("nobody answers");
    assert!(!matches!(refused, kube::Error::Api(_)), "{refused}");

    cluster.start_api_server().await;
    let found = api.get("kept").await.expect("it is still there, at the same address");
    assert_eq!(found.metadata.uid, made.metadata.uid);
}

#[tokio::test]
async fn without_an_approver_the_test_decides() {
    let cluster = Cluster::start(ClusterOptions { approver: false, ..ClusterOptions::default() }).await;
    let ns = cluster.namespace("approval").await;
    cluster.cluster_ca_issuer("ca").await;
    let (csr, _) = spiffe_csr("spiffe://example.org/app");
    let issuer = IssuerRef { kind: "ClusterIssuer", name: "ca" };
    for name in ["good", "bad"] {
        cluster.request_certificate(&ns, name, &csr, issuer).await;
    }

    cluster.deny(&ns, "bad").await;
    let ready = cluster.request_condition(&ns, "bad", "Ready", "False").await;
    assert_eq!(ready["reason"], "Denied");

    // By now cert-manager has had time enough for "good", had it not waited for approval.
    let requests = cluster.certificate_requests(&ns).await;
    let good = requests.iter().find(|request| request.metadata.name.as_deref() == Some("good")).expect("it is there");
    assert!(good.data["status"].get("certificate").is_none(), "{good:?}");
    cluster.approve(&ns, "good").await;
    cluster.signed(&ns, "good").await;

    // A request made while cert-manager is away is answered when it is back.
    cluster.stop_cert_manager().await;
    cluster.request_certificate(&ns, "late", &csr, issuer).await;
    cluster.approve(&ns, "late").await;
    cluster.start_cert_manager().await;
    cluster.signed(&ns, "late").await;
}

fn config_map(name: &str) -> ConfigMap {
    ConfigMap {
        metadata: kube::api::ObjectMeta { name: Some(name.into()), ..Default::default() },
        ..ConfigMap::default()
    }
}
